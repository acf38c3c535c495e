"""`fold_batch_norm`: the same function with fewer operations."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import shallow_unet, tiny_unet

import tl_unet
from tl_unet.encoders.build import encoder_from_spec
from tl_unet.layers import UpConv2D

L = keras.layers


def randomise(model, seed=0):
    """Gives every BatchNorm inside statistics as after a training."""
    random = np.random.default_rng(seed)
    for layer in norms(model):
        values = []
        for weight in layer.weights:
            positive = weight.name in ("gamma", "moving_variance")
            values.append(
                random.uniform(0.5, 1.5, weight.shape)
                if positive
                else random.normal(0, 0.3, weight.shape)
            )
        layer.set_weights(values)
    return model


def norms(model):
    found = []
    for layer in model.layers:
        found += norms(layer) if hasattr(layer, "layers") else []
        found += [layer] if isinstance(layer, L.BatchNormalization) else []
    return found


def picture(*shape, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype("float32")


def assert_same(model, folded, image):
    expected, got = (keras.tree.flatten(m(image, training=False)) for m in (model, folded))
    for a, b in zip(expected, got, strict=True):
        a, b = map(keras.ops.convert_to_numpy, (a, b))
        np.testing.assert_allclose(b, a, atol=1e-4 * max(1, np.abs(a).max()), rtol=0)


CONVOLUTIONS = {
    "conv": lambda bias, size, strides: L.Conv2D(6, size, strides, padding="same", use_bias=bias),
    "grouped": lambda bias, size, strides: L.Conv2D(
        6, size, strides, padding="same", use_bias=bias, groups=2
    ),
    "depthwise": lambda bias, size, strides: L.DepthwiseConv2D(
        size, strides, padding="valid", depth_multiplier=2, use_bias=bias
    ),
    "separable": lambda bias, size, strides: L.SeparableConv2D(
        6, size, strides, padding="same", depth_multiplier=2, use_bias=bias
    ),
    "transpose": lambda bias, size, strides: L.Conv2DTranspose(
        6, size, strides, padding="same", use_bias=bias
    ),
    "dense": lambda bias, size, strides: L.Dense(6, use_bias=bias),
}


@settings(max_examples=12)
@given(
    kind=st.sampled_from(sorted(CONVOLUTIONS)),
    bias=st.booleans(),
    size=st.integers(1, 3),
    strides=st.integers(1, 2),
    center=st.booleans(),
    scale=st.booleans(),
    epsilon=st.sampled_from([1e-5, 1e-3, 0.1]),
    seed=st.integers(0, 1000),
)
def test_any_convolution_takes_its_normalisation(
    kind, bias, size, strides, center, scale, epsilon, seed
):
    keras.utils.set_random_seed(seed)
    image = keras.Input((7, 8, 4))
    x = CONVOLUTIONS[kind](bias, size, strides)(image)
    x = L.BatchNormalization(center=center, scale=scale, epsilon=epsilon)(x)
    model = randomise(keras.Model(image, L.ReLU()(x)), seed)
    folded = tl_unet.fold_batch_norm(model)
    assert not norms(folded)
    assert_same(model, folded, picture(2, 7, 8, 4, seed=seed))


def conv(**options):
    return L.Conv2D(4, 3, padding="same", **options)


def padding_between(x):
    return L.BatchNormalization()(L.ZeroPadding2D(1)(conv()(x)))


def activation_between(x):
    return L.BatchNormalization()(conv(activation="relu")(x))


def before_the_convolution(x):
    return conv()(L.ReLU()(L.BatchNormalization()(x)))


def behind_a_concatenation(x):
    return L.BatchNormalization()(L.Concatenate()([x, conv()(x)]))


def convolution_used_twice(x):
    x = conv()(x)
    return L.Add()([x, L.BatchNormalization()(x)])


def shared_convolution(x):
    shared = conv()
    return L.Add()([L.BatchNormalization()(shared(x)), L.BatchNormalization()(shared(shared(x)))])


def shared_normalisation(x):
    shared = L.BatchNormalization()
    return L.Add()([shared(conv()(x)), shared(conv()(x))])


def statistics_of_the_batch(x):
    return L.BatchNormalization()(conv()(x), training=True)


def other_axis(x):
    return L.BatchNormalization(axis=1)(conv()(x))


@pytest.mark.parametrize(
    "block",
    [
        padding_between,
        activation_between,
        before_the_convolution,
        behind_a_concatenation,
        convolution_used_twice,
        shared_convolution,
        shared_normalisation,
        statistics_of_the_batch,
        other_axis,
    ],
)
def test_what_can_not_be_folded_stays_as_it_is(block):
    image = keras.Input((6, 6, 4))
    model = randomise(keras.Model(image, block(image)))
    folded = tl_unet.fold_batch_norm(model)
    assert len(norms(folded)) == len(norms(model))
    assert_same(model, folded, picture(2, 6, 6, 4))


def test_a_convolution_that_is_also_an_output_keeps_its_values():
    image = keras.Input((6, 6, 4))
    x = conv()(image)
    model = randomise(keras.Model(image, [x, L.BatchNormalization()(x)]))
    folded = tl_unet.fold_batch_norm(model)
    assert len(norms(folded)) == 1
    assert_same(model, folded, picture(1, 6, 6, 4))


def test_nested_and_sequential_models_and_operators_are_folded_too():
    image = keras.Input((6, 6, 4))
    inner = keras.Sequential([keras.Input((6, 6, 4)), conv(), L.BatchNormalization(), L.ReLU()])
    x = inner(image) * 2.0 + 1.0
    model = randomise(keras.Model(image, L.BatchNormalization()(conv()(x))))
    folded = tl_unet.fold_batch_norm(model)
    assert len(norms(model)) == 2
    assert not norms(folded)
    assert_same(model, folded, picture(2, 6, 6, 4))


def test_the_model_given_is_left_as_it_is():
    model = randomise(tiny_unet(normalization="batch"))
    model.compile("adam", tl_unet.DiceLoss())
    before, count = model.get_weights(), len(model.layers)
    folded = tl_unet.fold_batch_norm(model)
    assert not folded.compiled
    folded.get_layer("logits").set_weights(
        [np.ones_like(w) for w in folded.get_layer("logits").get_weights()]
    )
    assert model.compiled
    assert len(model.layers) == count
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_unet_is_folded_saved_and_loaded(tmp_path, image):
    model = randomise(tiny_unet(normalization="batch", input_skip=True))
    folded = tl_unet.fold_batch_norm(model)
    assert not norms(folded)
    assert_same(model, folded, image)
    folded.save(tmp_path / "folded.keras")
    assert_same(model, keras.saving.load_model(tmp_path / "folded.keras"), image)


def test_only_the_frozen_encoder_is_folded_and_the_decoder_trains(image):
    model = randomise(tl_unet.freeze_encoder(tiny_unet(normalization="batch")))
    folded = tl_unet.fold_batch_norm(model, encoder_only=True)
    encoder = folded.get_layer("encoder")
    assert type(encoder) is type(model.get_layer("encoder"))  # inference mode while it is frozen
    assert not encoder.trainable
    assert not norms(encoder)
    assert len(norms(folded)) == 10
    assert len(folded.trainable_weights) == len(model.trainable_weights)
    assert_same(model, folded, image)


def test_the_sums_of_doubling_convolutions_become_weights_unless_the_decoder_trains(image):
    model = randomise(tiny_unet(normalization="batch", upsampling="nearest", input_skip=True))

    def summed(model):
        return [layer.summed for layer in model.layers if isinstance(layer, UpConv2D)]

    assert summed(model) == 5 * [False]
    folded = tl_unet.fold_batch_norm(model)
    assert summed(folded) == 5 * [True]
    assert not norms(folded)
    assert_same(model, folded, image)
    assert_same(model, tl_unet.fold_batch_norm(folded), image)
    tl_unet.freeze_encoder(model)
    assert summed(tl_unet.fold_batch_norm(model, encoder_only=True)) == 5 * [False]


def test_a_compiled_encoder_still_runs_in_inference_mode_while_it_is_frozen(image):
    encoder = tl_unet.freeze_encoder(tiny_unet()).get_layer("encoder")
    encoder.compile("sgd", "mse")
    folded = tl_unet.fold_batch_norm(encoder)
    assert type(folded) is type(encoder)
    still, moving = folded(image, training=False), folded(image, training=True)
    for a, b in zip(still, moving, strict=True):
        np.testing.assert_array_equal(*map(keras.ops.convert_to_numpy, (a, b)))


def test_only_a_frozen_encoder_is_folded_alone():
    with pytest.raises(ValueError, match="not frozen"):
        tl_unet.fold_batch_norm(tiny_unet(), encoder_only=True)


def test_what_is_no_functional_model_is_refused():
    with pytest.raises(TypeError, match="functional"):
        tl_unet.fold_batch_norm(keras.Sequential([L.Dense(1)]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("encoder", "left"),
    [("mobilenetv2", 0), ("resnet50v2", 17), ("xception", 0), ("efficientnetb0", 0)],
)
def test_real_encoders_are_folded(encoder, left):
    encoder, _ = encoder_from_spec(tl_unet.get_encoder_spec(encoder), 3, None)
    randomise(encoder)
    folded = tl_unet.fold_batch_norm(encoder)
    assert len(norms(folded)) == left
    assert_same(encoder, folded, picture(1, 64, 64, 3))


@pytest.mark.slow
def test_a_folded_model_is_exported(tmp_path, image):
    model = randomise(shallow_unet(normalization="batch"))
    path = tl_unet.export_model(tl_unet.fold_batch_norm(model), tmp_path / "folded", "onnx")
    run = tl_unet.load_exported(path)
    np.testing.assert_allclose(
        run(image), keras.ops.convert_to_numpy(model(image)), atol=1e-4, rtol=0
    )
