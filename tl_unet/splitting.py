"""A model of `build_unet` as two models that share its layers: what comes before the decoder, and the decoder.

You need it to train or run the halves apart; `cache_features` does, to compute the features of a frozen encoder only once.
"""

import keras

from tl_unet.deep_supervision import AuxiliaryMasks, DeeplySupervised
from tl_unet.freezing import encoder_layer


def split_model(model):
    """Splits a U-Net behind its encoder, into two models that share its layers and weights.

    `decoder(encoder(image))` is `model(image)`, for any size: the decoder gets the image as well as the feature maps, to crop its
    mask to the image's size and for `input_skip`. What the decoder learns, `model` has learned. The decoder of a model with deep
    supervision has it, too.

    Args:
        model: `keras.Model` from `build_unet`. It is left as it is, compiled or not.

    Returns:
        Two functional `keras.Model`s, not compiled:

        - the encoder part, from an image `(batch, height, width, channels)` to a list: the encoder's feature maps, finest first, each
            `(batch, padded_height / stride, padded_width / stride, filters)`, and last the image as it came. It includes padding and
            preprocessing.
        - the decoder part, from that list to the mask `(batch, height, width, classes)`.

    Raises:
        TypeError: if `model` is no functional `keras.Model`.
        ValueError: if it has no layer "encoder", or something other than one image comes in.

    Example:

    >>> import numpy as np, tl_unet
    >>> model = tl_unet.build_unet("mobilenetv2", freeze=False, weights=None)
    >>> encoder, decoder = tl_unet.split_model(model)
    >>> image = np.zeros((1, 40, 70, 3), "float32")
    >>> *features, same_image = encoder(image)
    >>> [tuple(feature_map.shape[1:3]) for feature_map in features]
    [(32, 48), (16, 24), (8, 12), (4, 6), (2, 3)]
    >>> np.allclose(decoder([*features, same_image]), model(image), atol=1e-6)
    True
    """
    encoder = encoder_of(model)
    if len(model.inputs) != 1:
        raise ValueError(
            f"The model {model.name!r} must have one input, the image; it has {len(model.inputs)}."
        )
    features = []

    def call(layer, *args, **kwargs):
        outputs = layer(*args, **kwargs)
        if layer is encoder:
            features.append(outputs)
        return outputs

    # The graph once more, over the same layers, to get hold of the tensors between them. A new model, since Keras would compile
    # the copy of a compiled one.
    plain = keras.Model(model.inputs, model.outputs, name=model.name)
    copy = keras.models.clone_model(plain, clone_function=_shared, call_function=call)
    if len(features) != 1:
        raise ValueError(
            f"The encoder of the model {model.name!r} is called {len(features)} times: it can be split behind a single call only."
        )
    between = [*_as_list(features[0]), copy.inputs[0]]
    names = [*(f"feature_map{i}" for i in range(1, len(between))), copy.inputs[0].name]
    inputs = [
        keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype, name=name)
        for tensor, name in zip(between, names, strict=True)
    ]
    decoder = keras.models.clone_model(
        keras.Model(between, copy.outputs[0], name=f"{model.name}_decoder_part"),
        input_tensors=inputs,
        clone_function=_shared,
    )
    if isinstance(model, DeeplySupervised):
        decoder = DeeplySupervised(decoder.inputs, decoder.outputs[0], name=decoder.name)
    return keras.Model(copy.inputs[0], between, name=f"{model.name}_encoder_part"), decoder


def encoder_of(model):
    """The nested model "encoder" of a U-Net.

    Args:
        model: `keras.Model` from `build_unet`.

    Returns:
        `keras.Model`.

    Raises:
        TypeError: if `model` is no functional `keras.Model`.
        ValueError: if it has no layer "encoder".
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(f"`model` must be a functional keras.Model; received {model!r}.")
    return encoder_layer(model)


def _shared(layer):
    # Deep supervision finds its masks as what enters this layer, so each model needs one of its own. It has no weights.
    return (
        AuxiliaryMasks.from_config(layer.get_config())
        if isinstance(layer, AuxiliaryMasks)
        else layer
    )


def _as_list(outputs):
    return list(outputs) if isinstance(outputs, list | tuple) else [outputs]
