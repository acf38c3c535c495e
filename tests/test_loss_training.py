"""The losses inside `model.fit`: gradients, execution modes, sixteen bits, any image size."""

import keras
import numpy as np
import pytest
from keras import ops

from tl_unet.losses import (
    CrossentropyLoss,
    DiceLoss,
    FocalLoss,
    JaccardLoss,
    LovaszLoss,
    TverskyLoss,
)

LOSSES = [DiceLoss, JaccardLoss, TverskyLoss, LovaszLoss, FocalLoss]


def random_mask(classes=1):
    return np.random.default_rng(1).integers(0, max(classes, 2), (2, 5, 5, 1))


@pytest.mark.parametrize("loss", LOSSES)
def test_losses_of_sixteen_bit_models_are_finite(loss):
    inputs = keras.Input((64, 64, 1))
    layer = keras.layers.Conv2D(1, 1, activation="sigmoid", dtype="mixed_float16")
    model = keras.Model(inputs, layer(inputs))
    model.compile(optimizer=keras.optimizers.SGD(0.1), loss=loss())
    images = np.random.default_rng(0).random((4, 64, 64, 1), "float32")
    history = model.fit(images, images > 0.5, verbose=0, epochs=2)
    assert np.isfinite(history.history["loss"]).all()
    assert all(np.isfinite(weight).all() for weight in model.get_weights())


class Canvas(keras.layers.Layer):
    """A layer whose weight is the prediction itself, to look at gradients on any backend."""

    def __init__(self, start, **kwargs):
        super().__init__(**kwargs)
        self.start = start

    def build(self, input_shape):
        self.canvas = self.add_weight(shape=self.start.shape, initializer="zeros", name="canvas")
        self.canvas.assign(self.start)

    def call(self, inputs):
        return ops.add(inputs * 0, self.canvas)


def descend(loss, start, mask, steps=1, rate=1.0, **fit):
    """Returns the prediction after steps of gradient descent through `model.fit`."""
    inputs = keras.Input(batch_shape=start.shape)
    layer = Canvas(start)
    model = keras.Model(inputs, layer(inputs))
    model.compile(optimizer=keras.optimizers.SGD(rate), loss=loss, **fit)
    # Not shuffled: the canvas does not move with its masks.
    options = {"epochs": steps, "batch_size": len(start), "shuffle": False, "verbose": 0}
    model.fit(np.zeros_like(start), mask, **options)
    return layer.get_weights()[0]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(("classes", "average"), [(1, "batch"), (3, "image")])
def test_gradients_point_at_the_mask(loss, classes, average):
    mask = random_mask(classes)
    mask[0, 0, 0] = 255
    start = np.random.default_rng(0).normal(0, 0.1, (2, 5, 5, classes)).astype("float32")
    loss = loss(from_logits=True, average=average, ignore_index=255)
    moved = descend(loss, start, mask) - start
    right = np.where(mask == np.arange(classes), 1, -1) if classes > 1 else mask * 2 - 1
    right[0, 0, 0] = 0
    assert np.isfinite(moved).all()
    assert (moved[0, 0, 0] == 0).all()
    assert (moved * right).sum() > 0
    if not isinstance(loss, LovaszLoss):
        assert (moved * right > 0).sum() == right.size - classes


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mode", [{"jit_compile": False}, {"run_eagerly": True}])
def test_fit_brings_the_loss_down_in_every_mode(loss, mode):
    mask = random_mask()
    start = np.zeros((2, 5, 5, 1), "float32")
    loss = loss(from_logits=True)
    after = descend(loss, start, mask, steps=8, rate=20.0, **mode)
    assert float(loss(mask, after)) < 0.8 * float(loss(mask, start))


