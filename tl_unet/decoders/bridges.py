"""What may stand between encoder and decoder: a function from the coarsest map to another of the same size."""

import keras

from tl_unet.decoders.blocks import convolve, drop, normalize

_ASPP_FILTERS = 256


def aspp(x, stride, *, normalization, dropout):
    """Atrous spatial pyramid pooling: the map seen at several scales at once, and as a whole.

    A 1x1 and three dilated 3x3 convolutions and the mean over the image (with a 1x1 convolution), of 256 channels each; concatenated, they pass a
    1x1 convolution to 256 channels. The dilations are 6, 12 and 18 at stride 16, half as much at 32, twice as much at 8.

    Args:
        x: tensor `(batch, height / stride, width / stride, channels)`.
        stride: int.
        normalization: `None`, `"batch"`, `"group"` or `"layer"`, in every convolution.
        dropout: float, the rate of spatial dropout on the result.

    Returns:
        Tensor `(batch, height / stride, width / stride, 256)`.

    Reference:
        - [Chen et al., Rethinking Atrous Convolution, 2017](https://arxiv.org/abs/1706.05587), section 3.3
        - [Chen et al., DeepLabv3+, 2018](https://arxiv.org/abs/1802.02611), section 3.1
    """
    rate = max(1, 6 * 16 // stride)
    branches = [convolve(x, _ASPP_FILTERS, normalization, "bridge_conv", kernel=1)]
    branches += [
        convolve(x, _ASPP_FILTERS, normalization, f"bridge_dilated{n}", dilation=n * rate)
        for n in (1, 2, 3)
    ]
    whole = keras.layers.GlobalAveragePooling2D(keepdims=True, name="bridge_pool")(x)
    whole = convolve(whole, _ASPP_FILTERS, normalization, "bridge_pool_conv", kernel=1)
    # A 1x1 convolution of maps side by side is the sum of one of each: so the mean, a single pixel, need not be
    # enlarged first to sides that may be unknown.
    x = keras.layers.Concatenate(name="bridge_concatenate")(branches)
    x = keras.layers.Conv2D(
        _ASPP_FILTERS, 1, use_bias=normalization is None, name="bridge_project"
    )(x)
    whole = keras.layers.Conv2D(_ASPP_FILTERS, 1, use_bias=False, name="bridge_project_pool")(whole)
    x = keras.layers.Add(name="bridge_add")([x, whole])
    if normalization is not None:
        x = normalize(x, normalization, name="bridge_norm")
    return drop(keras.layers.ReLU(name="bridge_relu")(x), dropout, "bridge")


BRIDGES = {"none": None, None: None, "aspp": aspp}
