"""What the data sources share: resizing, caching and batching.

A source only says which names it has and how to load the pair number `i`; `build_subset` turns that
into a `Subset`. Nothing here knows a file layout.
"""

import contextlib
import hashlib
import inspect
import math
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from tl_unet.data.augment import augmentation
from tl_unet.data.decoding import UnclearOrientation, decode_image, decode_mask, orientation, pillow
from tl_unet.data.labels import LabelTable
from tl_unet.data.reading import Reader
from tl_unet.pictures import resize_picture, warn_once

PROCESSORS = os.cpu_count() or 1
_REPORTED = 100  # problems spelt out in one error; beyond that only their number is given


class Subset(NamedTuple):
    """One part of a data set, such as its training images.

    Attributes:
        dataset: `tf.data.Dataset` of `(image, mask)` batches. Images are float32
            `(batch, height, width, channels)` in 0..255; masks have shape
            `(batch, height, width, 1)` and are float32 (0, 1) for one class, int32 class indices
            for more; 255 marks pixels to ignore.
        names: List of str, the names of the images in the order of the unshuffled dataset.

    Example:

    >>> from tl_unet.data import shapes
    >>> subset = shapes(4, size=32, batch_size=2)
    >>> int(subset.dataset.cardinality()), subset.names[0]
    (2, 'shapes-0-00000')
    """

    dataset: tf.data.Dataset
    names: list[str]


def load_pair(
    image: str | os.PathLike | bytes,
    mask: str | os.PathLike | bytes,
    size: tuple[int, int],
    labels: LabelTable,
    channels: int = 3,
    as_stored: bool = False,
    warn: Callable = warnings.warn,
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes one picture and its mask and resizes both.

    The picture is resized with antialiased bilinear interpolation, the mask by nearest neighbour.

    Args:
        image: Path or bytes of the picture.
        mask: Path or bytes of the mask.
        size: `(height, width)` to resize to; the aspect ratio is not kept.
        labels: `LabelTable` for the values of the mask.
        channels: int, 1, 3 or 4. Defaults to `3`.
        as_stored: bool, for published data whose masks lie on the stored pixels: leave EXIF
            orientations alone and do not compare sizes. Defaults to `False`.
        warn: Callable, as for `decode_image`. Defaults to `warnings.warn`.

    Returns:
        uint8 arrays of shapes `(height, width, channels)` and `(height, width, 1)`.

    Raises:
        ValueError: If one cannot be read, their sizes differ or a value is unknown.
    """
    image_module, _ = pillow()
    try:
        picture = decode_image(image, channels, not as_stored, warn)
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise ValueError(f"the image cannot be read: {error}") from error
    try:
        values = decode_mask(mask, labels.colours, orient=not as_stored)
    except (OSError, SyntaxError, ValueError, image_module.DecompressionBombError) as error:
        raise ValueError(f"the mask cannot be read: {error}") from error
    if not as_stored:
        _check_sides(picture, values, image, mask, warn)
    pixels = np.asarray(picture)
    pixels = resize_picture(pixels.reshape(*pixels.shape[:2], channels), size)
    # Mapped before resizing, so that a stray value is found even where resizing would skip it.
    classes = image_module.fromarray(labels(values))
    classes = np.asarray(classes.resize(size[::-1], image_module.Resampling.NEAREST))
    return pixels, classes[..., None]


def _check_sides(picture, values, image, mask, warn):
    """Raises ValueError if image and mask differ in size, and warns if it doesn't show whether both are turned alike."""
    fits = picture.size == values.shape[::-1]
    if fits and picture.info.get("orientation") == 1:
        return  # as nearly always: no need to open the mask again
    turned = orientation(image), orientation(mask)
    if not fits:
        swapped = picture.size == values.shape and turned[0] != turned[1]
        raise ValueError(
            f"the image is {picture.size[1]} x {picture.size[0]} (height x width), its mask "
            f"{values.shape[0]} x {values.shape[1]}; they must be equal"
            + (
                f". The EXIF orientation of the image is {turned[0]}, that of the mask {turned[1]} (1 is none), and both are "
                "turned by theirs: turn the mask as the image is shown, or remove the orientation"
                if swapped
                else ""
            )
        )
    # Where it exchanges sides that differ, a mask that fits is upright.
    if turned[0] > 1 == turned[1] and (turned[0] < 5 or picture.width == picture.height):
        name = "An image" if isinstance(image, bytes) else os.fspath(image)
        warn(
            UnclearOrientation(
                f"{name}: the image is turned by its EXIF orientation ({turned[0]}), its mask has none and is not turned. If it was "
                "drawn on the stored pixels, turn it or remove the orientation. Further pictures are not told."
            )
        )


def check_size(size: int | Sequence[int]) -> tuple[int, int]:
    """Returns `size` as `(height, width)`; raises ValueError unless it is one or two positive ints."""
    sides = (size, size) if isinstance(size, int | np.integer) else tuple(size)
    if len(sides) != 2 or any(int(side) != side or side < 1 for side in sides):
        raise ValueError(f"`size` must be a positive int or (height, width). Received: size={size}")
    return int(sides[0]), int(sides[1])


def raise_problems(problems: Iterable[str], where: str):
    """Raises one ValueError that lists every problem, unless there is none."""
    problems = list(problems)
    if problems:
        more = len(problems) - _REPORTED
        raise ValueError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in {where}:\n  "
            + "\n  ".join(problems[:_REPORTED])
            + (f"\n  ... and {more} more" if more > 0 else "")
        )


