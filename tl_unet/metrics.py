"""Metrics for segmentation: the Dice coefficient and IoU, right over a whole data set.

Give them to `model.compile(metrics=[...])`. By default they count thresholded pixels over all batches
and divide once at the end, so the score does not depend on the batch size. Accuracy, precision and the
like are in `keras.metrics`.
"""

import keras
import numpy as np
from keras import ops

from tl_unet.argument_checks import (
    check_choice,
    check_class_count,
    check_class_names,
    check_ignore_index,
    check_number,
    registered,
)
from tl_unet.counts import Counts, confusion_counts, tversky_index
from tl_unet.input_checks import split_sample_weight

# Float32 counts single pixels up to 2**24 only, and an int64 is not to be had on every backend. So a sum is
# kept in two variables: what is below this number, and how often this number was reached.
_CARRY = 2.0**16


class _OverlapMetric(keras.metrics.Metric):
    """Accumulates counts (or scores of images or batches) and scores them with a Tversky index."""

    # What false positives and false negatives weigh; what `smooth` is divided by.
    alpha = beta = smooth_divisor = 1.0

    def __init__(
        self,
        threshold,
        average,
        empty,
        smooth,
        from_logits,
        multi_label,
        ignore_index,
        target_class_ids,
        class_names,
        name,
    ):
        # Always float32: a score of a million pixels needs more than the 11 bits of float16.
        super().__init__(name=name, dtype="float32")
        self.threshold = (
            None if threshold is None else check_number("threshold", threshold, high=1.0)
        )
        self.average = check_choice("average", average, ("dataset", "image", "batch"))
        self.empty = check_number("empty", empty, high=1.0)
        self.smooth = check_number("smooth", smooth)
        self.from_logits = bool(from_logits)
        self.multi_label = bool(multi_label)
        self.ignore_index = check_ignore_index(ignore_index)
        self.target_class_ids = None if target_class_ids is None else _class_ids(target_class_ids)
        self.class_names = None if class_names is None else check_class_names(class_names)
        self._low = self._high = None

    def update_state(self, y_true, y_pred, sample_weight=None):
        """Adds a batch.

        Args:
            y_true: Mask tensor of any type, of shape `(batch, height, width)`,
                `(batch, height, width, 1)` or, with a channel for each class, the prediction's.
            y_pred: Prediction tensor of shape `(batch, height, width, classes)`.
            sample_weight: Tensor of shape `(batch,)` (one weight an image: with `average="image"` it
                weighs that image's score, else its pixels) or `(batch, height, width)` (one a pixel),
                or `None`. Defaults to `None`.

        Raises:
            ValueError: If the three do not fit one another or hold values they must not hold.
        """
        y_pred = ops.convert_to_tensor(y_pred)
        image_weight, pixel_weight = split_sample_weight(sample_weight, y_pred)
        if image_weight is not None and self.average != "image":
            pixel_weight, image_weight = ops.reshape(image_weight, (-1, 1, 1, 1)), None
        counts = confusion_counts(
            y_true,
            y_pred,
            threshold=self.threshold,
            per="batch" if self.average == "batch" else "image",
            from_logits=self.from_logits,
            multi_label=self.multi_label,
            ignore_index=self.ignore_index,
            pixel_weight=pixel_weight,
        )
        if self._low is None:
            self._build(y_pred.shape[-1])
        if self.average == "dataset":
            self._add(ops.stack(counts, axis=1))
        else:
            self._add(self._unit_scores(counts, image_weight))

    def result(self):
        """Returns the score so far.

        Returns:
            A float32 scalar tensor: the mean over the target classes that occur. 0 before any pixel. With
            `class_names` a dict of such tensors: the mean under the metric's name, then each class's own
            score, NaN where `per_class` has NaN. Keras logs each entry by its key.
        """
        if self.class_names is None:
            return self._mean()
        if self._low is None:
            each = [ops.full((), np.nan)] * len(self.class_names)
        else:
            each = ops.unstack(self.per_class())
        names = [f"{self.name}_{name}" for name in self.class_names]
        return {self.name: self._mean(), **dict(zip(names, each, strict=True))}

    def _mean(self):
        if self._low is None:
            return ops.zeros(())
        totals = self._totals()
        if self.average == "dataset":
            scores, occurs = self._score(Counts(*ops.unstack(totals, 4)))
            score = self._class_mean(scores, occurs)
            return ops.where(ops.sum(totals) == 0, 0.0, score)
        return ops.divide_no_nan(totals[0, -1], totals[1, -1])

    def per_class(self):
        """Returns the score of each class so far.

        Returns:
            A float32 tensor of shape `(classes,)`, with NaN for a class that occurs in no mask and no
            prediction. With `average="image"` or `"batch"`: means over the images or batches in which
            the class occurs.

        Raises:
            ValueError: If nothing has been added yet.
        """
        if self._low is None:
            raise ValueError(
                "The metric has seen no batch yet: call update_state (or evaluate) first."
            )
        totals = self._totals()
        if self.average == "dataset":
            scores, occurs = self._score(Counts(*ops.unstack(totals, 4)))
            return ops.where(occurs > 0, scores, np.nan)
        sums, weights = totals[0, :-1], totals[1, :-1]
        return ops.where(weights == 0, np.nan, ops.divide_no_nan(sums, weights))

    def get_config(self):
        return {
            "threshold": self.threshold,
            "average": self.average,
            "empty": self.empty,
            "smooth": self.smooth,
            "from_logits": self.from_logits,
            "multi_label": self.multi_label,
            "ignore_index": self.ignore_index,
            "target_class_ids": self.target_class_ids and list(self.target_class_ids),
            "class_names": self.class_names and list(self.class_names),
            "name": self.name,
        }

    def _build(self, classes):
        if self.target_class_ids is not None and max(self.target_class_ids) >= classes:
            raise ValueError(
                f"target_class_ids={self.target_class_ids} names a class that a prediction of {classes} "
                f"channels does not have. Use numbers from 0 to {classes - 1}."
            )
        if self.class_names is not None:
            check_class_count("class_names", len(self.class_names), classes, one_is_two=False)
        # Counts of each class; or sums and weights of the scores of each class and of their mean.
        shape = (4, classes) if self.average == "dataset" else (2, classes + 1)
        self._low = self.add_variable(shape, "zeros", dtype="float32", name="low")
        self._high = self.add_variable(shape, "zeros", dtype="float32", name="high")

    def _add(self, values):
        """Adds values of shape (units, rows, columns) to the sums, carrying what float32 would lose."""
        if values.shape[-1] != self._low.shape[-1]:
            raise ValueError(
                f"The metric {self.name!r} has seen predictions of another number of classes before. "
                "Create one metric for each model."
            )
        carried = ops.floor(values / _CARRY)
        low = self._low + ops.sum(values - carried * _CARRY, axis=0)
        again = ops.floor(low / _CARRY)
        self._high.assign(self._high + ops.sum(carried, axis=0) + again)
        self._low.assign(low - again * _CARRY)

    def _totals(self):
        # A tensor: a variable would take the factor as `floatx`, which may not reach so far.
        return ops.convert_to_tensor(self._high) * _CARRY + self._low

    def _score(self, counts):
        """Returns scores and, as ones and zeros, whether a class occurs in mask or prediction at all."""
        counted = counts.true_positives + counts.false_positives + counts.false_negatives
        scores = tversky_index(
            counts, self.alpha, self.beta, self.smooth / self.smooth_divisor, self.empty
        )
        # Not `> 0`: NaN, which stands for a mask that could not be read, has to stay visible.
        return scores, ops.cast(counted != 0, "float32")

    def _class_mean(self, scores, occurs):
        if self.target_class_ids is not None:
            wanted = np.isin(np.arange(scores.shape[-1]), self.target_class_ids)
            occurs = occurs * ops.convert_to_tensor(wanted.astype("float32"))
        number = ops.sum(occurs, axis=-1)
        mean = ops.sum(scores * occurs, axis=-1) / ops.maximum(number, 1.0)
        return ops.where(number > 0, mean, self.empty)

    def _unit_scores(self, counts, image_weight):
        scores, occurs = self._score(counts)
        # An image that is ignored as a whole has no score, not an `empty` one.
        seen = ops.cast(ops.sum(sum(counts), axis=-1, keepdims=True) != 0, "float32")
        if image_weight is not None:
            seen = seen * ops.expand_dims(image_weight, -1)
        means = ops.expand_dims(self._class_mean(scores, occurs), -1)
        weights = ops.concatenate([occurs * seen, seen], axis=-1)
        return ops.stack([ops.concatenate([scores, means], axis=-1) * weights, weights], axis=1)


