"""Scores of classes: the confusion matrix, and bars."""

from collections.abc import Mapping

import numpy as np

from tl_unet.plotting.figures import new_figure, shown_name, verbatim


def confusion_matrix(counts, class_names=None, *, title=None):
    """Draws a confusion matrix: which share of each true class was predicted as what.

    Args:
        counts: array `(classes, classes)` of pixels, true classes in the rows, predicted ones in the columns.
        class_names: sequence of str. Defaults to `None`: the numbers.
        title: str above it. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if the matrix is not square or the names are not as many.

    Example:

    >>> from tl_unet.plotting import confusion_matrix
    >>> figure = confusion_matrix([[90, 10], [5, 15]], ["background", "pet"])
    >>> [text.get_text() for text in figure.axes[0].texts]
    ['90.0', '10.0', '25.0', '75.0']
    """
    counts = np.asarray(counts, float)
    if counts.ndim != 2 or counts.shape[0] != counts.shape[1]:
        raise ValueError(
            f"`counts` must be square, (classes, classes); received the shape {counts.shape}."
        )
    names = _names(class_names, len(counts))
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100 * counts, totals, out=np.zeros_like(counts), where=totals > 0)
    side = 2.2 + 0.55 * len(names)
    figure = new_figure((side + 1.2, side))
    axes = figure.add_subplot()
    picture = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.set(xlabel="predicted", ylabel="true", xticks=range(len(names)), yticks=range(len(names)))
    turned = {"rotation": 45, "ha": "right"} if max(map(len, names)) > 6 else {}
    axes.set_xticklabels(names, parse_math=False, **turned)
    axes.set_yticklabels(names, parse_math=False)
    if len(names) <= 16:  # more numbers than that can't be read
        for i, j in np.ndindex(shares.shape):
            colour = "white" if shares[i, j] > 55 else "black"
            axes.text(
                j, i, f"{shares[i, j]:.1f}", ha="center", va="center", color=colour, fontsize=9
            )
    figure.colorbar(picture, label="% of the true class")
    if title:
        figure.suptitle(title)
    return figure


def class_bars(scores, class_names=None, *, title=None):
    """Draws scores of each class as horizontal bars, one colour for each score.

    Args:
        scores: mapping from a score's name to a sequence of one number per class, 0..1; NaN where a class does not occur.
        class_names: sequence of str. Defaults to `None`: the numbers.
        title: str above it. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if there are no scores, or the scores or names are not equally many.

    Example:

    >>> from tl_unet.plotting import class_bars
    >>> figure = class_bars({"IoU": [0.9, 0.7], "Dice": [0.95, 0.82]}, ["background", "pet"])
    >>> len(figure.axes[0].patches)
    4
    """
    if not isinstance(scores, Mapping) or not scores:
        raise ValueError(
            f"`scores` must map at least one name to numbers per class; received {scores!r}."
        )
    values = {name: np.asarray(numbers, float) for name, numbers in scores.items()}
    lengths = {len(numbers) for numbers in values.values()}
    if len(lengths) > 1:
        raise ValueError(f"The scores are not equally many: {sorted(lengths)}.")
    names = _names(class_names, lengths.pop())
    thickness = 0.8 / len(values)
    figure = new_figure((6, 1.1 + 0.3 * len(names) * max(2, len(values)) * 0.8))
    axes = figure.add_subplot()
    positions = np.arange(len(names))
    for i, (name, numbers) in enumerate(values.items()):
        offset = (i - (len(values) - 1) / 2) * thickness
        bars = axes.barh(positions + offset, np.nan_to_num(numbers), thickness, label=name)
        labels = ["–" if np.isnan(number) else f"{number:.3f}" for number in numbers]
        axes.bar_label(bars, labels, padding=2, fontsize=8)
    axes.set(yticks=positions, xlim=(0, 1.1))
    axes.set_yticklabels(names, parse_math=False)
    axes.set_xticks(np.linspace(0, 1, 6))
    axes.invert_yaxis()
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    if len(values) > 1:
        verbatim(figure.legend(loc="outside lower center", ncols=len(values), fontsize=9))
    else:
        axes.set_xlabel(next(iter(values)), parse_math=False)
    if title:
        figure.suptitle(title)
    return figure


def _names(class_names, classes):
    names = [shown_name(name) for name in (range(classes) if class_names is None else class_names)]
    if len(names) != classes:
        raise ValueError(f"There are {classes} classes, but {len(names)} names.")
    return names
