"""Running exported models in their own runtimes, without Keras, and comparing them with the Keras model."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np


def load_exported(path) -> Callable:
    """Loads an exported model in its own runtime, without Keras.

    Args:
        path: what `export_model` returned: a SavedModel's directory, or a `.onnx`, `.xml` or `.tflite` file.

    Returns:
        A callable from raw images, `(batch, height, width, channels)`, to float32 masks as NumPy arrays. It takes one image or more,
        also where the file was made for a `batch_size`: it is run as often as needed then. Anything else is a ValueError.

    Raises:
        FileNotFoundError: if there is nothing at `path`.
        ValueError: if it is none of the formats, or a SavedModel that `export_model` did not write.
        ImportError: if the runtime is not installed.

    Example: see `export_model`.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"There is no exported model {str(path)!r}.")
    runners = {".onnx": _run_onnx, ".xml": _run_openvino, ".tflite": _run_litert}
    if path.is_dir() and (path / "saved_model.pb").exists():
        run, batch_size = _run_saved_model(path)
    elif path.suffix in runners:
        run, batch_size = runners[path.suffix](path)
    else:
        raise ValueError(
            f"{str(path)!r} is no exported model: expected a SavedModel's directory or a file ending in {sorted(runners)}."
        )

    def predict(images):
        images = np.asarray(images, "float32")
        if images.ndim != 4 or not len(images):
            raise ValueError(
                "Expected a batch (batch, height, width, channels) of at least one image (`image[None]` for a single one). "
                f"Received: shape {images.shape}"
            )
        if batch_size is None:
            return run(images)
        masks = [run(batch) for batch in batches(images, batch_size)]
        return np.concatenate(masks)[: len(images)]

    return predict


def max_difference(model, path, images, batch_size=8) -> float:
    """The greatest difference between the masks of an exported model and those of the Keras model.

    Args:
        model: the `keras.Model`.
        path: as for `load_exported`.
        images: array `(count, height, width, channels)` of raw images.
        batch_size: int, images at once. Defaults to `8`.

    Returns:
        float, the largest absolute difference over all pixels and classes; NaN if either gives one.

    Raises:
        ValueError: if there are no images.
    """
    if not len(images):
        raise ValueError("`images` is empty: there is nothing to compare.")
    exported, differences = load_exported(path), []
    for i in range(0, len(images), batch_size):
        batch = np.asarray(images[i : i + batch_size], "float32")
        differences.append(np.abs(exported(batch) - model.predict_on_batch(batch)).max())
    return float(np.max(differences))


def batches(images, batch_size):
    """Images in batches of a fixed size, the last of which is filled up with its last image."""
    if missing := -len(images) % batch_size:
        images = np.concatenate([images, np.repeat(images[-1:], missing, axis=0)])
    return [images[i : i + batch_size] for i in range(0, len(images), batch_size)]


def require(*packages):
    """Raises an ImportError that says what to install, if a package is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f'This format needs {" and ".join(missing)}: `pip install {" ".join(missing)}`, or `pip install "tl-unet[export]"` for all.'
        )


# --- Running: each gives a function of a float32 batch, and the size that the batch must have, or None for any ---------------


def _run_saved_model(path):
    import tensorflow as tf

    artifact = tf.saved_model.load(path)
    signature = getattr(artifact, "signatures", {}).get("serving_default")
    inputs = signature.structured_input_signature[1] if signature else {}
    if len(inputs) != 1 or not hasattr(artifact, "serve"):
        raise ValueError(
            f"{path} is a SavedModel that `export_model` did not write: it has no `serve` of one input. Run it by TensorFlow itself."
        )
    (image,) = inputs.values()
    # The artifact must outlive this call: its functions do not keep its variables.
    return lambda images: artifact.serve(images).numpy(), image.shape[0]


def _run_onnx(path):
    require("onnxruntime")
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    image = session.get_inputs()[0]
    batch_size = image.shape[0] if isinstance(image.shape[0], int) else None
    return lambda images: session.run(None, {image.name: images})[0], batch_size


def _run_openvino(path):
    require("openvino")
    import openvino

    # Without the hint some processors compute in bfloat16.
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    first = compiled.input(0).get_partial_shape()[0]
    batch_size = first.get_length() if first.is_static else None
    return lambda images: compiled(images)[compiled.output(0)], batch_size


def _run_litert(path):
    require("ai_edge_litert")
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=os.cpu_count())
    entry, result = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    laid_out = None

    def run(images):
        nonlocal laid_out
        if images.shape != laid_out:
            laid_out = None  # for as long as this may fail
            interpreter.resize_tensor_input(entry["index"], images.shape)
            interpreter.allocate_tensors()
            laid_out = images.shape
        interpreter.set_tensor(entry["index"], images)
        interpreter.invoke()
        return interpreter.get_tensor(result["index"])

    first = entry["shape_signature"][0]  # -1 for any
    return run, int(first) if first > 0 else None
