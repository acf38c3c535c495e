"""Writes the table of export formats: size, latency and IoU of one trained model in every runtime, measured in one run.

Latency is that of files for any number of images, and of files for one (`batch_size=1`).

python tools/export_table.py runs/pets/model.keras --data oxford_pets/ --output docs/tutorials/export-table.md
"""

import argparse
import pathlib
import statistics
import tempfile
import time
from importlib.metadata import version

import keras

import tl_unet
import tl_unet.data
from tl_unet.export import SUFFIXES
from tl_unet.machine import platform_name

PACKAGES = ("keras", "tensorflow", "onnxruntime", "openvino", "nncf", "ai-edge-litert")


def size_of(path):
    """Megabytes of a file, with OpenVINO's second one, or of a directory."""
    files = path.rglob("*") if path.is_dir() else path.parent.glob(f"{path.stem}.*")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def iou_of(predict, dataset):
    """IoU over a data set, at threshold 0.5."""
    metric = tl_unet.IoU()
    for images, masks in dataset:
        metric.update_state(masks, predict(images.numpy()))
    return float(metric.result())


def latencies(runners, image, repeats):
    """Median seconds for one image of each runner, one call of each after the other."""
    seconds = {name: [] for name in runners}
    for predict in runners.values():
        predict(image)
    for _ in range(repeats):
        for name, predict in runners.items():
            begun = time.perf_counter()
            predict(image)
            seconds[name].append(time.perf_counter() - begun)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="a .keras file")
    parser.add_argument("--data", default="tfds", help="as in train_pets.py")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--test", type=int, default=738, help="test pictures for the IoU")
    parser.add_argument("--calibration", type=int, default=64, help="training pictures for int8")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--output", type=pathlib.Path, required=True, help="the table, Markdown")
    arguments = parser.parse_args()
    model = keras.saving.load_model(arguments.model, compile=False)
    pets = tl_unet.data.oxford_pets(
        arguments.data, size=arguments.size, batch_size=8, limit=3 * arguments.test
    )
    test = pets["test"].dataset
    typical = next(iter(pets["train"].dataset.unbatch().batch(arguments.calibration)))[0].numpy()
    few = next(iter(test))[0].numpy()
    with tempfile.TemporaryDirectory() as folder:
        runners = {"Keras": lambda images: model.predict_on_batch(images)}
        alone, lines = {}, {}
        for format in SUFFIXES:
            given = {"size": arguments.size, "images": typical}
            path = tl_unet.export_model(model, pathlib.Path(folder, format), format, **given)
            runners[format] = tl_unet.load_exported(path)
            one = pathlib.Path(folder, f"{format}-one")
            one = tl_unet.export_model(model, one, format, **given, batch_size=1)
            alone[f"{format}, one"] = tl_unet.load_exported(one)
            lines[format] = (
                f"{size_of(path):.1f}",
                f"{tl_unet.max_difference(model, path, few):.1e}",
            )
            print(format, *lines[format], flush=True)
        lines["Keras"] = f"{pathlib.Path(arguments.model).stat().st_size / 1e6:.1f}", "–"
        medians = latencies(runners | alone, few[:1], arguments.repeats)
        scores = {name: iou_of(predict, test) for name, predict in runners.items()}
    rows = []
    for name in runners:
        shares = [
            f"{medians[key] / medians['Keras']:.2f}" if key in medians else "–"
            for key in (name, f"{name}, one")
        ]
        megabytes, difference = lines[name]
        cells = (name, megabytes, difference, f"{scores[name]:.4f}", *shares)
        rows.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    text = "\n".join(
        [
            "| format | MB | largest difference | test IoU | latency / Keras | for one image |",
            "| --- | ---: | ---: | ---: | ---: | ---: |",
            *rows,
            "",
            f"*For one image*: latency of files made with `batch_size=1`. One image of {arguments.size}x{arguments.size} at a time, the median of {arguments.repeats} calls, all formats in turn in one "
            f"process; Keras: {1000 * medians['Keras']:.0f} ms (`predict_on_batch`). IoU on {len(pets['test'].names)} test pictures of "
            f"Oxford-IIIT Pet; int8 calibrated on {len(typical)} training pictures. {keras.backend.backend()} backend, "
            f"{platform_name()}, {versions}. Made by `python tools/export_table.py`.",
        ]
    )
    arguments.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
