"""Masks and predictions counted: true and false positives and negatives, soft or hard, for each class.

Every overlap loss and metric of the library is a formula over these counts, so masks, logits, ignored
pixels and weights mean the same in all of them. Use it directly for a score that the library does not
have. It holds no score but the Tversky index, of which Dice and Jaccard are special cases.
"""

from typing import Any, NamedTuple

import keras
from keras import ops

from tl_unet.argument_checks import check_choice, check_number
from tl_unet.input_checks import (
    check_ignore_index_fits,
    check_mask_values,
    check_probabilities,
    check_shapes,
    impossible_values,
)


class Pixels(NamedTuple):
    """A mask and a prediction in one common form, all float32.

    Args:
        targets: Tensor of shape `(batch, height, width, classes)` of zeros and ones.
        outputs: Tensor of the same shape: the prediction as given, logits or probabilities. On TensorFlow
            probabilities are the very tensor, so those of ignored pixels may be anything, also NaN.
        probabilities: Tensor of the same shape, finite where the mask is ignored.
        weights: Tensor of shape `(batch, height, width, 1 or classes)`: 0 where the mask is ignored, else
            the pixel's weight.
        valid: Tensor of the shape of `weights`: 0 where the mask is ignored, else 1.
    """

    targets: Any
    outputs: Any
    probabilities: Any
    weights: Any
    valid: Any


class Counts(NamedTuple):
    """Weighted numbers of pixels, float32, of shape `(units, classes)`.

    A unit is an image or the whole batch.

    Args:
        true_positives: Tensor: of the class, and predicted so.
        false_positives: Tensor: not of the class, but predicted so.
        false_negatives: Tensor: of the class, but not predicted so.
        true_negatives: Tensor: neither.
    """

    true_positives: Any
    false_positives: Any
    false_negatives: Any
    true_negatives: Any


def read_pixels(
    y_true, y_pred, *, from_logits=False, multi_label=False, ignore_index=None, pixel_weight=None
):
    """Brings a mask and a prediction into one common form, after checking them.

    Everything is computed in float32, whatever comes in: sums over the pixels of an image do not fit
    into 16-bit numbers. Where values cannot be seen (in a compiled `fit`), a pixel whose mask holds an
    impossible value, such as 255 without `ignore_index`, has NaN targets, and so have loss and metrics.

    Args:
        y_true: Mask tensor of any type. One output channel: zeros and ones, shape
            `(batch, height, width)` or `(batch, height, width, 1)`. More: class numbers in the same shapes,
            or zeros and ones, shape `(batch, height, width, classes)`. In place of zeros and ones a mask may
            hold what lies between, as mixed images have it; channels of exclusive classes add up to 1.
        y_pred: Prediction tensor of shape `(batch, height, width, classes)`.
        from_logits: Boolean, whether the prediction is logits. Defaults to `False`.
        multi_label: Boolean, whether the classes may overlap (a sigmoid for each) instead of excluding one
            another (a softmax over them). Means nothing for one output channel. Defaults to `False`.
        ignore_index: Integer, the mask's value for pixels that count for nothing, or `None`. In masks with
            a channel for each class a pixel is ignored if any of its channels has the value, with
            `multi_label` only that channel. Defaults to `None`.
        pixel_weight: Tensor that broadcasts to `(batch, height, width, 1)`, or `None` for equal weights.
            Defaults to `None`.

    Returns:
        A `Pixels` tuple.

    Raises:
        ValueError: If the two do not fit each other or, seen eagerly, hold values they must not hold.
    """
    y_true = ops.convert_to_tensor(y_true)
    y_pred = ops.cast(ops.convert_to_tensor(y_pred), "float32")
    kind = check_shapes(y_true, y_pred)
    check_ignore_index_fits(ignore_index, kind)
    classes = y_pred.shape[-1]

    labels = ops.cast(y_true, "float32")
    if len(labels.shape) == 3:
        labels = ops.expand_dims(labels, -1)
    elif labels.shape[-1] is None:  # one channel, as `check_shapes` took it to be
        labels = ops.reshape(labels, (*ops.shape(labels)[:3], 1))
    valid = ops.ones_like(labels, dtype="bool") if ignore_index is None else labels != ignore_index
    if kind == "channels" and not multi_label:
        valid = ops.all(valid, axis=-1, keepdims=True)
    wrong = impossible_values(labels, kind, classes, multi_label) & valid
    check_mask_values(labels, wrong, kind, classes)

    given = y_pred
    if ignore_index is not None:
        # Whatever is there, NaN included, must not reach a sum: 0 * NaN is NaN.
        labels = ops.where(valid, labels, 0.0)
        y_pred = ops.where(valid, y_pred, 0.0 if from_logits else 0.5)
    # On TensorFlow, Keras' cross-entropies know the logits behind the tensor that a sigmoid or softmax
    # returned, but not those behind a changed one. PyTorch's would raise an error at NaN.
    knows_logits = keras.backend.backend() == "tensorflow" and not from_logits
    outputs = given if knows_logits else y_pred
    if kind == "index":
        numbers = ops.cast(ops.clip(ops.squeeze(labels, -1), 0, classes - 1), "int32")
        labels = ops.one_hot(numbers, classes, dtype="float32")
    # A compiled step cannot raise an error; a loss that is no number is seen, a wrong one is not.
    labels = ops.where(wrong, float("nan"), labels)

    if not from_logits:
        if ignore_index is None:
            check_probabilities(y_pred, multi_label)
        else:
            # An ignored pixel now holds 0.5 for each class, which is no distribution.
            check_probabilities(ops.where(valid, y_pred, 1.0 / classes), multi_label)
        probabilities = y_pred
    elif classes == 1 or multi_label:
        probabilities = ops.sigmoid(y_pred)
    else:
        probabilities = ops.softmax(y_pred, axis=-1)

    valid = ops.cast(valid, "float32")
    weights = valid if pixel_weight is None else valid * pixel_weight
    return Pixels(labels, outputs, probabilities, weights, valid)


