"""Exporting in a process of its own, and running the file in its runtime with a given number of threads, the same way on each side."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

WORKER = Path(__file__).with_name("worker.py")
WORK = ("onnxruntime", "openvino", "int8")


def prepare(task):
    """A function that predicts an image, and facts about the model.

    Exporting can take many times the memory of running. It is done in a process that ends, so this one has what running takes.

    Args:
        task: dict, what `worker.py` is told, with one of `WORK`.

    Returns:
        The function, and a dict.
    """
    with tempfile.TemporaryDirectory() as folder:
        facts = write(task, folder)
        return runner(Path(folder), task["threads"]), facts


def write(task, folder, python=sys.executable):
    """Exports in another process.

    Args:
        task: as in `prepare`.
        folder: path of a directory, for the model's file and `image.npy`.
        python: the interpreter that exports, of the library's environment.

    Returns:
        A dict, facts about the model.
    """
    done = subprocess.run(
        [python, WORKER, json.dumps(task | {"folder": str(folder)})],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    )
    facts = json.loads(done.stdout or "{}")
    if not facts.pop("ready", False):
        raise RuntimeError(facts.get("error", f"export ended with status {done.returncode}"))
    return facts


def runner(folder, threads):
    """A function that predicts an image.

    Args:
        folder: path of a directory with `image.npy` and a `.xml` or `.onnx` file. The runtime has read them when this returns.
        threads: int.

    Returns:
        The function, without arguments, returning the mask.
    """
    image = np.load(folder / "image.npy")
    if not any(folder.glob("*.xml")):
        session = read_onnxruntime(folder, threads)
        feed = {session.get_inputs()[0].name: image}
        return lambda: session.run(None, feed)[0]
    compiled = read_openvino(folder, threads)
    return lambda: compiled(image)[0]


def read_onnxruntime(folder, threads, **settings):
    """The `.onnx` file of a directory, as a session of ONNX Runtime on the processor.

    Args:
        folder: path of the directory.
        threads: int.
        **settings: further ones, by the names of ONNX Runtime's `SessionOptions`.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    for name, value in {"intra_op_num_threads": threads, **settings}.items():
        setattr(options, name, value)
    file = str(next(folder.glob("*.onnx")))
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


def read_openvino(folder, threads, **settings):
    """The `.xml` file of a directory, compiled by OpenVINO for the processor.

    Args:
        folder: path of the directory.
        threads: int.
        **settings: further ones, by OpenVINO's names.
    """
    import openvino

    core = openvino.Core()
    core.set_property({"ENABLE_MMAP": False})  # the file is deleted
    settings |= {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    settings |= {"INFERENCE_PRECISION_HINT": "f32"}  # newer processors get bfloat16 else
    return core.compile_model(str(next(folder.glob("*.xml"))), "CPU", settings)
