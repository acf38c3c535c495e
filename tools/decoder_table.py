"""Writes the table and the picture of docs/guides/choosing-a-decoder.md: every decoder trained shortly on the same real pets.

    python tools/decoder_table.py --data oxford_pets/ --weights mobilenetv2_imagenet_notop.weights.h5
    python tools/decoder_table.py --data oxford_pets/ --weights FILE --decoders unet,fpn --train 32 --epochs 1 --page tmp/table.md --picture tmp/sheet.png

Each decoder gets a frozen encoder, `normalization="batch"`, its default arguments, and the same seed, pictures, epochs and learning rate: far too little training
to rank them. They are trained side by side, every batch by all of them in turn, so that the times of their steps can be compared on
a machine that slows down; the median of the ratios to the U-Net's is given.
"""

import argparse
import os
import pathlib
import platform
import statistics
import time
from importlib.metadata import version

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from machine import cores
from matplotlib.figure import Figure

import tl_unet
import tl_unet.data
from tl_unet.plotting import overlay
from tl_unet.runs import replacing

# What may be combined with a decoder, each shown once.
VARIANTS = {
    "unet with bridge": {"decoder": "unet", "bridge": "aspp"},
    "unet of depth 4": {"decoder": "unet", "encoder_depth": 4},
    "unetplusplus deep": {"decoder": "unetplusplus", "deep_supervision": 0.5},
}
DOCS = pathlib.Path(__file__).resolve().parents[1] / "docs"
BASE = "unet"


def compiled(name, arguments):
    """An untrained model of one decoder, or of one of the variants."""
    options = VARIANTS.get(name, {"decoder": name})
    keras.utils.set_random_seed(arguments.seed)
    model = tl_unet.build_unet(
        arguments.encoder,
        weights=arguments.weights,
        input_shape=(arguments.size, arguments.size, 3),
        normalization="batch",
        **options,
    )
    loss = tl_unet.DiceLoss() + tl_unet.FocalLoss(gamma=0.0)
    optimizer = keras.optimizers.Adam(arguments.learning_rate)
    model.compile(optimizer, loss, metrics=[tl_unet.IoU()], jit_compile=False)
    return model


def train(models, dataset, epochs):
    """Trains the models side by side, each on every batch in turn; returns the seconds of each step of each model."""
    seconds = {name: [] for name in models}
    for epoch in range(1, epochs + 1):
        for batch in dataset:
            for name, model in models.items():
                begun = time.perf_counter()
                model.train_on_batch(*batch)
                seconds[name].append(time.perf_counter() - begun)
        print(f"epoch {epoch} of {epochs} is done", flush=True)
    return seconds


def table(rows, seconds, pictures, arguments):
    """The table in Markdown, with what it was measured on."""
    lines = ["| decoder | parameters (M) | trained (M) | step / U-Net | validation IoU |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for name, row in rows.items():
        # The first step of each model traces its graph, and the last batch of an epoch may be a small one.
        ratios = [a / b for a, b in zip(seconds[name][1:], seconds[BASE][1:], strict=True)]
        options = VARIANTS.get(name, {"decoder": name})
        given = ", ".join(f"{key}={value!r}" for key, value in options.items())
        lines.append(
            f"| `{given}` | {row['parameters'] / 1e6:.2f} | {row['trained'] / 1e6:.2f} | {statistics.median(ratios):.2f} "
            f"| {row['iou']:.3f} |"
        )
    packages = ", ".join(f"{name} {version(name)}" for name in ("keras", "tensorflow"))
    return "\n".join(lines) + (
        f'\n\n{arguments.encoder}, frozen, with ImageNet weights; `normalization="batch"`, defaults otherwise. {pictures[0]} training pictures of '
        f"Oxford-IIIT Pet at {arguments.size}x{arguments.size}, {arguments.epochs} epochs in batches of {arguments.batch_size}, Adam {arguments.learning_rate:g}, Dice "
        f"and cross-entropy, seed {arguments.seed}; IoU over {pictures[1]} validation pictures. Step: a training step, median over the training, in "
        f"which every batch went to all decoders in turn; U-Net: {1000 * statistics.median(seconds[BASE]):.0f} ms, on {cores()} "
        f"({platform.machine()}). {keras.backend.backend()} backend, {packages}. Made by `python tools/decoder_table.py`.\n"
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
        "--decoders",
        help="some of them, by commas, the U-Net's first; default: all, and some variants",
    )
    parser.add_argument("--size", type=int, default=96)
    parser.add_argument(
        "--train", type=int, default=256, help="training pictures; a third as many validate"
    )
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--shown", type=int, default=0, help="number of the validation picture to show"
    )
    parser.add_argument("--page", type=pathlib.Path, default=DOCS / "guides/decoder-table.md")
    parser.add_argument("--picture", type=pathlib.Path, default=DOCS / "images/decoders.png")
    arguments = parser.parse_args()

    everything = [*tl_unet.list_decoders(), *VARIANTS]
    names = arguments.decoders.split(",") if arguments.decoders else everything
    names = [BASE, *(name for name in names if name != BASE)]
    data = tl_unet.data.oxford_pets(
        arguments.data,
        size=arguments.size,
        batch_size=arguments.batch_size,
        limit=arguments.train,
        seed=arguments.seed,
    )
    models = {name: compiled(name, arguments) for name in names}
    seconds = train(models, data["train"].dataset, arguments.epochs)

    images, masks = zip(*data["validation"].dataset, strict=True)
    images, masks = (np.concatenate([np.asarray(x) for x in part]) for part in (images, masks))
    rows, predictions = {}, {}
    for name, model in models.items():
        predicted = model.predict(images, batch_size=arguments.batch_size, verbose=0)
        predictions[name] = predicted[arguments.shown]
        iou = tl_unet.IoU()
        iou.update_state(masks, predicted)
        sizes = [int(np.prod(weight.shape)) for weight in model.trainable_weights]
        rows[name] = {"parameters": model.count_params(), "trained": sum(sizes)}
        rows[name]["iou"] = float(iou.result())
        print(f"{name}: {rows[name]}", flush=True)
    with replacing(arguments.picture) as beside:
        shown = images[arguments.shown], masks[arguments.shown]
        sheet(*shown, predictions).savefig(beside, format="png")
    pictures = [len(data[part].names) for part in ("train", "validation")]
    with replacing(arguments.page) as beside:
        beside.write_text(table(rows, seconds, pictures, arguments), encoding="utf-8")
    print(f"Wrote {arguments.page} and {arguments.picture}.")


if __name__ == "__main__":
    main()
