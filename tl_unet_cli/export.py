"""`tl-unet export`: the model for another runtime, checked against Keras."""

import contextlib
import sys
from pathlib import Path
from typing import Annotated

import typer

from tl_unet_cli.common import (
    FAILED,
    JSON,
    MODEL,
    err,
    failures,
    folder_option,
    open_model,
    out,
    parse_size,
    print_json,
)

EPILOG = """Examples:

[b]tl-unet export runs/first --format onnx --output unet.onnx[/b]

[b]tl-unet export runs/first --format litert-int8 --images photos --output unet.tflite[/b]"""

FORMATS = ("saved-model", "onnx", "openvino", "openvino-int8", "litert", "litert-int8")
_TOLERANCE = 1e-4  # of the float formats


def export(
    model: MODEL,
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File or folder to write. A folder that is there is replaced only if it is an earlier export or empty.",
            show_default=False,
        ),
    ],
    format: Annotated[
        str, typer.Option("--format", "-f", metavar="|".join(FORMATS), help="What to write.")
    ] = "saved-model",
    images: Annotated[
        Path | None,
        folder_option(
            "Typical pictures, for the check and for int8. Default: the training's validation pictures."
        ),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="At most so many of them.")] = 32,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Fix the sides of the pictures it takes. Default: any size that the model takes; for litert-int8, which needs fixed sides, those of the training, or 256.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Fix the number of pictures it takes at once; OpenVINO is faster with --size and 1. Default: any number.",
            show_default=False,
        ),
    ] = None,
    as_json: JSON = False,
) -> None:
    """Write the model for another runtime and compare the two on real pictures.

    The file takes raw pictures, float32 0..255, and gives probabilities. If a probability is NaN, or one of a float
    format differs from Keras' by more than 0.0001, the exit status is 1, though the file is written; differences of the int8 formats
    are reported. Without pictures nothing is checked.
    """
    from tl_unet.export import export_model
    from tl_unet.prediction_plan import working_size

    if format not in FORMATS:
        raise typer.BadParameter(
            f"--format must be one of {', '.join(FORMATS)}; received {format!r}."
        )
    fixed = size and parse_size(size)
    network, trained = open_model(model)
    if format == "litert-int8" and fixed is None:
        fixed = tuple(trained["size"]) if trained else None  # its sides must be known
    with failures(usage=FileExistsError):
        seen = working_size(network, fixed or trained.get("size")) or 256
        pictures = _pictures(network, model, images, seen, count)
        if format.endswith("int8") and pictures is None:
            raise typer.BadParameter(
                f"--format {format} needs --images: typical pictures to calibrate with."
            )
        with contextlib.redirect_stdout(sys.stderr):  # converters tell how far they are
            path = export_model(
                network, output, format, size=fixed, batch_size=batch_size, images=pictures
            )
        report = {"path": str(path), "format": format, "bytes": _bytes(path)}
        report |= _compare(network, path, pictures, batch_size or 1)
    if as_json:
        print_json(report)
    else:
        out.print(f"{path}: {report['bytes'] / 1e6:.1f} MB", soft_wrap=True)
        if pictures is None:
            out.print("Not checked against Keras: give --images.")
        else:
            differ = report["max_difference"]
            out.print(
                f"Against Keras on {report['images']} pictures: probabilities differ by {'NaN' if differ is None else f'{differ:.2g}'} at most, "
                f"{report['same_class']:.3%} of the pixels get the same class.",
                soft_wrap=True,
            )
    if pictures is not None and report["max_difference"] is None:
        err.print("The exported model gives NaN, or Keras' does.", style="red")
        raise typer.Exit(FAILED)
    if not format.endswith("int8") and (report["max_difference"] or 0) > _TOLERANCE:
        err.print(f"The probabilities differ by more than {_TOLERANCE}.", style="red")
        raise typer.Exit(FAILED)


def _pictures(network, model, images, size, count):
    """Real pictures as the model sees them, or `None` where there are none."""
    import numpy as np

    from tl_unet.pictures import Unreadable, find_pictures, read_resized, warn_once

    if images is not None:
        paths = find_pictures(images)
        if not paths:
            raise FileNotFoundError(f"There is no picture in {images}.")
    elif settings := _training(model):
        folder = Path(settings["options"]["val_images"] or settings["options"]["images"])
        names = set(settings["names"]["validation"])
        found = find_pictures(folder) if folder.is_dir() else []
        paths = [p for p in found if p.relative_to(folder).with_suffix("").as_posix() in names]
    else:
        paths = []
    if not paths:
        return None
    chosen = paths[:: max(1, len(paths) // count)][:count]
    warn = warn_once()
    pictures = []
    for path in chosen:
        try:
            pictures.append(read_resized(path, network, size, warn))
        except Unreadable as error:
            raise Unreadable(f"{path}: {error}") from error
    return np.stack(pictures).astype("float32")


def _training(model):
    """What is known of the training of a model in a folder; `None` of others, and where another script wrote `run.json`."""
    from tl_unet.runs import RunFolder

    try:
        return RunFolder(model).read_training()
    except (FileNotFoundError, ValueError):
        return None


def _compare(network, path, pictures, batch_size):
    import numpy as np

    from tl_unet.classes import decide
    from tl_unet.exported import load_exported

    if pictures is None:
        return {"images": 0, "max_difference": None, "same_class": None}
    run, differences, same = load_exported(path), [], 0
    for start in range(0, len(pictures), batch_size):
        batch = pictures[start : start + batch_size]
        expected = np.asarray(network.predict_on_batch(batch))
        found = run(batch)
        differences.append(float(np.abs(found - expected).max()))
        same += len(batch) * np.mean(decide(found) == decide(expected))
    largest = float(np.max(differences))  # Python's `max` passes over NaN
    return {
        "images": len(pictures),
        "max_difference": largest if np.isfinite(largest) else None,
        "same_class": float(same / len(pictures)),
    }


def _bytes(path):
    files = [path, path.with_suffix(".bin")] if path.suffix == ".xml" else [path]
    if path.is_dir():
        files = [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
