"""Light decoders, which add maps where the U-Net concatenates them: LinkNet and the feature pyramid network (FPN)."""

import keras

from tl_unet.decoders.blocks import convolve, drop, enlarge, normalize, upsample

_WITHOUT_SKIP = 32  # channels of LinkNet's last block, at full resolution


def linknet_filters(channels):
    """LinkNet's own numbers of filters: those of the skip connections, so that both can be added; 32 where there is none."""
    return tuple(_WITHOUT_SKIP if c is None else c for c in reversed(channels[:-1]))


def linknet_decoder(features, filters, *, upsampling, normalization, dropout):
    """LinkNet: a stage narrows, doubles the sides and widens, and adds the skip connection.

    The three steps are a 1x1 convolution to a quarter of the channels, a 3x3 transposed convolution (or up-sampling and a 3x3 convolution) and
    a 1x1 convolution to `filters`, each with ReLU. A skip connection with another number of channels passes a 1x1 convolution first; with
    the default filters none does.

    Args:
        features: list of tensors `(batch, height / 2**i, width / 2**i, channels_i)` or `None`; the last is the bridge.
        filters: sequence of `len(features) - 1` ints, coarsest stage first.
        upsampling: `"transpose"` (the paper's), `"nearest"` or `"bilinear"`.
        normalization: `None`, `"batch"` (the paper's), `"group"` or `"layer"`.
        dropout: float, the rate of spatial dropout on what enters a stage.

    Returns:
        Tensor `(batch, height, width, filters[-1])`.

    Reference:
        - [Chaurasia and Culurciello, LinkNet, 2017](https://arxiv.org/abs/1707.03718), section 3, figures 1 and 3, table 1
    """
    *skips, x = features
    for i, (skip, width) in enumerate(zip(reversed(skips), filters, strict=True), 1):
        stage = f"decoder_stage{i}"
        x = _linknet_block(drop(x, dropout, stage), width, upsampling, normalization, stage)
        if skip is not None:
            if skip.shape[-1] != width:
                skip = convolve(
                    skip, width, normalization, name=f"{stage}_skip", kernel=1, relu=False
                )
            x = keras.layers.Add(name=f"{stage}_add")([skip, x])
    return x


def _linknet_block(x, filters, upsampling, normalization, stage):
    narrow = max(1, x.shape[-1] // 4)
    x = convolve(x, narrow, normalization, name=f"{stage}_conv1", kernel=1)
    up = f"{stage}_upsample"
    if upsampling == "transpose":
        x = keras.layers.Conv2DTranspose(
            narrow, 3, strides=2, padding="same", use_bias=normalization is None, name=up
        )(x)
        if normalization is not None:
            x = normalize(x, normalization, name=f"{up}_norm")
        x = keras.layers.ReLU(name=f"{up}_relu")(x)
    else:
        x = enlarge(x, narrow, upsampling, stage)
        x = convolve(x, narrow, normalization, name=f"{stage}_conv2")
    return convolve(x, filters, normalization, name=f"{stage}_conv3", kernel=1)


def fpn_decoder(features, filters, *, upsampling, normalization, dropout):
    """The semantic branch of a panoptic feature pyramid network.

    A pyramid: the maps of stride 4 and coarser pass 1x1 convolutions to equal channels, each gets the enlarged coarser one added,
    and a 3x3 convolution. Then each level is brought to stride 4 by stages of a 3x3 convolution with ReLU and doubled sides, and all are
    added. The map stays at stride 4; `build_unet` enlarges the logits. Maps finer than stride 4 are not used, unless
    there are not two others.

    Args:
        features: list of tensors `(batch, height / 2**i, width / 2**i, channels_i)` or `None`; the last is the bridge.
        filters: two ints, the channels of the pyramid and of the branches.
        upsampling: `"bilinear"` or `"nearest"`, also of the pyramid (nearest in the paper).
        normalization: `None`, `"batch"`, `"group"` (the paper's) or `"layer"`, in the branches.
        dropout: float, the rate of spatial dropout on the sum of the branches.

    Returns:
        Tensor `(batch, height / 4, width / 4, filters[1])`.

    Reference:
        - [Kirillov et al., Panoptic Feature Pyramid Networks, 2019](https://arxiv.org/abs/1901.02446), section 3 and figure 3
        - [Lin et al., Feature Pyramid Networks, 2017](https://arxiv.org/abs/1612.03144), section 3: the pyramid
    """
    pyramid_width, width = filters
    levels = [i for i, x in enumerate(features) if x is not None]
    coarse = [i for i in levels if i >= 2]
    levels = coarse if len(coarse) >= 2 else levels
    x, branches = None, []
    for i in range(levels[-1], levels[0] - 1, -1):
        name = f"decoder_pyramid{i}"
        if x is not None:
            x = upsample(x, pyramid_width, upsampling, name=f"{name}_upsample")
        if i not in levels:
            continue
        lateral = convolve(
            features[i], pyramid_width, None, name=f"{name}_lateral", kernel=1, relu=False
        )
        x = lateral if x is None else keras.layers.Add(name=f"{name}_add")([lateral, x])
        branch = convolve(x, pyramid_width, None, name=f"{name}_conv", relu=False)
        branches.append(_fpn_branch(branch, i - levels[0], i, width, upsampling, normalization))
    return drop(keras.layers.Add(name="decoder_add")(branches), dropout, "decoder")


def _fpn_branch(x, doublings, level, filters, upsampling, normalization):
    for n in range(1, max(1, doublings) + 1):
        name = f"decoder_branch{level}"
        x = convolve(x, filters, normalization, name=f"{name}_conv{n}")
        if doublings:
            x = upsample(x, filters, upsampling, name=f"{name}_upsample{n}")
    return x
