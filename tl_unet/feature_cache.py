"""Training the decoder on features that the frozen encoder computed only once.

While the encoder is frozen, an image always has the same features. `cache_features` keeps them, in memory or in a folder, and gives a
decoder that shares its layers with the model, and data sets that it can be fitted to. Not for augmented images, which differ in
each epoch, nor for fine-tuning.
"""

import hashlib
import json
import math

import keras
import numpy as np

from tl_unet.feature_batches import (
    FeatureBatches,
    checked_dataset,
    count_batches,
    is_tf_dataset,
    iterate,
)
from tl_unet.feature_store import DTYPES, FolderStore, MemoryStore
from tl_unet.splitting import split_model


def cache_features(
    model,
    *datasets,
    directory=None,
    dtype=None,
    max_bytes=None,
    batch_size=32,
    shuffle=False,
    verbose=1,
):
    """Computes the features of a frozen encoder once, so that training the decoder costs the decoder only.

    Features belong to an image's pixels, not to its place: data sets may shuffle, repeat, skip, and share images. They may
    not change images at random (augmentation); that raises an error once the features are computed.

    The decoder sees what the whole model would: the data set's own batches, with features that differ by rounding (relative
    errors of about 1e-6 in float32, from other sizes of batches; 5e-4 with `dtype="float16"`, 4e-3 with `dtype="bfloat16"`). Its
    layers are the model's: what it learns, `model` has learned. Dropout and BatchNorm in the decoder work as ever. (A shuffled
    `tf.data` set draws another order each time that it is gone through: after caching it goes on with its third.)

    Args:
        model: `keras.Model` from `build_unet`, with a frozen encoder.
        *datasets: each a `tf.data.Dataset` or a `keras.utils.PyDataset` of batches `(images, masks)` or
            `(images, masks, sample_weights)`, or a tuple of such arrays. Images of different batches may differ in size.
        directory: str or path of a folder for the features, which the next run finds there; an interrupted one goes on. Defaults to
            `None`: in memory.
        dtype: `"float32"`, `"float16"` (half the space; values to 65,504) or `"bfloat16"` (half the space; any values, coarser).
            Defaults to `None`: what the encoder computes in.
        max_bytes: int, the most that the features may take. Defaults to `None`: half of the memory that is available (on
            Linux; elsewhere no limit), or what is free on the disk.
        batch_size: int, of data sets given as arrays. Defaults to 32.
        shuffle: bool, whether the images of the first data set, if it is given as arrays, are put into other batches after each pass,
            as `fit` does with arrays; then what `predict` gives for it is in another order than the arrays. Defaults to `False`: arrays
            keep their order, and `fit` draws that of the batches.
        verbose: 0 or 1, whether to show progress. Defaults to 1.

    Returns:
        A tuple: the decoder, a functional `keras.Model` that is not compiled (with deep supervision if the model has it), and one data set of
        `((*features, images), masks)` for each of `datasets`, for its `fit` and `evaluate`.

    Raises:
        TypeError: if something is of no such kind.
        ValueError: if the encoder is not frozen, a layer before the decoder is random or trained, `directory` holds features of another
            model, the features would take more than `max_bytes`, or a data set changes its images.
        OSError: if the disk is full.

    Example:

    >>> import keras, numpy as np, tl_unet
    >>> model = tl_unet.freeze_encoder(tl_unet.build_unet("mobilenetv2", freeze=False, weights=None))
    >>> images, masks = np.zeros((4, 32, 32, 3), "uint8"), np.ones((4, 32, 32, 1), "float32")
    >>> decoder, train = tl_unet.cache_features(model, (images, masks), batch_size=2, verbose=0)
    >>> decoder.compile("adam", tl_unet.DiceLoss(), jit_compile=False)
    >>> history = decoder.fit(train, epochs=2, verbose=0)
    >>> model.predict(images, verbose=0).shape
    (4, 32, 32, 1)
    """
    cache = FeatureCache(model, directory=directory, dtype=dtype, max_bytes=max_bytes)
    datasets = [
        checked_dataset(dataset, batch_size, shuffle and number == 0)
        for number, dataset in enumerate(datasets)
    ]
    for dataset in datasets:
        cache.add(dataset, verbose=verbose)
    return cache.decoder, *map(cache.apply, datasets)


def feature_bytes(model, image_size, dtype=None):
    """The bytes that `cache_features` takes for one image.

    Args:
        model: `keras.Model` from `build_unet`.
        image_size: `(height, width)`.
        dtype: as in `cache_features`. Defaults to `None`.

    Returns:
        int.

    Example:

    >>> import tl_unet
    >>> model = tl_unet.build_unet("vgg16", freeze=False, weights=None)
    >>> tl_unet.feature_bytes(model, (256, 256), "float16") / 1e6
    15.990784
    """
    encoder, _ = split_model(model)
    return _feature_bytes(encoder, image_size, DTYPES[_checked_dtype(dtype, encoder)])