def _class_ids(value):
    ids = np.asarray(value)
    if ids.ndim != 1 or ids.size == 0 or ids.dtype.kind not in "iu" or ids.min() < 0:
        raise ValueError(
            f"target_class_ids must be a list of class numbers from 0 on, such as [1, 2], but is {value!r}."
        )
    return sorted(set(ids.tolist()))


@registered
class DiceCoefficient(_OverlapMetric):
    """Dice coefficient (F1 score), `2 TP / (2 TP + FP + FN)`, of thresholded masks over the data set.

    One output channel: the score of the foreground; the background is never averaged in. More channels:
    the mean over the classes that occur in the mask or the prediction, the background (class 0) among them
    unless `target_class_ids` leaves it out. `per_class` gives each class's own.

    The paper's (Asai et al.) own coefficient is soft and averaged over batches:
    `DiceCoefficient(threshold=None, average="batch", smooth=1.0)`. It depends on the batch size and
    punishes predictions that are right but not sure.

    Args:
        threshold: Float between 0 and 1: what lies above it is foreground (exclusive classes: the likeliest
            class is taken, leave it at 0.5), or `None` for a soft score. Defaults to `0.5`.
        average: String. `"dataset"`: counted over all pixels of all batches, divided once. `"image"`: the
            mean of the images' scores. `"batch"`: the mean of the batches' scores. Defaults to `"dataset"`.
        empty: Float between 0 and 1, the score of a data set, image or batch in which no target class occurs,
            neither in the mask nor in the prediction. Defaults to `1.0`.
        smooth: Float, added above and below the fraction line. Defaults to `0.0`.
        from_logits: Boolean, whether predictions are logits. Defaults to `False`.
        multi_label: Boolean, whether the classes of several output channels may overlap (sigmoid) instead of
            excluding one another (softmax). Defaults to `False`.
        ignore_index: Integer, the mask's value for pixels that count for nothing, such as 255, or `None`.
            Defaults to `None`.
        target_class_ids: List of the class numbers that are averaged, such as `[1, 2]` without the
            background, or `None` for all. Defaults to `None`.
        class_names: Sequence of strings, one for each output channel, or `None`. With names, `fit` and
            `evaluate` log the score of each class beside the mean: `"dice_background"`, `"dice_cat"`,
            in validation `"val_dice_cat"`. Two such metrics of one model need a `name` each. Defaults to
            `None`.
        name: String. Defaults to `"dice"`.

    Raises:
        ValueError: If an argument is not as above; when updated, if mask and prediction do not fit each other
            or (seen eagerly) hold values they must not hold.

    Example:

    >>> import numpy as np
    >>> from tl_unet.metrics import DiceCoefficient
    >>> mask = np.array([[[1, 1], [0, 0]]])
    >>> prediction = np.array([[[[0.9], [0.6]], [[0.7], [0.1]]]])
    >>> metric = DiceCoefficient()
    >>> metric.update_state(mask, prediction)
    >>> round(float(metric.result()), 4)
    0.8

    Reference:

    - [Milletari, Navab and Ahmadi, 2016: V-Net](https://arxiv.org/abs/1606.04797)
    """

    alpha = beta = 0.5
    smooth_divisor = 2.0

    def __init__(
        self,
        threshold=0.5,
        average="dataset",
        empty=1.0,
        smooth=0.0,
        from_logits=False,
        multi_label=False,
        ignore_index=None,
        target_class_ids=None,
        class_names=None,
        name="dice",
    ):
        super().__init__(
            threshold=threshold,
            average=average,
            empty=empty,
            smooth=smooth,
            from_logits=from_logits,
            multi_label=multi_label,
            ignore_index=ignore_index,
            target_class_ids=target_class_ids,
            class_names=class_names,
            name=name,
        )


