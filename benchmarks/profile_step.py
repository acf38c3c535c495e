"""Measures what tl-unet's time is spent on, by TensorFlow's profiler: the reasons that docs/results/speed.md gives.

    python benchmarks/profile_step.py                                     # all that compare.py times in Keras; minutes, on an idle machine
    python benchmarks/profile_step.py --work step --encoders resnet50 --operations 30

The networks and the work are those of `compare.py`; training on a frozen encoder is profiled on cached features, prediction with normalisation folded: the fastest ways.
A share is that of the time of all operations, which run beside each other: their sum is more than the time of a step. An operation counts as a convolution by its name, gradients
included (on a CPU what follows may be fused into it); any other belongs to the kind of Keras layer that it was made for, or to the optimizer.
"""

import argparse
import collections
import re
import sys
import tempfile
from pathlib import Path

import side_keras
from compare import machine
from contestants import ENCODERS, WORK
from report import cell_name, publish
from worker import seconds_of

WAYS = {"step": "", "frozen": "cached", "latency": "folded"}


def events(folder):
    """Name and milliseconds of every operation in the trace that TensorFlow's profiler left in `folder`."""
    # TensorFlow comes with the format of its traces, but documents no reader.
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    space = xplane_pb2.XSpace()
    for path in Path(folder).rglob("*.xplane.pb"):
        space.ParseFromString(path.read_bytes())
    for plane in space.planes:
        if "CPU" not in plane.name:
            continue
        for line in plane.lines:
            for event in line.events:
                name = plane.event_metadata[event.metadata_id].name
                # Operations of a graph are "path/in/the/graph:Kind"; executors and calls have spaces or "::" in their names.
                path, _, kind = name.rpartition(":")
                if path and not path.endswith(":") and " " not in name:
                    yield path, kind, event.duration_ps / 1e9


def place(path, kind, layers):
    """What an operation belongs to, for the table.

    Args:
        path: of the operation in the graph, such as `"gradient_tape/unet/conv1_bn/Mul"`.
        kind: of the operation, such as `"Mul"`.
        layers: class names by the names of layers.
    """
    if "Conv" in kind:
        return "convolutions"
    parts = path.split("/")
    for part in reversed(parts):
        # TensorFlow numbers what is called again.
        if layer := layers.get(part) or layers.get(re.sub(r"_\d+$", "", part)):
            return layer
    return "optimizer" if any(part.lower().startswith("adam") for part in parts) else "other"


def profiled(call, calls, layers):
    """Milliseconds of a call, and of its operations by place and by kind."""
    import tensorflow as tf

    for _ in range(3):  # traces graphs, fills caches
        call()
    seconds = sorted(seconds_of(call) for _ in range(calls))[calls // 2]
    places, kinds = collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        quiet = tf.profiler.experimental.ProfilerOptions(python_tracer_level=0)
        with tf.profiler.experimental.Profile(folder, quiet):
            for _ in range(calls):
                call()
        for path, kind, milliseconds in events(folder):
            places[place(path, kind, layers)] += milliseconds / calls
            kinds[kind] += milliseconds / calls
    return {"milliseconds": 1000 * seconds, "places": dict(places), "kinds": dict(kinds)}


def kinds_of_layers(model):
    """Name and class name of each layer of a model and of the models in it."""
    for layer in model.layers:
        yield layer.name, type(layer).__name__
        if hasattr(layer, "layers"):
            yield from kinds_of_layers(layer)


def measure(work, encoder, calls, threads):
    """The row of a work and an encoder: a dict, ready for JSON."""
    side_keras.set_up(threads)
    import keras

    import tl_unet

    keras.utils.clear_session()
    task = {"library": "tl_unet", "variant": WAYS[work], "work": work, "encoder": encoder}
    task |= {"batch": WORK[work].batch, "size": WORK[work].size, "threads": threads}
    model = side_keras.BUILD["tl_unet"](encoder, task["size"])
    layers = dict(kinds_of_layers(model))
    row = profiled(side_keras.PREPARE[work](model, task), calls, layers)
    if task["variant"] == "cached":
        images = side_keras.images_of(task)
        cache = tl_unet.FeatureCache(model).add((images, images), verbose=0)
        times = sorted(seconds_of(lambda: cache.read(images)) for _ in range(calls))
        row["look_up_milliseconds"] = 1000 * times[calls // 2]
    return row


def shares(counts, most):
    """The greatest `most` of a counter in per cent of the sum, those below one per cent left out."""
    total = sum(counts.values())
    greatest = {
        n: 100 * value / total for n, value in collections.Counter(counts).most_common(most)
    }
    return ", ".join(f"{name} {share:.0f} %" for name, share in greatest.items() if share >= 1)


def table(document, places, kinds):
    """The measured rows as Markdown.

    Args:
        document: what was measured.
        places: how many places a row names.
        kinds: how many kinds of operations a row names; 0 for none.
    """
    about = document["machine"]
    versions = about["versions"]["tl_unet"]
    lines = [
        f"*{about['date']}, {about['platform']}, {about['threads']} threads, float32, TensorFlow {versions.get('tensorflow', versions.get('tensorflow-cpu'))}, Keras "
        f"{versions['keras']}. Shares of the time of all operations. Made by `benchmarks/profile_step.py`.*",
        "",
        f"| | ms | spent on |{' by kind |' if kinds else ''}",
        f"| --- | ---: | --- |{' --- |' if kinds else ''}",
    ]
    for row in document["rows"]:
        way = WAYS[row["work"]]
        title = f"{WORK[row['work']].title}{', ' * bool(way)}{way}, {row['encoder']}"
        spent = shares(row["places"], places)
        if "look_up_milliseconds" in row:
            spent += f"; looking features up: {row['look_up_milliseconds']:.1f} ms"
        cells = [title, f"{row['milliseconds']:.1f}", spent]
        if kinds:
            cells.append(shares(row["kinds"], kinds))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def main(argv=None):
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, default=list(ENCODERS))
    parser.add_argument(
        "--calls", type=int, default=7, help="timed, and profiled; default: %(default)s"
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--operations", type=int, default=0, help="kinds of operations in a row; default: none"
    )
    parser.add_argument("--json", type=Path, help="file of what is measured, beside which the table (.md) is written; default: only printed")  # fmt: skip
    arguments = parser.parse_args(argv)
    if arguments.calls < 1 or arguments.threads < 1 or arguments.operations < 0:
        parser.error("--calls and --threads must be positive, --operations 0 or more")
    document = {"machine": machine(arguments.threads, {None: sys.executable}), "rows": []}
    for work in arguments.work:
        for encoder in arguments.encoders:
            found = measure(work, encoder, arguments.calls, arguments.threads)
            document["rows"].append({"work": work, "encoder": encoder, **found})
            print(f"{cell_name(work, encoder)}: measured", file=sys.stderr, flush=True)
    text = table(document, 5, arguments.operations)
    publish(document, text, arguments.json)


if __name__ == "__main__":
    main()
