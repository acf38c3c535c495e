"""Measures whether a training waits for its data: the time of a step with data over that of a step on a constant batch.

    python benchmarks/input_pipeline.py --data DIRECTORY       # of the unpacked Oxford-IIIT Pet archives; on an idle machine
    python benchmarks/input_pipeline.py --data DIRECTORY --size 64 --steps 4 --rounds 2

The same number of steps is trained in turn on a constant batch (given by `tf.data`, too, so that Keras' own cost is in both) and on pets: decoded
once and cached in memory, cached in files, decoded in each epoch, and augmented. 1.00 means that data cost nothing; the goal is below 1.05. `alone` is the time in which the
pipeline makes a batch when nobody trains. On a machine without an accelerator decoding and training share the cores, so that work cannot be hidden, only done
at other moments.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from worker import seconds_of

import tl_unet
from tl_unet.data import oxford_pets
from tl_unet.runs import write_json


def sources(arguments, folder):
    """The data sets to compare, the constant one first; each endless."""

    def pets(**options):
        return oxford_pets(
            arguments.data,
            size=arguments.size,
            batch_size=arguments.batch,
            limit=arguments.steps * arguments.batch,
            **options,
        )["train"].dataset

    memory = pets()
    return {
        "constant batch": memory.take(1).cache().repeat(),
        "cached in memory": memory.repeat(),
        "cached in files": pets(cache=folder).repeat(),
        "augmented": pets(augment=True).repeat(),
        "decoded in each epoch": pets(cache=False).repeat(),
    }


def main(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data",
        required=True,
        help="directory of the unpacked pet archives, or tfds (downloads them)",
    )
    parser.add_argument("--encoder", default="mobilenetv2")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=16, help="in a turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the numbers; default: only printed")
    arguments = parser.parse_args(argv)

    model = tl_unet.build_unet(
        arguments.encoder,
        freeze=False,
        weights=None,
        decoder_filters=None,
        normalization="batch",
        upsampling="nearest",
    )
    tl_unet.freeze_encoder(model)
    model.compile(keras.optimizers.Adam(1e-4), tl_unet.DiceLoss(), jit_compile=False)
    times, alone = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        found = sources(arguments, folder)
        for number in range(-1, arguments.rounds):
            for name, data in found.items():
                taken = data.take(arguments.steps)
                fit = seconds_of(lambda taken=taken: model.fit(taken, verbose=0))
                idle = seconds_of(lambda taken=taken: sum(1 for _ in taken))
                if number >= 0:  # the first round traces graphs and fills caches
                    times.setdefault(name, []).append(fit / arguments.steps)
                    alone.setdefault(name, []).append(idle / arguments.steps)
    constant = times["constant batch"]
    print("| data | ms a step | over the constant batch (quartiles) | alone, ms a batch |")
    print("| --- | ---: | ---: | ---: |")
    for name, values in times.items():
        ratios = [a / b for a, b in zip(values, constant, strict=True)]
        low, middle, high = (
            statistics.quantiles(ratios, n=4, method="inclusive") if ratios[1:] else ratios * 3
        )
        print(
            f"| {name} | {1000 * statistics.median(values):.1f} | {middle:.3f} ({low:.3f} to {high:.3f}) | "
            f"{1000 * statistics.median(alone[name]):.1f} |"
        )
    if arguments.json:
        settings = {
            key: value if isinstance(value, int | str) else None
            for key, value in vars(arguments).items()
            if key not in ("data", "json")
        }
        content = {"settings": settings, "step_seconds": times, "alone_seconds": alone}
        write_json(arguments.json, json.loads(json.dumps(content)))


if __name__ == "__main__":
    main()
