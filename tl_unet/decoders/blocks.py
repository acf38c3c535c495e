"""What the decoders are made of: convolution, enlarging, joining, dropout, so that an option means the same in each of them."""

import dataclasses
import functools
import math
from typing import Any

import keras

from tl_unet.layers import BatchNormalization, UpConv2D, UpSampling2D

UPSAMPLING = ("transpose", "nearest", "bilinear")
NORMALIZATION = {
    # Keras' momentum of 0.99 needs several hundred steps before the statistics are of use; small data sets have few.
    "batch": functools.partial(BatchNormalization, momentum=0.9),
    "group": keras.layers.GroupNormalization,
    "layer": keras.layers.LayerNormalization,
}


def upsample(x, filters, method, name, factor=2):
    """Multiplies the sides of a map.

    Args:
        x: tensor `(batch, height, width, channels)`.
        filters: int, channels of a transposed convolution; the other methods keep those of `x`.
        method: `"transpose"`, `"nearest"` or `"bilinear"`.
        name: str, the layer's name.
        factor: int. Defaults to 2.

    Returns:
        Tensor `(batch, factor * height, factor * width, filters or channels)`.
    """
    if method == "transpose":
        return keras.layers.Conv2DTranspose(filters, factor, strides=factor, name=name)(x)
    return UpSampling2D(factor, interpolation=method, name=name)(x)


@dataclasses.dataclass(frozen=True)
class Enlarged:
    """A map that is to be doubled and set behind skip connections of twice its sides: not yet done, as a 3x3 convolution need not.

    Args:
        coarse: tensor, the map.
        stage: str, the first part of the layers' names.
        skips: tuple of tensors.
    """

    coarse: Any
    stage: str
    skips: tuple = ()

    def tensor(self):
        """The maps together, for what is no 3x3 convolution."""
        x = upsample(self.coarse, None, "nearest", name=f"{self.stage}_upsample")
        return concatenate([*self.skips, x], self.stage)


def enlarge(x, filters, method, stage, factor=2):
    """`upsample`, put off where `convolve` can do better.

    Args:
        x: tensor `(batch, height, width, channels)`.
        filters: int, as in `upsample`.
        method: `"transpose"`, `"nearest"` or `"bilinear"`.
        stage: str, the first part of the layers' names.
        factor: int. Defaults to 2.

    Returns:
        A tensor, or with `"nearest"` and factor 2 an `Enlarged` map, for `join`, `convolve` or `as_tensor`.
    """
    if method == "nearest" and factor == 2:
        return Enlarged(x, stage)
    return upsample(x, filters, method, name=f"{stage}_upsample", factor=factor)


def as_tensor(x):
    """A tensor as it is, an `Enlarged` map as a tensor, enlarged and concatenated.

    Args:
        x: tensor, or what `enlarge` or `join` returned.

    Returns:
        Tensor.
    """
    return x.tensor() if isinstance(x, Enlarged) else x


def concatenate(maps, stage):
    """Concatenates maps, if there are several."""
    return keras.layers.Concatenate(name=f"{stage}_concatenate")(maps) if len(maps) > 1 else maps[0]


def convolve(x, filters, normalization, name, *, kernel=3, dilation=1, relu=True):
    """Convolution, normalisation or a bias, ReLU, of a tensor or an `Enlarged` map.

    The kernels start as Keras' do (Glorot and Bengio 2010): He's, which keep the scale, would carry that of a backbone's features,
    up to hundreds, to the logits, and a saturated sigmoid learns slowly.

    Args:
        x: tensor, or what `enlarge` or `join` returned.
        filters: int, channels of the result.
        normalization: `None`, `"batch"`, `"group"` or `"layer"`.
        name: str, the layers' names begin with it.
        kernel: int, the side of the kernel. Defaults to 3.
        dilation: int. Defaults to 1.
        relu: bool. Defaults to `True`.

    Returns:
        Tensor with `filters` channels and the sides of `x`.
    """
    options = {
        # Normalisation subtracts the mean: a bias before it would do nothing.
        "use_bias": normalization is None,
        "activation": "relu" if relu and normalization is None else None,
        "name": name,
    }
    if isinstance(x, Enlarged) and kernel == 3 and dilation == 1:
        x = UpConv2D(filters, **options)([*x.skips, x.coarse])
    else:
        conv = keras.layers.Conv2D(
            filters, kernel, padding="same", dilation_rate=dilation, **options
        )
        x = conv(as_tensor(x))
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


def join(x, skips, stage):
    """Sets the map that comes from below behind the skip connections, as the U-Net does.

    Args:
        x: tensor, or what `enlarge` returned.
        skips: list of tensors with the sides of `x`.
        stage: str, the first part of the layers' names.

    Returns:
        A tensor, or an `Enlarged` map.
    """
    if isinstance(x, Enlarged):
        return dataclasses.replace(x, skips=(*skips, *x.skips))
    return concatenate([*skips, x], stage)


def drop(x, rate, stage):
    """Spatial dropout: whole channels."""
    if not rate:
        return x
    return keras.layers.SpatialDropout2D(rate, name=f"{stage}_dropout")(as_tensor(x))


def expand(
    features,
    filters,
    *,
    upsampling,
    normalization,
    dropout,
    gate=None,
    refine=convolve_twice,
    first=1,
):
    """The way up that U-Net-like decoders share: enlarge, concatenate with the skip connection, refine.

    Args:
        features: list of tensors or `None`, as every decoder gets it; the last is the bridge.
        filters: sequence of `len(features) - 1` ints, coarsest stage first.
        upsampling: `"transpose"`, `"nearest"` or `"bilinear"`.
        normalization: `None`, `"batch"`, `"group"` or `"layer"`.
        dropout: float, rate of spatial dropout on what enters `refine`.
        gate: function `gate(skip, coarse, stage)` of a skip connection, the map from below before it is enlarged, and the stage's
            name, that returns what is concatenated. Not called where there is no skip connection. Defaults to `None`: the skip connection.
        refine: function `refine(x, filters, normalization, stage)`, `x` as `convolve` takes it. Defaults to two 3x3 convolutions.
        first: int, the number of the first stage, for the layers' names. Defaults to 1.

    Returns:
        Tensor with the sides of `features[0]` and `filters[-1]` channels; the last of `features` where there is no other.
    """
    *skips, x = features
    for i, (skip, width) in enumerate(zip(reversed(skips), filters, strict=True), first):
        stage = f"decoder_stage{i}"
        coarse = x
        x = enlarge(coarse, width, upsampling, stage)
        if skip is not None:
            x = join(x, [gate(skip, coarse, stage) if gate else skip], stage)
        x = drop(x, dropout, stage)
        x = refine(x, width, normalization, stage)
    return x
