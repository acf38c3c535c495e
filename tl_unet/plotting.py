"""Pictures of a segmentation model: how it learnt, what it predicts, how it is built.

Each function returns a matplotlib `Figure` to show, change or save (`figure.savefig("curves.png")`).
Matplotlib is imported when a function is called, so that the rest of the library does without it.
"""

import math
from collections.abc import Mapping

import keras
import numpy as np

_FROZEN, _TRAINED, _PLAIN = "#a6cee3", "#fdbf6f", "#e6e6e6"
_LINES = ("#1f77b4", "#d95f02")  # training, validation: apart also for the colour-blind
_HEAD = ("logits", "crop", "mask")
_HALF = (0.8, 0.3)  # half the width and height of a box in the architecture diagram


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
    figure = _figure((4.6 * columns, 2.9 * rows + 0.4))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, name in zip(panels, metrics, strict=False):
        kinds = zip((name, f"val_{name}"), ("training", "validation"), _LINES, strict=True)
        for key, kind, colour in kinds:
            label = f"{kind}, {reference_label}"
            _draw_curve(axes, reference.get(key), label, colour, reference_pace, faint=True)
            _draw_curve(axes, history.get(key), kind, colour)
        if best_epoch is not None:
            axes.axvline(best_epoch, color="0.5", linestyle=":", label=f"best epoch: {best_epoch}")
        axes.set_title(name)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    for axes in panels[len(metrics) :]:
        axes.remove()
    handles, labels = panels[0].get_legend_handles_labels()
    columns = 3 if reference else 5  # the reference's label is long
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=9)
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


