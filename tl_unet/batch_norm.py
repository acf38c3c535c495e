"""The running statistics of batch normalisation, computed anew as means over a whole data set.

While a model trains they follow the last steps only, whose weights differ from the final ones and whose pictures were augmented. Means over
the data with the final weights predict better than what a short training leaves (Izmailov et al. 2018, section 3.2, do it for averaged weights).
"""

import keras
import numpy as np

from tl_unet.freezing import inner_layers


def update_batch_norm(model, data, *, batch_size=16):
    """Computes the running means and variances of a model's batch normalisation anew, as their means over batches of data.

    No weight that gradients train changes, and no statistics of layers that are frozen. The model is called as in training, so its
    dropout is active, too. Take the training images, without augmentation, after the last `fit`, and batches about as large as those of the training.

    Args:
        model: `keras.Model`, compiled or not. Changed in place.
        data: batches of images, or of tuples that begin with images, such as a `tf.data.Dataset` or a `keras.utils.PyDataset` for `fit`;
            or one array of images of shape `(images, height, width, channels)`.
        batch_size: int, how many images of an array go together; not for batches. Defaults to 16.

    Returns:
        The model.

    Raises:
        ValueError: if no batch normalisation of the model is trainable, there are no data, or `batch_size` is below 1.
        TypeError: if `model` is no `keras.Model`, or `batch_size` no int.

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
        for images in _batches(data, batch_size):
            for norm in norms:  # so that each running value is the mean of what it has seen
                norm.momentum = seen / (seen + 1)
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


def _statistics(norm):
    return norm.moving_mean, norm.moving_variance


def _batches(data, batch_size):
    if isinstance(batch_size, bool) or not isinstance(batch_size, int):
        raise TypeError(f"`batch_size` must be an int; received {batch_size!r}.")
    if batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1; received {batch_size}.")
    if hasattr(data, "shape"):
        return (data[i : i + batch_size] for i in range(0, len(data), batch_size))
    if isinstance(data, keras.utils.PyDataset):
        batches = (data[i] for i in range(data.num_batches))
    else:
        batches = data
    return (batch[0] if isinstance(batch, (tuple, list)) else batch for batch in batches)
