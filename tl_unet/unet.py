"""`build_unet`: raw image -> preprocessing -> encoder -> decoder -> head, as one functional `keras.Model`."""

import math
import numbers
import warnings

import keras

from tl_unet.argument_checks import is_whole
from tl_unet.decoders import NORMALIZATION, get_decoder_spec, list_decoders, resolve_decoder
from tl_unet.decoders.blocks import normalize
from tl_unet.decoders.bridges import BRIDGES
from tl_unet.deep_supervision import AuxiliaryMasks, DeeplySupervised
from tl_unet.encoders.build import encoder_from_model, encoder_from_spec, resolve_encoder
from tl_unet.encoders.hub import ASSUMED, has_pyramid
from tl_unet.encoders.preprocessing import PREPROCESSING, Preprocessing, apply_preprocessing
from tl_unet.freezing import inner_layers
from tl_unet.layers import CropLike, PadToMultiple, UpSampling2D


def build_unet(
    encoder="vgg16",
    freeze=True,
    *,
    weights="imagenet",
    input_shape=(None, None, 3),
    classes=1,
    activation="auto",
    decoder="unet",
    decoder_filters=None,
    upsampling=None,
    normalization=None,
    normalize_features="auto",
    dropout=0.0,
    input_skip=False,
    preprocessing="encoder",
    encoder_depth=None,
    bridge=None,
    deep_supervision=False,
    name=None,
):
    """Builds a U-Net whose contracting path is a pre-trained backbone.

    The model takes raw RGB images, values 0..255 (float or uint8), of shape `(batch, height, width, channels)`, of any size: where the
    encoder's stride does not divide a side, the image is padded inside the graph and the mask cropped. It returns float32 masks
    `(batch, height, width, classes)`. Its encoder is the nested model `model.get_layer("encoder")`.

    Args:
        encoder: str, one of `list_encoders()`; or `"hub:"` and a preset of KerasHub or its directory, such as
            `"hub:resnet_18_imagenet"` (`"resnet18"` and `"resnet34"` are short for two of them); or an `EncoderSpec`; or any functional
            `keras.Model`, whose `pyramid_outputs`, or else last map of each resolution, are tapped and whose layers and weights
            are shared. `"unet"`, the standard U-Net's path, has no
            pre-trained weights: give it `weights=None, freeze=False`. Defaults to `"vgg16"`.
        freeze: bool, whether the encoder's weights, BatchNorm statistics and dropout stand still. See `unfreeze_encoder`. Of a
            `keras.Model` given as encoder, `False` leaves layers frozen that are; one that is frozen whole is unfrozen. Defaults to `True`.
        weights: `"imagenet"` (Keras downloads them), a path to a `.weights.h5` or `.h5` file of the backbone without its top, or
            `None` (random). A file's are those for RGB, also where the images have other channels. A `keras.Model` given as encoder keeps its own, unless this is a path. Defaults to `"imagenet"`.
        input_shape: `(height, width, channels)`, without the batch; `None` sides take any size. With other than three
            channels, pre-trained first kernels are inflated (one channel is shown to them as three equal ones; `N` channels get the
            kernels and statistics of red, green and blue in turn, scaled by `3 / N`). Defaults to `(None, None, 3)`.
        classes: int, channels of the mask: 1 for foreground against background. Defaults to 1.
        activation: `"auto"` (sigmoid for one class, softmax for more), `"sigmoid"`, `"softmax"`, or `None` for logits.
            Defaults to `"auto"`.
        decoder: str, one of `list_decoders()`, or a `DecoderSpec`. Defaults to `"unet"`.
        decoder_filters: sequence of ints, one per up-sampling, coarsest first; the decoder `"fpn"` takes two, `(pyramid, branches)`.
            Defaults to `None`: the decoder's own, for `"unet"` the first of 512, 256, 128, 64, 32.
        upsampling: `"transpose"` (learned), `"nearest"` or `"bilinear"`; `"unet3plus"` and `"fpn"` have no transposed ones.
            Defaults to `None`: the decoder's own, `"transpose"` or, for these two, `"bilinear"`.
        normalization: `None` (as in the paper), `"batch"`, `"group"` or `"layer"`, in the decoder. Advisable with VGG, whose features
            are in the hundreds: without it training starts from saturated probabilities. Defaults to `None`.
        normalize_features: bool or `"auto"`, whether the encoder's feature maps also pass this normalisation, on their way to the decoder,
            with which it trains. Large maps, as VGG's, drown what the decoder passes up beside them. `True` wants a
            `normalization`. Defaults to `"auto"`: if there is one, and the encoder has no normalisation layer of its own.
        dropout: float in [0, 1), rate of spatial dropout in each decoder stage. Defaults to 0.
        input_skip: bool, whether the last decoder stage also sees the input image, divided by 255 (as it comes with
            `preprocessing=None`, for images of another range). The paper's D-, R- and M-Unet do. Defaults to `False`.
        preprocessing: `"encoder"` (what the backbone's weights were trained on), `"rescale"` (x / 255 for every encoder: what
            the original code of the paper did), a `Preprocessing`, or `None` (the caller has done it: the encoder proper gets
            the values as they are, also where Keras' own backbone has built-in preprocessing). Defaults to `"encoder"`.
        encoder_depth: int or `None`, how often the encoder halves the image: its stages behind stride `2**encoder_depth` are left out,
            and there are as many up-samplings. Pre-trained weights are those of the whole backbone. Defaults to `None`: all stages.
        bridge: `"aspp"`, atrous spatial pyramid pooling (with `normalization` and `dropout`) between encoder and decoder, or `None` or
            `"none"`. Defaults to `None`.
        deep_supervision: bool, whether the loss also sees masks made of inner maps of the decoder, in training only; or a float, what
            each of them weighs against 1 for the mask (`True` is 1). For `"unetplusplus"` and `"unet3plus"`. See `strip_auxiliary`.
            Defaults to `False`.
        name: str or `None`, name of the model. Defaults to `None`: decoder and encoder, such as `"unet_vgg16"`.

    Returns:
        A functional `keras.Model`, not compiled.

    Raises:
        ValueError: if an argument has no such value or no meaning for this decoder, or the weights are those of another backbone.
        TypeError: if `encoder` is none of the three kinds, or `decoder` none of the two.
        ImportError: if a preset of KerasHub is asked for without `keras_hub`.
        FileNotFoundError: if the weights file is not there, or ImageNet weights or a preset could not be downloaded.

    Example:

    >>> import numpy as np, tl_unet
    >>> model = tl_unet.build_unet("mobilenetv2", freeze=False, weights=None)
    >>> model.predict(np.zeros((1, 100, 75, 3), "uint8"), verbose=0).shape
    (1, 100, 75, 1)

    Reference:
        - [Ronneberger et al., U-Net, 2015](https://arxiv.org/abs/1505.04597)
        - [Cheng and Lam, Transfer Learning U-Net, 2021](https://arxiv.org/abs/2110.02196)
        - Asai, Shao, Thompson, Wang, Zhao, U-Net Transfer Learning for Image Segmentation with Various Encoders
    """
    decoder = resolve_decoder(decoder)
    _check_choices(
        normalization, normalize_features, classes, dropout, activation, preprocessing, bridge
    )
    classes = int(classes)
    _check_decoder_can(decoder, input_skip, deep_supervision)
    upsampling = decoder.resolved_upsampling(upsampling)
    source = resolve_encoder(encoder, input_shape)
    image = keras.Input(_checked_shape(input_shape, source), name="image")
    encoder, strides, minimum, statistics = _build_encoder(
        source, image.shape[-1], weights, encoder_depth
    )
    if freeze:
        encoder.trainable = False
    elif encoder.weights and not encoder.trainable_weights:
        # Keras ignores a value that a model has already, and the layers of a model given as encoder may have been frozen before.
        encoder.trainable = False
        encoder.trainable = True
    _warn_of_doubtful_use(source, freeze, weights, preprocessing)

    padded = _padded(image, _multiple(source, encoder, strides), minimum)
    x = padded
    if encoder.input_shape[-1] == 3 and image.shape[-1] == 1:
        # Raw values, like the image's: 16 bits would round them.
        x = keras.layers.Concatenate(dtype="float32", name="grey_to_rgb")([x, x, x])
    if preprocessing is not None:
        named = {"encoder": statistics, "rescale": PREPROCESSING["rescale"]}
        x = apply_preprocessing(x, named.get(preprocessing, preprocessing))

    maps = dict(zip(strides, encoder(x), strict=True))
    if normalize_features == "auto":
        normalize_features = normalization is not None and not _is_normalized(encoder)
    if normalize_features:
        maps = {s: normalize(x, normalization, name=f"feature{s}_norm") for s, x in maps.items()}
    if input_skip:
        maps[1] = _with_image(maps.get(1), padded, rescale=preprocessing is not None)
    options = {"normalization": normalization, "dropout": dropout}
    if BRIDGES[bridge] is not None:
        maps[strides[-1]] = BRIDGES[bridge](maps[strides[-1]], strides[-1], **options)
    features = [maps.get(2**level) for level in range(strides[-1].bit_length())]
    channels = [None if x is None else x.shape[-1] for x in features]
    filters = decoder.resolved_filters(decoder_filters, channels)
    final, *auxiliary = decoder.maps(features, filters, upsampling=upsampling, **options)
    if deep_supervision and not auxiliary:
        raise ValueError(
            f"There are too few resolutions ({strides}) for inner maps: leave `deep_supervision` out."
        )

    def mask(x, stride, prefix=""):
        # The head is float32 under any policy: 16-bit probabilities near 0 and 1 are too coarse for the losses.
        x = keras.layers.Conv2D(classes, 1, dtype="float32", name=f"{prefix}logits")(x)
        if stride > 1:
            how = "nearest" if upsampling == "nearest" else "bilinear"
            enlarge = UpSampling2D(
                stride, interpolation=how, dtype="float32", name=f"{prefix}enlarge"
            )
            x = enlarge(x)
        if padded is not image:
            x = CropLike(dtype="float32", name=f"{prefix}crop")([x, image])
        kind = ("sigmoid" if classes == 1 else "softmax") if activation == "auto" else activation
        return keras.layers.Activation(kind, dtype="float32", name=f"{prefix}mask")(x)

    output = mask(*final)
    name = name or f"{decoder.name}_{source.name}"
    if not deep_supervision:
        return keras.Model(image, output, name=name)
    others = [mask(*inner, prefix=f"auxiliary{i}_") for i, inner in enumerate(auxiliary, 1)]
    weight = float(deep_supervision)
    output = AuxiliaryMasks(weight, dtype="float32", name="auxiliary_masks")([output, *others])
    return DeeplySupervised(image, output, name=name)


