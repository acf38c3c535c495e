"""Batch normalisation folded into the convolutions before it: the same function with fewer operations.

In inference `BatchNormalization` multiplies and adds per channel, which the kernel and the bias of the convolution can do at no cost
(Jacob et al. 2018, section 3.2). For prediction and export, and for the frozen encoder of a training. What `UpConv2D` adds up of its kernel in
each step is added up once, too.
"""

import keras
import numpy as np

from tl_unet.deep_supervision import DeeplySupervised
from tl_unet.encoders.build import Encoder
from tl_unet.layers import BatchNormalization, UpConv2D, summed_kernel
from tl_unet.splitting import encoder_of

_NORMS = (keras.layers.BatchNormalization, BatchNormalization)
_CONVOLUTIONS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv2DTranspose,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.layers.Dense,
    UpConv2D,
)


def fold_batch_norm(model, *, encoder_only=False):
    """A copy of a model with each batch normalisation that directly follows a convolution folded into it.

    In float32 predictions are those of `model` to within 1e-4 of their range; 16 bits are coarser. Left as they are: normalisations behind anything else (such as
    the concatenations of DenseNet, the sums of ResNetV2, an activation or a padding), and those whose convolution has an activation, is used
    by something else, too, or is called more than once. The sums that `tl_unet.layers.UpConv2D` makes of its kernel (in decoders with
    `upsampling="nearest"`) become its weights; with `encoder_only=True` they don't.

    The copy is for prediction and export (its statistics no longer adapt), or, with `encoder_only=True`, for training the decoder
    on a frozen encoder. Its weights are its own; files of weights of `model` do not fit it, so save it as a whole (`.keras`).

    Args:
        model: functional or Sequential `keras.Model`, of any origin; nested models are folded as well. It is left as it is.
        encoder_only: bool, whether to fold the nested model "encoder" alone, which must be frozen. Defaults to `False`.

    Returns:
        A functional `keras.Model`, not compiled, with deep supervision if `model` has it. With nothing to fold or to sum it is a plain copy.

    Raises:
        TypeError: if `model` is neither functional nor a Sequential model that knows its input.
        ValueError: with `encoder_only=True`, if there is no encoder, or it is not frozen.

    Example:

    >>> import numpy as np, tl_unet
    >>> model = tl_unet.build_unet("mobilenetv2", freeze=False, weights=None)
    >>> folded = tl_unet.fold_batch_norm(model)
    >>> len(model.get_layer("encoder").layers) - len(folded.get_layer("encoder").layers)
    52
    >>> image = np.full((1, 64, 64, 3), 100, "uint8")
    >>> np.allclose(folded.predict(image, verbose=0), model.predict(image, verbose=0), atol=1e-4)
    True

    Reference:
        - [Jacob et al., Quantization and Training of Neural Networks, 2018](https://arxiv.org/abs/1712.05877)
    """
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        raise TypeError(
            f"`model` must be a functional keras.Model, or a Sequential one that knows its input; received {model!r}."
        )
    if not encoder_only:
        return _folded(model)
    encoder = encoder_of(model)
    if encoder.trainable:
        raise ValueError(
            "The encoder is not frozen; without its normalisation it could not be trained well. Call "
            "tl_unet.freeze_encoder(model) first, or fold the whole model for prediction."
        )
    return _rebuilt(
        model, {}, inside=lambda inner: _folded(inner) if inner is encoder else _plain(inner)
    )


def _folded(model):
    if isinstance(model, keras.Sequential):
        model = keras.Model(model.inputs, model.outputs, name=model.name)
    return _rebuilt(model, _foldable(model), inside=_folded, summing=True)


def _plain(model):
    """A copy of a nested model with nothing folded."""
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def _rebuilt(model, pairs, inside, summing=False):
    """A copy of a model: `pairs` (convolution to its normalisation) folded, each nested model replaced by `inside(it)`.

    With `summing`, `UpConv2D` layers get the sums of their kernels for weights.
    """
    trainable = model.trainable
    if model.compiled:  # Keras would compile the copy
        ours = isinstance(model, DeeplySupervised | Encoder)
        kind = type(model) if ours else keras.Model
        model = kind(model.input, model.output, name=model.name)
    norms = {norm.name for norm in pairs.values()}
    copies, weights = {}, []

    def clone(operation):
        if id(operation) not in copies:
            copies[id(operation)] = new = _copy(operation, pairs, inside, summing)
            if new is not operation and not isinstance(new, keras.Model):
                weights.append((operation, new))
        return copies[id(operation)]

    def call(operation, *args, **kwargs):
        return args[0] if operation.name in norms else operation(*args, **kwargs)

    copy = keras.models.clone_model(model, clone_function=clone, call_function=call)
    for old, new in weights:
        if old.name in pairs:
            values = _folded_weights(old, pairs[old.name])
        elif old.name not in norms and old.weights:
            values = old.get_weights()
        else:
            continue
        if summing and isinstance(old, UpConv2D):
            values = _summed_weights(old, values)
        new.set_weights(values)
    if not trainable:  # to set it to true would unfreeze what is inside
        copy.trainable = False
    return copy


