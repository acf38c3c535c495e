"""Seeing what a U-Net looks at: Grad-CAM for a class or a region of the mask, and the feature maps of the encoder.

Use it on a model from `build_unet`, trained or loaded, one image at a time; `tl_unet.plotting` draws what comes out. It explains where
the model found its evidence, not whether the mask is right: for that see `tl_unet.evaluation`.
"""

import difflib
import functools
import weakref

import keras
import numpy as np
from keras import ops

from tl_unet.argument_checks import is_whole

# A model's graph is taken apart once: doing it for every image would cost time and leave nodes on the layers each time.
_GRAPHS = weakref.WeakKeyDictionary()


METHODS = ("grad_cam", "hires_cam")


def grad_cam(model, image, class_index=1, *, region=None, layer=None, method="grad_cam"):
    """Shows which places of a feature map speak for a class in a segmentation, as a heat map over the image.

    The score is the sum of the class's logits over the pixels of `region`. The feature map is weighted by the score's gradient with
    respect to it and summed over its channels; what is negative is dropped, the rest enlarged to the size of the image and divided by
    its maximum. The gradient takes all ways from the feature map to the mask, also those through coarser stages of the encoder.

    A map is relative to itself: 1 is the strongest place of this image, class and layer, and says nothing of other images.

    Args:
        model: `keras.Model` from `build_unet`, compiled or not. Its weights stay as they are.
        image: array `(height, width, channels)`, as the model takes it: raw values 0..255 unless it was built with another
            preprocessing.
        class_index: int, the channel of the mask. A model of one class has two: 1 is the foreground, 0 the background, whose score is
            minus the foreground's. Defaults to 1.
        region: array `(height, width)` or `(height, width, 1)` of bool or 0 and 1, the pixels whose score is explained, such as one
            animal of several, or `None` for all. Defaults to `None`.
        layer: the feature map to look at: an int, the stride of a map of the encoder (see `feature_maps`); a str, the name of a layer of the
            decoder such as `"decoder_stage2_conv2"`; or `None`, the coarsest map of the encoder (the bridge), whose meaning is highest and whose
            places are coarsest. Defaults to `None`.
        method: `"grad_cam"` weights each channel by the mean of its gradient: all places where the map shows what the score depends on.
            `"hires_cam"` weights each value by its own gradient: the places that this score does depend on, which shows what a region
            adds. Defaults to `"grad_cam"`.

    Returns:
        NumPy array `(height, width)`, float32 in 0..1. All zeros if nothing in the map speaks for the class.

    Raises:
        ValueError: if the model is none of `build_unet`, the image or the region has another shape, the region is empty, or there is no
            such class, layer or method.

    Example:

    >>> import numpy as np, tl_unet
    >>> model = tl_unet.build_unet("mobilenetv2", weights=None, freeze=False)
    >>> image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), "uint8")
    >>> left = np.zeros((50, 70), bool)
    >>> left[:, :35] = True
    >>> tl_unet.grad_cam(model, image, region=left).shape
    (50, 70)

    Reference:
        - [Selvaraju et al., Grad-CAM, 2017](https://arxiv.org/abs/1610.02391), equations 1 and 2
        - [Vinogradova, Dibrov, Myers, Towards Interpretable Semantic Segmentation via Gradient-Weighted Class Activation Mapping,
          2020](https://arxiv.org/abs/2002.11434), equation 1
        - [Draelos and Carin, HiResCAM, 2020](https://arxiv.org/abs/2011.08891), for `method="hires_cam"`
    """
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {METHODS}; received {method!r}.")
    graph = _graph(model)
    batch = _checked_image(model, image)
    channel, sign = _checked_class(graph.classes, class_index)
    pixels = _checked_region(region, batch.shape[1:3])

    maps, padded = graph.run(batch)
    feature_map, remainder = graph.cut(_key(graph, layer, maps, padded), batch)
    if len(feature_map.shape) != 4:
        raise ValueError(
            f"The layer {layer!r} gives no feature map (batch, height, width, channels), but {tuple(feature_map.shape)}."
        )
    # The logits are those of the padded image: what was added has no say.
    rows, columns = (full - side for full, side in zip(padded, pixels.shape, strict=True))
    pixels = ops.convert_to_tensor(np.pad(pixels, ((0, rows), (0, columns))))

    def score(feature_map):
        return sign * ops.sum(remainder(feature_map)[0, :, :, channel] * pixels)

    weights = ops.cast(_gradient(score, feature_map), "float32")
    if method == "grad_cam":
        weights = ops.mean(weights, axis=(1, 2), keepdims=True)
    heat = ops.relu(ops.sum(weights * ops.cast(feature_map, "float32"), axis=-1, keepdims=True))
    heat = ops.image.resize(heat, padded, interpolation="bilinear", data_format="channels_last")
    heat = ops.convert_to_numpy(heat)[0, : batch.shape[1], : batch.shape[2], 0]
    highest = heat.max()
    return heat / highest if highest > 0 else np.zeros_like(heat)


