"""Pictures and masks for one of several processes: each reads its own part of them and brings its own part of every batch.

A batch of all processes has as many places as `batch_size`. The training pictures are dealt to the places once, by the seed, and in each
epoch every place goes through its own pictures in a new order. A process has a block of places. So it reads the same pictures in each
epoch and nobody else reads them, all have equally many batches, and what is in a batch does not depend on the number of processes.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from tl_unet.classes import IGNORE

_PADDING = -1  # a place without a picture


class Pictures(NamedTuple):
    """Names, the side of the pictures, and a function from a number to a picture and its mask as uint8 arrays."""

    names: list[str]
    size: int
    load: Callable[[int], tuple[np.ndarray, np.ndarray]]


def pets(folder, size: int, limit: int | None) -> dict[str, Pictures]:
    """Oxford-IIIT Pet in the paper's split, from the unpacked archives; nothing is decoded yet.

    Args:
        folder: the folder that holds `images/` and `annotations/`.
        size: int, side to resize to.
        limit: int or `None`, at most so many training pictures and a third as many of the others.

    Returns:
        `Pictures` by part: train, validation, test.

    Raises:
        FileNotFoundError: if the folder lacks a part of the archives.
    """
    data = _import_data()
    from tl_unet.data.labels import LabelTable
    from tl_unet.data.pipeline import load_pair

    folder, labels = Path(folder), LabelTable({1: 1, 2: 0, 3: 1})  # the border is animal, too
    # Asked for its names alone; without a cache it reads no picture until it is iterated over.
    subsets = data.oxford_pets(folder, size=size, limit=limit, cache=False)

    def pictures(names):
        def load(index):
            image = folder / "images" / f"{names[index]}.jpg"
            mask = folder / "annotations" / "trimaps" / f"{names[index]}.png"
            return load_pair(image, mask, (size, size), labels, as_stored=True)

        return Pictures(names, size, load)

    return {part: pictures(subset.names) for part, subset in subsets.items()}


def figures(size: int, limit: int, seed: int) -> dict[str, Pictures]:
    """Synthetic figures, drawn when they are asked for: `limit` to train on and a third as many in each other part."""
    data = _import_data()

    def pictures(part, count):
        def load(index):
            one = data.shapes(1, size=size, seed=(3 * seed + part) * 1_000_000 + index)
            image, mask = next(iter(one.dataset.as_numpy_iterator()))
            return image[0].astype("uint8"), mask[0].astype("uint8")

        return Pictures([f"figure-{index}" for index in range(count)], size, load)

    counts = {"train": limit, "validation": limit // 3, "test": limit // 3}
    return {part: pictures(i, count) for i, (part, count) in enumerate(counts.items())}


def _import_data():
    """`tl_unet.data`, whose TensorFlow must not take the memory of the GPUs that JAX trains on."""
    import tensorflow as tf

    tf.config.set_visible_devices([], "GPU")
    import tl_unet.data

    return tl_unet.data


class Batches(keras.utils.PyDataset):
    """The part of every batch that one process brings; its pictures are read at once and kept in memory as uint8.

    For training, pictures change from epoch to epoch in order and are mirrored at random, and a last batch that would not be full is
    filled up with pictures of its places. For judging, the order stays, every picture comes once, and what is missing in the last batch is
    filled up with empty pictures whose masks are ignored (255), so that scores count each picture once.

    Args:
        pictures: `Pictures`.
        batch_size: int, pictures in a batch of all processes; a multiple of `count`.
        index: int, the number of this process. Defaults to `0`.
        count: int, how many processes there are. Defaults to `1`.
        seed: int of the order and the mirroring, or `None` for judging. Defaults to `None`.
        epoch: int, the epoch from 0 whose order and mirroring they come in. Set the attribute before each epoch: Keras ends
            one epoch too many, when it builds a model (`on_epoch_end`), so counting would go wrong. Defaults to `0`.

    Raises:
        ValueError: if there are fewer training pictures than places, none to judge, or one can't be read.
    """

    def __init__(self, pictures, batch_size, index=0, count=1, seed=None, epoch=0):
        super().__init__(workers=1)  # with more, Keras serves batches of one epoch in the next
        number = len(pictures.names)
        if number < (1 if seed is None else batch_size):
            raise ValueError(
                f"There are {number} pictures, but a batch of training pictures takes {batch_size} and every other part needs one. "
                "Give a larger --limit or a smaller --batch-size."
            )
        self.pictures, self.seed, self.epoch = pictures, seed, epoch
        self.mine = slice(index * batch_size // count, (index + 1) * batch_size // count)
        if seed is None:
            order = np.pad(np.arange(number), (0, -number % batch_size), constant_values=_PADDING)
        else:
            order = np.random.default_rng(seed).permutation(number)
            if number % batch_size:
                order = np.concatenate([order, order[number % batch_size : batch_size]])
        self.table = order.reshape(-1, batch_size)  # a row is a batch, a column a place
        mine = sorted(set(self.table[:, self.mine].flat) - {_PADDING})
        with ThreadPoolExecutor(os.cpu_count()) as threads:
            self._decoded = dict(zip(mine, threads.map(self._load, mine), strict=True))

    def __len__(self):
        return len(self.table)

    def __getitem__(self, index):
        """Returns images `(batch_size / count, height, width, 3)` and masks with one channel, both float32."""
        pairs = [self._pair(number) for number in self._rows()[index]]
        images, masks = (np.stack(part).astype("float32") for part in zip(*pairs, strict=True))
        return images, masks

    @property
    def names(self):
        """The names of all pictures that this process reads."""
        return [self.pictures.names[number] for number in self._decoded]

    def _rows(self):
        """The numbers of this process' pictures in this epoch, a row for each batch."""
        table = self.table
        if self.seed is not None:
            table = np.random.default_rng((self.seed, self.epoch)).permuted(table, axis=0)
        return table[:, self.mine]

    def _load(self, number):
        try:
            return self.pictures.load(number)
        except ValueError as error:
            raise ValueError(f"{self.pictures.names[number]}: {error}") from error

    def _pair(self, number):
        if number == _PADDING:
            square = (self.pictures.size, self.pictures.size)
            return np.zeros((*square, 3), np.uint8), np.full((*square, 1), IGNORE, np.uint8)
        image, mask = self._decoded[number]
        if self.seed is not None and _coin(self.seed, self.epoch, number):
            return image[:, ::-1], mask[:, ::-1]
        return image, mask


def _coin(seed, epoch, number):
    return np.random.default_rng((seed, epoch, number)).random() < 0.5
