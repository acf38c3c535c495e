"""Writes the table and the picture of docs/guides/choosing-a-decoder.md: every decoder trained shortly on the same real pets.

    python tools/decoder_table.py --data oxford_pets/ --weights mobilenetv2_imagenet_notop.weights.h5
    python tools/decoder_table.py --data oxford_pets/ --weights FILE --decoders unet,fpn --train 32 --epochs 1 --results tmp --page tmp/table.md --picture tmp/sheet.png

Each decoder gets a frozen encoder, `normalization="batch"` and its default arguments, the same seed, pictures, epochs and learning rate: far too little training to
rank them. Then the time of a training step, each decoder's in turn in the same process, so that a machine that slows down slows all; the median of
their ratios to the U-Net's is given. A trained decoder is kept in `--results` and not trained again.
"""

import argparse
import json
import os
import pathlib
import platform
import statistics
import time
from importlib.metadata import version

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from matplotlib.figure import Figure

import tl_unet
import tl_unet.data
from tl_unet.plotting import overlay
from tl_unet.runs import replacing, write_json

GUIDES = pathlib.Path(__file__).resolve().parents[1] / "docs/guides"
BASE = "unet"
TRAINED_WITH = ("encoder", "size", "train", "epochs", "batch_size", "learning_rate", "seed")


def compiled(name, arguments):
    """An untrained model of one decoder."""
    keras.utils.set_random_seed(arguments.seed)
    model = tl_unet.build_unet(
        arguments.encoder,
        weights=arguments.weights,
        input_shape=(arguments.size, arguments.size, 3),
        decoder=name,
        normalization="batch",
    )
    loss = tl_unet.DiceLoss() + tl_unet.FocalLoss(gamma=0.0)
    optimizer = keras.optimizers.Adam(arguments.learning_rate)
    model.compile(optimizer, loss, metrics=[tl_unet.IoU()], jit_compile=False)
    return model


def trained(name, data, arguments):
    """A model of one decoder after the short training, and its row; from the files of an earlier run if they are of the same settings."""
    model = compiled(name, arguments)
    settings = {key: str(value) for key, value in vars(arguments).items() if key in TRAINED_WITH}
    row_file = arguments.results / f"{name}.json"
    weights_file = arguments.results / f"{name}.weights.h5"
    if row_file.is_file():
        row = json.loads(row_file.read_text(encoding="utf-8"))
        if row["settings"] == settings:
            model.load_weights(weights_file)
            return model, row
    print(f"{name}: {model.count_params():,} parameters", flush=True)
    model.fit(data["train"].dataset, epochs=arguments.epochs, verbose=2)
    scores = model.evaluate(data["validation"].dataset, verbose=0, return_dict=True)
    sizes = [int(np.prod(weight.shape)) for weight in model.trainable_weights]
    row = {"parameters": model.count_params(), "decoder": sum(sizes), "iou": scores["iou"]}
    row |= {"pictures": [len(data[part].names) for part in ("train", "validation")]}
    row["settings"] = settings
    model.save_weights(weights_file)
    write_json(row_file, row)
    return model, row


def step_times(models, batch, rounds):
    """Seconds of a training step of each model in each round, one model after the other."""
    seconds = {name: [] for name in models}
    for model in models.values():  # the first one traces the graph
        model.train_on_batch(*batch)
    for _ in range(rounds):
        for name, model in models.items():
            begun = time.perf_counter()
            model.train_on_batch(*batch)
            seconds[name].append(time.perf_counter() - begun)
    return seconds


