"""What the Keras libraries do: tl-unet, segmodels_keras and medicai. Imported by `worker.py` in their environments."""

import dataclasses
import os
import tempfile
from pathlib import Path

import numpy as np

FILTERS = (256, 128, 64, 32, 16)
# Where segmentation_models.pytorch taps its encoders, if that is not where tl-unet does: behind MobileNetV2's blocks, not inside of them,
# where the maps are wider; before DenseNet's transitions halve the channels.
TAPS = {
    "densenet121": ("conv1_relu", "pool2_relu", "pool3_relu", "pool4_relu", "relu"),
    "mobilenetv2": (
        "expanded_conv_project_BN",
        "block_2_add",
        "block_5_add",
        "block_12_add",
        "out_relu",
    ),
}


def prepare(task):
    """A function to time, and facts about it.

    Args:
        task: dict of `library`, `variant`, `work`, `encoder`, `batch`, `size`, `threads`.

    Returns:
        The function, and a dict: `parameters`, and for tl-unet `gflops` of one call.
    """
    # Before TensorFlow is imported.
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(task["threads"])
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    keras.utils.set_random_seed(0)
    if task["work"] == "peak":
        return _peak(), {}
    if task["work"] == "data":
        return _pipeline(task), {}
    model = _BUILD[task["library"]](task["encoder"], task["size"])
    if task["variant"] == "enlarged first":
        model = _enlarged_first(model)
    if task["work"] == "start":
        return lambda: None, {"parameters": model.count_params()}
    facts = {"parameters": model.count_params()}
    if task["library"] == "tl_unet":
        facts["gflops"] = _gflops(model, task)
    return _WORK[task["work"]](model, task), facts


def _tl_unet(encoder, size):
    import tl_unet

    spec = tl_unet.get_encoder_spec(encoder)
    if encoder == "vgg16":  # the peers use no map of full size
        spec = dataclasses.replace(spec, taps=spec.taps[1:])
    if encoder in TAPS:
        taps = [tl_unet.Tap(2**i, layer) for i, layer in enumerate(TAPS[encoder], 1)]
        spec = dataclasses.replace(spec, taps=taps)
    return tl_unet.build_unet(
        spec,
        freeze=False,
        weights=None,
        input_shape=(size, size, 3),
        decoder_filters=FILTERS[: spec.stride.bit_length() - 1],
        upsampling="nearest",
        normalization="batch",
        normalize_features=False,  # the peers pass VGG's maps on as they are
    )


def _enlarged_first(model):
    """The same network in Keras' own layers: maps are enlarged and concatenated, then convolved. What `UpConv2D` is worth."""
    import keras

    import tl_unet.layers

    def call(layer, *args, **options):
        if not isinstance(layer, tl_unet.layers.UpConv2D):
            return layer(*args, **options)
        *skips, coarse = args[0]
        x = keras.layers.UpSampling2D(2, interpolation="nearest")(coarse)
        x = keras.layers.Concatenate()([*skips, x]) if skips else x
        return keras.layers.Conv2D(layer.filters, 3, padding="same", use_bias=layer.use_bias)(x)

    return keras.models.clone_model(model, call_function=call)


def _segmodels_keras(encoder, size):
    import segmodels_keras

    return segmodels_keras.Unet(
        encoder,
        input_shape=(size, size, 3),
        encoder_weights=None,
        classes=1,
        activation="sigmoid",
        decoder_filters=FILTERS,
    )


def _medicai(encoder, size):
    from medicai.models import UNet

    return UNet(
        input_shape=(size, size, 3),
        num_classes=1,
        encoder_name=encoder,
        classifier_activation="sigmoid",
        decoder_filters=FILTERS,
    )


_BUILD = {"tl_unet": _tl_unet, "segmodels_keras": _segmodels_keras, "medicai": _medicai}


def _freeze(model, task):
    """Freezes the encoder, as far as the library has one to freeze."""
    if task["library"] == "tl_unet":
        import tl_unet

        model = tl_unet.freeze_encoder(model)
        return (
            tl_unet.fold_batch_norm(model, encoder_only=True)
            if task["variant"] == "folded"
            else model
        )
    # The decoders of both begin with a layer of this name.
    for layer in model.layers:
        if layer.name.startswith("decoder"):
            return model
        layer.trainable = False
    raise ValueError("the end of the encoder was not found")


