"""Segments synthetic multispectral scenes of 12 bands, with and without the bands beyond red, green and blue.

Fields lie on open ground. Half of them are stressed (the class to find), half are healthy: to the eye and to a model of red, green and
blue both look alike, while the bands of the infrared tell them apart. The same scenes are learned from 12 bands, or the first 4, 3
(RGB) or 1 of them, so that the scores say what the bands are worth; --weights starts from ImageNet's weights inflated to that many
channels.

    python examples/multispectral.py                                  # 12 bands against RGB, random weights: needs no network
    python examples/multispectral.py --weights imagenet --output runs/inflated
    python examples/multispectral.py --weights mobilenetv2_imagenet_notop.weights.h5 --channels 12 4 3 1
    python examples/multispectral.py --scenes 60 --epochs 2           # a quick look

The folder --output gets results.json (IoU and Dice on test scenes), a model for each number of channels, curves.png and
predictions.png. A model that is there already is not trained again, so a stopped run goes on with the next number of channels.
"""

import argparse
import json
import pathlib
import time

import keras
import numpy as np
from PIL import Image

import tl_unet
from tl_unet.plotting import learning_curves, prediction_panel
from tl_unet.runs import replacing, write_json

# Wavelengths in nm, about those of Sentinel-2. Red, green and blue come first: inflated kernels go by `band % 3`.
BANDS = (665, 560, 490, 842, 443, 705, 740, 783, 865, 945, 1610, 2190)
INFRARED = 3  # the place of the fourth band, 842 nm

# Reflectance at wavelengths between which it is interpolated. The first two agree wherever the eye sees.
_KNOTS = (440, 490, 560, 665, 705, 740, 783, 842, 945, 1610, 2200)
_SPECTRA = {
    "stressed": (0.04, 0.05, 0.10, 0.06, 0.14, 0.24, 0.28, 0.30, 0.31, 0.34, 0.24),
    "healthy": (0.04, 0.05, 0.10, 0.06, 0.11, 0.30, 0.40, 0.44, 0.42, 0.20, 0.10),
    "meadow": (0.04, 0.05, 0.09, 0.05, 0.13, 0.29, 0.36, 0.38, 0.38, 0.26, 0.14),
    "soil": (0.08, 0.10, 0.14, 0.19, 0.21, 0.23, 0.25, 0.27, 0.30, 0.40, 0.36),
    "wet soil": (0.04, 0.05, 0.07, 0.10, 0.11, 0.12, 0.13, 0.14, 0.15, 0.18, 0.14),
}
SPECTRA = {name: np.interp(BANDS, _KNOTS, values) for name, values in _SPECTRA.items()}


def _noise(rng, side, cells):
    """Smooth random values in 0..1."""
    grid = Image.fromarray(rng.random((cells, cells)).astype("float32"))
    return np.clip(np.asarray(grid.resize((side, side), Image.Resampling.BICUBIC)), 0, 1)


def draw_scene(seed, index, side):
    """Draws a scene: uint8 `(side, side, 12)`, and its mask `(side, side, 1)`, 1 where a field is stressed.

    Scene `index` of a seed is always the same.
    """
    rng = np.random.default_rng((seed, index))
    y, x = np.mgrid[:side, :side] / side
    cover = _noise(rng, side, 4)[..., None], _noise(rng, side, 6)[..., None]
    scene = SPECTRA["soil"] * cover[0] + SPECTRA["wet soil"] * (1 - cover[0])
    meadow = np.clip(3 * cover[1] - 1, 0, 1)
    scene = scene * (1 - meadow) + SPECTRA["meadow"] * meadow
    mask = np.zeros((side, side, 1), "uint8")
    for i in range(rng.integers(4, 8)):
        turn, row, column = rng.uniform(0, np.pi), *rng.uniform(0.1, 0.9, 2)
        u = np.cos(turn) * (x - column) + np.sin(turn) * (y - row)
        v = np.cos(turn) * (y - row) - np.sin(turn) * (x - column)
        length, width = rng.uniform(0.1, 0.22), rng.uniform(0.07, 0.14)
        field = np.abs(u / length) ** 4 + np.abs(v / width) ** 4 < 1
        stressed = bool((i + index) % 2)  # as many of the one kind as of the other
        rows = 1 + 0.15 * np.sin(2 * np.pi * u / rng.uniform(0.03, 0.06))[field, None]
        spectrum = SPECTRA["stressed" if stressed else "healthy"]
        scene[field] = spectrum * rng.uniform(0.8, 1.2) * rows
        mask[field] = stressed
    # Light, haze and the sensor: none of them knows the classes.
    scene = scene * rng.uniform(0.75, 1.25) * (0.85 + 0.3 * _noise(rng, side, 3)[..., None])
    scene = scene * rng.normal(1, 0.05, len(BANDS)) + rng.normal(0, 0.012, scene.shape)
    return np.clip(255 * scene / 0.6, 0, 255).astype("uint8"), mask


