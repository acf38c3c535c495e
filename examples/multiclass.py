"""Segments three classes with transfer learning: animal, border and background of pets, or synthetic figures.

A U-Net on MobileNetV2 learns in two stages, the decoder on a frozen encoder and then everything, and is judged class by class on
pictures it has not seen. Pixels without a class (255) are left out throughout.

    python examples/multiclass.py                                        # synthetic figures, random weights: needs no network
    python examples/multiclass.py --data tfds --output runs/multiclass   # pets and ImageNet weights, downloaded at the first use
    python examples/multiclass.py --data oxford_pets/ --weights mobilenetv2_imagenet_notop.weights.h5 --limit 500
    python examples/multiclass.py --data tfds --balance 1                # rare classes count more in the cross-entropy

The folder --output gets model.keras (the epoch with the best validation IoU), history.csv and curves.png (scores of each class by
epoch), results.json (scores of the test pictures), confusion.png, per_class.png and predictions.png. A run of this size is not worth
resuming: one that was stopped is started anew. For long ones use `tl-unet train`, which resumes.
"""

import argparse
import csv
import pathlib
import time

import keras
import numpy as np
from paper.errors import as_usage_errors

import tl_unet
import tl_unet.data
from tl_unet.evaluation import count_confusion
from tl_unet.plotting import class_bars, confusion_matrix, learning_curves, prediction_panel
from tl_unet.runs import replacing, write_json

IGNORE = 255
NAMES = {
    "pets": ("background", "animal", "border"),
    "shapes": ("background", "ellipse", "polygon"),
}


def load_data(arguments):
    """The three parts as `tl_unet.data.Subset`s and the names of the classes in the order of their numbers."""
    augment = tl_unet.data.augmentation(scale=0.3, seed=arguments.seed)
    common = {"size": arguments.size, "batch_size": arguments.batch_size}
    if arguments.data != "shapes":
        parts = tl_unet.data.oxford_pets(
            arguments.data,
            border="class",
            limit=arguments.limit,
            augment=augment,
            seed=arguments.seed,
            **common,
        )
        return parts, NAMES["pets"]
    counts = {"train": arguments.limit, "validation": arguments.limit // 3}
    counts["test"] = counts["validation"]
    parts = {
        part: tl_unet.data.shapes(
            count,
            classes=3,
            seed=3 * arguments.seed + i,
            shuffle=part == "train",
            augment=augment if part == "train" else False,
            **common,
        )
        for i, (part, count) in enumerate(counts.items())
    }
    return parts, NAMES["shapes"]


def build_model(arguments, classes):
    """A U-Net with a slim decoder, since the decoder is what costs time on a processor."""
    return tl_unet.build_unet(
        "mobilenetv2",
        freeze=arguments.weights is not None,
        weights=arguments.weights,
        classes=classes,
        decoder_filters=(128, 64, 48, 24, 16),
        normalization="batch",
        upsampling="nearest",
    )


def fit(model, parts, names, arguments):
    """Trains both stages, leaves the model with the best epoch's weights, and returns a row for each epoch."""
    class_weights = None
    if arguments.balance:
        class_weights = tl_unet.balanced_class_weights(
            parts["train"].dataset, len(names), power=arguments.balance
        )
        print(
            "Weights:", ", ".join(f"{n} {w:.2f}" for n, w in zip(names, class_weights, strict=True))
        )
    loss = tl_unet.DiceLoss(ignore_index=IGNORE) + tl_unet.CrossentropyLoss(
        class_weights=class_weights, ignore_index=IGNORE
    )
    frozen = 0 if arguments.weights is None else min(arguments.freeze_epochs, arguments.epochs)
    rows, best = [], arguments.output / "best.weights.h5"
    for stage, epochs in (("frozen", frozen), ("all", arguments.epochs - frozen)):
        if not epochs:
            continue
        if stage == "all":
            # MobileNetV2 moves its statistics by a thousandth a step: too slow for the few hundred steps of a run from scratch.
            random = arguments.weights is None
            momentum = 0.9 if random else None
            tl_unet.unfreeze_encoder(model, batch_norm=random, batch_norm_momentum=momentum)
        rate = keras.optimizers.schedules.CosineDecay(
            1e-3 if stage == "frozen" or not frozen else 5e-4,
            epochs * len(parts["train"].dataset),
            alpha=0.02,
        )
        model.compile(
            keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0),
            loss,
            metrics=[tl_unet.IoU(class_names=names, ignore_index=IGNORE)],
            jit_compile=False,  # in so short a run XLA would take longer than it saves
        )
        history = model.fit(
            parts["train"].dataset,
            validation_data=parts["validation"].dataset,
            epochs=epochs,
            shuffle=False,  # the data set shuffles itself
            verbose=arguments.verbose,
            callbacks=[
                keras.callbacks.TerminateOnNaN(),
                keras.callbacks.ModelCheckpoint(
                    best,
                    monitor="val_iou",
                    mode="max",
                    save_best_only=True,
                    save_weights_only=True,
                    initial_value_threshold=max((row["val_iou"] for row in rows), default=None),
                ),
            ],
        ).history
        for values in zip(*history.values(), strict=True):
            rows.append({"epoch": len(rows) + 1, **dict(zip(history, values, strict=True))})
    model.load_weights(best)
    best.unlink()
    return rows


