"""Exported models: every format runs in its own runtime and says what Keras says."""

import dataclasses
import functools
import importlib.util

import keras
import numpy as np
import pytest
from tiny import TINY, tiny_unet

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


# Few stages, so that a conversion takes little time; but with two there would be nothing to gate.
SMALL = dataclasses.replace(TINY, taps=TINY.taps[:3])


def small_unet(**options):
    return tiny_unet(encoder=SMALL, decoder_filters=(8, 8, 8), **options)


@functools.cache
def shared():
    """One model for the tests that write nothing of it."""
    return small_unet()


def pictures(count=2, height=32, width=32):
    rng = np.random.default_rng(0)
    return rng.uniform(0, 255, (count, height, width, 3)).astype("float32")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["saved-model", "onnx", "openvino", "litert"])
def test_any_size_and_number_of_images_give_the_masks_of_keras(format, tmp_path):
    needs(format)
    model = small_unet()
    path = tl_unet.export_model(model, tmp_path / "model", format)
    assert path.name == f"model{SUFFIXES[format]}"
    assert _batch_size(path) is None
    for images in (pictures(), pictures(1, 50, 37)):
        assert tl_unet.max_difference(model, path, images) < 1e-4
    assert {file.name for file in tmp_path.iterdir()} <= {path.name, "model.bin"}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("litert", {"decoder": "residual", "upsampling": "nearest"}),
        ("litert", {"decoder": "attention", "upsampling": "bilinear"}),
        ("onnx", {"decoder": "attention", "upsampling": "bilinear"}),
    ],
)
def test_any_size_whatever_enlarges_the_maps(format, options, tmp_path):
    needs(format)
    model = small_unet(**options)
    path = tl_unet.export_model(model, tmp_path / "model", format)
    for images in (pictures(), pictures(1, 50, 37)):
        assert tl_unet.max_difference(model, path, images) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("format", ["openvino-int8", "litert-int8"])
def test_integer_models_say_nearly_the_same(format, tmp_path):
    needs(format)
    model = small_unet()
    path = tl_unet.export_model(model, tmp_path / "model", format, images=pictures(8))
    assert _batch_size(path) is None
    difference = tl_unet.max_difference(model, path, pictures())
    assert 0 < difference < 0.01  # the masks span 0.03


def test_a_difference_that_is_no_number_is_not_passed_over(tmp_path, monkeypatch):
    answers = iter([np.zeros((8, 8, 8, 1)), np.full((1, 8, 8, 1), np.nan)])
    monkeypatch.setattr("tl_unet.exported.load_exported", lambda path: lambda batch: next(answers))
    assert np.isnan(tl_unet.max_difference(shared(), tmp_path, pictures(9, 8, 8)))


@pytest.mark.slow
def test_pictures_to_calibrate_with_are_resized_to_fixed_sides(tmp_path):
    needs("openvino-int8")
    model = small_unet()
    images = pictures(8, 48, 40)
    options = {"size": (32, 32), "images": images}
    path = tl_unet.export_model(model, tmp_path / "model", "openvino-int8", **options)
    seen = keras.ops.convert_to_numpy(keras.ops.image.resize(images, (32, 32), antialias=True))
    assert 0 < tl_unet.max_difference(model, path, seen) < 0.01


@pytest.mark.slow
def test_sides_can_be_fixed(tmp_path):
    needs("litert")
    model = small_unet(upsampling="nearest")
    path = tl_unet.export_model(model, tmp_path / "model.tflite", "litert", size=(32, 64))
    assert tl_unet.max_difference(model, path, pictures(1, 32, 64)) < 1e-4


@pytest.mark.slow
def test_litert_takes_one_shape_after_another_also_after_one_that_it_refuses(tmp_path):
    needs("litert")
    model = small_unet(upsampling="nearest")
    predict = tl_unet.load_exported(
        tl_unet.export_model(model, tmp_path / "model.tflite", "litert")
    )
    for images in (pictures(1, 32, 32), pictures(2, 32, 64), pictures(1, 32, 32)):
        expected = model.predict_on_batch(images)
        for _ in range(2):
            np.testing.assert_allclose(predict(images), expected, atol=1e-4)
        with pytest.raises((ValueError, RuntimeError)):
            predict(np.zeros((1, 32, 32, 5), "float32"))


