"""Feature maps in place of images in a `tf.data` pipeline: the part of `cache_features` that needs TensorFlow."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tl_unet.data.pipeline import PROCESSORS, prefetched
from tl_unet.data.reading import Reader


def map_features(
    dataset: tf.data.Dataset, maps: list, read: Callable[[np.ndarray], list], dtype
) -> tf.data.Dataset:
    """Replaces the images of a data set by their features.

    Args:
        dataset: `tf.data.Dataset` of batches `(images, masks)` or `(images, masks, sample_weights)`.
        maps: the symbolic outputs of the encoder part, with the image last; they have the shapes.
        read: callable from an array of images to a list of arrays, their feature maps.
        dtype: NumPy dtype of these.

    Returns:
        `tf.data.Dataset` of `((*features, images), masks, ...)`, of the same length and order.
    """
    dtype = tf.as_dtype(dtype)
    reader = Reader(read)
    call = reader.call()

    def replace(images, *rest):
        found = tf.numpy_function(call, [images], [dtype] * (len(maps) - 1))
        # What is unknown of the shapes stays so: the masks' sizes say enough for the decoder.
        found = [tf.ensure_shape(x, known.shape) for x, known in zip(found, maps, strict=False)]
        return ((*found, images), *rest)

    return prefetched(reader.kept_by(dataset.map(replace, num_parallel_calls=PROCESSORS)))
