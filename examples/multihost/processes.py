"""Who this process is among those that train together, and how it joins them.

Slurm, Kubernetes and other launchers start the same command several times and tell each process its number in an environment variable.
`find_processes` reads the options first, then these variables; `connect` joins the processes by Keras' distribution API.
"""

import contextlib
import os
import zlib
from typing import NamedTuple

import keras
import numpy as np

# Which variables stand in for an option that is not given; the first that is set counts.
VARIABLES = {
    "--processes": (
        "KERAS_DISTRIBUTION_NUM_PROCESSES",
        "SLURM_NTASKS",
        "OMPI_COMM_WORLD_SIZE",
    ),
    "--process-id": (
        "KERAS_DISTRIBUTION_PROCESS_ID",
        "SLURM_PROCID",
        "JOB_COMPLETION_INDEX",  # Kubernetes, of an Indexed Job
        "OMPI_COMM_WORLD_RANK",
    ),
    "--address": ("KERAS_DISTRIBUTION_JOB_ADDRESSES",),
}


class Processes(NamedTuple):
    """The place of a process among all.

    Args:
        index: int, 0 to `count - 1`. Process 0 writes the files and is the one that the others connect to.
        count: int, how many processes train together.
        address: `host:port` of process 0, `None` for a single process.
    """

    index: int = 0
    count: int = 1
    address: str | None = None


def find_processes(count=None, index=None, address=None, environ=os.environ) -> Processes:
    """Completes what the options leave open by `VARIABLES`; without any of both there is one process.

    Args:
        count: int or `None`, as given by `--processes`.
        index: int or `None`, as given by `--process-id`.
        address: str or `None`, as given by `--address`.
        environ: the environment. Defaults to `os.environ`.

    Returns:
        `Processes`.

    Raises:
        ValueError: if a number is missing, no number, or out of range, or the address is missing or has no port.
    """
    count, count_from = _find("--processes", count, environ)
    if count is not None and count < 1:
        raise ValueError(f"There must be at least one process, but {count_from} is {count}.")
    if count == 1 and count_from == "--processes":
        return Processes()  # one process, whatever a launcher's variables say
    index, index_from = _find("--process-id", index, environ)
    if count is None and index is not None:
        raise ValueError(
            f"{index_from} says that this is process {index} of several, but nothing says how many there are. {_remedy('--processes')}"
        )
    if count in (None, 1):
        count = 1
        index = index or 0
    if index is None:
        raise ValueError(
            f"{count_from} says that there are {count} processes, but nothing says which of them this is. "
            f"{_remedy('--process-id')} For a single process give --processes 1."
        )
    if not 0 <= index < count:
        raise ValueError(
            f"{index_from} is {index}, but with {count} processes the numbers are 0 to {count - 1}."
        )
    if count == 1:
        return Processes()
    address, address_from = _find("--address", address, environ)
    if not address:
        raise ValueError(
            f"{count} processes must know where process 0 is, but there is no address. {_remedy('--address')}"
        )
    host, _, port = address.split(",")[0].rpartition(":")
    if not host or not port.isdecimal():
        raise ValueError(
            f"{address_from} is {address!r}, but must be the host of process 0 and a free port there, such as node1:12345."
        )
    return Processes(index, count, address)


def _find(option, value, environ):
    """The value of an option and where it comes from."""
    if value is not None:
        return value, option
    for name in VARIABLES[option]:
        if environ.get(name):
            text = environ[name]
            if option == "--address":
                return text, name
            if not text.isdecimal():
                raise ValueError(f"{name} is {text!r}, but must be a whole number.")
            return int(text), name
    return None, None


def _remedy(option):
    return f"Give {option} or set one of {', '.join(VARIABLES[option])}."


def check_backend() -> None:
    """Raises ValueError unless Keras runs on JAX, the only backend on which its `fit` works across processes."""
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Keras trains across processes on JAX only, but its backend is {keras.backend.backend()}. "
            "Set the environment variable KERAS_BACKEND=jax."
        )


def connect(processes: Processes, batch_size: int) -> keras.distribution.DataParallel:
    """Joins the other processes and makes Keras share out each batch among all devices; call it before anything is computed.

    Args:
        processes: who this process is.
        batch_size: int, pictures in a batch of all processes together.

    Returns:
        The distribution, already set.

    Raises:
        ValueError: if the backend is not JAX, or the batch can't be shared out evenly.
    """
    check_backend()
    if batch_size < 1 or batch_size % processes.count:
        raise ValueError(_uneven(batch_size, processes.count, "processes"))
    if processes.count > 1:
        keras.distribution.initialize(processes.address, processes.count, processes.index)
    import jax

    total, here = jax.device_count(), jax.local_device_count()
    if total != here * processes.count:
        raise ValueError(
            f"This process has {here} of {total} devices. Give each of the {processes.count} processes the same number."
        )
    if batch_size % total:
        raise ValueError(_uneven(batch_size, total, "devices"))
    # Each process brings its own part of a batch, so Keras must not cut it once more.
    distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
    keras.distribution.set_distribution(distribution)
    return distribution


def _uneven(batch_size, count, what):
    above = -(-max(1, batch_size) // count) * count
    return (
        f"A batch of {batch_size} pictures can't be shared out evenly among {count} {what}. "
        f"Give a --batch-size that {count} divides, such as {above}."
    )


def gather(value) -> np.ndarray:
    """What each process gives, in the order of their numbers: an array with one row for each."""
    from jax.experimental import multihost_utils

    value = np.asarray(value)
    return np.asarray(multihost_utils.process_allgather(value)).reshape(-1, *value.shape)


@contextlib.contextmanager
def alone():
    """For what one process does without the others, such as saving.

    Keras creates an optimizer and a metric for comparison when it saves, and creating a variable under a distribution asks all processes.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def wait_for_all(name: str) -> None:
    """Returns when every process has come to this point."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def fingerprint(text: str) -> int:
    """A number of 31 bits, which `gather` can carry, that is the same wherever the text is."""
    return zlib.crc32(text.encode()) >> 1
