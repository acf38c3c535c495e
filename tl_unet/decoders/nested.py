"""Decoders that connect more than maps of one size: U-Net++ (dense, nested skips) and U-Net 3+ (full-scale skips).

Both work at the resolutions from the encoder's finest map to the bridge. Where the encoder has no map as fine as the image, plain stages of the
U-Net follow. Every node is a possible output: both return the final map and, behind it, those for deep supervision.
"""

import keras

from tl_unet.decoders.blocks import (
    concatenate,
    convolve,
    convolve_twice,
    drop,
    enlarge,
    expand,
    join,
)


def unetplusplus_decoder(features, filters, *, upsampling, normalization, dropout):
    """U-Net++: between encoder and decoder lie nodes that fill the U, densely connected along each resolution.

    Node `(i, j)` at stride `2**i` concatenates the nodes `(i, 0), ..., (i, j - 1)` and the enlarged node `(i + 1, j - 1)`, and applies two
    3x3 convolutions with ReLU; the nodes `(i, 0)` are the encoder's maps.

    Args:
        features: list of tensors `(batch, height / 2**i, width / 2**i, channels_i)` or `None`; the last is the bridge.
        filters: sequence of `len(features) - 1` ints, of the nodes of each resolution, coarsest first.
        upsampling: `"transpose"`, `"nearest"` or `"bilinear"`.
        normalization: `None`, `"batch"`, `"group"` or `"layer"`.
        dropout: float, the rate of spatial dropout on what enters a node.

    Returns:
        List of tensors: the final map `(batch, height, width, filters[-1])`, then the other nodes of the finest resolution, the last
        one (which has seen most) first.

    Reference:
        - [Zhou et al., UNet++, 2018](https://arxiv.org/abs/1807.10165), sections 3.1 and 3.2
    """
    finest, bridge = _finest(features), len(features) - 1
    options = dict(upsampling=upsampling, normalization=normalization, dropout=dropout)
    nodes = {(i, 0): x for i, x in enumerate(features) if x is not None}
    for j in range(1, bridge - finest + 1):
        for i in range(finest, bridge - j + 1):
            width, name = filters[bridge - 1 - i], f"decoder_node{i}_{j}"
            inputs = [nodes[i, k] for k in range(j) if (i, k) in nodes]
            # The encoder may have no map at the next stride: then the next coarser one it has.
            below = next(k for k in range(i + 1, bridge + 1) if (k, j - 1) in nodes)
            x = enlarge(nodes[below, j - 1], width, upsampling, name, factor=2 ** (below - i))
            x = join(x, inputs, name)
            nodes[i, j] = convolve_twice(drop(x, dropout, name), width, normalization, name)
    last, *others = (nodes[finest, j] for j in range(bridge - finest, 0, -1))
    return [_to_full_size(last, finest, filters, options), *others]


def unet3plus_decoder(features, filters, *, upsampling, normalization, dropout):
    """U-Net 3+: each stage sees all resolutions, the encoder's finer ones and its own, and the decoder's coarser ones.

    Maps of other sizes are max-pooled or enlarged; each passes a 3x3 convolution to `filters` channels, all are concatenated, and one more
    3x3 convolution keeps that number of channels: 5 * 64 = 320 in the paper, which has five resolutions. Its module that classifies
    whole images is not here.

    Args:
        features: list of tensors `(batch, height / 2**i, width / 2**i, channels_i)` or `None`; the last is the bridge.
        filters: sequence of `len(features) - 1` ints, coarsest stage first: the channels that each resolution gives to that stage.
        upsampling: `"bilinear"` (the paper's) or `"nearest"`.
        normalization: `None`, `"batch"`, `"group"` or `"layer"`.
        dropout: float, the rate of spatial dropout on what the resolutions give to a stage.

    Returns:
        List of tensors: the final map `(batch, height, width, channels)`, then those of the coarser stages, finest first.

    Reference:
        - [Huang et al., UNet 3+, 2020](https://arxiv.org/abs/2004.08790), sections 2.1 and 2.2
    """
    finest, bridge = _finest(features), len(features) - 1
    options = dict(upsampling=upsampling, normalization=normalization, dropout=dropout)
    decoded = {bridge: features[bridge]}
    for i in range(bridge - 1, finest - 1, -1):
        width, name = filters[bridge - 1 - i], f"decoder_node{i}"
        given = []
        for k in range(finest, bridge + 1):
            x, source = (features[k], f"encoder{k}") if k <= i else (decoded[k], f"decoder{k}")
            if x is None:
                continue
            if k < i:
                x = keras.layers.MaxPooling2D(2 ** (i - k), name=f"{name}_{source}_pool")(x)
            elif k > i:
                x = enlarge(x, width, upsampling, f"{name}_{source}", factor=2 ** (k - i))
            given.append(convolve(x, width, normalization, name=f"{name}_{source}_conv"))
        x = drop(concatenate(given, name), dropout, name)
        decoded[i] = convolve(x, x.shape[-1], normalization, name=f"{name}_conv")
    coarser = [decoded[i] for i in range(finest + 1, bridge)]
    return [_to_full_size(decoded[finest], finest, filters, options), *coarser]


def _finest(features):
    return next(i for i, x in enumerate(features) if x is not None)


def _to_full_size(x, level, filters, options):
    """Plain stages from `level` up to the size of the image."""
    stages = len(filters) - level
    return expand([None] * level + [x], filters[stages:], first=stages + 1, **options)