class FeatureCache:
    """The features behind `cache_features`, for those who add data sets one after another.

    Args:
        model: as for `cache_features`.
        directory: as for `cache_features`. Defaults to `None`.
        dtype: as for `cache_features`. Defaults to `None`.
        max_bytes: as for `cache_features`. Defaults to `None`.

    Attributes:
        decoder: functional `keras.Model` from the feature maps and the image to the mask; shares its layers with `model`.
        nbytes: int, the bytes of all features.
        max_bytes: int or `None`, the most that they may take.

    Raises:
        ValueError, TypeError: as `cache_features`.

    Example:

    >>> import keras, numpy as np, tl_unet
    >>> model = tl_unet.freeze_encoder(tl_unet.build_unet("mobilenetv2", freeze=False, weights=None))
    >>> images, masks = np.zeros((4, 32, 32, 3), "uint8"), np.ones((4, 32, 32, 1), "float32")
    >>> cache = tl_unet.FeatureCache(model, dtype="float16")
    >>> len(cache.add((images, masks), verbose=0)) # four equal images
    1
    """

    def __init__(self, model, *, directory=None, dtype=None, max_bytes=None):
        self._encoder, self.decoder = split_model(model)
        self._nested = model.get_layer("encoder")
        self._check_still()
        dtype = _checked_dtype(dtype, self._encoder)
        self._fingerprint = fingerprint(self._encoder)
        if directory is None:
            self._store = MemoryStore(dtype)
        else:
            self._store = FolderStore(directory, dtype, {"encoder": self._fingerprint})
        if max_bytes is not None and max_bytes < 1:
            raise ValueError(f"`max_bytes` must be positive or None; received {max_bytes!r}.")
        if max_bytes is None and (free := self._store.free()) is not None:
            max_bytes = self._store.nbytes + free
        self.max_bytes = max_bytes
        # XLA, Keras' default, is slower on processors; other backends have nothing else.
        slow = keras.backend.backend() == "tensorflow"
        self._encoder.compile(jit_compile=False if slow else "auto")

    @property
    def nbytes(self):
        """The bytes of all features."""
        return self._store.nbytes

    def __len__(self):
        """The number of images."""
        return len(self._store)

    def add(self, dataset, verbose=1):
        """Computes the features of the images that are not in the cache yet.

        Args:
            dataset: as one of those of `cache_features`; it is gone through once, so it must end, and begun once more, to see that
                its images stay the same.
            verbose: 0 or 1, whether to show progress. Defaults to 1.

        Returns:
            The cache.

        Raises:
            ValueError: if the features would take more than `max_bytes`, or the data set changes its images.
            OSError: if the disk is full.
        """
        dataset = checked_dataset(dataset)
        total = count_batches(dataset)
        progress = keras.utils.Progbar(total, unit_name="batch", verbose=verbose)
        for number, batch in enumerate(iterate(dataset)):
            images = self._images(batch[0])
            keys = _keys(images)
            new = {key: i for i, key in enumerate(keys) if key not in self._store}
            if new:
                left = 1 if total is None else total - number
                self._check_space(images.shape, len(new), left)
                self._store.add(list(new), self._features(images[list(new.values())]))
            progress.update(number + 1)
        first = next(iter(iterate(dataset)), None)
        if first is not None:
            self.read(first[0])  # raises if the images are others than a moment ago
        return self

    def apply(self, dataset):
        """A data set with features in place of its images.

        Args:
            dataset: as one of those of `cache_features`, in any order, of images that `add` has seen.

        Returns:
            A data set of the same kind (a `PyDataset` for arrays) and length, of batches `((*features, images), masks, ...)`.

        Raises:
            ValueError: if the model's encoder has changed since. An image that is not in the cache raises one later, in the batch that
                it is in (inside of a `tf.data` pipeline as an error of TensorFlow's).
        """
        dataset = checked_dataset(dataset)
        self._check_still()
        if fingerprint(self._encoder) != self._fingerprint:
            raise ValueError(
                "The encoder's weights have changed since its features were computed: make a new cache."
            )
        if is_tf_dataset(dataset):
            from tl_unet.data.features import map_features

            return map_features(dataset, self._encoder.outputs, self.read, self._store.dtype)
        return FeatureBatches(dataset, self.read)

    def read(self, images):
        """The feature maps of a batch of images.

        Args:
            images: array `(batch, height, width, channels)`.

        Returns:
            A list of arrays, finest first, in the cache's dtype.

        Raises:
            ValueError: if the features of an image are not in the cache.
        """
        keys = _keys(self._images(images))
        missing = sum(key not in self._store for key in keys)
        if missing:
            raise ValueError(
                f"{missing} of {len(keys)} images of a batch are not in the feature cache. Does the data set change images at random "
                "(augmentation)? Then features can't be cached: train the whole model, or leave the augmentation out. Or was it "
                "not added?"
            )
        return self._store.read(keys)

    def _images(self, images):
        dtype = self._encoder.inputs[0].dtype
        return np.ascontiguousarray(keras.ops.convert_to_numpy(images), dtype)

    def _features(self, images):
        *maps, _ = self._encoder.predict_on_batch(images)
        found = []
        for feature_map in maps:
            feature_map = np.asarray(keras.ops.convert_to_numpy(feature_map))
            with np.errstate(over="ignore"):
                kept = feature_map.astype(self._store.dtype)
            if not np.isfinite(kept.astype("float32")).all():
                largest = np.abs(feature_map.astype("float32")).max()
                raise ValueError(
                    f"Features up to {largest:g} can't be kept in {self._store.dtype.name}: use dtype='bfloat16', which has the range of "
                    "float32, or dtype='float32'."
                )
            found.append(kept)
        return found

    def _check_still(self):
        """Raises `ValueError` unless an image always gets the same features."""
        if self._nested.trainable:
            raise ValueError(
                "The encoder is not frozen: its features change while it learns. Build the model with freeze=True, or call "
                "tl_unet.freeze_encoder(model) first."
            )
        if self._encoder.trainable_weights:
            names = sorted({weight.path for weight in self._encoder.trainable_weights})
            raise ValueError(
                f"What comes before the decoder has trainable weights, so its features change: {names[:5]}."
            )
        random = [
            layer.name
            for layer in self._encoder.layers
            if layer is not self._nested and _is_random(layer)
        ]
        if random:
            raise ValueError(
                f"The layers {random} in front of the decoder are random: the same image gets other features each time."
            )

    def _check_space(self, shape, new, batches_left):
        """Raises `ValueError` if the next images surely do not fit, or the batches that are left probably won't."""
        if self.max_bytes is None:
            return
        one = _feature_bytes(self._encoder, shape[1:3], self._store.dtype)
        # Each batch as large as this one, the last perhaps a single image; but what is new in this one may be few of what the rest holds again.
        more = new * (batches_left - 1) + 1 if new == shape[0] and batches_left > 1 else new
        needed = self._store.nbytes + one * more
        if needed > self.max_bytes:
            raise ValueError(
                f"The features would take about {needed / 1e9:.2f} GB ({one / 1e6:.2f} MB for an image of {shape[1]}x{shape[2]}), more than "
                f"the {self.max_bytes / 1e9:.2f} GB allowed in {self._store.place}. Use dtype='float16', a `directory` on a large disk, "
                "smaller images, or a larger `max_bytes`; or train the whole model without a cache. (Repetitions are counted as new images: cache "
                "a data set before you repeat it.)"
            )


