"""`tl-unet train`: from a folder of images and a folder of masks to a model."""

import contextlib
import dataclasses
import shlex
from pathlib import Path
from typing import Annotated

import typer

from tl_unet_cli.common import (
    INTERRUPTED,
    JSON,
    WRONG_USAGE,
    duration,
    err,
    failures,
    folder_option,
    labels_option,
    out,
    parse_labels,
    parse_names,
    parse_size,
    print_json,
    progress,
    stop,
)

EPILOG = """Examples:

[b]tl-unet train --images photos --masks masks --output runs/first[/b]

[b]tl-unet train --images photos --masks masks --encoder efficientnetv2b0 --size 384 --epochs 40 --output runs/second[/b]

[b]tl-unet train --images images --masks trimaps --labels 1:1,2:0,3:1 --output runs/pets[/b]

[b]tl-unet train --images images --masks trimaps --labels 1:1,2:0,3:2 --class-names background,animal,border --output runs/three[/b]

[b]tl-unet train --resume --output runs/first[/b]"""

# As in the library, which the help does without: a test compares them.
DECODERS = ("attention", "fpn", "linknet", "residual", "scse", "unet", "unet3plus", "unetplusplus")
NORMALIZATION = ("batch", "group", "layer")
UPSAMPLING = ("transpose", "nearest", "bilinear")
PRECISIONS = ("bfloat16", "float16")

_IMAGES = {"rich_help_panel": "Images"}
_MODEL = {"rich_help_panel": "Model"}
_TRAINING = {"rich_help_panel": "Training"}


