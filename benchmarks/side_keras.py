"""What the Keras libraries do: tl-unet, segmodels_keras and medicai. Imported by `worker.py` in their environments."""

import dataclasses
import os
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
        task: dict of `library`, `variant`, `work`, `encoder`, `batch`, `size`, `threads`, and `folder` for an exported file.

    Returns:
        The function, and a dict: `parameters`, and for tl-unet `gflops` of one call.
    """
    set_up(task["threads"])
    if task["work"] == "peak":
        return _peak(), {}
    if task["work"] == "data":
        return _pipeline(task), {}
    model = BUILD[task["library"]](task["encoder"], task["size"])
    if task["variant"] in ("Keras' layers", "enlarged first"):
        model = _in_keras_layers(model)
    if task["work"] == "start":
        return lambda: None, {"parameters": model.count_params()}
    facts = {"parameters": model.count_params()}
    if task["library"] == "tl_unet":
        facts["gflops"] = _gflops(model, task)
    return PREPARE[task["work"]](model, task), facts


def set_up(threads):
    """Settings that must be made before TensorFlow is imported, and a seed."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(threads)
    os.environ["KERAS_BACKEND"] = "tensorflow"
    import keras

    keras.utils.set_random_seed(0)


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


def _in_keras_layers(model):
    """The same network in Keras' own layers: maps are enlarged and concatenated, then convolved, and normalised by elementary operations."""
    import keras

    import tl_unet.layers

    def call(layer, *args, **options):
        if not isinstance(layer, tl_unet.layers.UpConv2D):
            return layer(*args, **options)
        *skips, coarse = args[0]
        x = keras.layers.UpSampling2D(2, interpolation="nearest")(coarse)
        x = keras.layers.Concatenate()([*skips, x]) if skips else x
        return keras.layers.Conv2D(layer.filters, 3, padding="same", use_bias=layer.use_bias)(x)

    copy = keras.models.clone_model(model, call_function=call)
    for layer in (*copy.layers, *copy.get_layer("encoder").layers):
        if isinstance(layer, tl_unet.layers.BatchNormalization):
            layer.__class__ = keras.layers.BatchNormalization
    return copy


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


BUILD = {"tl_unet": _tl_unet, "segmodels_keras": _segmodels_keras, "medicai": _medicai}


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
    images = images_of(task)
    masks = (np.random.default_rng(1).uniform(size=(*images.shape[:3], 1)) > 0.5).astype("float32")
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
    image = tf.constant(images_of(task))
    return lambda: predict(image).numpy()


def _exported(model, task):
    """Writes the model's file and an image into the folder of the task, for `exported.runner`."""
    import tl_unet

    if task["variant"] == "folded":
        model = tl_unet.fold_batch_norm(model)
    kind = {"onnxruntime": "onnx", "int8": "openvino-int8"}.get(task["work"], "openvino")
    options = {"images": images_of(task | {"batch": 8})} if kind == "openvino-int8" else {}
    if kind != "onnx":  # smp's files are for one image, too; ONNX Runtime gains nothing by it
        options["batch_size"] = task["batch"]
    folder = Path(task["folder"])
    tl_unet.export_model(model, folder / "unet", kind, size=task["size"], **options)
    np.save(folder / "image.npy", images_of(task))
    return lambda: None


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


def images_of(task):
    """Random images of the task, float32 in [0, 255]."""
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


PREPARE = {
    "step": _step,
    "frozen": _step,
    "latency": _latency,
    "onnxruntime": _exported,
    "openvino": _exported,
    "int8": _exported,
}
