"""Masks laid over their images, as arrays of pixels: no matplotlib."""

import numpy as np

from tl_unet.plotting.figures import class_colours

HIT, FALSE_ALARM, MISS = (0, 158, 115), (213, 94, 0), (0, 114, 178)


def overlay(image, mask, *, colours=None, alpha=0.45, outline=True):
    """Lays a mask over its image; the background (class 0) stays as it is.

    Args:
        image: array `(height, width)`, or `(height, width, channels)` with 1, 3 or more channels (the first three are shown),
            values 0..255; or 0..1 if it holds fractions and none is above 1.
        mask: array `(height, width)` or `(height, width, 1)` of class indices; 255 (ignored) stays as it is.
        colours: array `(classes, 3)` of red, green and blue, 0..255. Defaults to `None`: `class_colours`.
        alpha: float in 0..1, how much the colour covers. Defaults to `0.45`.
        outline: bool, whether to draw the borders between classes in full colour. Defaults to `True`.

    Returns:
        uint8 array `(height, width, 3)`.

    Raises:
        ValueError: if the sides differ or the mask holds a class without a colour.

    Example:

    >>> import numpy as np
    >>> from tl_unet.plotting import overlay
    >>> image, mask = np.full((4, 4, 3), 255, "uint8"), np.zeros((4, 4), "uint8")
    >>> mask[:, :2] = 1
    >>> overlay(image, mask, alpha=0.5, outline=False)[0].tolist()
    [[242, 127, 190], [242, 127, 190], [255, 255, 255], [255, 255, 255]]
    """
    pixels, mask = as_rgb(image), _flat(mask)
    if pixels.shape[:2] != mask.shape:
        raise ValueError(f"The image has the sides {pixels.shape[:2]}, its mask {mask.shape}.")
    marked = (mask != 0) & (mask != 255)
    highest = int(mask[marked].max()) if marked.any() else 0
    colours = class_colours(highest + 1) if colours is None else np.asarray(colours)
    if highest >= len(colours):
        raise ValueError(
            f"The mask holds the class {highest}, but there are {len(colours)} colours."
        )
    return _paint(pixels, mask, marked, colours, alpha, outline)


def error_overlay(image, mask, prediction, *, alpha=0.55):
    """Shows where a predicted mask is right and wrong: green is found, orange a false alarm, blue missed.

    With several classes a pixel of the wrong class other than the background is a false alarm.

    Args:
        image: as in `overlay`.
        mask: array `(height, width)` or `(height, width, 1)` of class indices, the truth; 255 is ignored.
        prediction: array like `mask`, the predicted classes.
        alpha: float in 0..1, how much the colours cover. Defaults to `0.55`.

    Returns:
        uint8 array `(height, width, 3)`.

    Raises:
        ValueError: if the sides differ.

    Example:

    >>> import numpy as np
    >>> from tl_unet.plotting import error_overlay
    >>> image, truth = np.zeros((1, 3, 3)), np.array([[1, 1, 0]])
    >>> error_overlay(image, truth, np.array([[1, 0, 1]]), alpha=1).tolist()
    [[[0, 158, 115], [0, 114, 178], [213, 94, 0]]]
    """
    pixels, mask, prediction = as_rgb(image), _flat(mask), _flat(prediction)
    if not pixels.shape[:2] == mask.shape == prediction.shape:
        raise ValueError(
            f"The image has the sides {pixels.shape[:2]}, its mask {mask.shape}, the prediction {prediction.shape}."
        )
    kinds = np.zeros(mask.shape, "uint8")
    kinds[(prediction != 0) & (prediction == mask)] = 1
    kinds[(prediction != 0) & (prediction != mask)] = 2
    kinds[(prediction == 0) & (mask != 0)] = 3
    kinds[mask == 255] = 0
    colours = np.array([(0, 0, 0), HIT, FALSE_ALARM, MISS])
    return _paint(pixels, kinds, kinds != 0, colours, alpha, outline=False)


def _paint(pixels, mask, marked, colours, alpha, outline):
    colour = colours[np.where(marked, mask, 0)]
    share = np.where(marked, np.float32(alpha), 0)
    if outline:
        border = np.zeros(mask.shape, bool)
        for axis in (0, 1):
            change = np.diff(mask.astype("int32"), axis=axis) != 0
            before, after = ((0, 1), (0, 0)) if axis == 0 else ((0, 0), (0, 1))
            border |= np.pad(change, (before, after))
            border |= np.pad(change, (before[::-1], after[::-1]))
        share = np.where(border & marked, 1, share)
    share = share[..., None]
    return (pixels * (1 - share) + colour * share).astype("uint8")


def as_rgb(image):
    """RGB in 0..255."""
    image = np.asarray(image)
    image = image[..., None] if image.ndim == 2 else image
    if image.dtype.kind == "f" and image.size and image.max() <= 1:
        image = image * 255
    image = image[..., :3] if image.shape[-1] >= 3 else image[..., :1].repeat(3, -1)
    return np.clip(image, 0, 255)


def _flat(mask):
    mask = np.asarray(mask)
    mask = mask[..., 0] if mask.ndim == 3 else mask
    return mask if mask.dtype.kind in "iu" else mask.astype("int32")