def _build_encoder(source, channels, weights, depth):
    """The encoder model, its strides, the least side it can process, and its `Preprocessing`."""
    if isinstance(source, keras.Model):
        statistics = ASSUMED if has_pyramid(source) else PREPROCESSING["identity"]
        return *encoder_from_model(source, weights, depth), statistics
    # One grey channel shown as three equal ones is exactly what summing the kernel over RGB would compute.
    seen = 3 if channels == 1 and (source.imagenet or weights is not None) else channels
    encoder, strides = encoder_from_spec(source, seen, weights, depth)
    minimum = -(-source.min_size // strides[-1]) * strides[-1]
    return encoder, strides, minimum, source.statistics


def _is_normalized(encoder):
    kinds = (
        keras.layers.BatchNormalization,
        keras.layers.GroupNormalization,
        keras.layers.LayerNormalization,
    )
    return any(isinstance(layer, kinds) for layer in inner_layers(encoder))


def _multiple(source, encoder, strides):
    """What divides the sides of what the encoder sees; one that was built for sides of its own had them padded for all of its stages."""
    fixed = not isinstance(source, keras.Model) and any(encoder.input_shape[1:3])
    return source.stride if fixed else strides[-1]


def _padded(image, multiple, minimum):
    sides = image.shape[1:3]
    if all(side and side >= minimum and side % multiple == 0 for side in sides):
        return image
    return PadToMultiple(multiple, minimum, dtype="float32", name="pad")(image)


def _with_image(feature_map, image, rescale):
    """The finest skip connection with the image in 0..1 beside it, or the image alone."""
    if rescale:
        image = keras.layers.Rescaling(1 / 255, dtype="float32", name="input_skip")(image)
    if feature_map is None:
        return image
    return keras.layers.Concatenate(name="input_skip_concatenate")([feature_map, image])


def _check_decoder_can(decoder, input_skip, deep_supervision):
    """Refuses what would do nothing with this decoder."""
    if input_skip and not decoder.input_skip:
        raise ValueError(
            f"Decoder {decoder.name!r} uses no map at full resolution: `input_skip=True` would do nothing. Leave it out."
        )
    if deep_supervision and not decoder.auxiliary:
        able = [name for name in list_decoders() if get_decoder_spec(name).auxiliary]
        raise ValueError(
            f"Decoder {decoder.name!r} has no inner maps for `deep_supervision`; {' and '.join(map(repr, able))} have."
        )
    if not isinstance(deep_supervision, numbers.Real) or not 0 <= deep_supervision < math.inf:
        raise ValueError(
            "`deep_supervision` must be True, False or a positive weight of each auxiliary mask; received "
            f"{deep_supervision!r}."
        )


def _check_choices(
    normalization, normalize_features, classes, dropout, activation, preprocessing, bridge
):
    choices = {
        "normalization": (normalization, (None, *NORMALIZATION)),
        "activation": (activation, ("auto", "sigmoid", "softmax", None)),
        "bridge": (bridge, tuple(BRIDGES)),
        "normalize_features": (normalize_features, ("auto", True, False)),
    }
    if not isinstance(preprocessing, Preprocessing):
        choices["preprocessing"] = (preprocessing, ("encoder", "rescale", None))
    for argument, (value, allowed) in choices.items():
        if value not in allowed:
            raise ValueError(f"`{argument}` must be one of {allowed}; received {value!r}.")
    if normalize_features is True and normalization is None:
        raise ValueError(
            "`normalize_features=True` wants a `normalization`, such as 'batch'; received None."
        )
    if not is_whole(classes) or classes < 1:
        raise ValueError(f"`classes` must be a positive int; received {classes!r}.")
    if activation == "softmax" and classes == 1:
        raise ValueError(
            "softmax over one class is always 1: use activation='sigmoid' or classes=2."
        )
    if not isinstance(dropout, numbers.Real) or not 0 <= dropout < 1:
        raise ValueError(f"`dropout` must be at least 0 and below 1; received {dropout!r}.")
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "tl_unet works with images (batch, height, width, channels): call "
            "keras.config.set_image_data_format('channels_last') first."
        )