def with_background(pixels):
    """Makes two exclusive classes, background and foreground, of one.

    Args:
        pixels: `Pixels` tuple with one class.

    Returns:
        A `Pixels` tuple with two classes. Its `outputs` are the probabilities.
    """
    targets = ops.concatenate([1.0 - pixels.targets, pixels.targets], axis=-1)
    both = ops.concatenate([1.0 - pixels.probabilities, pixels.probabilities], axis=-1)
    return pixels._replace(targets=targets, outputs=both, probabilities=both)


def harden(pixels, threshold, multi_label=False):
    """Turns probabilities into decisions of 0 and 1.

    Args:
        pixels: `Pixels` tuple.
        threshold: Float between 0 and 1. One class, or classes that may overlap: what lies above it is 1.
            Exclusive classes: the likeliest one is 1, the threshold must stay at 0.5.
        multi_label: Boolean, whether the classes may overlap. Defaults to `False`.

    Returns:
        The `Pixels` tuple with hard probabilities.

    Raises:
        ValueError: If a threshold other than 0.5 is given for exclusive classes.
    """
    classes = pixels.probabilities.shape[-1]
    if classes == 1 or multi_label:
        hard = ops.cast(pixels.probabilities > threshold, "float32")
    elif threshold != 0.5:
        raise ValueError(
            f"threshold={threshold} has no meaning for {classes} exclusive classes: a pixel belongs to the "
            "likeliest. Leave it at 0.5, pass threshold=None for a soft score, or multi_label=True for "
            "sigmoid outputs."
        )
    else:
        hard = ops.one_hot(ops.argmax(pixels.probabilities, axis=-1), classes, dtype="float32")
    return pixels._replace(probabilities=hard)


