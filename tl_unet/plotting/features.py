"""What `tl_unet.inspection` finds, as pictures: heat maps over images, and sheets of feature maps."""

import numpy as np

from tl_unet.plotting.figures import displayable, new_figure
from tl_unet.plotting.overlays import as_rgb


def heat_overlay(image, heat, *, alpha=0.6, colormap="inferno"):
    """Lays a heat map over its image in grey, so that all colour is heat.

    Args:
        image: array `(height, width)`, or `(height, width, channels)` with 1, 3 or more channels (the first three are shown),
            values 0..255; or 0..1 if it holds fractions and none is above 1.
        heat: array `(height, width)` in 0..1, from `tl_unet.grad_cam`.
        alpha: float in 0..1, how much the colour covers. Defaults to `0.6`.
        colormap: str, a colour map of matplotlib. Defaults to `"inferno"`: dark for 0, bright for 1.

    Returns:
        uint8 array `(height, width, 3)`.

    Raises:
        ValueError: if the sides differ, or the heat is outside of 0..1.

    Example:

    >>> import numpy as np
    >>> from tl_unet.plotting import heat_overlay
    >>> heat = np.array([[0.0, 1.0]])
    >>> heat_overlay(np.zeros((1, 2, 3), "uint8"), heat, alpha=1).tolist()
    [[[0, 0, 3], [252, 254, 164]]]
    """
    from matplotlib import colormaps

    pixels, heat = as_rgb(image), np.asarray(heat)
    if pixels.shape[:2] != heat.shape:
        raise ValueError(
            f"The image has the sides {pixels.shape[:2]}, its heat map the shape {heat.shape}."
        )
    if not ((heat >= 0) & (heat <= 1)).all():
        raise ValueError(
            f"`heat` must be in 0..1; it goes from {heat.min():.3g} to {heat.max():.3g}."
        )
    grey = pixels.mean(-1, keepdims=True)
    colour = 255 * colormaps[colormap](heat.astype(float))[..., :3]
    return (grey * (1 - alpha) + colour * alpha).astype("uint8")


def feature_map_sheet(maps, *, columns=8, image=None, title=None):
    """Draws the channels of most variance of feature maps, one row per stride.

    Each channel has a grey scale of its own, black for its lowest and white for its highest value.

    Args:
        maps: mapping from strides to arrays `(height, width, channels)`, from `tl_unet.feature_maps`.
        columns: int, how many channels are shown of each map. Defaults to `8`.
        image: array `(height, width, channels)` to show before each row, values as in `heat_overlay`. Defaults to `None`: none.
        title: str above the sheet. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: if there is no map, `columns` is below 1, or a map has another number of axes.

    Example:

    >>> import numpy as np
    >>> from tl_unet.plotting import feature_map_sheet
    >>> maps = {2: np.random.default_rng(0).random((8, 8, 16)), 4: np.zeros((4, 4, 32))}
    >>> figure = feature_map_sheet(maps, columns=4)
    >>> len(figure.axes)
    8
    """
    maps = {stride: np.asarray(values, float) for stride, values in maps.items()}
    shapes = [values.shape for values in maps.values()]
    if not maps or columns < 1 or any(len(shape) != 3 for shape in shapes):
        raise ValueError(
            "`maps` needs one or more arrays (height, width, channels) by their strides, and `columns` must be 1 or more; "
            f"received the shapes {shapes} and columns={columns!r}."
        )
    beside = 0 if image is None else 1
    figure = new_figure((1.25 * (columns + beside) + 1.2, 1.25 * len(maps) + 0.4))
    grid = figure.subplots(len(maps), columns + beside, squeeze=False)
    for cells, (stride, values) in zip(grid, maps.items(), strict=True):
        if beside:
            cells[0].imshow(displayable(np.atleast_3d(np.asarray(image, float))))
        strongest = np.argsort(-values.var(axis=(0, 1)), kind="stable")[:columns]
        for axes, channel in zip(cells[beside:], strongest, strict=False):
            axes.imshow(values[..., channel], cmap="gray", interpolation="nearest")
            axes.set_title(f"{channel}", fontsize=6, pad=2)
        height, width, channels = values.shape
        label = f"stride {stride}\n{height}x{width}\n{channels} channels"
        cells[0].set_ylabel(label, fontsize=7, rotation=0, ha="right", va="center")
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        if not axes.images:
            axes.axis("off")
    if title:
        figure.suptitle(title, fontsize=10)
    return figure
