"""`tl-unet predict`: masks of pictures, in files."""

from pathlib import Path
from typing import Annotated

import typer

from tl_unet_cli.common import (
    FAILED,
    JSON,
    MODEL,
    SIZE,
    THRESHOLD,
    TTA,
    err,
    failures,
    open_model,
    out,
    parse_size,
    print_json,
    progress,
)

EPILOG = """Examples:

[b]tl-unet predict runs/first photo.jpg holiday/ --output masks --overlay[/b]

[b]tl-unet predict runs/first scene.tif --tile 512 --overlap 64 --output masks[/b]"""


def predict(
    model: MODEL,
    pictures: Annotated[
        list[Path],
        typer.Argument(
            metavar="PICTURES...",
            help="Files, and folders with all that is in them.",
            exists=True,
            show_default=False,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="Folder for the masks.", show_default=False
        ),
    ],
    overlay: Annotated[
        bool, typer.Option("--overlay", help="Write NAME_overlay.png too: the mask on its picture.")
    ] = False,
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities", help="Write NAME_probabilities.tif too: float32, one page a class."
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite", help="Replace files that are there already; without, they are an error."
        ),
    ] = False,
    size: SIZE = None,
    tile: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Predict in tiles of N pixels at full resolution. A plain 8-bit TIFF is read by windows; many probabilities lie in a "
            "temporary file (TMPDIR). The default for a .keras file whose model "
            "takes any size: 512. A model of one size takes tiles of that size only.",
            show_default=False,
        ),
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Pixels by which tiles overlap, at most half a tile; not where pictures are resized. Default: 64, or a quarter of small tiles.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Tiles at once; not where pictures are resized. Default: 4.",
            show_default=False,
        ),
    ] = None,
    threshold: THRESHOLD = 0.5,
    tta: TTA = False,
    as_json: JSON = False,
) -> None:
    """Predict masks of pictures.

    Each picture gets a PNG mask of its own size in the output folder (0 and 255, or class numbers in colours); a TIFF gets a TIFF
    with the same place on the map. The model of a training's folder sees pictures resized as in the training, unless --tile is
    given. Pictures that can't be read, or whose masks can't be written, are skipped and listed at the end; the exit status is then 1. Files that are there already are
    replaced only with --overwrite.
    """
    from tl_unet import prediction_files

    if size and tile:
        raise typer.BadParameter("--size and --tile exclude each other.")
    size = size and parse_size(size)
    network, trained = open_model(model)
    if size is None and tile is None:
        size = trained.get("size")
    files = {"overlay": overlay, "probabilities": probabilities, "overwrite": overwrite}
    with failures(usage=(ValueError, FileExistsError)):
        prediction_files.plan_targets(pictures, output, **files)
        prediction_files.plan_reading(network, size, tile, overlap, batch_size)
    with failures(), progress("pictures") as bar:
        task = bar.add_task("predicting", total=None)

        def show(file, done, total):
            bar.update(task, completed=done, total=total, description=file.source.name)

        found = prediction_files.predict_files(
            network,
            pictures,
            output,
            size=size,
            tile=tile,
            overlap=overlap,
            batch_size=batch_size,
            augment=tta,
            threshold=threshold,
            **files,
            progress=show,
        )
    failed = [file for file in found if file.error]
    if as_json:
        print_json([_plain(file) for file in found])
    else:
        written = len(found) - len(failed)
        out.print(f"{written} mask{'' if written == 1 else 's'} in {output}", soft_wrap=True)
    for file in failed:
        err.print(f"{file.source}: {file.error}", style="red", soft_wrap=True)
    if failed:
        err.print(f"{len(failed)} of {len(found)} pictures failed.")
        raise typer.Exit(FAILED)


def _plain(file):
    return {
        "source": str(file.source),
        "mask": file.mask and str(file.mask),
        "foreground": file.foreground,
        "error": file.error,
    }
