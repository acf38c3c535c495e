"""Classes of pixels: how they are decided from probabilities, and what the rare ones should weigh."""

import keras
import numpy as np

from tl_unet.argument_checks import check_number, is_whole
from tl_unet.deep_supervision import AuxiliaryMasks

IGNORE = 255
"""The mask value of pixels that losses and scores leave out (`ignore_index`), here and in `tl_unet.data`."""


def decide(probabilities, threshold=0.5):
    """Classes from probabilities: above the threshold is 1; of several classes the likeliest.

    Args:
        probabilities: array `(..., classes)`.
        threshold: float, for one class. Defaults to `0.5`.

    Returns:
        uint8 array without the last axis.

    Example:

    >>> from tl_unet.classes import decide
    >>> decide([[0.4], [0.6]]).tolist(), decide([[0.2, 0.5, 0.3]]).tolist()
    ([0, 1], [1])
    """
    probabilities = np.asarray(probabilities)
    if probabilities.shape[-1] > 1:
        return probabilities.argmax(-1).astype("uint8")
    return (probabilities[..., 0] > threshold).astype("uint8")


def check_decidable(model):
    """Refuses a model whose masks `decide` would misread, as far as its last layer tells.

    Args:
        model: `keras.Model` from images to masks.

    Raises:
        ValueError: if that layer is linear, so that the masks are logits, or a sigmoid over several classes, which may overlap; if there are
            more than 255 classes.
    """
    head, classes = head_of(model), model.output_shape[-1]
    activation = getattr(head, "activation", None)
    if activation is keras.activations.linear:
        kind = "sigmoid" if classes == 1 else "softmax"
        raise ValueError(
            f"The model gives logits (its last layer, {head.name!r}, has no activation), but classes are decided from probabilities. "
            f'Put the activation on: `keras.Model(model.input, keras.layers.Activation("{kind}")(model.output))`.'
        )
    if classes > IGNORE:
        raise ValueError(
            f"The model has {classes} classes; masks hold numbers below {IGNORE}, which marks pixels that are left out. Use `model.predict` or "
            "`tl_unet.predict_tiled`, and decide and write the classes yourself."
        )
    if classes > 1 and activation is keras.activations.sigmoid:
        raise ValueError(
            f"The model's {classes} classes may overlap (its last layer, {head.name!r}, is a sigmoid), but here every pixel is given one "
            "class. Use `model.predict` or `tl_unet.predict_tiled` with a threshold for each class, and `tl_unet.IoU(multi_label=True)` "
            'to score it; for classes that exclude one another train with activation="softmax".'
        )


def check_threshold(threshold, classes):
    """Refuses a threshold that is no probability, or that `decide` would ignore.

    Args:
        threshold: the value given.
        classes: int, of the model.

    Raises:
        ValueError: if it is not from 0 to 1, or given where the likeliest of several classes is taken.
    """
    check_number("threshold", threshold, high=1.0)
    if classes > 1 and threshold != 0.5:
        raise ValueError(
            f"A threshold is for models of one class; of this one's {classes} each pixel gets the likeliest. Leave it out. Received: "
            f"threshold={threshold!r}"
        )


def head_of(model):
    """The layer that gives a model's masks, or `None` where that can't be told; of an ensemble that of its first member."""
    if isinstance(model, keras.Sequential):
        head = model.layers[-1]
    else:  # what is no layer, such as `keras.ops.sigmoid`, is not among them
        layers = {layer.name: layer for layer in model.layers}
        head = layers.get(next(iter(getattr(model, "output_names", ())), None))
    if isinstance(head, AuxiliaryMasks):
        head = model.get_layer("mask")
    elif isinstance(head, keras.layers.Average):  # of `ensemble`, whose members are alike
        head = next((layer for layer in model.layers if layer.name == "member1"), head)
    return head_of(head) if isinstance(head, keras.Model) else head


def balanced_class_weights(masks, classes, *, power=1.0, ignore_index=IGNORE):
    """Weights for `class_weights=` of the losses that make rare classes count more, from the masks of a training set.

    The weight of a class is its share of the pixels to the power of `-power`, scaled so that the mean weight of a pixel is 1: a
    cross-entropy keeps its size. Large weights make a loss noisy: for a class with less than a thousandth of the pixels try
    `power=0.5` first, or `DiceLoss`, to which all classes are alike whatever their size.

    Args:
        masks: array of class numbers, of any shape; or an iterable of such arrays, or of batches `(image, mask)` or
            `(image, mask, sample_weight)` such as a `tf.data.Dataset` that ends. With a channel for each class (zeros and ones,
            the last axis) for arrays of at least three axes whose last one is `classes` and not 1.
        classes: int, the number of output channels; 1 gives two weights, background and foreground.
        power: float of at least 0: 1 gives all classes the same sum of weights, 0 weighs all pixels the same. Defaults to `1.0`.
        ignore_index: int, value of pixels to leave out, or `None`. Defaults to `255`.

    Returns:
        List of floats, one for each class; 0 for a class that has no pixels.

    Raises:
        ValueError: if an argument is not as above, or the masks hold other values or no pixel.

    Example:

    >>> import numpy as np
    >>> from tl_unet import balanced_class_weights
    >>> masks = np.array([0] * 60 + [1] * 30 + [2] * 10 + [255] * 5)
    >>> [round(weight, 2) for weight in balanced_class_weights(masks, classes=3)]
    [0.56, 1.11, 3.33]
    """
    power = check_number("power", power)
    if not is_whole(classes) or classes < 1:
        raise ValueError(f"`classes` must be a positive int; received {classes!r}.")
    classes = int(classes)
    batches = [masks] if hasattr(masks, "shape") else masks
    numbers, ignored = np.zeros(max(2, classes), np.int64), False
    for batch in batches:
        pair = isinstance(batch, tuple | list) and len(batch) > 1 and hasattr(batch[1], "shape")
        mask = np.asarray(batch[1] if pair else batch)
        numbers += _pixels_of_classes(mask, classes, ignore_index)
        ignored = ignored or (ignore_index is not None and (mask == ignore_index).any())
    if classes == 1 and ignored and not numbers[1]:
        raise ValueError(
            f"The masks hold {ignore_index}, which is ignored, but no 1. If {ignore_index} is the object, pass "
            f"`masks == {ignore_index}`, and train on such masks, too."
        )
    if not numbers.any():
        raise ValueError("The masks hold no pixel that counts: there is nothing to balance.")
    share = numbers / numbers.sum()
    weights = np.where(numbers > 0, np.where(numbers > 0, share, 1.0) ** -power, 0.0)
    return (weights / (weights * share).sum()).tolist()


def _pixels_of_classes(mask, classes, ignore_index):
    """How many pixels each class has in a mask of class numbers or of one channel a class."""
    kept = np.ones(mask.shape, bool) if ignore_index is None else mask != ignore_index
    if mask.ndim >= 3 and mask.shape[-1] == classes > 1:
        values, top = mask[kept], 1
        found = np.where(kept, mask, 0).reshape(-1, classes).astype(np.int64).sum(axis=0)
    else:
        values, top = mask[kept], max(2, classes) - 1
        found = None
    if values.size and not np.isin(np.unique(values), np.arange(top + 1)).all():
        raise ValueError(
            f"The masks hold the values {np.unique(values)[:6].tolist()}, but must hold whole numbers from 0 to {top}"
            + (f" or {ignore_index}, which is ignored." if ignore_index is not None else ".")
        )
    return np.bincount(values.astype(np.int64), minlength=top + 1) if found is None else found