def table(rows, seconds, arguments):
    """The table in Markdown, with what it was measured on."""
    lines = [
        "| `decoder=` | parameters (M) | of them decoder (M) | step / U-Net | validation IoU |"
    ]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for name, row in rows.items():
        ratios = [a / b for a, b in zip(seconds[name], seconds[BASE], strict=True)]
        lines.append(
            f'| `"{name}"` | {row["parameters"] / 1e6:.2f} | {row["decoder"] / 1e6:.2f} | {statistics.median(ratios):.2f} '
            f"| {row['iou']:.3f} |"
        )
    train, validation = rows[BASE]["pictures"]
    packages = ", ".join(f"{name} {version(name)}" for name in ("keras", "tensorflow"))
    return "\n".join(lines) + (
        f'\n\n{arguments.encoder}, frozen, with ImageNet weights; `normalization="batch"`, defaults otherwise. {train} training pictures of Oxford-IIIT '
        f"Pet at {arguments.size}x{arguments.size}, {arguments.epochs} epochs in batches of {arguments.batch_size}, Adam {arguments.learning_rate:g}, Dice and "
        f"cross-entropy, seed {arguments.seed}; IoU over {validation} validation pictures. Step: a training step on such a batch, "
        f"median of {arguments.rounds} rounds, all decoders in turn in one process; U-Net: {1000 * statistics.median(seconds[BASE]):.0f} ms. "
        f"{keras.backend.backend()} backend, {os.cpu_count()} CPU cores ({platform.machine()}), {packages}. Made by `python tools/decoder_table.py`.\n"
    )


def sheet(image, mask, predictions):
    """One picture with its true mask and the mask of every decoder."""
    shown = {"image": image.astype("uint8"), "truth": overlay(image, mask[..., 0])}
    shown |= {name: overlay(image, p[..., 0] > 0.5) for name, p in predictions.items()}
    columns = 5
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(2 * columns, 2.2 * rows), layout="constrained", dpi=100)
    for axes in (cells := figure.subplots(rows, columns, squeeze=False)).flat:
        axes.axis("off")
    for axes, (title, picture) in zip(cells.flat, shown.items(), strict=False):
        axes.imshow(picture)
        axes.set_title(title, fontsize=10)
    return figure


def main():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="tfds", help="as in train_pets.py")
    parser.add_argument("--encoder", default="mobilenetv2")
    parser.add_argument("--weights", default="imagenet", help="imagenet, or a file")
    parser.add_argument(
        "--decoders", help="some of them, by commas, the U-Net's first; default: all"
    )
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument(
        "--train", type=int, default=256, help="training pictures; a third as many validate"
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=10, help="of measuring the time of a step")
    parser.add_argument(
        "--shown", type=int, default=0, help="number of the validation picture to show"
    )
    parser.add_argument("--results", type=pathlib.Path, default=pathlib.Path("runs/decoders"))
    parser.add_argument("--page", type=pathlib.Path, default=GUIDES / "decoder-table.md")
    parser.add_argument("--picture", type=pathlib.Path, default=GUIDES / "decoders.png")
    arguments = parser.parse_args()

    names = arguments.decoders.split(",") if arguments.decoders else tl_unet.list_decoders()
    names = [BASE, *(name for name in names if name != BASE)]
    arguments.results.mkdir(parents=True, exist_ok=True)
    options = dict(size=arguments.size, batch_size=arguments.batch_size)
    data = tl_unet.data.oxford_pets(
        arguments.data, limit=arguments.train, seed=arguments.seed, **options
    )
    models, rows = {}, {}
    for name in names:
        models[name], rows[name] = trained(name, data, arguments)
        print(f"{name}: validation IoU {rows[name]['iou']:.4f}", flush=True)

    images, masks = zip(*data["validation"].dataset, strict=True)
    images, masks = (np.concatenate([np.asarray(x) for x in part]) for part in (images, masks))
    image, mask = images[arguments.shown], masks[arguments.shown]
    predictions = {name: model.predict(image[None], verbose=0)[0] for name, model in models.items()}
    with replacing(arguments.picture) as beside:
        sheet(image, mask, predictions).savefig(beside, format="png")
    batch = images[: arguments.batch_size], masks[: arguments.batch_size]
    seconds = step_times(models, batch, arguments.rounds)  # last: it trains on
    with replacing(arguments.page) as beside:
        beside.write_text(table(rows, seconds, arguments), encoding="utf-8")
    print(f"Wrote {arguments.page} and {arguments.picture}.")


if __name__ == "__main__":
    main()
