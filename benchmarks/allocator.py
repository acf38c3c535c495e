"""Measures what it gains in training that glibc keeps freed memory instead of handing it back to Linux.

    python benchmarks/allocator.py                                              # on an idle machine with Linux and glibc; minutes
    python benchmarks/allocator.py --size 64 --batch 2 --rounds 2 --steps 1 --json allocator.json

By default glibc takes large blocks from the system and gives them back when they are freed. TensorFlow frees the feature maps in each step, so
that each step pays for new pages, which some virtual machines hand out slowly. The settings are those of the environment variable
`GLIBC_TUNABLES`, which a program reads when it starts, so each has a process of its own; they train the same model on the same batch in turn.
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
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from report import ratios
from worker import peak_memory, seconds_of

import tl_unet
from tl_unet.machine import platform_name
from tl_unet.runs import replacing, write_json

# Freed blocks stay with the process (`mmap_max`, `trim_threshold`), in one heap that all threads share (`arena_max`), of pages of 2 MB (`hugetlb`).
KEEP = "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=68719476736:glibc.malloc.arena_max=1"
SETTINGS = {"default": "", "keep": KEEP, "keep, huge pages": f"{KEEP}:glibc.malloc.hugetlb=1"}


def train(arguments):
    """What a child process does: for each number on its standard input as many steps, answered by their seconds and its peak memory in bytes."""
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
        seconds = seconds_of(
            lambda steps=int(line): [model.train_on_batch(images, masks) for _ in range(steps)]
        )
        print(json.dumps([seconds, peak_memory()]), flush=True)


def start(tunables, argv):
    """A child with a setting."""
    return subprocess.Popen(
        [sys.executable, __file__, *argv, "--child"],
        env={**os.environ, "GLIBC_TUNABLES": tunables},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def ask(child, steps):
    """Lets a child make some steps; their seconds and its peak memory."""
    child.stdin.write(f"{steps}\n")
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        raise SystemExit(
            f"A child process ended with code {child.wait()} in place of an answer: too little memory for "
            "this many trainings at a time? Try a smaller --batch."
        )
    return json.loads(answer)


def table(document):
    """The measured times as Markdown."""
    about = document["settings"]
    lines = [
        f"*Training steps of a U-Net on {about['encoder']}, decoder filters {', '.join(map(str, about['filters']))}, batches of {about['batch']} at "
        f"{about['size']}x{about['size']}, {about['steps']} in a turn, {about['rounds']} rounds. {document['machine']}, {document['date']}. "
        "Made by `benchmarks/allocator.py`.*",
        "",
        "| glibc | ms a step | over the default (quartiles) | peak memory |",
        "| --- | ---: | ---: | ---: |",
    ]
    times = document["step_seconds"]
    for name, values in times.items():
        middle, low, high = ratios(values, times["default"])
        lines.append(
            f"| {name} | {1000 * statistics.median(values):.0f} | {middle:.2f} ({low:.2f} to {high:.2f}) | {document['peak_bytes'][name] / 1e9:.1f} GB |"
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
    parser.add_argument("--steps", type=int, default=2, help="in a turn")
    parser.add_argument("--rounds", type=int, default=7)
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
    times, peaks = {name: [] for name in SETTINGS}, {}
    try:
        for number in range(-1, arguments.rounds):
            for name, child in children.items():
                seconds, peaks[name] = ask(child, arguments.steps)
                if number >= 0:  # the first round traces the graph
                    times[name].append(seconds / arguments.steps)
    finally:
        for child in children.values():
            child.kill()
            child.communicate()
    document = summary(arguments, times, peaks)
    found = table(document)
    print(found)
    if arguments.json:
        write_json(arguments.json, document)
        with replacing(arguments.json.with_suffix(".md")) as beside:
            beside.write_text(found, encoding="utf-8")


def summary(arguments, times, peaks):
    """What was measured, and where."""
    names = ("encoder", "filters", "size", "batch", "steps", "rounds")
    return {
        "settings": {name: getattr(arguments, name) for name in names},
        "tunables": SETTINGS,
        "machine": f"{platform_name()}, {' '.join(platform.libc_ver())}, TensorFlow {tf.__version__}, Keras {keras.__version__}",
        "date": datetime.date.today().isoformat(),
        "step_seconds": times,
        "peak_bytes": peaks,
    }


if __name__ == "__main__":
    main()
