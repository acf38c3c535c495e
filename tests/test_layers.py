"""The layers of our own: padding, cropping, reversing, convolving what is to be doubled."""

import hypothesis
import hypothesis.strategies as st
import keras
import numpy as np
import pytest
from tiny import shallow_unet, tiny_backbone

import tl_unet
from tl_unet.freezing import inner_layers
from tl_unet.layers import (
    BatchNormalization,
    CropLike,
    PadToMultiple,
    ReverseChannels,
    UpConv2D,
    UpSampling2D,
    summed_kernel,
)

sides = st.integers(1, 40)


@hypothesis.given(sides, sides, st.sampled_from([1, 2, 8, 16]), st.integers(1, 3))
def test_padding_repeats_the_edge_up_to_the_next_multiple(height, width, multiple, factor):
    image = np.random.default_rng(0).normal(size=(1, height, width, 2)).astype("float32")
    layer = PadToMultiple(multiple, multiple * factor)
    padded = keras.ops.convert_to_numpy(layer(image))
    after = [max(-(-side // multiple), factor) * multiple for side in (height, width)]
    assert padded.shape == (1, *after, 2) == layer.compute_output_shape(image.shape)
    expected = np.pad(
        image, ((0, 0), (0, after[0] - height), (0, after[1] - width), (0, 0)), mode="edge"
    )
    np.testing.assert_array_equal(padded, expected)


@hypothesis.given(sides, sides)
def test_cropping_undoes_padding(height, width):
    image = np.random.default_rng(0).normal(size=(2, height, width, 1)).astype("float32")
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(CropLike()([PadToMultiple(16)(image), image])), image
    )


def test_unknown_sides_stay_unknown_in_the_shape():
    assert PadToMultiple(32)(keras.Input((None, 40, 3))).shape == (None, None, 64, 3)


def test_a_minimum_that_is_no_multiple_is_refused():
    with pytest.raises(ValueError, match="multiple of it"):
        PadToMultiple(32, 48)


@pytest.mark.parametrize(
    "layer",
    [
        BatchNormalization(momentum=0.5),
        PadToMultiple(16, 48),
        CropLike(),
        ReverseChannels(),
        UpConv2D(3, False, "relu", True),
        UpSampling2D((2, 3), "bilinear"),
    ],
)
def test_layers_come_back_from_their_config(layer):
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert copy.get_config() == layer.get_config()


def long_way(skips, coarse, filters, **options):
    """`UpConv2D` in Keras' own layers, and its convolution."""
    image = [keras.Input(skip.shape[1:]) for skip in skips] + [keras.Input(coarse.shape[1:])]
    maps = [*image[:-1], keras.layers.UpSampling2D(2)(image[-1])]
    x = keras.layers.Concatenate()(maps) if skips else maps[0]
    conv = keras.layers.Conv2D(filters, 3, padding="same", **options)
    return keras.Model(image, conv(x)), conv


def random_maps(sides, channels, seed=0):
    """Skip connections and a map of `sides`, the last of the channels."""
    random = np.random.default_rng(seed)
    *skips, last = channels
    twice = [2 * side for side in sides]
    shapes = [(2, *twice, count) for count in skips] + [(2, *sides, last)]
    return [random.normal(size=shape).astype("float32") for shape in shapes]


@hypothesis.given(
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.lists(st.integers(1, 4), min_size=1, max_size=3),
    st.booleans(),
    st.sampled_from([None, "relu"]),
)
@hypothesis.settings(deadline=None, max_examples=25)
def test_a_convolution_of_what_is_doubled_equals_keras_own_layers(
    sides, channels, bias, activation
):
    maps = random_maps(sides, channels)
    layer = UpConv2D(5, bias, activation)
    result = keras.ops.convert_to_numpy(layer(maps))
    reference, conv = long_way(maps[:-1], maps[-1], 5, use_bias=bias, activation=activation)
    weights = layer.get_weights()
    if bias:  # zero at first
        weights[1] = np.linspace(-1, 1, 5)
        layer.set_weights(weights)
        result = keras.ops.convert_to_numpy(layer(maps))
    conv.set_weights(weights)
    expected = keras.ops.convert_to_numpy(reference(maps))
    np.testing.assert_allclose(result, expected, atol=1e-5)
    assert result.shape == layer.compute_output_shape([x.shape for x in maps])

    summed = UpConv2D(5, bias, activation, summed=True)
    summed.build([x.shape for x in maps])
    skips = weights[0].shape[2] - channels[-1]
    sums = keras.ops.convert_to_numpy(
        summed_kernel(keras.ops.convert_to_tensor(weights[0][:, :, skips:]))
    )
    summed.set_weights([sums] + [weights[0][:, :, :skips]] * (skips > 0) + weights[1:])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(summed(maps)), result, atol=1e-5)


@pytest.mark.parametrize("sides", [(4, 4), (8, 9), (None, None)])
def test_a_convolution_of_what_is_doubled_learns_as_keras_own_layers(sides):
    maps = random_maps([side or 8 for side in sides], [3, 2])
    target = np.ones((2, *maps[0].shape[1:3], 4), "float32")
    inputs = [keras.Input((*(side and 2 * side for side in sides), 3)), keras.Input((*sides, 2))]
    layer = UpConv2D(4)
    model = keras.Model(inputs, layer(inputs))
    reference, conv = long_way(maps[:1], maps[1], 4)
    conv.set_weights(layer.get_weights())
    for one in (model, reference):
        one.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        one.train_on_batch(maps, target)
    for ours, theirs in zip(layer.get_weights(), conv.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_a_skip_connection_of_another_size_is_refused():
    with pytest.raises(ValueError, match="twice the sides"):
        UpConv2D(2)([np.zeros((1, 8, 6, 1), "float32"), np.zeros((1, 4, 4, 1), "float32")])


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_a_convolution_of_what_is_doubled_is_near_in_16_bits(policy):
    if policy == "mixed_float16" and keras.config.backend() == "jax":
        pytest.skip("XLA on CPUs has no float16 convolution")
    maps = random_maps((8, 8), [3, 2])
    exact, coarse = UpConv2D(4), UpConv2D(4, dtype=policy)
    expected = keras.ops.convert_to_numpy(exact(maps))
    coarse.build([x.shape for x in maps])
    coarse.set_weights(exact.get_weights())
    result = coarse(maps)
    assert keras.backend.standardize_dtype(result.dtype) == policy.removeprefix("mixed_")
    result = keras.ops.convert_to_numpy(keras.ops.cast(result, "float32"))
    np.testing.assert_allclose(result, expected, atol=0.05)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="others know every side")
@hypothesis.settings(max_examples=10)
@hypothesis.given(
    sides, sides, st.integers(1, 5), st.integers(1, 5), st.sampled_from(["nearest", "bilinear"])
)
def test_sides_known_at_run_time_only_are_interpolated_as_known_ones(height, width, up, right, how):
    import tensorflow as tf

    image = np.random.default_rng(0).normal(size=(2, height, width, 3)).astype("float32")
    layer = UpSampling2D((up, right), how)
    known = keras.layers.UpSampling2D((up, right), interpolation=how)(image)
    signature = [tf.TensorSpec((None, None, None, 3))]
    unknown = tf.function(layer, input_signature=signature)(image)
    assert unknown.shape == layer.compute_output_shape(image.shape)
    np.testing.assert_allclose(unknown, known, atol=1e-4)  # TensorFlow rounds coordinates


def test_an_interpolation_that_needs_more_pixels_is_refused():
    with pytest.raises(ValueError, match="bicubic"):
        UpSampling2D(2, "bicubic")


def norms(shape, **options):
    """Keras' batch normalisation and ours, with the same weights, none of which is what it starts as."""
    rng, pair = np.random.default_rng(0), []
    for kind in (keras.layers.BatchNormalization, BatchNormalization):
        layer = kind(**options)
        layer.build(shape)
        pair.append(layer)
    weights = [rng.uniform(0.5, 2, weight.shape) for weight in pair[0].weights]
    for layer in pair:
        layer.set_weights(weights)
    return pair


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("shape", "options"),
    [
        ((4, 5, 6, 7), {}),
        ((1, 1, 1, 3), {}),
        ((2, 3, 4, 5), {"scale": False, "momentum": 0.5}),
        ((2, 3, 4, 5), {"center": False, "epsilon": 1e-4}),
        ((2, 3, 4, 5), {"trainable": False}),
        ((2, 3, 4, 5), {"dtype": "mixed_bfloat16"}),
        # What TensorFlow's kernel cannot do:
        ((2, 3, 4, 5), {"dtype": "float64"}),
        ((2, 3, 4, 5), {"dtype": "float16"}),
        ((2, 3, 4, 5), {"renorm": True}),
        ((2, 3, 4, 5), {"axis": 1}),
        ((2, 3, 4, 5), {"epsilon": 1e-6}),
        ((6, 5), {}),
    ],
)
def test_batch_normalization_is_that_of_keras(shape, options, training):
    if "renorm" in options and not hasattr(keras.layers.BatchNormalization(), "renorm"):
        pytest.skip("this version of Keras has no renorm")
    maps = np.random.default_rng(1).normal(3, 2, shape).astype("float32")
    expected, ours = norms(shape, **options)
    results = [layer(maps, training=training) for layer in (expected, ours)]
    assert results[0].dtype == results[1].dtype
    a, b = (keras.ops.convert_to_numpy(keras.ops.cast(x, "float32")) for x in results)
    np.testing.assert_allclose(a, b, atol=0.05 if "16" in str(options) else 1e-5)
    for a, b in zip(expected.get_weights(), ours.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_batch_normalization_skips_what_a_mask_hides():
    maps = np.random.default_rng(1).normal(3, 2, (2, 3, 4, 5)).astype("float32")
    mask = np.arange(24).reshape(2, 3, 4) % 3 > 0
    results = [layer(maps, training=True, mask=mask) for layer in norms(maps.shape)]
    np.testing.assert_allclose(*map(keras.ops.convert_to_numpy, results), atol=1e-5)


def fused(model, training):
    """How many normalisations a model has, and how many of them TensorFlow's kernel computes."""
    import tensorflow as tf

    graph = tf.function(lambda image: model(image, training=training)).get_concrete_function(
        tf.TensorSpec((1, 64, 64, 3))
    )
    kinds = [operation.type for operation in graph.graph.get_operations()]
    norms = [
        layer for layer in inner_layers(model) if isinstance(layer, keras.layers.BatchNormalization)
    ]
    return len(norms), kinds.count("FusedBatchNormV3")


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="the kernel is TensorFlow's")
@pytest.mark.parametrize(
    "encoder", ["mobilenetv2", pytest.param("resnet50", marks=pytest.mark.slow)]
)
def test_training_a_unet_fuses_all_batch_normalization_that_is_not_frozen(encoder):
    options = {"weights": None, "decoder_filters": (8,) * 5, "normalization": "batch"}
    model = tl_unet.build_unet(encoder, freeze=False, **options)
    every, found = fused(model, training=True)
    assert every == found > 50
    assert fused(model, training=False) == (every, 0)
    tl_unet.freeze_encoder(model)
    assert fused(model, training=True) == (every, 10)  # the decoder's


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="the kernel is TensorFlow's")
def test_a_model_given_as_encoder_keeps_its_layers():
    backbone = tiny_backbone((64, 64, 3))
    options = {"weights": None, "freeze": False, "preprocessing": None}
    model = tl_unet.build_unet(backbone, decoder_filters=(8, 8, 8, 8, 8), **options)
    assert fused(model, training=True) == (5, 0)


def test_training_is_as_with_the_batch_normalization_of_keras(image, monkeypatch):
    def trained():
        keras.utils.set_random_seed(0)
        model = shallow_unet(normalization="batch")
        for layer in model.get_layer("encoder").layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        model.compile(keras.optimizers.SGD(0.1), tl_unet.DiceLoss(), jit_compile=False)
        for _ in range(3):
            model.train_on_batch(image, (image[..., :1] > 128).astype("float32"))
        return model.get_weights()

    ours = trained()
    monkeypatch.setattr(BatchNormalization, "_is_fused", lambda *args: False)
    for a, b in zip(ours, trained(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_files_of_weights_fit_batch_normalization_of_keras_and_ours(tmp_path):
    models = [
        keras.Sequential([keras.Input((4, 4, 3)), kind(), kind()])
        for kind in (keras.layers.BatchNormalization, BatchNormalization)
    ]
    for source, target in (models, models[::-1]):
        values = [np.full(w.shape, i + 1, "float32") for i, w in enumerate(source.weights)]
        source.set_weights(values)
        source.save_weights(tmp_path / "a.weights.h5")
        target.set_weights([0 * value for value in values])
        target.load_weights(tmp_path / "a.weights.h5")
        for a, b in zip(values, target.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
