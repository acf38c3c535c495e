"""`tl-unet evaluate`: how good a model is on images with masks."""

from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table

from tl_unet_cli.common import (
    JSON,
    LABELS,
    MODEL,
    THRESHOLD,
    TTA,
    check_writable,
    failures,
    folder_option,
    open_model,
    out,
    parse_labels,
    parse_names,
    parse_size,
    print_json,
    progress,
)

EPILOG = """Examples:

[b]tl-unet evaluate runs/first[/b]

[b]tl-unet evaluate runs/first --images test/photos --masks test/masks[/b]

[b]tl-unet evaluate unet.keras --images photos --masks masks --size 256 --json[/b]"""


def evaluate(
    model: MODEL,
    images: Annotated[
        Path | None,
        folder_option("Images; without, those that validated the training."),
    ] = None,
    masks: Annotated[
        Path | None,
        folder_option("Their masks."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR",
            help="Folder of the report. Default: evaluation, beside the model.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the report that is in the folder.")
    ] = False,
    size: Annotated[
        str | None,
        typer.Option(
            metavar="N|HxW",
            help="Resize images to this; a training's folder knows its own. Default for a .keras file whose model takes any size: "
            "256, which [b]tl-unet predict[/b] does not do: it takes pictures as they are, in tiles.",
            show_default=False,
        ),
    ] = None,
    labels: LABELS = None,
    class_names: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Names of the classes in the order of their numbers; a training's folder knows its own.",
            show_default=False,
        ),
    ] = None,
    mask_suffix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What masks' names have at the end; a training's folder knows its own.",
            show_default=False,
        ),
    ] = None,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look in subfolders too.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, help="Images at once.")] = 8,
    threshold: THRESHOLD = 0.5,
    tta: TTA = False,
    as_json: JSON = False,
) -> None:
    """Score a model on images with masks, resized to the size it was trained on.

    Dice, IoU, precision, recall and accuracy over all pixels, the mean IoU and Dice of the images, and 95 % bootstrap intervals
    over the images; of several classes also the scores of each. The report's folder gets scores.json, per_image.csv (worst first),
    per_class.csv, worst.png, confusion.png and per_class.png; one that holds a report is refused without --overwrite. Images whose
    masks hold nothing but ignored pixels have no scores.
    """
    from tl_unet import evaluation
    from tl_unet.prediction_plan import working_size

    if (images is None) != (masks is None):
        raise typer.BadParameter("--images and --masks go together.")
    size, labels = size and parse_size(size), labels and parse_labels(labels)
    network, trained = open_model(model)
    if labels is None and trained.get("labels"):
        labels = parse_labels(trained["labels"])
    if mask_suffix is None:
        mask_suffix = trained.get("mask_suffix", "")
    names = None
    if images is None:
        images, masks, names = _validation(model)
    folder = output or (model if model.is_dir() else model.parent) / "evaluation"
    if (folder / "scores.json").exists() and not overwrite:
        raise typer.BadParameter(
            f"{folder} holds a report, of whatever model and images: choose another folder with --output, or replace it with "
            "--overwrite."
        )
    with failures():
        check_writable(folder)
    with failures(), progress("images") as bar:
        task = bar.add_task("evaluating", total=None)
        found = evaluation.evaluate_folder(
            network,
            images,
            masks,
            size=working_size(network, size or trained.get("size")) or 256,
            batch_size=batch_size,
            labels=labels,
            mask_suffix=mask_suffix,
            recursive=recursive or names is not None,
            names=names,
            threshold=threshold,
            augment=tta,
            class_names=parse_names(class_names) or trained.get("class_names"),
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )
        evaluation.write_report(found, folder)
    scores = found.summary()
    if as_json:
        print_json({**scores, "report": str(folder)})
        return
    out.print(_table(scores))
    if scores["classes"] > 1:
        out.print(_class_table(scores))
    if scores["interval"]:
        out.print("In brackets: 95 % intervals, by bootstrap over the images.", style="dim")
    if found.unlabelled:
        # A terminal may not take names of files that are not UTF-8.
        names = ", ".join(found.unlabelled[:5]).encode("utf-8", "replace").decode()
        out.print(
            f"{len(found.unlabelled)} more have no labelled pixel, and no scores: {names}"
            + (" and others." if found.unlabelled[5:] else "."),
            soft_wrap=True,
        )
    out.print(f"{scores['images']} images. Report: {folder}", soft_wrap=True)


def _validation(path):
    """The images that validated a training, with their masks and names."""
    from tl_unet.runs import RunFolder

    run = RunFolder(path)
    if not run.settings.is_file():
        raise typer.BadParameter(
            "--images and --masks are needed for a model without its training."
        )
    with failures():
        settings = run.read_training()
    options = settings["options"]
    own = options["val_images"] is not None
    images, masks = ("val_images", "val_masks") if own else ("images", "masks")
    return options[images], options[masks], settings["names"]["validation"]


def _table(scores):
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("score")
    table.add_column("all pixels", justify="right")
    table.add_column("mean of images", justify="right")

    def shown(kind, name):
        value = scores[kind].get(name)
        if value is None:
            return ""
        limits = (scores["interval"] or {}).get(f"{kind}_{name}")
        return f"{value:.4f}" + (f" ({limits[0]:.4f} to {limits[1]:.4f})" if limits else "")

    titles = {"iou": "IoU", "dice": "Dice"}
    for name in scores["dataset"]:
        table.add_row(titles.get(name, name), shown("dataset", name), shown("mean_of_images", name))
    return table


def _class_table(scores):
    found = scores["per_class"]
    table = Table("class", box=box.SIMPLE_HEAD)
    for title in ("IoU", "Dice", "precision", "recall"):
        table.add_column(title, justify="right")
    for name, *values in zip(scores["class_names"], *found.values(), strict=True):
        table.add_row(name, *("–" if value is None else f"{value:.4f}" for value in values))
    return table
