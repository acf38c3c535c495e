"""What the commands share: errors and exit status, progress, what a machine reads."""

import contextlib
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

FAILED, WRONG_USAGE, INTERRUPTED = 1, 2, 130

# No markup: names of files may hold brackets.
out = Console(highlight=False, markup=False)
err = Console(stderr=True, highlight=False, markup=False)


@contextlib.contextmanager
def failures(*, usage: type[Exception] | tuple = ()) -> Iterator[None]:
    """Turns the errors that a user can cause into a message and an exit status: no traceback.

    Args:
        usage: those that mean wrong usage, status 2; the others mean that something failed, status 1.
    """
    try:
        yield
    except typer.Exit:  # a RuntimeError
        raise
    except usage as error:
        stop(error, WRONG_USAGE)
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as error:
        stop(error, FAILED)
    except Exception as error:
        if not _is_of_memory(error):
            raise
        stop(
            "The memory is too small for so many pixels at once: give a smaller --batch-size, or where pictures are predicted a "
            f"smaller --tile. ({str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__})",
            FAILED,
        )


def _is_of_memory(error):
    """Whether it says that memory is short. TensorFlow's error is no RuntimeError, and importing it here would take seconds."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def stop(message, status: int):
    """Says what is wrong and ends with a status."""
    err.print("Error: ", style="bold red", end="")
    err.print(str(message), soft_wrap=True)
    raise typer.Exit(status)


def check_writable(folder: Path) -> None:
    """Makes a folder for a report; raises `OSError` where that or a file in it cannot be made: now, and not after the work."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def print_json(value) -> None:
    """Writes one JSON value to the standard output, without line breaks or colours of a terminal."""
    from tl_unet.runs import to_json

    typer.echo(to_json(value))


def progress(unit: str) -> Progress:
    """A bar on the standard error, which a machine that reads the output does not see."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn(f"{{task.completed}}/{{task.total}} {unit}"),
        TimeRemainingColumn(),
        console=err,
        transient=True,
        disable=not err.is_terminal,  # in a log it would only leave empty lines
    )


def duration(seconds: float) -> str:
    """Seconds as `12 s`, `3:05 min` or `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{seconds:02d} min"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def parse_size(text: str) -> tuple[int, int]:
    """`256`, or `256x384` (height x width)."""
    found = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    sides = [int(side or found[1]) for side in found.groups()] if found else [0]
    if min(sides) < 1:
        raise typer.BadParameter(f"{text!r} is no size such as 256 or 256x384 (height x width).")
    return tuple(sides)


def parse_labels(text: str) -> dict:
    """`VALUE:CLASS,...`."""
    from tl_unet.training import parse_labels

    try:
        return parse_labels(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


def parse_names(text: str | None) -> tuple[str, ...] | None:
    """`NAME,...`."""
    return None if text is None else tuple(name.strip() for name in text.split(","))


def folder_option(help: str, **more):
    """An option that names an existing folder."""
    return typer.Option(
        metavar="DIR", help=help, exists=True, file_okay=False, show_default=False, **more
    )


def labels_option(**more):
    """The option `--labels`."""
    return typer.Option(
        metavar="VALUE:CLASS,...",
        help="What the values in the masks mean, such as [b]1:1,2:0,3:1[/b]; [b]#rrggbb[/b] for a colour, [b]*[/b] for every "
        "other value, [b]ignore[/b] as class.",
        show_default=False,
        **more,
    )


MODEL = Annotated[
    Path,
    typer.Argument(
        metavar="RUN_OR_MODEL", help="Folder of a training, or a .keras file.", show_default=False
    ),
]
SIZE = Annotated[
    str | None,
    typer.Option(
        metavar="N|HxW",
        help="Resize pictures to this; a training's folder knows its own.",
        show_default=False,
    ),
]
LABELS = Annotated[str | None, labels_option()]
TTA = Annotated[bool, typer.Option("--tta", help="Average over each picture and its mirror image.")]
THRESHOLD = Annotated[
    float, typer.Option(min=0, max=1, help="Probability above which one class is foreground.")
]
JSON = Annotated[bool, typer.Option("--json", help="Write the result as JSON, for machines.")]


def open_model(path: Path):
    """The model and its training's options; wrong usage if it isn't there, a failure if it is none."""
    from tl_unet import runs

    with failures(usage=FileNotFoundError):
        return runs.open_model(path)
