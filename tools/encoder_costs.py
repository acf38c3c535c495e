"""Measures what each encoder costs and writes the table of docs/guides/choosing-an-encoder.md.

    python tools/encoder_costs.py                                 # all, at 256x256; some minutes to an hour, on an idle machine
    python tools/encoder_costs.py --encoders "resnet*"            # some of them
    python tools/encoder_costs.py --size 64 --repeats 2 --json costs.json --page ""    # a try

For each encoder a U-Net with default arguments but `normalization="batch"` (and random weights: they don't change the cost). Parameters are those of the
whole U-Net. GFLOPs are counted by TensorFlow's public profiler (`tf.compat.v1.profiler`) on the inference graph of one image: a multiply-add is two
operations, and what the profiler has no rule for (resampling, padding, concatenation) counts nothing. Times are those of one step of `train_on_batch`, frozen and
not, and of predicting one image, without XLA; each is divided by the same time of MobileNetV2, measured in turn with it in the same process, so that
a machine that slows down slows both. The median of the repeats is taken. On a machine that other work shares, `--clock cpu` counts processor seconds in place of the
clock's; use it with one core, since it adds up those of all:

    taskset -c 1 python tools/encoder_costs.py --clock cpu

Each encoder is measured in a process of its own, since TensorFlow keeps memory of the models before. A finished row is kept in
the JSON file and skipped by the next run; delete the file to measure anew.
"""

import argparse
import gc
import json
import multiprocessing
import os
import pathlib
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from machine import cores
from marks import insert

import tl_unet

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs/guides/choosing-an-encoder.md"
START, END = (
    "<!-- encoder costs: python tools/encoder_costs.py -->",
    "<!-- end of encoder costs -->",
)
BASE = "mobilenetv2"
TIMES = ("frozen", "full", "latency")
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
HEADER = (
    "| `encoder=` | parameters (M) | GFLOPs | step, frozen | step, full | latency |\n"
    "| --- | ---: | ---: | ---: | ---: | ---: |"
)


def unet(name, size, freeze):
    """A compiled U-Net with fixed sides on an encoder with random weights."""
    model = tl_unet.build_unet(
        name, freeze=False, weights=None, input_shape=(size, size, 3), normalization="batch"
    )
    if freeze:  # not by build_unet, which rightly warns of frozen random weights
        tl_unet.freeze_encoder(model)
    model.compile(keras.optimizers.Adam(1e-4), tl_unet.DiceLoss(), jit_compile=False)
    return model


def gflops(model):
    """Floating-point operations of predicting one image, in thousand millions."""
    image = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32)
    graph = tf.function(lambda x: model(x, training=False)).get_concrete_function(image).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    run_meta = tf.compat.v1.RunMetadata()
    profile = tf.compat.v1.profiler.profile(graph, run_meta, cmd="scope", options=options)
    return profile.total_float_ops / 1e9


def data(size, batch):
    """Random images and masks."""
    random = np.random.default_rng(0)
    images = random.uniform(0, 255, (batch, size, size, 3)).astype("float32")
    return images, (random.uniform(size=(batch, size, size, 1)) > 0.5).astype("float32")


def step(model, size, batch):
    """A function that trains a model one step."""
    images, masks = data(size, batch)
    return lambda: model.train_on_batch(images, masks)


def prediction(model, size):
    """A function that predicts one image."""
    predict = tf.function(lambda image: model(image, training=False))
    image = tf.constant(data(size, 1)[0])
    return lambda: predict(image).numpy()


def seconds(call, clock):
    """How long a call takes."""
    start = clock()
    call()
    return clock() - start


def base_calls(size, batch):
    """The base's three calls."""
    frozen, full = unet(BASE, size, freeze=True), unet(BASE, size, freeze=False)
    calls = step(frozen, size, batch), step(full, size, batch), prediction(full, size)
    return dict(zip(TIMES, calls, strict=True))


def compare(own, base, repeats, clock):
    """The medians of two calls made in turn, and their ratio."""
    own(), base()  # the first call traces the graph
    pairs = [(seconds(own, clock), seconds(base, clock)) for _ in range(repeats)]
    own, base = (statistics.median(column) for column in zip(*pairs, strict=True))
    return {"seconds": own, f"{BASE}_seconds": base, "ratio": own / base}


