"""The demo's stand-in for ImageNet: a small, synthetic classification task made on the spot.

Transfer learning needs an encoder that has learnt something else first. Where no ImageNet weights are at hand (the demo is
offline) each encoder is trained here, from random weights, to tell eight textures apart, and its weights are saved as an
ordinary backbone file that `build_unet(weights=path)` reads. These are not ImageNet weights, and the report says so.
"""

from pathlib import Path

import keras
import numpy as np
from paper.files import replacing
from paper.recipes import create_training_variables

import tl_unet

KINDS = ("horizontal", "vertical", "falling", "rising", "checks", "dots", "clouds", "grain")
LEARNING_RATE = 1e-3


def textures(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` pictures, each filled with one of eight textures in two random colours.

    Args:
        count: how many pictures.
        size: side of a picture in pixels.
        seed: the same seed draws the same pictures.

    Returns:
        Images, float32 (count, size, size, 3) in 0..255, and their classes, int32 (count,) in 0..7.
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(count) % len(KINDS)).astype("int32")
    weights = np.stack([_pattern(KINDS[label], size, rng) for label in labels])[..., None]
    middle = rng.uniform(70, 185, (count, 1, 1, 3))
    contrast = rng.uniform(25, 70, middle.shape) * rng.choice((-1, 1), middle.shape)
    images = middle + contrast * (2 * weights - 1)
    images += rng.normal(0, 12, images.shape)
    return np.clip(images, 0, 255).astype("float32"), labels


def _pattern(kind: str, size: int, rng: np.random.Generator) -> np.ndarray:
    """One texture as a (size, size) array in 0..1."""
    y, x = np.mgrid[:size, :size]
    period = rng.uniform(5, 14)
    wave_x, wave_y = (np.sin(2 * np.pi * (axis / period + rng.uniform())) for axis in (x, y))
    diagonal = 2 * np.pi / (period * np.sqrt(2))
    phase = rng.uniform(0, 2 * np.pi)
    coarse = rng.uniform(size=(size // 8 + 2, size // 8 + 2)).repeat(8, 0).repeat(8, 1)
    drawn = {
        "horizontal": wave_y > 0,
        "vertical": wave_x > 0,
        "falling": np.sin((x - y) * diagonal + phase) > 0,
        "rising": np.sin((x + y) * diagonal + phase) > 0,
        "checks": wave_x * wave_y > 0,
        "dots": wave_x + wave_y > 0.9,
        "clouds": coarse[:size, :size],
        "grain": rng.uniform(size=(size, size)),
    }
    return drawn[kind].astype("float64")


def train_encoder(
    name: str, path: Path, preprocessing: str, *, seed: int, size=32, count=384, epochs=2
) -> float:
    """Train a backbone on the texture task and save its weights, as those of ImageNet are saved.

    Args:
        name: an encoder of tl-unet.
        path: file to write, ending in `.weights.h5`.
        preprocessing: `"rescale"` or `"encoder"`, as in `build_unet`; the U-Net must have the same.
        seed: seed of the starting weights and of the pictures.
        size: side of the pictures in pixels.
        count: number of training pictures.
        epochs: passes over them.

    Returns:
        Accuracy on a quarter as many new pictures, in 0..1 (chance is 1/8).
    """
    keras.utils.set_random_seed(seed)
    spec = tl_unet.get_encoder_spec(name)
    images, labels = textures(count, size, seed)
    new_images, new_labels = textures(count // 4, size, seed + 1)
    seen, new_seen = (_seen(array, spec, preprocessing) for array in (images, new_images))
    backbone = spec.builder(input_shape=(None, None, 3), weights=None)
    # He's starting weights instead of Glorot's, and maps of unit size: without them VGG16, which has no BatchNormalization, would
    # not start to learn in so few steps.
    convolutions = [layer for layer in backbone.layers if type(layer) is keras.layers.Conv2D]
    for layer in convolutions:
        layer.kernel.assign(layer.kernel * 2**0.5)
    convolutions[0].kernel.assign(convolutions[0].kernel / seen.std())
    for layer in backbone.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            # The default of 0.99 needs hundreds of steps; a frozen encoder would keep half-learnt statistics.
            layer.momentum = 0.8
    # The classifier sees what a U-Net will see: every map that becomes a skip connection, and the bridge.
    maps = [backbone.get_layer(tap.layer).output for tap in spec.taps]
    pooled = [keras.layers.GlobalAveragePooling2D()(m) for m in maps]
    pooled = [keras.layers.BatchNormalization(momentum=0.8)(m) for m in pooled]
    classes = keras.layers.Dense(len(KINDS))(keras.layers.Concatenate()(pooled))
    # Down to nothing at the end, so that the statistics of BatchNormalization are those of the final weights.
    schedule = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, epochs * -(-count // 16))
    classifier = keras.Model(backbone.input, classes)
    classifier.compile(
        keras.optimizers.Adam(schedule),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    create_training_variables(classifier, labels[:1], np.zeros((1, len(KINDS)), "float32"))
    classifier.fit(seen, labels, batch_size=16, epochs=epochs)
    # Called once and eagerly: `evaluate` would trace a graph for it, which takes longer.
    logits = np.asarray(classifier(new_seen, training=False))
    with replacing(path) as temporary:
        backbone.save_weights(temporary)
    return float(np.mean(logits.argmax(-1) == new_labels))


def _seen(images, spec, preprocessing):
    """The images as the encoder sees them in a U-Net with this preprocessing."""
    if preprocessing == "rescale":
        return images / 255
    seen = (images - np.array(spec.statistics.mean)) / np.array(spec.statistics.std)
    return (seen[..., ::-1] if spec.statistics.bgr else seen).astype("float32")