def train(
    context: typer.Context,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="RUN", help="Folder of the training.", show_default=False
        ),
    ],
    images: Annotated[
        Path | None,
        folder_option("Training images.", **_IMAGES),
    ] = None,
    masks: Annotated[
        Path | None,
        folder_option("Their masks: the same names, up to the extension.", **_IMAGES),
    ] = None,
    val_images: Annotated[
        Path | None,
        folder_option("Validation images; without, a share of the training images.", **_IMAGES),
    ] = None,
    val_masks: Annotated[
        Path | None,
        folder_option("Their masks.", **_IMAGES),
    ] = None,
    val_share: Annotated[float, typer.Option(help="The share that validates.", **_IMAGES)] = 0.2,
    group: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="What at the beginning of a name says to which patient or scene a picture belongs, such as '[^_]+' for P017_slice42: "
            "pictures of one stay together, in training or validation.",
            show_default=False,
            **_IMAGES,
        ),
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Go on with the stopped training in --output; it knows its options."
        ),
    ] = False,
    encoder: Annotated[
        str,
        typer.Option(
            help="See [b]tl-unet encoders[/b]; or a KerasHub preset: [b]hub:NAME[/b].", **_MODEL
        ),
    ] = "mobilenetv2",
    weights: Annotated[
        str,
        typer.Option(
            metavar="imagenet|none|FILE",
            help="Weights of the encoder: from ImageNet, random, or of a file without top.",
            **_MODEL,
        ),
    ] = "imagenet",
    size: Annotated[
        str,
        typer.Option(metavar="N|HxW", help="Resize images to this (height x width).", **_IMAGES),
    ] = "256",
    epochs: Annotated[int, typer.Option(help="All epochs.", **_TRAINING)] = 30,
    freeze_epochs: Annotated[
        int | None,
        typer.Option(
            help="The first of them, in which the encoder is frozen. Default: 3, at most half, at least 1; 0 with random weights.",
            show_default=False,
            **_TRAINING,
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images at once.", **_TRAINING)] = 8,
    learning_rate: Annotated[
        float,
        typer.Option(
            help="Of the frozen stage; afterwards a tenth. Falls along a cosine.", **_TRAINING
        ),
    ] = 1e-3,
    loss: Annotated[
        str,
        typer.Option(
            help="crossentropy, dice, focal, jaccard, lovasz, tversky, or a sum.", **_TRAINING
        ),
    ] = "dice+crossentropy",
    augment: Annotated[
        bool, typer.Option(help="Flip, turn, scale and recolour training images.", **_TRAINING)
    ] = True,
    labels: Annotated[str | None, labels_option(**_IMAGES)] = None,
    classes: Annotated[
        int | None,
        typer.Option(
            help="Number of classes; 1 is an object on its background.",
            show_default=False,
            **_IMAGES,
        ),
    ] = None,
    class_names: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="Names of the classes in the order of their numbers; then each one's scores are written, too.",
            show_default=False,
            **_IMAGES,
        ),
    ] = None,
    class_weights: Annotated[
        str | None,
        typer.Option(
            metavar="X,...",
            help="What the classes weigh in the loss, such as 0.3,1,2; of one class: background,object.",
            show_default=False,
            **_TRAINING,
        ),
    ] = None,
    mask_suffix: Annotated[
        str,
        typer.Option(
            metavar="TEXT", help="What masks' names have at the end, such as _mask.", **_IMAGES
        ),
    ] = "",
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Look in subfolders too.", **_IMAGES)
    ] = False,
    limit: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="At most N images a folder, for a try.", show_default=False, **_IMAGES
        ),
    ] = None,
    channels: Annotated[int, typer.Option(help="1 (grey), 3 (RGB) or 4 (RGBA).", **_IMAGES)] = 3,
    decoder: Annotated[
        str, typer.Option(metavar="|".join(DECODERS), help="The way up.", **_MODEL)
    ] = "unet",
    decoder_filters: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...",
            help="Filters of the decoder, coarsest first. Default: the first of 256,128,64,32,16 for unet, residual, attention and scse; else the decoder's own.",
            show_default=False,
            **_MODEL,
        ),
    ] = None,
    normalization: Annotated[
        str,
        typer.Option(metavar="|".join((*NORMALIZATION, "none")), help="In the decoder.", **_MODEL),
    ] = "batch",
    upsampling: Annotated[
        str, typer.Option(metavar="|".join(UPSAMPLING), help="In the decoder.", **_MODEL)
    ] = "nearest",
    dropout: Annotated[float, typer.Option(help="In the decoder.", **_MODEL)] = 0.0,
    mixed_precision: Annotated[
        str,
        typer.Option(
            metavar="|".join((*PRECISIONS, "none")),
            help="Compute in 16 bits where that is safe: bfloat16 on processors and GPUs made for it, float16 on older GPUs.",
            **_TRAINING,
        ),
    ] = "none",
    seed: Annotated[int, typer.Option(help="Of all that is random.", **_TRAINING)] = 0,
    as_json: JSON = False,
) -> None:
    """Train a U-Net on a folder of images and a folder of masks.

    First the decoder learns on a frozen, pre-trained encoder, then everything with a tenth of the learning rate. RUN/model.keras is
    the epoch with the best validation IoU; history.csv, curves.png, predictions/ and logs/ (TensorBoard) show how it went, run.json
    holds all that is needed to repeat it. Stop it at any moment: --resume goes on as if nothing had happened.
    """
    from tl_unet import training
    from tl_unet.runs import RunFolder

    given = {name: value for name, value in context.params.items() if name in _fields(training)}
    if not resume:
        if images is None or masks is None:
            raise typer.BadParameter("--images and --masks are needed, or --resume.")
        with failures(usage=ValueError):
            options = _options(training, given)
    else:
        with failures(usage=FileNotFoundError):
            options = training.TrainingOptions.from_json(
                RunFolder(output).read_training()["options"]
            )
        _check_same(context, training, given, options)
    with _reporting(options, as_json) as report, failures(usage=FileExistsError):
        try:
            if resume:
                found = training.resume(output, report=report)
            else:
                found = training.train(options, output, report=report)
        except KeyboardInterrupt:
            if not RunFolder(output).settings.is_file():
                err.print("\nStopped before the training began: there is nothing to go on with.")
                raise typer.Exit(INTERRUPTED) from None
            done = len(RunFolder(output).read_history())
            err.print(
                f"\nStopped: {done} of {options.epochs} epochs are done. Go on with", soft_wrap=True
            )
            err.print(
                f"  tl-unet train --resume --output {shlex.quote(str(output))}", soft_wrap=True
            )
            raise typer.Exit(INTERRUPTED) from None
    if as_json:
        print_json(found)
        return
    out.print(
        f"Best epoch {found['best_epoch']} of {found['epochs']}: validation IoU {found['val_iou']:.4f}, "
        f"Dice {found['val_dice']:.4f}, after {duration(found['seconds'])}.",
        soft_wrap=True,
    )
    out.print(f"Model: {found['model']}", soft_wrap=True)


