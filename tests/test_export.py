"""Exported models: every format runs in its own runtime and says what Keras says."""

import importlib.util

import keras
import numpy as np
import pytest
from tiny import tiny_unet

import tl_unet
from tl_unet.export import SUFFIXES

RUNTIMES = {"onnx": "onnxruntime", "openvino": "openvino", "litert": "ai_edge_litert"}


def needs(format):
    for package in (
        RUNTIMES.get(format.removesuffix("-int8")),
        "nncf" if "openvino-" in format else None,
    ):
        if package and importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")


def pictures(count=2, height=32, width=32):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (count, height, width, 3)).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["saved-model", "onnx", "openvino", "litert"])
def test_any_size_and_number_of_images_give_the_masks_of_keras(format, tmp_path):
    needs(format)
    model = tiny_unet()
    path = tl_unet.export_model(model, tmp_path / "model", format)
    assert path.name == f"model{SUFFIXES[format]}"
    for images in (pictures(), pictures(1, 50, 37)):
        assert tl_unet.max_difference(model, path, images) < 1e-4
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, "model.bin"}


@pytest.mark.slow
@pytest.mark.parametrize("format", ["openvino-int8", "litert-int8"])
def test_integer_models_say_nearly_the_same(format, tmp_path):
    needs(format)
    model = tiny_unet()
    path = tl_unet.export_model(model, tmp_path / "model", format, images=pictures(8))
    difference = tl_unet.max_difference(model, path, pictures())
    assert 0 < difference < 0.1


@pytest.mark.slow
def test_sides_can_be_fixed(tmp_path):
    needs("litert")
    model = tiny_unet(upsampling="nearest")
    path = tl_unet.export_model(model, tmp_path / "model.tflite", "litert", size=(32, 64))
    assert tl_unet.max_difference(model, path, pictures(1, 32, 64)) < 1e-4


@pytest.mark.slow
def test_an_exported_model_is_replaced_as_a_whole(tmp_path, monkeypatch):
    model = tiny_unet()
    path = tl_unet.export_model(model, tmp_path / "model")
    before = sorted(file.name for file in path.rglob("*"))
    tl_unet.export_model(model, path)
    assert sorted(file.name for file in path.rglob("*")) == before

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(model, "export", fail)
    with pytest.raises(ValueError, match="No space left"):
        tl_unet.export_model(model, path)
    assert tl_unet.max_difference(tiny_unet(), path, pictures()) < 1  # still loads
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "caffe"}, "format"),
        ({"format": "litert-int8"}, "images="),
        (
            {"format": "litert-int8", "images": np.zeros((2, 8, 8, 1))},
            r"\(count, height, width, 3\)",
        ),
        ({"size": 0}, "size"),
        ({"size": "large"}, "size"),
    ],
)
def test_wrong_arguments_are_named(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tl_unet.export_model(tiny_unet(), tmp_path / "model", **options)


def test_what_is_no_exported_model_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        tl_unet.load_exported(tmp_path / "absent.onnx")
    (tmp_path / "model.txt").write_text("text")
    with pytest.raises(ValueError, match="no exported model"):
        tl_unet.load_exported(tmp_path / "model.txt")


def test_a_missing_package_is_named_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tl-unet\[export\]"):
        tl_unet.export_model(tiny_unet(), tmp_path / "model", "onnx")


def test_models_of_several_inputs_are_refused(tmp_path):
    one, two = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    model = keras.Model([one, two], keras.layers.Add()([one, two]))
    with pytest.raises(ValueError, match="one input"):
        tl_unet.export_model(model, tmp_path / "model")
