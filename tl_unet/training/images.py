"""The images of a training: which validate, and what each epoch sees of the others."""

import hashlib
import re
import shutil

import numpy as np


class TrainingImages:
    """The images of a training, decoded once into files of the run, so that every epoch draws its own order from them."""

    def __init__(self, run, options, names):
        self.run, self.options, self.names = run, options, names

    def check(self):
        """Decodes every image of both parts.

        Raises:
            ValueError: that lists all that is wrong with them.
        """
        self._check_space()
        problems = []
        for part in ("train", "validation"):
            try:
                self._load(part)
            except ValueError as error:
                problems.append(str(error))
        if problems:
            raise ValueError("\n".join(problems))

    def training_set(self, epoch):
        """What an epoch sees: it follows from the seed and the epoch's number alone, whatever was trained before."""
        from tl_unet.data import augmentation

        options = self.options
        # `augmentation` takes the next few numbers, too; PyTorch's and JAX's generators take 31 bits.
        seed = (options.seed * 100_003 + epoch * 16) % (2**31 - 16)
        colour = {} if options.channels == 3 else {"saturation": 0.0, "hue": 0.0}
        augment = options.augment and augmentation(scale=0.3, seed=seed, **colour)
        return self._load("train", shuffle=True, augment=augment, seed=seed).dataset

    def plain_set(self):
        """The training images in random order, without augmentation."""
        return self._load("train", shuffle=True, augment=False, seed=self.options.seed).dataset

    def validation_set(self):
        """The validation images."""
        return self._load("validation").dataset

    def samples(self, count):
        """Some validation images with their masks and names."""
        names = self.names["validation"]
        names = sorted(names, key=lambda name: _digest("samples", name))[:count]
        subset = self._load("validation", names=names, batch_size=count, cache=False, verify=False)
        images, masks = next(iter(subset.dataset))
        return np.asarray(images), np.asarray(masks), names

    def _load(self, part, **options):
        given = {"names": self.names[part], "batch_size": self.options.batch_size}
        given |= {"cache": self.run.cache, **options}
        return _folder(self.options, part, **given)

    def _check_space(self):
        if self.run.cache.exists() and any(self.run.cache.glob("*.npy")):
            return
        # A mapped file on a full disk would end the process without a word.
        height, width = self.options.size
        pixels = height * width * (self.options.channels + 1)
        needed = pixels * sum(len(names) for names in self.names.values())
        free = shutil.disk_usage(self.run.path).free
        if needed > free:
            raise OSError(
                f"The resized images need {needed / 1e9:.2f} GB in {self.run.cache} during the training, but only "
                f"{free / 1e9:.2f} GB are free there. Make room, choose another output folder, or a smaller size."
            )


def _folder(options, part, **more):
    from tl_unet.data import image_mask_dataset

    own = part == "validation" and options.val_images is not None
    return image_mask_dataset(
        options.val_images if own else options.images,
        options.val_masks if own else options.masks,
        size=options.size,
        labels=options.labels,
        classes=options.classes,
        channels=options.channels,
        mask_suffix=options.mask_suffix,
        recursive=options.recursive,
        **more,
    )


def split(options) -> dict[str, list[str]]:
    """The names in each part, sorted."""

    def found(part):
        names = _folder(options, part, cache=False, verify=False).names
        # By another number than the one that decides who validates: else the chosen would all do so.
        by_chance = sorted(names, key=lambda name: _digest(f"limit {options.seed}", name))
        return by_chance[: options.limit]

    names = found("train")
    if options.val_images is not None:
        return {"train": sorted(names), "validation": sorted(found("validation"))}
    group_of = {name: _group(options.group, name) for name in names}
    groups = sorted(set(group_of.values()), key=lambda group: _digest(options.seed, group))
    if len(names) > 1 and len(groups) < 2:
        raise ValueError(
            f"All {len(names)} images are of one group, {groups[0]!r}, by group={options.group!r}: there must be two at least, one to train "
            "and one to validate."
        )
    if len(names) < 2:
        which = (
            "`limit` is 1" if options.limit == 1 else f"There is only one image in {options.images}"
        )
        raise ValueError(
            f"{which}: without val_images there must be two at least, one to train and one to validate."
        )
    validates = {group: _digest(options.seed, group) < options.val_share for group in groups}
    validates[groups[0]], validates[groups[-1]] = True, False  # neither part is empty
    return {
        "train": sorted(name for name in names if not validates[group_of[name]]),
        "validation": sorted(name for name in names if validates[group_of[name]]),
    }


def _group(pattern, name) -> str:
    """What of a name says which images belong together."""
    if pattern is None:
        return name
    found = re.match(pattern, name)
    group = found and (found[1] if found.re.groups else found[0])
    if group is None:
        raise ValueError(
            f"The name {name!r} does not begin with what `group` matches, {pattern!r}."
        )
    return group


def _digest(purpose, name) -> float:
    """A number in 0..1 that belongs to a name."""
    # Names of files need not be UTF-8: what is not has surrogates here.
    digest = hashlib.sha256(f"{purpose}:{name}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def count_classes(options) -> int:
    """The number of classes that the options mean."""
    from tl_unet.data.labels import LabelTable

    return LabelTable(options.labels, options.classes).classes
