"""Deep supervision: masks of a decoder's inner maps, which the loss sees in training and nobody else.

`build_unet(..., deep_supervision=True)` makes a `DeeplySupervised` model. It has one output, the mask: `predict`, `evaluate`, metrics, export and
everything that takes a model of one output work as always. Only a training step computes the auxiliary masks, and the loss given to
`compile` is averaged over all of them. `strip_auxiliary` leaves the plain model.
"""

import functools
import warnings

import keras


@keras.saving.register_keras_serializable(package="tl_unet")
class AuxiliaryMasks(keras.layers.Layer):
    """Keeps auxiliary masks in a model's graph beside the mask, which it returns; and knows what they weigh.

    Args:
        weight: float, what each auxiliary mask weighs in the loss against 1 for the mask. Defaults to `1.0`.
        **kwargs: arguments of `keras.layers.Layer`, such as `name`.

    Call arguments:
        masks: list of tensors `(batch, height, width, classes)`, the mask first.

    Returns:
        The first of them.

    Example:

    >>> import numpy as np
    >>> from tl_unet.deep_supervision import AuxiliaryMasks
    >>> mask, auxiliary = np.ones((1, 4, 4, 1), "float32"), np.zeros((1, 4, 4, 1), "float32")
    >>> float(AuxiliaryMasks(weight=0.5)([mask, auxiliary])[0, 0, 0, 0])
    1.0
    """

    def __init__(self, weight=1.0, **kwargs):
        super().__init__(**kwargs)
        self.weight = weight

    def call(self, masks):
        return masks[0]

    def compute_output_shape(self, input_shape):
        return input_shape[0]

    def get_config(self):
        return {**super().get_config(), "weight": self.weight}


@keras.saving.register_keras_serializable(package="tl_unet")
class DeeplySupervised(keras.Model):
    """A functional model of one output that trains on auxiliary masks too.

    Called with `training=True` it returns the list of the mask and the auxiliary masks, otherwise the mask alone, without computing the
    others. The loss is the mean of the compiled loss over the list, weighted; metrics see the mask. As a layer of another functional or
    `Sequential` model it is only its mask, and warns of it: the other model's training knows nothing of the auxiliary masks.

    Example:

    >>> import tl_unet
    >>> model = tl_unet.build_unet("mobilenetv2", decoder="unetplusplus", deep_supervision=True, weights=None, freeze=False)
    >>> type(model).__name__, model.output_shape
    ('DeeplySupervised', (None, None, None, 1))
    """

    # Not attributes that Keras would track: their layers are the model's own.
    @functools.cached_property
    def _all_masks(self):
        return keras.Model(self.input, _masks(self))

    @functools.cached_property
    def _mask_alone(self):
        return keras.Model(self.input, _masks(self)[0])

    def __call__(self, *args, **kwargs):
        if any(isinstance(x, keras.KerasTensor) for x in (*args, *kwargs.values())):
            warnings.warn(
                f"The model {self.name!r} with deep supervision is put into another model, whose training will see its mask only: the auxiliary "
                "masks won't train. Train it by itself (with augmentation in the data, not in a model around it), or pass strip_auxiliary(model).",
                stacklevel=2,
            )
        return super().__call__(*args, **kwargs)

    def call(self, inputs, training=None, mask=None):
        return (self._all_masks if training else self._mask_alone)(inputs, training=training)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        if not isinstance(y_pred, list):
            return super().compute_loss(x, y, y_pred, sample_weight, training)
        weight = self.get_layer("auxiliary_masks").weight
        weights = [1.0, *[weight] * (len(y_pred) - 1)]
        # Weights that sum to one, so that the losses that layers add, such as weight decay, count once.
        losses = [
            w
            / sum(weights)
            * super(DeeplySupervised, self).compute_loss(x, y, p, sample_weight, training)
            for w, p in zip(weights, y_pred, strict=True)
        ]
        return sum(losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        y_pred = y_pred[0] if isinstance(y_pred, list) else y_pred
        return super().compute_metrics(x, y, y_pred, sample_weight)


def _masks(model):
    """The mask and the auxiliary masks, as tensors of the model's graph."""
    return list(model.get_layer("auxiliary_masks").input)


def strip_auxiliary(model):
    """The model without what only deep supervision needs, for deployment.

    Args:
        model: `keras.Model` that `build_unet` made, with deep supervision or not.

    Returns:
        A plain functional `keras.Model` that gives the same masks and shares the layers and weights, not compiled; or `model` itself if
        it has no auxiliary masks.

    Example:

    >>> import tl_unet
    >>> model = tl_unet.build_unet("mobilenetv2", decoder="unetplusplus", deep_supervision=True, weights=None, freeze=False)
    >>> plain = tl_unet.strip_auxiliary(model)
    >>> model.count_params() - plain.count_params()  # three heads, 1x1 convolutions of 32 channels
    99
    """
    if not isinstance(model, DeeplySupervised):
        return model
    return keras.Model(model.input, _masks(model)[0], name=model.name)