@pytest.mark.slow
@pytest.mark.parametrize("format", SUFFIXES)
def test_the_number_of_images_can_be_fixed(format, tmp_path):
    needs(format)
    model = small_unet(upsampling="nearest")
    options = {"size": 32, "batch_size": np.int64(2), "images": pictures(3)}
    path = tl_unet.export_model(model, tmp_path / "model", format, **options)
    # Run as often as needed: twice here, the second time with an image less than it takes.
    allowed = 0.01 if format.endswith("int8") else 1e-4
    assert tl_unet.max_difference(model, path, pictures(3)) < allowed
    assert _batch_size(path) == 2


@pytest.mark.parametrize(("batch_size", "sizes"), [(None, [5]), (2, [2, 2, 2]), (5, [5]), (1, [1] * 5)])  # fmt: skip
def test_a_file_of_a_fixed_batch_is_run_as_often_as_needed(
    batch_size, sizes, tmp_path, monkeypatch
):
    seen = []

    def run(images):
        seen.append(len(images))
        return images[..., :1]

    (tmp_path / "model.onnx").touch()
    monkeypatch.setattr("tl_unet.exported._run_onnx", lambda path: (run, batch_size))
    predict = tl_unet.load_exported(tmp_path / "model.onnx")
    np.testing.assert_array_equal(predict(pictures(5)), pictures(5)[..., :1])
    assert seen == sizes
    for wrong in (pictures(0), pictures(1)[0]):
        with pytest.raises(ValueError, match=r"`image\[None\]` for a single one"):
            predict(wrong)


@pytest.mark.slow
def test_a_saved_model_of_somebody_else_is_refused(tmp_path):
    import tensorflow as tf

    tf.saved_model.save(tf.Module(), tmp_path / "other")
    with pytest.raises(ValueError, match="did not write"):
        tl_unet.load_exported(tmp_path / "other")


def _batch_size(path):
    """The number of images that a file says it takes, by its own runtime; `None` for any."""
    if path.is_dir():
        import tensorflow as tf

        signature = tf.saved_model.load(path).signatures["serving_default"]
        return signature.structured_input_signature[1]["image"].shape[0]
    if path.suffix == ".onnx":
        import onnxruntime

        first = onnxruntime.InferenceSession(path).get_inputs()[0].shape[0]
        return first if isinstance(first, int) else None
    if path.suffix == ".xml":
        import openvino

        first = openvino.Core().read_model(path).input(0).get_partial_shape()[0]
        return first.get_length() if first.is_static else None
    from ai_edge_litert.interpreter import Interpreter

    first = Interpreter(str(path)).get_input_details()[0]["shape_signature"][0]
    return None if first == -1 else first


@pytest.mark.slow
def test_an_exported_model_is_replaced_as_a_whole(tmp_path, monkeypatch):
    model = small_unet()
    path = tl_unet.export_model(model, tmp_path / "model")
    before = sorted(file.name for file in path.rglob("*"))
    tl_unet.export_model(model, path)
    assert sorted(file.name for file in path.rglob("*")) == before

    def fail(*args, **kwargs):
        raise OSError("No space left on device")

    monkeypatch.setattr(model, "export", fail)
    with pytest.raises(ValueError, match="No space left"):
        tl_unet.export_model(model, path)
    monkeypatch.undo()
    assert tl_unet.max_difference(model, path, pictures()) < 1e-4  # still the one before
    assert [file.name for file in tmp_path.iterdir()] == ["model"]


