"""The few layers that a U-Net of any input size needs and Keras lacks.

`build_unet` places them; you meet them in `model.summary()` and in saved models.
"""

import keras
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
        image: tensor of shape `(batch, height, width, channels)`.

    Returns:
        A tensor of the same shape.

    Example:

    >>> import numpy as np, tl_unet.layers
    >>> image = np.array([[[[1.0, 2.0, 3.0]]]], "float32")
    >>> np.asarray(tl_unet.layers.ReverseChannels()(image)).ravel().tolist()
    [3.0, 2.0, 1.0]
    """

    def call(self, image):
        return ops.flip(image, axis=-1)

    def compute_output_shape(self, input_shape):
        return input_shape
