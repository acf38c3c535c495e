"""`tl-unet predict`: which files it writes and leaves, what it tells, exit status."""

# ruff: noqa: F811  (fixtures from other rooms)

import json
import os
import pathlib

import pytest
import tensorflow as tf
from PIL import Image
from test_cli_train import run
from test_cli_use import trained  # noqa: F401  (fixture)
from test_prediction_files import fixed_sides, half


def test_predict_files_and_folders(trained, tmp_path):
    folder, images, _ = trained
    Image.fromarray(half(40, 90)).save(tmp_path / "photo [1].jpg")
    masks = tmp_path / "masks"
    result = run("predict", folder, tmp_path / "photo [1].jpg", images, "-o", masks, "--overlay")
    assert f"6 masks in {masks}" in result.stdout
    assert Image.open(masks / "photo [1].png").size == (90, 40)
    assert len(list(masks.glob("*_overlay.png"))) == 6


def test_predict_says_which_files_failed_and_ends_with_1(trained, tmp_path):
    folder, images, _ = trained
    (images / "text.png").write_text("no picture")
    result = run("predict", folder, images, "-o", tmp_path / "masks", status=1)
    assert "text.png: the image cannot be read" in result.stderr
    assert "1 of 6 pictures failed" in result.stderr
    arguments = [images, "-o", tmp_path / "masks", "--overwrite", "--json"]
    found = json.loads(run("predict", folder, *arguments, status=1).stdout)
    assert [file["source"].rsplit("/")[-1] for file in found if file["error"]] == ["text.png"]
    assert all(0 < file["foreground"] < 1 for file in found if not file["error"])


def test_predict_resizes_as_the_training_unless_told_otherwise(trained, tmp_path, monkeypatch):
    from tl_unet import prediction_files

    folder, images, _ = trained
    seen = []

    def fake(model, sources, output, **options):
        del options["progress"]
        seen.append({k: v for k, v in options.items() if v not in (None, False, 0.5)})
        return []

    monkeypatch.setattr(prediction_files, "predict_files", fake)
    for path, *options in (
        (folder,),
        (folder / "model.keras",),
        (folder, "--tile", "64", "--overlap", "8", "--tta", "--batch-size", "2"),
        (folder, "--size", "16x24", "--threshold", "0.3", "--probabilities", "--overlay"),
        (folder, "--overwrite"),
    ):
        run("predict", path, images, "-o", tmp_path / "masks", *options)
    assert seen == [
        {"size": [32, 32]},
        {},
        {"tile": 64, "overlap": 8, "augment": True, "batch_size": 2},
        {"size": (16, 24), "threshold": 0.3, "probabilities": True, "overlay": True},
        {"size": [32, 32], "overwrite": True},
    ]


def test_predict_with_wrong_usage_ends_with_2(trained, tmp_path):
    folder, images, _ = trained
    masks = ["-o", tmp_path / "masks"]
    run("predict", folder, tmp_path / "nothing.png", *masks, status=2)
    run("predict", tmp_path / "nothing.keras", images, *masks, status=2)
    run("predict", folder, images, *masks, "--size", "32", "--tile", "32", status=2)
    run("predict", folder, images, *masks, "--tile", "32", "--overlap", "20", status=2)
    result = run("predict", folder, images, "-o", images, status=2)
    assert "would overwrite" in result.stderr
    result = run("predict", folder, images, *masks, "--overlap", "8", status=2)
    assert "give `tile` too" in result.stderr  # the training's size resizes pictures
    result = run("predict", folder, images, *masks, "--batch-size", "8", status=2)
    assert "`batch_size` is that of tiles" in result.stderr


def test_names_that_are_not_utf8_are_json_that_is(trained, tmp_path):
    folder, images, _ = trained
    try:
        path = images.parent / os.fsdecode(b"caf\xe9.png")
        (images / "größe_1.png").rename(path)
    except (OSError, UnicodeError):
        pytest.skip("this file system takes UTF-8 only")
    result = run("predict", folder, path, "-o", tmp_path / "masks", "--json")
    (found,) = json.loads(result.stdout_bytes.decode())
    assert found["source"] == str(path)
    assert pathlib.Path(found["mask"]).is_file()


def test_predict_replaces_files_only_with_overwrite(trained, tmp_path):
    folder, images, _ = trained
    kept = tmp_path / "masks" / "größe_3_overlay.png"
    kept.parent.mkdir()
    kept.write_text("precious")
    arguments = ["predict", folder, images, "-o", tmp_path / "masks", "--overlay"]
    assert "--overwrite" in run(*arguments, status=2).stderr
    assert kept.read_text() == "precious"
    run(*arguments, "--overwrite")
    assert Image.open(kept).size == (32, 32)


def test_tiles_that_the_model_does_not_take_are_wrong_usage(trained, tmp_path):
    _, images, _ = trained
    fixed_sides(16, 16).save(tmp_path / "fixed.keras")
    arguments = ["predict", tmp_path / "fixed.keras", images, "-o", tmp_path / "masks"]
    assert "(16, 16)" in run(*arguments, "--tile", "512", status=2).stderr
    run(*arguments, "--tile", "16")
    run(*arguments, "--overwrite")


def test_small_tiles_need_no_overlap(trained, tmp_path):
    folder, images, _ = trained
    run("predict", folder, images, "-o", tmp_path / "masks", "--tile", "16")


def test_a_memory_that_is_too_small_ends_with_1_and_advice(trained, tmp_path, monkeypatch):
    folder, images, _ = trained

    def exhausted(*args, **kwargs):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nmore")

    monkeypatch.setattr("tl_unet.prediction_files._predict_file", exhausted)
    result = run("predict", folder, images, "-o", tmp_path / "masks", status=1)
    assert "smaller --batch-size" in result.stderr
    assert "--tile" in result.stderr
    assert "OOM when allocating tensor" in result.stderr
