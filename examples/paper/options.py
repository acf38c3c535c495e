"""What a run is asked to do: the command line, the presets behind it, and the checks."""

import argparse
import dataclasses
import difflib
from pathlib import Path

from paper.recipes import LOSSES, MODELS, OPTIMIZERS, RECIPES

SKIPPED, INTERRUPTED = 3, 130
PICTURES = 2210  # the paper's training pictures

PRESETS = {
    "demo": {
        "data": "shapes", "size": 32, "epochs": 3, "batch_size": 8, "limit": 96,
    },
    "paper": {
        "data": "tfds", "size": 256, "epochs": 50, "batch_size": 32, "limit": None,
    },
}  # fmt: skip
PLAIN = {
    "preset": "demo", "weights_dir": None, "models": list(MODELS), "learning_rate": None, "loss": "dice",
    "normalize_features": "auto", "augment": False, "seed": 0, "mixed_precision": None,
}  # fmt: skip

EPILOG = f"""exit status: 0 all models ran; {SKIPPED} a model was skipped because its weights could not be had (the report says
which and why); 2 wrong arguments; {INTERRUPTED} interrupted (go on with --resume)."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Everything that decides what a run computes; it is stored with the results. See `--help` for the meaning of each."""

    preset: str
    recipe: str
    data: str
    weights_dir: str | None
    models: list[str]
    size: int
    epochs: int
    batch_size: int
    limit: int | None
    learning_rate: float | None
    loss: str
    optimizer: str
    preprocessing: str
    last_stage: str
    paper_filters: bool
    normalization: str | None
    normalize_features: str
    augment: bool
    seed: int
    mixed_precision: str | None

    @property
    def weights_source(self) -> str:
        """`"directory"`, `"source task"` or `"imagenet"`: where pre-trained encoders come from."""
        if self.weights_dir is not None:
            return "directory"
        return "source task" if self.preset == "demo" and self.data == "shapes" else "imagenet"


def _number(kind, least, unless=None):
    """A parser of numbers that are at least (int) or above (float) `least`, or equal to `unless`."""

    def parse(text):
        value = kind(text)
        good = value >= least if kind is int else least < value < float("inf")
        if not good and value != unless:
            raise argparse.ArgumentTypeError(
                f"must be {'at least' if kind is int else 'above'} {least}; received {text}"
            )
        return value

    parse.__name__ = kind.__name__
    return parse


