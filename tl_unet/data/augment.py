"""Random changes of training images.

Geometry moves an image and its mask together, the mask by nearest neighbour; colour changes only
the image. Each image of a batch is changed in its own way.
"""

import functools
import math
from collections.abc import Callable

import numpy as np
import tensorflow as tf


def augmentation(
    flip: bool | str = True,
    rotation: float = 15.0,
    scale: float = 0.2,
    translation: float = 0.1,
    brightness: float = 0.1,
    contrast: float = 0.2,
    saturation: float = 0.2,
    hue: float = 0.02,
    seed: int = 0,
) -> Callable:
    """Builds a random change of `(images, masks)` batches, for `tf.data` or for eager use.

    Flip, rotation, scale and translation are one affine map, so that an image is interpolated once.
    What comes in from outside the picture is its mirror image, in the image and in the mask alike,
    so no pixel needs an invented label. What is drawn follows from the seed and the number of the
    call; so results repeat if `map` runs one call after another (its default, without
    `num_parallel_calls`). With a third argument it follows from the seed and from that argument alone: so the
    data sets of `tl_unet.data` augment batches beside each other.

    In graphs, such as those of `tf.data`, it is compiled by XLA where TensorFlow can and the sides are known: the first batch of a
    shape takes about a second more, others less than half the time.

    Args:
        flip: `True` or `"horizontal"`, `"vertical"`, `"horizontal_and_vertical"`, or `False`.
            Defaults to `True`.
        rotation: float, the largest angle either way in degrees, 0..180. Defaults to `15.0`.
        scale: float, the largest change of size either way, 0..1 (exclusive): 0.2 draws from
            0.8 to 1.2. Defaults to `0.2`.
        translation: float, the largest shift either way as a share of the side, 0..1 (exclusive);
            vertical and horizontal shifts are drawn apart. Defaults to `0.1`.
        brightness: float, the largest shift either way as a share of the value range 0..255.
            Defaults to `0.1`.
        contrast: float, the largest change of the contrast either way, 0..1. Defaults to `0.2`.
        saturation: float, the largest change of the chroma in YIQ (not HSV), 0..1: 0.2 draws from
            0.8 to 1.2 times. Three channels only. Defaults to `0.2`.
        hue: float, the largest turn of the chroma in YIQ as a share of the circle, 0..0.5. Neither
            changes the luma, but where values are clipped to 0..255. Three channels only.
            Defaults to `0.02`.
        seed: int, of the random numbers. Defaults to `0`.

    Returns:
        A callable `(images, masks, seed=None) -> (images, masks)` that keeps shapes and the masks' dtype.
        Images are `(batch, height, width, channels)`, 0..255, and come out as float32; masks
        `(batch, height, width, 1)`; `seed` is an integer tensor `(2,)` or `None`.

    Raises:
        ValueError: If an argument is out of range; when called, if images or masks are no batches or differ in
            their sides, or if hue or saturation meet images that have not three channels.

    Example:

    >>> import numpy as np
    >>> from tl_unet.data import augmentation
    >>> images = np.full((2, 32, 32, 3), 100.0, "float32")
    >>> masks = np.zeros((2, 32, 32, 1), "int32")
    >>> images, masks = augmentation(rotation=30, seed=1)(images, masks)
    >>> images.shape, masks.dtype
    (TensorShape([2, 32, 32, 3]), tf.int32)
    """
    modes = {True: "horizontal", False: None, None: None} | {
        mode: mode for mode in ("horizontal", "vertical", "horizontal_and_vertical")
    }
    if flip not in modes:
        raise ValueError(f"`flip` must be one of {list(modes)}. Received: flip={flip!r}")
    limits = {"rotation": 180, "brightness": 1, "contrast": 1, "saturation": 1, "hue": 0.5}
    given = {
        "rotation": rotation,
        "brightness": brightness,
        "contrast": contrast,
        "saturation": saturation,
        "hue": hue,
    }
    for name, value in given.items():
        if not 0 <= value <= limits[name]:
            raise ValueError(f"`{name}` must be in 0..{limits[name]}. Received: {name}={value}")
    for name, value in (("scale", scale), ("translation", translation)):
        if not 0 <= value < 1:
            raise ValueError(f"`{name}` must be at least 0 and below 1. Received: {name}={value}")

    # Made on the processor, where `tf.data` uses it.
    with tf.device("CPU:0"):
        generator = tf.random.Generator.from_seed(seed)
        own_seed = tf.constant(seed, tf.int64)

    change = _change(modes[flip] or "", rotation, scale, translation, brightness, contrast, saturation, hue)  # fmt: skip

    def augment(images, masks, seed=None):
        images, masks = tf.convert_to_tensor(images), tf.convert_to_tensor(masks)
        # In a graph the gathers of `_resampled` wait for the check: they would fail first, with a message about indices.
        with tf.control_dependencies([_check_shapes(images, masks, saturation or hue)]):
            images, masks = tf.cast(images, tf.float32), tf.identity(masks)
        if seed is None:
            seed = generator.uniform_full_int([2], tf.int32)
        seed = tf.random.experimental.stateless_fold_in(seed, own_seed)
        # Drawn outside of what is compiled: compilers have random numbers of their own.
        shape = [len(_DRAWS), tf.shape(images)[0]]
        changed = change(images, masks, tf.random.stateless_uniform(shape, seed, -1, 1))
        # A graph forgets the sides.
        return tuple(map(tf.ensure_shape, changed, (images.shape, masks.shape)))

    return augment