def _step(model, task):
    import keras

    if task["work"] == "frozen":
        model = _freeze(model, task)
    random = np.random.default_rng(0)
    shape = (task["batch"], task["size"], task["size"])
    images = random.uniform(0, 255, (*shape, 3)).astype("float32")
    masks = (random.uniform(size=(*shape, 1)) > 0.5).astype("float32")
    inputs = images
    if task["variant"] == "cached":
        import tl_unet

        cache = tl_unet.FeatureCache(model).add((images, masks), verbose=0)
        model, inputs = cache.decoder, lambda: [*cache.read(images), images]
    model.compile(keras.optimizers.Adam(1e-4), keras.losses.BinaryCrossentropy(), jit_compile=False)
    if callable(inputs):  # looking the features up belongs to the step
        return lambda: float(np.ravel(model.train_on_batch(inputs(), masks))[0])
    return lambda: float(np.ravel(model.train_on_batch(inputs, masks))[0])


def _latency(model, task):
    import tensorflow as tf

    if task["variant"] == "folded":
        import tl_unet

        model = tl_unet.fold_batch_norm(model)
    predict = tf.function(lambda image: model(image, training=False))
    image = tf.constant(_image(task))
    return lambda: predict(image).numpy()


def _exported(model, task):
    import exported

    import tl_unet

    if task["variant"] == "folded":
        model = tl_unet.fold_batch_norm(model)
    kind = {"onnxruntime": "onnx", "int8": "openvino-int8"}.get(task["work"], "openvino")
    images = np.random.default_rng(0).uniform(0, 255, (8, task["size"], task["size"], 3))
    options = {"images": images.astype("float32")} if kind == "openvino-int8" else {}
    folder = tempfile.mkdtemp()
    path = tl_unet.export_model(model, Path(folder, "unet"), kind, size=task["size"], **options)
    return exported.runner(path, _image(task), task["threads"], folder)


def _pipeline(task):
    import pictures

    import tl_unet.data

    folder = pictures.write(64)
    train = tl_unet.data.image_mask_dataset(
        folder / "images",
        folder / "masks",
        size=task["size"],
        batch_size=task["batch"],
        cache=False,
        verify=False,
        labels={0: 0, 255: 1},
    )
    return lambda: sum(len(image) for image, _ in train.dataset)


def _peak():
    """A product of matrices, 2 * 2048**3 operations: what the processor can do at most with these threads."""
    import tensorflow as tf

    a = tf.random.normal((2048, 2048))
    multiply = tf.function(lambda: tf.linalg.matmul(a, a))
    return lambda: multiply().numpy()


def _image(task):
    shape = (task["batch"], task["size"], task["size"], 3)
    return np.random.default_rng(0).uniform(0, 255, shape).astype("float32")


def _gflops(model, task):
    """Operations of a call, in thousand millions; the backward pass counts twice the forward one."""
    import tl_unet

    encoder, decoder = (_forward(part) for part in tl_unet.split_model(model))
    times = {"step": (3, 3), "frozen": (1, 3)}.get(task["work"], (1, 1))
    if task["variant"] == "cached":
        times = (0, 3)
    return task["batch"] * (times[0] * encoder + times[1] * decoder)


def _forward(model):
    import tensorflow as tf

    images = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype) for tensor in model.inputs]
    function = tf.function(lambda inputs: model(inputs, training=False))
    graph = function.get_concrete_function(images if len(images) > 1 else images[0]).graph
    options = tf.compat.v1.profiler.ProfileOptionBuilder.float_operation()
    options["output"] = "none"
    meta = tf.compat.v1.RunMetadata()
    return (
        tf.compat.v1.profiler.profile(graph, meta, cmd="scope", options=options).total_float_ops
        / 1e9
    )


_WORK = {
    "step": _step,
    "frozen": _step,
    "latency": _latency,
    "onnxruntime": _exported,
    "openvino": _exported,
    "int8": _exported,
}
