"""Images, their masks and what models make of them, side by side."""

import numpy as np

from tl_unet.classes import IGNORE
from tl_unet.plotting.figures import class_colours, displayable, new_figure, shown_name, verbatim
from tl_unet.plotting.overlays import FALSE_ALARM, HIT, MISS, error_overlay


def prediction_panel(
    images, masks, predictions, *, names=None, threshold=None, class_names=None, title=None
):
    """Draws images, their true masks and what one or several models predict, side by side.

    Args:
        images: array `(count, height, width, channels)` with 1, 3 or more channels (the first three are
            shown), values 0..255; or 0..1 if none is above 1.
        masks: array `(count, height, width)` or `(count, height, width, 1)`, the truth: 0/1 or class
            indices, 255 for ignored pixels (drawn grey); or one-hot, `(count, height, width, classes)`.
        predictions: mapping from a column's title to an array of probabilities, `(count, height, width, 1)` or
            `(count, height, width)`; or `(count, height, width, classes)`, of which the most probable class is
            shown, in the colours of `class_colours`.
        names: sequence of `count` str, written beside the rows. Defaults to `None`.
        threshold: float, above which a one-class prediction is shown as foreground. Defaults to `None`:
            the raw probabilities as grey values, black for 0 and white for 1.
        class_names: sequence of str, for a legend of the colours of several classes. Defaults to `None`: no
            legend.
        title: str above the panel. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if the numbers of images, masks, predictions and names differ, predictions have another number of
            axes, or `class_names` are fewer than the classes shown.

    Example:

    >>> import numpy as np
    >>> from tl_unet.plotting import prediction_panel
    >>> images, masks = np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8, 1))
    >>> figure = prediction_panel(images, masks, {"V-Unet": np.full((2, 8, 8, 1), 0.5)})
    >>> len(figure.axes)
    6
    """
    images, masks = np.asarray(images, dtype=float), np.asarray(masks)
    predictions = {name: _with_classes(name, np.asarray(p)) for name, p in predictions.items()}
    counts = {"masks": len(masks), **{name: len(p) for name, p in predictions.items()}}
    if names is not None:
        counts["names"] = len(names)
    wrong = {name: count for name, count in counts.items() if count != len(images)}
    if wrong:
        raise ValueError(f"There are {len(images)} images, but {wrong}.")

    shown = {name: _as_shown(p, threshold) for name, p in predictions.items()}
    truth = _as_shown(masks, None)
    of_classes = {name for name, p in predictions.items() if p.shape[-1] > 1}
    known = [values[values != IGNORE] for values in (truth, *shown.values())]
    highest = max(int(values.max(initial=0)) for values in known)
    if of_classes or highest > 1 or class_names is not None:
        colours = class_colours(highest + 1 if class_names is None else len(class_names))
        if highest >= len(colours):
            raise ValueError(
                f"There are {len(class_names)} class_names, but the class {highest} is shown."
            )
        truth = _coloured(truth, colours)
        shown |= {name: _coloured(shown[name], colours) for name in of_classes}
    columns = {"image": displayable(images), "truth": truth, **shown}
    figure = new_figure((1.35 * len(columns) + (0.9 if names else 0), 1.35 * len(images) + 0.5))
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for column, (heading, pictures) in enumerate(columns.items()):
        grid[0, column].set_title(shown_name(heading), fontsize=9, parse_math=False)
        for axes, picture in zip(grid[:, column], pictures, strict=True):
            # Without interpolation pixels stay what they are: a plateau at 0.5 is seen as one.
            picture = np.where(picture == IGNORE, 0.5, picture) if picture.ndim == 2 else picture
            axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
    if class_names is not None:
        from matplotlib.patches import Patch

        legend = [
            Patch(color=colour / 255, label=shown_name(name))
            for colour, name in zip(colours, class_names, strict=False)
        ]
        columns = min(4, len(legend))
        verbatim(
            figure.legend(handles=legend, loc="outside lower center", ncols=columns, fontsize=8)
        )
    for axes, name in zip(grid[:, 0], names if names is not None else (), strict=False):
        place = {"rotation": 0, "ha": "right", "va": "center"}
        axes.set_ylabel(shown_name(name, 16), fontsize=7, parse_math=False, **place)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _with_classes(name, prediction):
    """Probabilities with their axis of classes, which those of one class may lack."""
    if prediction.ndim == 3:
        return prediction[..., None]
    if prediction.ndim != 4:
        raise ValueError(
            f"Predictions must have the shape (count, height, width, classes), or (count, height, width) for one class; {name!r} "
            f"has {prediction.shape}."
        )
    return prediction


def _as_classes(masks):
    return masks[..., 0] if masks.ndim == 4 else masks


def _coloured(classes, colours):
    """RGB of class indices; ignored pixels are grey, for which the colours leave room between them."""
    known = classes != IGNORE
    return np.where(known[..., None], colours[np.where(known, classes, 0).astype(int)], 128) / 255


def _as_shown(prediction, threshold):
    if prediction.ndim == 4 and prediction.shape[-1] > 1:
        return prediction.argmax(-1)
    prediction = _as_classes(prediction)
    return prediction if threshold is None else (prediction > threshold).astype(float)


def error_sheet(images, masks, predictions, *, names=None, columns=2, title=None):
    """Draws each image beside a copy that shows where its predicted mask is right and wrong (see `error_overlay`).

    Args:
        images: sequence of arrays `(height, width, channels)`, values 0..255; their sizes may differ.
        masks: sequence of arrays `(height, width)` or `(height, width, 1)`, the truth: class indices, 255 to ignore.
        predictions: sequence of arrays like the masks: predicted classes, not probabilities.
        names: sequence of str, above the pictures. Defaults to `None`.
        columns: int, how many images stand in a row. Defaults to `2`.
        title: str above the sheet. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if the numbers of images, masks, predictions and names differ, or there is none.

    Example:

    >>> import numpy as np
    >>> from tl_unet.plotting import error_sheet
    >>> masks = np.zeros((3, 8, 8), "uint8")
    >>> figure = error_sheet(np.zeros((3, 8, 8, 3)), masks, masks, names=["a", "b", "c"])
    >>> sum(bool(axes.images) for axes in figure.axes)
    6
    """
    from matplotlib.patches import Patch

    names = [""] * len(images) if names is None else list(names)
    counts = {len(images), len(masks), len(predictions), len(names)}
    if len(counts) > 1 or not len(images):
        raise ValueError(
            f"There are {len(images)} images, {len(masks)} masks, {len(predictions)} predictions and {len(names)} names."
        )
    rows = -(-len(images) // columns)
    figure = new_figure((3.9 * min(columns, len(images)), 2.15 * rows + 0.6))
    grid = figure.subplots(rows, 2 * min(columns, len(images)), squeeze=False)
    pairs = grid.reshape(-1, 2)
    for cells, image, mask, prediction, name in zip(
        pairs, images, masks, predictions, names, strict=False
    ):
        image = np.asarray(image, float)
        cells[0].imshow(displayable(image))
        cells[1].imshow(error_overlay(image, mask, prediction))
        cells[0].set_title(shown_name(name, 36), fontsize=8, loc="left", parse_math=False)
    for axes in grid.ravel():
        axes.axis("off")
    kinds = zip(("found", "false alarm", "missed"), (HIT, FALSE_ALARM, MISS), strict=True)
    legend = [Patch(color=np.array(colour) / 255, label=name) for name, colour in kinds]
    figure.legend(handles=legend, loc="outside lower center", ncols=3, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