def count_pixels(pixels, per="image"):
    """Counts true and false positives and negatives.

    Args:
        pixels: `Pixels` tuple, hard or soft.
        per: String, `"image"` or `"batch"`: the unit that is counted. Defaults to `"image"`.

    Returns:
        A `Counts` tuple of tensors of shape `(batch, classes)`, or `(1, classes)` for a batch.
    """
    targets, predictions, weights = pixels.targets, pixels.probabilities, pixels.weights

    def total(values):
        # Image by image first: exact in float32 for hard counts up to 4096 x 4096 pixels.
        per_image = ops.sum(values * weights, axis=(1, 2))
        return per_image if per == "image" else ops.sum(per_image, axis=0, keepdims=True)

    return Counts(
        true_positives=total(targets * predictions),
        false_positives=total((1.0 - targets) * predictions),
        false_negatives=total(targets * (1.0 - predictions)),
        true_negatives=total((1.0 - targets) * (1.0 - predictions)),
    )


def confusion_counts(
    y_true,
    y_pred,
    *,
    threshold=0.5,
    per="image",
    from_logits=False,
    multi_label=False,
    ignore_index=None,
    pixel_weight=None,
):
    """Counts true and false positives and negatives of a prediction, for each class.

    Args:
        y_true: Mask tensor of any type, as in `read_pixels`.
        y_pred: Prediction tensor of shape `(batch, height, width, classes)`.
        threshold: Float, above which a probability is a yes (exclusive classes: the likeliest is the yes),
            or `None` for soft counts, sums of probabilities. Defaults to `0.5`.
        per: String, `"image"` or `"batch"`: the unit that is counted. Defaults to `"image"`.
        from_logits: Boolean, whether the prediction is logits. Defaults to `False`.
        multi_label: Boolean, whether the classes may overlap. Defaults to `False`.
        ignore_index: Integer, the mask's value for pixels that count for nothing, or `None`.
            Defaults to `None`.
        pixel_weight: Tensor that broadcasts to `(batch, height, width, 1)`, or `None`. Defaults to `None`.

    Returns:
        A `Counts` tuple of float32 tensors of shape `(batch, classes)`, or `(1, classes)` for a batch.

    Raises:
        ValueError: If mask and prediction do not fit each other or hold values they must not hold.

    Example:

    >>> import numpy as np
    >>> from tl_unet.counts import confusion_counts
    >>> mask = np.array([[[1, 1], [0, 0]]])
    >>> prediction = np.array([[[[0.9], [0.2]], [[0.7], [0.1]]]])
    >>> [int(count[0, 0]) for count in confusion_counts(mask, prediction)]
    [1, 1, 1, 1]
    """
    check_choice("per", per, ("image", "batch"))
    pixels = read_pixels(
        y_true,
        y_pred,
        from_logits=from_logits,
        multi_label=multi_label,
        ignore_index=ignore_index,
        pixel_weight=pixel_weight,
    )
    if threshold is not None:
        pixels = harden(pixels, check_number("threshold", threshold, high=1.0), multi_label)
    return count_pixels(pixels, per)


def tversky_index(counts, alpha, beta, smooth=0.0, empty=1.0):
    """Returns `(TP + smooth) / (TP + alpha FP + beta FN + smooth)`, the formula behind every overlap score.

    `alpha = beta = 1` is the Jaccard index (IoU). `alpha = beta = 0.5` is the Dice coefficient, whose usual
    `(2 TP + s) / (2 TP + FP + FN + s)` has the `smooth` of `s / 2` here.

    Args:
        counts: `Counts` tuple.
        alpha: Float, what a false positive weighs.
        beta: Float, what a false negative weighs.
        smooth: Float, added above and below. Defaults to `0.0`.
        empty: Float, the score where there is nothing to divide. Defaults to `1.0`.

    Returns:
        A tensor of the shape of the counts.
    """
    above = counts.true_positives + smooth
    below = above + alpha * counts.false_positives + beta * counts.false_negatives
    # The inner `where` keeps 0/0 out of the gradient as well. NaN is not equal to 0 and stays NaN.
    nothing = below == 0
    return ops.where(nothing, empty, above / ops.where(nothing, 1.0, below))
