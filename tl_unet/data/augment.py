"""Random changes of training images, made by Keras' own augmentation layers.

Geometry moves an image and its mask together, the mask by nearest neighbour; colour changes only
the image. Each image of a batch is changed in its own way.
"""

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

    # float32 whatever the global policy is: 16-bit layers would round pixels and class numbers.
    common = {"data_format": "channels_last", "dtype": "float32"}
    geometry, colour = [], []
    if modes[flip]:
        geometry.append(keras.layers.RandomFlip(modes[flip], seed=seed, **common))
    if rotation:
        geometry.append(keras.layers.RandomRotation(rotation / 360, seed=seed + 1, **common))
    if scale:
        geometry.append(keras.layers.RandomZoom(scale, seed=seed + 2, **common))
    if translation:
        shift = keras.layers.RandomTranslation(translation, translation, seed=seed + 7, **common)
        geometry.append(shift)
    # Colour works on 0..1: Keras' RandomSaturation clips the saturation at the top of `value_range`,
    # which in 0..255 is no limit and lets colours turn negative.
    common["value_range"] = (0.0, 1.0)
    if brightness:
        colour.append(keras.layers.RandomBrightness(brightness, seed=seed + 3, **common))
    if contrast:
        # A pair, because one number means "never less contrast": Keras bounds the lower end at 0.
        pair = (contrast, contrast)
        colour.append(keras.layers.RandomContrast(pair, seed=seed + 4, **common))
    if saturation:
        # Keras' factor f multiplies the saturation by f / (1 - f).
        pair = ((1 - saturation) / (2 - saturation), (1 + saturation) / (2 + saturation))
        colour.append(keras.layers.RandomSaturation(pair, seed=seed + 5, **common))
    if hue:
        # Keras turns by half its factor, either way.
        colour.append(keras.layers.RandomHue(2 * hue, seed=seed + 6, **common))

    def augment(images, masks):
        images = tf.cast(images, tf.float32)
        if (saturation or hue) and images.shape[-1] != 3:
            raise ValueError(
                f"Saturation and hue need RGB, but the images have {images.shape[-1]} channels. "
                "Use `augmentation(saturation=0, hue=0, ...)`."
            )
        dtype = masks.dtype
        batch = {"images": images, "segmentation_masks": tf.cast(masks, tf.float32)}
        for layer in geometry:
            batch = layer(batch, training=True)
        images = batch["images"]
        if colour:
            images = images / 255.0
            for layer in colour:
                images = layer(images, training=True)
            images = images * 255.0
        return images, tf.cast(batch["segmentation_masks"], dtype)

    return augment
