"""Decoders: functions from a list of feature maps to one feature map of the image's size.

A decoder sees maps only, never an encoder's name: `features[i]` has stride `2**i`, or is `None` where the encoder has no map of that
stride. It takes one number of filters per up-sampling, coarsest stage first.
"""

import functools
import math

import keras

UPSAMPLING = ("transpose", "nearest", "bilinear")
NORMALIZATION = {
    # Keras' momentum of 0.99 needs several hundred steps before the statistics are of use; small data sets have few.
    "batch": functools.partial(keras.layers.BatchNormalization, momentum=0.9),
    "group": keras.layers.GroupNormalization,
    "layer": keras.layers.LayerNormalization,
}
DEFAULT_FILTERS = (512, 256, 128, 64, 32)


def unet_decoder(features, filters, *, upsampling, normalization, dropout):
    """The expanding path of the U-Net (Ronneberger et al. 2015, section 2), with "same" padding.

    A stage doubles the sides, concatenates the skip connection of that size and applies two 3x3 convolutions with ReLU.

    Args:
        features: list of tensors `(batch, height / 2**i, width / 2**i, channels_i)` or `None`; the last is the bridge.
        filters: sequence of `len(features) - 1` ints, coarsest stage first.
        upsampling: `"transpose"` (a learned 2x2 transposed convolution), `"nearest"` or `"bilinear"`.
        normalization: `None`, `"batch"`, `"group"` or `"layer"`, between each convolution and its ReLU.
        dropout: float, the rate of spatial dropout on what enters each stage's convolutions.

    Returns:
        Tensor `(batch, height, width, filters[-1])`.
    """
    *skips, x = features
    for i, (skip, width) in enumerate(zip(reversed(skips), filters, strict=True), 1):
        stage = f"decoder_stage{i}"
        x = upsample(x, width, upsampling, name=f"{stage}_upsample")
        if skip is not None:
            x = keras.layers.Concatenate(name=f"{stage}_concatenate")([skip, x])
        if dropout:
            x = keras.layers.SpatialDropout2D(dropout, name=f"{stage}_dropout")(x)
        for conv in (1, 2):
            x = convolve(x, width, normalization, name=f"{stage}_conv{conv}")
    return x


def upsample(x, filters, method, name):
    """Doubles the sides of a map; a transposed convolution also sets the number of channels to `filters`."""
    if method == "transpose":
        return keras.layers.Conv2DTranspose(filters, 2, strides=2, name=name)(x)
    return keras.layers.UpSampling2D(2, interpolation=method, name=name)(x)


def convolve(x, filters, normalization, name):
    """3x3 convolution, normalisation or a bias, ReLU.

    The kernels start as Keras' do (Glorot and Bengio 2010): He's, which keep the scale, would carry that of a backbone's features,
    up to hundreds, to the logits, and a saturated sigmoid learns slowly.
    """
    x = keras.layers.Conv2D(
        filters,
        3,
        padding="same",
        # Normalisation subtracts the mean: a bias before it would do nothing.
        use_bias=normalization is None,
        activation="relu" if normalization is None else None,
        name=name,
    )(x)
    if normalization is None:
        return x
    options = {"groups": math.gcd(32, filters)} if normalization == "group" else {}
    x = NORMALIZATION[normalization](name=f"{name}_norm", **options)(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)


DECODERS = {"unet": unet_decoder}
