"""Training that can be stopped at any moment and goes on as if it had not been.

`history/MODEL.csv` is the record of what is done: Keras' `CSVLogger` adds a row when everything else about an epoch is on disk. So
the next epoch, the checkpoint to load and the best epoch all follow from the rows, and a checkpoint that was being written when the
power went has no row and does not count. (`BackupAndRestore` alone would repeat rows of the history and forget the best epoch.)
"""

import csv
import math
import sys
import time
from pathlib import Path

import keras
import numpy as np
from paper.files import replacing
from paper.recipes import MODELS, trained_decoder


def read_history(path: Path) -> dict[str, list[float]]:
    """The epochs that are done, as a mapping from a column to its values; empty if there are none.

    Args:
        path: a CSV file of `CSVLogger`.

    Returns:
        A dict of lists. A last row that was cut off while it was written is left out.
    """
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        lines = [line for line in file if line.endswith("\n")]  # else it was cut off
    if not lines:  # stopped before the first row reached the disk
        return {}
    header, *rows = csv.reader(lines)
    return {name: [float(row[i]) for row in rows] for i, name in enumerate(header)}


def best_epoch(history: dict[str, list[float]]) -> int | None:
    """The epoch, counted from 1, with the lowest validation loss (the first of equals); `None` if no loss is finite."""
    losses = np.array(history.get("val_loss", []))
    return int(np.nanargmin(losses)) + 1 if np.isfinite(losses).any() else None


def diverged(history: dict[str, list[float]]) -> bool:
    """Whether the loss stopped being a number."""
    return any(math.isnan(loss) for loss in history.get("loss", []))


class Clock(keras.callbacks.Callback):
    """Adds the seconds of each epoch to its log, and says how long the rest will take.

    Args:
        name: the model.
        later: the models that come after it.
        epochs: epochs of each model.
    """

    def __init__(self, name: str, later: list[str], epochs: int):
        super().__init__()
        self.name = name
        # The whole run in epochs of this model.
        self.later = epochs * sum(MODELS[other].cost for other in later) / MODELS[name].cost
        self.epochs = epochs
        self.seconds = []

    def on_epoch_begin(self, epoch, logs=None):
        """Say what is left, from the epochs that this process has seen."""
        self.begun = time.perf_counter()
        if self.seconds:
            # The first epoch also holds the tracing of the graph.
            one = float(np.mean(self.seconds[1:] or self.seconds))
            left = one * (self.epochs - epoch)
            print(
                f"{MODELS[self.name].title}: about {duration(left)} left for this model, "
                f"{duration(left + one * self.later)} for the whole run",
                flush=True,
            )

    def on_epoch_end(self, epoch, logs=None):
        """Measure the epoch, with its validation."""
        self.seconds.append(time.perf_counter() - self.begun)
        logs["seconds"] = self.seconds[-1]


class DropCheckpoints(keras.callbacks.Callback):
    """Deletes the checkpoints that are neither the latest nor the best."""

    def __init__(self, record: Path, checkpoints: Path):
        super().__init__()
        self.record, self.checkpoints = record, checkpoints

    def on_epoch_end(self, epoch, logs=None):
        """Keep two."""
        keep = {
            checkpoint(self.checkpoints, n)
            for n in (epoch + 1, best_epoch(read_history(self.record)))
        }
        for path in set(self.checkpoints.iterdir()) - keep:
            path.unlink()


def duration(seconds: float) -> str:
    """Seconds as minutes and seconds, or hours and minutes."""
    minutes, seconds = divmod(round(seconds), 60)
    return (
        f"{minutes // 60} h {minutes % 60:02d} min"
        if minutes >= 60
        else f"{minutes}:{seconds:02d} min"
    )


def checkpoint(folder: Path, epoch: int | str | None) -> Path:
    """The file of the weights and the optimizer's state after an epoch, counted from 1."""
    return folder / f"epoch-{epoch}.weights.h5"


class Checkpoint(keras.callbacks.ModelCheckpoint):
    """Saves a model other than the one that `fit` is called on: the whole one, while its decoder is trained."""

    def __init__(self, whole: keras.Model, path: Path):
        super().__init__(path, save_weights_only=True)
        self.whole = whole

    def set_model(self, model):
        """Keep the whole model in place of the one that is trained."""
        super().set_model(self.whole)


def fit(
    model: keras.Model, parts, name: str, options, output: Path, later: list[str], features=None
) -> dict[str, list[float]]:
    """Train a model to the last epoch, from where an earlier call stopped, and leave it with its best weights.

    Args:
        model: as `compiled_model` returns.
        parts: the pictures.
        name: the model's name.
        options: the run's `Options`.
        output: directory of the run.
        later: names of the models that come after it, for the estimate of the time.
        features: a `tl_unet.FeatureCache` of this model that holds the features of both parts, or `None`. Its decoder is trained
            then, which is the model's own, on the same batches.

    Returns:
        The history, as `read_history` does.
    """
    record, checkpoints = output / "history" / f"{name}.csv", output / "models" / name
    record.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.mkdir(parents=True, exist_ok=True)
    history = read_history(record)
    done = len(history.get("epoch", []))
    if not done:
        record.unlink(missing_ok=True)  # a first row that was cut off
    else:
        rewrite(record, history)
        model.load_weights(checkpoint(checkpoints, done))
    if done < options.epochs and not diverged(history):
        train, validation = parts["train"].dataset, parts["validation"].dataset
        steps = len(train)
        # One endless sequence, so that an epoch's order and augmentation follow from its number alone.
        train = train.repeat().skip(done * steps)
        trained = model
        if features is not None:
            trained = trained_decoder(features, model, options)
            train, validation = features.apply(train), features.apply(validation)
        trained.fit(
            train,
            steps_per_epoch=steps,
            shuffle=False,  # the data set shuffles itself
            validation_data=validation,
            initial_epoch=done,
            epochs=options.epochs,
            verbose=1 if sys.stdout.isatty() else 2,  # a bar would fill a log
            callbacks=[
                Clock(name, later, options.epochs),
                keras.callbacks.TerminateOnNaN(),
                Checkpoint(model, checkpoint(checkpoints, "{epoch}")),
                keras.callbacks.CSVLogger(record, append=True),
                DropCheckpoints(record, checkpoints),
            ],
        )
        history = read_history(record)
    best = best_epoch(history)
    if best is not None:
        model.load_weights(checkpoint(checkpoints, best))
    return history


def rewrite(record: Path, history: dict[str, list[float]]) -> None:
    """Take a row that was cut off out of the file, so that the next one begins on a line of its own.

    Args:
        record: a CSV file of `CSVLogger`.
        history: what `read_history` found in it.
    """
    with replacing(record) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(history)
        for epoch, *row in zip(*history.values(), strict=True):
            writer.writerow([int(epoch), *row])
