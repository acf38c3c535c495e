"""Measures what it gains in training that glibc keeps freed memory instead of handing it back to Linux.

    python benchmarks/allocator.py                                              # on an idle machine with Linux and glibc; minutes
    python benchmarks/allocator.py --size 64 --batch 2 --rounds 2 --steps 1 --json allocator.json

By default glibc takes large blocks from the system and gives them back when they are freed. TensorFlow frees the feature maps in each step, so
that each step asks for new pages (page faults). The settings are those of the environment variable
`GLIBC_TUNABLES`, which a program reads when it starts, so each has a process of its own; they train the same model on the same batch in turn, and begin the rounds in turn.
The ratio is that of their times in the same round, median and quartiles: below 1 the setting is faster than glibc's defaults.
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from report import publish, ratios
from worker import peak_memory, seconds_of

import tl_unet
from tl_unet.machine import platform_name

# Freed blocks stay with the process (`mmap_max`, `trim_threshold`), in one heap that all threads share (`arena_max`). `hugetlb=1` asks Linux for
# transparent huge pages, which it gives if they are set to `madvise`.
KEEP = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:glibc.malloc.arena_max=1"
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
WARM_UP = 3  # rounds that don't count: the first traces the graph, and the heap grows to its size
SETTINGS = {"default": "", "keep": KEEP, "keep, huge pages": f"{KEEP}:glibc.malloc.hugetlb=1"}


def train(arguments):
    """What a child process does: for each number on its standard input as many steps, answered by their seconds, page faults and its peak memory in bytes."""
    import resource  # Windows has none

    model = tl_unet.build_unet(
        arguments.encoder,
        freeze=False,
        weights=None,
        decoder_filters=arguments.filters,
        normalization="batch",
        upsampling="nearest",
    )
    model.compile(keras.optimizers.Adam(1e-4), tl_unet.DiceLoss(), jit_compile=False)
    shape = (arguments.batch, arguments.size, arguments.size)
    images = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype("float32")
    masks = (images[..., :1] > 127).astype("float32")
    for line in sys.stdin:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        seconds = seconds_of(
            lambda steps=int(line): [model.train_on_batch(images, masks) for _ in range(steps)]
        )
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
        print(json.dumps([seconds, faults, peak_memory()]), flush=True)


def start(tunables, argv):
    """A child with a setting, and the file that its errors go to."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the child
    child = subprocess.Popen(
        [sys.executable, __file__, *argv, "--child"],
        env={**os.environ, "GLIBC_TUNABLES": tunables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    return child, errors


def ask(child, errors, steps):
    """Lets a child make some steps; their seconds, page faults and its peak memory."""
    try:
        child.stdin.write(f"{steps}\n")
        child.stdin.flush()
        answer = child.stdout.readline()
    except BrokenPipeError:  # it ended while others had their turn
        answer = ""
    if not answer:
        code = child.wait()
        raise SystemExit(
            f"A child process ended with code {code} in place of an answer. (-9 is often too little memory for "
            f"{len(SETTINGS)} trainings at a time: try a smaller --batch.) Its last lines:\n{last_lines(errors)}"
        )
    return json.loads(answer)


def last_lines(file):
    """The end of what a child has said of its errors."""
    file.seek(0)
    return "\n".join(file.read().decode(errors="replace").splitlines()[-5:])


def table(document):
    """The measured times as Markdown."""
    about = document["settings"]
    lines = [
        f"*Training steps of a U-Net on {about['encoder']}, decoder filters {', '.join(map(str, about['filters']))}, batches of {about['batch']} at "
        f"{about['size']}x{about['size']}, {about['steps']} in a turn, {about['rounds']} rounds. {document['machine']}, {document['date']}. "
        "Made by `benchmarks/allocator.py`.*",
        "",
        "| glibc | ms a step | over the default (quartiles) | page faults a step | peak memory |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    times = document["step_seconds"]
    for name, values in times.items():
        middle, low, high = ratios(values, times["default"])
        lines.append(
            f"| {name} | {1000 * statistics.median(values):.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) | "
            f"{statistics.median(document['step_page_faults'][name]):.0f} | {document['peak_bytes'][name] / 1e9:.1f} GB |"
        )
    return "\n".join([*lines, ""])


def main(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="mobilenetv2")
    parser.add_argument("--filters", type=int, nargs="+", default=[128, 64, 48, 24, 16])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=positive, default=2, help="in a turn")
    parser.add_argument("--rounds", type=positive, default=12)
    parser.add_argument(
        "--json",
        type=Path,
        help="file for the numbers, beside which the table (.md) is written; default: only printed",
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    argv = sys.argv[1:] if argv is None else argv
    arguments = parser.parse_args(argv)
    if arguments.child:
        train(arguments)
        return
    if platform.libc_ver()[0] != "glibc":
        parser.error("this Python does not run on glibc, whose settings are measured here")
    tl_unet.get_encoder_spec(arguments.encoder)  # raises for a wrong name, before the first minute
    children = {name: start(tunables, argv) for name, tunables in SETTINGS.items()}
    times, faults, peaks = {name: [] for name in SETTINGS}, {name: [] for name in SETTINGS}, {}
    try:
        for number in range(WARM_UP + arguments.rounds):
            first = number % len(children)
            for name in (*list(children)[first:], *list(children)[:first]):
                seconds, new, peaks[name] = ask(*children[name], arguments.steps)
                if number >= WARM_UP:
                    times[name].append(seconds / arguments.steps)
                    faults[name].append(new / arguments.steps)
    finally:
        for child, _ in children.values():
            child.kill()
            child.communicate()
    document = summary(arguments, times, faults, peaks)
    publish(document, table(document), arguments.json)


def positive(text):
    """A whole number above zero."""
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above zero")
    return int(text)


def summary(arguments, times, faults, peaks):
    """What was measured, and where."""
    names = ("encoder", "filters", "size", "batch", "steps", "rounds")
    return {
        "settings": {name: getattr(arguments, name) for name in names},
        "tunables": SETTINGS,
        "machine": f"{platform_name()}, {' '.join(platform.libc_ver())}, TensorFlow {tf.__version__}, Keras {keras.__version__}",
        "date": datetime.date.today().isoformat(),
        "transparent_huge_pages": HUGE_PAGES.read_text().strip() if HUGE_PAGES.exists() else None,
        "step_seconds": times,
        "step_page_faults": faults,
        "peak_bytes": peaks,
    }


if __name__ == "__main__":
    main()
