"""Models by the arguments of segmentation_models: each reaches the model, and what has no counterpart says what to do."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest
from tiny import TINY, tiny_unet

from tl_unet.encoders import registry
from tl_unet.layers import BatchNormalization, UpConv2D
from tl_unet.migration import from_segmentation_models


@pytest.fixture(autouse=True)
def encoders(monkeypatch):
    """The tiny encoder by the name of one that users of the other library ask for, and one of fewer strides."""
    shallow = dataclasses.replace(TINY, name="shallow", taps=TINY.taps[:4])
    known = {**registry._REGISTRY, "resnet18": TINY, "shallow": shallow}
    monkeypatch.setattr(registry, "_REGISTRY", known)


def unet(**arguments):
    return from_segmentation_models(
        **{"backbone_name": "resnet18", "encoder_weights": None} | arguments
    )


def filters(model):
    return tuple(
        layer.filters
        for layer in model.layers
        if layer.name.startswith("decoder") and layer.name.endswith("conv1")
    )


def test_arguments_and_defaults_are_those_of_segmentation_models():
    ours = {
        name: parameter.default
        for name, parameter in inspect.signature(from_segmentation_models).parameters.items()
    }
    assert ours == {  # segmentation_models 1.0.1
        "backbone_name": "vgg16",
        "input_shape": (None, None, 3),
        "classes": 1,
        "activation": "sigmoid",
        "weights": None,
        "encoder_weights": "imagenet",
        "encoder_freeze": False,
        "encoder_features": "default",
        "decoder_block_type": "upsampling",
        "decoder_filters": (256, 128, 64, 32, 16),
        "decoder_use_batchnorm": True,
    }


def test_each_argument_reaches_the_model():
    model = unet()
    kinds = {type(layer) for layer in model.layers}
    assert {UpConv2D, BatchNormalization} <= kinds
    assert filters(model) == (256, 128, 64, 32, 16)
    assert model.get_layer("encoder").trainable
    assert model.get_layer("mask").activation is keras.activations.sigmoid

    other = unet(
        input_shape=(64, 32, 4),
        classes=3,
        activation="softmax",
        encoder_freeze=True,
        decoder_block_type="transpose",
        decoder_filters=(9, 8, 7, 6, 5),
        decoder_use_batchnorm=False,
    )
    kinds = {type(layer) for layer in other.layers}
    assert keras.layers.Conv2DTranspose in kinds
    assert not {UpConv2D, keras.layers.UpSampling2D, BatchNormalization} & kinds
    assert filters(other) == (9, 8, 7, 6, 5)
    assert other.input_shape == (None, 64, 32, 4)
    assert other.output_shape == (None, 64, 32, 3)
    assert not other.get_layer("encoder").trainable
    assert other.get_layer("mask").activation is keras.activations.softmax


@pytest.mark.parametrize("activation", ["linear", None])
def test_linear_gives_logits(activation):
    model = unet(decoder_filters=(4, 4, 4, 4, 4), activation=activation)
    assert model.get_layer("mask").activation is keras.activations.linear


def test_encoder_weights_and_whole_weights_come_from_files(tmp_path):
    small = {"decoder_filters": (4, 4, 4, 4, 4)}
    donor = unet(**small)
    donor.save_weights(tmp_path / "whole.weights.h5")
    again = unet(weights=tmp_path / "whole.weights.h5", **small)
    for one, other in zip(donor.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    tiny_unet().save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match="segmentation_models saved do not fit"):
        unet(weights=tmp_path / "other.weights.h5", **small)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        unet(weights=tmp_path / "nowhere.weights.h5", **small)

    backbone = TINY.builder()
    backbone.save_weights(tmp_path / "backbone.weights.h5")
    model = unet(encoder_weights=str(tmp_path / "backbone.weights.h5"), **small)
    np.testing.assert_array_equal(
        model.get_layer("encoder").get_weights()[0], backbone.get_weights()[0]
    )


def test_an_encoder_of_fewer_strides_takes_the_filters_of_its_strides():
    assert filters(unet(backbone_name="shallow")) == (128, 64, 32, 16)
    with pytest.warns(UserWarning, match="the last 4 are used"):
        model = unet(backbone_name="shallow", decoder_filters=(5, 4, 3, 2, 1))
    assert filters(model) == (4, 3, 2, 1)
    with pytest.raises(ValueError, match="needs 5 positive ints"):
        unet(decoder_filters=(4, 4))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"backbone_name": "seresnext50"},
            r"no encoder 'seresnext50' here.*The encoders are .*vgg16",
        ),
        ({"backbone_name": "resnet_50"}, "near are resnet50"),
        ({"encoder_features": [1, 2]}, "EncoderSpec"),
        ({"decoder_block_type": "bilinear"}, "upsampling"),
        ({"activation": "tanh"}, "Activation behind it"),
        ({"activation": "softmax"}, "softmax over one class"),
    ],
)
def test_what_has_no_counterpart_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        unet(**wrong)


def test_other_sets_of_weights_are_refused():
    with pytest.raises(FileNotFoundError, match="imagenet11k"):
        unet(encoder_weights="imagenet11k")
