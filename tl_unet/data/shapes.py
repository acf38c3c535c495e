"""Synthetic figures to segment: no download, no files, the same pictures everywhere.

Use it for tests, demos and a first look at a model. The pictures are made so that no single cue
gives the figures away: colours are drawn alike for everything, textures that most figures have also
occur in the background, and thin strokes in the figures' own colours lie about. It is no measure of
how well a model does on photographs.
"""

from collections.abc import Callable

import numpy as np

from tl_unet.data.pipeline import Subset, build_subset, check_size


def _angle_fold(angle, corners):
    """The angle from the nearest of `corners` equal directions, in -pi/corners..pi/corners."""
    sector = 2 * np.pi / corners
    return np.mod(angle + sector / 2, sector) - sector / 2


def _ellipse(rng, u, v, radius, angle):
    return u**2 + (v / rng.uniform(0.5, 1)) ** 2 < 1


def _polygon(rng, u, v, radius, angle):
    corners = rng.integers(3, 7)
    return radius * np.cos(_angle_fold(angle, corners)) < np.cos(np.pi / corners)


def _star(rng, u, v, radius, angle):
    points = rng.integers(4, 8)
    between = np.abs(_angle_fold(angle, points)) * points / np.pi  # 0 at a point, 1 between two
    return radius < 1 - between * rng.uniform(0.4, 0.65)


def _ring(rng, u, v, radius, angle):
    return (radius < 1) & (radius > rng.uniform(0.4, 0.65))


def _cross(rng, u, v, radius, angle):
    width = rng.uniform(0.2, 0.4)
    return (np.minimum(np.abs(u), np.abs(v)) < width) & (np.maximum(np.abs(u), np.abs(v)) < 1)


def _crescent(rng, u, v, radius, angle):
    return (radius < 1) & ((u - rng.uniform(0.4, 0.7)) ** 2 + v**2 > 0.75)


_FIGURES = (_ellipse, _polygon, _star, _ring, _cross, _crescent)


def _noise(rng, x, y):
    """Smooth random field: a coarse grid of random values, interpolated."""
    cells = int(rng.integers(3, 10))
    grid = rng.random((cells + 1, cells + 1))
    column, row = x * (cells - 1e-6), y * (cells - 1e-6)
    i, j = row.astype(int), column.astype(int)
    a, b = row - i, column - j
    upper = grid[i, j] * (1 - b) + grid[i, j + 1] * b
    lower = grid[i + 1, j] * (1 - b) + grid[i + 1, j + 1] * b
    return upper * (1 - a) + lower * a


def _gradient(rng, x, y):
    turn = rng.uniform(0, 2 * np.pi)
    return 0.5 + 0.7 * (np.cos(turn) * (x - 0.5) + np.sin(turn) * (y - 0.5))


def _stripes(rng, x, y):
    turn, waves = rng.uniform(0, np.pi), rng.uniform(6, 14)
    return 0.5 + 0.5 * np.sin(2 * np.pi * waves * (np.cos(turn) * x + np.sin(turn) * y))


def _checks(rng, x, y):
    cells = rng.uniform(8, 16)
    return (np.floor(x * cells) + np.floor(y * cells)) % 2


def _ripples(rng, x, y):
    waves, column, row = rng.uniform(1, 5), rng.random(), rng.random()
    return 0.5 + 0.5 * np.sin(2 * np.pi * waves * np.hypot(x - column, y - row))


_COARSE, _FINE = (_noise, _gradient, _ripples), (_stripes, _checks)


def _textured(rng, x, y, colours, fine):
    """Two colours mixed by a random texture, a fine one with the probability `fine`."""
    textures = _FINE if rng.random() < fine else _COARSE
    field = textures[rng.integers(len(textures))](rng, x, y)[..., None]
    return colours[0] * (1 - field) + colours[1] * field


def _stroke(rng, x, y):
    """A thin straight or curved line across a part of the picture: not a figure."""
    turn = rng.uniform(0, 2 * np.pi)
    u = np.cos(turn) * (x - rng.random()) + np.sin(turn) * (y - rng.random())
    v = np.cos(turn) * (y - 0.5) - np.sin(turn) * (x - 0.5)
    line = np.abs(u + rng.uniform(-1, 1) * v**2) < rng.uniform(0.01, 0.025)
    return line & (np.abs(v - rng.uniform(-0.3, 0.3)) < rng.uniform(0.1, 0.4))


