"""From probabilities to classes, as the command's functions decide them."""

import numpy as np

IGNORE = 255
"""The mask value of pixels that losses and scores leave out, as in `tl_unet.data`."""


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
