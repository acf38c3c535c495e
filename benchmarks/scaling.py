"""Measures how time and memory grow with the picture, the batch and the number of pictures, and what the paper's U-Net needs to train.

    python benchmarks/scaling.py                     # on an idle machine
    python benchmarks/scaling.py --quick             # a try: small points only; no result

Every point is a process of its own: the median seconds of a few repeats, and the most memory that the process had above what it had before the model was built.
Weights are random: they don't change the cost. The growth is the slope of a straight line through the logarithms of the upper points, from an eighth of the
largest value on: 1 is linear in the number of pixels, pictures of a batch, or pictures of a data set.

A measured point is kept in the JSON file and skipped by the next run, one that failed is tried again; the table (.md) and the figure (.png) are written beside it.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from worker import peak_memory, seconds_of

from tl_unet.machine import platform_name

HERE = Path(__file__).resolve().parent
LIGHT = {"encoder": "mobilenetv2", "decoder_filters": [256, 128, 64, 32, 16]}
# What grows, its values, and what stays as it is.
AXES = {
    "side": ((64, 96, 128, 192, 256, 384, 512), ("step", "predict"), {**LIGHT, "batch": 4}),
    "batch": ((1, 2, 4, 8, 16, 32), ("step", "predict"), {**LIGHT, "side": 128}),
    "pictures": ((128, 256, 512, 1024), ("first pass", "next pass"), {"side": 128, "batch": 8}),
}
TITLES = {"side": "pixels of a picture", "batch": "pictures of a batch", "pictures": "pictures of a data set"}  # fmt: skip
# The paper's U-Net at 256x256, where most memory goes; the last ways make one update of 8 pictures with less.
PAPER = {"encoder": "unet", "decoder_filters": None, "side": 256}
WAYS = {
    "float32, batches of 1": {"batch": 1},
    "float32, batches of 2": {"batch": 2},
    "float32, batches of 4": {"batch": 4},
    "float32, batches of 8": {"batch": 8},
    "float32, batches of 32": {"batch": 32},
    "float32, batches of 2, gradients of 4 accumulated": {"batch": 2, "accumulate": 4},
    "bfloat16, batches of 8": {"batch": 8, "policy": "mixed_bfloat16"},
}


def points(quick):
    """Name and task of everything that is measured."""
    for axis, (values, works, settings) in AXES.items():
        for value in values[:3] if quick else values:
            for work in works:
                yield f"{axis} {value} {work}", {**settings, axis: value, "work": work}
    for way, settings in WAYS.items():
        side = 32 if quick else PAPER["side"]
        yield f"paper {way}", {**PAPER, "side": side, "work": "step", **settings}


def measure(task, repeats):
    """Seconds and memory of a point: the child process."""
    import keras

    import tl_unet

    keras.utils.set_random_seed(0)
    if task["work"].endswith("pass"):
        return _data(task, repeats)
    random = np.random.default_rng(0)
    shape = (task["batch"], task["side"], task["side"])
    images = random.uniform(0, 255, (*shape, 3)).astype("float32")
    masks = (random.uniform(size=(*shape, 1)) > 0.5).astype("float32")
    before = peak_memory()
    keras.config.set_dtype_policy(task.get("policy", "float32"))
    model = tl_unet.build_unet(
        task["encoder"],
        freeze=False,
        weights=None,
        input_shape=(task["side"], task["side"], 3),
        decoder_filters=task["decoder_filters"],
        normalization=None if task["encoder"] == "unet" else "batch",
    )
    adam = keras.optimizers.Adam(1e-5, gradient_accumulation_steps=task.get("accumulate"))
    model.compile(adam, tl_unet.DiceLoss(), jit_compile=False)
    call = {
        "step": lambda: model.train_on_batch(images, masks),
        "predict": lambda: model.predict_on_batch(images),
    }[task["work"]]
    call()  # traces the graph
    seconds = [seconds_of(call) for _ in range(repeats)]
    return {"seconds": statistics.median(seconds), "bytes": peak_memory() - before}


def _data(task, repeats):
    """A pass over pictures that are decoded in it, and over those that are kept."""
    import shutil

    import pictures

    import tl_unet.data

    folder = pictures.write(task["pictures"])
    before = peak_memory()
    # With pictures that are kept, the call decodes them: it belongs to the first pass.
    start = time.perf_counter()
    train = tl_unet.data.image_mask_dataset(
        folder / "images",
        folder / "masks",
        size=task["side"],
        batch_size=task["batch"],
        labels={0: 0, 255: 1},
        verify=False,
    )
    sum(len(image) for image, _ in train.dataset)
    seconds = [time.perf_counter() - start]
    if task["work"] == "next pass":
        seconds = [
            seconds_of(lambda: sum(len(image) for image, _ in train.dataset))
            for _ in range(repeats)
        ]
    shutil.rmtree(folder)
    return {"seconds": statistics.median(seconds), "bytes": peak_memory() - before}


def curve(document, axis, work, key):
    """The measured points of one line: what grows (pixels, for the side), and `"seconds"` or `"bytes"`."""
    found = []
    for value in AXES[axis][0]:
        point = document["points"].get(f"{axis} {value} {work}")
        if point and key in point:
            found.append((value**2 if axis == "side" else value, point[key]))
    return np.array(found, "float64").T


def growth(amounts, costs):
    """The exponent of a power law through the upper points: where fixed costs no longer count.

    Args:
        amounts: array of what grows.
        costs: array, as long.

    Returns:
        A float: 1 is linear, 2 quadratic.
    """
    upper = amounts >= amounts.max() / 8
    return float(np.polyfit(np.log(amounts[upper]), np.log(costs[upper]), 1)[0])


def figure(document):
    """Time and memory against each of the three, with a straight line for linear growth."""
    drawing = Figure(figsize=(10, 6), layout="constrained", dpi=100)
    panels = drawing.subplots(2, len(AXES))
    for column, (axis, (_, works, settings)) in enumerate(AXES.items()):
        for row, (key, scale, label) in enumerate(
            [("seconds", 1, "seconds"), ("bytes", 1e9, "memory (GB)")]
        ):
            panel = panels[row][column]
            for work in works:
                amounts, costs = curve(document, axis, work, key)
                panel.loglog(amounts, costs / scale, "o-", label=work)
            panel.loglog(
                amounts, costs[-1] / scale * amounts / amounts[-1], ":", color="0.5", label="linear"
            )
            panel.set(xlabel=TITLES[axis], ylabel=label)
            panel.grid(alpha=0.3, which="both")
            panel.xaxis.set_minor_formatter(NullFormatter())
            panel.yaxis.set_minor_formatter(NullFormatter())
        panels[0][column].set_title(
            ", ".join(f"{k} {v}" for k, v in settings.items() if k != "decoder_filters"), fontsize=9
        )
        panels[0][column].legend(fontsize=8)
    return drawing


def table(document):
    """The growth and the paper's U-Net, as Markdown."""
    about = document["machine"]
    lines = ["**A quick try on small points: no result.**", ""] if about["quick"] else []
    lines += [
        "| with | of | growth of the time | growth of the memory |",
        "| --- | --- | ---: | ---: |",
    ]
    for axis, (_, works, _) in AXES.items():
        for work in works:
            exponents = [growth(*curve(document, axis, work, key)) for key in ("seconds", "bytes")]
            lines.append(f"| {TITLES[axis]} | {work} | {exponents[0]:.2f} | {exponents[1]:.2f} |")
    side = 32 if about["quick"] else PAPER["side"]
    lines += [
        "",
        f"| the paper's U-Net at {side}x{side}, a training step | memory (GB) | seconds a picture |",
        "| --- | ---: | ---: |",
    ]
    for way, settings in WAYS.items():
        point = document["points"].get(f"paper {way}", {})
        if "error" in point:
            lines.append(f"| {way} | {point['error']} | |")
        elif point:
            seconds = point["seconds"] / settings["batch"]
            lines.append(f"| {way} | {point['bytes'] / 1e9:.2f} | {seconds:.2f} |")
    lines += [
        "",
        f"*{about['date']}, {about['platform']}, Keras {about['keras']}, TensorFlow {about['tensorflow']}, float32 unless said otherwise, no XLA, "
        f"median of {about['repeats']}, a first pass once. Made by `benchmarks/scaling.py`.*",
        "",
    ]
    return "\n".join(lines)


