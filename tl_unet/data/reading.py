"""What `tf.data` calls to read batches, with the life of its data set."""

import weakref
from collections.abc import Callable

import tensorflow as tf


class Reader:
    """What a data set calls to read its batches, and what lives as long as that data set and those made of it.

    TensorFlow keeps what `tf.numpy_function` is given until the process ends, and with it all that it holds, such as decoded
    images or a model. So that is given `call`, which holds nothing.

    Args:
        read: callable from arrays to arrays.
    """

    def __init__(self, read: Callable):
        self.read = read

    def call(self) -> Callable:
        """A callable that reads for as long as this object lives."""
        reference = weakref.ref(self)

        def read(*arrays):
            reader = reference()
            if reader is None:
                raise RuntimeError(
                    "The images of this tf.data.Dataset are no longer in memory: keep the Subset it was made of."
                )
            return reader.read(*arrays)

        return read

    def kept_by(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """The data set, which keeps this object; data sets made of it keep it in turn, and iterators theirs."""
        dataset.reader = self
        return dataset