def fingerprint(model):
    """A text that differs whenever a model computes something else: of its layers' settings and its weights, not their names.

    Args:
        model: functional `keras.Model`.

    Returns:
        str of 32 hexadecimal digits.

    Example:

    >>> import keras
    >>> from tl_unet.feature_cache import fingerprint
    >>> one = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(2)])
    >>> two = keras.Sequential([keras.Input((1,)), keras.layers.Rescaling(3)])
    >>> fingerprint(one) == fingerprint(one), fingerprint(one) == fingerprint(two)
    (True, False)
    """
    names = {}

    def find_names(value):
        if isinstance(value, dict):
            if isinstance(value.get("name"), str):
                names.setdefault(value["name"], f"#{len(names)}")
            value = value.values()
        if not isinstance(value, str) and hasattr(value, "__iter__"):
            for inner in value:
                find_names(inner)

    def plain(value):
        if isinstance(value, dict):
            # Whether a layer may train changes nothing that it computes; names are often numbered through a process.
            return {k: plain(v) for k, v in value.items() if k not in ("trainable", "build_config")}
        if isinstance(value, list | tuple):
            return [plain(inner) for inner in value]
        return names.get(value, value) if isinstance(value, str) else value

    config = model.get_config()
    find_names(config)
    text = json.dumps(plain(config), sort_keys=True, default=repr)
    digest = hashlib.sha256(text.encode())
    for weight in model.weights:
        value = np.ascontiguousarray(keras.ops.convert_to_numpy(weight))
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(value.view(np.uint8).data if value.ndim else value.tobytes())
    return digest.hexdigest()[:32]


def _keys(images):
    """A text for each image that follows from its pixels."""
    shape = repr((images.shape[1:], images.dtype.str)).encode()
    return [hashlib.sha256(shape + image.tobytes()).hexdigest()[:32] for image in images]


def _feature_bytes(encoder, sides, dtype):
    channels = encoder.inputs[0].shape[-1]
    image = keras.KerasTensor((1, *sides, channels), encoder.inputs[0].dtype)
    *maps, _ = encoder.compute_output_spec(image)
    return dtype.itemsize * sum(math.prod(feature_map.shape) for feature_map in maps)


def _checked_dtype(dtype, encoder):
    dtype = dtype or keras.backend.standardize_dtype(encoder.outputs[0].dtype)
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be None or one of {tuple(DTYPES)}; received {dtype!r}.")
    return dtype


def _is_random(layer):
    found = [layer, *getattr(layer, "layers", ())]
    # Keras' dropout and noise have the one, its augmentation layers the other.
    return any(
        isinstance(getattr(inner, name, None), keras.random.SeedGenerator)
        for inner in found
        for name in ("seed_generator", "generator")
    )
