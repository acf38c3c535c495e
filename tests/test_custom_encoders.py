"""Encoders of the user's own: specs, the registry, and any functional model."""

import dataclasses
import sys

import keras
import numpy as np
import pytest
from tiny import TINY, tiny_backbone, tiny_unet

import tl_unet


def test_a_registered_encoder_is_known_by_name():
    spec = tl_unet.register_encoder(
        dataclasses.replace(TINY, name="test_registered"), overwrite=True
    )
    assert tl_unet.get_encoder_spec("test_registered") is spec
    assert "test_registered" in tl_unet.list_encoders("test_*")
    assert tiny_unet(encoder="test_registered").name == "unet_test_registered"
    with pytest.raises(ValueError, match="registered already"):
        tl_unet.register_encoder(spec)


def test_a_name_with_capitals_is_found_in_either_case():
    spec = dataclasses.replace(TINY, name="Test_Capitals")
    tl_unet.register_encoder(spec, overwrite=True)
    for name in ("Test_Capitals", "test_capitals", "TEST_CAPITALS"):
        assert tl_unet.get_encoder_spec(name) is spec
    for pattern in ("Test_C*", "test_c*"):
        assert tl_unet.list_encoders(pattern) == ["Test_Capitals"]
    with pytest.raises(ValueError, match="Did you mean 'Test_Capitals'"):
        tl_unet.get_encoder_spec("test_capital")


def test_the_forty_backbones_and_the_plain_path_are_registered():
    builtin = [n for n in tl_unet.list_encoders() if tl_unet.get_encoder_spec(n).family != "custom"]
    assert len(builtin) == 41
    assert tl_unet.list_encoders("VGG*") == ["vgg16", "vgg19"]


def test_only_specs_are_registered():
    with pytest.raises(TypeError, match="EncoderSpec"):
        tl_unet.register_encoder("vgg16")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(taps=[tl_unet.Tap(2, "relu1")]), "at least two taps"),
        (dict(taps=[tl_unet.Tap(4, "relu2"), tl_unet.Tap(2, "relu1")]), "finest first"),
        (dict(preprocessing="imagenet"), "`preprocessing` must be"),
    ],
)
def test_a_bad_spec_is_an_error(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(TINY, **change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(stride=3, layer="a"), "power of two"),
        (dict(stride=2, layer="a", via="outputs"), "`via` must be"),
        (dict(stride=2), "needs the name"),
        (dict(stride=2, layer="a", via="model_output"), "takes no `layer`"),
    ],
)
def test_a_bad_tap_is_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        tl_unet.Tap(**arguments)


def test_preprocessing_needs_three_numbers():
    with pytest.raises(ValueError, match="red, green and blue"):
        tl_unet.Preprocessing(mean=(1.0,))
    with pytest.raises(ValueError, match="red, green and blue"):
        tl_unet.Preprocessing(std=255)
    with pytest.raises(ValueError, match="none of it may be 0"):
        tl_unet.Preprocessing(std=(1, 0, 1))
    with pytest.raises(ValueError, match="finite number"):
        tl_unet.Preprocessing(mean=(1, 2, "3"))


@pytest.mark.parametrize("kind", [list, np.array])
def test_preprocessing_takes_any_sequence(kind):
    given = tl_unet.Preprocessing(mean=kind([0, 1, 2]), std=kind([255, 255, 255]))
    assert given == tl_unet.Preprocessing(mean=(0, 1, 2), std=(255,) * 3)
    assert tiny_unet(preprocessing=given).get_layer("preprocessing") is not None


@pytest.mark.parametrize("strides", [(1, 2, 4), (2, 8, 16)])
def test_a_tap_of_another_stride_than_its_spec_says_is_an_error(strides):
    taps = [tl_unet.Tap(stride, f"relu{i}") for i, stride in enumerate(strides, 1)]
    spec = dataclasses.replace(TINY, taps=taps)
    with pytest.raises(ValueError, match="'relu[12]' has stride [18] in its spec.*but it is"):
        tiny_unet(encoder=spec, decoder_filters=None)


def test_a_tap_at_a_layer_that_is_not_there_names_the_near_ones():
    spec = dataclasses.replace(TINY, taps=[tl_unet.Tap(2, "relu1"), tl_unet.Tap(4, "relu22")])
    with pytest.raises(ValueError, match="no layer 'relu22'; near are .*'relu2'"):
        tiny_unet(encoder=spec)