def _copy(operation, pairs, inside, summing):
    if not isinstance(operation, keras.Layer):
        return operation  # without state, such as an addition
    if isinstance(operation, keras.Model) and getattr(operation, "inputs", None):
        return inside(operation)
    config = operation.get_config()
    if operation.name in pairs:
        config["use_bias"] = True
    if summing and isinstance(operation, UpConv2D):
        config["summed"] = True
    return type(operation).from_config(config)


def _folded_weights(layer, norm):
    """The weights of a convolution that also does what the normalisation behind it does."""
    kernels = [np.asarray(weight, "float64") for weight in layer.get_weights()]
    bias = kernels.pop() if layer.use_bias else 0.0
    named = {weight.name: keras.ops.convert_to_numpy(weight) for weight in norm.weights}
    named = {name: value.astype("float64") for name, value in named.items()}
    scale = named.get("gamma", 1.0) / np.sqrt(named["moving_variance"] + norm.epsilon)
    shift = named.get("beta", 0.0) - named["moving_mean"] * scale
    if isinstance(layer, keras.layers.Conv2DTranspose):
        kernels[-1] = kernels[-1] * scale[:, None]  # (height, width, out, in)
    elif isinstance(layer, keras.layers.DepthwiseConv2D):
        kernels[-1] = kernels[-1] * scale.reshape(kernels[-1].shape[2:])  # (.., in, multiplier)
    else:
        kernels[-1] = kernels[-1] * scale  # (.., in, out); a separable one's last is the pointwise
    return [*kernels, bias * scale + shift]


def _summed_weights(layer, weights):
    """The weights of an `UpConv2D` with the sums in place of the coarse map's part of the kernel."""
    if layer.summed:
        return weights
    kernel, *bias = weights
    skips = kernel.shape[2] - layer.channels
    sums = summed_kernel(keras.ops.convert_to_tensor(kernel[:, :, skips:], "float32"))
    kernels = [keras.ops.convert_to_numpy(sums), kernel[:, :, :skips]]
    return kernels[: 2 if skips else 1] + bias


def _foldable(model):
    """`{convolution's name: its normalisation}`, for those that can be folded."""
    config = keras.Model(model.inputs, model.outputs).get_config()
    operations = {operation.name: operation for operation in model.operations}
    nodes = {row["name"]: row["inbound_nodes"] for row in config["layers"]}
    uses = _tensors([config["output_layers"]])
    for calls in nodes.values():
        for call in calls:
            uses += _tensors(call)
    pairs = {}
    for name, calls in nodes.items():
        norm = operations.get(name)
        if type(norm) not in _NORMS or len(calls) != 1:
            continue
        (source, *_), *others = _tensors(calls[0])
        layer = operations.get(source)
        alone = not others and len(nodes[source]) == 1
        alone = alone and sum(tensor[0] == source for tensor in uses) == 1
        trains = calls[0].get("kwargs", {}).get("training")
        if alone and not trains and _takes_norm(layer, norm):
            pairs[source] = norm
    return pairs


def _takes_norm(layer, norm):
    if type(layer) not in _CONVOLUTIONS or layer.activation is not keras.activations.linear:
        return False
    if getattr(layer, "summed", False):
        return False
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return False
    channels_last = getattr(layer, "data_format", "channels_last") == "channels_last"
    rank = len(layer.output.shape)
    axis = norm.axis[0] if isinstance(norm.axis, list | tuple) else norm.axis
    return channels_last and axis in (-1, rank - 1)


def _tensors(value):
    """The `(layer, node, tensor)` in the configuration of a graph, as tuples."""
    if isinstance(value, dict):
        if value.get("class_name") == "__keras_tensor__":
            return [tuple(value["config"]["keras_history"])]
        value = list(value.values())
    if not isinstance(value, list | tuple):
        return []
    if len(value) == 3 and isinstance(value[0], str) and all(isinstance(i, int) for i in value[1:]):
        return [tuple(value)]
    return [tensor for inner in value for tensor in _tensors(inner)]
