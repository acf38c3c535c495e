"""The data sets that `cache_features` takes: `tf.data`, `PyDataset` and arrays, gone through in one way."""

import itertools
import sys

import keras
import numpy as np


class FeatureBatches(keras.utils.PyDataset):
    """Batches of another `PyDataset`, with features in place of their images."""

    def __init__(self, dataset, read):
        super().__init__(
            workers=dataset.workers,
            use_multiprocessing=False,  # the features are in this process
            max_queue_size=dataset.max_queue_size,
        )
        self.dataset, self.read = dataset, read

    @property
    def num_batches(self):
        """As many as the other data set has; `None` if that is endless."""
        return self.dataset.num_batches

    def __len__(self):
        return self.num_batches

    def __getitem__(self, index):
        images, *rest = self.dataset[index]
        # float32 where a backend can't read NumPy's bfloat16.
        maps = [m if m.dtype.kind == "f" else m.astype("float32") for m in self.read(images)]
        return ((*maps, images), *rest)

    def on_epoch_begin(self):
        """Tell the other data set."""
        self.dataset.on_epoch_begin()

    def on_epoch_end(self):
        """Tell the other data set."""
        self.dataset.on_epoch_end()


class ArrayBatches(keras.utils.PyDataset):
    """Arrays as batches, in their order or shuffled anew after each pass."""

    def __init__(self, arrays, batch_size, shuffle=False):
        super().__init__()
        self.arrays, self.batch_size, self.shuffle = arrays, batch_size, shuffle
        self.order = np.arange(len(arrays[0]))
        # Of its own, but under the sway of keras.utils.set_random_seed.
        self.random = np.random.default_rng(np.random.randint(2**31))

    def __len__(self):
        return -(-len(self.order) // self.batch_size)

    def __getitem__(self, index):
        chosen = self.order[index * self.batch_size : (index + 1) * self.batch_size]
        return tuple(array[chosen] for array in self.arrays)

    def on_epoch_end(self):
        """Shuffle, if so. Keras calls this after predictions, too."""
        if self.shuffle:
            self.random.shuffle(self.order)


def is_tf_dataset(dataset):
    """Whether it is a `tf.data.Dataset`, without importing TensorFlow."""
    # Whoever has such a data set has imported TensorFlow.
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(dataset, tensorflow.data.Dataset)


def checked_dataset(dataset, batch_size=32, shuffle=False):
    """A data set as it is, or arrays `(images, masks)` or `(images, masks, sample_weights)` as `ArrayBatches`.

    Args:
        dataset: as one of those of `cache_features`.
        batch_size: int, of arrays. Defaults to 32.
        shuffle: bool, of arrays. Defaults to `False`.

    Returns:
        `tf.data.Dataset` or `keras.utils.PyDataset`.

    Raises:
        TypeError: if it is neither of them nor arrays.
        ValueError: if the arrays do not fit together, or `batch_size` is not positive.
    """
    if isinstance(dataset, keras.utils.PyDataset) or is_tf_dataset(dataset):
        return dataset
    if isinstance(dataset, tuple | list) and 2 <= len(dataset) <= 3:
        arrays = [np.asarray(array) for array in dataset]
        lengths = {len(array) if array.ndim else 0 for array in arrays}
        if len(lengths) != 1 or arrays[0].ndim != 4:
            raise ValueError(
                "Arrays must be images (number, height, width, channels) and as many masks; received the shapes "
                f"{[array.shape for array in arrays]}."
            )
        if batch_size < 1:
            raise ValueError(f"`batch_size` must be positive; received {batch_size!r}.")
        return ArrayBatches(arrays, batch_size, shuffle)
    raise TypeError(
        "A data set must be a tf.data.Dataset, a keras.utils.PyDataset, or a tuple (images, masks) of arrays; received "
        f"{type(dataset).__name__}."
    )


def count_batches(dataset):
    """The number of batches, or `None` if it is unknown; raises `ValueError` for an endless data set."""
    if is_endless(dataset):
        raise ValueError("The data set is endless: cache it before you repeat it.")
    if isinstance(dataset, keras.utils.PyDataset):
        return dataset.num_batches
    number = int(dataset.cardinality())
    return None if number < 0 else number


def is_endless(dataset):
    """Whether a data set says that it never ends; `False` for what can't say so."""
    if isinstance(dataset, keras.utils.PyDataset):
        return dataset.num_batches is None
    return is_tf_dataset(dataset) and int(dataset.cardinality()) == -1  # -2 is unknown


def iterate(dataset):
    """The batches, once, as NumPy arrays or what a `PyDataset` gives."""
    if isinstance(dataset, keras.utils.PyDataset):
        return iterate_py_dataset(dataset)
    return dataset.as_numpy_iterator()


def iterate_py_dataset(dataset):
    """The batches of a `keras.utils.PyDataset`, once; without end if it has none."""
    number = dataset.num_batches
    indices = itertools.count() if number is None else range(number)
    return (dataset[index] for index in indices)
