"""Checks of what a loss or a metric is called with: masks, predictions and weights.

Shapes are checked always. Values are checked where they can be seen: on eager tensors and NumPy arrays,
but not inside a compiled `fit`, where a tensor has no values yet. Every error says what was wrong,
what was expected and what to do.
"""

import warnings

import numpy as np
from keras import ops

# 16-bit softmax outputs do not add up to exactly 1, nor stay exactly inside [0, 1].
_PROBABILITY_TOLERANCE = 0.02
# Nor do 16-bit masks of mixed images.
_SUM_TOLERANCE = 0.01


def values_of(tensor):
    """Returns a tensor's values as a NumPy array, or `None` where there are none to see.

    Args:
        tensor: Tensor of any shape and type, eager or traced.

    Returns:
        A NumPy array, or `None` for a symbolic, traced or meta tensor.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore"
            )  # NumPy's, about a symbolic tensor, before TensorFlow's error.
            return ops.convert_to_numpy(tensor)
    except Exception:  # Each backend's tracers raise an error type of their own.
        return None


def check_shapes(y_true, y_pred):
    """Checks that a mask belongs to a prediction, and tells how the mask is written.

    Args:
        y_true: Mask tensor of shape `(batch, height, width)` or `(batch, height, width, 1 or classes)`.
        y_pred: Prediction tensor of shape `(batch, height, width, classes)`.

    Returns:
        `"binary"` (one class, 0 and 1), `"index"` (class numbers) or `"channels"` (one channel a class).

    Raises:
        ValueError: If a rank is wrong or two sizes that are known differ.
    """
    pred_shape, true_shape = _shape_of(y_pred, "prediction"), _shape_of(y_true, "mask")
    if len(pred_shape) != 4 or pred_shape[-1] is None:
        raise ValueError(
            "A prediction must have the shape (batch, height, width, classes), with a known number of "
            f"classes, but has the shape {pred_shape}. For a single image add the batch axis: "
            "`y_pred[None]`; for a prediction without a channel axis add that: `y_pred[..., None]`."
        )
    classes = pred_shape[-1]
    if len(true_shape) not in (3, 4):
        raise ValueError(
            "A mask must have the shape (batch, height, width), (batch, height, width, 1) or "
            f"(batch, height, width, {classes}), but has the shape {true_shape}. "
            "For a single mask add the batch axis: `y_true[None]`."
        )
    for axis, label in enumerate(("batch size", "height", "width")):
        true_size, pred_size = true_shape[axis], pred_shape[axis]
        if true_size is not None and pred_size is not None and true_size != pred_size:
            raise ValueError(
                f"The mask's shape {true_shape} does not fit the prediction's shape {pred_shape}: the "
                f"{label} is {true_size} in the one and {pred_size} in the other. Resize the mask "
                "(nearest neighbour) to the prediction, and check the order (y_true, y_pred)."
            )
    channels = true_shape[3] if len(true_shape) == 4 else 1
    if channels is None:
        if classes > 1:
            raise ValueError(
                f"The mask's shape {true_shape} does not tell how many channels it has: 1 (class numbers) or {classes} (one for each "
                "output channel)? Say it in the data set: `mask.set_shape((None, None, 1))`, or decode_png(..., channels=1)."
            )
        channels = 1
    if channels not in (1, classes):
        raise ValueError(
            f"The mask's shape {true_shape} does not fit the prediction's shape {pred_shape}: its last "
            f"axis must be 1 (class numbers) or {classes} (one channel for each output channel). "
            f"Build the model with classes={channels}, or write the mask with one channel."
        )
    if classes == 1:
        return "binary"
    return "index" if channels == 1 else "channels"


def _shape_of(tensor, what):
    """A tensor's shape as a tuple; ValueError where not even its rank is known."""
    try:
        return tuple(tensor.shape)
    except ValueError:  # TensorFlow's, for a tensor out of `tf.numpy_function`
        raise ValueError(
            f"The shape of the {what} is unknown, even its rank. Say it in the data set: `{what}.set_shape((None, None, 1))`, before batching."
        ) from None


def check_ignore_index_fits(ignore_index, kind):
    """Checks that ignoring a value does not ignore one of the two values of a 0/1 mask.

    Args:
        ignore_index: Integer or `None`.
        kind: What `check_shapes` returned.

    Raises:
        ValueError: If `ignore_index` is 0 or 1 and the mask is not one of class numbers.
    """
    if ignore_index in (0, 1) and kind != "index":
        raise ValueError(
            f"ignore_index={ignore_index} would ignore every {ignore_index} of a mask of zeros and ones. "
            "Give the pixels to leave out a value of their own, such as 255."
        )


def impossible_values(labels, kind, classes, multi_label):
    """Tells which values no mask of this kind can hold: the one rule, for errors and inside a compiled `fit`.

    Class numbers are whole and exist. Zeros and ones may also be soft, between the two, as when images and
    masks are mixed; the channels of exclusive classes then add up to 1.

    Args:
        labels: Float mask tensor of rank 4.
        kind: What `check_shapes` returned.
        classes: Integer, the number of output channels.
        multi_label: Boolean, whether classes may overlap.

    Returns:
        A boolean tensor that broadcasts against `labels`, `True` where a value is impossible.
    """
    if kind == "index":
        possible = (labels == ops.floor(labels)) & (labels >= 0) & (labels < classes)
    else:
        possible = (labels >= 0) & (labels <= 1)  # NaN is neither
    if kind == "channels" and not multi_label:
        error = ops.absolute(ops.sum(labels, axis=-1, keepdims=True) - 1)
        possible = ops.all(possible, axis=-1, keepdims=True) & (error <= _SUM_TOLERANCE)
    return ops.logical_not(possible)


