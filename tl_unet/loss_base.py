"""What all losses of the library share: their arguments, their sample weights, and their arithmetic.

Subclass `SegmentationLoss` for a loss of your own over the same masks and predictions. `LossSum` is what
`DiceLoss() + 0.5 * FocalLoss()` makes; it also takes losses of Keras.
"""

import keras
from keras import ops

from tl_unet.argument_checks import (
    check_choice,
    check_class_count,
    check_class_weights,
    check_ignore_index,
    check_number,
    registered,
)
from tl_unet.counts import read_pixels, with_background
from tl_unet.input_checks import split_sample_weight


class LossArithmetic:
    """Lets losses be added to losses and multiplied by numbers."""

    def __add__(self, other):
        if not isinstance(other, keras.losses.Loss):
            return NotImplemented
        return LossSum([self, other])

    def __radd__(self, other):
        if isinstance(other, int) and other == 0:  # The start of Python's `sum`.
            return self
        if not isinstance(other, keras.losses.Loss):
            return NotImplemented
        return LossSum([other, self])

    def __mul__(self, factor):
        if not isinstance(factor, int | float):
            return NotImplemented
        return LossSum([self], [factor])

    __rmul__ = __mul__


@registered
class LossSum(LossArithmetic, keras.losses.Loss):
    """A weighted sum of losses, itself a loss.

    Usually written with `+` and `*`. Masks go to each of the losses, which must all understand them: a loss
    of Keras wants the mask in the shape of the prediction (or class numbers, by its kind; a mask without a channel axis gets
    one for a prediction of one channel), knows no `ignore_index` and takes its own `from_logits`. Sample weights are those of `SegmentationLoss`, weights
    of images or of pixels; for losses of Keras, which alone would refuse or misread weights of images,
    they are given the shape that Keras multiplies right.

    Args:
        losses: Sequence of `keras.losses.Loss`, of this library or of Keras, that return a single number (so
            their `reduction` is not `None`).
        weights: Sequence of finite numbers, one for each loss, or `None` for all 1. Defaults to `None`.
        name: String. Defaults to `"loss_sum"`.

    Raises:
        ValueError: If the losses or the weights are not as above.

    Example:

    >>> import keras
    >>> from tl_unet.losses import DiceLoss, FocalLoss
    >>> loss = DiceLoss() + 0.5 * FocalLoss()
    >>> loss.weights
    [1.0, 0.5]
    >>> with_keras = 0.5 * (DiceLoss() + keras.losses.BinaryCrossentropy())
    >>> with_keras.weights
    [0.5, 0.5]
    """

    def __init__(self, losses, weights=None, name="loss_sum"):
        super().__init__(name=name, dtype="float32")
        losses = list(losses)
        weights = [1.0] * len(losses) if weights is None else list(weights)
        if not losses or len(weights) != len(losses):
            raise ValueError(
                "A sum needs at least one loss, and one weight for each, but was given "
                f"{len(losses)} losses and {len(weights)} weights."
            )
        for loss in losses:
            if not isinstance(loss, keras.losses.Loss):
                raise ValueError(
                    f"Only keras.losses.Loss objects can be added, but {loss!r} is none. Write a loss "
                    "function as a class, and create the object: DiceLoss(), not DiceLoss."
                )
            if loss.reduction in (None, "none"):
                raise ValueError(
                    f"The loss {loss.name!r} has reduction=None, so its values have a shape of their own "
                    'and cannot be added. Leave its reduction at "sum_over_batch_size".'
                )
        weights = [check_number("a loss's weight", weight, low=float("-inf")) for weight in weights]
        # A sum of sums is one sum: shorter to print, to save and to compute.
        self.losses, self.weights = [], []
        for loss, weight in zip(losses, weights, strict=True):
            nested = isinstance(loss, LossSum)
            self.losses += loss.losses if nested else [loss]
            self.weights += [weight * inner for inner in loss.weights] if nested else [weight]

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Computes the sum.

        Args:
            y_true: Mask, as the losses want it.
            y_pred: Prediction tensor of shape `(batch, height, width, classes)`.
            sample_weight: Tensor of weights of images or of pixels, or `None`. Defaults to `None`.

        Returns:
            A float32 scalar tensor.
        """
        y_pred = ops.convert_to_tensor(y_pred)
        image_weight, pixel_weight = split_sample_weight(sample_weight, y_pred)
        y_true = ops.convert_to_tensor(y_true)
        mask_for_keras = y_true
        if len(y_true.shape) == 3 and y_pred.shape[-1] == 1:
            # Keras would take the prediction's channel axis away, and its loss would have one axis less than the weights.
            mask_for_keras = ops.expand_dims(y_true, -1)
        total = 0.0
        for loss, weight in zip(self.losses, self.weights, strict=True):
            if isinstance(loss, LossArithmetic):
                value = loss(y_true, y_pred, sample_weight)
            else:
                weights = _weights_for(loss, mask_for_keras, y_pred, image_weight, pixel_weight)
                value = loss(mask_for_keras, y_pred, weights)
            total = total + weight * ops.cast(value, "float32")
        return total

    def call(self, y_true, y_pred):
        """Computes the sum without sample weights.

        Args:
            y_true: Mask, as the losses want it.
            y_pred: Prediction tensor of shape `(batch, height, width, classes)`.

        Returns:
            A float32 scalar tensor.
        """
        return self(y_true, y_pred)

    def get_config(self):
        """Returns the constructor's arguments, the losses serialised."""
        losses = [keras.saving.serialize_keras_object(loss) for loss in self.losses]
        return {"losses": losses, "weights": self.weights, "name": self.name}

    @classmethod
    def from_config(cls, config):
        """Makes the sum that `get_config` described."""
        losses = [keras.saving.deserialize_keras_object(loss) for loss in config["losses"]]
        return cls(**{**config, "losses": losses})