def feature_maps(model, image):
    """The feature maps that the encoder hands to the decoder for an image: the skip connections and, coarsest, the bridge.

    Args:
        model: `keras.Model` from `build_unet`.
        image: array `(height, width, channels)`, as the model takes it.

    Returns:
        Dict of the maps by stride, finest first: NumPy arrays `(padded_height / stride, padded_width / stride, channels)`, float32.
        Images whose sides the coarsest stride does not divide are padded at the bottom and right, and so are the maps.

    Raises:
        ValueError: if the model is none of `build_unet`, or the image has another shape than its.

    Example:

    >>> import numpy as np, tl_unet
    >>> model = tl_unet.build_unet("mobilenetv2", weights=None, freeze=False)
    >>> maps = tl_unet.feature_maps(model, np.zeros((64, 96, 3), "uint8"))
    >>> {stride: values.shape for stride, values in maps.items()}[32]
    (2, 3, 1280)
    """
    maps, padded = _graph(model).run(_checked_image(model, image))
    return {
        stride: ops.convert_to_numpy(ops.cast(values[0], "float32"))
        for stride, values in zip(_strides(maps, padded), maps, strict=True)
    }


class _Graph:
    """A model's layers as one flat graph up to the logits: the nested encoder's maps and the decoder's are all its tensors."""

    def __init__(self, model):
        self.tensors = {}

        def call(layer, *args, **kwargs):
            # Calling the encoder's `call` puts its layers into the graph instead of the encoder.
            run = layer.call if layer.name == "encoder" else layer
            self.tensors[layer.name] = run(*args, **kwargs)
            return self.tensors[layer.name]

        # A decoder that ends at a coarser map has its logits enlarged.
        names = {layer.name for layer in model.layers}
        last = model.get_layer("enlarge" if "enlarge" in names else "logits")
        whole = keras.Model(model.inputs, last.output)
        flat = keras.models.clone_model(
            whole, clone_function=lambda layer: layer, call_function=call
        )
        self.image, self.logits = flat.inputs[0], flat.outputs[0]
        self.encoder = self.tensors.pop("encoder")
        self.classes = self.logits.shape[-1]
        self._maps = keras.Model(self.image, [*self.encoder, self.logits])
        self._cut = functools.cache(self._cut)

    def run(self, batch):
        """The encoder's maps, and the padded sides of the image."""
        *maps, logits = self._maps(batch, training=False)
        return maps, tuple(int(side) for side in logits.shape[1:3])

    def cut(self, key, batch):
        """The feature map at `key`, and the rest of the model as a function from this map to the logits."""
        first, rest = self._cut(key)
        return first(batch, training=False), lambda tensor: rest([batch, tensor], training=False)

    def _cut(self, key):
        tensor = self.encoder[key] if isinstance(key, int) else self.tensors[key]
        return keras.Model(self.image, tensor), keras.Model([self.image, tensor], self.logits)


