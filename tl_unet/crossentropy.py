"""Losses that are means over pixels: the cross-entropy and the focal loss.

Public as `tl_unet.losses.CrossentropyLoss` and `FocalLoss`; they stand here because they do not come from counts.
"""

from keras import ops

from tl_unet.argument_checks import check_number, registered
from tl_unet.loss_base import SegmentationLoss


@registered
class FocalLoss(SegmentationLoss):
    """Cross-entropy that cares less for what is easy: `(1 - p) ** gamma * -log(p)`, averaged over pixels.

    `p` is the probability of a pixel's true class. It is 0 for a perfect prediction and has no upper limit.

    What differs from `keras.losses.BinaryFocalCrossentropy` and `CategoricalFocalCrossentropy`: those compute
    from clipped probabilities even when given logits (the categorical one on every backend, the binary one
    on JAX), so a pixel that is wrong with confidence (a logit of -30 for the true class) gets no gradient
    and stays wrong; they know no ignored pixels and no masks of class numbers. Here Keras'
    `ops.binary_crossentropy` and `ops.categorical_crossentropy` do the work. For the same reason prefer
    a model without activation (`build_unet(activation=None)`) and `from_logits=True`: given probabilities,
    Keras finds the logits behind the model's sigmoid or softmax on TensorFlow only; on JAX and PyTorch
    it clips the probabilities at 1e-7, and such a pixel gets no gradient.

    Args:
        gamma: Float, how much easy pixels are played down; 0 is the plain cross-entropy. Defaults to `2.0`.
        alpha: Float between 0 and 1, the weight of the foreground, `1 - alpha` that of the background, or
            `None` for no weights. The authors used 0.25 together with `gamma=2`. Only for one output
            channel or with `multi_label`; else use `class_weights`. Defaults to `None`.
        average: String, `"batch"` or `"image"`: whether the mean is taken over all pixels of a batch at once,
            or for each image and then over the images; they differ when pixels are ignored.
            Defaults to `"batch"`.
        from_logits: Boolean, whether predictions are logits. Defaults to `False`.
        multi_label: Boolean, whether the classes of several output channels may overlap (sigmoid) instead of
            excluding one another (softmax). Defaults to `False`.
        class_weights: Sequence of numbers by which the loss of a pixel of each class is multiplied (for one
            output channel two: background and foreground; with `multi_label` by which each channel's loss
            is multiplied), or `None`. Defaults to `None`.
        ignore_index: Integer, the mask's value for pixels that count for nothing, or `None`.
            Defaults to `None`.
        reduction: String or `None`, as in `keras.losses.Loss`, over the images of `average="image"`.
            Defaults to `"sum_over_batch_size"`.
        name: String. Defaults to `"focal_loss"`.

    Raises:
        ValueError: As in `DiceLoss`, and if `alpha` is given for exclusive classes.

    Example:

    >>> import numpy as np
    >>> from tl_unet.losses import FocalLoss
    >>> mask, prediction = np.array([[[1]]]), np.array([[[[0.5]]]])
    >>> round(float(FocalLoss(gamma=2.0)(mask, prediction)), 4)  # 0.25 * log(2)
    0.1733

    Reference:

    - [Lin, Goyal, Girshick, He and Dollár, 2017: Focal Loss for Dense Object
      Detection](https://arxiv.org/abs/1708.02002)
    """

    def __init__(
        self,
        gamma=2.0,
        alpha=None,
        average="batch",
        from_logits=False,
        multi_label=False,
        class_weights=None,
        ignore_index=None,
        reduction="sum_over_batch_size",
        name="focal_loss",
    ):
        super().__init__(
            average=average,
            from_logits=from_logits,
            multi_label=multi_label,
            class_weights=class_weights,
            ignore_index=ignore_index,
            reduction=reduction,
            name=name,
        )
        self.gamma = check_number("gamma", gamma)
        self.alpha = None if alpha is None else check_number("alpha", alpha, high=1.0)

    def unit_losses(self, pixels):
        """Returns the loss of each unit: the mean over its pixels that count.

        Args:
            pixels: `tl_unet.counts.Pixels` tuple.

        Returns:
            A tensor of shape `(batch,)`, or `(1,)` with `average="batch"`.
        """
        # Nothing may change the outputs before the cross-entropy, not even where pixels are ignored: Keras
        # finds the logits behind a sigmoid or softmax by looking at the tensor it is given.
        targets, outputs, probabilities = pixels.targets, pixels.outputs, pixels.probabilities
        overlapping = targets.shape[-1] == 1 or self.multi_label
        if overlapping:
            losses = ops.binary_crossentropy(targets, outputs, from_logits=self.from_logits)
            true_probability = targets * probabilities + (1.0 - targets) * (1.0 - probabilities)
        else:
            losses = ops.categorical_crossentropy(targets, outputs, from_logits=self.from_logits)
            losses = ops.expand_dims(losses, -1)
            true_probability = ops.sum(targets * probabilities, axis=-1, keepdims=True)
        # Outputs of ignored pixels may be NaN (on TensorFlow), which a weight of 0 would not remove.
        losses = ops.where(pixels.valid > 0, losses, 0.0)
        if self.gamma > 0:
            # A base of exactly 0 has an infinite gradient for a gamma below 1.
            losses = losses * ops.maximum(1.0 - true_probability, 1e-7) ** self.gamma
        losses = losses * self._balance(targets, overlapping) * pixels.weights

        # Divided by pixels and not by weights, so that twice the weight is twice the loss, as in Keras.
        total = ops.sum(losses, axis=(1, 2, 3))
        number = ops.sum(pixels.valid * ops.ones_like(losses), axis=(1, 2, 3))
        if self.average == "batch":
            total, number = (ops.sum(values, axis=0, keepdims=True) for values in (total, number))
        return total / ops.where(number > 0, number, 1.0)

    def _balance(self, targets, overlapping):
        balance = 1.0
        if self.alpha is not None:
            if not overlapping:
                raise ValueError(
                    f"alpha={self.alpha} weighs one foreground against one background, but there are "
                    f"{targets.shape[-1]} exclusive classes. Pass class_weights, one number for each."
                )
            balance = self.alpha * targets + (1.0 - self.alpha) * (1.0 - targets)
        if self.class_weights is None:
            return balance
        weights = ops.convert_to_tensor(self.class_weights, dtype="float32")
        if targets.shape[-1] == 1:
            return balance * (weights[0] * (1.0 - targets) + weights[1] * targets)
        if self.multi_label:
            return balance * weights
        return balance * ops.sum(targets * weights, axis=-1, keepdims=True)

    def get_config(self):
        """Returns the constructor's arguments."""
        return {"gamma": self.gamma, "alpha": self.alpha, **super().get_config()}