@functools.lru_cache
def _change(flip, rotation, scale, translation, brightness, contrast, saturation, hue):
    """A function of images, masks and random numbers. The same options give the same one, so that it is compiled once in a process."""

    def plain(images, masks, numbers):
        draws = dict(zip(_DRAWS, tf.unstack(numbers), strict=True))
        if flip or rotation or scale or translation:
            transform = _affine(draws, images, flip, rotation, scale, translation)
            images, masks = _resampled(images, masks, transform)
        if brightness or contrast or saturation or hue:
            images = _recoloured(draws, images, brightness, contrast, saturation, hue)
        return images, masks

    # One loop over the pixels in place of dozens.
    compiled = tf.function(plain, jit_compile=True, reduce_retracing=True)

    def change(images, masks, numbers):
        # Compiling takes a second for each shape: it does not pay where sides change, nor for a look at a batch.
        if tf.executing_eagerly() or None in images.shape[1:] or not _compiles():
            return plain(images, masks, numbers)
        with tf.device("CPU:0"):
            return compiled(images, masks, numbers)

    return change


@functools.cache
def _compiles():
    """Whether XLA compiles for the processor here: not all builds of TensorFlow can."""
    try:
        with tf.init_scope(), tf.device("CPU:0"):
            tf.function(tf.negative, jit_compile=True)(tf.constant(0.0))
    except tf.errors.OpError:
        return False
    return True


def _check_shapes(images, masks, rgb):
    """Raises a ValueError for shapes that cannot be augmented; `rgb` tells whether three channels are needed.

    Returns:
        In a graph the operation that checks the sides which are known only when it runs.
    """
    for name, tensor in (("images", images), ("masks", masks)):
        if tensor.shape.rank != 4:
            raise ValueError(
                f"`{name}` must be a batch of shape (batch, height, width, channels). Received: shape {tensor.shape}"
            )
    message = "Images and masks must have the same height and width, and be as many."
    if not images.shape[:3].is_compatible_with(masks.shape[:3]):
        raise ValueError(f"{message} Received: shapes {images.shape} and {masks.shape}")
    sides_agree = tf.debugging.assert_equal(
        tf.shape(images)[:3], tf.shape(masks)[:3], message=message
    )
    channels = images.shape[-1]
    if rgb and channels is None:
        raise ValueError(
            "Saturation and hue need RGB, but the number of the images' channels is unknown. Set it by "
            "`tf.ensure_shape(images, (None, None, None, 3))`."
        )
    if rgb and channels != 3:
        raise ValueError(
            f"Saturation and hue need RGB, but the images have {channels} channels. Use `augmentation(saturation=0, hue=0, ...)`."
        )
    return sides_agree


# What is drawn for each image, in -1..1.
_DRAWS = ("angle", "size", "flip_x", "flip_y", "shift_x", "shift_y", "brightness", "contrast", "saturation", "hue")  # fmt: skip


def _affine(draws, images, flip, rotation, scale, translation):
    """A flip, a turn, a change of size and a shift of each image, as one affine map: an image is interpolated once.

    Args:
        draws: for each name of `_DRAWS` a float tensor `(batch,)` in -1..1.
        images: the batch, channels last.
        flip: the directions in which images are flipped at random.
        rotation: as in `augmentation`.
        scale: likewise.
        translation: likewise.

    Returns:
        Float tensor `(2, 3, batch)`: from the columns and rows of the result (and 1) to those of the image.
    """
    count, *sides = tf.unstack(tf.shape(images)[:3])
    height, width = (tf.cast(side, tf.float32) for side in sides)

    def sign(drawn, possible):
        return tf.where(drawn < 0, -1.0, 1.0) if possible else tf.ones([count])

    angle = draws["angle"] * (rotation * math.pi / 180)
    size = 1 + draws["size"] * scale
    right, down = (
        sign(draws["flip_x"], "horizontal" in flip),
        sign(draws["flip_y"], "vertical" in flip),
    )
    cos, sin = tf.cos(angle) / size, tf.sin(angle) / size
    xx, xy, yx, yy = right * cos, -right * sin, down * sin, down * cos
    # About the middle of the image, which the shift moves.
    x, y = (width - 1) / 2, (height - 1) / 2
    to_x = x + draws["shift_x"] * translation * width
    to_y = y + draws["shift_y"] * translation * height
    return tf.stack([(xx, xy, x - xx * to_x - xy * to_y), (yx, yy, y - yx * to_x - yy * to_y)])


