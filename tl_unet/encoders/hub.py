"""KerasHub's backbones as encoders: presets by name, with the preprocessing they were trained with, and backbone objects.

`keras_hub` is an optional dependency (`pip install "tl-unet[hub]"`), imported only when a preset is asked for. The feature maps are the
backbone's `pyramid_outputs`; their strides are measured, since the numbers in their names mean different things in different families.
"""

import difflib
import os
import warnings

import keras

from tl_unet.encoders.preprocessing import PREPROCESSING, Preprocessing
from tl_unet.encoders.spec import EncoderSpec, Tap

PREFIX = "hub:"
# What users of other libraries call them. KerasHub's only ResNet of 34 layers is the variant "D" (He et al. 2019).
ALIASES = {"resnet18": "resnet_18_imagenet", "resnet34": "resnet_vd_34_imagenet"}
# What a backbone expects that comes without an image converter; most of KerasHub's ImageNet presets have been trained so.
ASSUMED = PREPROCESSING["torch"]


def preset_of(name):
    """The preset that an encoder's name means, or `None` if it is no name of KerasHub's.

    Args:
        name: str, such as `"hub:resnet_18_imagenet"`, `"hub:./directory"` or `"resnet18"`.

    Returns:
        str or `None`.

    Example:

    >>> from tl_unet.encoders.hub import preset_of
    >>> preset_of("hub:./mine"), preset_of("resnet18"), preset_of("vgg16")
    ('./mine', 'resnet_18_imagenet', None)
    """
    if name.lower().startswith(PREFIX):
        return name[len(PREFIX) :]
    return ALIASES.get(name.lower())


def has_pyramid(model):
    """Whether a model is a backbone that names its feature maps, as KerasHub's `FeaturePyramidBackbone` does."""
    maps = getattr(model, "pyramid_outputs", None)
    return isinstance(maps, dict) and bool(maps)


def pyramid(backbone):
    """The feature maps of a backbone by stride.

    The coarsest is the backbone's output where that has the same size: some families normalise only there.

    Args:
        backbone: functional `keras.Model` with `pyramid_outputs`.

    Returns:
        Dict from stride to `keras.KerasTensor`, finest first; maps whose stride is no power of two are left out.
    """
    tensors = [*backbone.pyramid_outputs.values(), *backbone.outputs]
    tensors = [tensor for tensor in tensors if len(tensor.shape) == 4]
    height, width, channels = backbone.input_shape[1:]
    image = (1, height or 256, width or 256, channels)
    probe = keras.Model(backbone.inputs[0], tensors)
    found = {}
    for tensor, size in zip(
        tensors, probe.compute_output_spec(keras.KerasTensor(image)), strict=True
    ):
        stride = image[1] // size.shape[1]
        exact = tuple(stride * side for side in size.shape[1:3]) == image[1:3]
        if exact and stride & (stride - 1) == 0:
            found[stride] = tensor
    return dict(sorted(found.items()))


def spec_from_preset(preset, input_shape):
    """The spec of a KerasHub preset: its maps, its preprocessing, and a builder that loads its weights.

    Args:
        preset: str, a built-in name such as `"resnet_18_imagenet"`, a handle such as `"hf://user/model"`, or a directory that
            `backbone.save_to_preset` wrote.
        input_shape: `(height, width, channels)` as given to `build_unet`, for families that can't have unknown sides (MiT).

    Returns:
        `EncoderSpec`, in which `weights="imagenet"` means the preset's weights.

    Raises:
        ImportError: if KerasHub is not installed.
        FileNotFoundError: if the preset is not on this machine and could not be downloaded.
        ValueError: if there is no such preset, it is no backbone with `pyramid_outputs`, or it needs known sides.
    """
    backbone = _load(preset, load_weights=False)
    if not has_pyramid(backbone):
        raise ValueError(
            f"The KerasHub preset {preset!r} is a {type(backbone).__name__}, which has no `pyramid_outputs`. Give the backbone itself "
            "to build_unet, which looks for the maps in its graph: keras_hub.models.Backbone.from_preset(...)."
        )
    config = {key: value for key, value in backbone.get_config().items() if key != "dtype"}
    shape = "image_shape" if "image_shape" in config else "input_shape"
    cls, sides = type(backbone), (None, None)
    try:
        backbone = cls.from_config({**config, shape: (None, None, 3)})
    except Exception as error:  # its layers compute with the sides; what they raise differs
        sides = _known_sides(preset, backbone, input_shape, error)
        try:
            backbone = cls.from_config({**config, shape: (*sides, 3)})
            pyramid(backbone)  # some say only now that they can't
        except Exception as fixed:
            raise ValueError(
                f"The KerasHub preset {preset!r} can't be built for images of {sides[0]}x{sides[1]} pixels ({fixed}). Some families "
                "take square images only."
            ) from fixed

    def build(input_shape=(None, None, 3), weights=None):
        size = (*sides, input_shape[-1])
        if weights is None:
            return cls.from_config({**config, shape: size})
        return _load(preset, load_weights=True, **{shape: size})

    maps = pyramid(backbone)
    return EncoderSpec(
        name=os.path.basename(os.path.normpath(preset)),
        builder=build,
        taps=[_tap(backbone, stride, tensor) for stride, tensor in maps.items()],
        preprocessing=_converter_statistics(preset),
        min_size=max(maps, default=1),
        imagenet=True,
        family="KerasHub",
    )


