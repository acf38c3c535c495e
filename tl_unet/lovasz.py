"""The Lovász-softmax loss: a convex surface over the Jaccard loss, computed by sorting the errors.

Public as `tl_unet.losses.LovaszLoss`; it stands alone here because it does not come from counts.
"""

from keras import ops

from tl_unet.argument_checks import registered
from tl_unet.loss_base import SegmentationLoss


@registered
class LovaszLoss(SegmentationLoss):
    """The Lovász extension of the Jaccard loss over probabilities (Lovász-softmax).

    It is the tightest convex surface over the Jaccard loss of hard predictions: where predictions are 0 and
    1 the two are equal. It lies between 0 and 1. Best for fine-tuning, or added to a cross-entropy: far from
    the answer its gradient comes from few pixels.

    One output channel is treated with the same formula on its sigmoid (not with the Lovász hinge on logits),
    so the loss has the same scale for one class and for many. As in the paper, of several exclusive classes
    those count that occur in the unit's mask; a single class, and overlapping ones, always count.

    Args:
        average: String, `"batch"` or `"image"`: whether the loss is computed over all pixels of a batch at
            once, or for each image and then averaged. The authors found images better for Pascal VOC.
            Defaults to `"batch"`.
        from_logits: Boolean, whether predictions are logits. Defaults to `False`.
        multi_label: Boolean, whether the classes of several output channels may overlap (sigmoid) instead of
            excluding one another (softmax). Defaults to `False`.
        class_weights: Sequence of numbers, one for each class (for one output channel two: background and
            foreground), or `None` for equal ones (for one output channel: the foreground alone).
            Defaults to `None`.
        ignore_index: Integer, the mask's value for pixels that count for nothing, or `None`.
            Defaults to `None`.
        reduction: String or `None`, as in `keras.losses.Loss`, over the images of `average="image"`.
            Defaults to `"sum_over_batch_size"`.
        name: String. Defaults to `"lovasz_loss"`.

    Raises:
        ValueError: As in `DiceLoss`.

    Example:

    >>> import numpy as np
    >>> from tl_unet.losses import LovaszLoss
    >>> mask = np.array([[[1, 1], [0, 0]]])
    >>> prediction = np.array([[[[1.0], [1.0]], [[1.0], [0.0]]]])
    >>> round(float(LovaszLoss()(mask, prediction)), 4)  # 1 - IoU
    0.3333

    Reference:

    - [Berman, Rannen Triki and Blaschko, 2018: The Lovász-Softmax loss](https://arxiv.org/abs/1705.08790)
    """

    def __init__(
        self,
        average="batch",
        from_logits=False,
        multi_label=False,
        class_weights=None,
        ignore_index=None,
        reduction="sum_over_batch_size",
        name="lovasz_loss",
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

    def class_losses(self, pixels):
        """Returns what each class costs in each unit, and which classes count there.

        Args:
            pixels: `tl_unet.counts.Pixels` tuple.

        Returns:
            A pair of tensors of shape `(units, classes)`: losses, and ones and zeros.
        """
        errors = self._by_unit(ops.absolute(pixels.targets - pixels.probabilities))
        targets = self._by_unit(pixels.targets)
        weights = self._by_unit(pixels.weights * ops.ones_like(pixels.targets))

        order = ops.argsort(-errors, axis=-1)
        errors, targets, weights = (
            ops.take_along_axis(values, order, axis=-1) for values in (errors, targets, weights)
        )
        positives = ops.sum(weights * targets, axis=-1, keepdims=True)
        steps = _jaccard_steps(weights * targets, weights * (1.0 - targets), positives)
        losses = ops.sum(errors * steps, axis=-1)

        exclusive = losses.shape[-1] > 1 and not self.multi_label
        occurs = ops.cast(positives[..., 0] > 0, "float32")
        return losses, occurs if exclusive else ops.ones_like(losses)

    def _by_unit(self, values):
        """Reshapes (batch, height, width, classes) to (units, classes, pixels)."""
        units = 1 if self.average == "batch" else ops.shape(values)[0]
        return ops.transpose(ops.reshape(values, (units, -1, values.shape[-1])), (0, 2, 1))


def _jaccard_steps(positive, negative, positives):
    """Returns by how much each pixel, added to the errors in this order, raises the Jaccard loss.

    Written as differences already taken: subtracting neighbouring losses of a million pixels would leave
    float32 with one digit.
    """
    left = positives - ops.cumsum(positive, axis=-1)
    union = positives + ops.cumsum(negative, axis=-1)
    union_before = union - negative
    # With nothing in the union yet, the first false positive takes the loss from 0 to 1.
    share = ops.where(union_before > 0, left / ops.where(union_before > 0, union_before, 1.0), 1.0)
    rise = positive + negative * share
    return ops.where(union > 0, rise / ops.where(union > 0, union, 1.0), 0.0)
