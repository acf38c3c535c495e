"""`tl-unet encoders`, `evaluate` and `export`, and what the commands share: results, exit status, what machines read."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from encoder_parameters import PAGE, parameters
from PIL import Image
from test_cli_train import run
from test_prediction_files import bright
from test_training import write_pairs
from tiny import tiny_unet
from typer.testing import CliRunner

import tl_unet
from tl_unet.decoders import NORMALIZATION, UPSAMPLING, list_decoders
from tl_unet.export import SUFFIXES
from tl_unet.runs import RunFolder, write_json
from tl_unet.training.options import PRECISIONS
from tl_unet_cli import encoders as command
from tl_unet_cli import export, library, train
from tl_unet_cli.app import app


@pytest.fixture
def trained(tmp_path):
    """The folder of a training whose model finds bright pixels, with its data."""
    pairs = write_pairs(tmp_path / "data", count=5)
    run_folder = RunFolder(tmp_path / "run")
    run_folder.path.mkdir()
    bright().save(run_folder.model)
    options = {"size": [32, 32], "labels": "1:1,2:0", "mask_suffix": ""}
    options |= {"images": str(pairs[0]), "masks": str(pairs[1]), "val_images": None}
    names = {"train": [], "validation": ["größe_0", "größe_1"]}
    write_json(run_folder.settings, {"options": options, "versions": {}, "names": names})
    return run_folder.path, *pairs


# --- encoders -------------------------------------------------------------------------------------


def test_encoders_lists_all_with_their_numbers():
    found = json.loads(run("encoders", "--json").stdout)
    assert [row["encoder"] for row in found] == tl_unet.list_encoders()
    vgg = next(row for row in found if row["encoder"] == "vgg16")
    assert vgg["parameters"] == 14_714_688
    assert vgg["strides"] == [1, 2, 4, 8, 16]
    assert vgg["imagenet_megabytes"] == 58.9
    assert next(row for row in found if row["encoder"] == "unet")["imagenet_megabytes"] is None


def test_encoders_of_a_pattern_in_a_table():
    text = run("encoders", "resnet50*").stdout
    assert "resnet50v2" in text
    assert "vgg16" not in text
    assert "23,587,712" in text
    run("encoders", "magic*", status=2)


def test_numbers_of_parameters_are_those_of_the_docs():
    # Other tests may have registered encoders of their own, of which nothing is known.
    known = {row["encoder"]: row["parameters"] for row in command.rows() if row["parameters"]}
    assert known == parameters(PAGE.read_text())


# --- evaluate -------------------------------------------------------------------------------------


def test_evaluate_a_training_with_its_own_labels_and_size(trained):
    folder, images, masks = trained
    result = run("evaluate", folder, "--images", images, "--masks", masks)
    assert "IoU" in result.stdout
    assert "1.0000 (1.0000 to 1.0000)" in result.stdout
    names = {path.name for path in (folder / "evaluation").iterdir()}
    assert names == {
        *("scores.json", "per_image.csv", "per_class.csv"),
        *("worst.png", "confusion.png", "per_class.png"),
    }


def test_evaluate_a_model_as_json(trained, tmp_path):
    folder, images, masks = trained
    arguments = ["--images", images, "--masks", masks, "--labels", "1:0,2:1", "--size", "16"]
    arguments += ["--tta", "--threshold", "0.4", "-o", tmp_path / "report", "--json"]
    found = json.loads(run("evaluate", folder / "model.keras", *arguments).stdout)
    assert found["dataset"]["iou"] < 0.1
    assert found["images"] == 5
    assert (tmp_path / "report" / "worst.png").exists()


def test_options_of_evaluate_reach_the_library(trained, tmp_path, monkeypatch):
    from tl_unet import evaluation

    folder, images, masks = trained
    seen = {}

    def fake(model, images, masks, **options):
        seen.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(evaluation, "evaluate_folder", fake)
    arguments = ["--images", images, "--masks", masks, "--size", "16x24", "--threshold", "0.4"]
    arguments += ["--tta", "--batch-size", "3", "--recursive", "--mask-suffix", "_m"]
    arguments += ["--labels", "1:0,2:1", "--class-names", "a", "-o", tmp_path / "report"]
    run("evaluate", folder / "model.keras", *arguments, status=1)
    wanted = {"size": (16, 24), "threshold": 0.4, "augment": True, "batch_size": 3}
    wanted |= {"recursive": True, "mask_suffix": "_m", "labels": {1: 0, 2: 1}}
    assert {name: seen[name] for name in wanted} == wanted
    assert list(seen["class_names"]) == ["a"]


def test_evaluate_replaces_a_report_only_with_overwrite(trained, tmp_path):
    folder, images, masks = trained
    run("evaluate", folder)
    before = (folder / "evaluation" / "scores.json").read_text()
    others = ["evaluate", folder, "--images", images, "--masks", masks]
    result = run(*others, status=2)
    assert "holds a report" in result.stderr
    assert "--overwrite" in result.stderr
    assert (folder / "evaluation" / "scores.json").read_text() == before
    run(*others, "-o", tmp_path / "report")
    run(*others, "--overwrite")
    assert (folder / "evaluation" / "scores.json").read_text() != before


def test_evaluate_says_at_which_size_it_looks():
    text = " ".join(CliRunner().invoke(app, ["evaluate", "--help"]).stdout.replace("│", "").split())
    assert "Default for a .keras file whose model takes any size: 256" in text


def test_evaluate_names_the_classes_as_the_training_did_or_as_told(trained):
    folder, images, masks = trained
    settings = RunFolder(folder).read_settings()
    settings["options"]["class_names"] = ["disc"]
    write_json(RunFolder(folder).settings, settings)
    arguments = ["evaluate", folder, "--images", images, "--masks", masks, "--json", "--overwrite"]
    assert json.loads(run(*arguments).stdout)["class_names"] == ["background", "disc"]
    found = json.loads(run(*arguments, "--class-names", "pet").stdout)
    assert found["class_names"] == ["background", "pet"]
    assert "there are 1 classes" in run(*arguments, "--class-names", "a,b", status=1).stderr


def test_evaluate_takes_the_trainings_validation_images_without_others(trained):
    folder, _, _ = trained
    assert json.loads(run("evaluate", folder, "--json").stdout)["images"] == 2
    result = run("evaluate", folder / "model.keras", status=2)
    assert "--images and --masks are needed" in result.stderr


def test_evaluate_lists_what_is_wrong_and_ends_with_1(trained):
    folder, images, masks = trained
    (masks / "größe_2.png").unlink()
    Image.new("L", (9, 9), 1).save(masks / "größe_3.png")
    result = run("evaluate", folder, "--images", images, "--masks", masks, status=1)
    assert re.search(r"has no mask.*größe_2|größe_2.*has no mask", result.stderr, re.DOTALL)
    assert "they must be equal" in result.stderr
    result = run(
        *("evaluate", folder / "model.keras", "--images", images, "--masks", masks), status=1
    )
    assert "unexpected mask value" in result.stderr


def test_evaluate_with_wrong_usage_ends_with_2(trained, tmp_path):
    folder, images, masks = trained
    run("evaluate", tmp_path / "nothing", "--images", images, "--masks", masks, status=2)
    run("evaluate", folder, "--images", tmp_path / "no", "--masks", masks, status=2)
    run("evaluate", folder, "--images", images, status=2)
    arguments = ["--images", images, "--masks", masks]
    run("evaluate", folder, *arguments, "--size", "x", status=2)
    run("evaluate", folder, *arguments, "--labels", "x", status=2)
    run("evaluate", folder, *arguments, "--threshold", "2", status=2)


# --- several of them ------------------------------------------------------------------------------


def test_a_model_of_logits_ends_with_1(trained, tmp_path):
    _, images, masks = trained
    path = tmp_path / "logits.keras"
    tiny_unet(activation=None).save(path)
    found = run("predict", path, images, "-o", tmp_path / "masks", status=1)
    assert "gives logits" in found.stderr
    found = run("evaluate", path, "--images", images, "--masks", masks, status=1)
    assert "gives logits" in found.stderr


def test_an_output_that_cannot_be_written_ends_with_1(trained, tmp_path):
    folder, images, _ = trained
    (tmp_path / "file").write_text("")
    run("predict", folder, images, "-o", tmp_path / "file" / "masks", status=1)


@pytest.fixture
def unwritable(tmp_path):
    """A folder in which nobody may make a file: root may everywhere but in some of the kernel's own folders."""
    if not hasattr(os, "geteuid"):
        pytest.skip("folders are locked in another way on this system")
    if os.geteuid():
        (tmp_path / "locked").mkdir(mode=0o555)
        return tmp_path / "locked"
    folder = pathlib.Path("/sys/kernel")
    if not folder.is_dir():
        pytest.skip("root may write everywhere on this system")
    return folder


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "export"])
def test_an_output_folder_that_is_not_writable_ends_with_1(
    command, trained, unwritable, monkeypatch
):
    folder, images, masks = trained
    work = lambda *args, **kwargs: pytest.fail("the work began")  # noqa: E731
    monkeypatch.setattr("tl_unet.evaluation.evaluate_folder", work)
    monkeypatch.setattr("tl_unet.prediction_files._predict_file", work)
    monkeypatch.setattr("tl_unet.training.Training.run_epochs", work)
    data = ["--images", images, "--masks", masks]
    arguments = {
        "train": [*data, "--labels", "1:1,2:0", "--weights", "none"],
        "evaluate": [folder, *data],
        "predict": [folder, images],
        "export": [folder],
    }
    result = run(command, *arguments[command], "-o", unwritable / "new", status=1)
    assert "Permission denied" in result.stderr or "not permitted" in result.stderr
    assert "Traceback" not in result.output


