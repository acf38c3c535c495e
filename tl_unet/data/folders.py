"""A user's own images and masks: two folders, paired by file name.

Use it to train on data of your own. It makes one `Subset` of what it finds; for a training and a
validation part keep them in two pairs of folders, or pick with `names`.
"""

import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tl_unet.data.labels import LabelTable
from tl_unet.data.pipeline import Subset, build_pairs, check_size
from tl_unet.pictures import EXTENSIONS, walk


def _find(folder: Path, recursive: bool, suffix: str = "") -> dict[str, list[Path]]:
    """The picture files of a folder by name: their path in it without `suffix` and extension."""
    if not folder.is_dir():
        raise FileNotFoundError(f"There is no directory {folder}.")
    found: dict[str, list[Path]] = {}
    for path in walk(folder) if recursive else sorted(folder.iterdir()):
        hidden = path.name.startswith(".")
        if path.suffix.lower() not in EXTENSIONS or hidden or not path.is_file():
            continue
        name = path.relative_to(folder).with_suffix("").as_posix()
        if name.endswith(suffix):
            found.setdefault(name.removesuffix(suffix), []).append(path)
    return found


def _pairing_problems(name: str, images: dict, masks: dict) -> list[str]:
    """What keeps a name from being one image with one mask."""
    if name not in images and name not in masks:
        return [f"{name}: neither an image nor a mask has this name"]
    problems = []
    for kind, found, other in (("image", images, "mask"), ("mask", masks, "image")):
        files = found.get(name, [])
        if not files:
            problems.append(f"{name}: the {other} has no {kind}")
        elif len(files) > 1:
            problems.append(f"{name}: {len(files)} {kind}s ({', '.join(f.name for f in files)})")
    return problems


def _same_to_the_eye(names, images, masks) -> dict[str, list[str]]:
    """The problems of names that are not paired and look as if they were: macOS writes an accent as a character of its own."""
    lonely = {unicodedata.normalize("NFC", n): n for n in names if n in masks and n not in images}
    found = {}
    for image in names:
        mask = lonely.get(unicodedata.normalize("NFC", image))
        if mask is not None and image in images and image not in masks:
            found[image] = [
                f"{image}: its mask's name looks the same, but is of other Unicode characters ({ascii(mask)}, not {ascii(image)}): "
                "rename one of the files"
            ]
            found[mask] = []
    return found


