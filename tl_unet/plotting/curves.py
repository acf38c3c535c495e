"""The curves of a training."""

from collections.abc import Mapping

import numpy as np

from tl_unet.plotting.figures import new_figure, shown_name, verbatim

_LINES = ("#1f77b4", "#d95f02")  # training, validation: apart also for the colour-blind


def learning_curves(
    history,
    metrics=None,
    *,
    reference=None,
    reference_label="reference",
    reference_pace=1.0,
    best_epoch=None,
    title=None,
):
    """Draws training and validation curves, one panel for each metric.

    Args:
        history: what `model.fit` returned, its `history` dict, or any mapping from a metric's name to a
            sequence of one number per epoch. `"val_" + name`, where present, is the validation curve.
        metrics: sequence of str, the names to draw, in order. Defaults to `None`: all that `history`
            holds, without the `val_` ones.
        reference: like `history`, other curves to draw thin and dashed behind these, such as a
            paper's. They may have another length and lack metrics. Defaults to `None`.
        reference_label: str, what the legend calls them. Defaults to `"reference"`.
        reference_pace: float, how many of the reference's epochs lie on one epoch of the axis: 10 where it
            was trained with a tenth of the learning rate. Defaults to `1.0`.
        best_epoch: int, counted from 1; marked with a vertical line. Defaults to `None`: no line.
        title: str above the panels. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if `history` is empty or lacks one of `metrics`.

    Example:

    >>> from tl_unet.plotting import learning_curves
    >>> history = {"loss": [0.6, 0.4], "val_loss": [0.7, 0.5], "iou": [0.3, 0.5]}
    >>> figure = learning_curves(history)
    >>> [axes.get_title() for axes in figure.axes]
    ['loss', 'iou']
    """
    history, reference = _curves(history), _curves(reference or {})
    if metrics is None:
        metrics = [name for name in history if not name.startswith("val_") and name != "epoch"]
    absent = [name for name in metrics if name not in history]
    if absent or not metrics:
        raise ValueError(
            f"There is nothing to draw for {absent or 'an empty history'}: it holds {sorted(history)}."
        )
    columns = min(2, len(metrics))
    rows = -(-len(metrics) // columns)
    figure = new_figure((4.6 * columns, 2.9 * rows + 0.4))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, metrics, strict=False):
        kinds = zip((name, f"val_{name}"), ("training", "validation"), _LINES, strict=True)
        for key, kind, colour in kinds:
            label = f"{kind}, {reference_label}"
            _draw_curve(axes, reference.get(key), label, colour, reference_pace, faint=True)
            _draw_curve(axes, history.get(key), kind, colour)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.5", linestyle=":", label=f"best epoch: {best_epoch}")
        axes.set_title(shown_name(name), parse_math=False)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in panels[len(metrics) :]:
        axes.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    columns = 3 if reference else 5  # the reference's label is long
    verbatim(figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9))
    if title:
        figure.suptitle(title)
    return figure


def _curves(history) -> dict[str, np.ndarray]:
    """The curves of a `History`, or of a mapping, as arrays."""
    history = getattr(history, "history", history)
    if not isinstance(history, Mapping):
        raise ValueError(
            "`history` must be what `model.fit` returned or a mapping from names to sequences; received "
            f"{type(history).__name__}."
        )
    return {name: np.asarray(values, dtype=float) for name, values in history.items()}


def _draw_curve(axes, values, label, colour, pace=1.0, faint=False):
    if values is None:
        return
    style = {"linestyle": "--", "linewidth": 1, "alpha": 0.6} if faint else {"linewidth": 1.8}
    marker = "o" if len(values) < 12 and not faint else None
    epochs = np.arange(1, len(values) + 1) / pace
    axes.plot(epochs, values, label=label, color=colour, marker=marker, markersize=4, **style)