def test_models_that_are_none_or_run_code_end_with_1(trained, tmp_path):
    _, images, _ = trained
    (tmp_path / "text.keras").write_text("no model")
    image = keras.Input((None, None, 3))
    keras.Model(image, keras.layers.Lambda(lambda x: x[..., :1])(image)).save(
        tmp_path / "evil.keras"
    )
    for name, message in (("text", "is no model"), ("evil", "refused")):
        arguments = [tmp_path / f"{name}.keras", images, "-o", tmp_path / "masks"]
        result = run("predict", *arguments, status=1)
        assert message in result.stderr
        assert "Traceback" not in result.output


# --- export ---------------------------------------------------------------------------------------


def test_export_compares_with_keras_on_the_trainings_pictures(trained, tmp_path):
    folder, _, _ = trained
    result = run("export", folder, "-f", "saved-model", "-o", tmp_path / "saved")
    assert "on 2 pictures" in result.stdout
    assert (tmp_path / "saved" / "saved_model.pb").exists()


def test_a_picture_that_export_cannot_read_is_named(trained, tmp_path):
    folder, images, _ = trained
    (images / "größe_3.png").write_text("no picture")
    result = run("export", folder, "--images", images, "-o", tmp_path / "saved", status=1)
    assert f"{images / 'größe_3.png'}: the image cannot be read" in result.stderr


