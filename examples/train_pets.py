"""Segments pets with transfer learning in stages, the way one would train a model of one's own.

A U-Net on MobileNetV2 is trained on the paper's training images of Oxford-IIIT Pet in stages: the decoder on a frozen encoder,
then everything, on pictures that grow from stage to stage. The epoch with the best validation IoU is kept (with `--recipe averaged`
the mean of three stages' weights or one of them; the validation images choose). The statistics of batch normalisation are computed
anew over the training pictures as they are, and the model is evaluated once on the test images: as it is, averaged over the mirrored
picture, and over both in three sizes.

    python examples/train_pets.py --data tfds --output runs/pets
    python examples/train_pets.py --data oxford_pets/ --weights mobilenetv2_imagenet_notop.weights.h5
    python examples/train_pets.py --recipe averaged                     # the mean of three ends of a training
    python examples/train_pets.py --recipe vgg16                        # a larger model
    python examples/train_pets.py --fast                                # ten minutes: fewer epochs on smaller pictures
    python examples/train_pets.py --evaluate my/images my/masks         # scores of the trained model on a folder
"""

import argparse
import dataclasses
import json
import pathlib
import shlex
import sys
import time

import keras
import numpy as np
from paper.environment import environment
from paper.errors import as_usage_errors
from paper.files import replacing, write_json
from paper.recipes import create_training_variables
from paper.training import best_epoch, checkpoint, read_history, rewrite
from pets_model import build_model, compile_model, metrics
from pets_recipes import RECIPES

import tl_unet
import tl_unet.data

# Test-time augmentation, by its name in the results.
VIEWS = {
    "plain": False,
    "mirrored": "horizontal_flip",
    "mirrored and scaled": ("horizontal_flip", "scale"),
}
# What a run is made with, and what `--resume` does not change.
OPTIONS = ("data", "weights", "recipe", "dtype_policy", "limit", "seed")


def load_data(arguments, stage, augmented=True):
    """The paper's split; what the trainer sees is flipped, turned, scaled and recoloured anew in each epoch."""
    augment = None
    if augmented:
        augment = tl_unet.data.augmentation(
            rotation=15,
            scale=0.3,
            translation=0.1,
            brightness=0.1,
            contrast=0.2,
            saturation=0.3,
            seed=arguments.seed + stage.seed,
        )
    return tl_unet.data.oxford_pets(
        arguments.data,
        size=stage.size,
        batch_size=stage.batch_size,
        augment=augment,
        limit=arguments.limit,
        seed=arguments.seed + stage.seed,
    )


class Seconds(keras.callbacks.Callback):
    """Adds the seconds of each epoch, with its validation, to the log."""

    def on_epoch_begin(self, epoch, logs=None):
        """Start the clock."""
        self.begun = time.perf_counter()

    def on_epoch_end(self, epoch, logs=None):
        """Stop it."""
        logs["seconds"] = time.perf_counter() - self.begun