def _resampled(images, masks, transform):
    """Images and masks under the map of `_affine`, mirrored at their borders: between pixels images are interpolated, masks have the nearest.

    By gathers, which XLA can compile. `tf.raw_ops.ImageProjectiveTransformV3`, of which it cannot, finds the place of each value of each
    channel anew, and takes several times as long.
    """
    count, *sides = tf.unstack(tf.shape(images)[:3])
    grid = (tf.cast(tf.range(side), tf.float32) for side in sides)
    rows, columns = tf.meshgrid(*grid, indexing="ij")
    along_x, along_y, shift = tf.unstack(transform[..., None, None], axis=1)
    places = along_x * columns + along_y * rows + shift  # (x or y, batch, height, width)
    before = tf.floor(places)
    x_share, y_share = tf.unstack(places - before)
    x, y = tf.unstack(tf.cast(before, tf.int32))
    left, right = (_mirrored(x + step, sides[1]) for step in (0, 1))
    first = (tf.range(count) * sides[0])[:, None, None]
    upper, lower = ((first + _mirrored(y + step, sides[0])) * sides[1] for step in (0, 1))

    pixels = tf.reshape(images, [-1, tf.shape(images)[-1]])

    def between(row):
        start = tf.gather(pixels, row + left)
        return start + x_share[..., None] * (tf.gather(pixels, row + right) - start)

    top = between(upper)
    images = top + y_share[..., None] * (between(lower) - top)
    nearest = tf.where(y_share < 0.5, upper, lower) + tf.where(x_share < 0.5, left, right)
    return images, tf.gather(tf.reshape(masks, [-1, tf.shape(masks)[-1]]), nearest)


def _mirrored(places, side):
    """Whole numbers of pixels, those outside of `0 <= place < side` mirrored at the border's edge, again and again."""
    places = tf.math.floormod(places, 2 * side)
    return tf.minimum(places, 2 * side - 1 - places)


def _recoloured(draws, images, brightness, contrast, saturation, hue):
    """Images in 0..255 with the brightness, contrast, saturation and hue of each changed at random; 0 changes nothing.

    Each of the four is affine, so together they are one product with a matrix and one sum for each image. Not by Keras'
    layers: they keep a state, which batches beside each other would change in any order, and take several passes.
    """
    factor = 1 + draws["contrast"] * contrast
    shift = draws["brightness"][:, None] * (255 * brightness)
    if contrast:
        shift += (1 - factor)[:, None] * tf.reduce_mean(images, axis=(1, 2))
    if saturation or hue:
        matrix = _colour_matrix(1 + draws["saturation"] * saturation, draws["hue"] * hue)
        shape = tf.shape(images)
        pixels = tf.reshape(images, [shape[0], -1, 3])
        changed = pixels @ (matrix * factor[:, None, None])
        changed += (shift * tf.ones([3]))[:, None, :] @ matrix
        changed = tf.ensure_shape(tf.reshape(changed, shape), images.shape)
    else:
        changed = images * factor[:, None, None, None] + shift[:, None, None, :]
    return tf.clip_by_value(changed, 0.0, 255.0)


# From RGB to luma and two axes of chroma (YIQ, NTSC 1953).
_YIQ = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])


def _colour_matrix(saturation, turn):
    """Matrices `(batch, 3, 3)` that scale and turn the chroma of a row of RGB and keep its luma.

    Args:
        saturation: factors `(batch,)`.
        turn: angles `(batch,)` as shares of the circle.
    """
    luma, *chroma = np.eye(3)
    back = np.linalg.inv(_YIQ)
    grey, straight, across = (
        tf.constant((back @ part @ _YIQ).T, tf.float32)
        for part in (
            np.outer(luma, luma),
            sum(np.outer(axis, axis) for axis in chroma),
            np.outer(chroma[1], chroma[0]) - np.outer(chroma[0], chroma[1]),
        )
    )
    angle = (2 * math.pi) * turn
    cos, sin = (saturation * f(angle) for f in (tf.cos, tf.sin))
    return grey + cos[:, None, None] * straight + sin[:, None, None] * across