def prediction_panel(images, masks, predictions, *, names=None, threshold=None, title=None):
    """Draws images, their true masks and what one or several models predict, side by side.

    Args:
        images: array `(count, height, width, channels)` with 1, 3 or more channels (the first three are
            shown), values 0..255; or 0..1 if none is above 1.
        masks: array `(count, height, width)` or `(count, height, width, 1)`, the truth: 0/1 or class
            indices.
        predictions: mapping from a column's title to an array of probabilities `(count, height, width, 1)`,
            or `(count, height, width, classes)`, of which the most probable class is shown.
        names: sequence of `count` str, written beside the rows. Defaults to `None`.
        threshold: float, above which a one-class prediction is shown as foreground. Defaults to `None`:
            the raw probabilities as grey values, black for 0 and white for 1.
        title: str above the panel. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if the numbers of images, masks, predictions and names differ.

    Example:

    >>> import numpy as np
    >>> from tl_unet.plotting import prediction_panel
    >>> images, masks = np.zeros((2, 8, 8, 3)), np.zeros((2, 8, 8, 1))
    >>> figure = prediction_panel(images, masks, {"V-Unet": np.full((2, 8, 8, 1), 0.5)})
    >>> len(figure.axes)
    6
    """
    images, masks = np.asarray(images, dtype=float), np.asarray(masks)
    counts = {"masks": len(masks), **{name: len(p) for name, p in predictions.items()}}
    if names is not None:
        counts["names"] = len(names)
    wrong = {name: count for name, count in counts.items() if count != len(images)}
    if wrong:
        raise ValueError(f"There are {len(images)} images, but {wrong}.")

    columns = {"image": _displayable(images), "truth": _as_classes(masks)}
    columns |= {name: _as_shown(np.asarray(p), threshold) for name, p in predictions.items()}
    classes = [values.max() for values in columns.values() if values.ndim == 3]
    highest = max(1.0, *map(float, classes))  # one grey scale for all columns
    figure = _figure((1.35 * len(columns) + (0.9 if names else 0), 1.35 * len(images) + 0.5))
    grid = figure.subplots(len(images), len(columns), squeeze=False)
    for column, (heading, pictures) in enumerate(columns.items()):
        grid[0, column].set_title(heading, fontsize=9)
        for axes, picture in zip(grid[:, column], pictures, strict=True):
            # Without interpolation pixels stay what they are: a plateau at 0.5 is seen as one.
            axes.imshow(picture, cmap="gray", vmin=0, vmax=highest, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
    for axes, name in zip(grid[:, 0], names if names is not None else (), strict=False):
        label = name if len(name) <= 16 else f"{name[:15]}…"
        axes.set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def _displayable(images):
    if images.max() > 1:
        images = images / 255
    images = images[..., :3] if images.shape[-1] >= 3 else images[..., :1].repeat(3, -1)
    return np.clip(images, 0, 1)


def _as_classes(masks):
    return masks[..., 0] if masks.ndim == 4 else masks


def _as_shown(prediction, threshold):
    if prediction.ndim == 4 and prediction.shape[-1] > 1:
        return prediction.argmax(-1)
    prediction = _as_classes(prediction)
    return prediction if threshold is None else (prediction > threshold).astype(float)


def architecture_diagram(model, *, image_size=256, title=None):
    """Draws a model of `build_unet` as a U, from the built model itself.

    Down the left side the encoder's feature maps, up the right side the decoder's, each with its sides
    and channels, the skip connections between them, and by colour what is frozen and what is trained.

    Args:
        model: `keras.Model` made by `build_unet`.
        image_size: int, the sides to draw where those of the model are unknown. Defaults to 256.
        title: str above the drawing. Defaults to `None`: the model's name and its parameters.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if the model has no layer named "encoder".

    Example:

    >>> from tl_unet import build_unet
    >>> from tl_unet.plotting import architecture_diagram
    >>> model = build_unet("mobilenetv2", freeze=False, weights=None)
    >>> figure = architecture_diagram(model, image_size=96)
    >>> any("48 × 48" in text.get_text() for text in figure.axes[0].texts)
    True
    """
    levels = _levels(model, image_size)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = _figure((11, 0.95 * len(levels) + 1.2))
    axes = figure.add_subplot()
    bottom = len(levels) - 1
    shift = 1.1  # how far each level lies inside the one above
    right_end = 2 * shift * bottom
    has_full_map = levels[0]["encoder"] is not None
    position = (-2.2 if has_full_map else 0.0, 0)
    height, width, channels = _image_shape(model, image_size)
    _box(axes, *position, f"image\n{height} × {width} × {channels}", _PLAIN)
    for row, level in enumerate(levels):
        if level["encoder"]:
            previous, position = position, (shift * row, -row)
            _box(axes, *position, _map_text(level, "encoder"), _colour(level["encoder_trained"]))
            _arrow(axes, previous, position)
        if level["skip"]:
            _arrow(axes, position, (right_end - shift * row, -row), skip=True)
    for row in reversed(range(bottom)):
        previous, position = position, (right_end - shift * row, -row)
        _box(
            axes,
            *position,
            _map_text(levels[row], "decoder"),
            _colour(levels[row]["decoder_trained"]),
        )
        _arrow(axes, previous, position)
    classes = model.output_shape[-1]
    _box(axes, right_end + 2.2, 0, f"mask\n{height} × {width} × {classes}", _PLAIN)
    _arrow(axes, position, (right_end + 2.2, 0))

    axes.set(xlim=(-3.1 if has_full_map else -0.9, right_end + 3.1), ylim=(-bottom - 0.4, 0.4))
    axes.axis("off")
    legend = [
        Patch(facecolor=_colour(t), edgecolor="0.3", label=("frozen", "trained")[t]) for t in (0, 1)
    ]
    legend.append(Line2D([], [], color="0.45", linestyle="--", label="skip connection"))
    figure.legend(handles=legend, loc="outside lower center", ncols=3, fontsize=9)
    trained = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    figure.suptitle(
        title or f"{model.name}: {model.count_params():,} parameters, {trained:,} of them trained"
    )
    return figure


def _levels(model, image_size):
    """What to draw at each stride 1, 2, 4, ...: the maps' sizes, channels, and whether they are trained."""
    names = [layer.name for layer in model.layers]
    if "encoder" not in names:
        raise ValueError(
            f"The model {model.name!r} has no layer named 'encoder'; pass one that `build_unet` made."
        )
    encoder = model.get_layer("encoder")
    after = [x for x in model.layers[names.index("encoder") + 1 :] if x.name not in _HEAD]
    decoder = _shapes(model, after, _image_shape(model, image_size))
    # The decoder ends at the size of the (padded) image, which is what the encoder sees.
    full = decoder[-1][1:3]
    inside = [layer for layer in encoder.layers if layer.weights]
    seen = (*full, encoder.input_shape[-1])
    maps = encoder.compute_output_shape((1, *seen))

    def level_of(shape):
        return round(math.log2(full[0] / shape[1]))

    empty = dict.fromkeys(("size", "encoder", "decoder"))
    empty |= dict.fromkeys(("skip", "encoder_trained", "decoder_trained"), False)
    levels = [dict(empty) for _ in range(level_of(maps[-1]) + 1)]
    for shape in maps:
        levels[level_of(shape)].update(size=shape[1:3], encoder=shape[-1])
    for layer, shape in zip(inside, _shapes(encoder, inside, seen), strict=True):
        # Squeeze-and-excitation works on 1 x 1 maps, which belong to no level.
        if len(shape) == 4 and level_of(shape) < len(levels):
            levels[level_of(shape)]["encoder_trained"] |= bool(layer.trainable_weights)
    for layer, shape in zip(after, decoder, strict=True):
        level = levels[level_of(shape)]
        level.update(size=shape[1:3], decoder=shape[-1])
        level["skip"] |= isinstance(layer.input, list)
        level["decoder_trained"] |= bool(layer.trainable_weights)
    return levels


def _image_shape(model, image_size):
    return tuple(side or image_size for side in model.input_shape[1:])


def _shapes(model, layers, image_shape):
    """The shapes of the layers' outputs for one image."""
    outputs = keras.Model(model.input, [layer.output for layer in layers])
    return outputs.compute_output_shape((1, *image_shape))


def _map_text(level, side):
    return f"{level[side]} channels\n{level['size'][0]} × {level['size'][1]}"


def _colour(trained):
    return _TRAINED if trained else _FROZEN


def _box(axes, x, y, text, colour):
    from matplotlib.patches import FancyBboxPatch

    style = {"boxstyle": "round,pad=0,rounding_size=0.08", "facecolor": colour, "edgecolor": "0.3"}
    axes.add_patch(
        FancyBboxPatch((x - _HALF[0], y - _HALF[1]), 2 * _HALF[0], 2 * _HALF[1], **style)
    )
    axes.text(x, y, text, ha="center", va="center", fontsize=9)


def _arrow(axes, start, end, skip=False):
    """An arrow from box to box: sideways between their flanks, else between top and bottom."""
    (x0, y0), (x1, y1) = start, end
    if y0 == y1:
        x0, x1 = x0 + _HALF[0], x1 - _HALF[0]
    else:
        down = 1 if y1 < y0 else -1
        y0, y1 = y0 - down * _HALF[1], y1 + down * _HALF[1]
    style = {
        "arrowstyle": "-|>",
        "color": "0.45" if skip else "0.2",
        "linestyle": "--" if skip else "-",
    }
    axes.annotate("", (x1, y1), (x0, y0), arrowprops={"shrinkA": 0, "shrinkB": 0, **style})


def _figure(size):
    """An empty figure that no global state of pyplot keeps alive."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained", dpi=100)