@pytest.fixture
def quick(monkeypatch):
    """Formats that are written in a moment, and what was written of them."""
    written = []

    def directory(model, path, signature, images):
        written.append(path)
        path.mkdir()
        for name in ("saved_model.pb", "fingerprint.pb"):
            (path / name).write_text("new")

    def file(model, path, signature, images):
        written.append(path)
        path.write_text("new")

    writers = {"saved-model": directory, "litert": file, "openvino": file}
    monkeypatch.setattr("tl_unet.export._WRITERS", writers)
    monkeypatch.setattr("tl_unet.export.require", lambda *packages: None)
    return written


@pytest.mark.parametrize(
    ("format", "name", "inside"),
    [
        ("saved-model", "run", "checkpoints/epoch-1.weights.h5"),
        ("saved-model", "assets", "assets/logo.png"),
        ("litert", "unet.tflite", "notes.txt"),
        ("openvino", "unet.bin", "notes.txt"),
    ],
)
def test_a_directory_that_holds_something_else_is_not_replaced(
    format, name, inside, tmp_path, quick
):
    precious = tmp_path / name / inside
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    path = (tmp_path / name).with_suffix(SUFFIXES[format])
    with pytest.raises(FileExistsError, match="choose another path"):
        tl_unet.export_model(shared(), path, format)
    assert precious.read_text() == "precious"
    assert not quick  # known before the work


def test_a_path_without_a_name_is_refused(quick):
    for path in (".", "..", ""):
        with pytest.raises(ValueError, match="must end with a name"):
            tl_unet.export_model(shared(), path)
    assert not quick


def test_a_saved_model_with_other_files_in_it_is_not_replaced(tmp_path, quick):
    path = tl_unet.export_model(shared(), tmp_path / "exports")
    tl_unet.export_model(shared(), path / "unet.tflite", "litert")
    with pytest.raises(FileExistsError, match=r"unet\.tflite"):
        tl_unet.export_model(shared(), path)
    assert (path / "unet.tflite").read_text() == "new"


@pytest.mark.parametrize("format", ["saved-model", "litert"])
@pytest.mark.parametrize("earlier", [(), ("saved_model.pb", "fingerprint.pb", "variables")])
def test_an_earlier_export_and_an_empty_directory_are_replaced(format, earlier, tmp_path, quick):
    path = tmp_path / f"unet{SUFFIXES[format]}"
    path.mkdir()
    for name in earlier:
        (path / name).write_text("old")
    tl_unet.export_model(shared(), path, format)
    if format == "litert":
        assert path.read_text() == "new"
    else:
        assert {file.name: file.read_text() for file in path.iterdir()} == dict.fromkeys(
            ("saved_model.pb", "fingerprint.pb"), "new"
        )


def test_a_file_where_a_saved_model_is_to_be_is_not_replaced(tmp_path, quick):
    (tmp_path / "unet").write_text("precious")
    with pytest.raises(FileExistsError, match="is a file"):
        tl_unet.export_model(shared(), tmp_path / "unet")
    assert not quick


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"format": "caffe"}, "format"),
        ({"format": "litert-int8"}, "images="),
        (
            {"format": "litert-int8", "images": np.zeros((2, 8, 8, 1))},
            r"\(count, height, width, 3\)",
        ),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": True}, "batch_size"),
        ({"batch_size": 1.0}, "batch_size"),
        ({"size": 0}, "size"),
        ({"size": "large"}, "size"),
    ],
)
def test_wrong_arguments_are_named(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        tl_unet.export_model(shared(), tmp_path / "model", **options)


def test_what_is_no_exported_model_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match="absent"):
        tl_unet.load_exported(tmp_path / "absent.onnx")
    (tmp_path / "model.txt").write_text("text")
    with pytest.raises(ValueError, match="no exported model"):
        tl_unet.load_exported(tmp_path / "model.txt")


def test_a_missing_package_is_named_with_what_installs_it(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"tl-unet\[export\]"):
        tl_unet.export_model(shared(), tmp_path / "model", "onnx")


def test_models_of_several_inputs_are_refused(tmp_path):
    one, two = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    model = keras.Model([one, two], keras.layers.Add()([one, two]))
    with pytest.raises(ValueError, match="one input"):
        tl_unet.export_model(model, tmp_path / "model")