def _checked_shape(input_shape, source):
    """The input's shape; unknown sides are those of a model given as encoder, where it has fixed ones."""
    shape = tuple(input_shape) if isinstance(input_shape, list | tuple) else ()
    positive = (is_whole(side) and side > 0 for side in shape if side is not None)
    if len(shape) != 3 or shape[2] is None or not all(positive):
        raise ValueError(
            "`input_shape` must be (height, width, channels), without the batch, with positive ints; height and width may "
            f"be None (any size); received {input_shape!r}."
        )
    shape = tuple(None if side is None else int(side) for side in shape)
    if not isinstance(source, keras.Model):
        return shape
    wanted = tuple(source.input_shape[1:])
    shape = tuple(side or known for side, known in zip(shape, wanted, strict=True))
    pairs = list(zip(shape, wanted, strict=True))
    grey = shape[2] == 1 and wanted[2] == 3
    if any(known not in (None, side) for side, known in pairs[:2] + ([] if grey else pairs[2:])):
        raise ValueError(
            f"The encoder {source.name!r} takes images of shape {wanted}, but input_shape={input_shape!r}. Pass the same "
            "shape, or build the encoder with sides of None."
        )
    return shape


def _warn_of_doubtful_use(source, freeze, weights, preprocessing):
    is_model = isinstance(source, keras.Model)
    if freeze and weights is None and not is_model:
        warnings.warn(
            f"The encoder {source.name!r} is frozen with random weights (freeze=True, weights=None): it will never learn. "
            "Pass freeze=False, or pre-trained weights.",
            stacklevel=3,
        )
    if is_model and preprocessing == "encoder":
        given = "ImageNet's mean and deviation" if has_pyramid(source) else "raw values 0..255"
        warnings.warn(
            f"What preprocessing the model {source.name!r} expects is unknown: it gets {given}. State it: a tl_unet.Preprocessing, "
            "or preprocessing=None for raw values; or give build_unet the name of a preset, or an EncoderSpec.",
            stacklevel=3,
        )
