"""Models by the arguments of other libraries, for code that is being moved to this one.

The page "Coming from another library" of the documentation maps everything else: preprocessing, losses, metrics.
"""

import difflib
import os
import warnings

from tl_unet.encoders import list_encoders
from tl_unet.encoders.build import resolve_encoder
from tl_unet.unet import build_unet

_BLOCKS = {"upsampling": "nearest", "transpose": "transpose"}
_ACTIVATIONS = {"sigmoid": "sigmoid", "softmax": "softmax", "linear": None, None: None}
_FILTERS = (256, 128, 64, 32, 16)


def from_segmentation_models(
    backbone_name="vgg16",
    input_shape=(None, None, 3),
    classes=1,
    activation="sigmoid",
    weights=None,
    encoder_weights="imagenet",
    encoder_freeze=False,
    encoder_features="default",
    decoder_block_type="upsampling",
    decoder_filters=_FILTERS,
    decoder_use_batchnorm=True,
):
    """Builds the U-Net of this library that comes nearest to `segmentation_models.Unet(...)` with the same arguments.

    Names and defaults are those of segmentation_models 1.0.1 and segmodels_keras 0.1.0. What differs in the model:

    - It preprocesses by itself: feed raw RGB 0..255 and drop `get_preprocessing`.
    - `encoder_freeze=True` freezes BatchNorm, too; there its statistics keep moving.
    - Sides need not be multiples of 32.
    - VGG16 and VGG19 have four up-samplings, from stride 16 (there five, from the pooled map at 32, with two more convolutions),
      and a skip connection at full size (there none). Of five `decoder_filters` the last four are used.
    - With `decoder_block_type="transpose"` a stage has a 2x2 transposed convolution and two convolutions (there a 4x4 one and one
      convolution).
    - The last convolution is 1x1 (there 3x3).

    Args:
        backbone_name: str, the encoder, one of `tl_unet.list_encoders()`, or with KerasHub `"resnet18"` or `"resnet34"`. Defaults to `"vgg16"`.
        input_shape: `(height, width, channels)`. Defaults to `(None, None, 3)`.
        classes: int, channels of the mask. Defaults to 1.
        activation: `"sigmoid"`, `"softmax"`, or `"linear"` or `None` for logits. Defaults to `"sigmoid"`.
        weights: path of weights of the whole model, saved from a model of this library; or `None`. Defaults to `None`.
        encoder_weights: `"imagenet"`, a path of weights of the backbone, or `None`. Defaults to `"imagenet"`.
        encoder_freeze: bool. Defaults to `False`.
        encoder_features: only `"default"`; for taps of your own write a `tl_unet.EncoderSpec`. Defaults to `"default"`.
        decoder_block_type: `"upsampling"` or `"transpose"`. Defaults to `"upsampling"`.
        decoder_filters: sequence of ints, coarsest first. Defaults to `(256, 128, 64, 32, 16)`.
        decoder_use_batchnorm: bool. Defaults to `True`.

    Returns:
        A functional `keras.Model`, not compiled.

    Raises:
        ValueError: if an argument has no counterpart here; the message says what to do.
        ImportError: if `"resnet18"` or `"resnet34"` is asked for without `keras_hub`.
        FileNotFoundError: if a file of weights is not there, or KerasHub's could not be downloaded.

    Example:

    >>> from tl_unet.migration import from_segmentation_models
    >>> model = from_segmentation_models("resnet50", encoder_weights=None, classes=3, activation="softmax")
    >>> model.name, model.output_shape
    ('unet_resnet50', (None, None, None, 3))

    Reference:

    - [segmentation_models](https://github.com/qubvel/segmentation_models)
    - [segmodels_keras](https://pypi.org/project/segmodels-keras/)
    """
    spec = _spec(backbone_name, input_shape)
    if encoder_features != "default":
        raise ValueError(
            f"encoder_features={encoder_features!r} has no counterpart: an encoder's skip connections are the taps of its "
            "tl_unet.EncoderSpec. Write one (see the guide 'Your own encoder') and call tl_unet.build_unet."
        )
    if decoder_block_type not in _BLOCKS:
        raise ValueError(
            f"decoder_block_type must be one of {tuple(_BLOCKS)}; received {decoder_block_type!r}."
        )
    if activation not in _ACTIVATIONS:
        raise ValueError(
            f"activation must be 'sigmoid', 'softmax', 'linear' or None; received {activation!r}. For another one build the "
            "model with 'linear' and put a keras.layers.Activation behind it."
        )
    if encoder_weights not in (None, "imagenet") and not os.path.isfile(encoder_weights):
        raise FileNotFoundError(
            f"encoder_weights={encoder_weights!r} is neither 'imagenet' nor a file. Other sets of weights ('imagenet11k', "
            "'noisy-student') are not here; tl_unet takes Keras' ImageNet weights, or a file of the backbone without its top."
        )
    model = build_unet(
        spec,
        freeze=bool(encoder_freeze),
        weights=encoder_weights,
        input_shape=input_shape,
        classes=classes,
        activation=_ACTIVATIONS[activation],
        decoder_filters=_filters(decoder_filters, spec),
        upsampling=_BLOCKS[decoder_block_type],
        normalization="batch" if decoder_use_batchnorm else None,
    )
    if weights is not None:
        _load(model, weights)
    return model


def _spec(name, input_shape):
    try:
        return resolve_encoder(name, input_shape)
    except ValueError:
        known = list_encoders()
        near = difflib.get_close_matches(str(name).replace("_", ""), known, n=3)
        raise ValueError(
            f"There is no encoder {name!r} here"
            + (f"; near are {', '.join(near)}" if near else "")
            + f". The encoders are {', '.join(known)}. Another backbone can be used as a functional keras.Model: "
            "tl_unet.build_unet(model)."
        ) from None


def _filters(filters, spec):
    """One number for each up-sampling: where there are fewer than there, those of the same strides."""
    filters, stages = tuple(filters), spec.stride.bit_length() - 1
    spare = len(filters) - stages
    if spare <= 0:
        return filters  # too few are build_unet's to refuse
    if filters != _FILTERS:
        warnings.warn(
            f"The encoder {spec.name!r} has {stages} up-samplings here: of decoder_filters={filters} the last {stages} are "
            "used.",
            stacklevel=3,
        )
    return filters[spare:]


def _load(model, path):
    if not os.path.isfile(path):
        raise FileNotFoundError(f"There is no file of weights {os.fspath(path)!r}.")
    try:
        model.load_weights(path)
    except Exception as error:  # Keras raises whatever HDF5 and its own checks raise
        raise ValueError(
            f"{os.fspath(path)!r} does not hold the weights of this model ({error}). Files that segmentation_models saved do "
            "not fit: the layers differ. Train anew, or load a file that a model of tl_unet saved."
        ) from error