def _nothing():
    """No problem."""


def _load_all(count, load, store, where, problems=(), check=_nothing):
    """Loads every pair in threads (Pillow works outside the GIL) and lists all failures at once, with what `check` then finds."""

    def attempt(index):
        try:
            store(index, load(index))
        except ValueError as error:
            return str(error)

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        found = list(threads.map(attempt, range(count)))
    raise_problems([*problems, *filter(None, [*found, check()])], where)


def _discard(index, pair):
    """Stores nothing: the pairs are only to be checked."""


def _decoded_arrays(count, load, shape, folder, key, where, check):
    """Returns all images and masks as uint8 arrays, in memory or mapped from files in `folder`."""
    shapes = [(count, *shape), (count, *shape[:2], 1)]
    if folder is None:
        arrays = [np.empty(s, np.uint8) for s in shapes]
    else:
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        files = [folder / f"{key}-{kind}.npy" for kind in ("images", "masks")]
        if all(file.exists() for file in files):
            return [np.load(file, mmap_mode="r") for file in files]
        # Writing to a mapped file on a full disk would end the process without a word.
        needed, free = sum(map(math.prod, shapes)), shutil.disk_usage(folder).free
        if needed > free:
            raise OSError(
                f"The resized images need {needed / 1e9:.2f} GB in {folder}, but only {free / 1e9:.2f} GB are free there. Make room, "
                "give another folder as `cache`, or a smaller size."
            )
        drafts = [file.with_name(f"{file.name}.{os.getpid()}.part") for file in files]
        arrays = [
            np.lib.format.open_memmap(draft, mode="w+", dtype=np.uint8, shape=s)
            for draft, s in zip(drafts, shapes, strict=True)
        ]

    def store(index, pair):
        for array, value in zip(arrays, pair, strict=True):
            array[index] = value

    try:
        _load_all(count, load, store, where, check=check)
        if folder is None:
            return arrays
        while arrays:  # Windows renames and deletes no file that is mapped
            arrays.pop().flush()
        for draft, file in zip(drafts, files, strict=True):
            os.replace(draft, file)
    except BaseException:
        if folder is not None:
            arrays.clear()
            for draft in drafts:
                with contextlib.suppress(PermissionError):
                    draft.unlink(missing_ok=True)
        raise
    return [np.load(file, mmap_mode="r") for file in files]