def main(argv=None):
    """Measure the points that are not measured yet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a few small points: shows that it works")  # fmt: skip
    parser.add_argument("--repeats", type=int, default=3, help="of each point; default: 3")
    parser.add_argument("--json", type=Path, help="default: benchmarks/results/scaling.json, with --quick scaling-quick.json")  # fmt: skip
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if peak_memory() is None:
        parser.error(
            "this system does not tell how much memory a process has had (Linux and macOS do)"
        )
    if arguments.point:
        print(json.dumps(measure(json.loads(arguments.point), arguments.repeats)))
        return
    if arguments.repeats < 1:
        parser.error("--repeats must be positive")
    name = "scaling-quick.json" if arguments.quick else "scaling.json"
    arguments.json = arguments.json or HERE / "results" / name

    from importlib.metadata import version

    from tl_unet.runs import replacing, write_json

    setting = {
        "quick": arguments.quick,
        "repeats": arguments.repeats,
        "platform": platform_name(),
        "keras": version("keras"),
        "tensorflow": version("tensorflow"),
    }
    document = {"points": {}}
    if arguments.json.exists():
        document = json.loads(arguments.json.read_text(encoding="utf-8"))
        if {key: document["machine"][key] for key in setting} != setting:
            parser.error(f"{arguments.json} holds points of another setting, machine or version; give the same options, another --json, or delete it")  # fmt: skip
    document.setdefault("machine", setting)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE)]),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    for name, task in points(arguments.quick):
        if "error" not in document["points"].get(name, ["error"]):
            continue
        document["machine"]["date"] = datetime.date.today().isoformat()
        command = [sys.executable, __file__, "--repeats", str(arguments.repeats)]
        child = subprocess.run(
            [*command, "--point", json.dumps(task)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        if child.returncode:  # most likely killed, for want of memory
            document["points"][name] = {"error": f"ended with status {child.returncode}"}
        else:
            document["points"][name] = json.loads(child.stdout.splitlines()[-1])
        write_json(arguments.json, document)
        print(name, document["points"][name], flush=True)
    text, picture = arguments.json.with_suffix(".md"), arguments.json.with_suffix(".png")
    with replacing(text) as beside:
        beside.write_text(table(document), encoding="utf-8")
    with replacing(picture) as beside:
        figure(document).savefig(beside)
    print(f"{text}, {picture}: written")


if __name__ == "__main__":
    main()