@pytest.mark.parametrize("loss", LOSSES)
def test_empty_masks_and_saturated_predictions_have_finite_gradients(loss):
    start = np.repeat([0.0, 1.0, 0.0, 1.0], 16).reshape(4, 4, 4, 1).astype("float32")
    mask = np.repeat([0.0, 0.0, 1.0, 1.0], 16).reshape(4, 4, 4, 1)
    options = {FocalLoss: {"gamma": 0.5}, LovaszLoss: {}}.get(loss, {"smooth": 0.0})
    for choice in ({}, options):
        assert np.isfinite(descend(loss(average="image", **choice), start, mask, rate=1e-3)).all()


@pytest.mark.parametrize("classes", [1, 3])
def test_focal_moves_a_pixel_that_is_wrong_with_confidence(classes):
    start = np.zeros((1, 1, 1, classes), "float32")
    start[..., -1] = -30.0
    mask = np.full((1, 1, 1, 1), max(1, classes - 1))
    moved = descend(FocalLoss(from_logits=True), start, mask) - start
    assert moved[..., -1] > 0.5


@pytest.mark.parametrize("loss", [CrossentropyLoss, FocalLoss])
@pytest.mark.parametrize("classes", [1, 3])
@pytest.mark.parametrize("traced", [False, True])
def test_ignoring_pixels_keeps_the_gradient_of_one_that_is_wrong_with_confidence(
    loss, classes, traced
):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("only on TensorFlow Keras finds the logits behind probabilities")
    import tensorflow as tf

    image = keras.Input((1, 2, classes))
    last = keras.layers.Activation("sigmoid" if classes == 1 else "softmax")
    model = keras.Model(image, last(image))
    start = np.zeros((1, 1, 2, classes), "float32")
    start[..., -1] = -30.0
    logits = tf.Variable(start)

    def gradient(loss, mask):
        def step():
            with tf.GradientTape() as tape:
                value = loss(mask, model(logits))
            return tape.gradient(value, logits)

        return (tf.function(step) if traced else step)().numpy()

    mask = np.full((1, 1, 2, 1), max(1, classes - 1))
    without = gradient(loss(), mask)
    assert (without[..., -1] < -0.4).all()
    np.testing.assert_array_equal(gradient(loss(ignore_index=255), mask), without)
    mask[0, 0, 1] = 255
    moved = gradient(loss(ignore_index=255), mask)
    np.testing.assert_allclose(moved[0, 0, 0], 2 * without[0, 0, 0], rtol=1e-6)
    assert (moved[0, 0, 1] == 0).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_models_of_any_image_size_train(loss):
    inputs = keras.Input((None, None, 1))
    model = keras.Model(inputs, keras.layers.Conv2D(1, 1, activation="sigmoid")(inputs))
    model.compile(loss=loss(average="image"))
    for side in (4, 6):
        images = np.random.default_rng(0).random((3, side, side, 1), "float32")
        weights = np.array([1.0, 2.0, 0.5])
        history = model.fit(images, images > 0.5, sample_weight=weights, batch_size=2, verbose=0)
        assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize(
    ("loss", "same"), [(DiceLoss(average="image"), True), (FocalLoss(), True), (DiceLoss(), False)]
)
def test_accumulated_gradients_are_those_of_the_whole_batch_if_the_loss_is_a_mean(loss, same):
    random = np.random.default_rng(0)
    images = random.random((4, 8, 8, 1), "float32")
    masks = images > np.array([0.1, 0.3, 0.6, 0.9])[:, None, None, None]

    def trained(batch_size, accumulated):
        keras.utils.set_random_seed(0)
        inputs = keras.Input((8, 8, 1))
        model = keras.Model(inputs, keras.layers.Conv2D(1, 3, activation="sigmoid")(inputs))
        sgd = keras.optimizers.SGD(1.0, gradient_accumulation_steps=accumulated)
        model.compile(sgd, loss)
        cropped = masks[:, 1:-1, 1:-1]
        model.fit(images, cropped, batch_size=batch_size, shuffle=False, verbose=0)
        return np.concatenate([weight.ravel() for weight in model.get_weights()])

    difference = np.abs(trained(4, None) - trained(2, 2)).max()
    assert (difference < 1e-6) == same