def build_subset(
    names: list[str],
    load: Callable[[int], tuple[np.ndarray, np.ndarray]],
    *,
    size: tuple[int, int],
    channels: int,
    classes: int,
    batch_size: int,
    seed: int,
    shuffle: bool,
    augment: bool | Callable,
    cache: bool | str | os.PathLike = True,
    verify: bool = True,
    problems: Sequence[str] = (),
    identity: str = "",
    where: str = "the data set",
    check: Callable[[], str | None] = _nothing,
) -> Subset:
    """Turns names and a loader into a batched, cached, prefetched `Subset`.

    Decoded images are kept as uint8 (a quarter of float32) and cast a batch at a time. Shuffling
    moves indices, not images, so it is a full shuffle at no cost in memory.

    Args:
        names: List of str, one for each pair.
        load: Callable from an index to uint8 arrays `(height, width, channels)` and
            `(height, width, 1)`; raises ValueError for a pair that it cannot load.
        size: `(height, width)`.
        channels: int, channels of the images.
        classes: int; 1 gives float32 masks, more int32.
        batch_size: int, images in a batch; the last one may be smaller.
        seed: int, of the order and of the augmentation.
        shuffle: bool, whether to draw a new order in each epoch.
        augment: `True` for `augmentation(seed=seed)`, or a callable on `(images, masks)` batches; one with a parameter
            `seed` gets an int64 tensor `(2,)` of its own for each batch, and is called in parallel.
        cache: `True` keeps the decoded pairs in memory, a path in files in that directory, `False`
            decodes in each epoch. Defaults to `True`.
        verify: bool, with `cache=False`: whether to load each pair once beforehand.
            Defaults to `True`.
        problems: What the source has found wrong already; reported with what loading finds.
            Defaults to `()`.
        identity: str that differs whenever `load` gives something else; names the cache files.
            Defaults to `""`.
        where: str, the source as errors call it. Defaults to `"the data set"`.
        check: Callable that says, when all pairs are loaded, what is wrong with them taken together, or
            `None`. By default nothing is.

    Returns:
        A `Subset`.

    Raises:
        ValueError: If there is no name, an argument is out of range or pairs cannot be loaded.
    """
    if not names and not problems:
        raise ValueError(f"There is no image in {where}.")
    if not isinstance(batch_size, int | np.integer) or batch_size < 1:
        raise ValueError(f"`batch_size` must be a positive int. Received: {batch_size!r}")

    def load_named(index):
        try:
            return load(index)
        except ValueError as error:
            raise ValueError(f"{names[index]}: {error}") from error

    if problems or (verify and cache is False):
        _load_all(len(names) if verify else 0, load_named, _discard, where, problems, check)
    shape = (*size, channels)
    if cache is False:

        def fetch(indices):
            pairs = [load_named(index) for index in indices]
            return tuple(np.stack(part) for part in zip(*pairs, strict=True))
    else:
        key = hashlib.sha256(repr((names, shape, identity)).encode()).hexdigest()[:24]
        folder = None if cache is True else cache
        images, masks = _decoded_arrays(len(names), load_named, shape, folder, key, where, check)

        def fetch(indices):
            return images[indices], masks[indices]

    reader = Reader(fetch)
    read = reader.call()

    def batch(indices):
        image, mask = tf.numpy_function(read, [indices], (tf.uint8, tf.uint8))
        image = tf.ensure_shape(tf.cast(image, tf.float32), (None, *shape))
        mask = tf.cast(mask, tf.float32 if classes == 1 else tf.int32)
        return image, tf.ensure_shape(mask, (None, *size, 1))

    dataset = tf.data.Dataset.range(len(names))
    if shuffle:
        dataset = dataset.shuffle(len(names), seed=seed, reshuffle_each_iteration=True)
    dataset = reader.kept_by(dataset.batch(batch_size).map(batch, num_parallel_calls=PROCESSORS))
    if augment:
        if augment is True:
            # Hue and saturation are properties of RGB.
            colour = {} if channels == 3 else {"saturation": 0.0, "hue": 0.0}
            augment = augmentation(seed=seed, **colour)
        elif not callable(augment):
            raise TypeError(f"`augment` must be a bool or a callable. Received: {augment!r}")
        dataset = _augmented(dataset, augment, seed)
    return Subset(prefetched(dataset), list(names))


def _augmented(dataset, augment, seed):
    """Batches changed by a callable: beside each other if it takes a seed, new ones in each pass.

    Other callables are called one after another: in parallel, which batch draws which random number is chance.
    """
    try:
        takes_seed = "seed" in inspect.signature(augment).parameters
    except ValueError:  # written in C
        takes_seed = False
    if not takes_seed:
        return dataset.map(augment)
    seeds = tf.data.Dataset.random(seed, rerandomize_each_iteration=True)
    seeds = seeds.batch(2, drop_remainder=True)  # an endless set: it makes the shape known
    return tf.data.Dataset.zip(dataset, seeds).map(
        lambda batch, seed: augment(*batch, seed=seed), num_parallel_calls=PROCESSORS
    )


def prefetched(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """The end of a pipeline: batches are made while the last one is used.

    TensorFlow's own tuning is turned off. While all processors are busy, TensorFlow 2.21 often holds the end of a
    pass back until its tuning thread wakes, after intervals that double each time: a pass can take up to twice as long.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.prefetch(2).with_options(options)


def build_pairs(
    names: list[str],
    pairs: list[tuple[Any, Any]],
    labels: LabelTable,
    *,
    size: tuple[int, int],
    channels: int = 3,
    as_stored: bool = False,
    **options,
) -> Subset:
    """Turns names and encoded pairs into a `Subset`.

    Args:
        names: List of str.
        pairs: List of `(image, mask)`, each a path or the bytes of a file.
        labels: `LabelTable` for the masks.
        size: `(height, width)` to resize to.
        channels: int, 1, 3 or 4. Defaults to `3`.
        as_stored: bool, as for `load_pair`. Defaults to `False`.
        **options: Further arguments of `build_subset`.

    Returns:
        A `Subset`.

    Raises:
        ValueError: As `build_subset` does.
    """

    def stamp(file):
        if isinstance(file, bytes):
            return hashlib.sha256(file).hexdigest()
        status = os.stat(file)
        return str(file), status.st_size, status.st_mtime_ns

    on_disk = not isinstance(options.get("cache", True), bool)
    warn = warn_once()
    identity = [(stamp(image), stamp(mask)) for image, mask in pairs] if on_disk else []
    return build_subset(
        names,
        lambda index: load_pair(*pairs[index], size, labels, channels, as_stored, warn),
        size=size,
        channels=channels,
        classes=labels.classes,
        identity=repr((identity, sorted(labels.values.items()), labels.other, as_stored)),
        check=labels.contradiction,
        **options,
    )
