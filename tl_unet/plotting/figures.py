"""What the plots share: an empty figure, pictures as they are shown, the colours of classes."""

import colorsys

import numpy as np


def new_figure(size):
    """An empty figure that no global state of pyplot keeps alive."""
    from matplotlib.figure import Figure

    return Figure(figsize=size, layout="constrained", dpi=100)


def shown_name(name, longest=None):
    """A name as a figure can show it: cut if it is long, and with ? for what no font has, in names of files that are not UTF-8."""
    name = str(name).encode("utf-8", "replace").decode()
    return name if longest is None or len(name) <= longest else f"{name[: longest - 1]}…"


def verbatim(texts):
    """Shows texts, or those of a legend, as they are: in names two `$` are no formula."""
    for text in texts.get_texts() if hasattr(texts, "get_texts") else texts:
        text.set_parse_math(False)


def displayable(images):
    """Images with 1, 3 or more channels as RGB in 0..1; values 0..255, or 0..1 if none is above 1."""
    if images.max() > 1:
        images = images / 255
    images = images[..., :3] if images.shape[-1] >= 3 else images[..., :1].repeat(3, -1)
    return np.clip(images, 0, 1)


def class_colours(classes):
    """One colour for each class: black for the background (class 0), far apart for the others.

    Args:
        classes: int, the number of classes; 1 counts as two, background and foreground.

    Returns:
        uint8 array `(classes, 3)` of red, green and blue.

    Example:

    >>> from tl_unet.plotting import class_colours
    >>> class_colours(1).tolist()
    [[0, 0, 0], [230, 0, 126]]
    """
    # A pink that few photographs hold, then Okabe and Ito's colours, which the colour-blind tell apart; beyond them hues
    # at the golden angle.
    known = ("e6007e", "56b4e9", "009e73", "f0e442", "0072b2", "d55e00", "e69f00")
    colours = [(0, 0, 0), *(tuple(bytes.fromhex(code)) for code in known)]
    for i in range(len(colours), classes):
        rgb = colorsys.hsv_to_rgb(i * 0.381966 % 1, (0.9, 0.55)[i % 2], (0.95, 0.7, 0.85)[i % 3])
        colours.append(tuple(round(255 * part) for part in rgb))
    return np.array(colours[: max(2, classes)], "uint8")