def fit_stage(model, stage, arguments, parser):
    """Trains one stage from where an earlier call stopped, and leaves the model with the stage's best weights."""
    folder = arguments.output / stage.name
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / "history.csv"
    with as_usage_errors(parser):
        data = load_data(arguments, stage)
    plain = load_data(arguments, stage, augmented=False)["train"].dataset
    tl_unet.freeze_encoder(model) if stage.frozen else tl_unet.unfreeze_encoder(model)
    steps = len(data["train"].dataset)
    compile_model(model, stage, steps)
    mask = np.zeros((1, stage.size, stage.size, 1), "float32")
    create_training_variables(model, mask, mask)
    history = read_history(record)
    done = len(history.get("epoch", []))
    if not done:
        record.unlink(missing_ok=True)  # a first row that was cut off
    else:
        rewrite(record, history)
        model.load_weights(checkpoint(folder, done))
    for _ in range(done):  # each pass has an order of its own
        next(iter(plain))
    if done < stage.epochs:
        # One endless sequence, so that an epoch's order and augmentation follow from its number alone.
        train = data["train"].dataset.repeat().skip(done * steps)
        model.fit(
            train,
            steps_per_epoch=steps,
            validation_data=data["validation"].dataset,
            initial_epoch=done,
            epochs=stage.epochs,
            shuffle=False,  # the data set shuffles itself
            verbose=arguments.verbose,
            callbacks=[
                keras.callbacks.TerminateOnNaN(),
                Seconds(),
                # Judged with the statistics of augmented pictures, this model lost two points of IoU.
                tl_unet.UpdateBatchNorm(plain, batches=640 // stage.batch_size),
                keras.callbacks.ModelCheckpoint(
                    checkpoint(folder, "{epoch}"), save_weights_only=True
                ),
                keras.callbacks.CSVLogger(record, append=True),
            ],
        )
    history = read_history(record)
    if not np.isfinite(history["loss"][-1]):
        raise SystemExit(
            f"Stage {stage.name}: the loss is no longer a number in epoch {len(history['loss'])}. Begin anew in another --output."
        )
    best = best_epoch({"val_loss": [-iou for iou in history["val_iou"]]})
    model.load_weights(checkpoint(folder, best))
    print(
        f"Stage {stage.name}: best validation IoU {history['val_iou'][best - 1]:.4f} in epoch {best}"
    )
    return history


def choose(model, candidates, data):
    """Gives the model those weights whose validation IoU is the best, each judged with the statistics of all training pictures.

    Args:
        model: what is given the weights, compiled with `metrics()`.
        candidates: lists of weights, as of `model.get_weights()`, by name.
        data: the parts of the data set, without augmentation.

    Returns:
        The validation IoU of each.
    """
    found, scores = {}, {}
    for name, weights in candidates.items():
        model.set_weights(weights)
        tl_unet.update_batch_norm(model, data["train"].dataset)
        found[name] = model.get_weights()
        scores[name] = model.evaluate(data["validation"].dataset, verbose=0, return_dict=True)[
            "iou"
        ]
        print(f"Weights, {name}: validation IoU {scores[name]:.4f}", flush=True)
    model.set_weights(found[max(scores, key=scores.get)])
    return scores


def evaluate(model, dataset, part):
    """Scores of a model as it is, and averaged over views of each picture."""
    scores = {}
    for name, augment in VIEWS.items():
        judges = metrics()
        for images, masks in dataset:
            masks_found = tl_unet.predict_augmented(model, images, augment, len(images))
            for judge in judges:
                judge.update_state(masks, masks_found)
        scores[name] = {judge.name: float(judge.result()) for judge in judges}
        found = " ".join(f"{key} {value:.4f}" for key, value in scores[name].items())
        print(f"{part}, {name}: {found}", flush=True)
    return scores


def last_size(output, parser):
    """The side of the pictures that the model in a folder was trained on in the end."""
    path = output / "results.json"
    if not path.exists():
        parser.error(
            f"there is no {path}, which tells the size of the model's pictures: give --size"
        )
    return json.loads(path.read_text(encoding="utf-8"))["stages"][-1]["size"]


def label_map(text):
    """`1:1,2:0,3:1` as `{1: 1, 2: 0, 3: 1}`."""
    return {
        int(value): int(label) for value, label in (pair.split(":") for pair in text.split(","))
    }


def parse_arguments():
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data",
        default="tfds",
        help="tfds (default), or the directory of the unpacked official archives",
    )
    add(
        "--weights",
        default="imagenet",
        help="imagenet (default: Keras downloads), or a file of the recipe's encoder without its top",
    )
    add("--output", type=pathlib.Path, default=pathlib.Path("runs/pets"), help="default: runs/pets")
    add(
        "--recipe",
        choices=RECIPES,
        default="mobilenetv2",
        help="mobilenetv2 (default); averaged: the mean of three ends of its training; vgg16, a larger model, in bfloat16; "
        "fast: MobileNetV2, on smaller pictures",
    )
    add(
        "--fast",
        dest="recipe",
        action="store_const",
        const="fast",
        help="the same as --recipe fast: about ten minutes on two processor cores",
    )
    add(
        "--dtype-policy",
        choices=("float32", "mixed_bfloat16", "mixed_float16"),
        help="of Keras; default: the recipe's; float32 is the safe choice on a processor",
    )
    add(
        "--limit",
        type=int,
        help="at most so many training pictures, and a third as many of the others",
    )
    add("--seed", type=int, default=0)
    add("--resume", action="store_true", help="go on with the interrupted run in --output")
    add("--verbose", type=int, default=1, help="1 (default): a bar; 2: a line an epoch")
    add(
        "--evaluate",
        nargs=2,
        metavar=("IMAGES", "MASKS"),
        help="score the model in --output on two folders",
    )
    add(
        "--size",
        type=int,
        help="side of the pictures that --evaluate judges (default: that of the model's last stage)",
    )
    add(
        "--labels",
        type=label_map,
        metavar="VALUE:CLASS,...",
        help="what the values in MASKS mean; for trimaps 1:1,2:0,3:1, or without their border 1:1,2:0,3:255",
    )
    arguments = parser.parse_args()
    if arguments.evaluate is None:
        for name in ("size", "labels"):
            if getattr(arguments, name) is not None:
                parser.error(
                    f"--{name} is for --evaluate; what a training does is said by its --recipe"
                )
    for name, least in {"limit": 3, "size": 1, "seed": 0}.items():
        value = getattr(arguments, name)
        if value is not None and value < least:
            parser.error(f"--{name} must be at least {least}; received {value}")
    return parser, arguments


