"""From a spec, or any functional model, to the nested model "encoder": one input, a list of feature maps, finest first."""

import contextlib
import dataclasses
import difflib
import math

import keras

from tl_unet.encoders.hub import has_pyramid, preset_of, pyramid, spec_from_preset
from tl_unet.encoders.registry import get_encoder_spec, list_encoders
from tl_unet.encoders.spec import EncoderSpec
from tl_unet.encoders.weights import build_backbone, inflate_weights, load_weights


@keras.saving.register_keras_serializable(package="tl_unet")
class Encoder(keras.Model):
    """A functional model that runs in inference mode while it is frozen.

    Keras keeps the statistics of a frozen `BatchNormalization` fixed, but a frozen `Dropout` (EfficientNet has some) stays random in
    training; here the whole encoder stands still as long as its `trainable` is false.

    Example:

    >>> import keras
    >>> from tl_unet.encoders.build import Encoder
    >>> image = keras.Input((8, 8, 3))
    >>> encoder = Encoder(image, [image, keras.layers.MaxPooling2D()(image)], name="encoder")
    >>> encoder.trainable = False
    """

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training if self.trainable else False, mask=mask)


def resolve_encoder(encoder, input_shape=(None, None, 3)):
    """The spec or model that `build_unet(encoder=...)` means.

    Args:
        encoder: str, `EncoderSpec` or functional `keras.Model`.
        input_shape: as in `build_unet`, for presets of KerasHub. Defaults to `(None, None, 3)`.

    Returns:
        `EncoderSpec` or `keras.Model`.

    Raises:
        TypeError: if it is none of these.
        ValueError: if the name is unknown, or the model not a functional one of images.
    """
    if isinstance(encoder, str):
        preset = preset_of(encoder)
        # A "resnet18" that was registered here comes before KerasHub's.
        if preset is not None and encoder.lower() not in map(str.lower, list_encoders()):
            return spec_from_preset(preset, input_shape)
        return get_encoder_spec(encoder)
    if isinstance(encoder, EncoderSpec):
        return encoder
    if isinstance(encoder, keras.Model):
        return _functional(encoder)
    raise TypeError(
        "`encoder` must be a name (see tl_unet.list_encoders()), a tl_unet.EncoderSpec or a functional keras.Model; "
        f"received {encoder!r}."
    )


def _functional(model):
    """The model as a functional one of images (a Sequential that knows its input is one, too)."""
    inputs = getattr(model, "inputs", None) or []
    if len(inputs) != 1:
        raise ValueError(
            f"A keras.Model given as `encoder` must be functional, with one input; {model.name!r} is not. Build it as "
            "keras.Model(inputs, outputs), or give a Sequential model a keras.Input first."
        )
    if len(inputs[0].shape) != 4:
        raise ValueError(
            f"A keras.Model given as `encoder` must take images (batch, height, width, channels); {model.name!r} takes "
            f"{inputs[0].shape}."
        )
    if isinstance(model, keras.Sequential):
        return keras.Model(inputs, model.outputs, name=model.name)
    return model


def encoder_from_spec(spec, channels, weights, depth=None):
    """Builds the nested encoder of a spec, with weights.

    Args:
        spec: `EncoderSpec`.
        channels: int, of the tensor that enters the encoder.
        weights: as in `build_unet`; those of the whole backbone, whatever the depth.
        depth: as `encoder_depth` in `build_unet`. Defaults to `None`.

    Returns:
        `Encoder` and the list of its outputs' strides.

    Raises:
        ValueError: if the encoder has no such depth, or a tap another stride than its spec says.
    """
    taps = [tap.stride for tap in spec.taps]
    spec = dataclasses.replace(spec, taps=spec.taps[: _count_maps(taps, depth, spec.name)])
    if weights is None or channels == 3:
        encoder = _tapped(spec, build_backbone(spec, channels, weights))
    else:
        encoder = _tapped(spec, build_backbone(spec, channels, None))
        pretrained = _tapped(spec, build_backbone(spec, 3, weights))
        inflate_weights(pretrained, encoder, bgr=spec.statistics.bgr)
    _check_strides(spec, encoder)
    return encoder, [tap.stride for tap in spec.taps]


