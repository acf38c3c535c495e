"""KerasHub's backbones as encoders: small random ones of five families, and presets in directories."""

import subprocess
import sys

import keras
import numpy as np
import pytest
from test_training import write_pairs

import tl_unet
from tl_unet.encoders import hub
from tl_unet.freezing import inner_layers
from tl_unet.runs import open_model
from tl_unet.training import TrainingOptions, train

keras_hub = pytest.importorskip("keras_hub", reason="needs keras-hub: pip install 'tl-unet[hub]'")


def resnet(**options):
    return keras_hub.models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 8, 8, 8],
        stackwise_num_blocks=[1, 1, 1, 1],
        stackwise_num_strides=[1, 2, 2, 2],
        block_type="basic_block",
        use_pre_activation=True,
        **options,
    )


def densenet(**options):
    return keras_hub.models.DenseNetBackbone(
        stackwise_num_repeats=[1, 1, 1, 1], compression_ratio=0.5, growth_rate=4, **options
    )


def cspnet(**options):
    return keras_hub.models.CSPNetBackbone(
        stem_filters=8,
        stem_kernel_size=3,
        stem_strides=1,
        stem_padding="same",
        stackwise_num_filters=[8, 16, 16],
        stackwise_strides=2,
        stackwise_depth=[1, 1, 1],
        block_type="dark_block",
        groups=1,
        stage_type="csp",
        activation="leaky_relu",
        output_strides=8,
        bottle_ratio=[0.5],
        block_ratio=[1.0],
        expand_ratio=[2.0],
        **options,
    )


def efficientnet(**options):
    return keras_hub.models.EfficientNetBackbone(
        stackwise_kernel_sizes=[3, 3, 3],
        stackwise_num_repeats=[1, 1, 2],
        stackwise_input_filters=[8, 8, 8],
        stackwise_output_filters=[8, 8, 8],
        stackwise_expansion_ratios=[1, 2, 2],
        stackwise_strides=[1, 2, 2],
        stackwise_squeeze_and_excite_ratios=[0, 0, 0.25],
        stackwise_block_types=["fused", "fused", "unfused"],
        width_coefficient=1.0,
        depth_coefficient=1.0,
        dropout=0.5,
        min_depth=8,
        num_features=16,
        **options,
    )


def mit(image_shape=(64, 64, 3), **options):
    """Its layers compute with the sides: they must be known, and equal."""
    return keras_hub.models.MiTBackbone(
        layerwise_depths=[1, 1],
        num_layers=2,
        hidden_dims=[8, 16],
        layerwise_num_heads=[1, 2],
        layerwise_sr_ratios=[2, 1],
        layerwise_patch_sizes=[7, 3],
        layerwise_strides=[4, 2],
        max_drop_path_rate=0.1,
        image_shape=image_shape,
        **options,
    )


# The strides of the maps.
FAMILIES = {
    resnet: [4, 8, 16, 32],
    densenet: [4, 8, 16, 32],
    cspnet: [2, 4, 8],
    efficientnet: [2, 4, 8],
    mit: [4, 8],
}


def small_unet(encoder, **options):
    defaults = {"decoder_filters": (8,) * (max(FAMILIES[encoder]).bit_length() - 1)}
    return tl_unet.build_unet(encoder(), preprocessing="rescale", **{**defaults, **options})


