"""The figures of a run, drawn with `tl_unet.plotting`."""

import io
import warnings
from pathlib import Path

import numpy as np
from paper.files import replacing
from paper.recipes import MODELS, build_arguments
from paper.report import curve_figure
from paper.training import best_epoch, read_history
from PIL import Image

import tl_unet
from tl_unet import plotting

PICTURES = 5
LARGEST = 300_000  # bytes
PANELS = ("loss", "dice", "iou", "accuracy")


def save(figure, path: Path) -> None:
    """Write a figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    save_picture(Image.open(buffer).convert("RGB"), path)


def save_picture(picture: Image.Image, path: Path) -> None:
    """Write a picture as PNG; one that would be too large for a repository gets 256 colours, and is made smaller."""
    with replacing(path) as temporary:
        picture.save(temporary, optimize=True)
        while temporary.stat().st_size >= LARGEST:
            picture.quantize(256).save(temporary, optimize=True)
            picture = picture.resize([side * 9 // 10 for side in picture.size])


def predictions(results: dict, output: Path, images, masks, names) -> None:
    """Figure 1: pictures, truth and the raw probabilities of every model that ran."""
    columns = {
        model.title: np.load(output / "predictions" / f"{name}.npy")
        for name, model in MODELS.items()
        if "validation" in results["models"].get(name, {})
    }
    if columns:
        shown = None if results["configuration"]["data"] == "shapes" else names
        figure = plotting.prediction_panel(images, masks, columns, names=shown)
        save(figure, output / "figures" / "figure1.png")


def architecture(options, output: Path) -> None:
    """Figure 2: V-Unet if it was asked for, as in the paper, or the first model; built anew, without weights."""
    name = "vunet" if "vunet" in options.models else options.models[0]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*frozen with random weights.*")
        model = tl_unet.build_unet(**build_arguments(name, options), weights=None)
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    title = (
        f"{MODELS[name].title}: {model.count_params():,} parameters, {trained:,} of them trained"
    )
    figure = plotting.architecture_diagram(model, image_size=options.size, title=title)
    save(figure, output / "figures" / "figure2.png")


def curves(name: str, output: Path) -> None:
    """Figures 3 to 8: a model's learning curves."""
    history = read_history(output / "history" / f"{name}.csv")
    figure = plotting.learning_curves(
        history, PANELS, best_epoch=best_epoch(history), title=MODELS[name].title
    )
    save(figure, output / curve_figure(name))