def _check_strides(spec, encoder):
    """Refuses a spec whose maps have other sizes than its strides and paddings say: they would not fit together, or not the image."""
    coarsest = spec.taps[-1].stride
    least = max(-(-spec.min_size // coarsest), 2) * coarsest
    sides = [side or least for side in encoder.input_shape[1:3]]
    image = keras.KerasTensor((1, *sides, encoder.input_shape[-1]))
    for tap, size in zip(spec.taps, encoder.compute_output_spec(image), strict=True):
        wanted = tuple(side // tap.stride for side in sides)
        if tuple(size.shape[1:3]) != wanted:
            raise ValueError(
                f"Encoder {spec.name!r}: the tap {tap.layer or tap.via!r} has stride {tap.stride} in its spec, so that of an image of "
                f"{sides[0]}x{sides[1]} its map should be {wanted[0]}x{wanted[1]}, but it is {size.shape[1]}x{size.shape[2]}. Correct the tap's "
                "stride, or its padding where a layer before it is unpadded."
            )


def _tapped(spec, backbone):
    maps = [_aligned(_resolve(tap, spec, backbone), tap.padding) for tap in spec.taps]
    start = backbone.input if spec.entry is None else _layer(spec, backbone, spec.entry).input
    return Encoder(start, maps, name="encoder")


def _layer(spec, backbone, name):
    try:
        return backbone.get_layer(name)
    except ValueError:
        names = [layer.name for layer in backbone.layers]
        near = difflib.get_close_matches(name, names, n=5)
        raise ValueError(
            f"Encoder {spec.name!r}: its backbone has no layer {name!r}"
            + (f"; near are {near}." if near else f"; some of its {len(names)} are {names[:5]}.")
        ) from None


def _resolve(tap, spec, backbone):
    if tap.via == "model_output":
        return backbone.output
    if tap.nth is None:
        layer = _layer(spec, backbone, tap.layer)
    else:
        found = [layer for layer in backbone.layers if type(layer).__name__ == tap.layer]
        if len(found) <= tap.nth:
            raise ValueError(
                f"Encoder {spec.name!r}: its backbone has {len(found)} layers of class {tap.layer!r}, "
                f"the tap at stride {tap.stride} wants number {tap.nth}, counted from 0."
            )
        layer = found[tap.nth]
    return layer.input if tap.via == "input" else layer.output


def _aligned(feature_map, padding):
    """Pads the map of an unpadded stem with zeros to `side / stride`."""
    if not any(padding):
        return feature_map
    return keras.layers.ZeroPadding2D((tuple(padding), tuple(padding)))(feature_map)


def _count_maps(strides, depth, name):
    """How many of the maps of these strides an encoder of a depth has."""
    if depth is None:
        return len(strides)
    depths = [stride.bit_length() - 1 for stride in strides]
    if depth not in depths[1:]:  # at least two maps
        raise ValueError(
            f"`encoder_depth` must be one of {depths[1:]} for the encoder {name!r}, whose maps have the strides {strides}, or "
            f"None for all of them; received {depth!r}."
        )
    return depths.index(depth) + 1


def encoder_from_model(model, weights, depth=None):
    """Makes any functional model an encoder: its taps are its `pyramid_outputs`, or the last map at each resolution.

    The layers are shared with `model`, so its weights are used and, where they are not frozen, trained.

    Args:
        model: functional `keras.Model` of one image input `(height, width, channels)`.
        weights: `"imagenet"` or `None` leave the weights that the model has; a path loads that file into it.
        depth: as `encoder_depth` in `build_unet`. Defaults to `None`.

    Returns:
        `Encoder`, the list of its outputs' strides, and the least side of an image that it can process.

    Raises:
        ValueError: if the model has fewer than two resolutions whose strides are powers of two, or no such depth.
    """
    if weights not in (None, "imagenet"):
        load_weights(model, model, weights)
    if has_pyramid(model):
        image = model.inputs[0]
        taps = {stride: (tensor, (0, 0)) for stride, tensor in pyramid(model).items()}
    else:
        image, taps = _find_taps(model)
    if len(taps) < 2:
        nested = [layer.name for layer in model.layers if isinstance(layer, keras.Model)]
        raise ValueError(
            f"Model {model.name!r} has feature maps at the strides {sorted(taps)} only: an encoder needs at least two "
            "resolutions whose strides are powers of two."
            + (
                f" Maps inside of nested models are not seen: give {nested[0]!r} itself."
                if nested
                else ""
            )
        )
    strides = sorted(taps)
    strides = strides[: _count_maps(strides, depth, model.name)]
    maps = [_aligned(*taps[stride]) for stride in strides]
    encoder = Encoder(image, maps, name="encoder")
    return encoder, strides, _least_side(encoder, strides)


def _least_side(encoder, strides):
    """The smallest multiple of the coarsest stride at which every map has the size that its stride says."""
    known = min((side for side in encoder.input_shape[1:3] if side), default=None)
    channels = encoder.input_shape[-1]
    for side in [known] if known else range(strides[-1], 9 * strides[-1], strides[-1]):
        try:
            image = keras.KerasTensor((1, *(s or side for s in encoder.input_shape[1:3]), channels))
            sizes = encoder.compute_output_spec(image)
        except ValueError:  # smaller than an unpadded kernel
            continue
        if all(
            size.shape[1:3] == tuple(full / stride for full in image.shape[1:3])
            for size, stride in zip(sizes, strides, strict=True)
        ):
            return side
    raise ValueError(
        f"The maps of the model given as `encoder` do not have the sizes that their strides {strides} say for images of "
        f"{known or f'1 to 8 times {strides[-1]}'} pixels. Give it sides that {strides[-1]} divides, or write an EncoderSpec."
    )


def _find_taps(model):
    """The image, and `{stride: (tensor, padding)}`: the last tensor of each resolution in the order of the graph."""
    known = model.inputs[0].shape[1:]
    height, width, channels = (
        side or other for side, other in zip(known, (256, 256, 3), strict=True)
    )
    image, tensors, sizes = _maps_in_order(model, (1, height, width, channels))
    exact, short = {}, {}
    for tensor, size in zip(tensors, sizes, strict=True):
        sides = size.shape[1:3]
        if min(sides) < 2:  # the pooled vector of a squeeze-and-excitation block
            continue
        stride = 2 ** round(math.log2(height / sides[0]))
        missing = {full // stride - side for full, side in zip((height, width), sides, strict=True)}
        if missing == {0}:
            exact[stride] = tensor, (0, 0)
        elif len(missing) == 1 and 0 < min(missing) <= 4:  # behind unpadded convolutions
            short[stride] = tensor, (min(missing) // 2, -(-min(missing) // 2))
    found = {**short, **exact}
    return image, {stride: tap for stride, tap in found.items() if _has_kernel(image, tap[0])}


def _maps_in_order(model, shape):
    """The image, every batch of maps behind it in the order of the graph, and their sizes for an image of a shape, as the model's own sides may be `None`.

    The `output` of a layer is that of its first call: of layers that are called again, in this model or another one, the maps are
    those of a copy of the graph over the same layers.
    """
    operations, copies = [], []

    def call(operation, *args, **kwargs):
        outputs = operation(*args, **kwargs)
        operations.append(operation)
        copies.append(outputs)
        return outputs

    # Not the model itself: of a compiled one, Keras would compile the copy.
    plain = keras.Model(model.inputs, model.outputs)
    copy = keras.models.clone_model(plain, clone_function=_same, call_function=call)
    image = keras.KerasTensor(shape)
    if len({id(operation) for operation in operations}) == len(operations):
        maps = _only_maps(operation.output for operation in operations)
        # They may be of another model: Keras 3.10 notices only when it computes.
        with contextlib.suppress(ValueError, KeyError):
            probe = keras.Model(model.inputs[0], maps)
            return model.inputs[0], maps, probe.compute_output_spec(image)
    maps = _only_maps(copies)
    return copy.inputs[0], maps, keras.Model(copy.inputs[0], maps).compute_output_spec(image)


def _only_maps(outputs):
    return [x for x in outputs if isinstance(x, keras.KerasTensor) and len(x.shape) == 4]


def _same(layer):
    return layer


def _has_kernel(image, tensor):
    """Whether a tensor is a feature, not the image or its preprocessing."""
    return any(len(weight.shape) > 1 for weight in keras.Model(image, tensor).weights)