def begun(folder):
    """Whether there is more in a folder than the options of a run that stopped at once, such as one that found no data."""
    return any(path.is_file() and path.name != "options.json" for path in folder.rglob("*"))


def check_options(parser, arguments):
    """Keeps the options with the run, and refuses others: stages of different recipes would make no run of either."""
    options = {name: getattr(arguments, name) for name in OPTIONS}
    options["stages"] = [dataclasses.asdict(stage) for stage in RECIPES[arguments.recipe].stages]
    path = arguments.output / "options.json"
    if path.exists() and begun(arguments.output):
        stored = json.loads(path.read_text(encoding="utf-8"))
        changed = [name for name in OPTIONS if options[name] != stored.get(name)]
        if changed:
            differences = ", ".join(
                f"--{name.replace('_', '-')} ({stored.get(name)}, not {options[name]})"
                for name in changed
            )
            parser.error(
                f"{arguments.output} holds a run with other options: {differences}. Go on with those, or give another --output"
            )
        if options["stages"] != stored.get("stages"):
            parser.error(
                f"{arguments.output} holds a run by another version of the recipe: give another --output"
            )
    write_json(path, options)


def main():
    """Trains and evaluates, or only evaluates."""
    parser, arguments = parse_arguments()
    path = arguments.output / "model.keras"
    if arguments.evaluate:
        if not path.exists():
            parser.error(
                f"there is no model {path}: train one first, or give its directory as --output"
            )
        size = arguments.size or last_size(arguments.output, parser)
        with as_usage_errors(parser):
            folder = tl_unet.data.image_mask_dataset(
                *arguments.evaluate, size=size, labels=arguments.labels
            )
        evaluate(keras.saving.load_model(path, compile=False), folder.dataset, "Folder")
        return
    if begun(arguments.output) and not arguments.resume:
        parser.error(
            f"{arguments.output} holds a run: go on with --resume, or give another --output"
        )
    check_options(parser, arguments)
    keras.utils.set_random_seed(arguments.seed)
    recipe = RECIPES[arguments.recipe]
    stages = recipe.stages
    policy = arguments.dtype_policy or recipe.dtype_policy
    keras.config.set_dtype_policy(policy)
    with as_usage_errors(parser):
        model = build_model(recipe, arguments.weights)
    histories, best = {}, {}
    for stage in stages:
        histories[stage.name] = fit_stage(model, stage, arguments, parser)
        best[stage.name] = model.get_weights()
    candidates = {name: best[name] for name in recipe.averaged or (stages[-1].name,)}
    if recipe.averaged:
        kept = zip(*candidates.values(), strict=True)
        candidates["mean"] = [np.mean(values, axis=0) for values in kept]
    data = load_data(arguments, stages[-1], augmented=False)
    weights = choose(model, candidates, data)
    with replacing(path) as beside:
        model.save(beside)
    results = {
        "command": shlex.join(["python", *sys.argv]),
        "environment": environment(),
        "recipe": arguments.recipe,
        "encoder": recipe.encoder,
        "dtype_policy": policy,
        "stages": [dataclasses.asdict(stage) for stage in stages],
        "seed": arguments.seed,
        "limit": arguments.limit,
        "pictures": {part: len(subset.names) for part, subset in data.items()},
        "seconds": sum(sum(history["seconds"]) for history in histories.values()),
        "validation_iou": {name: history["val_iou"] for name, history in histories.items()},
        "weights": weights,
        # The way to average is chosen by the validation pictures, as the epoch is.
        "validation": evaluate(model, data["validation"].dataset, "Validation"),
        "test": evaluate(model, data["test"].dataset, "Test"),
    }
    write_json(arguments.output / "results.json", results)


if __name__ == "__main__":
    main()