def _weights_for(loss, y_true, y_pred, image_weight, pixel_weight):
    """Weights of images or of pixels in the shape of what a loss of Keras gives: values of images, or of pixels."""
    if image_weight is None and pixel_weight is None:
        return None
    y_pred = ops.cast(y_pred, "float32")
    values = ops.convert_to_tensor(loss.call(ops.cast(y_true, "float32"), y_pred))
    if pixel_weight is not None:
        if len(values.shape) < 3:
            raise ValueError(
                f"The loss {loss.name!r} gives no value for each pixel, so weights of pixels can't be applied. Give weights of images, or "
                "another loss."
            )
        return ops.squeeze(pixel_weight, -1)
    if len(values.shape) < 2:
        return image_weight
    # One for each value: Keras' reductions may divide by their sum.
    weights = ops.reshape(image_weight, (-1, *[1] * (len(values.shape) - 1)))
    return ops.broadcast_to(weights, ops.shape(values))


class SegmentationLoss(LossArithmetic, keras.losses.Loss):
    """Base class: reads masks and predictions, averages over classes and units, weighs.

    A unit is an image (`average="image"`) or the whole batch (`average="batch"`). A subclass says in
    `class_losses` what a unit's classes cost, or in `unit_losses` what a unit costs.

    Sample weights, as `fit` passes them: one for each image, shape `(batch,)`, multiplies that image's loss
    with `average="image"` and the weight of its pixels with `average="batch"`; one for each pixel, shape
    `(batch, height, width)` or `(batch, height, width, 1)`, multiplies the pixel's part in the counts.

    Args:
        average: String, `"batch"` or `"image"`: whether the loss is computed over all pixels of a batch at
            once, or for each image and then averaged. Defaults to `"batch"`.
        from_logits: Boolean, whether predictions are logits instead of probabilities. Defaults to `False`.
        multi_label: Boolean, whether the classes of several output channels may overlap (a sigmoid for
            each) instead of excluding one another (a softmax). Defaults to `False`.
        class_weights: Sequence of non-negative numbers, one for each class (for one output channel two:
            background and foreground), or `None`: all classes count the same; for one output channel only the
            foreground counts. Defaults to `None`.
        ignore_index: Integer, the mask's value for pixels that count for nothing, such as 255, or `None`.
            Defaults to `None`.
        reduction: String or `None`, as in `keras.losses.Loss`, over the images (`average="image"`); a batch
            has one value. Defaults to `"sum_over_batch_size"`.
        name: String or `None` for one made from the class's name. Defaults to `None`.

    Raises:
        ValueError: If an argument is not as above; when called, if mask and prediction do not fit each other
            or (seen eagerly) hold values they must not hold.
    """

    def __init__(
        self,
        average="batch",
        from_logits=False,
        multi_label=False,
        class_weights=None,
        ignore_index=None,
        reduction="sum_over_batch_size",
        name=None,
    ):
        # Always float32: the sums over an image's pixels overflow 16-bit numbers.
        super().__init__(name=name, reduction=reduction, dtype="float32")
        self.average = check_choice("average", average, ("batch", "image"))
        self.from_logits = bool(from_logits)
        self.multi_label = bool(multi_label)
        self.class_weights = check_class_weights(class_weights)
        self.ignore_index = check_ignore_index(ignore_index)

    def __call__(self, y_true, y_pred, sample_weight=None):
        """Computes the loss.

        Args:
            y_true: Mask tensor of any type, of shape `(batch, height, width)`,
                `(batch, height, width, 1)` or, with a channel for each class, the prediction's.
            y_pred: Prediction tensor of shape `(batch, height, width, classes)`.
            sample_weight: Tensor of weights of images or of pixels, or `None`. Defaults to `None`.

        Returns:
            A float32 scalar tensor; with `reduction=None` a tensor of shape `(batch,)`, or `(1,)` with
            `average="batch"`.

        Raises:
            ValueError: If the three do not fit one another or hold values they must not hold.
        """
        y_true, y_pred = ops.convert_to_tensor(y_true), ops.convert_to_tensor(y_pred)
        image_weight, pixel_weight = split_sample_weight(sample_weight, y_pred)
        if image_weight is not None and self.average == "batch":
            pixel_weight = ops.reshape(image_weight, (-1, 1, 1, 1))
            image_weight = None
        # Keras reduces with weights of images only; those of pixels travel with the mask.
        mask = y_true if pixel_weight is None else (y_true, pixel_weight)
        return super().__call__(mask, y_pred, sample_weight=image_weight)

    def call(self, y_true, y_pred):
        """Computes the losses of the units.

        Args:
            y_true: Mask tensor, or a pair of a mask and weights of pixels.
            y_pred: Prediction tensor of shape `(batch, height, width, classes)`.

        Returns:
            A float32 tensor of shape `(batch,)`, or `(1,)` with `average="batch"`.
        """
        y_true, pixel_weight = y_true if isinstance(y_true, tuple) else (y_true, None)
        pixels = read_pixels(
            y_true,
            y_pred,
            from_logits=self.from_logits,
            multi_label=self.multi_label,
            ignore_index=self.ignore_index,
            pixel_weight=pixel_weight,
        )
        classes = pixels.targets.shape[-1]
        if self.class_weights is not None:
            check_class_count("class_weights", len(self.class_weights), max(classes, 2))
        return self.unit_losses(pixels)

    def unit_losses(self, pixels):
        """Returns the loss of each unit: the weighted mean of its classes' losses.

        Args:
            pixels: `tl_unet.counts.Pixels` tuple.

        Returns:
            A tensor of shape `(batch,)`, or `(1,)` with `average="batch"`.
        """
        if self.class_weights is not None and pixels.targets.shape[-1] == 1:
            pixels = with_background(pixels)
        losses, counted = self.class_losses(pixels)
        if self.class_weights is not None:
            counted = counted * ops.convert_to_tensor(self.class_weights, dtype="float32")
        total = ops.sum(counted, axis=-1)
        return ops.sum(losses * counted, axis=-1) / ops.where(total > 0, total, 1.0)

    def class_losses(self, pixels):
        """Returns what each class costs in each unit, and which classes count there.

        Args:
            pixels: `tl_unet.counts.Pixels` tuple.

        Returns:
            A pair of tensors of shape `(units, classes)`: losses, and ones and zeros.
        """
        raise TypeError(f"{type(self).__name__} must define class_losses or unit_losses.")

    def get_config(self):
        """Returns the constructor's arguments."""
        return {
            "average": self.average,
            "from_logits": self.from_logits,
            "multi_label": self.multi_label,
            "class_weights": self.class_weights,
            "ignore_index": self.ignore_index,
            "reduction": self.reduction,
            "name": self.name,
        }
