"""Measures whether a training waits for its data: the time of a step with data over that of a step on a constant batch.

    python benchmarks/input_pipeline.py --data DIRECTORY       # of the unpacked Oxford-IIIT Pet archives; on an idle machine
    python benchmarks/input_pipeline.py --data DIRECTORY --size 64 --steps 4 --rounds 2
    python benchmarks/input_pipeline.py --data DIRECTORY --filters 256 128 64 32 16  # a shorter step, which has less time to hide in

The same number of steps is trained in turn on a constant batch (given by `tf.data`, too, so that Keras' own cost is in both) and on pets: decoded
once and cached in memory, cached in files, decoded in each epoch, and augmented. 1.00 means that data cost nothing; the goal is below 1.05. `alone` is the time in which the
pipeline makes a batch when nobody trains. On a machine without an accelerator decoding and training share the cores, so that work cannot be hidden, only done
at other moments.
"""

import argparse
import datetime
import os
import statistics
import tempfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from report import publish, ratios
from worker import seconds_of

import tl_unet
from tl_unet.data import oxford_pets
from tl_unet.machine import platform_name


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


def table(document):
    """The measured times as Markdown."""
    about = document["settings"]
    filters = about["filters"]
    decoder = f"decoder filters {', '.join(map(str, filters))}" if filters else "default decoder"
    lines = [
        f"*Training steps of a U-Net on a frozen {about['encoder']}, {decoder}, batches of {about['batch']} real pets at {about['size']}x{about['size']}, "
        f"{about['steps']} steps in a turn, {about['rounds']} rounds. {document['machine']}, {document['date']}. Made by `benchmarks/input_pipeline.py`.*",
        "",
        "| data | ms a step | over the constant batch (quartiles) | alone, ms a batch |",
        "| --- | ---: | ---: | ---: |",
    ]
    times, alone = document["step_seconds"], document["alone_seconds"]
    for name, values in times.items():
        middle, low, high = ratios(values, times["constant batch"])
        lines.append(
            f"| {name} | {1000 * statistics.median(values):.1f} | {middle:.3f} ({low:.3f} to {high:.3f}) | "
            f"{1000 * statistics.median(alone[name]):.1f} |"
        )
    return "\n".join([*lines, ""])


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
    parser.add_argument(
        "--filters", type=int, nargs="+", help="of the decoder; default: build_unet's own"
    )
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=32, help="in a turn")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument(
        "--json",
        type=Path,
        help="file for the numbers, beside which the table (.md) is written; default: only printed",
    )
    arguments = parser.parse_args(argv)

    model = tl_unet.build_unet(
        arguments.encoder,
        freeze=False,
        weights=None,
        decoder_filters=arguments.filters,
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
    names = ("encoder", "filters", "size", "batch", "steps", "rounds")
    document = {
        "settings": {name: getattr(arguments, name) for name in names},
        "machine": f"{platform_name()}, TensorFlow {tf.__version__}, Keras {keras.__version__}",
        "date": datetime.date.today().isoformat(),
        "step_seconds": times,
        "alone_seconds": alone,
    }
    publish(document, table(document), arguments.json)


if __name__ == "__main__":
    main()