def test_an_export_does_not_replace_a_training(trained):
    folder, _, _ = trained
    result = run("export", folder, "-o", folder, status=2)
    assert "choose another path" in result.stderr
    assert (folder / "model.keras").exists()


@pytest.mark.slow
@pytest.mark.parametrize("format", ["onnx", "openvino", "litert", "litert-int8"])
def test_export_in_other_formats(format, trained, tmp_path):
    folder, images, _ = trained
    model = folder / "model.keras"
    arguments = ["-f", format, "-o", tmp_path / "unet", "--images", images, "--size", 32]
    arguments += ["--batch-size", 2, "--json"]
    report = json.loads(run("export", model, *arguments).stdout)
    assert report["images"] == 5
    assert report["same_class"] > 0.95
    assert report["bytes"] > 100
    if "int8" not in format:
        assert report["max_difference"] < 1e-4


def test_an_export_that_differs_ends_with_1(trained, tmp_path, monkeypatch):
    from tl_unet import export, exported

    folder, _, _ = trained

    def wrong(path):
        return lambda images: np.zeros((*images.shape[:3], 1), "float32")

    given = {}

    def write(model, path, *args, **kwargs):
        given.update(kwargs)
        return folder

    monkeypatch.setattr(export, "export_model", write)
    monkeypatch.setattr(exported, "load_exported", wrong)
    arguments = ["-o", tmp_path / "saved", "--batch-size", 3]
    assert "differ" in run("export", folder, *arguments, status=1).stderr
    assert given["batch_size"] == 3


def test_an_export_that_gives_nan_ends_with_1(trained, tmp_path, monkeypatch):
    from tl_unet import export, exported

    folder = trained[0]
    monkeypatch.setattr(export, "export_model", lambda model, path, *args, **kwargs: folder)
    nan = np.full((1, 32, 32, 1), np.nan, "float32")
    monkeypatch.setattr(exported, "load_exported", lambda path: lambda images: nan)
    result = run("export", folder, "-o", tmp_path / "saved", "--json", status=1)
    assert json.loads(result.stdout)["max_difference"] is None
    assert "NaN" in result.stderr


def test_a_model_in_a_folder_of_another_script_is_exported_unchecked(trained, tmp_path):
    (tmp_path / "other").mkdir()
    shutil.copy(trained[0] / "model.keras", tmp_path / "other")
    (tmp_path / "other" / "run.json").write_text('{"encoder": "tiny"}')
    result = run("export", tmp_path / "other", "-f", "saved-model", "-o", tmp_path / "saved")
    assert "Not checked against Keras" in result.stdout + result.stderr
    assert (tmp_path / "saved" / "saved_model.pb").exists()