def norms(model):
    layers = inner_layers(model.get_layer("encoder"))
    return [layer for layer in layers if isinstance(layer, keras.layers.BatchNormalization)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_backbone_object_is_an_encoder(family):
    """Its maps by stride, its own weights, masks of the image's size, frozen; training moves no weight and no statistic of it."""
    strides = FAMILIES[family]
    backbone = family()
    assert list(hub.pyramid(backbone)) == strides
    filters = (8,) * (strides[-1].bit_length() - 1)
    model = tl_unet.build_unet(backbone, preprocessing="rescale", decoder_filters=filters)
    encoder = model.get_layer("encoder")
    assert encoder.count_params() == backbone.count_params()
    assert encoder.trainable_weights == []
    assert len(norms(model)) == sum("moving_mean" in weight.path for weight in encoder.weights)

    side = model.input_shape[1] or 3 * strides[-1]
    maps = encoder.compute_output_spec(keras.KerasTensor((1, side, side, 3)))
    assert [m.shape[1:3] for m in maps] == [(side // s, side // s) for s in strides]
    sides = model.input_shape[1:3] if model.input_shape[1] else (45, 70)
    image = np.random.default_rng(0).uniform(0, 255, (2, *sides, 3))
    mask = np.ones((*image.shape[:3], 1))
    before = encoder.get_weights()
    model.compile("sgd", tl_unet.DiceLoss(), run_eagerly=True)
    model.train_on_batch(image, mask)
    for old, new in zip(before, encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    first, second = (np.asarray(encoder(image[:1], training=True)[-1]) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert model.predict_on_batch(image).shape == mask.shape


@pytest.mark.parametrize("family", [resnet, efficientnet, mit])
def test_the_coarsest_stage_unfreezes_alone_and_batchnorm_stays_frozen(family):
    model = tl_unet.unfreeze_encoder(small_unet(family), stages=1)
    encoder = model.get_layer("encoder")
    alone = len(encoder.trainable_weights)
    assert alone > 0
    assert keras.Model(encoder.inputs, encoder.outputs[0]).trainable_weights == []
    assert not any(layer.trainable for layer in norms(model))
    tl_unet.unfreeze_encoder(model)
    assert len(encoder.trainable_weights) > alone
    assert not any(layer.trainable for layer in norms(model))
    tl_unet.unfreeze_encoder(model, batch_norm=True)
    assert all(layer.trainable for layer in norms(model))


def test_an_object_of_unknown_preprocessing_gets_imagenets_statistics_and_a_warning():
    backbone = densenet()
    with pytest.warns(UserWarning, match="ImageNet's mean and deviation"):
        model = tl_unet.build_unet(backbone)
    stated = tl_unet.build_unet(backbone, preprocessing=hub.ASSUMED)
    image = np.random.default_rng(0).uniform(0, 255, (1, 32, 32, 3))
    inside = [keras.Model(m.inputs, m.get_layer("preprocessing").output) for m in (model, stated)]
    np.testing.assert_array_equal(*(np.asarray(m(image)) for m in inside))
    np.testing.assert_allclose(
        np.asarray(inside[0](np.full((1, 32, 32, 3), 255.0)))[0, 0, 0],
        [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225],
        rtol=1e-5,
    )


@pytest.fixture
def preset(tmp_path):
    """A directory with a random ResNet and its image converter, and that ResNet."""
    backbone, folder = resnet(), tmp_path / "mine"
    for norm in backbone.layers:
        if isinstance(norm, keras.layers.BatchNormalization):
            norm.moving_mean.assign(np.full(norm.moving_mean.shape, 0.1))
    backbone.save_to_preset(str(folder))
    keras_hub.layers.ResNetImageConverter(
        image_size=(64, 64), scale=[0.01, 0.02, 0.04], offset=[-1.0, 0.0, 1.0]
    ).save_to_preset(str(folder))
    return folder, backbone


def test_a_preset_directory_brings_weights_and_preprocessing(preset, image):
    folder, backbone = preset
    filters = dict(decoder_filters=(8,) * 5)
    model = tl_unet.build_unet(f"hub:{folder}", **filters)
    assert model.name == "unet_mine"
    statistics = tl_unet.Preprocessing(mean=(100, 0, -25), std=(100, 50, 25))
    same = tl_unet.build_unet(backbone, preprocessing=statistics, **filters)
    same.set_weights(model.get_weights())
    for saved, loaded in zip(
        backbone.get_weights(), model.get_layer("encoder").get_weights(), strict=True
    ):
        np.testing.assert_allclose(saved, loaded)
    np.testing.assert_allclose(
        model.predict(image, verbose=0), same.predict(image, verbose=0), atol=1e-5
    )
    random = tl_unet.build_unet(f"hub:{folder}", weights=None, freeze=False, **filters)
    first = [
        m.get_layer("encoder").get_layer("conv1_conv").get_weights()[0] for m in (model, random)
    ]
    assert np.abs(first[0] - first[1]).max() > 0.01


def test_a_preset_takes_other_channels(preset):
    folder, backbone = preset
    kernel = backbone.get_layer("conv1_conv").get_weights()[0]
    model = tl_unet.build_unet(
        f"hub:{folder}", input_shape=(None, None, 6), decoder_filters=(8,) * 5
    )
    inflated = model.get_layer("encoder").get_layer("conv1_conv").get_weights()[0]
    np.testing.assert_allclose(inflated, np.concatenate([kernel, kernel], 2) / 2, rtol=1e-5)
    grey = tl_unet.build_unet(
        f"hub:{folder}", input_shape=(None, None, 1), decoder_filters=(8,) * 5
    )
    assert grey.predict(np.zeros((1, 40, 50, 1)), verbose=0).shape == (1, 40, 50, 1)


def test_a_preset_follows_the_dtype_policy(preset):
    keras.config.set_dtype_policy("mixed_bfloat16")
    for weights in ("imagenet", None):
        model = tl_unet.build_unet(f"hub:{preset[0]}", weights=weights, freeze=weights is not None)
        layer = model.get_layer("encoder").get_layer("conv1_conv")
        assert layer.compute_dtype == "bfloat16"


@pytest.mark.slow
def test_a_preset_that_needs_known_sides_gets_those_of_the_input(tmp_path):
    folder = str(tmp_path / "mit_tiny")
    mit().save_to_preset(folder)
    with pytest.warns(UserWarning, match="no image converter"):
        model = tl_unet.build_unet(f"hub:{folder}", input_shape=(41, 44, 3))
    assert model.get_layer("encoder").input_shape == (None, 48, 48, 3)
    assert model.predict(np.zeros((1, 41, 44, 3)), verbose=0).shape == (1, 41, 44, 1)
    with pytest.raises(ValueError, match="unknown sides"):
        tl_unet.build_unet(f"hub:{folder}")
    with pytest.raises(ValueError, match=r"(?s)64x32.*square"):
        tl_unet.build_unet(f"hub:{folder}", input_shape=(64, 32, 3))


def test_short_names_mean_presets_that_exist():
    assert {hub.preset_of(name) for name in ("ResNet18", "resnet34")} == set(hub.ALIASES.values())
    assert set(hub.ALIASES.values()) <= set(keras_hub.models.Backbone.presets)


def test_without_a_network_the_error_says_what_to_do(offline):
    with pytest.raises(FileNotFoundError, match=r"could not be downloaded.*hub:directory"):
        tl_unet.build_unet("resnet18")


def test_bad_presets_are_errors_in_words(offline, tmp_path):
    with pytest.raises(ValueError, match="Did you mean 'resnet_18_imagenet'"):
        tl_unet.build_unet("hub:resnet_18_imagnet")
    with pytest.raises(ValueError, match="save_to_preset"):
        tl_unet.build_unet(f"hub:{tmp_path}")
    keras_hub.models.VGGBackbone(
        stackwise_num_repeats=[1, 1], stackwise_num_filters=[4, 4]
    ).save_to_preset(str(tmp_path / "vgg"))
    with pytest.raises(ValueError, match="no `pyramid_outputs`"):
        tl_unet.build_unet(f"hub:{tmp_path / 'vgg'}")


@pytest.mark.slow
def test_a_saved_model_loads_where_only_tl_unet_was_imported(tmp_path):
    model = small_unet(efficientnet)
    model.compile("adam", tl_unet.DiceLoss())
    model.save(tmp_path / "model.keras")
    image = np.random.default_rng(0).uniform(0, 255, (1, 40, 50, 3))
    np.save(tmp_path / "image.npy", image)
    code = """
import sys, numpy, keras, tl_unet
assert "keras_hub" not in sys.modules
model = keras.saving.load_model("model.keras")
numpy.save("mask.npy", model.predict(numpy.load("image.npy"), verbose=0))
"""
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "mask.npy"), model.predict(image, verbose=0), atol=1e-5
    )


@pytest.mark.slow
def test_a_preset_trains_from_folders_and_is_found_again_elsewhere(preset, tmp_path, monkeypatch):
    images, masks = write_pairs(tmp_path / "data", count=4)
    monkeypatch.chdir(tmp_path)
    options = TrainingOptions(
        str(images), str(masks), encoder="hub:mine", size=32, epochs=2, freeze_epochs=1,
        batch_size=2, decoder_filters=(8,) * 5, labels={1: 1, 2: 0},
    )  # fmt: skip
    assert options.encoder == f"hub:{tmp_path / 'mine'}"
    assert TrainingOptions.from_json(options.to_json()) == options
    assert TrainingOptions("i", "m", encoder="hub:mine").decoder_filters == (256, 128, 64, 32, 16)
    train(options, tmp_path / "run")
    model, _ = open_model(tmp_path / "run")
    assert model.output_shape == (None, None, None, 1)