def draw_scenes(count, side, seed):
    """`count` scenes as uint8 arrays `(count, side, side, 12)` and `(count, side, side, 1)`."""
    images, masks = zip(*(draw_scene(seed, index, side) for index in range(count)), strict=True)
    return np.stack(images), np.stack(masks)


def build_model(channels, weights):
    """A U-Net on MobileNetV2 for any number of channels, with a slim decoder."""
    return tl_unet.build_unet(
        "mobilenetv2",
        freeze=weights is not None,
        weights=weights,
        input_shape=(None, None, channels),
        decoder_filters=(128, 64, 48, 24, 16),
        normalization="batch",
        upsampling="nearest",
    )


def fit(model, train, valid, arguments):
    """Trains the decoder on the frozen encoder for some epochs, if there are weights, and then everything; returns the curves."""
    frozen = 0 if arguments.weights is None else min(arguments.freeze_epochs, arguments.epochs)
    curves = {}
    for stage, epochs in (("frozen", frozen), ("all", arguments.epochs - frozen)):
        if not epochs:
            continue
        if stage == "all":
            # With batch_norm: the statistics are those of photographs, and these are none. MobileNetV2's own momentum, 0.999, would
            # not bring them here in a few hundred steps.
            tl_unet.unfreeze_encoder(model, batch_norm=True, batch_norm_momentum=0.9)
        steps = epochs * -(-len(train[0]) // arguments.batch_size)
        rate = keras.optimizers.schedules.CosineDecay(2e-3, steps, alpha=0.02)
        model.compile(
            keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0),
            tl_unet.DiceLoss() + tl_unet.CrossentropyLoss(),
            metrics=[tl_unet.IoU()],
            jit_compile=False,  # in so short a run XLA would take longer than it saves
        )
        history = model.fit(
            *train,
            validation_data=valid,
            batch_size=arguments.batch_size,
            epochs=epochs,
            verbose=arguments.verbose,
            callbacks=[keras.callbacks.TerminateOnNaN()],
        ).history
        for name, values in history.items():
            curves.setdefault(name, []).extend(values)
    return curves


def train_and_judge(channels, parts, arguments):
    """The result of one number of channels: from its file if it was trained before."""
    folder = arguments.output / f"{channels}-channels"
    record, path = folder / "result.json", folder / "model.keras"
    if record.exists():
        print(f"{channels} channels: trained before, in {folder}")
        return json.loads(record.read_text())
    print(f"{channels} channels:")
    begun = time.perf_counter()
    keras.utils.set_random_seed(arguments.seed)  # the same start and order for each
    train, valid, test = ((images[..., :channels], masks) for images, masks in parts)
    if channels == 1:
        train, valid, test = (
            (images[..., INFRARED : INFRARED + 1], masks) for images, masks in parts
        )
    model = build_model(channels, arguments.weights)
    curves = fit(model, train, valid, arguments)
    scores = {}
    predicted = model.predict(test[0], batch_size=arguments.batch_size, verbose=0)
    for metric in (tl_unet.IoU(), tl_unet.DiceCoefficient()):
        metric.update_state(test[1], predicted)
        scores[metric.name] = float(metric.result())
    with replacing(path) as beside:
        keras.Model(model.inputs, model.outputs, name=model.name).save(beside)
    result = {"channels": channels, "test": scores, "curves": curves}
    result["seconds"] = time.perf_counter() - begun
    write_json(record, result)
    return result