def _fields(training):
    return training.TrainingOptions.__dataclass_fields__


def _options(training, given):
    """The options of the library, from those of the command line."""
    weights = given["weights"]
    if weights not in ("none", "imagenet") and not Path(weights).is_file():
        raise typer.BadParameter(
            f"--weights must be imagenet, none or a file; there is no {weights}."
        )
    return training.TrainingOptions(**{name: _value(name, text) for name, text in given.items()})


def _value(name, text):
    """What an option of the command line means for the library."""
    if name in ("weights", "normalization", "mixed_precision"):
        return None if text == "none" else text
    if name == "decoder_filters":
        return _numbers(name, text, int, "N,N,...")
    if name == "class_weights":
        return _numbers(name, text, float, "X,...")
    readers = {"size": parse_size, "labels": parse_labels, "class_names": parse_names}
    return readers[name](text) if name in readers and text else text


def _numbers(name, text, kind, form):
    try:
        return text and tuple(kind(part) for part in text.split(","))
    except ValueError:
        flag = "--" + name.replace("_", "-")
        raise typer.BadParameter(f"{flag} {text!r} is not {form}") from None


def _check_same(context, training, given, stored):
    """Refuses options that would be ignored: a training is resumed with its own."""
    fields = _fields(training)
    named = [name for name in fields if context.get_parameter_source(name).name == "COMMANDLINE"]
    changed = [name for name in named if _differs(stored, name, _value(name, given[name]))]
    if changed:
        flags = ", ".join("--" + name.replace("_", "-") for name in changed)
        stop(
            f"--resume goes on with the options that the training began with, but {flags} differs from them. Leave it out, or "
            "start a new training in another folder.",
            WRONG_USAGE,
        )


def _differs(stored, name, value):
    """Whether an option is another one than the stored: judged among the stored ones, not among the command line's defaults."""
    try:
        wanted = dataclasses.replace(stored, **{name: value})
    except (ValueError, ImportError, OSError):  # it does not go with them, so it is none of them
        return True
    return getattr(wanted, name) != getattr(stored, name)


@contextlib.contextmanager
def _reporting(options, quiet):
    """What the training reports, as a bar and a line an epoch on the standard error."""
    with progress("batches") as bars:
        task = bars.add_task("reading images", total=None)

        def say(text):
            if not quiet:
                bars.console.print(text, soft_wrap=True)

        def report(event, **values):
            if event == "data":
                say(f"{values['train']} images to train, {values['validation']} to validate.")
            elif event == "stage":
                names = {1: "the decoder on a frozen encoder", 2: "the whole network"}
                say(
                    f"Stage {values['stage']}: {names[values['stage']]}, {values['parameters']:,} parameters."
                )
            elif event == "batch":
                text = f"epoch {values['epoch']}/{options.epochs}, loss {values['loss']:.4f}"
                bars.update(task, description=text, completed=values["step"], total=values["steps"])
            elif event == "epoch":
                say(_line(values))
                bars.reset(task, description="", total=None)

        yield report


def _line(row):
    best = " (best)" if row["best"] == row["epoch"] else ""
    left = f", about {duration(row['seconds_left'])} left" if row["seconds_left"] else ""
    return (
        f"epoch {row['epoch']:.0f}/{row['epochs']}: loss {row['loss']:.4f}, IoU {row['iou']:.4f}; validation: loss "
        f"{row['val_loss']:.4f}, IoU {row['val_iou']:.4f}{best}; {duration(row['seconds'])}{left}"
    )
