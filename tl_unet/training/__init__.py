"""Transfer learning on a folder of images and a folder of masks: one call from the files to a trained model.

`train` is what the command `tl-unet train` runs. It trains the decoder on a frozen encoder and then everything, keeps the epoch with
the best validation IoU, and writes all that it does into one folder, so that a training that was stopped at any moment goes on
(`resume`) as if it had not been. For a training of your own making use `compile` and `fit`.
"""

import datetime
import shutil
from collections.abc import Callable

import keras

from tl_unet.runs import RunFolder, write_json
from tl_unet.training.epochs import Training, TrainingDiverged, best_epoch
from tl_unet.training.images import split
from tl_unet.training.options import TrainingOptions, parse_labels
from tl_unet.training.records import versions

__all__ = ["TrainingDiverged", "TrainingOptions", "parse_labels", "resume", "train"]

# What a training has made before its first epoch is done, `run.json` first of all: nothing that is missed.
_BEFORE_THE_FIRST_EPOCH = {"cache", "run.json", "logs", "checkpoints", "predictions"}


def train(options: TrainingOptions, output, *, report: Callable | None = None) -> dict:
    """Trains a U-Net and writes the training's folder.

    The folder then holds `model.keras` (the best epoch's, without the optimizer), `history.csv` (a row an epoch), `curves.png`,
    `predictions/` (a picture an epoch), `run.json` (everything needed to repeat it), `logs/` for TensorBoard where that is
    installed, and the checkpoints of the latest and the best epoch. While it trains, `cache/` holds the resized images.

    The seed, the decoded images and the number of the epoch decide what an epoch sees.

    Args:
        options: `TrainingOptions`.
        output: str or path, the folder; it must not exist, or be empty but for a training that was stopped in its first epoch,
            which is begun anew.
        report: callable `report(event, **values)`, told what happens: `"data"` (`train`, `validation`: numbers of images),
            `"stage"` (`stage`, `epochs`, `parameters`), `"batch"` (`epoch`, `step`, `steps`, `loss`), `"epoch"` (the row of
            `history.csv`, `epochs`, `best`, `seconds_left`). Defaults to `None`.

    Returns:
        A dict: `model` (its path), `epochs`, `best_epoch`, `val_iou` and `val_dice` of the best epoch, `seconds`.

    Raises:
        FileExistsError: if the folder is not empty, or another process trains in it.
        FileNotFoundError: if a folder or the weights are missing.
        ValueError: if images and masks are not as they should be; all that is wrong is listed.
        TrainingDiverged: if the loss becomes NaN or infinite.
        OSError: if a file can't be written; what was done before is intact, and `resume` goes on.
    """
    run = RunFolder(output)
    _check_empty(run)
    names = split(options)
    run.path.mkdir(parents=True, exist_ok=True)
    settings = {
        "options": options.to_json(),
        "versions": versions(),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "names": names,
    }
    with run.locked():
        _check_empty(run)  # again: another process may have come first
        for folder in (run.cache, run.logs, run.checkpoints, run.predictions):
            shutil.rmtree(folder, ignore_errors=True)
        write_json(run.settings, settings)
        return _train(run, options, names, report)


def resume(output, *, report: Callable | None = None) -> dict:
    """Goes on with a training that was stopped, whenever and however that was.

    Args:
        output: str or path, its folder.
        report: as in `train`.

    Returns:
        As `train`. A training that is complete is not trained further.

    Raises:
        FileNotFoundError: if the folder holds no training, or its images are gone.
        FileExistsError: if another process trains in it.
        ValueError, TrainingDiverged, OSError: as `train`.
    """
    run = RunFolder(output)
    settings = run.read_training()
    with run.locked():
        # What was being written when the process was killed.
        written = (run.path, run.checkpoints, run.predictions)
        parts = [
            part for folder in written for part in folder.glob("tmp-[0-9]*-*") if part.is_file()
        ]
        for part in [*parts, *run.cache.glob("*.part")]:
            part.unlink()
        options = TrainingOptions.from_json(settings["options"])
        return _train(run, options, settings["names"], report)


def _train(run, options, names, report):
    report = report or (lambda event, **values: None)
    rows = run.read_history()
    if len(rows) < options.epochs or not run.model.is_file():
        policy = keras.config.dtype_policy()
        keras.utils.set_random_seed(options.seed)
        if options.mixed_precision:
            keras.config.set_dtype_policy(f"mixed_{options.mixed_precision}")
        try:
            rows = Training(run, options, names, report).run_epochs(rows)
        finally:
            keras.config.set_dtype_policy(policy)
    shutil.rmtree(run.cache, ignore_errors=True)
    best = rows[best_epoch(rows) - 1]
    return {
        "model": str(run.model),
        "epochs": len(rows),
        "best_epoch": int(best["epoch"]),
        "val_iou": best["val_iou"],
        "val_dice": best["val_dice"],
        "seconds": sum(row["seconds"] for row in rows),
    }


def _is_of_a_training(run):
    try:
        run.read_training()
    except (ValueError, OSError):
        return False
    return True


def _check_empty(run):
    """Raises `FileExistsError` if the folder holds more than the beginnings of a training."""
    if not run.path.exists():
        return
    if not run.path.is_dir():
        raise FileExistsError(f"{run.path} is a file: choose a folder.")
    found = {path.name for path in run.path.iterdir() if not path.name.startswith("tmp-")}
    if found and run.settings.name not in found:
        raise FileExistsError(
            f"{run.path} is not empty and holds no training ({min(found)}): choose another folder."
        )
    if found and not _is_of_a_training(run):
        raise FileExistsError(
            f"{run.settings} was not written by a training of tl-unet: choose another folder."
        )
    if found - _BEFORE_THE_FIRST_EPOCH:
        raise FileExistsError(
            f"{run.path} is not empty: go on with the training in it (--resume, or tl_unet.training.resume), or choose another folder."
        )