def measure(name, size, batch, repeats, clock):
    """The row of one encoder."""
    timing = repeats, CLOCKS[clock]
    base = base_calls(size, batch)
    # One model after the other: the largest encoders fill the memory once.
    model = unet(name, size, freeze=True)
    row = {"frozen": compare(step(model, size, batch), base["frozen"], *timing)}
    del model
    gc.collect()
    model = unet(name, size, freeze=False)
    row["full"] = compare(step(model, size, batch), base["full"], *timing)
    row["latency"] = compare(prediction(model, size), base["latency"], *timing)
    return {"parameters": model.count_params(), "gflops": gflops(model), **row}


def table(document):
    """The measured rows as Markdown, lightest first."""
    rows = sorted(document["rows"].items(), key=lambda item: item[1]["full"]["ratio"])
    lines = [
        f"| `{name}` | {row['parameters'] / 1e6:.1f} | {row['gflops']:.1f} | "
        + " | ".join(f"{row[what]['ratio']:.1f}" for what in TIMES)
        + " |"
        for name, row in rows
    ]
    setting = document["setting"]
    caption = (
        f"*U-Nets at {setting['size']}x{setting['size']}; times relative to `{BASE}`: a training step of {setting['batch']} images with the encoder "
        f"frozen and not, and the prediction of one image. {setting['machine']}{', processor seconds' * (setting['clock'] == 'cpu')}, median of {setting['repeats']}. Made by `tools/encoder_costs.py`.*"
    )
    left = [f"`{name}`" for name in tl_unet.list_encoders() if name not in document["rows"]]
    lines += ["", f"Not measured: {', '.join(left)}."] if left else []
    return "\n".join(["", caption, "", HEADER, *lines, ""])


def measure_alone(*arguments):
    """`measure` in a process that ends with it, which gives all memory back."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, *arguments).result()


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--encoders", nargs="+", default=["*"], help="patterns, as for list_encoders"
    )
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="default: wall")
    parser.add_argument("--json", type=pathlib.Path, default=PAGE.with_name("encoder-costs.json"))
    parser.add_argument("--page", default=str(PAGE), help='"" prints the table instead')
    arguments = parser.parse_args()

    machine = f"TensorFlow {tf.__version__}, {cores()}"
    if gpus := tf.config.list_physical_devices("GPU"):
        machine += f", {len(gpus)} GPU"
    setting = {key: getattr(arguments, key) for key in ("size", "batch", "repeats", "clock")}
    document = {"setting": {**setting, "machine": machine}, "rows": {}}
    if arguments.json.exists():
        kept = json.loads(arguments.json.read_text())
        if kept["setting"] != document["setting"]:
            raise SystemExit(
                f"{arguments.json} holds rows of another setting, {kept['setting']}; now it is {document['setting']}. "
                "Give the same options, another --json, or delete the file."
            )
        document = kept
    names = [name for pattern in arguments.encoders for name in tl_unet.list_encoders(pattern)]
    if not names:
        raise SystemExit(f"No encoder is named like {arguments.encoders}.")
    for number, name in enumerate(names, 1):
        if name in document["rows"]:
            continue
        start = time.perf_counter()
        try:
            row = measure_alone(
                name, arguments.size, arguments.batch, arguments.repeats, arguments.clock
            )
        except BrokenProcessPool:
            raise SystemExit(
                f"The process that measured {name} was ended from outside: was there too little memory? "
                "The rows before it are kept."
            ) from None
        document["rows"][name] = row
        # Written aside and moved, so that an interrupted run leaves the rows before it.
        draft = arguments.json.with_suffix(".part")
        draft.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
        draft.replace(arguments.json)
        print(f"{number}/{len(names)} {name}: {time.perf_counter() - start:.0f} s", flush=True)
    if arguments.page:
        page = pathlib.Path(arguments.page)
        page.write_text(insert(page.read_text(), START, END, table(document)))
        print(f"{page}: written")
    else:
        print(table(document))


if __name__ == "__main__":
    main()
