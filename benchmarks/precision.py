"""Measures what a 16-bit policy gains in training on this machine: whether its processor has the instructions, a flag does not tell.

    python benchmarks/precision.py                                              # mixed_bfloat16 against float32
    python benchmarks/precision.py --policy mixed_float16 --encoders vgg16      # for a GPU
    python benchmarks/precision.py --size 64 --batch 2 --rounds 2 --encoders mobilenetv2

For each encoder two models, one in float32 and one in the policy, are trained on the same batch in turn. The ratio is that of their times in the same
round, median and quartiles: below 1 the policy is the faster one. Weights are random: they don't change the cost.
"""

import argparse
import os
import statistics
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from report import ratios
from worker import seconds_of

import tl_unet
from tl_unet.runs import write_json

POLICIES = ("mixed_bfloat16", "mixed_float16")


def step(encoder, policy, frozen, images, masks):
    """A function that trains a U-Net one step in a policy; its first call traces the graph."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    model = tl_unet.build_unet(encoder, freeze=False, weights=None, normalization="batch")
    if frozen:  # not by build_unet, which rightly warns of frozen random weights
        tl_unet.freeze_encoder(model)
    model.compile(keras.optimizers.Adam(1e-4), tl_unet.DiceLoss(), jit_compile=False)
    keras.config.set_dtype_policy(before)
    return lambda: model.train_on_batch(images, masks)


def measure(encoder, policy, frozen, images, masks, rounds):
    """Seconds of a step by round, of float32 and of the policy."""
    calls = {name: step(encoder, name, frozen, images, masks) for name in ("float32", policy)}
    times = {name: [] for name in calls}
    for number in range(-1, rounds):
        for name, call in calls.items():
            seconds = seconds_of(call)
            if number >= 0:
                times[name].append(seconds)
    return times


def row(encoder, frozen, times):
    """A line of the table: the policy's times come last."""
    full, half = times.values()
    middle, low, high = ratios(half, full)
    seconds = " | ".join(f"{1000 * statistics.median(values):.0f}" for values in (full, half))
    what = "frozen" if frozen else "full"
    return f"| `{encoder}` | {what} | {seconds} | {middle:.2f} ({low:.2f} to {high:.2f}) |"


def main(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--policy", choices=POLICIES, default=POLICIES[0], help="default: %(default)s"
    )
    parser.add_argument("--encoders", nargs="+", default=["vgg16", "mobilenetv2"])
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="file for the numbers; default: only printed")
    arguments = parser.parse_args(argv)
    for name in arguments.encoders:
        tl_unet.get_encoder_spec(name)  # raises for a wrong name, before the first minute

    random = np.random.default_rng(0)
    shape = (arguments.batch, arguments.size, arguments.size)
    images = random.uniform(0, 255, (*shape, 3)).astype("float32")
    masks = (random.uniform(size=(*shape, 1)) > 0.5).astype("float32")
    found = {}
    print(f"| encoder | step | float32, ms | {arguments.policy}, ms | ratio (quartiles) |")
    print("| --- | --- | ---: | ---: | ---: |")
    for encoder in arguments.encoders:
        for frozen in (True, False):
            times = measure(encoder, arguments.policy, frozen, images, masks, arguments.rounds)
            found[f"{encoder} {'frozen' if frozen else 'full'}"] = times
            print(row(encoder, frozen, times), flush=True)
            keras.utils.clear_session()
    if arguments.json:
        setting = {key: getattr(arguments, key) for key in ("policy", "size", "batch", "rounds")}
        write_json(arguments.json, {"setting": setting, "step_seconds": found})


if __name__ == "__main__":
    main()
