"""Random changes of training images.

Geometry moves an image and its mask together, the mask by nearest neighbour; colour changes only
the image. Each image of a batch is changed in its own way.
"""

import math
from collections.abc import Callable

import keras
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
    so no pixel needs an invented label. Results repeat with the seed if `map` runs one call after
    another (its default, without `num_parallel_calls`).

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
        saturation: float, the largest change of the saturation, 0..1: 0.2 draws from 0.8 to 1.2
            times. Three channels only. Defaults to `0.2`.
        hue: float, the largest turn of the hue as a share of the circle, 0..0.5. Three channels
            only. Defaults to `0.02`.
        seed: int, of the random numbers. Defaults to `0`.

    Returns:
        A callable `(images, masks) -> (images, masks)` that keeps shapes and the masks' dtype;
        images are float32, 0..255.

    Raises:
        ValueError: If an argument is out of range; when called, if hue or saturation meet images
            that have not three channels.

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

    # On the processor, where `tf.data` uses it.
    with tf.device("CPU:0"):
        random = tf.random.Generator.from_seed(seed)
    # float32 whatever the global policy is: 16-bit layers would round pixels. On 0..1 after `_geometry`.
    common = {"data_format": "channels_last", "dtype": "float32", "value_range": (0.0, 1.0)}
    light = []
    if brightness:
        light.append(keras.layers.RandomBrightness(brightness, seed=seed + 1, **common))
    if contrast:
        # A pair, because one number means "never less contrast": Keras bounds the lower end at 0.
        light.append(keras.layers.RandomContrast((contrast, contrast), seed=seed + 2, **common))

    def augment(images, masks):
        images = tf.cast(images, tf.float32)
        if (saturation or hue) and images.shape[-1] != 3:
            raise ValueError(
                f"Saturation and hue need RGB, but the images have {images.shape[-1]} channels. "
                "Use `augmentation(saturation=0, hue=0, ...)`."
            )
        if modes[flip] or rotation or scale or translation:
            shape = tf.shape(images)
            transform = _affine(random, shape, modes[flip] or "", rotation, scale, translation)
            images = _resampled(images, transform, "BILINEAR")
            # Exact: numbers of classes are whole and small.
            moved = _resampled(tf.cast(masks, tf.float32), transform, "NEAREST")
            masks = tf.cast(moved, masks.dtype)
        if light or saturation or hue:
            images = images / 255.0
            for layer in light:
                images = layer(images, training=True)
            if saturation or hue:
                images = _recoloured(random, images, saturation, hue)
            images = images * 255.0
        return images, masks

    return augment


def _affine(random, shape, flip, rotation, scale, translation):
    """Draws for each image of a batch a flip, a turn, a change of size and a shift, as one affine map.

    One map, so that an image is interpolated once and not once for each change.

    Args:
        random: a `tf.random.Generator`.
        shape: integer tensor, the shape of the batch, channels last.
        flip: the directions in which images are flipped at random.
        rotation: as in `augmentation`.
        scale: likewise.
        translation: likewise.

    Returns:
        Float tensor `(batch, 8)`: from the pixels of the result to those of the image, as
        `tf.raw_ops.ImageProjectiveTransformV3` takes them.
    """
    count = shape[:1]
    height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)

    def sign(drawn):
        if not drawn:
            return tf.ones(count)
        return tf.where(random.uniform(count) < 0.5, -1.0, 1.0)

    angle = random.uniform(count, -1, 1) * (rotation * math.pi / 180)
    size = 1 + random.uniform(count, -scale, scale)
    right, down = sign("horizontal" in flip), sign("vertical" in flip)
    cos, sin = tf.cos(angle) / size, tf.sin(angle) / size
    xx, xy, yx, yy = right * cos, -right * sin, down * sin, down * cos
    # About the middle of the image, which the shift moves.
    x, y = (width - 1) / 2, (height - 1) / 2
    to_x = x + random.uniform(count, -translation, translation) * width
    to_y = y + random.uniform(count, -translation, translation) * height
    zero = tf.zeros(count)
    rows = [xx, xy, x - xx * to_x - xy * to_y, yx, yy, y - yx * to_x - yy * to_y, zero, zero]
    return tf.stack(rows, axis=1)


def _resampled(images, transform, interpolation):
    """Images `(batch, height, width, channels)` under the map of `_affine`, mirrored at their borders."""
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transform,
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation=interpolation,
        fill_mode="REFLECT",
    )


def _recoloured(random, images, saturation, hue):
    """RGB images in 0..1 with the saturation and the hue of each changed at random.

    Not Keras' RandomSaturation and RandomHue, each of which goes to HSV and back.
    """
    count = [tf.shape(images)[0], 1, 1]
    turned, strength, value = tf.unstack(tf.image.rgb_to_hsv(images), axis=-1)
    turned = (turned + random.uniform(count, -hue, hue)) % 1.0
    strength = tf.minimum(strength * (1 + random.uniform(count, -saturation, saturation)), 1.0)
    return tf.image.hsv_to_rgb(tf.stack([turned, strength, value], axis=-1))
