"""The running statistics of batch normalisation, computed anew as means over a whole data set.

While a model trains they follow the last steps only, whose weights differ from the final ones and whose pictures were augmented. Means over
the data with the final weights predict better than what a short training leaves (Izmailov et al. 2018, section 3.2, do it for averaged weights).
"""

import itertools
from collections.abc import Iterator

import keras
import numpy as np

from tl_unet.argument_checks import is_whole
from tl_unet.feature_batches import is_endless, iterate_py_dataset
from tl_unet.freezing import inner_layers


def update_batch_norm(model, data, *, batch_size=16, batches=None):
    """Computes the running means and variances of a model's batch normalisation anew, as their means over batches of data.

    No weight that gradients train changes, and no statistics of layers that are frozen. The model is called as in training, so its
    dropout is active, too. Take the training images, without augmentation, after the last `fit`, and batches about as large as those of the training.

    Args:
        model: `keras.Model`, compiled or not. Changed in place.
        data: batches of images, or of tuples that begin with images, such as a `tf.data.Dataset` or a `keras.utils.PyDataset` for `fit`;
            or one array of images of shape `(images, height, width, channels)`.
        batch_size: int, how many images of an array go together; not for batches. Defaults to 16.
        batches: int or `None`, how many batches are enough. Defaults to `None`: all.

    Returns:
        The model.

    Raises:
        ValueError: if no batch normalisation of the model is trainable, there are no data, they are endless and `batches` is `None`, a batch
            has another number of channels than the model takes, or `batch_size` or `batches` is below 1.
        TypeError: if `model` is no `keras.Model`, `data` is a tuple of arrays such as `(images, masks)`, or `batch_size` or `batches` no int.

    Example:

    >>> import numpy as np, tl_unet
    >>> model = tl_unet.build_unet("vgg16", weights=None, freeze=False, normalization="batch")
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), "uint8")
    >>> before = model.predict(images, verbose=0)
    >>> model = tl_unet.update_batch_norm(model, images)
    >>> bool(np.allclose(model.predict(images, verbose=0), before))
    False

    Reference:
        - [Izmailov et al., Averaging Weights Leads to Wider Optima, 2018](https://arxiv.org/abs/1803.05407)
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be a keras.Model; received {model!r}.")
    _check_positive("batch_size", batch_size)
    if batches is not None:
        _check_positive("batches", batches)
    elif is_endless(data):
        raise ValueError("`data` are endless: say with `batches` how many are enough.")
    norms = [
        layer
        for layer in inner_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization) and layer.trainable
    ]
    if not norms:
        raise ValueError(
            "The model has no batch normalisation that is trainable, so it has no statistics to compute. In a U-Net of build_unet: "
            'normalization="batch", or unfreeze_encoder(model, batch_norm=True) where the encoder has any.'
        )
    momenta = [norm.momentum for norm in norms]
    before = [np.array(keras.ops.convert_to_numpy(v)) for n in norms for v in _statistics(n)]
    seen = 0
    try:
        for images in itertools.islice(_batches(data, batch_size), batches):
            _check_channels(images, model)
            for norm in norms:  # so that each running value is the mean of what it has seen
                norm.momentum = seen / (seen + 1)
                if not seen:  # NaN, which an overflow leaves, would stay
                    for variable in _statistics(norm):
                        variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
            model(images, training=True)
            seen += 1
    except BaseException:
        for variable, value in zip((v for n in norms for v in _statistics(n)), before, strict=True):
            variable.assign(value)
        raise
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
    if not seen:
        raise ValueError("`data` has no batches: the statistics are left as they were.")
    return model


class UpdateBatchNorm(keras.callbacks.Callback):
    """Computes the running statistics anew before each validation of `fit`, so that it judges the weights and not the statistics.

    Those that training leaves are of the last, augmented batches. With them a validation may be points too low and jump from epoch to
    epoch, and the epoch that is kept may not be the best. Without validation they are computed at the end of each epoch; put this callback before
    those that save.

    Args:
        data: as in `update_batch_norm`: the training images without augmentation, best in random order. They are gone through in
            each epoch, so it must not be a generator or another iterator.
        batch_size: int, how many images of an array go together; not for batches. Defaults to 16.
        batches: int or `None`, how many batches are enough: some tens represent most data. Defaults to `None`: all.

    Raises:
        TypeError: if `data` is an iterator.
        ValueError: when it is called, as `update_batch_norm` does.

    Example:

    >>> import numpy as np, tl_unet
    >>> model = tl_unet.build_unet("vgg16", weights=None, freeze=False, normalization="batch")
    >>> model.compile("adam", tl_unet.DiceLoss(), metrics=[tl_unet.IoU()])
    >>> images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), "uint8")
    >>> masks = images[..., :1] > 127
    >>> history = model.fit(
    ...     images, masks, validation_data=(images, masks), callbacks=[tl_unet.UpdateBatchNorm(images)], verbose=0
    ... )
    """

    def __init__(self, data, batch_size=16, batches=None):
        super().__init__()
        if isinstance(data, Iterator):
            raise TypeError(
                f"`data` must be what can be gone through in each epoch; received {data!r}, which is used up after the first. Pass an array, "
                "a list of batches, a keras.utils.PyDataset or a tf.data.Dataset (of a generator: "
                "tf.data.Dataset.from_generator)."
            )
        self.data, self.batch_size, self.batches = data, batch_size, batches
        self._done = False

    def on_epoch_begin(self, epoch, logs=None):
        """What was computed before is of other weights."""
        self._done = False

    def on_test_begin(self, logs=None):
        """Before a validation."""
        self._update()

    def on_epoch_end(self, epoch, logs=None):
        """After an epoch without a validation."""
        if not self._done:
            self._update()

    def _update(self):
        update_batch_norm(self.model, self.data, batch_size=self.batch_size, batches=self.batches)
        self._done = True


def _statistics(norm):
    return norm.moving_mean, norm.moving_variance


def _check_channels(images, model):
    """Refuses what is no image of the model: Keras would take a mask for a grey one and show it to a model of three colours."""
    wanted = model.inputs[0].shape[-1] if getattr(model, "inputs", None) else None
    shape = getattr(images, "shape", None)
    if shape and wanted is not None and shape[-1] != wanted:
        raise ValueError(
            f"A batch of `data` has the shape {tuple(shape)}, but the model takes images of {wanted} channels. Of images and masks "
            "in arrays, give the images alone."
        )


def _batches(data, batch_size):
    if isinstance(data, tuple) and len(data) > 1 and all(hasattr(part, "shape") for part in data):
        raise TypeError(
            "`data` is a tuple of arrays: of (images, masks) give the images alone; several batches as a list."
        )
    if hasattr(data, "shape"):
        return (data[i : i + batch_size] for i in range(0, len(data), batch_size))
    batches = iterate_py_dataset(data) if isinstance(data, keras.utils.PyDataset) else data
    return (batch[0] if isinstance(batch, (tuple, list)) else batch for batch in batches)


def _check_positive(name, value):
    if not is_whole(value):
        raise TypeError(f"`{name}` must be an int; received {value!r}.")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1; received {value}.")
