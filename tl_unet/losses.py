"""Losses for segmentation: Dice, Jaccard, Tversky, Lovász, focal and cross-entropy.

Give one to `model.compile(loss=...)`; add and scale them: `DiceLoss() + 0.5 * FocalLoss()`. They take masks
as they are (bool, integers or floats; class numbers or one channel a class), compute in float32 under any
policy, and check what they are given.
"""

from keras import ops

from tl_unet.argument_checks import check_number, registered
from tl_unet.counts import count_pixels, tversky_index
from tl_unet.crossentropy import CrossentropyLoss, FocalLoss
from tl_unet.loss_base import LossSum, SegmentationLoss
from tl_unet.lovasz import LovaszLoss

__all__ = [
    "CrossentropyLoss",
    "DiceLoss",
    "FocalLoss",
    "JaccardLoss",
    "LossSum",
    "LovaszLoss",
    "TverskyLoss",
]


class _TverskyFamily(SegmentationLoss):
    """One minus a Tversky index of soft counts.

    A subclass defines `index_arguments()`, which returns the index's `alpha`, `beta` and `smooth`.
    """

    def __init__(self, smooth=1.0, **kwargs):
        super().__init__(**kwargs)
        self.smooth = check_number("smooth", smooth)

    def class_losses(self, pixels):
        counts = count_pixels(pixels, per=self.average)
        losses = 1.0 - tversky_index(counts, *self.index_arguments())
        return losses, ops.ones_like(losses)

    def get_config(self):
        return {"smooth": self.smooth, **super().get_config()}


@registered
class DiceLoss(_TverskyFamily):
    """One minus the soft Dice coefficient, `1 - (2 TP + smooth) / (2 TP + FP + FN + smooth)`.

    It lies between 0 and 1, is 0 for a perfect prediction and for an empty mask predicted empty, and rises
    with every false positive on an empty mask. Of a soft mask (values between 0 and 1) it is least at 0 and 1, not at the mask's
    own values: cross-entropy suits those. With the defaults it is 1 plus the loss of the U-Net transfer
    learning paper (Asai et al.: minus the soft Dice coefficient, smooth 1, over the whole batch), so it has
    the same gradient.

    What differs from `keras.losses.Dice`: that one costs 1 for an empty mask predicted empty, counts masks of
    0..255 as they are, overflows in 16-bit numbers, and knows neither logits nor ignored pixels.

    Args:
        smooth: Float, added above and below. With 0 an empty mask gives no gradient.
            Defaults to `1.0`.
        average: String, `"batch"` or `"image"`: whether the loss is computed over all pixels of a batch at
            once, or for each image and then averaged. Defaults to `"batch"`.
        from_logits: Boolean, whether predictions are logits. Defaults to `False`.
        multi_label: Boolean, whether the classes of several output channels may overlap (sigmoid) instead of
            excluding one another (softmax). Defaults to `False`.
        class_weights: Sequence of numbers, one for each class (for one output channel two: background and
            foreground), by which the classes' losses are averaged, or `None` for equal ones (for one
            output channel: the foreground alone). A 0 leaves a class out. Defaults to `None`.
        ignore_index: Integer, the mask's value for pixels that count for nothing, or `None`.
            Defaults to `None`.
        reduction: String or `None`, as in `keras.losses.Loss`, over the images of `average="image"`.
            Defaults to `"sum_over_batch_size"`.
        name: String. Defaults to `"dice_loss"`.

    Raises:
        ValueError: If an argument is not as above; when called, if mask and prediction do not fit each other
            or (seen eagerly) hold values they must not hold.

    Example:

    >>> import numpy as np
    >>> from tl_unet.losses import DiceLoss
    >>> mask = np.array([[[1, 1], [0, 0]]])
    >>> prediction = np.array([[[[0.9], [0.6]], [[0.2], [0.1]]]])
    >>> round(float(DiceLoss(smooth=0.0)(mask, prediction)), 4)
    0.2105

    Reference:

    - [Milletari, Navab and Ahmadi, 2016: V-Net](https://arxiv.org/abs/1606.04797)
    """

    def __init__(
        self,
        smooth=1.0,
        average="batch",
        from_logits=False,
        multi_label=False,
        class_weights=None,
        ignore_index=None,
        reduction="sum_over_batch_size",
        name="dice_loss",
    ):
        super().__init__(
            smooth=smooth,
            average=average,
            from_logits=from_logits,
            multi_label=multi_label,
            class_weights=class_weights,
            ignore_index=ignore_index,
            reduction=reduction,
            name=name,
        )

    def index_arguments(self):
        return 0.5, 0.5, self.smooth / 2


