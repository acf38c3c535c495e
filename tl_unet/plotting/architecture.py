"""A U-Net drawn as a U."""

import math

import keras

from tl_unet.deep_supervision import strip_auxiliary
from tl_unet.plotting.figures import new_figure

_FROZEN, _TRAINED, _PLAIN = "#a6cee3", "#fdbf6f", "#e6e6e6"
_HEAD = ("logits", "enlarge", "crop", "mask")
_HALF = (0.8, 0.3)  # half the width and height of a box in the architecture diagram


def architecture_diagram(model, *, image_size=256, title=None):
    """Draws a model of `build_unet` as a U, from the built model itself.

    Down the left side the encoder's feature maps, up the right side the decoder's last one of each size, with sides
    and channels, the skip connections between them, and by colour what is frozen and what is trained. What a
    decoder has between the two sides, and auxiliary masks, are not drawn.

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
    model = strip_auxiliary(model)
    levels = _levels(model, image_size)
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    figure = new_figure((11, 0.95 * len(levels) + 1.2))
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
        if level["skip"] and row < bottom:
            _arrow(axes, position, (right_end - shift * row, -row), skip=True)
    for row in (row for row in reversed(range(bottom)) if levels[row]["decoder"]):
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
    # The last of the head that comes before cropping has the size of the (padded) image, which is what the encoder sees.
    uncropped = model.get_layer("enlarge" if "enlarge" in names else "logits")
    full = _shapes(model, [uncropped], _image_shape(model, image_size))[0][1:3]
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
        # Squeeze-and-excitation (also in a decoder) works on 1 x 1 maps, which belong to no level.
        if len(shape) == 4 and level_of(shape) < len(levels):
            levels[level_of(shape)]["encoder_trained"] |= bool(layer.trainable_weights)
    for layer, shape in zip(after, decoder, strict=True):
        if len(shape) != 4 or level_of(shape) >= len(levels):
            continue
        level = levels[level_of(shape)]
        level.update(size=shape[1:3], decoder=shape[-1])
        level["skip"] |= isinstance(layer.input, list)
        level["decoder_trained"] |= bool(layer.trainable_weights)
    for row, level in enumerate(levels):  # decoders also join maps of their own
        level["skip"] &= bool(level["encoder"]) or (row == 0 and "input_skip" in names)
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