@registered
class CrossentropyLoss(FocalLoss):
    """Cross-entropy, `-log(p)` of a pixel's true class, averaged over pixels: `FocalLoss` with `gamma=0`.

    One class for what Keras has three of, `keras.losses.BinaryCrossentropy`, `CategoricalCrossentropy` and
    `SparseCategoricalCrossentropy`: whether outputs are sigmoids or a softmax follows from their number and
    `multi_label`; masks are class numbers or one channel a class. What else differs: ignored pixels count in
    neither sum nor mean, and there are weights of classes. Beside `DiceLoss` it gives smooth
    gradients from the start.

    Prefer a model without activation (`build_unet(activation=None)`) and `from_logits=True`: given
    probabilities, Keras finds the logits behind the model's sigmoid or softmax on TensorFlow only; on JAX and
    PyTorch it clips the probabilities at 1e-7, and a pixel that is wrong with confidence (a logit of -30 for
    the true class) gets no gradient.

    Args:
        average: String, `"batch"` or `"image"`: whether the mean is taken over all pixels of a batch at once,
            or for each image and then over the images; they differ when pixels are ignored.
            Defaults to `"batch"`.
        from_logits: Boolean, whether predictions are logits. Defaults to `False`.
        multi_label: Boolean, whether the classes of several output channels may overlap (sigmoid) instead of
            excluding one another (softmax). Defaults to `False`.
        class_weights: Sequence of numbers by which the loss of a pixel of each class is multiplied (for one
            output channel two: background and foreground; with `multi_label` by which each channel's loss
            is multiplied), or `None`. `tl_unet.balanced_class_weights` computes some. Defaults to `None`.
        ignore_index: Integer, the mask's value for pixels that count for nothing, or `None`.
            Defaults to `None`.
        reduction: String or `None`, as in `keras.losses.Loss`, over the images of `average="image"`.
            Defaults to `"sum_over_batch_size"`.
        name: String. Defaults to `"crossentropy_loss"`.

    Raises:
        ValueError: As in `DiceLoss`.

    Example:

    >>> import numpy as np
    >>> from tl_unet.losses import CrossentropyLoss
    >>> mask = np.array([[[0, 255]]])
    >>> prediction = np.array([[[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]]]])
    >>> round(float(CrossentropyLoss(ignore_index=255)(mask, prediction)), 4)  # log(2)
    0.6931
    """

    def __init__(
        self,
        average="batch",
        from_logits=False,
        multi_label=False,
        class_weights=None,
        ignore_index=None,
        reduction="sum_over_batch_size",
        name="crossentropy_loss",
    ):
        super().__init__(
            gamma=0.0,
            average=average,
            from_logits=from_logits,
            multi_label=multi_label,
            class_weights=class_weights,
            ignore_index=ignore_index,
            reduction=reduction,
            name=name,
        )

    def get_config(self):
        """Returns the constructor's arguments."""
        config = super().get_config()
        return {key: value for key, value in config.items() if key not in ("gamma", "alpha")}