@registered
class JaccardLoss(_TverskyFamily):
    """One minus the soft Jaccard index (IoU), `1 - (TP + smooth) / (TP + FP + FN + smooth)`.

    It lies between 0 and 1 and obeys the same laws as `DiceLoss`; it punishes the same error more.

    Args:
        smooth: Float, added above and below. With 0 an empty mask gives no gradient.
            Defaults to `1.0`.
        average: String, `"batch"` or `"image"`: whether the loss is computed over all pixels of a batch at
            once, or for each image and then averaged. Defaults to `"batch"`.
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
        name: String. Defaults to `"jaccard_loss"`.

    Raises:
        ValueError: As in `DiceLoss`.

    Example:

    >>> import numpy as np
    >>> from tl_unet.losses import JaccardLoss
    >>> mask = np.array([[[1, 1], [0, 0]]])
    >>> prediction = np.array([[[[0.9], [0.6]], [[0.2], [0.1]]]])
    >>> round(float(JaccardLoss(smooth=0.0)(mask, prediction)), 4)
    0.3478

    Reference:

    - [Rahman and Wang, 2016: Optimizing Intersection-Over-Union in Deep Neural Networks for Image
      Segmentation](https://doi.org/10.1007/978-3-319-50835-1_22)
    """

    def __init__(
        self,
        smooth=1.0,
        average="batch",
        from_logits=False,
        multi_label=False,
        class_weights=None,
        ignore_index=None,
        reduction="sum_over_batch_size",
        name="jaccard_loss",
    ):
        super().__init__(
            smooth=smooth,
            average=average,
            from_logits=from_logits,
            multi_label=multi_label,
            class_weights=class_weights,
            ignore_index=ignore_index,
            reduction=reduction,
            name=name,
        )

    def index_arguments(self):
        return 1.0, 1.0, self.smooth


@registered
class TverskyLoss(_TverskyFamily):
    """One minus the soft Tversky index, `1 - (TP + smooth) / (TP + alpha FP + beta FN + smooth)`.

    For objects that are rare or small: `beta` above `alpha` makes a missed pixel cost more than a false alarm.
    `alpha = beta = 0.5` is the Dice loss (with half its `smooth`), `alpha = beta = 1` the Jaccard loss. The
    defaults are those that the authors found best; `keras.losses.Tversky` has 0.5 and 0.5, and the faults of
    `keras.losses.Dice` (see `DiceLoss`).

    Args:
        alpha: Float, what a false positive weighs. Defaults to `0.3`.
        beta: Float, what a false negative weighs. Defaults to `0.7`.
        smooth: Float, added above and below. With 0 an empty mask gives no gradient.
            Defaults to `1.0`.
        average: String, `"batch"` or `"image"`: whether the loss is computed over all pixels of a batch at
            once, or for each image and then averaged. Defaults to `"batch"`.
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
        name: String. Defaults to `"tversky_loss"`.

    Raises:
        ValueError: As in `DiceLoss`, and if `alpha` and `beta` are both 0.

    Example:

    >>> import numpy as np
    >>> from tl_unet.losses import TverskyLoss
    >>> mask = np.array([[[1, 1], [0, 0]]])
    >>> missed, false_alarm = np.array([[[[1.0], [0.0]], [[0.0], [0.0]]], [[[1.0], [1.0]], [[1.0], [0.0]]]])
    >>> loss = TverskyLoss(alpha=0.3, beta=0.7)
    >>> bool(loss(mask, missed[None]) > loss(mask, false_alarm[None]))
    True

    Reference:

    - [Salehi, Erdogmus and Gholipour, 2017: Tversky loss function for image segmentation using 3D fully
      convolutional deep networks](https://arxiv.org/abs/1706.05721)
    """

    def __init__(
        self,
        alpha=0.3,
        beta=0.7,
        smooth=1.0,
        average="batch",
        from_logits=False,
        multi_label=False,
        class_weights=None,
        ignore_index=None,
        reduction="sum_over_batch_size",
        name="tversky_loss",
    ):
        super().__init__(
            smooth=smooth,
            average=average,
            from_logits=from_logits,
            multi_label=multi_label,
            class_weights=class_weights,
            ignore_index=ignore_index,
            reduction=reduction,
            name=name,
        )
        self.alpha = check_number("alpha", alpha)
        self.beta = check_number("beta", beta)
        if self.alpha == self.beta == 0:
            raise ValueError(
                "alpha and beta are both 0: then no error costs anything. Raise one of them."
            )

    def index_arguments(self):
        return self.alpha, self.beta, self.smooth

    def get_config(self):
        return {"alpha": self.alpha, "beta": self.beta, **super().get_config()}
