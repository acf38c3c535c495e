"""Writing models for other runtimes: SavedModel, ONNX, OpenVINO and LiteRT, also in 8-bit integers.

`export_model` writes a file that needs neither Keras nor this library; preprocessing is in the graph, so raw images 0..255 go in.
`exported.py` runs it and compares it with the Keras model. Each format needs its own packages: `pip install "tl-unet[export]"` brings all. Exporting
needs the TensorFlow backend.
"""

import os
import shutil
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np

from tl_unet.exported import batches, require

# What a file of each format ends with; a SavedModel is a directory.
SUFFIXES = {
    "saved-model": "",
    "onnx": ".onnx",
    "openvino": ".xml",
    "openvino-int8": ".xml",
    "litert": ".tflite",
    "litert-int8": ".tflite",
}
# All that the directory of a SavedModel may hold.
_SAVED_MODEL = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}
_PACKAGES = {
    "onnx": ("tf2onnx", "onnx"),
    "openvino": ("openvino",),
    "openvino-int8": ("openvino", "nncf"),
}


def export_model(
    model, path, format="saved-model", *, size=None, batch_size=None, images=None
) -> Path:
    """Writes a model for another runtime, as one graph for inference with its preprocessing.

    The file's input is a float32 batch `(batch, height, width, channels)` of raw images, its output the float32 masks. It is
    complete or not there: it is written beside `path` and then renamed.

    Args:
        model: `keras.Model` with one image input, such as `build_unet` returns.
        path: where to write. The format's ending (`.onnx`, `.xml`, `.tflite`) is added if missing; a SavedModel is a directory.
            OpenVINO also writes a `.bin` file beside its `.xml`. A file that is there is replaced; a directory only if it is empty or
            an earlier SavedModel.
        format: one of `"saved-model"`, `"onnx"`, `"openvino"`, `"litert"` (formerly TensorFlow Lite), and `"openvino-int8"` and
            `"litert-int8"`, whose convolutions compute in 8-bit integers, calibrated on `images`. Defaults to `"saved-model"`.
        size: int or `(height, width)`, to fix the sides. Some runtimes are faster then; `"litert-int8"` needs it (the sides of
            `images` if not given). Defaults to `None`: the model's own, any size where they are unknown.
        batch_size: int, to fix the number of images that the file takes at once. With `size` and 1 OpenVINO is faster. Defaults to
            `None`: any number.
        images: array `(count, height, width, channels)` of typical raw images, some dozens, for the int8 formats. Defaults to
            `None`.

    Returns:
        `pathlib.Path` of what was written.

    Raises:
        ValueError: if an argument has no such value, `images` are missing or do not fit, or the runtime cannot express the model.
        FileExistsError: if a directory with something else stands at `path`, or a file where a SavedModel's directory is to be.
        ImportError: if a package of the format is missing.
        RuntimeError: if Keras does not run on TensorFlow.

    Example:

    >>> import tempfile, numpy as np, tl_unet
    >>> model = tl_unet.build_unet("mobilenetv3small", weights=None, freeze=False)
    >>> folder = tempfile.TemporaryDirectory()
    >>> path = tl_unet.export_model(model, folder.name + "/unet", "litert", size=64)
    >>> path.name
    'unet.tflite'
    >>> pictures = np.zeros((1, 64, 64, 3), "float32")
    >>> tl_unet.load_exported(path)(pictures).shape
    (1, 64, 64, 1)
    >>> folder.cleanup()
    """
    if format not in SUFFIXES:
        raise ValueError(f"`format` must be one of {list(SUFFIXES)}. Received: format={format!r}")
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            f"Exporting needs the TensorFlow backend, but Keras runs on {keras.backend.backend()!r}. Save the model as .keras, "
            "and load it with KERAS_BACKEND=tensorflow."
        )
    require(*_PACKAGES.get(format, ()))
    path = Path(path)
    if path.name in ("", ".."):
        raise ValueError(
            f"`path` must end with a name, such as exported/unet. Received: {str(path)!r}"
        )
    if SUFFIXES[format] and path.suffix != SUFFIXES[format]:
        path = path.with_name(path.name + SUFFIXES[format])
    _check_free(path, format)
    if format.endswith("int8"):
        images = _calibration(images, model)
        if size is None and format == "litert-int8":
            size = images.shape[1:3]
    signature = _signature(model, size, batch_size)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as beside:
        draft = Path(beside, path.name)
        try:
            _WRITERS[format](model, draft, signature, images)
        except ImportError:
            raise
        except Exception as error:
            fixed = "" if size is not None else " Fixed sides may help: size=256."
            raise ValueError(
                f"The model could not be written as {format!r}.{fixed} What the converter said: {error}"
            ) from error
        _install(Path(beside), path)
    return path


# --- Writing --------------------------------------------------------------------------------------


