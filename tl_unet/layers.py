"""The few layers that a U-Net of any input size needs and Keras lacks, or computes more slowly than it could.

`build_unet` places them; you meet them in `model.summary()` and in saved models.
"""

import math

import keras
import numpy as np
from keras import ops


@keras.saving.register_keras_serializable(package="tl_unet")
class PadToMultiple(keras.layers.Layer):
    """Pads an image at the bottom and right until its sides are multiples of a number.

    The edge pixels are repeated, so that no artificial contour appears; works with sides that are only known at run time.

    Args:
        multiple: int, what both sides become a multiple of (an encoder's coarsest stride).
        minimum: int, the least side afterwards, itself such a multiple. Defaults to `multiple`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name`.

    Call arguments:
        image: tensor of shape `(batch, height, width, channels)`.

    Returns:
        A tensor of shape `(batch, padded_height, padded_width, channels)` and the layer's compute dtype.

    Example:

    >>> import numpy as np, tl_unet.layers
    >>> tl_unet.layers.PadToMultiple(32)(np.zeros((1, 50, 64, 3), "float32")).shape[1:3] == (64, 64)
    True
    """

    def __init__(self, multiple, minimum=None, **kwargs):
        super().__init__(**kwargs)
        self.multiple = multiple
        self.minimum = multiple if minimum is None else minimum
        if multiple < 1 or self.minimum % multiple:
            raise ValueError(
                f"`multiple` must be positive and `minimum` a multiple of it; "
                f"received multiple={multiple}, minimum={minimum}."
            )

    def _target(self, side):
        # Nothing negative: converters to other runtimes round negative quotients towards zero.
        target = (side + self.multiple - 1) // self.multiple * self.multiple
        # A Python int must stay one (JAX traces with known sides), a run-time tensor can't become one.
        return (
            max(target, self.minimum)
            if isinstance(side, int)
            else ops.maximum(target, self.minimum)
        )

    def call(self, image):
        for axis in (1, 2):
            side = ops.shape(image)[axis]
            target = self._target(side)
            if not isinstance(side, int) or side != target:
                index = ops.minimum(ops.arange(target, dtype="int32"), side - 1)
                image = ops.take(image, index, axis=axis)
        return image

    def compute_output_shape(self, input_shape):
        batch, height, width, channels = input_shape
        sides = (side if side is None else self._target(side) for side in (height, width))
        return (batch, *sides, channels)

    def get_config(self):
        return {**super().get_config(), "multiple": self.multiple, "minimum": self.minimum}


@keras.saving.register_keras_serializable(package="tl_unet")
class CropLike(keras.layers.Layer):
    """Crops its first input at the bottom and right to the height and width of its second: undoes `PadToMultiple`.

    Call arguments:
        inputs: pair of tensors `(padded, reference)`, both `(batch, height, width, channels)`.

    Returns:
        `padded[:, :height, :width, :]` with the sides of `reference`.

    Example:

    >>> import numpy as np, tl_unet.layers
    >>> padded, image = np.zeros((1, 64, 64, 1), "float32"), np.zeros((1, 50, 60, 3), "float32")
    >>> tl_unet.layers.CropLike()([padded, image]).shape[1:3] == (50, 60)
    True
    """

    def call(self, inputs):
        padded, reference = inputs
        _, height, width, _ = ops.shape(reference)
        return padded[:, :height, :width, :]

    def compute_output_shape(self, input_shape):
        (batch, _, _, channels), (_, height, width, _) = input_shape
        return (batch, height, width, channels)


