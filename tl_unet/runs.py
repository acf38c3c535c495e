"""The folder of a training: which files it holds, writing them whole or not at all, and opening its model.

`tl_unet.training.train` writes such a folder, and whatever takes a trained model takes the folder or a `.keras` file.
"""

import contextlib
import csv
import json
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

import filelock
import keras


class RunFolder:
    """Paths in the folder of a training.

    Args:
        path: str or path.

    Attributes:
        settings: `run.json`, everything needed to repeat the training.
        history: `history.csv`, a row for each epoch that is done.
        model: `model.keras`, the best epoch's model.

    Example:

    >>> from tl_unet.runs import RunFolder
    >>> RunFolder("runs/pets").checkpoint(3).as_posix()
    'runs/pets/checkpoints/epoch-3.weights.h5'
    """

    def __init__(self, path: str | os.PathLike):
        self.path = Path(path)
        self.settings = self.path / "run.json"
        self.history = self.path / "history.csv"
        self.model = self.path / "model.keras"
        self.curves = self.path / "curves.png"
        self.checkpoints = self.path / "checkpoints"
        self.predictions = self.path / "predictions"
        self.logs = self.path / "logs"
        self.cache = self.path / "cache"

    def checkpoint(self, epoch: int) -> Path:
        """The weights and the optimizer's state after an epoch, counted from 1."""
        return self.checkpoints / f"epoch-{epoch}.weights.h5"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """The folder, which exists, for this process alone; it is free again when the process ends, however it does.

        Where the file system has no locks, it is for whoever comes.

        Raises:
            FileExistsError: if another process has it.
        """
        path = self.path / "tmp-lock"
        # A file in place of a lock would stay when the process is killed, and keep other machines out.
        lock = filelock.FileLock(path, fallback_to_soft=False)
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            raise FileExistsError(
                f"{self.path} is in use: another process trains in it. Wait until it ends, or choose another folder."
            ) from None
        except OSError:
            yield
            return
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
            lock.release()

    def read_settings(self) -> dict:
        """What `run.json` holds.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is no JSON.
        """
        if not self.settings.is_file():
            raise FileNotFoundError(f"{self.path} holds no run: there is no {self.settings.name}.")
        try:
            return json.loads(self.settings.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{self.settings} is damaged: {error}.") from error

    def read_training(self) -> dict:
        """What `run.json` of a training by `tl_unet.training` holds.

        Raises:
            FileNotFoundError: if there is none.
            ValueError: if it is of something else: others use that name, too.
        """
        settings = self.read_settings()
        if not (isinstance(settings, dict) and settings.keys() >= {"options", "versions", "names"}):
            raise ValueError(f"{self.settings} was not written by a training of tl-unet.")
        return settings

    def read_history(self) -> list[dict[str, float]]:
        """The epochs that are done, a dict each; none if there is no file. A row that was cut off does not count."""
        if not self.history.is_file():
            return []
        with self.history.open(newline="", encoding="utf-8") as file:
            lines = [line for line in file if line.endswith("\n")]  # else it was cut off
        header, *rows = list(csv.reader(lines)) or [[]]
        return [dict(zip(header, map(float, row), strict=True)) for row in rows]

    def write_history(self, rows: list[dict[str, float]]) -> None:
        """Replaces `history.csv`."""
        with (
            replacing(self.history, durable=True) as beside,
            beside.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.writer(file)
            writer.writerow(rows[0])
            for row in rows:
                whole = {name: int(row[name]) for name in ("epoch", "stage") if name in row}
                writer.writerow((row | whole).values())


@contextlib.contextmanager
def replacing(path: Path, durable: bool = False) -> Iterator[Path]:
    """Gives a path beside `path`, with the same endings, and renames it when the block succeeds.

    So a file is there whole or not at all, whenever the process ends or the disk fills; the folder is made if it is missing.

    Args:
        path: the file to write.
        durable: whether to wait until it is on the disk: else a power cut can leave the new name with nothing in it. Defaults to
            `False`.

    Yields:
        The path to write to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"tmp-{os.getpid()}-{path.name}")
    try:
        yield beside
        if durable:
            with beside.open("rb+") as file:
                os.fsync(file.fileno())
        beside.replace(path)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def to_json(value, **options) -> str:
    """JSON that UTF-8 can hold: names of files that are not UTF-8 have surrogates, which become `\\udcXX` and are read as they were."""
    options |= {"allow_nan": False}
    text = json.dumps(value, ensure_ascii=False, **options)
    return text if _is_text(text) else json.dumps(value, **options)


def _is_text(text):
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def write_json(path: Path, value) -> None:
    """Writes a JSON file in one step; NaN and infinity are refused, since they are not JSON."""
    text = to_json(value, indent=2) + "\n"
    with replacing(path, durable=True) as beside:
        beside.write_text(text, encoding="utf-8")


def open_model(path: str | os.PathLike) -> tuple[keras.Model, dict]:
    """Loads a model from the folder of a training, or from a `.keras` file.

    Keras' safe mode is on: a file that asks to run code of its own (a `Lambda` layer) is refused.

    Args:
        path: the folder, or the file.

    Returns:
        The model, not compiled, and the options of its training (`{}` for a file).

    Raises:
        FileNotFoundError: if there is no such file, or the training has not come to its model yet.
        ValueError: if the file holds no model from images to masks, or one that asks to run code.

    Example:

    >>> import tl_unet
    >>> from tl_unet.runs import open_model
    >>> tl_unet.build_unet("mobilenetv2", weights=None, freeze=False).save("unet.keras")
    >>> model, options = open_model("unet.keras")
    >>> model.name, options
    ('unet_mobilenetv2', {})
    """
    path, options = Path(path), {}
    if path.is_dir():
        run = RunFolder(path)
        if not run.settings.is_file() and not run.model.is_file():
            raise FileNotFoundError(
                f"{path} is no folder of a training (it holds no run.json) and no .keras file."
            )
        if run.settings.is_file():
            settings = run.read_settings()
            options = settings.get("options", {}) if isinstance(settings, dict) else {}
        if not run.model.is_file():
            done, wanted = len(run.read_history()), options.get("epochs")
            raise FileNotFoundError(
                f"{path} has no model.keras yet: {done} of {wanted} epochs are done. Finish it with "
                f"`tl-unet train --resume --output {path}`."
            )
        path = run.model
    return _load(path), options


def _load(path: Path) -> keras.Model:
    if not path.is_file():
        raise FileNotFoundError(f"There is no model {path}.")
    # Keras' older formats (.h5, SavedModel) are not read: their safe mode is none.
    if path.suffix != ".keras" or not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is no model in Keras' format (a .keras file, as `model.save` and `tl-unet train` write it)."
        )
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged archive raises whatever its parts raise
        if "safe_mode" in str(error) or "unsafe" in str(error).lower() or "lambda" in str(error):
            raise ValueError(
                f"{path} is refused: it asks to run code of its own (such as a Lambda layer), which could do anything on this "
                "machine. If you made it yourself, save it anew with a registered layer in place of the Lambda."
            ) from error
        raise ValueError(
            f"{path} can't be loaded as a Keras model: {_first_line(error)}"
        ) from error
    shapes = [getattr(model, name, None) for name in ("input_shape", "output_shape")]
    if not all(isinstance(shape, tuple) and len(shape) == 4 for shape in shapes):
        raise ValueError(
            f"{path} is no model from images (batch, height, width, channels) to masks: it takes {shapes[0]} and gives {shapes[1]}."
        )
    return model


def _first_line(error) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