def test_export_of_a_folder_without_pictures_says_so(trained, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = ["--images", tmp_path / "empty", "-o", tmp_path / "saved"]
    assert "no picture in" in run("export", trained[0], *arguments, status=1).stderr
    assert not (tmp_path / "saved").exists()


def test_a_model_of_fixed_sides_is_compared_at_these(trained, tmp_path):
    folder, images, _ = trained
    tiny_unet(input_shape=(64, 48, 3)).save(tmp_path / "fixed.keras")
    arguments = ["--images", images, "-o", tmp_path / "saved", "--json"]
    report = json.loads(run("export", tmp_path / "fixed.keras", *arguments).stdout)
    assert report["max_difference"] < 1e-4


def test_export_with_wrong_usage_ends_with_2(trained, tmp_path):
    folder, _, _ = trained
    run("export", folder, "-f", "magic", "-o", tmp_path / "x", status=2)
    model = folder / "model.keras"
    result = run("export", model, "-f", "litert-int8", "-o", tmp_path / "x", status=2)
    assert "--images" in result.stderr


# --- the whole ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["encoders", "train", "evaluate", "predict", "export"])
def test_help_has_examples(name):
    text = CliRunner().invoke(app, [name, "--help"]).stdout
    assert f"tl-unet {name}" in text
    assert "Examples" in text


def test_version_and_nothing():
    assert tl_unet.__version__ in run("--version").stdout
    assert "Usage" in CliRunner().invoke(app, []).output


def test_choices_in_the_help_are_those_of_the_library():
    assert set(export.FORMATS) == set(SUFFIXES)
    assert set(train.NORMALIZATION) == {name for name in NORMALIZATION if name}
    assert set(train.UPSAMPLING) == set(UPSAMPLING)
    assert train.PRECISIONS == PRECISIONS
    assert list(train.DECODERS) == list_decoders()


def in_a_process(code):
    """Runs Python code as a user's terminal would: without what the tests ask of TensorFlow's log."""
    environment = {name: value for name, value in os.environ.items() if "TF_CPP" not in name}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_help_imports_neither_the_library_nor_what_it_needs():
    code = """
import sys
from typer.testing import CliRunner
from tl_unet_cli.app import app
for arguments in ([], ["encoders"], ["train"], ["evaluate"], ["predict"], ["export"]):
    assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0
print({"tl_unet", "keras", "numpy", "tensorflow", "matplotlib"} & set(sys.modules))
"""
    found = in_a_process(code)
    assert found.stdout == "set()\n", found.stderr


def test_a_command_shows_no_log_lines_of_tensorflow():
    code = "import sys; sys.argv[1:] = ['encoders', 'vgg16']; from tl_unet_cli import main; main()"
    found = in_a_process(code)
    assert found.returncode == 0
    assert "vgg16" in found.stdout
    assert found.stderr == ""


def test_log_lines_are_left_out_and_other_lines_stay(capfd):
    with library._without_log_lines():
        os.write(2, b"WARNING: All log messages before absl::InitializeLog() is called\n")
        os.write(2, b"I0000 00:00:1795465371.708363 914 port.cc:153] oneDNN is on.\n")
        os.write(2, b"2026-11-23 20:22:38.123456: E tensorflow/x.cc:1] no CUDA\n")
        os.write(2, "Die Größe fehlt\n".encode())
    os.write(2, b"I am after\n")
    assert capfd.readouterr().err == "Die Größe fehlt\nI am after\n"


def test_whoever_sets_the_level_sees_the_log(monkeypatch):
    monkeypatch.delitem(sys.modules, "tl_unet")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    monkeypatch.setattr(library, "_without_log_lines", lambda: pytest.fail("lines are left out"))
    library.import_library()
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "0"


def test_the_library_does_without_the_commands_packages():
    code = """
import os, sys
absent = ("typer", "scipy", "matplotlib", "tensorflow_datasets", "tensorboard", "tifffile", "zarr")
for name in absent:
    sys.modules[name] = None
import tl_unet, tl_unet.evaluation, tl_unet.plotting, tl_unet.prediction_files, tl_unet.runs, tl_unet.training
# By JAX, where TensorFlow finds it.
assert os.environ.get("TF_CPP_MIN_LOG_LEVEL") == ("1" if "jax" in sys.modules else None)
from tl_unet_cli import main
main()
"""
    found = in_a_process(code)
    assert found.returncode == 1, found.stderr
    assert 'pip install "tl-unet[cli]"' in found.stderr
    assert "Traceback" not in found.stderr
