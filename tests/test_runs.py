"""Opening a model, and what is refused; files that are whole or not there."""

import errno
import json
import sys
import zipfile

import keras
import numpy as np
import pytest
from tiny import tiny_unet

from tl_unet.runs import RunFolder, open_model, replacing, write_json


@pytest.fixture
def saved(tmp_path):
    model = tiny_unet()
    model.save(tmp_path / "unet.keras")
    return tmp_path / "unet.keras", model


def test_a_file_gives_its_model_without_options(saved, image):
    path, model = saved
    loaded, options = open_model(path)
    np.testing.assert_allclose(loaded(image), model(image), atol=1e-6)
    assert options == {}


def test_a_folder_gives_its_model_with_the_options(saved):
    path, _ = saved
    run = RunFolder(path.parent)
    path.rename(run.model)
    write_json(run.settings, {"options": {"size": [32, 32]}, "versions": {}, "names": {}})
    assert open_model(run.path)[1] == {"size": [32, 32]}


def test_a_training_without_its_model_says_how_to_finish_it(tmp_path):
    run = RunFolder(tmp_path)
    write_json(run.settings, {"options": {"epochs": 7}, "versions": {}, "names": {}})
    run.write_history([{"epoch": 1, "loss": 0.5}])
    with pytest.raises(FileNotFoundError, match="1 of 7 epochs.*--resume"):
        open_model(tmp_path)


def test_a_file_that_asks_to_run_code_is_refused(tmp_path):
    image = keras.Input((None, None, 3))
    mask = keras.layers.Lambda(lambda x: x[..., :1])(image)
    keras.Model(image, mask).save(tmp_path / "evil.keras")
    with pytest.raises(ValueError, match="refused: it asks to run code"):
        open_model(tmp_path / "evil.keras")


def test_a_file_that_names_code_of_other_modules_is_an_error_and_does_not_run_it(
    tmp_path, monkeypatch
):
    (tmp_path / "evil_module.py").write_text("activate = abs\nraise SystemExit('it ran')")
    monkeypatch.syspath_prepend(tmp_path)
    image = keras.Input((None, None, 3))
    mask = keras.layers.Conv2D(1, 1, activation="relu")(image)
    keras.Model(image, mask).save(tmp_path / "plain.keras")
    evil = {"module": "evil_module", "class_name": "function", "config": "activate"}
    evil |= {"registered_name": "activate"}
    with (
        zipfile.ZipFile(tmp_path / "plain.keras") as plain,
        zipfile.ZipFile(tmp_path / "evil.keras", "w") as changed,
    ):
        for name in plain.namelist():
            content = plain.read(name)
            if name == "config.json":
                before = content
                content = content.replace(b'"relu"', json.dumps(evil).encode())
                assert content != before
            changed.writestr(name, content)
    with pytest.raises(ValueError, match=r"refused|can't be loaded"):
        open_model(tmp_path / "evil.keras")
    assert "evil_module" not in sys.modules


@pytest.mark.parametrize("name", ["text.keras", "picture.png", "old.h5", "archive.keras"])
def test_a_file_that_is_no_model_is_an_error(name, tmp_path):
    path = tmp_path / name
    path.write_text("no model")
    if name == "archive.keras":
        path.unlink()
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("readme.txt", "no model either")
    with pytest.raises(ValueError, match=r"is no model|can't be loaded"):
        open_model(path)


def test_a_cut_off_file_is_an_error(saved):
    path, _ = saved
    path.write_bytes(path.read_bytes()[:-500])
    with pytest.raises(ValueError, match=r"is no model|can't be loaded"):
        open_model(path)


def test_a_model_that_gives_no_masks_is_an_error(tmp_path):
    keras.Sequential([keras.Input((8,)), keras.layers.Dense(1)]).save(tmp_path / "dense.keras")
    with pytest.raises(ValueError, match="no model from images"):
        open_model(tmp_path / "dense.keras")


def test_what_is_not_there_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model"):
        open_model(tmp_path / "nothing.keras")
    with pytest.raises(FileNotFoundError, match="no folder of a training"):
        open_model(tmp_path)


def test_a_file_is_replaced_as_a_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write(text, error):
        with replacing(path) as beside:
            beside.write_text(text)
            if error:
                raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write("half", error=True)
    assert path.read_text() == "old"
    write("new", error=False)
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]
    assert path.read_text() == "new"


@pytest.mark.parametrize(
    "text", ["", "epoch,loss\n", "epoch,loss\n1,0.5\n2,0.", "epoch,loss\n1,0.5\n2,"]
)
def test_a_history_that_was_cut_off_holds_the_whole_rows(text, tmp_path):
    run = RunFolder(tmp_path)
    assert run.read_history() == []
    run.history.write_text(text)
    rows = run.read_history()
    assert rows == ([{"epoch": 1.0, "loss": 0.5}] if "1,0.5" in text else [])


def test_a_folder_without_locks_is_free(tmp_path, monkeypatch):
    run = RunFolder(tmp_path)

    def acquire(self, timeout):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with run.locked(), run.locked():
        run.history.write_text("")
    assert [path.name for path in tmp_path.iterdir()] == ["history.csv"]


def test_a_file_system_that_knows_no_locks_keeps_nobody_out_after_a_killed_process(
    tmp_path, monkeypatch
):
    fcntl = pytest.importorskip("fcntl")

    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    run = RunFolder(tmp_path)
    (tmp_path / "tmp-lock").write_text("4711\nanother-machine\n")  # as a soft lock's file
    with run.locked():
        run.history.write_text("")
    assert run.history.exists()


def test_damaged_settings_are_an_error(tmp_path):
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        RunFolder(tmp_path).read_settings()