def check_mask_values(labels, wrong, kind, classes):
    """Raises an error, where values can be seen, if a mask holds impossible ones.

    Args:
        labels: Float mask tensor of rank 4.
        wrong: What `impossible_values` returned, `False` where the mask is ignored.
        kind: What `check_shapes` returned.
        classes: Integer, the number of output channels.

    Raises:
        ValueError: If the mask holds impossible values.
    """
    if not values_of(ops.any(wrong)):  # `None` where there are no values to see
        return
    labels, wrong = values_of(labels), values_of(wrong)
    bad = labels[np.broadcast_to(wrong, labels.shape)]
    if kind == "channels" and ((bad >= 0) & (bad <= 1)).all():
        raise ValueError(
            f"The mask has {classes} channels, but some pixels belong to no class or to several: their "
            "channels do not add up to 1. For classes that overlap (sigmoid outputs) pass multi_label=True; "
            "otherwise write each pixel one-hot, or as a class number with ignore_index for pixels without a "
            "class."
        )
    if kind == "index":
        expected = (
            f"the class numbers 0 to {classes - 1}, one for each of the {classes} output channels"
        )
        remedy = "Map the labels to these numbers, or build the model with more classes"
    else:
        expected = "only 0 and 1 (or what lies between, in masks of mixed images)"
        remedy = (
            "Convert the mask, for instance `mask > 127` for one of 0..255; masks of class numbers need a "
            "model with one output channel a class"
        )
    found = np.unique(labels)
    listed = ", ".join(f"{value:g}" for value in found[:6]) + (", ..." if found.size > 6 else "")
    raise ValueError(
        f"The mask holds the values {listed} (largest {found[-1]:g}), but it must hold {expected}. "
        f"{remedy}. Where a value marks pixels to leave out, name it: ignore_index=255."
    )


def check_probabilities(y_pred, multi_label):
    """Checks, where values can be seen, that predictions given as probabilities are probabilities.

    Args:
        y_pred: Float prediction tensor of shape `(batch, height, width, classes)`.
        multi_label: Boolean, whether classes may overlap.

    Raises:
        ValueError: If values lie outside 0..1, or those of exclusive classes do not add up to 1.
    """
    if 0 in tuple(y_pred.shape):  # an empty batch has no extremes
        return
    extremes = values_of(ops.stack([ops.min(y_pred), ops.max(y_pred)]))
    if extremes is None:
        return
    low, high = extremes
    if low < -_PROBABILITY_TOLERANCE or high > 1 + _PROBABILITY_TOLERANCE:
        raise ValueError(
            f"The predictions lie between {low:.4g} and {high:.4g}, but probabilities lie between 0 and 1. "
            "If the model ends without an activation, pass from_logits=True; else end it with a sigmoid "
            'or a softmax (`activation="auto"` in build_unet).'
        )
    if y_pred.shape[-1] > 1 and not multi_label:
        error = values_of(ops.max(ops.absolute(ops.sum(y_pred, axis=-1) - 1)))
        if error is not None and error > _PROBABILITY_TOLERANCE:
            raise ValueError(
                f"The {y_pred.shape[-1]} predictions of a pixel do not add up to 1 (off by {error:.3g}). "
                "For sigmoid outputs, whose classes may overlap, pass multi_label=True; for exclusive "
                "classes end the model with a softmax."
            )


def split_sample_weight(sample_weight, y_pred):
    """Tells weights of images from weights of pixels by their rank.

    Args:
        sample_weight: `None`, or a tensor of shape `(batch,)` or `(batch, 1)` (one weight an image), or
            `(batch, height, width)` or `(batch, height, width, 1)` (one weight a pixel).
        y_pred: Prediction tensor of shape `(batch, height, width, classes)`.

    Returns:
        A pair `(image_weight, pixel_weight)`: float32 of shape `(batch,)` or `None`, and float32 of shape
        `(batch, height, width, 1)` or `None`. At least one is `None`.

    Raises:
        ValueError: If the weights have any other shape.
    """
    if sample_weight is None:
        return None, None
    weight = ops.cast(ops.convert_to_tensor(sample_weight), "float32")
    shape, pixels = tuple(weight.shape), tuple(y_pred.shape)[:3]
    expected = (pixels[:1], (*pixels[:1], 1), pixels, (*pixels, 1))
    fits = any(
        len(shape) == len(wanted)
        and all(
            size == goal or None in (size, goal) for size, goal in zip(shape, wanted, strict=True)
        )
        for wanted in expected
    )
    if not fits:
        raise ValueError(
            f"sample_weight has the shape {shape}, which fits neither the images nor the pixels of a "
            f"prediction of shape {tuple(y_pred.shape)}. Give one weight an image, shape {expected[0]}, or "
            f"one a pixel, shape {expected[2]}; weights of classes are the argument class_weights."
        )
    if len(shape) <= 2:
        return ops.reshape(weight, (-1,)), None
    return None, weight if len(shape) == 4 else ops.expand_dims(weight, -1)
