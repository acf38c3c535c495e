"""How good a model is on a folder of images and masks: scores of the data set and of each image, with intervals.

`evaluate_folder` is what the command `tl-unet evaluate` runs. All scores follow from counted pixels, so they can be formed for any part
of the images. While a model trains, `tl_unet.IoU` and `tl_unet.DiceCoefficient` give the same scores as metrics.
"""

import csv
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tl_unet.argument_checks import check_class_count, check_class_names
from tl_unet.classes import IGNORE, check_decidable, check_threshold, decide
from tl_unet.inference import predict_augmented
from tl_unet.runs import replacing, write_json

_RESAMPLES = 2000
_SHOWN = 10


class Example(NamedTuple):
    """An image with its mask, the predicted classes and their IoU."""

    name: str
    iou: float
    image: np.ndarray
    mask: np.ndarray
    prediction: np.ndarray


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a folder.

    With one class, scores are those of the foreground; with more, means over the classes that occur in mask or prediction.

    Args:
        names: list of str, the images that have labelled pixels.
        counts: int64 array `(images, classes, 3)`: true positives, false positives and false negatives of each class.
        confusion: int64 array `(classes, classes)` of pixels: true classes in the rows, predicted ones in the columns. One
            class against the background counts as two.
        classes: int, as the model has them: 1 is one object against the background.
        worst: list of `Example`, the ten images with the lowest IoU.
        class_names: list of str, one for each class that scores are taken over. Defaults to `None`: `"object"`, or the
            numbers.
        unlabelled: list of str, images whose masks are 255 all over: they have no scores. Defaults to none.

    Raises:
        ValueError: if there are not as many names as classes.
    """

    names: list[str]
    counts: np.ndarray
    confusion: np.ndarray
    classes: int
    worst: list[Example] = dataclasses.field(default_factory=list)
    class_names: list[str] | None = None
    unlabelled: list[str] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        names = ["object"] if self.classes == 1 else list(map(str, range(self.classes)))
        if self.class_names is not None:
            names = check_class_names(self.class_names)
            check_class_count("class_names", len(names), self.classes, one_is_two=False)
        object.__setattr__(self, "class_names", names)

    def per_image(self) -> list[dict]:
        """The scores of each image, a dict with its `name`; the worst IoU first.

        Of several classes also the IoU of each, `iou_NAME`: NaN where it is in neither mask nor prediction.
        """
        scores = _scores(self._scored(self.counts))
        if self.classes > 1:
            each = _scores(self.counts[:, :, None], empty=np.nan)["iou"]
            scores |= {f"iou_{name}": each[:, i] for i, name in enumerate(self.class_names)}
        rows = [
            {"name": name, **{key: float(values[i]) for key, values in scores.items()}}
            for i, name in enumerate(self.names)
        ]
        return sorted(rows, key=lambda row: row["iou"])

    def per_class(self) -> dict[str, list[float]]:
        """IoU, Dice, precision and recall of each class over the data set; NaN for one that occurs nowhere.

        One class against the background gives two numbers, the background's first.
        """
        counts = self.counts.sum(axis=0)[:, None]
        found = _scores(counts, empty=np.nan)
        return {name: values.tolist() for name, values in found.items()}

    def summary(self, seed=0) -> dict:
        """All scores as plain numbers.

        Args:
            seed: int, of the bootstrap. Defaults to `0`.

        Returns:
            A dict: `images` and `unlabelled` (how many have scores, and how many have none), `classes`, `dataset` (`iou`, `dice`, `precision`, `recall`, `accuracy` over all pixels),
            `mean_of_images` (means of the images' `iou` and `dice`), `interval` (95 % bootstrap intervals over the images of
            the IoU and Dice of both kinds, `None` for fewer than two images), `class_names`, `per_class`, `confusion`; the
            last three with the background where there is one class.

        Raises:
            ImportError: if SciPy is missing, and there are two images or more.
        """
        scored = self._scored(self.counts)
        dataset = {name: float(value) for name, value in _scores(scored.sum(axis=0)).items()}
        total = self.confusion.sum()
        dataset["accuracy"] = float(np.trace(self.confusion) / total) if total else 1.0
        images = _scores(scored)
        return {
            "images": len(self.names),
            "unlabelled": len(self.unlabelled),
            "classes": self.classes,
            "dataset": dataset,
            "mean_of_images": {name: float(images[name].mean()) for name in ("iou", "dice")},
            "interval": _intervals(scored, seed),
            "class_names": self._all_names(),
            "per_class": {
                name: [None if np.isnan(value) else value for value in values]
                for name, values in self.per_class().items()
            },
            "confusion": self.confusion.tolist(),
        }

    def _all_names(self):
        return ["background", *self.class_names] if self.classes == 1 else self.class_names

    def _scored(self, counts):
        """The classes that scores are taken over: one object's background is none of them."""
        return counts[:, 1:] if self.classes == 1 else counts