def judge(model, dataset, names):
    """Scores of each class over all pictures of a data set, and the confusion matrix."""
    iou = tl_unet.IoU(class_names=names, ignore_index=IGNORE)
    dice = tl_unet.DiceCoefficient(class_names=names, ignore_index=IGNORE)
    confusion = np.zeros((len(names),) * 2, np.int64)
    for images, masks in dataset:
        probabilities = model.predict_on_batch(images)
        iou.update_state(masks, probabilities)
        dice.update_state(masks, probabilities)
        confusion += count_confusion(masks, probabilities.argmax(-1), len(names))
    found = {key: float(value) for key, value in {**iou.result(), **dice.result()}.items()}
    hits, true, predicted = np.diag(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    for i, name in enumerate(names):
        found[f"recall_{name}"] = float(hits[i] / max(1, true[i]))
        found[f"precision_{name}"] = float(hits[i] / max(1, predicted[i]))
    return found, confusion


def write_figures(model, parts, names, rows, scores, confusion, output):
    """Draws the curves, the scores of each class, the confusion matrix, and pictures with their masks."""
    history = {name: [row[name] for row in rows] for name in rows[0]}
    best = 1 + int(np.argmax(history["val_iou"]))
    each = {
        title: [scores[f"{score}_{name}"] for name in names]
        for title, score in (("IoU", "iou"), ("Dice", "dice"))
    }
    images, masks = (np.asarray(part)[:5] for part in next(iter(parts["test"].dataset)))
    predicted = model.predict(images, verbose=0)
    figures = {
        "curves": learning_curves(
            history, ["loss", *(f"iou_{name}" for name in names)], best_epoch=best
        ),
        "confusion": confusion_matrix(confusion, names),
        "per_class": class_bars(each, names),
        "predictions": prediction_panel(
            images, masks, {"prediction": predicted}, class_names=names
        ),
    }
    for name, figure in figures.items():
        with replacing(output / f"{name}.png") as beside:
            figure.savefig(beside)


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data",
        default="shapes",
        help="shapes (default: synthetic), tfds (pets, downloaded), or the directory of the pets' unpacked official archives",
    )
    add(
        "--weights",
        help="imagenet (Keras downloads), none, or a file of MobileNetV2 without its top; default: imagenet for pets, none for shapes",
    )
    add("--size", type=int, help="side of the pictures; default: 128 for pets, 64 for shapes")
    add(
        "--limit",
        type=int,
        default=500,
        help="at most so many training pictures, and a third as many to validate and to test (default: 500)",
    )
    add("--epochs", type=int, default=10, help="of both stages (default: 10)")
    add(
        "--freeze-epochs",
        type=int,
        default=2,
        help="the first of them, with a frozen encoder; none with random weights (default: 2)",
    )
    add("--batch-size", type=int, default=16, help="default: 16")
    add(
        "--balance",
        type=float,
        default=0.0,
        metavar="POWER",
        help="weigh classes in the cross-entropy by their share of the pixels to the power of -POWER; 0 (default): all alike",
    )
    add("--seed", type=int, default=0, help="default: 0")
    add("--verbose", type=int, default=2, help="0: silent; 1: a bar; 2 (default): a line an epoch")
    add(
        "--output",
        type=pathlib.Path,
        default=pathlib.Path("runs/multiclass"),
        help="default: runs/multiclass",
    )
    arguments = parser.parse_args()
    synthetic = arguments.data == "shapes"
    if arguments.weights is None:
        arguments.weights = "none" if synthetic else "imagenet"
    arguments.weights = None if arguments.weights == "none" else arguments.weights
    if arguments.size is None:
        arguments.size = 64 if synthetic else 128
    if min(arguments.epochs, arguments.batch_size, arguments.size) < 1 or arguments.limit < 3:
        parser.error("--epochs, --batch-size and --size must be at least 1, --limit at least 3")
    if min(arguments.balance, arguments.seed, arguments.freeze_epochs) < 0:
        parser.error("--balance, --seed and --freeze-epochs must not be negative")
    if (arguments.output / "results.json").exists():
        parser.error(f"{arguments.output} holds a finished run: give another --output")
    if arguments.output.exists() and any(arguments.output.iterdir()):
        parser.error(
            f"{arguments.output} is not empty, and what is in it may be of use: give another --output"
        )
    return parser, arguments


def main():
    """Trains, judges, draws."""
    parser, arguments = parse_arguments()
    begun = time.perf_counter()
    keras.utils.set_random_seed(arguments.seed)
    arguments.output.mkdir(parents=True, exist_ok=True)
    with as_usage_errors(parser):
        parts, names = load_data(arguments)
        model = build_model(arguments, len(names))
    rows = fit(model, parts, names, arguments)
    with replacing(arguments.output / "model.keras") as beside:
        keras.Model(model.inputs, model.outputs, name=model.name).save(beside)
    with (
        replacing(arguments.output / "history.csv") as beside,
        beside.open("w", newline="") as file,
    ):
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    scores, confusion = judge(model, parts["test"].dataset, names)
    write_figures(model, parts, names, rows, scores, confusion, arguments.output)
    results = {
        "options": {
            name: str(value) if isinstance(value, pathlib.Path) else value
            for name, value in vars(arguments).items()
        },
        "class_names": names,
        "pictures": {part: len(subset.names) for part, subset in parts.items()},
        "test": {name: None if np.isnan(score) else score for name, score in scores.items()},
        "confusion": confusion.tolist(),
        "seconds": time.perf_counter() - begun,
    }
    write_json(arguments.output / "results.json", results)
    print(f"\n{len(parts['test'].names)} test pictures: mean IoU {scores['iou']:.3f}")
    for name in names:
        columns = ("iou", "dice", "precision", "recall")
        print(f"{name:12}", "  ".join(f"{c} {scores[f'{c}_{name}']:.3f}" for c in columns))
    print(f"{results['seconds']:.0f} s. Model and figures: {arguments.output}")


if __name__ == "__main__":
    main()