@keras.saving.register_keras_serializable(package="tl_unet")
class ReverseChannels(keras.layers.Layer):
    """Reverses the last axis: RGB to BGR, what the weights of VGG and ResNet were trained on.

    Call arguments:
        image: tensor of shape `(batch, height, width, channels)`, whose number of channels is known.

    Returns:
        A tensor of the same shape.

    Example:

    >>> import numpy as np, tl_unet.layers
    >>> image = np.array([[[[1.0, 2.0, 3.0]]]], "float32")
    >>> np.asarray(tl_unet.layers.ReverseChannels()(image)).ravel().tolist()
    [3.0, 2.0, 1.0]
    """

    def call(self, image):
        # Not `ops.flip`: OpenVINO merges these parts into the next convolution, while a reversed axis took it 5 to 8 % of a
        # prediction in 8 bits.
        channels = ops.split(image, image.shape[-1], axis=-1)
        return ops.concatenate(channels[::-1], axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable(package="tl_unet")
class UpSampling2D(keras.layers.UpSampling2D):
    """`keras.layers.UpSampling2D` that also interpolates maps whose sides are known at run time only.

    Keras' own cannot: `predict` on pictures of several sizes, and files for other runtimes that take any size, end with an error
    there (with `"nearest"` those for LiteRT). Where the sides are known this is the same computation, where not, the same function to rounding.

    Args:
        size: int or pair of ints, by which the sides are multiplied. Defaults to `(2, 2)`.
        interpolation: `"nearest"` or `"bilinear"`. Defaults to `"nearest"`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name`.

    Call arguments:
        x: tensor of shape `(batch, height, width, channels)`.

    Returns:
        A tensor of shape `(batch, size[0] * height, size[1] * width, channels)`.

    Raises:
        ValueError: for another interpolation.

    Example:

    >>> import numpy as np, tl_unet.layers
    >>> layer = tl_unet.layers.UpSampling2D(2, interpolation="bilinear")
    >>> np.asarray(layer(np.array([[[[0.0], [4.0]]]], "float32")))[0, 0, :, 0].tolist()
    [0.0, 1.0, 3.0, 4.0]
    """

    def __init__(self, size=(2, 2), interpolation="nearest", **kwargs):
        if interpolation not in ("nearest", "bilinear"):
            raise ValueError(
                f'`interpolation` must be "nearest" or "bilinear". Received: {interpolation!r}'
            )
        super().__init__(size, interpolation=interpolation, **kwargs)

    def call(self, x):
        if all(isinstance(side, int) for side in ops.shape(x)[1:3]):
            return super().call(x)
        for axis, factor in enumerate(self.size, 1):
            near = self.interpolation == "nearest"
            phases = [x] * factor if near else _interpolated(x, axis, factor)
            shape = [*ops.shape(x)]
            shape[axis] = -1
            x = ops.reshape(ops.stack(phases, axis=axis + 1), shape)
        return x


def _interpolated(x, axis, factor):
    """The pixels between the centres of those along an axis, the edge repeated: tensors like `x`, one for each place in an enlarged pixel."""
    # Not by slices and concatenation: converters stumble over the empty slice of a side of one pixel.
    side = ops.shape(x)[axis]
    places = ops.arange(side, dtype="int32")
    before = ops.take(x, ops.maximum(places - 1, 0), axis=axis)
    after = ops.take(x, ops.minimum(places + 1, side - 1), axis=axis)
    phases = []
    for phase in range(factor):
        offset = (phase + 0.5) / factor - 0.5
        other = before if offset < 0 else after
        phases.append(x + abs(offset) * (other - x) if offset else x)
    return phases


# Along one axis: what of the three taps of a kernel on a doubled map falls on each of the four taps of a transposed convolution with stride 2.
_TAPS = np.array([[0, 0, 1], [0, 1, 1], [1, 1, 0], [1, 0, 0]], "float32")
_SUMS = np.kron(_TAPS, _TAPS)


@keras.saving.register_keras_serializable(package="tl_unet")
class BatchNormalization(keras.layers.BatchNormalization):
    """Keras' batch normalisation, whose training TensorFlow's fused kernel computes where TensorFlow is the backend.

    The same function of the same weights, to rounding, and the same running statistics. Keras composes it from elementary operations,
    each of which goes through the whole map; the fused kernel does so once or twice, and keeps less for the gradient. In inference, where
    it is frozen, on other backends, and for what the kernel cannot do (masks, other axes than the last of four, weights that are not
    float32, an `epsilon` below 1.001e-5, `renorm`, `synchronized`), it is computed as Keras does. The arguments and defaults are those of
    `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: tensor of shape `(batch, height, width, channels)`, or any other that Keras' layer takes.
        training: as in Keras' layer.
        mask: as in Keras' layer.

    Returns:
        A tensor of the shape of `inputs` and the layer's compute dtype.

    Example:

    >>> import keras, numpy as np, tl_unet.layers
    >>> maps = np.random.default_rng(0).normal(5, 2, (4, 8, 8, 3)).astype("float32")
    >>> x = tl_unet.layers.BatchNormalization()(maps, training=True)
    >>> round(abs(float(keras.ops.mean(x))), 3), round(float(keras.ops.std(x)), 3)
    (0.0, 1.0)

    Reference:
        - [Ioffe and Szegedy, Batch Normalization, 2015](https://arxiv.org/abs/1502.03167)
    """

    def call(self, inputs, training=None, mask=None):
        # Not in inference: there is little to gain, and on GPUs the kernel has no deterministic gradient then.
        if not (training and self.trainable and self._is_fused(inputs, mask)):
            return super().call(inputs, training=training, mask=mask)
        # Public, and known to TensorFlow's gradients and compilers; among the operations of Keras there is none.
        import tensorflow as tf

        gamma = self.gamma if self.scale else ops.ones_like(self.moving_mean)
        beta = self.beta if self.center else ops.zeros_like(self.moving_mean)
        x, mean, variance = tf.compat.v1.nn.fused_batch_norm(
            ops.cast(inputs, self.compute_dtype),
            ops.convert_to_tensor(gamma),
            ops.convert_to_tensor(beta),
            epsilon=self.epsilon,
        )
        # TensorFlow's variance is over one value less than there are (which may be more than a 32-bit integer holds).
        count = math.prod(ops.cast(side, variance.dtype) for side in ops.shape(inputs)[:3])
        variance = variance * (count - 1) / count
        for running, new in ((self.moving_mean, mean), (self.moving_variance, variance)):
            running.assign(running * self.momentum + new * (1 - self.momentum))
        return x

    def _is_fused(self, inputs, mask):
        axis = self.axis[0] if isinstance(self.axis, list | tuple) else self.axis
        return (
            keras.config.backend() == "tensorflow"
            and mask is None
            and len(inputs.shape) == 4
            and axis in (-1, 3)
            and self.compute_dtype in ("float32", "float16", "bfloat16")
            and self.variable_dtype == "float32"
            and not self.synchronized
            and not getattr(self, "renorm", False)  # newer versions of Keras have it
            and self.epsilon >= 1.001e-5  # older versions of TensorFlow take no less
        )


@keras.saving.register_keras_serializable(package="tl_unet")
class UpConv2D(keras.layers.Layer):
    """A 3x3 convolution of skip connections and a coarser map that is doubled first, computed without doubling it.

    The same function of the same weights as `UpSampling2D(2)` (nearest), `Concatenate()([*skips, enlarged])` and `Conv2D(filters, 3,
    padding="same")`, to rounding. The four pixels that a coarse one becomes are equal, so the taps of the kernel that fall on the same
    coarse pixel can be added beforehand: what remains is a transposed convolution with a 4x4 kernel and stride 2, with 16 products
    for four pixels in place of 36. The skip connections are convolved by their part of the kernel, and both are added. With the JAX
    backend, whose compiler knows no fast gradient of it on CPUs, it is computed the long way.

    Args:
        filters: int, channels of the result.
        use_bias: bool, whether a bias is added. Defaults to `True`.
        activation: name of an activation, a callable, or `None` (linear). Defaults to `None`.
        summed: bool, whether the weights are the sums themselves (`sums`, of shape `(4, 4, filters, coarse_channels)`) and
            the skip connections' kernel: for prediction, as `fold_batch_norm` makes it. Defaults to `False`: a kernel as that of `Conv2D`, of shape
            `(3, 3, skip_channels + coarse_channels, filters)`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name`.

    Call arguments:
        maps: list of tensors: any number of skip connections `(batch, 2 * height, 2 * width, channels_i)`, then the coarse map
            `(batch, height, width, channels)`.

    Returns:
        A tensor of shape `(batch, 2 * height, 2 * width, filters)` and the layer's compute dtype.

    Raises:
        ValueError: when it is built, if the skip connections are known not to have twice the sides of the last map.

    Example:

    >>> import numpy as np, tl_unet.layers
    >>> skip, coarse = np.ones((1, 16, 16, 3), "float32"), np.ones((1, 8, 8, 5), "float32")
    >>> layer = tl_unet.layers.UpConv2D(4)
    >>> layer([skip, coarse]).shape == (1, 16, 16, 4)
    True
    >>> layer.kernel.shape == (3, 3, 8, 4)
    True

    Reference:
        - [Shi et al., Is the deconvolution layer the same as a convolutional layer?, 2016](https://arxiv.org/abs/1609.07009): convolutions at
          the coarse resolution that equal those of enlarged maps
    """

    def __init__(self, filters, use_bias=True, activation=None, summed=False, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.use_bias = use_bias
        self.activation = keras.activations.get(activation)
        self.summed = summed

    def build(self, input_shape):
        *skips, coarse = input_shape
        for skip in skips:
            pairs = zip(skip[1:3], coarse[1:3], strict=True)
            if any(None not in pair and pair[0] != 2 * pair[1] for pair in pairs):
                raise ValueError(
                    f"The skip connections must have twice the sides of the last map; received shapes {input_shape}."
                )
        self.channels = coarse[-1]
        seen = sum(skip[-1] for skip in skips)
        if self.summed:
            shape = (4, 4, self.filters, self.channels)
            self.sums = self.add_weight(shape=shape, initializer="glorot_uniform", name="sums")
        if seen or not self.summed:
            shape = (3, 3, seen if self.summed else seen + self.channels, self.filters)
            self.kernel = self.add_weight(shape=shape, initializer="glorot_uniform", name="kernel")
        if self.use_bias:
            self.bias = self.add_weight(shape=(self.filters,), initializer="zeros", name="bias")

    def call(self, maps):
        *skips, coarse = maps
        if self.summed:
            sums, kernel = self.sums, self.kernel if skips else None
        elif keras.config.backend() == "jax":
            enlarged = ops.repeat(ops.repeat(coarse, 2, axis=1), 2, axis=2)
            return self._finish(_convolve([*skips, enlarged], self.kernel))
        else:
            # One split, as the gradient of two slices is slower.
            seen = sum(skip.shape[-1] for skip in skips)
            kernel, of_coarse = ops.split(self.kernel, [seen], axis=2)
            sums = summed_kernel(of_coarse)
        x = ops.conv_transpose(coarse, sums, 2, "same", data_format="channels_last")
        return self._finish(x + _convolve(skips, kernel) if skips else x)

    def _finish(self, x):
        return self.activation(x + self.bias if self.use_bias else x)

    def compute_output_shape(self, input_shape):
        batch, height, width, _ = input_shape[-1]
        sides = (None if side is None else 2 * side for side in (height, width))
        return (batch, *sides, self.filters)

    def get_config(self):
        return {
            **super().get_config(),
            "filters": self.filters,
            "use_bias": self.use_bias,
            "activation": keras.activations.serialize(self.activation),
            "summed": self.summed,
        }


def _convolve(maps, kernel):
    joined = ops.concatenate(maps, axis=-1) if len(maps) > 1 else maps[0]
    return ops.conv(joined, kernel, 1, "same", data_format="channels_last")


def summed_kernel(kernel):
    """The kernel of the transposed convolution that does to a map what a 3x3 convolution does to the doubled map.

    Args:
        kernel: tensor `(3, 3, channels, filters)`.

    Returns:
        Tensor `(4, 4, filters, channels)` of its dtype.
    """
    _, _, channels, filters = kernel.shape
    taps = ops.reshape(ops.transpose(kernel, (0, 1, 3, 2)), (9, -1))
    sums = ops.matmul(ops.cast(_SUMS, taps.dtype), taps)
    return ops.reshape(sums, (4, 4, filters, channels))
