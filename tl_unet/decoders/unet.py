"""The expanding path of the U-Net, and three that change one thing of it: its blocks or its skip connections."""

import keras

from tl_unet.decoders.blocks import as_tensor, convolve, convolve_twice, expand
from tl_unet.layers import UpSampling2D


def unet_decoder(features, filters, *, upsampling, normalization, dropout):
    """The expanding path of the U-Net, with "same" padding.

    A stage doubles the sides, concatenates the skip connection of that size and applies two 3x3 convolutions with ReLU.

    Args:
        features: list of tensors `(batch, height / 2**i, width / 2**i, channels_i)` or `None`; the last is the bridge.
        filters: sequence of `len(features) - 1` ints, coarsest stage first.
        upsampling: `"transpose"` (a learned 2x2 transposed convolution), `"nearest"` or `"bilinear"`.
        normalization: `None`, `"batch"`, `"group"` or `"layer"`, between each convolution and its ReLU.
        dropout: float, the rate of spatial dropout on what enters each stage's convolutions.

    Returns:
        Tensor `(batch, height, width, filters[-1])`.

    Reference:
        - [Ronneberger et al., U-Net, 2015](https://arxiv.org/abs/1505.04597), section 2
    """
    return expand(
        features, filters, upsampling=upsampling, normalization=normalization, dropout=dropout
    )


def residual_decoder(features, filters, *, upsampling, normalization, dropout):
    """The U-Net's path with residual blocks: what enters a stage's two convolutions is added to what leaves them.

    Arguments and result are those of `unet_decoder`. Where the number of channels changes, a 1x1 convolution stands in the shortcut.

    Reference:
        - [He et al., Deep Residual Learning, 2016](https://arxiv.org/abs/1512.03385), section 3.2 and figure 2: the block
        - [Zhang et al., Deep Residual U-Net, 2018](https://arxiv.org/abs/1711.10684): in a U-Net
    """
    return expand(
        features,
        filters,
        upsampling=upsampling,
        normalization=normalization,
        dropout=dropout,
        refine=_residual_block,
    )


def _residual_block(x, filters, normalization, stage):
    x = shortcut = as_tensor(x)  # the shortcut needs it, too
    if x.shape[-1] != filters:
        shortcut = convolve(
            x, filters, normalization, name=f"{stage}_shortcut", kernel=1, relu=False
        )
    x = convolve(x, filters, normalization, name=f"{stage}_conv1")
    x = convolve(x, filters, normalization, name=f"{stage}_conv2", relu=False)
    x = keras.layers.Add(name=f"{stage}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{stage}_relu")(x)


def scse_decoder(features, filters, *, upsampling, normalization, dropout):
    """The U-Net's path with concurrent spatial and channel squeeze and excitation behind each stage.

    Arguments and result are those of `unet_decoder`. The stage's map is scaled channel by channel (what matters, from the mean over the
    image) and pixel by pixel (where, from a 1x1 convolution), and the two are added. `C * C + C` parameters for `C` channels.

    Reference:
        - [Roy et al., Concurrent Spatial and Channel Squeeze & Excitation, 2018](https://arxiv.org/abs/1803.02579), section 2
    """
    return expand(
        features,
        filters,
        upsampling=upsampling,
        normalization=normalization,
        dropout=dropout,
        refine=_excited_block,
    )


def _excited_block(x, filters, normalization, stage):
    x = convolve_twice(x, filters, normalization, stage)
    # The paper counts weights only: no biases.
    squeezed = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{stage}_squeeze")(x)
    for name, width, activation in (
        ("reduce", max(1, filters // 2), "relu"),
        ("excite", filters, "sigmoid"),
    ):
        squeezed = keras.layers.Conv2D(
            width, 1, use_bias=False, activation=activation, name=f"{stage}_{name}"
        )(squeezed)
    where = keras.layers.Conv2D(
        1, 1, use_bias=False, activation="sigmoid", name=f"{stage}_excite_pixels"
    )(x)
    by_channel = keras.layers.Multiply(name=f"{stage}_by_channel")([x, squeezed])
    by_pixel = keras.layers.Multiply(name=f"{stage}_by_pixel")([x, where])
    return keras.layers.Add(name=f"{stage}_excited")([by_channel, by_pixel])


def attention_decoder(features, filters, *, upsampling, normalization, dropout):
    """The U-Net's path with attention gates on the skip connections.

    Arguments and result are those of `unet_decoder`. A gate multiplies every pixel of a skip connection by a number between 0 and 1, which
    it reads from the skip connection and the coarser map below it. As in the paper the finest skip connection has no gate. The
    gates have no normalisation and resample bilinearly, whatever the arguments are: those are for the path itself.

    Raises:
        ValueError: if there is only one skip connection.

    Reference:
        - [Oktay et al., Attention U-Net, 2018](https://arxiv.org/abs/1804.03999), section 2, equations 1 and 2
    """
    skips = [skip for skip in features[:-1] if skip is not None]
    if len(skips) < 2:
        raise ValueError(
            "decoder='attention' has gates on all skip connections but the finest; this encoder has only one: use "
            "decoder='unet', or more stages of the encoder."
        )
    finest = skips[0]

    def gate(skip, coarse, stage):
        return skip if skip is finest else _gated(skip, coarse, stage)

    return expand(
        features,
        filters,
        upsampling=upsampling,
        normalization=normalization,
        dropout=dropout,
        gate=gate,
    )


def _gated(skip, coarse, stage):
    """The additive gate: `sigmoid(psi(relu(W_x skip + W_g coarse + b_g)) + b_psi) * skip`, computed at the coarser resolution."""
    name = f"{stage}_gate"
    width = max(1, skip.shape[-1] // 2)
    resampled = keras.layers.AveragePooling2D(2, name=f"{name}_skip_pool")(skip)
    resampled = keras.layers.Conv2D(width, 1, use_bias=False, name=f"{name}_skip")(resampled)
    signal = keras.layers.Conv2D(width, 1, name=f"{name}_signal")(coarse)
    x = keras.layers.Add(name=f"{name}_add")([resampled, signal])
    x = keras.layers.ReLU(name=f"{name}_relu")(x)
    x = keras.layers.Conv2D(1, 1, activation="sigmoid", name=f"{name}_coefficients")(x)
    x = UpSampling2D(2, interpolation="bilinear", name=f"{name}_upsample")(x)
    return keras.layers.Multiply(name=f"{name}_multiply")([skip, x])
