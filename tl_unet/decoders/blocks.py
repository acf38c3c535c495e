"""What the decoders are made of: convolution, enlarging, joining, dropout, so that an option means the same in each of them."""

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


def upsample(x, filters, method, name, factor=2):
    """Multiplies the sides of a map by `factor`; a transposed convolution also sets the number of channels to `filters`."""
    if method == "transpose":
        return keras.layers.Conv2DTranspose(filters, factor, strides=factor, name=name)(x)
    return keras.layers.UpSampling2D(factor, interpolation=method, name=name)(x)


def convolve(x, filters, normalization, name, *, kernel=3, dilation=1, relu=True):
    """Convolution, normalisation or a bias, ReLU.

    The kernels start as Keras' do (Glorot and Bengio 2010): He's, which keep the scale, would carry that of a backbone's features,
    up to hundreds, to the logits, and a saturated sigmoid learns slowly.
    """
    x = keras.layers.Conv2D(
        filters,
        kernel,
        padding="same",
        dilation_rate=dilation,
        # Normalisation subtracts the mean: a bias before it would do nothing.
        use_bias=normalization is None,
        activation="relu" if relu and normalization is None else None,
        name=name,
    )(x)
    if normalization is None:
        return x
    x = normalize(x, normalization, name=f"{name}_norm")
    return keras.layers.ReLU(name=f"{name}_relu")(x) if relu else x


def normalize(x, normalization, name):
    """One of the layers of `NORMALIZATION`; groups of at least `channels / 32`, as many as divide the channels."""
    options = {"groups": math.gcd(32, x.shape[-1])} if normalization == "group" else {}
    return NORMALIZATION[normalization](name=name, **options)(x)


def convolve_twice(x, filters, normalization, stage):
    """The U-Net's block: two 3x3 convolutions with ReLU."""
    for conv in (1, 2):
        x = convolve(x, filters, normalization, name=f"{stage}_conv{conv}")
    return x


def join(x, skip, stage, *, coarse=None):
    """Concatenates a skip connection and the map that comes from below, as the U-Net does."""
    return keras.layers.Concatenate(name=f"{stage}_concatenate")([skip, x])


def drop(x, rate, stage):
    """Spatial dropout: whole channels."""
    return keras.layers.SpatialDropout2D(rate, name=f"{stage}_dropout")(x) if rate else x


def expand(
    features,
    filters,
    *,
    upsampling,
    normalization,
    dropout,
    merge=join,
    refine=convolve_twice,
    first=1,
):
    """The way up that U-Net-like decoders share: enlarge, merge with the skip connection, refine.

    Args:
        features: list of tensors or `None`, as every decoder gets it; the last is the bridge.
        filters: sequence of `len(features) - 1` ints, coarsest stage first.
        upsampling: `"transpose"`, `"nearest"` or `"bilinear"`.
        normalization: `None`, `"batch"`, `"group"` or `"layer"`.
        dropout: float, rate of spatial dropout on what enters `refine`.
        merge: function `merge(x, skip, stage, *, coarse)` of the enlarged map, the skip connection, the stage's name and the map
            before it was enlarged. Not called where there is no skip connection. Defaults to concatenation.
        refine: function `refine(x, filters, normalization, stage)`. Defaults to two 3x3 convolutions.
        first: int, the number of the first stage, for the layers' names. Defaults to 1.

    Returns:
        Tensor with the sides of `features[0]` and `filters[-1]` channels; the last of `features` where there is no other.
    """
    *skips, x = features
    for i, (skip, width) in enumerate(zip(reversed(skips), filters, strict=True), first):
        stage = f"decoder_stage{i}"
        coarse = x
        x = upsample(coarse, width, upsampling, name=f"{stage}_upsample")
        if skip is not None:
            x = merge(x, skip, stage, coarse=coarse)
        x = drop(x, dropout, stage)
        x = refine(x, width, normalization, stage)
    return x