def _draw(seed, index, size, classes, channels):
    """Draws picture `index` of `seed`: uint8 image and mask, whatever the other pictures are."""
    rng = np.random.default_rng((seed, index))
    height, width = size
    y, x = np.mgrid[:height, :width]
    # The shorter side is 1, so that figures keep their form in any aspect ratio; textures need
    # 0..1 on both sides.
    short = min(height, width)
    y, x = (y + 0.5) / short, (x + 0.5) / short
    rows, columns = height / short, width / short
    over, across = y / rows, x / columns

    def palette(spread):
        # The two colours of a texture are near each other, so that regions can be told apart.
        base = rng.uniform(0, 255, channels)
        return np.clip(base + rng.normal(0, spread, (2, channels)), 0, 255)

    # Patches of other textures melt into the background: colour or texture alone make no figure.
    image = _textured(rng, across, over, palette(40), fine=0.1)
    for _ in range(rng.integers(1, 5)):
        distance = np.hypot(x - rng.random() * columns, y - rng.random() * rows)
        patch = np.exp(-((distance / rng.uniform(0.15, 0.4)) ** 4))[..., None]
        image += patch * (_textured(rng, across, over, palette(40), fine=0.25) - image)
    mask = np.zeros(size, np.uint8)

    def paint(where, colours, fine):
        image[where] = _textured(rng, across[where], over[where], colours, fine)

    kinds = _FIGURES if classes == 1 else _FIGURES[: classes - 1]
    palettes = []
    for _ in range(rng.integers(1, 4)):
        kind = int(rng.integers(len(kinds)))
        reach, turn = rng.uniform(0.14, 0.34), rng.uniform(0, 2 * np.pi)
        dx, dy = x - rng.uniform(0.1, 0.9) * columns, y - rng.uniform(0.1, 0.9) * rows
        u = (np.cos(turn) * dx + np.sin(turn) * dy) / reach
        v = (np.cos(turn) * dy - np.sin(turn) * dx) / reach
        figure = kinds[kind](rng, u, v, np.hypot(u, v), np.arctan2(v, u))
        if not figure.any():  # fallen outside the picture, or thinner than a pixel
            continue
        # The best of a few draws: a figure has to differ from what it lies on.
        under = image[figure].mean(0)
        colours = max((palette(60) for _ in range(4)), key=lambda c: np.abs(c - under).mean())
        palettes.append(colours)
        paint(figure, colours, fine=0.75)
        mask[figure] = 1 if classes == 1 else kind + 1
    for _ in range(rng.integers(3, 8)):
        # In a figure's colours as often as not; it lies behind the figures.
        borrow = palettes and rng.random() < 0.5
        colours = palettes[rng.integers(len(palettes))] if borrow else palette(40)
        paint(_stroke(rng, across, over) & (mask == 0), colours, fine=0.5)

    # Uneven light and grain over everything.
    image *= rng.uniform(0.7, 1) + 0.3 * _gradient(rng, across, over)[..., None]
    image += rng.normal(0, rng.uniform(2, 12), image.shape)
    return np.clip(image, 0, 255).astype(np.uint8), mask[..., None]


def shapes(
    count: int = 256,
    *,
    size: int | tuple[int, int] = 64,
    classes: int = 1,
    channels: int = 3,
    batch_size: int = 16,
    seed: int = 0,
    shuffle: bool = False,
    augment: bool | Callable = False,
) -> Subset:
    """Draws pictures of textured figures on a textured, cluttered background.

    Each picture has one to three figures (ellipse, polygon, star, ring, cross, crescent). Picture
    `i` of a seed is always the same, whatever `count` is; give training and validation different
    seeds.

    Args:
        count: int, how many pictures. Defaults to `256`.
        size: int or `(height, width)`, at least 16. Defaults to `64`.
        classes: int, 1..7. 1: any figure against the background. More: the first `classes - 1` kinds
            in the order above, one class each, beside the background 0. Defaults to `1`.
        channels: int, channels of the images, each with colours of its own. Defaults to `3`.
        batch_size: int, pictures in a batch. Defaults to `16`.
        seed: int of at least 0, of the pictures, the order and the augmentation. TensorFlow mixes it with its global seed
            (`keras.utils.set_random_seed`) of the moment for the last two. Defaults to `0`.
        shuffle: bool, whether to draw a new order in each epoch. Defaults to `False`.
        augment: bool, or a callable such as `augmentation(...)`. Defaults to `False`.

    Returns:
        A `Subset`, kept in memory as uint8.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> from tl_unet.data import shapes
    >>> train = shapes(8, size=32, batch_size=4, shuffle=True)
    >>> image, mask = next(iter(train.dataset))
    >>> image.shape, mask.shape, mask.dtype
    (TensorShape([4, 32, 32, 3]), TensorShape([4, 32, 32, 1]), tf.float32)
    """
    size = check_size(size)
    if min(size) < 16:
        raise ValueError(f"`size` must be at least 16. Received: size={size}")
    top = len(_FIGURES) + 1
    for name, value, low, high in (
        ("count", count, 1, None),
        ("classes", classes, 1, top),
        ("channels", channels, 1, None),
        ("seed", seed, 0, None),
    ):
        whole = isinstance(value, int | np.integer)
        if not whole or value < low or (high is not None and value > high):
            span = f"in {low}..{high}" if high else f"at least {low}"
            raise ValueError(f"`{name}` must be an int {span}. Received: {name}={value!r}")
    return build_subset(
        [f"shapes-{seed}-{index:05d}" for index in range(count)],
        lambda index: _draw(seed, index, size, classes, channels),
        size=size,
        channels=channels,
        classes=classes,
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        augment=augment,
        where="shapes",
    )
