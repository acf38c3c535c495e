"""Finding and loading pre-trained weights of a backbone, and fitting them to images with other than three channels."""

import os
import re
import warnings

import h5py
import keras
import numpy as np

from tl_unet.layers import BatchNormalization

# Some backbones of keras.applications want known sides with weights="imagenet"; the weights are the same at any size.
_IMAGENET_SHAPE = (224, 224, 3)


def build_backbone(spec, channels, weights):
    """The backbone of `spec` without its top, for images of `channels` channels and any sides.

    Args:
        spec: `EncoderSpec`.
        channels: int. With `weights` it must be 3 (see `inflate_weights`).
        weights: `None`, `"imagenet"`, or a path to a `.weights.h5` or `.h5` file of the backbone without its top.

    Returns:
        A functional `keras.Model` with input `(None, None, channels)`.

    Raises:
        ValueError: if there are no ImageNet weights, or the file is of another backbone.
        FileNotFoundError: if the file does not exist, or the download failed.
    """
    with warnings.catch_warnings():
        # keras.applications warns of every channel count but 1 and 3, and of unknown sides: both are meant here.
        warnings.filterwarnings("ignore", message=".*input channels.*")
        backbone = spec.builder(input_shape=(None, None, channels), weights=None)
    _fuse_norms(backbone)
    if weights == "imagenet":
        backbone.set_weights(_imagenet_weights(spec))
    elif weights is not None:
        load_weights(spec, backbone, weights)
    return backbone


def _fuse_norms(backbone):
    """Makes the batch normalisation of a new backbone `tl_unet.layers.BatchNormalization`.

    That has the same state and only computes otherwise. A clone of the model would be built as slowly as the model, and in one that shares
    its layers they would have two outputs each, so that none could be tapped by its name.
    """
    for layer in backbone.layers:
        if type(layer) is keras.layers.BatchNormalization:
            layer.__class__ = BatchNormalization


def _imagenet_weights(spec):
    if not spec.imagenet:
        raise ValueError(
            f"Encoder {spec.name!r} has no ImageNet weights. Pass weights=None (and freeze=False, since "
            "random features should not be frozen), or weights=path to a file of your own."
        )
    try:
        return spec.builder(input_shape=_IMAGENET_SHAPE, weights="imagenet").get_weights()
    except Exception as error:  # Keras raises a bare Exception when a download fails
        url = re.search(r"https?://\S+", str(error))
        if "fetch failure" not in str(error) or url is None:
            raise
        file = url.group().rstrip(":.,").rsplit("/", 1)[-1]
        home = os.environ.get("KERAS_HOME", os.path.join(os.path.expanduser("~"), ".keras"))
        cache = os.path.join(home, "models", file)
        raise FileNotFoundError(
            f"The ImageNet weights of {spec.name!r} are not on this machine and could not be downloaded: {error}. "
            f"Without a network, bring the file {file} from {url.group().rstrip(':.,')} and put it at {cache}, where Keras "
            f"looks for it, or pass its place as weights=path. weights=None starts from random weights."
        ) from error


def load_weights(spec, backbone, path):
    """Loads a weights file into a backbone; a file of something else is an error that says so, and changes nothing.

    Args:
        spec: `EncoderSpec`, for the messages.
        backbone: `keras.Model`.
        path: str or path, a file that `keras.Model.save_weights` wrote (`.weights.h5`), or one of Keras' own downloads (`.h5`).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it holds no weights, or those of another model.
    """
    path = os.fspath(path)
    if not os.path.isfile(path):
        raise FileNotFoundError(
            f"No weights file at {path!r} for encoder {spec.name!r}. `weights` must be 'imagenet', None, or the path of "
            "a .weights.h5 or .h5 file of the backbone without its top."
        )
    before = backbone.get_weights()
    try:
        expected, found = len(before), _count_arrays(path)
        if found is not None and found != expected:
            raise ValueError(f"it holds {found} arrays, {spec.name} without its top has {expected}")
        backbone.load_weights(path)
    except Exception as error:
        backbone.set_weights(before)
        raise ValueError(
            f"{path!r} does not hold the weights of {spec.name!r} without its classification top "
            f"({error}). Is it a file of another backbone, of a whole model, or with the top?"
        ) from error


def _count_arrays(path):
    """How many arrays a `.weights.h5` file holds for layers; `None` for the older format, which Keras checks itself."""
    if not h5py.is_hdf5(path):
        raise ValueError("it is not an HDF5 file")
    arrays = []
    with h5py.File(path, "r") as file:
        if "layer_names" in file.attrs or "model_weights" in file:
            return None
        file.visititems(
            lambda name, item: arrays.append(name) if isinstance(item, h5py.Dataset) else None
        )
    own = [name for name in arrays if not name.startswith("optimizer")]
    return sum("seed_generator" not in name for name in own)  # the state of Dropout is no weight


def inflate_weights(source, target, bgr=False):
    """Copies the weights of a three-channel encoder into one with another number of input channels.

    Everything is copied but what depends on the number of channels: kernels whose input is the image (see `inflate_kernel`), and
    vectors of a number for each channel, such as those of a normalisation, of which channel `i` gets number `i % 3`.

    Args:
        source: `keras.Model` with three input channels.
        target: `keras.Model`, the same but for its number of input channels.
        bgr: bool, whether `source` was trained on blue, green, red.
    """
    channels = target.input_shape[-1]

    def inflate(weight):
        if weight.ndim == 1:
            return weight[np.arange(channels) % len(weight)]
        return inflate_kernel(weight, channels, bgr)

    target.set_weights(
        [
            old if old.shape == new.shape else inflate(old)
            for old, new in zip(source.get_weights(), target.get_weights(), strict=True)
        ]
    )


def inflate_kernel(kernel, channels, bgr=False):
    """A kernel over RGB as one over any number of channels.

    For one channel the colours' slices are summed: a grey image then gives what three equal channels gave. For `N`
    channels, channel `i` gets the slice of colour `i % 3`, and all are scaled by `3 / N` so that the sum stays of the same size.

    Args:
        kernel: array of shape `(height, width, 3, filters)`.
        channels: int.
        bgr: bool, whether the slices of `kernel` are in the order blue, green, red. Defaults to `False`.

    Returns:
        Array of shape `(height, width, channels, filters)`.

    Example:

    >>> import numpy as np
    >>> from tl_unet.encoders.weights import inflate_kernel
    >>> inflate_kernel(np.ones((1, 1, 3, 1)), 6).ravel().tolist()
    [0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    """
    if bgr:
        kernel = kernel[:, :, ::-1]
    if channels == 1:
        return kernel.sum(axis=2, keepdims=True)
    return kernel[:, :, np.arange(channels) % 3] * (3.0 / channels)