@registered
class IoU(_OverlapMetric):
    """Intersection over union (Jaccard index), `TP / (TP + FP + FN)`, of thresholded masks over the data set.

    One output channel: the score of the foreground; the background is never averaged in. More channels:
    the mean over the classes that occur in the mask or the prediction, the background (class 0) among them
    unless `target_class_ids` leaves it out. `per_class` gives each class's own.

    What differs from Keras' own: `keras.metrics.MeanIoU` takes class numbers, so a sigmoid output scores as
    all background; `keras.metrics.BinaryIoU` averages the background in unless told otherwise, thresholds
    logits at 0.5 and, with `target_class_ids=[1]`, gives an empty mask predicted empty 0.

    The paper's (Asai et al.) own IoU is soft and averaged over batches:
    `IoU(threshold=None, average="batch", smooth=1.0)`.

    Args:
        threshold: Float between 0 and 1: what lies above it is foreground (exclusive classes: the likeliest
            class is taken, leave it at 0.5), or `None` for a soft score. Defaults to `0.5`.
        average: String. `"dataset"`: counted over all pixels of all batches, divided once. `"image"`: the
            mean of the images' scores. `"batch"`: the mean of the batches' scores. Defaults to `"dataset"`.
        empty: Float between 0 and 1, the score of a data set, image or batch in which no target class occurs,
            neither in the mask nor in the prediction. Defaults to `1.0`.
        smooth: Float, added above and below the fraction line. Defaults to `0.0`.
        from_logits: Boolean, whether predictions are logits. Defaults to `False`.
        multi_label: Boolean, whether the classes of several output channels may overlap (sigmoid) instead of
            excluding one another (softmax). Defaults to `False`.
        ignore_index: Integer, the mask's value for pixels that count for nothing, such as 255, or `None`.
            Defaults to `None`.
        target_class_ids: List of the class numbers that are averaged, such as `[1, 2]` without the
            background, or `None` for all. Defaults to `None`.
        class_names: Sequence of strings, one for each output channel, or `None`. With names, `fit` and
            `evaluate` log the score of each class beside the mean: `"iou_background"`, `"iou_cat"`,
            in validation `"val_iou_cat"`. Two such metrics of one model need a `name` each. Defaults to
            `None`.
        name: String. Defaults to `"iou"`.

    Raises:
        ValueError: As in `DiceCoefficient`.

    Example:

    >>> import numpy as np
    >>> from tl_unet.metrics import IoU
    >>> mask = np.array([[[0, 1], [2, 2]]])
    >>> prediction = np.eye(3)[np.array([[[0, 1], [1, 2]]])]
    >>> metric = IoU(target_class_ids=[1, 2])
    >>> metric.update_state(mask, prediction)
    >>> float(metric.result())
    0.5
    >>> [float(score) for score in metric.per_class()]
    [1.0, 0.5, 0.5]
    >>> named = IoU(class_names=["background", "cat", "dog"])
    >>> named.update_state(mask, prediction)
    >>> {name: round(float(score), 2) for name, score in named.result().items()}
    {'iou': 0.67, 'iou_background': 1.0, 'iou_cat': 0.5, 'iou_dog': 0.5}
    """

    def __init__(
        self,
        threshold=0.5,
        average="dataset",
        empty=1.0,
        smooth=0.0,
        from_logits=False,
        multi_label=False,
        ignore_index=None,
        target_class_ids=None,
        class_names=None,
        name="iou",
    ):
        super().__init__(
            threshold=threshold,
            average=average,
            empty=empty,
            smooth=smooth,
            from_logits=from_logits,
            multi_label=multi_label,
            ignore_index=ignore_index,
            target_class_ids=target_class_ids,
            class_names=class_names,
            name=name,
        )