def test_a_tap_at_the_nth_layer_of_a_class_beyond_the_last_is_an_error():
    spec = dataclasses.replace(TINY, taps=[tl_unet.Tap(2, "relu1"), tl_unet.Tap(4, "ReLU", nth=9)])
    with pytest.raises(ValueError, match="has 5 layers of class 'ReLU'"):
        tiny_unet(encoder=spec)


@pytest.mark.parametrize(
    "name", ["vgg16", "mobilenetv2", "resnet50", "inceptionv3", "convnexttiny"]
)
def test_walking_the_graph_of_a_backbone_finds_a_map_at_every_resolution(name):
    spec = tl_unet.get_encoder_spec(name)
    backbone = spec.builder(input_shape=(None, None, 3), weights=None)
    model = tl_unet.build_unet(
        backbone, freeze=False, preprocessing="rescale", decoder_filters=(8,) * 5
    )
    shapes = model.get_layer("encoder").compute_output_spec(keras.KerasTensor((1, 192, 192, 3)))
    walked = [192 // shape.shape[1] for shape in shapes]
    assert walked == sorted({*(tap.stride for tap in spec.taps), 32})
    assert model(np.zeros((1, 50, 70, 3), "float32")).shape == (1, 50, 70, 1)


def _convolved(image, activation, filters=(8, 16, 32)):
    x = image
    for count in filters:
        x = activation()(keras.layers.Conv2D(count, 3, strides=2, padding="same")(x))
    return x


def _unet_on(model):
    return tl_unet.build_unet(model, freeze=False, preprocessing=None, decoder_filters=(8, 4, 4))


def _maps(model, image):
    maps = _unet_on(model).get_layer("encoder")(image)
    return [keras.ops.convert_to_numpy(feature_map) for feature_map in maps]


def test_a_layer_that_is_called_again_counts_each_time(image):
    image = image[:, :40, :64]
    relu, inputs = keras.layers.ReLU(), keras.Input((None, None, 3))
    shared = keras.Model(inputs, _convolved(inputs, lambda: relu))
    plain = keras.Model(inputs, _convolved(inputs, keras.layers.ReLU))
    plain.set_weights(shared.get_weights())
    found = _maps(shared, image)
    assert [feature_map.shape[-1] for feature_map in found] == [8, 16, 32]
    for ours, expected in zip(found, _maps(plain, image), strict=True):
        np.testing.assert_array_equal(ours, expected)
    np.testing.assert_array_equal(found[-1], keras.ops.convert_to_numpy(shared(image)))


def test_layers_of_another_model_are_taken_as_they_are_called_here(image):
    image, inputs = image[:, :40, :64], keras.Input((None, None, 3))
    other = keras.Model(inputs, _convolved(inputs, keras.layers.ReLU))
    model = keras.Sequential([keras.Input((None, None, 3)), *other.layers[1:]])
    expected = keras.ops.convert_to_numpy(other(image))
    np.testing.assert_array_equal(_maps(model, image)[-1], expected)


def test_of_a_model_with_the_maps_inside_of_a_nested_one_the_inner_one_is_wanted():
    inputs = keras.Input((None, None, 3))
    inner = keras.Model(inputs, _convolved(inputs, keras.layers.ReLU), name="inner")
    outer = keras.Model(inputs, inner(keras.layers.Rescaling(1 / 255)(inputs)))
    with pytest.raises(ValueError, match=r"strides \[8\] only.*give 'inner' itself"):
        _unet_on(outer)


def _fixed_backbone(input_shape=(None, None, 3), weights=None):
    """Takes images of 32x32 only, as some of KerasHub's do."""
    return tiny_backbone((32, 32, input_shape[-1]), weights)


def test_an_encoder_built_for_sides_of_its_own_gets_them_at_any_depth(image):
    spec = dataclasses.replace(TINY, name="fixed", builder=_fixed_backbone)
    for depth in (None, 3):
        model = tl_unet.build_unet(
            spec, freeze=False, weights=None, input_shape=(24, 24, 3), encoder_depth=depth
        )
        assert model(image[:, :24, :24]).shape == (2, 24, 24, 1)


def test_a_model_as_encoder_shares_its_layers_and_keeps_its_weights():
    backbone = tiny_backbone()
    before = backbone.get_weights()
    model = tl_unet.build_unet(backbone, preprocessing=None)
    for old, new in zip(before, model.get_layer("encoder").get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert model.get_layer("encoder").get_layer("conv3") is backbone.get_layer("conv3")


def test_a_model_frozen_whole_is_unfrozen_and_one_frozen_in_part_is_left_so():
    backbone = tiny_backbone()
    tl_unet.build_unet(backbone, preprocessing=None)  # freezes the layers, which are shared
    encoder = tl_unet.build_unet(backbone, preprocessing=None, freeze=False).get_layer("encoder")
    assert len(encoder.trainable_weights) == 15
    backbone.get_layer("conv1").trainable = False
    encoder = tl_unet.build_unet(backbone, preprocessing=None, freeze=False).get_layer("encoder")
    assert len(encoder.trainable_weights) == 14


def test_a_model_of_unknown_preprocessing_warns_unless_told():
    with pytest.warns(UserWarning, match="raw values 0..255"):
        tl_unet.build_unet(tiny_backbone())


def test_a_model_with_fixed_sides_decides_the_input(image):
    model = tl_unet.build_unet(tiny_backbone((64, 96, 3)), preprocessing="rescale")
    assert model.input_shape == (None, 64, 96, 3)
    with pytest.raises(ValueError, match=r"takes images of shape \(64, 96, 3\)"):
        tl_unet.build_unet(
            tiny_backbone((64, 96, 3)), input_shape=(32, 32, 3), preprocessing="rescale"
        )


@pytest.mark.parametrize("sides", [(100, 100), (96, 100), (100, None)])
def test_a_model_with_fixed_sides_that_its_stride_does_not_divide_is_an_error(sides):
    x = image = keras.Input((*sides, 3))
    for filters in (4, 8, 8):
        x = keras.layers.Conv2D(filters, 3, padding="same", activation="relu")(x)
        x = keras.layers.MaxPooling2D(2)(x)
    model = keras.Model(image, x)
    with pytest.raises(ValueError, match="Give it sides that 8 divides"):
        tl_unet.build_unet(model, preprocessing=None)
    unet = tl_unet.build_unet(model, preprocessing=None, encoder_depth=2)
    assert unet.output_shape == (None, *sides, 1)


def test_a_model_of_other_channels_needs_the_same_input_shape():
    backbone = tiny_backbone((None, None, 4))
    with pytest.raises(ValueError, match="build the encoder|Pass the same shape"):
        tl_unet.build_unet(backbone, preprocessing=None)
    model = tl_unet.build_unet(backbone, input_shape=(None, None, 4), preprocessing=None)
    assert model(np.zeros((1, 32, 32, 4), "float32")).shape == (1, 32, 32, 1)


def test_squeeze_and_excitation_and_preprocessing_layers_are_no_feature_maps():
    x = image = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255, name="scale")(x)
    for stage in (1, 2):
        x = keras.layers.Conv2D(8, 3, strides=2, padding="same", name=f"conv{stage}")(x)
        gate = keras.layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = keras.layers.Conv2D(8, 1, activation="sigmoid")(gate)
        x = keras.layers.Multiply(name=f"gated{stage}")([x, gate])
    model = tl_unet.build_unet(keras.Model(image, x), freeze=False, preprocessing=None)
    encoder = model.get_layer("encoder")
    shapes = encoder.compute_output_spec(keras.KerasTensor((1, 64, 64, 3)))
    assert [s.shape[1] for s in shapes] == [32, 16]
    assert encoder.outputs[-1] is encoder.get_layer("gated2").output


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (keras.Sequential([keras.layers.Conv2D(4, 3)]), "functional, with one input"),
        (keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)]), "must take images"),
        (
            keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, padding="same")]),
            "at least two",
        ),
    ],
)
def test_a_model_that_cannot_be_an_encoder_is_an_error(model, message):
    with pytest.raises(ValueError, match=message):
        tl_unet.build_unet(model, preprocessing=None)


def test_without_keras_hub_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match=r'pip install "tl-unet\[hub\]"'):
        tl_unet.build_unet("resnet18")