def evaluate_folder(
    model,
    images,
    masks,
    *,
    size=256,
    batch_size=8,
    labels=None,
    mask_suffix="",
    recursive=False,
    names=None,
    threshold=0.5,
    augment=False,
    class_names=None,
    progress: Callable | None = None,
) -> Evaluation:
    """Scores a model on images and masks, both resized to one size.

    Args:
        model: `keras.Model` from images to masks of probabilities (no logits); several classes exclude one another.
        images: str or path, folder of the images.
        masks: str or path, folder of their masks.
        size: int or `(height, width)`; best what the model was trained on. Defaults to `256`.
        batch_size: int. Defaults to `8`.
        labels: what the values in the masks mean, as in `tl_unet.data.image_mask_dataset`. Defaults to `None`.
        mask_suffix: str that the masks' names have at the end. Defaults to `""`.
        recursive: bool, whether to look in subfolders. Defaults to `False`.
        names: sequence of str, only these images. Defaults to `None`: all.
        threshold: float from 0 to 1, above which one class is foreground; with more classes it is an error. Defaults to `0.5`.
        augment: as in `predict_augmented`. Defaults to `False`.
        class_names: sequence of str, one for each class of the model. Defaults to `None`: `"object"`, or the numbers.
        progress: callable `progress(done, total)` after each batch, in images. Defaults to `None`.

    Returns:
        An `Evaluation`. Images without a labelled pixel (255 all over) count nowhere; their names are in `unlabelled`.

    Raises:
        FileNotFoundError: if a folder does not exist.
        ValueError: if the model gives logits, or its classes may overlap; if `threshold` is not as above; if images and masks are not as they should be: all that is
            wrong is listed; if no pixel is labelled.
        ImportError: if SciPy is missing, which the intervals of the scores need.
    """
    check_decidable(model)
    _bootstrap()
    classes = model.output_shape[-1]
    check_threshold(threshold, classes)
    if class_names is not None:  # before the work, not after it
        check_class_count("class_names", len(class_names), classes, one_is_two=False)
    options = {"mask_suffix": mask_suffix, "recursive": recursive, "names": names}
    subset = _load(model, images, masks, size, batch_size, labels, **options)
    labelled, unlabelled = [], []
    counted, worst, confusion = [], [], np.zeros((max(2, classes),) * 2, np.int64)
    for batch, truth in subset.dataset:
        batch = np.asarray(batch)
        predicted = decide(predict_augmented(model, batch, augment, batch_size), threshold)
        for image, true, guess in zip(batch, np.asarray(truth)[..., 0], predicted, strict=True):
            name = subset.names[len(labelled) + len(unlabelled)]
            matrix = count_confusion(true, guess, max(2, classes))
            if not matrix.any():
                unlabelled.append(name)
                continue
            labelled.append(name)
            confusion += matrix
            hits = np.diag(matrix)
            counts = np.stack([hits, matrix.sum(axis=0) - hits, matrix.sum(axis=1) - hits], axis=-1)
            iou = float(_scores(counts[1:] if classes == 1 else counts)["iou"])
            worst.append(Example(name, iou, image.astype("uint8"), true.astype("uint8"), guess))
            counted.append(counts)
        worst = sorted(worst, key=lambda example: example.iou)[:_SHOWN]
        if progress is not None:
            progress(len(labelled) + len(unlabelled), len(subset.names))
    if not labelled:
        raise ValueError(f"No pixel of the masks in {masks} is labelled: all are 255.")
    return Evaluation(
        labelled, np.stack(counted), confusion, classes, worst, class_names, unlabelled
    )