def _known_sides(preset, backbone, input_shape, error):
    """The sides for which a backbone of fixed sides is built: those of the input, padded as `build_unet` pads it."""
    height, width = tuple(input_shape)[:2]
    if not height or not width:
        raise ValueError(
            f"The KerasHub preset {preset!r} can't be built for images of unknown sides ({error}): pass build_unet the sides, such "
            "as input_shape=(512, 512, 3)."
        ) from error
    multiple = max(pyramid(backbone))
    return tuple(-(-side // multiple) * multiple for side in (height, width))


def _tap(backbone, stride, tensor):
    """Where a map is, in words that hold for every build: layers' names are automatic in some families, their order is not."""
    if any(tensor is output for output in backbone.outputs):
        return Tap(stride, via="model_output")
    seen = {}
    for layer in backbone.layers:
        name = type(layer).__name__
        if layer.output is tensor:
            return Tap(stride, name, nth=seen.get(name, 0))
        seen[name] = seen.get(name, 0) + 1
    raise ValueError(
        f"The map of stride {stride} of {type(backbone).__name__} is no layer's output: give build_unet the backbone itself."
    )


def _converter_statistics(preset):
    """The `Preprocessing` of a preset's image converter, without its resizing."""
    hub = _keras_hub()
    try:
        converter = hub.layers.ImageConverter.from_preset(preset)
    except (FileNotFoundError, ValueError):
        warnings.warn(
            f"The KerasHub preset {preset!r} has no image converter: ImageNet's mean and deviation are assumed as its preprocessing. "
            "State it by build_unet(preprocessing=...), or write the converter beside the backbone by its save_to_preset.",
            stacklevel=5,
        )
        return ASSUMED
    scale = [1.0] * 3 if converter.scale is None else _three(converter.scale)
    offset = [0.0] * 3 if converter.offset is None else _three(converter.offset)
    return Preprocessing(
        mean=tuple(-o / s for o, s in zip(offset, scale, strict=True)),
        std=tuple(1 / s for s in scale),
    )


def _three(value):
    return [float(v) for v in value] if isinstance(value, (list, tuple)) else [float(value)] * 3


def _load(preset, load_weights, **options):
    hub = _keras_hub()
    try:
        return hub.models.Backbone.from_preset(
            preset, load_weights=load_weights, dtype=keras.config.dtype_policy(), **options
        )
    except Exception as error:  # each host and file format has its own
        if os.path.isdir(preset):
            raise ValueError(
                f"{preset!r} holds no KerasHub backbone that can be read ({error}). Such a directory is written by "
                "backbone.save_to_preset(directory)."
            ) from error
        if "://" not in preset and preset not in hub.models.Backbone.presets:
            near = difflib.get_close_matches(preset, hub.models.Backbone.presets, n=3)
            raise ValueError(
                f"There is no KerasHub preset {preset!r}, and no directory of that name."
                + (f" Did you mean {' or '.join(map(repr, near))}?" if near else "")
                + " keras_hub.models.Backbone.presets lists them; a directory is one that backbone.save_to_preset wrote."
            ) from error
        raise FileNotFoundError(
            f"The KerasHub preset {preset!r} is not on this machine and could not be downloaded: {error}. Without a network, run "
            f"keras_hub.models.Backbone.from_preset({preset!r}).save_to_preset('directory') where there is one, and the same for "
            "keras_hub.layers.ImageConverter; bring the directory here and pass 'hub:directory' as encoder."
        ) from error


def _keras_hub():
    try:
        import keras_hub
    except ImportError as error:
        raise ImportError(
            f"KerasHub presets need keras-hub, which can't be imported ({error}): "
            'pip install "tl-unet[hub]"'
        ) from error
    return keras_hub
