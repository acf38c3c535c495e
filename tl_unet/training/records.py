"""What a training notes down beside its history: versions, and curves for TensorBoard."""

import contextlib
import importlib.metadata
import platform
import shutil
from pathlib import Path

import keras


def versions() -> dict[str, str]:
    """What the training ran with."""
    import tl_unet

    found = {"tl_unet": tl_unet.__version__, "python": platform.python_version()}
    for package in ("keras", "tensorflow", "numpy", "pillow"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return {**found, "backend": keras.backend.backend(), "platform": platform.platform()}


def tensorboard_writers(folder: Path, rows):
    """Writers for the two curves, with what was done before written anew; none where TensorBoard is not installed."""
    try:
        from tensorboard.summary import Writer
    except ImportError:
        return {}
    shutil.rmtree(folder, ignore_errors=True)
    writers = {kind: Writer(str(folder / kind)) for kind in ("train", "validation")}
    for kind, writer in writers.items():
        for row in rows:
            log_row(writer, row, kind)
    return writers


def log_row(writer, row, kind):
    """Adds a row of the history to one of the two curves."""
    for name, value in row.items():
        of_validation = name.startswith("val_")
        if name not in ("epoch", "stage", "seconds") and of_validation == (kind == "validation"):
            writer.add_scalar(name.removeprefix("val_"), value, int(row["epoch"]))
    writer.flush()