def _signature(model, size, batch_size):
    """The input as the file will have it."""
    if len(model.inputs) != 1:
        raise ValueError(
            f"Only models with one input can be exported; this one has {len(model.inputs)}."
        )
    _, height, width, channels = model.inputs[0].shape
    if size is not None:
        try:
            height, width = (size, size) if np.isscalar(size) else size
            height, width = int(height), int(width)
        except (TypeError, ValueError):
            raise ValueError(
                f"`size` must be an int or (height, width). Received: {size!r}"
            ) from None
        if min(height, width) < 1:
            raise ValueError(f"`size` must be positive. Received: {size!r}")
    if batch_size is not None and (
        isinstance(batch_size, bool)
        or not isinstance(batch_size, int | np.integer)
        or batch_size < 1
    ):
        raise ValueError(
            f"`batch_size` must be a positive int, or None for any number of images. Received: {batch_size!r}"
        )
    shape = (batch_size and int(batch_size), height, width, channels)
    return [keras.InputSpec(shape=shape, dtype="float32", name="image")]


def _calibration(images, model):
    if images is None or not len(images):
        raise ValueError(
            "The int8 formats are calibrated on typical images: pass images=, an array of some dozens of raw images."
        )
    images = np.asarray(images, "float32")
    channels = model.inputs[0].shape[-1]
    if images.ndim != 4 or images.shape[-1] != channels:
        raise ValueError(
            f"`images` must have the shape (count, height, width, {channels}). Received: {images.shape}"
        )
    return images


# Keras' exporters call string methods on the path.


def _write_saved_model(model, path, signature, images):
    model.export(str(path), format="tf_saved_model", input_signature=signature, verbose=False)


def _write_onnx(model, path, signature, images):
    with warnings.catch_warnings():
        # Keras looks for a name that NumPy has dropped.
        warnings.filterwarnings("ignore", message=".*np.object", category=FutureWarning)
        model.export(str(path), format="onnx", input_signature=signature, verbose=False)


def _write_openvino(model, path, signature, images):
    model.export(str(path), format="openvino", input_signature=signature, verbose=False)


def _of_sides(images, signature):
    """Images to calibrate with, resized where the exported model has fixed sides."""
    sides = signature[0].shape[1:3]
    if None in sides or tuple(sides) == images.shape[1:3]:
        return images
    return keras.ops.convert_to_numpy(keras.ops.image.resize(images, sides, antialias=True))


def _write_openvino_int8(model, path, signature, images):
    import nncf
    import openvino

    batch_size, *shape = signature[0].shape
    # Calibrated image by image whatever the batch: NNCF takes the range of a batch to be that of an image.
    any_batch = [keras.InputSpec(shape=(None, *shape), dtype="float32", name="image")]
    with tempfile.TemporaryDirectory() as folder:
        floats = Path(folder, "model.xml")
        _write_openvino(model, floats, any_batch, images)
        quantized = nncf.quantize(
            openvino.Core().read_model(floats),
            nncf.Dataset([image[None] for image in _of_sides(images, signature)]),
            subset_size=len(images),
        )
        if batch_size is not None:
            sides = [-1 if side is None else side for side in shape]
            quantized.reshape(openvino.PartialShape([batch_size, *sides]))
        openvino.save_model(quantized, path, compress_to_fp16=False)


def _write_litert(model, path, signature, images):
    model.export(str(path), format="litert", input_signature=signature, verbose=False)


def _write_litert_int8(model, path, signature, images):
    import tensorflow as tf

    typical = batches(_of_sides(images, signature), signature[0].shape[0] or 1)
    model.export(
        str(path),
        format="litert",
        input_signature=signature,
        verbose=False,
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([batch] for batch in typical),
    )


_WRITERS = {
    "saved-model": _write_saved_model,
    "onnx": _write_onnx,
    "openvino": _write_openvino,
    "openvino-int8": _write_openvino_int8,
    "litert": _write_litert,
    "litert-int8": _write_litert_int8,
}


def _check_free(path, format):
    """Raises `FileExistsError` unless what is to be written may stand where it is to be: before the work, not after it."""
    if format == "saved-model" and path.is_file():
        raise FileExistsError(
            f"{path} is a file, but a SavedModel is a directory: choose another path."
        )
    _check_replaceable(path)
    if format.startswith("openvino"):
        _check_replaceable(path.with_suffix(".bin"))


def _check_replaceable(target):
    if not target.is_dir():
        return
    found = {file.name for file in target.iterdir()}
    if found and not ("saved_model.pb" in found and found <= _SAVED_MODEL):
        raise FileExistsError(
            f"{target} is a directory that holds something else than an earlier SavedModel ({min(found - _SAVED_MODEL or found)}), "
            f"which exporting would delete: choose another path, such as {target / 'unet'}."
        )


def _install(beside, path):
    """Moves what was written to its place; the main file last, so that it never stands there without its companions."""
    for written in sorted(beside.iterdir(), key=lambda file: file.name == path.name):
        target = path.with_name(written.name)
        _check_replaceable(target)  # again: converting takes minutes
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(written, target)