def count_confusion(true, predicted, classes):
    """Counts which classes were predicted as what.

    Args:
        true: array of class indices; 255 is left out.
        predicted: array of the same shape.
        classes: int.

    Returns:
        int64 array `(classes, classes)`: true classes in the rows, predicted ones in the columns.

    Example:

    >>> import numpy as np
    >>> from tl_unet.evaluation import count_confusion
    >>> count_confusion(np.array([0, 1, 1, 255]), np.array([0, 1, 0, 1]), 2).tolist()
    [[1, 0], [1, 1]]
    """
    true = np.asarray(true, np.int64).ravel()
    predicted = np.asarray(predicted, np.int64).ravel()
    seen = true != IGNORE
    pairs = true[seen] * classes + predicted[seen]
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def write_report(evaluation: Evaluation, output) -> list[Path]:
    """Writes what an evaluation found into a folder; the pictures need matplotlib, the intervals SciPy.

    Args:
        evaluation: what `evaluate_folder` returned.
        output: str or path, the folder.

    Returns:
        The paths written: `scores.json`, `per_image.csv` (worst first), `per_class.csv` (scores and numbers of pixels),
        `worst.png` (the ten worst images with their errors), `confusion.png` and `per_class.png`.
    """
    from tl_unet.plotting import class_bars, confusion_matrix, error_sheet

    output, summary = Path(output), evaluation.summary()
    paths = [output / "scores.json", output / "per_image.csv", output / "per_class.csv"]
    write_json(paths[0], summary)
    _write_csv(paths[1], evaluation.per_image())
    names, scores = summary["class_names"], evaluation.per_class()
    columns = {
        "class": names,
        **scores,
        "true_pixels": evaluation.confusion.sum(axis=1).tolist(),
        "predicted_pixels": evaluation.confusion.sum(axis=0).tolist(),
    }
    _write_csv(
        paths[2],
        [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)],
    )
    worst = evaluation.worst
    figures = {
        "worst.png": error_sheet(
            [example.image for example in worst],
            [example.mask for example in worst],
            [example.prediction for example in worst],
            names=[f"IoU {example.iou:.3f}: {example.name}" for example in worst],
        ),
        "confusion.png": confusion_matrix(evaluation.confusion, names),
        "per_class.png": class_bars({"IoU": scores["iou"], "Dice": scores["dice"]}, names),
    }
    for name, figure in figures.items():
        with replacing(output / name) as beside:
            figure.savefig(beside)
        paths.append(output / name)
    return paths


def _opened(path):
    # Names of files that are not UTF-8 are written as in Python's own representation.
    return path.open("w", newline="", encoding="utf-8", errors="backslashreplace")


def _write_csv(path, rows):
    with replacing(path) as beside, _opened(beside) as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def _load(model, images, masks, size, batch_size, labels, **options):
    from tl_unet.data import image_mask_dataset
    from tl_unet.data.labels import LabelTable

    classes, channels = model.output_shape[-1], model.input_shape[-1]
    meant = LabelTable(labels, None if labels else classes).classes
    if meant > classes:
        raise ValueError(f"`labels` mean {meant} classes, but the model has {classes}.")
    if channels not in (1, 3, 4):
        raise ValueError(
            f"The model takes images of {channels} channels; files of 1, 3 or 4 channels can be read."
        )
    return image_mask_dataset(
        images,
        masks,
        size=size,
        batch_size=batch_size,
        labels=labels,
        classes=classes,
        channels=channels,
        cache=False,  # each image is needed once
        **options,
    )


def _scores(counts, empty=1.0):
    """Scores from counts `(..., classes, 3)`: means over the classes that occur; `empty` where none does."""
    hits, false_alarms, misses = np.moveaxis(counts, -1, 0)
    occurs = hits + false_alarms + misses > 0
    parts = {
        "iou": (hits, hits + false_alarms + misses),
        "dice": (2 * hits, 2 * hits + false_alarms + misses),
        "precision": (hits, hits + false_alarms),
        "recall": (hits, hits + misses),
    }
    number = occurs.sum(axis=-1)
    scores = {}
    for name, (above, below) in parts.items():
        # A class that is only missed has no precision, one that is only imagined no recall: both count as 0.
        ratio = np.divide(above, below, out=np.zeros(below.shape), where=below > 0)
        total = np.where(occurs, ratio, 0).sum(axis=-1)
        mean = np.divide(total, number, out=np.zeros(number.shape), where=number > 0)
        scores[name] = np.where(number > 0, mean, empty)
    return scores


def _bootstrap():
    try:
        from scipy.stats import bootstrap
    except ImportError as error:
        raise ImportError(
            'The intervals of the scores need SciPy: `pip install "scipy>=1.15"`, or `pip install "tl-unet[cli]"` with all that the '
            "command line uses."
        ) from error
    return bootstrap


def _intervals(counts, seed):
    """95 % intervals of the scores, from images drawn anew with replacement."""
    if len(counts) < 2:
        return None
    images = _scores(counts)

    def of_draws(draws, axis):  # numbers of images along the last axis
        scores = _scores(counts[draws].sum(axis=-3))
        means = {name: images[name][draws].mean(axis=axis) for name in ("iou", "dice")}
        return np.stack([scores["iou"], scores["dice"], means["iou"], means["dice"]])

    found = _bootstrap()(
        (np.arange(len(counts)),),
        of_draws,
        n_resamples=_RESAMPLES,
        batch=max(1, 10_000_000 // counts.size),
        method="percentile",  # BCa has no answer where all images score alike
        rng=np.random.default_rng(seed),
    ).confidence_interval
    low_high = np.stack([found.low, found.high], axis=-1).tolist()
    kinds = ("dataset_iou", "dataset_dice", "mean_of_images_iou", "mean_of_images_dice")
    return dict(zip(kinds, low_high, strict=True))