def _models(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in MODELS:
            close = difflib.get_close_matches(name, MODELS, n=1)
            hint = f"did you mean {close[0]!r}? " if close else ""
            raise argparse.ArgumentTypeError(
                f"unknown model {name!r}: {hint}There are {', '.join(MODELS)}."
            )
    if not names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(
            f"expected different names, comma-separated; received {text!r}"
        )
    return names


def _none_or(text: str) -> str | None:
    return None if text == "none" else text


def parser() -> argparse.ArgumentParser:
    """The command line. Options that are not given are `None`, so that `--resume` can tell them from given ones."""
    this = argparse.ArgumentParser(
        description="Runs the experiments of 'U-Net Transfer Learning for Image Segmentation with Various Encoders' (Asai et "
        "al.) and writes their tables and figures. Without options: a small demonstration, offline, on synthetic pictures.",
        epilog=EPILOG,
    )

    def add(group, flag, text, **kwargs):
        group.add_argument(flag, help=text, **kwargs)

    what = this.add_argument_group("what to run")
    add(what, "--preset", "demo (default): minutes on a laptop; paper: the full protocol, 256x256, 50 epochs, batches of 32, "
        "ImageNet weights, data from TFDS. Both fill in what is not given.", choices=PRESETS)  # fmt: skip
    add(what, "--recipe", "paper: as the authors' code; corrected: each encoder's own preprocessing, a normal last stage, "
        "group normalisation in the decoder, Adam at 1e-3 (frozen encoder) or 1e-4. Default: paper; on shapes: corrected", choices=RECIPES)  # fmt: skip
    add(what, "--models", f"comma-separated, of {', '.join(MODELS)}; default: all", type=_models)
    add(what, "--data", "shapes (synthetic, offline), tfds (Oxford-IIIT Pet, downloaded), or the directory of the unpacked pet "
        "archives", metavar="shapes|tfds|DIRECTORY")  # fmt: skip
    add(what, "--weights-dir", "directory of files {encoder}_imagenet_notop.weights.h5, or as Keras downloads them (~/.keras/models); a model whose "
        "file is not there is skipped. Default: Keras downloads ImageNet weights; the demo on shapes trains its encoders on a source task "
        "instead", metavar="DIRECTORY")  # fmt: skip

    scale = this.add_argument_group("how much")
    add(
        scale,
        "--size",
        "side of the pictures in pixels (demo: 32, paper: 256)",
        type=_number(int, 32),
    )
    add(scale, "--epochs", "(demo: 3, paper: 50)", type=_number(int, 1))
    add(scale, "--batch-size", "(demo: 8, paper: 32)", type=_number(int, 1))
    add(scale, "--limit", "at most so many training pictures, and a third as many for validation and for test; 0 for all (demo: "
        f"96, paper: all; all shapes are {PICTURES})", type=_number(int, 3, unless=0))  # fmt: skip

    how = this.add_argument_group("changes to the recipe, for one study at a time")
    add(
        how,
        "--learning-rate",
        "for every model (default: the recipe's; for the recipe paper 1e-5, in a demo 1e-4)",
        type=_number(float, 0),
    )
    add(how, "--loss", "default: dice (smooth 1 over the batch)", choices=LOSSES)
    add(
        how,
        "--optimizer",
        "default: the recipe's, adam; sgd has Nesterov momentum 0.9",
        choices=OPTIMIZERS,
    )
    add(how, "--preprocessing", "rescale: x/255 for every encoder (recipe paper); encoder: its own (corrected)",
        choices=("rescale", "encoder"))  # fmt: skip
    add(how, "--last-stage", "of D-, R- and M-Unet: narrow: 3 channels and the input image (recipe paper); normal: 32 channels "
        "(corrected)", choices=("narrow", "normal"))  # fmt: skip
    add(how, "--normalization", "in the decoder: none (recipe paper), group (corrected) or batch",
        type=_none_or, choices=(None, "group", "batch"), metavar="{none,group,batch}", default="recipe")  # fmt: skip
    add(how, "--normalize-features", "the same normalisation for the maps of an encoder that has none of its own (VGG16's): auto (default): "
        "where the decoder has one; off: never", choices=("auto", "off"))  # fmt: skip
    add(how, "--augment", "change the training pictures at random: flip, rotation, scale, colour (what the paper names as future "
        "work)", action=argparse.BooleanOptionalAction)  # fmt: skip

    run = this.add_argument_group("the run")
    add(
        run,
        "--seed",
        "of starting weights, order and augmentation (default: 0)",
        type=_number(int, 0),
    )
    add(run, "--mixed-precision", "compute in 16 bits: bfloat16 (if nothing is said), or float16, for GPUs without it; off (default): in 32",
        nargs="?", const="bfloat16", choices=("bfloat16", "float16", "off"))  # fmt: skip
    add(
        run, "--output", "directory to write (default: runs/paper)", default="runs/paper", type=Path
    )
    add(
        run,
        "--feature-cache",
        "compute the features of a frozen encoder once and train its decoder on them; not with --augment. auto (default): in "
        "memory, where they take no more than half of what is available; disk: in --output, deleted afterwards (read again in each epoch, "
        "so it pays with a fast disk); off. The results are the same but for rounding",
        choices=("auto", "disk", "off"),
        default="auto",
    )
    add(run, "--resume", "go on with the interrupted run in --output: models and epochs. Options need not be repeated; what is "
        "repeated must be the same, but --epochs: models that are not done are trained to the new number", action="store_true")  # fmt: skip
    add(run, "--overwrite", "replace the run in --output", action="store_true")
    return this


def resolve(given: argparse.Namespace, stored: dict | None) -> Options:
    """Fill in what the command line leaves open.

    Args:
        given: what `parser()` parsed.
        stored: the configuration of the run that is resumed, or `None`.

    Returns:
        The run's `Options`.

    Raises:
        ValueError: if an option was given that differs from the stored run's, or options do not go together.
    """
    fields = {field.name for field in dataclasses.fields(Options)}
    said = {k: v for k, v in vars(given).items() if k in fields and v is not None}
    if given.normalization == "recipe":
        said.pop("normalization")
    else:
        said["normalization"] = given.normalization  # None was meant
    if said.get("limit") == 0:
        said["limit"] = None
    if said.get("mixed_precision") == "off":
        said["mixed_precision"] = None
    if stored is not None:
        different = [
            f"--{key.replace('_', '-')} was {stored[key]!r}, now {value!r}"
            for key, value in said.items()
            if stored[key] != value and key != "epochs"
        ]
        if different:
            raise ValueError(
                "the run in --output has another configuration: "
                + "; ".join(different)
                + ". Resume without these options, "
                "choose another --output, or start again with --overwrite."
            )
        return Options(**stored | {"epochs": said.get("epochs", stored["epochs"])})
    preset = PRESETS[said.get("preset", "demo")]
    settings = PLAIN | preset | said
    # The offline demo is too short for the paper's recipe to learn anything.
    settings.setdefault("recipe", "corrected" if settings["data"] == "shapes" else "paper")
    fields_of_recipe = vars(RECIPES[settings["recipe"]])
    options = Options(**{k: v for k, v in (fields_of_recipe | settings).items() if k in fields})
    if options.data not in ("shapes", "tfds") and not Path(options.data).is_dir():
        raise ValueError(
            f"--data must be 'shapes', 'tfds' or a directory; there is no directory {options.data!r}."
        )
    if options.weights_dir is not None and not Path(options.weights_dir).is_dir():
        raise ValueError(f"--weights-dir: there is no directory {options.weights_dir!r}.")
    return options