def image_mask_dataset(
    images_dir: str | os.PathLike,
    masks_dir: str | os.PathLike,
    *,
    size: int | tuple[int, int] = 256,
    batch_size: int = 32,
    labels: Mapping | Sequence | None = None,
    classes: int | None = None,
    channels: int = 3,
    mask_suffix: str = "",
    recursive: bool = False,
    names: Sequence[str] | None = None,
    augment: bool | Callable = False,
    shuffle: bool = False,
    cache: bool | str | os.PathLike = True,
    verify: bool = True,
    seed: int = 0,
) -> Subset:
    """Loads images and masks from two folders.

    An image and its mask have the same file name up to the extension (png, jpg, tif, bmp, gif,
    webp; the two may differ). Images may be grey, RGB, palette or CMYK, 8- or 16-bit (0..65535 is
    scaled to 0..255, so bring 12-bit values to the full range before); masks hold a number a pixel
    (grey or palette index) or a colour. A file holds one picture: several pages and animations are
    refused. EXIF orientations are respected; it is told once if an image has one, its mask has none
    and both fit either way.

    Every pair is checked before the first batch. All that is wrong, such as images without a mask,
    damaged files, different sizes or unexpected values, is listed by name in one error. So is what
    the masks hold together: without `labels`, 1 in some and 255 in others, or several `classes` and
    nothing but 0 and 255.

    Args:
        images_dir: Directory of the images.
        masks_dir: Directory of the masks.
        size: int or `(height, width)` to resize to: images bilinearly, masks by nearest neighbour.
            Defaults to `256`.
        batch_size: int, images in a batch. Defaults to `32`.
        labels: What the values in the masks mean: a mapping from a value to a class, or a sequence
            of values whose positions are the classes. A value is an int, or an `(r, g, b)` tuple
            for colour masks; the key `None` stands for every other value; the class 255 marks
            pixels to ignore. `None` takes masks of 0 and 1, or 0 and 255; with `classes` above 1
            class indices, and 255 to ignore. Defaults to `None`.
        classes: int, the number of classes; 1 is one object against the background. `None` counts
            them in `labels` (0 and 1 only make one). Defaults to `None`.
        channels: int, 1 (grey), 3 (RGB) or 4 (RGBA) channels of the images. Defaults to `3`.
        mask_suffix: str that the masks' names have at the end, such as `"_mask"`; with one,
            `masks_dir` may be `images_dir`. Defaults to `""`.
        recursive: bool, whether to look in subfolders, laid out alike in both; links to folders are
            followed. Defaults to `False`.
        names: Sequence of str: only these, in this order. `None` takes all, sorted. Defaults to
            `None`.
        augment: bool, or a callable `(images, masks) -> (images, masks)` on batches, such as
            `augmentation(...)`. It is called one batch after another; with a parameter `seed`, batches
            beside each other, each with an int64 tensor `(2,)` of its own. Defaults to `False`.
        shuffle: bool, whether to draw a new order in each epoch. Defaults to `False`.
        cache: `True` keeps the resized pairs in memory, a path in files in that directory (for more
            than the memory holds), `False` decodes in each epoch. Defaults to `True`.
        verify: bool, whether to check every pair beforehand also with `cache=False`; otherwise a
            bad pair stops the training. What is cached is always checked. Defaults to `True`.
        seed: int, of the order and the augmentation. TensorFlow mixes it with its global seed (`keras.utils.set_random_seed`)
            of the moment. Defaults to `0`.

    Returns:
        A `Subset`; a name is the path in the folder without extension.

    Raises:
        FileNotFoundError: If a directory does not exist.
        ValueError: If there is nothing to pair, pairs are wrong (all are listed), or an argument is
            out of range.

    Example:

    >>> import pathlib, tempfile
    >>> import numpy as np
    >>> from PIL import Image
    >>> from tl_unet.data import image_mask_dataset
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     images, masks = pathlib.Path(folder, "images"), pathlib.Path(folder, "masks")
    ...     images.mkdir(), masks.mkdir()
    ...     Image.fromarray(np.zeros((40, 60, 3), "uint8")).save(images / "cat.jpg")
    ...     Image.fromarray(np.full((40, 60), 7, "uint8")).save(masks / "cat.png")
    ...     subset = image_mask_dataset(images, masks, size=32, labels={0: 0, 7: 1})
    (None, None)
    >>> image, mask = next(iter(subset.dataset))
    >>> subset.names, image.shape, float(mask.numpy().mean())
    (['cat'], TensorShape([1, 32, 32, 3]), 1.0)
    """
    if channels not in (1, 3, 4):
        raise ValueError(f"`channels` must be 1, 3 or 4. Received: channels={channels}")
    size, table = check_size(size), LabelTable(labels, classes)
    where = f"{images_dir} and {masks_dir}"
    images = _find(Path(images_dir), recursive)
    masks = _find(Path(masks_dir), recursive, mask_suffix)
    if mask_suffix and os.path.samefile(images_dir, masks_dir):
        images = {name: found for name, found in images.items() if not name.endswith(mask_suffix)}
    names = sorted(images.keys() | masks.keys()) if names is None else list(names)
    problems = {name: _pairing_problems(name, images, masks) for name in names}
    whole = [name for name in names if not problems[name]]
    problems |= _same_to_the_eye(names, images, masks)
    return build_pairs(
        whole,
        [(images[name][0], masks[name][0]) for name in whole],
        table,
        size=size,
        channels=channels,
        batch_size=batch_size,
        seed=seed,
        shuffle=shuffle,
        augment=augment,
        cache=cache,
        verify=verify,
        problems=[problem for found in problems.values() for problem in found],
        where=where,
    )