def _graph(model):
    if model not in _GRAPHS:
        names = {layer.name for layer in getattr(model, "layers", ())}
        if not {"encoder", "logits"} <= names or not getattr(model, "inputs", None):
            raise ValueError(
                f"The model {getattr(model, 'name', model)!r} has no layers 'encoder' and 'logits': pass one that "
                "tl_unet.build_unet made."
            )
        inner = model.get_layer("encoder").layers
        twice = names & {x.name for x in inner if not isinstance(x, keras.layers.InputLayer)}
        if twice:
            raise ValueError(
                f"The encoder has layers of the same names as the model around it, {sorted(twice)}, which can't be told apart here: give "
                "the encoder's own layers other names before build_unet."
            )
        _GRAPHS[model] = _Graph(model)
    return _GRAPHS[model]


def _gradient(function, at):
    """The gradient of a function of one tensor with a scalar value: the one thing that `keras.ops` leaves to the backends."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(at)
            value = function(at)
        gradient = tape.gradient(value, at, unconnected_gradients="zero")
    elif backend == "torch":
        import torch

        with torch.enable_grad():
            at = at.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(function(at), at, materialize_grads=True)
    elif backend == "jax":
        import jax

        gradient = jax.grad(function)(at)
    else:
        raise ValueError(
            f"Grad-CAM needs gradients, which Keras' backend {backend!r} does not have here: use tensorflow, jax or torch."
        )
    return gradient


def _strides(maps, padded):
    return [padded[0] // int(values.shape[1]) for values in maps]


def _key(graph, layer, maps, padded):
    """Index of a map of the encoder, or the name of a layer behind it."""
    strides = _strides(maps, padded)
    if layer is None:
        return len(strides) - 1
    if is_whole(layer) and layer in strides:
        return strides.index(layer)
    if isinstance(layer, str) and layer in graph.tensors:
        return layer
    near = difflib.get_close_matches(str(layer), graph.tensors, n=3)
    raise ValueError(
        f"`layer` must be one of the encoder's strides {strides}, the name of a layer outside of the encoder, or None; received "
        f"{layer!r}." + (f" Did you mean {' or '.join(map(repr, near))}?" if near else "")
    )


def _checked_image(model, image):
    image = np.asarray(image)
    wanted = tuple(model.input_shape[1:])
    fits = image.ndim == 3 and all(
        known in (None, side) for known, side in zip(wanted, image.shape, strict=True)
    )
    if not fits or not image.size:
        raise ValueError(
            f"`image` must be one image of shape {wanted} (height, width, channels), without the batch; received an array of "
            f"shape {image.shape}."
        )
    return ops.convert_to_tensor(image[None].astype("float32"))


def _checked_class(classes, class_index):
    count = max(2, classes)
    if not isinstance(class_index, (int, np.integer)) or not 0 <= class_index < count:
        raise ValueError(
            f"`class_index` must be an int from 0 to {count - 1} for this model; received {class_index!r}."
        )
    if classes > 1:
        return int(class_index), 1.0
    return 0, 1.0 if class_index == 1 else -1.0


def _checked_region(region, sides):
    if region is None:
        return np.ones(tuple(sides), "float32")
    region = np.asarray(region)
    flat = region[..., 0] if region.ndim == 3 and region.shape[-1] == 1 else region
    if flat.shape != tuple(sides):
        raise ValueError(
            f"`region` must have the sides of the image, {tuple(sides)}; received an array of shape {region.shape}."
        )
    if not np.isin(flat, (0, 1)).all():
        raise ValueError(
            "`region` must hold bools or 0 and 1: compare probabilities with a threshold first."
        )
    if not flat.any():
        raise ValueError("`region` holds no pixel: there is no score to explain.")
    return flat.astype("float32")
