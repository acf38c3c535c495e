"""The folders of a training: what may lie in its own, and which of the images validate."""

# ruff: noqa: F811  (fixtures from other rooms)

import dataclasses
import json
import os
import shutil

import pytest
from test_training import eagerly, options, pairs, tiny, write_pairs  # noqa: F401  (fixtures)

from tl_unet.runs import RunFolder, write_json
from tl_unet.training import resume, train
from tl_unet.training.images import _digest, split


@pytest.mark.parametrize("wrong", ["empty", "unmatched", "single", "missing"])
def test_folders_that_cannot_be_trained_on_are_an_error(wrong, tiny, tmp_path):
    pairs = write_pairs(tmp_path / "data", count=1 if wrong == "single" else 3)
    if wrong == "missing":
        shutil.rmtree(pairs[1])
    elif wrong != "single":
        for path in pairs[1].iterdir():
            path.unlink()
        for path in pairs[0].iterdir() if wrong == "empty" else ():
            path.unlink()
    message = {
        "empty": "no image in",
        "unmatched": "has no mask",
        "single": "only one image",
        "missing": "no directory",
    }[wrong]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train(options(pairs), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_that_holds_something_is_not_written_to(tiny, pairs, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="not empty"):
        train(options(pairs), tmp_path / "run")
    with pytest.raises(FileExistsError, match="is a file"):
        train(options(pairs), tmp_path / "run" / "thesis.txt")
    with pytest.raises(FileNotFoundError, match="holds no run"):
        resume(tmp_path / "run")


@pytest.mark.parametrize("name", ["cache", "logs", "checkpoints", "predictions"])
def test_folders_that_a_training_would_make_are_somebody_elses_without_run_json(
    name, tiny, pairs, tmp_path
):
    precious = tmp_path / "run" / name / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    with pytest.raises(FileExistsError, match=f"holds no training.*{name}.*another folder"):
        train(options(pairs), tmp_path / "run")
    assert precious.read_text() == "precious"


def test_what_was_stopped_in_its_first_epoch_is_begun_anew(tiny, pairs, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    for folder in (run.cache, run.logs, run.checkpoints, run.predictions):
        folder.mkdir(parents=True)
        (folder / "old").write_text("")
    write_json(run.settings, {"options": {}, "versions": {}, "started": "today", "names": {}})
    monkeypatch.setattr("tl_unet.training._train", lambda *_: {})
    train(options(pairs), run.path)
    assert [path.name for path in run.path.iterdir()] == ["run.json"]
    assert json.loads(run.settings.read_text())["names"]


def test_a_folder_in_which_a_process_trains_is_left_alone(tiny, pairs, tmp_path, monkeypatch):
    run = RunFolder(tmp_path / "run")
    monkeypatch.setattr("tl_unet.training._train", lambda *_: {"epochs": 1})
    train(options(pairs), run.path)
    checkpoint = run.checkpoint(1)
    checkpoint.parent.mkdir()
    checkpoint.write_text("")
    with run.locked():
        for call in (lambda: train(options(pairs), run.path), lambda: resume(run.path)):
            with pytest.raises(FileExistsError, match="in use: another process trains in it"):
                call()
        assert checkpoint.exists()
    assert resume(run.path) == {"epochs": 1}


@pytest.mark.parametrize("text", ['{"run": "of somebody else"}', '["options"]', "no JSON"])
def test_nothing_is_deleted_beside_a_run_json_of_somebody_else(text, tiny, pairs, tmp_path):
    precious = tmp_path / "run" / "predictions" / "precious.txt"
    precious.parent.mkdir(parents=True)
    precious.write_text("precious")
    (tmp_path / "run" / "run.json").write_text(text)
    with pytest.raises(FileExistsError, match="was not written by a training of tl-unet"):
        train(options(pairs), tmp_path / "run")
    assert precious.read_text() == "precious"
    with pytest.raises(ValueError, match="was not written by a training|is damaged"):
        resume(tmp_path / "run")
    assert (tmp_path / "run" / "run.json").read_text() == text


def test_a_share_of_the_names_validates_and_stays_when_images_are_added(tmp_path):
    few = options(write_pairs(tmp_path / "few", count=20), encoder="vgg16", decoder_filters=None)
    more = options(write_pairs(tmp_path / "more", count=60), encoder="vgg16", decoder_filters=None)
    parts = {part: set(names) for part, names in split(few).items()}
    assert parts["train"] | parts["validation"] == {f"größe_{i}" for i in range(20)}
    assert not parts["train"] & parts["validation"]
    later = split(more)
    assert parts["validation"] <= set(later["validation"]) | {min(parts["validation"])}
    assert 8 <= len(later["validation"]) <= 30
    other = split(dataclasses.replace(few, seed=1))
    assert set(other["validation"]) != parts["validation"]
    limited = split(dataclasses.replace(more, limit=30))
    assert len(limited["train"]) + len(limited["validation"]) == 30
    assert 3 <= len(limited["validation"]) <= 18
    assert set(limited["validation"]) <= set(later["validation"]) | {limited["validation"][0]}


def test_pictures_of_one_patient_stay_on_one_side(tmp_path):
    images, masks = write_pairs(tmp_path / "slices", count=24)
    for folder in (images, masks):
        for i in range(24):
            (folder / f"größe_{i}.png").rename(folder / f"P{i % 8}_slice{i}.png")
    chosen = options((images, masks), encoder="vgg16", decoder_filters=None)
    alone, whole, in_brackets = (
        split(dataclasses.replace(chosen, group=group)) for group in (None, "[^_]+", "(P.)_slice")
    )

    def patients(names):
        return {name.split("_")[0] for name in names}

    assert patients(alone["train"]) & patients(alone["validation"])
    assert not patients(whole["train"]) & patients(whole["validation"])
    assert sorted(whole["train"] + whole["validation"]) == sorted(sum(alone.values(), []))
    assert all(whole.values())
    assert in_brackets == whole
    with pytest.raises(ValueError, match="are of one group, 'P'"):
        split(dataclasses.replace(chosen, group="P"))
    with pytest.raises(ValueError, match="does not begin with what .group. matches"):
        split(dataclasses.replace(chosen, group="Q"))
    with pytest.raises(ValueError, match="does not begin with"):
        split(dataclasses.replace(chosen, group="P|(Q)"))


def test_the_share_of_a_name_is_the_one_that_earlier_trainings_used():
    assert _digest(0, "größe_1") == pytest.approx(0.17077800752414155, abs=1e-12)


def test_names_that_are_not_utf8_can_be_trained_on(tiny, pairs, eagerly, tmp_path):
    for folder in pairs:
        for i in range(8):
            try:
                (folder / f"größe_{i}.png").rename(folder / os.fsdecode(b"gr\xf6\xdfe_%d.png" % i))
            except (OSError, UnicodeError):
                pytest.skip("this file system takes UTF-8 only")
    run = RunFolder(tmp_path / "run")
    train(options(pairs, epochs=1), run.path)
    names = run.read_settings()["names"]
    found = {os.fsencode(name) for part in names.values() for name in part}
    assert found == {b"gr\xf6\xdfe_%d" % i for i in range(8)}
    assert resume(run.path)["epochs"] == 1
