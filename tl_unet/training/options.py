"""What a training is told: its options, checked, with their defaults, as `run.json` keeps them."""

import dataclasses
import numbers
import operator
import os
import re
from collections.abc import Mapping
from functools import reduce

from tl_unet.argument_checks import (
    check_class_count,
    check_class_names,
    check_class_weights,
    is_whole,
)
from tl_unet.classes import IGNORE
from tl_unet.decoders import DEFAULT_FILTERS, NORMALIZATION, get_decoder_spec
from tl_unet.encoders.build import resolve_encoder
from tl_unet.encoders.hub import PREFIX, preset_of
from tl_unet.losses import (
    CrossentropyLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LovaszLoss,
    TverskyLoss,
)

PRECISIONS = ("bfloat16", "float16")
_FILTERS = (256, 128, 64, 32, 16)
_LOSSES = {
    "crossentropy": CrossentropyLoss,
    "dice": DiceLoss,
    "focal": FocalLoss,
    "jaccard": JaccardLoss,
    "lovasz": LovaszLoss,
    "tversky": TverskyLoss,
}


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """Everything that `train` is told.

    Args:
        images: str or path, folder of the training images.
        masks: str or path, folder of their masks; an image and its mask have the same name up to the extension.
        val_images: str, path or `None`, folder of the validation images. Defaults to `None`: a share of the training images.
        val_masks: str, path or `None`, folder of their masks. Defaults to `None`.
        val_share: float between 0 and 1, how many of the images validate where there are no folders for it. A hash of the
            name and the seed decides, so that an image stays on its side when others are added. Defaults to `0.2`.
        group: str or `None`, a regular expression that matches the beginning of each name, such as `"[^_]+"` for `P017_slice42`:
            images for which it finds the same, or the same in its first parentheses, are on one side, as those of one patient
            must be. With `val_images` it would do nothing and is an error. Defaults to `None`: each image is by itself.
        encoder: str, one of `list_encoders()`, or a KerasHub preset such as `"hub:resnet_18_imagenet"`. Defaults to `"mobilenetv2"`.
        weights: `"imagenet"`, a path to a weights file, or `None` (random). Defaults to `"imagenet"`.
        size: int or `(height, width)` to which images are resized. Defaults to `256`.
        channels: int, 1 (grey), 3 (RGB) or 4 (RGBA). Defaults to `3`.
        classes: int or `None`, the number of classes; 1 is one object against the background. Defaults to `None`: counted in
            `labels`, or 1.
        labels: mapping from the values in the masks to classes, as in `tl_unet.data.image_mask_dataset`. Defaults to `None`.
        class_names: sequence of str, one for each class: then `history.csv` has the scores of each, and the evaluation uses the
            names. Defaults to `None`.
        class_weights: sequence of numbers, one for each class (for one class two: background and object), of the loss.
            Defaults to `None`.
        mask_suffix: str that the masks' names have at the end, such as `"_mask"`. Defaults to `""`.
        recursive: bool, whether to look in subfolders. Defaults to `False`.
        limit: int or `None`, at most so many images in each pair of folders. Defaults to `None`.
        epochs: int, the number of all epochs. Defaults to `30`.
        freeze_epochs: int or `None`, the first of them, in which the encoder is frozen. Defaults to `None`: three, at most half
            of all, at least one; none with random weights.
        batch_size: int. Defaults to `8`.
        learning_rate: float, of the first stage; after a frozen stage the whole network learns with a tenth of it. Either
            falls along a cosine. Defaults to `0.001`.
        loss: str, `"crossentropy"`, `"dice"`, `"focal"`, `"jaccard"`, `"lovasz"`, `"tversky"`, or a sum. Defaults to `"dice+crossentropy"`.
        augment: bool, whether training images are flipped, turned, scaled and recoloured. Defaults to `True`.
        decoder: str, one of `list_decoders()`. Defaults to `"unet"`.
        decoder_filters: sequence of ints, one per up-sampling, coarsest first (`"fpn"`: two). Defaults to `None`: the decoder's own, but
            where these are 512, 256, 128, 64, 32, as with `"unet"`, the first of 256, 128, 64, 32, 16.
        normalization: `None`, `"batch"`, `"group"` or `"layer"`, in the decoder. Defaults to `"batch"`.
        upsampling: `"nearest"`, `"bilinear"` or, with most decoders, `"transpose"`. Defaults to `"nearest"`.
        dropout: float in [0, 1), in the decoder. Defaults to `0.0`.
        mixed_precision: `"bfloat16"`, `"float16"` or `None`: what to compute in where that is safe, instead of float32. bfloat16 is for
            processors and GPUs with instructions for it, float16 for older GPUs. Defaults to `None`.
        seed: int. Defaults to `0`.

    Raises:
        ValueError: if an option has no such value, or two contradict each other.
        ImportError: if the encoder is a KerasHub preset and keras-hub is not installed.
        FileNotFoundError: if that preset is not on this machine and could not be downloaded.

    Example:

    >>> from tl_unet.training import TrainingOptions
    >>> TrainingOptions("images", "masks", epochs=20, labels={1: 1, 2: 0, 3: 1}).freeze_epochs
    3
    """

    images: str
    masks: str
    val_images: str | None = None
    val_masks: str | None = None
    val_share: float = 0.2
    group: str | None = None
    encoder: str = "mobilenetv2"
    weights: str | None = "imagenet"
    size: tuple[int, int] = 256
    channels: int = 3
    classes: int | None = None
    labels: Mapping | None = None
    class_names: tuple[str, ...] | None = None
    class_weights: tuple[float, ...] | None = None
    mask_suffix: str = ""
    recursive: bool = False
    limit: int | None = None
    epochs: int = 30
    freeze_epochs: int | None = None
    batch_size: int = 8
    learning_rate: float = 1e-3
    loss: str = "dice+crossentropy"
    augment: bool = True
    decoder: str = "unet"
    decoder_filters: tuple[int, ...] | None = None
    normalization: str | None = "batch"
    upsampling: str = "nearest"
    dropout: float = 0.0
    mixed_precision: str | None = None
    seed: int = 0

    def __post_init__(self):
        change = lambda name, value: object.__setattr__(self, name, value)  # noqa: E731
        for field in dataclasses.fields(self):  # NumPy's numbers are none that JSON can hold
            change(field.name, _plain(getattr(self, field.name)))
        spec = resolve_encoder(self.encoder, (None, None, self.channels))
        change("encoder", _encoder_name(self.encoder, spec))
        size = (self.size, self.size) if is_whole(self.size) else self.size
        change("size", tuple(map(_plain, size)))
        for name in ("images", "masks", "val_images", "val_masks"):
            if getattr(self, name) is not None:
                change(name, os.path.abspath(getattr(self, name)))
        if self.weights not in (None, "imagenet"):
            change("weights", os.path.abspath(self.weights))
        if self.labels is not None:
            change("labels", dict(self.labels))
        if self.class_names is not None:
            change("class_names", tuple(check_class_names(self.class_names)))
        if self.class_weights is not None:
            change("class_weights", tuple(check_class_weights(self.class_weights)))
        if self.freeze_epochs is None:
            frozen = max(1, min(3, self.epochs // 2)) if self.weights is not None else 0
            change("freeze_epochs", frozen)
        decoder = get_decoder_spec(self.decoder)
        change("decoder", decoder.name)
        if self.decoder_filters is not None:
            change("decoder_filters", tuple(map(_plain, self.decoder_filters)))
        elif decoder.filters == DEFAULT_FILTERS:
            change("decoder_filters", _FILTERS[: decoder.filter_count(_levels(spec))])
        self._check(spec)

    def _check(self, spec):
        height, width = self.size if len(self.size) == 2 else (0, 0)
        positive = {
            "size": min(height, width),
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "limit": 1 if self.limit is None else self.limit,
            "classes": 1 if self.classes is None else self.classes,
        }
        for name, value in positive.items():
            if not value > 0:
                given = self.size if name == "size" else value
                raise ValueError(f"`{name}` must be positive. Received: {name}={given}")
        choices = {
            "channels": (self.channels, (1, 3, 4)),
            "normalization": (self.normalization, (None, *NORMALIZATION)),
            "upsampling": (self.upsampling, get_decoder_spec(self.decoder).upsampling),
            "mixed_precision": (self.mixed_precision, (None, *PRECISIONS)),
        }
        for name, (value, allowed) in choices.items():
            if value not in allowed:
                raise ValueError(
                    f"`{name}` must be one of {tuple(allowed)}. Received: {name}={value!r}"
                )
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"`seed` must be from 0 to 4294967295. Received: seed={self.seed}")
        if not 0 <= self.dropout < 1:
            raise ValueError(
                f"`dropout` must be at least 0 and below 1. Received: dropout={self.dropout}"
            )
        parts = self.loss.split("+")
        if unknown := [part for part in parts if part not in _LOSSES]:
            raise ValueError(
                f"`loss` must be one of {sorted(_LOSSES)}, or several with + between. Received: {unknown}"
            )
        if not 0 < self.val_share < 1:
            raise ValueError(
                f"`val_share` must be between 0 and 1. Received: val_share={self.val_share}"
            )
        self._check_group()
        if not 0 <= self.freeze_epochs <= self.epochs:
            raise ValueError(
                f"`freeze_epochs` must be from 0 to the number of epochs, {self.epochs}. Received: {self.freeze_epochs}"
            )
        if self.weights is None and self.freeze_epochs:
            raise ValueError(
                "A frozen encoder with random weights never learns: give freeze_epochs=0, or pre-trained weights."
            )
        if self.weights == "imagenet" and not spec.imagenet:
            raise ValueError(
                f"The encoder {spec.name!r} has no ImageNet weights: give weights=None, or a file."
            )
        if (self.val_images is None) != (self.val_masks is None):
            raise ValueError("`val_images` and `val_masks` go together: give both or neither.")
        self._check_lists_of_classes()
        count = get_decoder_spec(self.decoder).filter_count(_levels(spec))
        filters = self.decoder_filters
        if filters is not None and not (
            len(filters) == count and all(is_whole(number) and number > 0 for number in filters)
        ):
            raise ValueError(
                f"`decoder_filters` must be {count} positive ints for {spec.name} and the decoder {self.decoder}. "
                f"Received: {self.decoder_filters}"
            )

    def _check_group(self):
        if self.group is None:
            return
        if self.val_images is not None:
            raise ValueError(
                "`group` keeps images together where a share of them validates; with `val_images` it would do nothing. Leave it out."
            )
        try:
            re.compile(self.group)
        except re.error as error:
            raise ValueError(
                f"`group` must be a regular expression ({error}). Received: group={self.group!r}"
            ) from None

    def _check_lists_of_classes(self):
        if self.labels is None and self.class_names is None and self.class_weights is None:
            return
        from tl_unet.data.labels import LabelTable

        classes = LabelTable(self.labels, self.classes).classes
        if self.class_names is not None:
            check_class_count("class_names", len(self.class_names), classes, one_is_two=False)
        if self.class_weights is not None:
            check_class_count("class_weights", len(self.class_weights), max(2, classes))

    def to_json(self) -> dict:
        """The options as JSON can hold them; `from_json` reads them."""
        labels = None if self.labels is None else format_labels(self.labels)
        return {**dataclasses.asdict(self), "labels": labels}

    @classmethod
    def from_json(cls, options: dict) -> "TrainingOptions":
        """The options that `to_json` made."""
        labels = None if options["labels"] is None else parse_labels(options["labels"])
        precision = options.get("mixed_precision")
        if isinstance(precision, bool):  # as the first runs wrote it
            precision = "float16" if precision else None
        return cls(**{**options, "labels": labels, "mixed_precision": precision})


def _plain(value):
    """NumPy's numbers as Python's; other values as they are."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if is_whole(value) else float(value)


def make_loss(name: str, class_weights=None):
    """The loss of a name such as `"dice+crossentropy"`; pixels of class 255 are left out."""
    options = {"ignore_index": IGNORE, "class_weights": class_weights}
    parts = [_LOSSES[part](**options) for part in name.split("+")]
    return reduce(operator.add, parts)


def parse_labels(text: str) -> dict:
    """Reads `VALUE:CLASS,...`, what the values in mask files mean.

    Args:
        text: str. A value is a number, `#rrggbb` for a colour, or `*` for every other value; a class is a number or `ignore`.

    Returns:
        A dict for `labels` of `image_mask_dataset`.

    Raises:
        ValueError: if the text is not of this form.

    Example:

    >>> from tl_unet.training import parse_labels
    >>> parse_labels("1:1,2:0,3:ignore")
    {1: 1, 2: 0, 3: 255}
    """
    labels = {}
    for pair in text.split(","):
        value, colon, label = (part.strip() for part in pair.partition(":"))
        try:
            if not colon:
                raise ValueError
            if value == "*":
                key = None
            elif value.startswith("#"):
                key = tuple(bytes.fromhex(value[1:]))
            else:
                key = int(value)
            target = IGNORE if label == "ignore" else int(label)
        except ValueError:
            raise ValueError(
                f"{pair.strip()!r} is not VALUE:CLASS, such as 1:0, #ff0000:1 or *:ignore."
            ) from None
        if key in labels:
            raise ValueError(f"The value {value} occurs twice in {text!r}.")
        labels[key] = target
    return labels


def format_labels(labels: Mapping) -> str:
    """The text from which `parse_labels` reads the same labels.

    >>> from tl_unet.training.options import format_labels
    >>> format_labels({0: 0, (255, 0, 0): 1, None: 255})
    '0:0,#ff0000:1,*:ignore'
    """

    def value(key):
        if key is None:
            return "*"
        return "#" + bytes(key).hex() if isinstance(key, tuple) else str(int(key))

    return ",".join(
        f"{value(key)}:{'ignore' if label == IGNORE else int(label)}"
        for key, label in labels.items()
    )


def _encoder_name(encoder, spec) -> str:
    """The name under which another process finds the encoder again, in whatever folder it runs."""
    preset = preset_of(encoder)
    if preset is None or spec.family != "KerasHub":
        return spec.name
    return f"{PREFIX}{os.path.abspath(preset)}" if os.path.isdir(preset) else encoder


def _levels(spec) -> int:
    return spec.stride.bit_length()