def write_figures(results, test, arguments):
    """Draws the curves of all models, and some scenes with what the models find."""
    names = {result["channels"]: _name(result["channels"]) for result in results}
    first, last = results[0], results[-1]
    figures = {
        "curves": learning_curves(
            first["curves"],
            ["loss", "iou"],
            reference=None if last is first else last["curves"],
            reference_label=names[last["channels"]],
            title=names[first["channels"]],
        )
    }
    images, masks = (part[:5] for part in test)
    columns = {"842 nm": images[..., INFRARED : INFRARED + 1] / 255}
    for channels, name in names.items():
        shown = images[..., INFRARED : INFRARED + 1] if channels == 1 else images[..., :channels]
        path = arguments.output / f"{channels}-channels" / "model.keras"
        columns[name] = keras.saving.load_model(path, compile=False).predict(shown, verbose=0)
    rgb = np.clip(images[..., :3] * 2.5, 0, 255)  # as dark as the ground is, little is seen
    figures["predictions"] = prediction_panel(rgb, masks, columns)
    for name, figure in figures.items():
        with replacing(arguments.output / f"{name}.png") as beside:
            figure.savefig(beside)


def _name(channels):
    return {1: "infrared", 3: "RGB", 4: "RGB, infrared"}.get(channels, f"{channels} bands")


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--channels",
        type=int,
        nargs="+",
        default=[12, 3],
        choices=(1, 3, 4, 12),
        help="numbers of bands to compare: 12, 4 (RGB and 842 nm), 3 (RGB), 1 (842 nm alone); default: 12 3",
    )
    add(
        "--weights",
        default="none",
        help="none (default), imagenet (Keras downloads), or a file of MobileNetV2 without its top",
    )
    add(
        "--scenes",
        type=int,
        default=300,
        help="training scenes; a third as many validate and test (default: 300)",
    )
    add("--size", type=int, default=64, help="side of the scenes (default: 64)")
    add("--epochs", type=int, default=12, help="default: 12")
    add(
        "--freeze-epochs",
        type=int,
        default=2,
        help="the first of them, with a frozen encoder; none with random weights (default: 2)",
    )
    add("--batch-size", type=int, default=16, help="default: 16")
    add("--seed", type=int, default=0, help="of the scenes, the weights and the order (default: 0)")
    add("--verbose", type=int, default=2, help="0: silent; 1: a bar; 2 (default): a line an epoch")
    add(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/multispectral"),
        help="default: runs/multispectral",
    )
    arguments = parser.parse_args()
    arguments.weights = None if arguments.weights == "none" else arguments.weights
    arguments.channels = list(dict.fromkeys(arguments.channels))
    if min(arguments.epochs, arguments.batch_size) < 1 or arguments.scenes < 3:
        parser.error("--epochs and --batch-size must be at least 1, --scenes at least 3")
    if arguments.size < 32 or min(arguments.seed, arguments.freeze_epochs) < 0:
        parser.error("--size must be at least 32, --seed and --freeze-epochs not negative")
    if (
        arguments.weights not in (None, "imagenet")
        and not pathlib.Path(arguments.weights).is_file()
    ):
        parser.error(f"there is no file of weights {arguments.weights!r}")
    return parser, arguments


def main():
    """Draws the scenes, trains a model for each number of channels, compares."""
    parser, arguments = parse_arguments()
    options = {
        name: value
        for name, value in vars(arguments).items()
        if name not in ("output", "verbose", "channels")
    }
    settings = arguments.output / "options.json"
    others = [path for path in arguments.output.glob("*") if path != settings]
    if others and not settings.exists():
        parser.error(
            f"{arguments.output} is not empty and holds no run of this script: give another --output"
        )
    if others and json.loads(settings.read_text()) != options:
        parser.error(f"{arguments.output} holds a run with other options: give another --output")
    write_json(settings, options)
    counts = (arguments.scenes, arguments.scenes // 3, arguments.scenes // 3)
    parts = [
        draw_scenes(count, arguments.size, 3 * arguments.seed + i) for i, count in enumerate(counts)
    ]
    results = [train_and_judge(channels, parts, arguments) for channels in arguments.channels]
    write_figures(results, parts[2], arguments)
    table = {_name(result["channels"]): result["test"] for result in results}
    write_json(arguments.output / "results.json", {"options": options, "test": table})
    print(f"\n{len(parts[2][0])} test scenes")
    for name, scores in table.items():
        print(f"{name:14} IoU {scores['iou']:.3f}  Dice {scores['dice']:.3f}")
    print(f"Models and figures: {arguments.output}")


if __name__ == "__main__":
    main()
