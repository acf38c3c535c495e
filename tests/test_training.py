"""Training from folders: its stages, its files, and that it can be stopped at any moment."""

import contextlib
import dataclasses
import errno
import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tiny import TINY, tiny_backbone

import tl_unet
from tl_unet.encoders import registry
from tl_unet.runs import RunFolder, open_model
from tl_unet.training import (
    TrainingDiverged,
    TrainingOptions,
    parse_labels,
    resume,
    train,
)
from tl_unet.training.epochs import Training
from tl_unet.training.images import TrainingImages, split
from tl_unet.training.options import format_labels, make_loss

SMALL = dataclasses.replace(
    TINY, taps=TINY.taps[:2]
)  # few layers, so that tracing takes little time


def write_pairs(folder, count=8, side=32, values=(2, 1), seed=0):
    """Bright discs on dark ground, with masks that hold `values` for ground and disc."""
    random = np.random.default_rng(seed)
    images, masks = folder / "images", folder / "masks"
    images.mkdir(parents=True)
    masks.mkdir()
    y, x = np.mgrid[:side, :side]
    for i in range(count):
        row, column = random.uniform(side / 4, side * 3 / 4, 2)
        disc = (y - row) ** 2 + (x - column) ** 2 < (side / 4) ** 2
        pixels = random.integers(0, 90, (side, side, 3)) + 160 * disc[..., None]
        Image.fromarray(pixels.astype("uint8")).save(images / f"größe_{i}.png")
        Image.fromarray(np.where(disc, values[1], values[0]).astype("uint8")).save(
            masks / f"größe_{i}.png"
        )
    return images, masks


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """The tiny encoder by name, and a file of weights for it."""
    monkeypatch.setattr(registry, "_REGISTRY", {**registry._REGISTRY, "tiny": SMALL})
    path = tmp_path / "tiny.weights.h5"
    tiny_backbone().save_weights(path)
    return path


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "data")


def options(pairs, **changes):
    given = {
        "encoder": "tiny",
        "weights": None,
        "size": 32,
        "labels": {1: 1, 2: 0, 3: 255},
        "epochs": 2,
        "batch_size": 4,
        "val_share": 0.3,
        "decoder_filters": (8, 8) if changes.get("encoder", "tiny") == "tiny" else None,
    }
    return TrainingOptions(*pairs, **(given | changes))


@pytest.fixture
def eagerly():
    """No graphs where a test is about a training's files: tracing takes most of the time."""
    tf.config.run_functions_eagerly(True)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".* does not apply to tf.data functions")
        yield
    tf.config.run_functions_eagerly(False)


def stop_after(epoch, error=KeyboardInterrupt):
    """A report that stops the training in the batch after an epoch."""

    def report(event, **values):
        if event == "batch" and values["epoch"] == epoch + 1:
            raise error

    return report


def test_training_in_two_stages_writes_its_files_and_a_model_that_loads(tiny, pairs, tmp_path):
    events = []
    run = RunFolder(tmp_path / "run")
    found = train(
        options(pairs, weights=tiny, freeze_epochs=1),
        run.path,
        report=lambda event, **values: events.append((event, values)),
    )
    rows = run.read_history()
    assert [row["stage"] for row in rows] == [1, 2]
    assert found["val_iou"] == max(row["val_iou"] for row in rows)
    assert found["best_epoch"] == 1 + np.argmax([row["val_iou"] for row in rows])
    settings = json.loads(run.settings.read_text())
    names = settings["names"]
    assert sorted(names["train"] + names["validation"]) == [f"größe_{i}" for i in range(8)]
    assert settings["options"]["labels"] == "1:1,2:0,3:ignore"
    assert settings["versions"]["tl_unet"] == tl_unet.__version__
    assert {path.name for path in run.predictions.iterdir()} == {"epoch-001.png", "epoch-002.png"}
    assert Image.open(run.curves).size[0] > 300
    assert {path.parent.name for path in run.logs.rglob("events*")} == {"train", "validation"}
    assert not run.cache.exists()
    model, read = open_model(run.path)
    assert read["encoder"] == "tiny"
    assert getattr(model, "optimizer", None) is None
    first, second = [values for event, values in events if event == "stage"]
    assert (first["stage"], second["stage"]) == (1, 2)
    assert first["parameters"] < second["parameters"]  # the decoder, and then everything
    assert 0 < rows[0]["learning_rate"] <= 1.001e-3
    assert 0 < rows[1]["learning_rate"] <= 1.001e-4  # a tenth
    assert [v["seconds_left"] for event, v in events if event == "epoch"][-1] == 0


def test_what_a_training_is_told_reaches_its_model_and_its_pictures(
    tiny, pairs, tmp_path, monkeypatch
):
    asked = {"model": [], "pictures": []}

    def build(*args, **kwargs):
        asked["model"].append(kwargs)
        return tl_unet.build_unet(*args, **kwargs)

    def read(*args, **kwargs):
        asked["pictures"].append(kwargs)
        return tl_unet.data.folders.image_mask_dataset(*args, **kwargs)

    monkeypatch.setattr("tl_unet.training.epochs.build_unet", build)
    monkeypatch.setattr("tl_unet.data.image_mask_dataset", read)
    model_options = {"decoder": "residual", "decoder_filters": (6, 4), "normalization": "group"}
    model_options |= {"upsampling": "bilinear", "dropout": 0.3}
    chosen = options(pairs, weights=tiny, augment=False, batch_size=3, **model_options)
    training = Training(RunFolder(tmp_path), chosen, split(chosen), lambda *a, **k: None)
    model = training._model(True)
    (given,) = asked["model"]
    assert {name: given[name] for name in model_options} == model_options
    loaded = tiny_backbone()
    loaded.load_weights(tiny)
    encoder = model.get_layer("encoder").get_weights()  # the first layers of the backbone
    assert encoder
    for ours, theirs in zip(encoder, loaded.get_weights(), strict=False):
        np.testing.assert_array_equal(ours, theirs)
    images = TrainingImages(RunFolder(tmp_path), chosen, split(chosen))
    asked["pictures"].clear()
    images.training_set(1)
    (given,) = asked["pictures"]
    assert (given["batch_size"], given["augment"], given["shuffle"]) == (3, False, True)
    for name, value in {"mask_suffix": "_m", "recursive": True}.items():
        asked["pictures"].clear()
        other = dataclasses.replace(chosen, **{name: value})
        with contextlib.suppress(ValueError):  # there are none of that suffix
            split(other)
        assert asked["pictures"][0][name] == value


@pytest.mark.slow
def test_a_training_stopped_after_every_epoch_gives_those_it_would_have_had(tiny, pairs, tmp_path):
    epochs = 3
    chosen = options(pairs, weights=tiny, freeze_epochs=1, epochs=epochs, dropout=0.2)
    folder, stages = tmp_path / "stopped", []

    def report(event, **values):
        if event == "stage":
            stages.append(values["stage"])
        stop(event, **values)

    for stopped in range(epochs):
        go_on = functools.partial(resume if stopped else functools.partial(train, chosen), folder)
        stop = stop_after(stopped)
        with pytest.raises(KeyboardInterrupt):
            go_on(report=report)
        assert len(RunFolder(folder).read_history()) == stopped
        keras.utils.set_random_seed(99)
    assert resume(folder)["epochs"] == epochs
    train(chosen, tmp_path / "whole")
    assert_same_history(folder, tmp_path / "whole")
    assert stages == [1, 1, 2, 2]  # the last began behind the first stage


def assert_same_history(folder, other):
    rows, expected = RunFolder(folder).read_history(), RunFolder(other).read_history()
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        for name in set(wanted) - {"seconds"}:
            assert row[name] == pytest.approx(wanted[name], abs=1e-6), name


KILLED = {"epochs": 12, "freeze_epochs": 2}  # enough for two signals to come in time

CHILD = """
import pathlib, sys
sys.path.insert(0, sys.argv[1])
import test_training as tests
import tl_unet
from tl_unet.training import resume, train
tl_unet.register_encoder(tests.SMALL)
output = pathlib.Path(sys.argv[3])
if output.exists():
    resume(output)
else:
    data = pathlib.Path(sys.argv[2])
    pairs = data / "images", data / "masks"
    weights = data.parent / "tiny.weights.h5"
    train(tests.options(pairs, weights=weights, **tests.KILLED), output)
"""


@pytest.mark.slow
def test_a_killed_and_an_interrupted_process_resume_to_the_same_history(tiny, pairs, tmp_path):
    def start(output):
        command = [sys.executable, "-c", CHILD, os.path.dirname(__file__), pairs[0].parent, output]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        # Where the tests run in the background, their children would ignore Ctrl-C.
        listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(command, preexec_fn=listen, **quiet)

    run = RunFolder(tmp_path / "stopped")
    for how in (signal.SIGKILL, signal.SIGINT):
        process, done = start(run.path), len(run.read_history())
        while len(run.read_history()) == done:
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(how)
        assert process.wait(120) != 0
        assert done < len(run.read_history()) < KILLED["epochs"]
    # Half a file of ours, and what only looks so.
    (run.checkpoints / f"tmp-{os.getpid()}-epoch-9.weights.h5").touch()
    (run.path / "tmp-old").mkdir()
    (run.path / "masks").mkdir()
    (run.path / "masks" / "tmp-01-left.png").touch()
    assert start(run.path).wait(300) == 0
    train(options(pairs, weights=tiny, **KILLED), tmp_path / "whole")
    assert_same_history(run.path, tmp_path / "whole")
    assert {path.name for path in run.path.rglob("tmp-*")} == {"tmp-old", "tmp-01-left.png"}


def test_a_full_disk_leaves_the_epochs_before_and_says_how_to_go_on(
    tiny, pairs, eagerly, tmp_path, monkeypatch
):
    run, save = RunFolder(tmp_path / "run"), keras.Model.save_weights

    def full(model, path, *args, **kwargs):
        if "epoch-2" in str(path):
            path.write_bytes(b"half a checkpoint")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(model, path, *args, **kwargs)

    monkeypatch.setattr(keras.Model, "save_weights", full)
    with pytest.raises(OSError, match=r"Epoch 2 could not be saved.*No space left.*resume"):
        train(options(pairs), run.path)
    assert len(run.read_history()) == 1
    assert [path.name for path in run.checkpoints.iterdir()] == ["epoch-1.weights.h5"]
    monkeypatch.undo()
    registry._REGISTRY["tiny"] = SMALL
    try:
        assert resume(run.path)["epochs"] == 2
    finally:
        del registry._REGISTRY["tiny"]


def test_a_picture_that_cannot_be_drawn_does_not_stop_a_training(
    tiny, pairs, eagerly, tmp_path, monkeypatch
):
    def fail(*args, **kwargs):
        raise ValueError("no such font")

    monkeypatch.setattr("tl_unet.plotting.error_sheet", fail)
    monkeypatch.setattr("tl_unet.plotting.learning_curves", fail)
    with pytest.warns(UserWarning, match="could not be drawn: no such font") as told:
        found = train(options(pairs, epochs=1), tmp_path / "run")
    assert found["epochs"] == 1
    texts = [str(warning.message) for warning in told if "no such font" in str(warning.message)]
    assert "epoch-001.png" in texts[0]
    assert "curves.png" in texts[1]


def test_a_disk_too_small_for_the_images_is_told_before_the_training(
    tiny, pairs, tmp_path, monkeypatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10, 0, 10))
    with pytest.raises(OSError, match="are free there"):
        train(options(pairs), tmp_path / "run")


def test_a_loss_that_is_no_number_stops_the_training(tiny, pairs, eagerly, tmp_path, monkeypatch):
    def broken(name, class_weights):
        return lambda mask, prediction: keras.ops.mean(prediction) * np.nan

    monkeypatch.setattr("tl_unet.training.epochs.make_loss", broken)
    with pytest.raises(TrainingDiverged, match="no longer a number in epoch 1.*learning rate"):
        train(options(pairs), tmp_path / "run")
    assert RunFolder(tmp_path / "run").read_history() == []


@pytest.mark.parametrize("precision", ["bfloat16", pytest.param("float16", marks=pytest.mark.slow)])
def test_several_classes_with_ignored_pixels_own_validation_folders_and_16_bits(
    precision, tiny, tmp_path, monkeypatch
):
    pairs = write_pairs(tmp_path / "data", count=4, values=(3, 7))
    own = write_pairs(tmp_path / "own", count=2, values=(3, 7), seed=1)
    found = options(
        pairs,
        val_images=own[0],
        val_masks=own[1],
        labels={3: 0, 7: 2, None: 255},
        epochs=1,
        augment=False,
        loss="crossentropy",
        class_names=["ground", "nowhere", "disc"],
        class_weights=[0.2, 1, 1],
        mixed_precision=precision,
    )
    policies, build = [], tl_unet.build_unet
    monkeypatch.setattr(
        "tl_unet.training.epochs.build_unet",
        lambda *args, **kwargs: (
            policies.append(keras.config.dtype_policy().name) or build(*args, **kwargs)
        ),
    )
    train(found, tmp_path / "run")
    assert policies == [f"mixed_{precision}"]
    (row,) = RunFolder(tmp_path / "run").read_history()
    assert 0 <= row["val_iou_disc"] <= 1
    assert "val_iou_nowhere" in row
    model, read = open_model(tmp_path / "run")
    assert model.output_shape[-1] == 3
    assert read["labels"] == "3:0,7:2,*:ignore"
    names = json.loads((tmp_path / "run" / "run.json").read_text())["names"]
    assert [len(names["train"]), len(names["validation"])] == [4, 2]
    assert keras.config.dtype_policy().name == "float32"


def test_all_that_is_wrong_with_the_images_is_listed(tiny, pairs, tmp_path):
    images, masks = pairs
    for name in ("größe_0", "größe_1", "größe_2", "größe_3"):
        (images / f"{name}.png").write_text("no picture")
    Image.new("L", (32, 32), 99).save(masks / "größe_7.png")
    with pytest.raises(ValueError, match="problem") as caught:
        train(options(pairs), tmp_path / "run")
    for text in (
        "größe_0: the image cannot be read",
        "größe_3",
        "größe_7: unexpected mask value 99",
    ):
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encoder": "vgg61"}, "Did you mean"),
        ({"epochs": 0}, "`epochs` must be positive"),
        ({"size": (0, 32)}, "`size` must be positive"),
        ({"loss": "dice+magic"}, "magic"),
        ({"freeze_epochs": 5}, "from 0 to the number of epochs"),
        ({"weights": None, "freeze_epochs": 1}, "never learns"),
        ({"encoder": "unet"}, "no ImageNet weights"),
        ({"val_images": "there"}, "go together"),
        ({"val_share": 1.0}, "between 0 and 1"),
        ({"group": "("}, "`group` must be a regular expression"),
        ({"group": "a", "val_images": "v", "val_masks": "m"}, "`group` .* would do nothing"),
        ({"decoder_filters": (8,)}, "must be 5 positive ints"),
        ({"channels": 2}, "`channels` must be one of"),
        ({"mixed_precision": True}, "`mixed_precision` must be one of"),
        ({"upsampling": "magic"}, "`upsampling` must be one of"),
        ({"decoder": "unett"}, "Did you mean 'unet'"),
        ({"decoder": "fpn", "upsampling": "transpose"}, "`upsampling` must be one of"),
        ({"decoder": "fpn", "decoder_filters": (8, 8, 8, 8, 8)}, "must be 2 positive ints"),
        ({"decoder_filters": (8, 8, 8, 8, 0)}, "must be 5 positive ints"),
        ({"seed": -1}, "`seed` must be from 0 to 4294967295"),
        ({"seed": 2**32}, "`seed` must be from 0 to 4294967295"),
        ({"dropout": 1}, "`dropout` must be at least 0 and below 1"),
        ({"labels": {1: 3}, "classes": 2}, "class"),
    ],
)
def test_options_that_cannot_be_are_an_error(wrong, message):
    with pytest.raises(ValueError, match=message):
        TrainingOptions("images", "masks", **{"epochs": 2, **wrong})


@pytest.mark.parametrize(
    ("decoder", "filters"),
    [
        ("unet", (256, 128, 64, 32, 16)),
        ("scse", (256, 128, 64, 32, 16)),
        ("unetplusplus", None),
        ("linknet", None),
        ("fpn", None),
    ],
)
def test_filters_default_to_half_the_unets_or_the_decoders_own(decoder, filters):
    assert TrainingOptions("a", "b", decoder=decoder).decoder_filters == filters


def test_options_come_back_from_json():
    lists = {"class_names": ["red"], "class_weights": [1, 2]}
    labels = {(255, 0, 0): 1, None: 0}
    chosen = TrainingOptions("a", "b", labels=labels, size=(32, 64), epochs=9, **lists)
    again = TrainingOptions.from_json(json.loads(json.dumps(chosen.to_json())))
    assert again == dataclasses.replace(chosen, size=again.size)
    assert again.labels == chosen.labels
    assert chosen.freeze_epochs == 3


def test_numpys_numbers_are_taken_as_pythons():
    numbers = {"size": np.int64(64), "seed": np.int32(3), "learning_rate": np.float32(0.5)}
    chosen = TrainingOptions("a", "b", **numbers, decoder_filters=np.array([8, 8, 8, 8, 4]))
    stored = json.loads(json.dumps(chosen.to_json()))
    assert TrainingOptions.from_json(stored).decoder_filters == (8, 8, 8, 8, 4)
    assert (stored["size"], stored["seed"], stored["learning_rate"]) == ([64, 64], 3, 0.5)


@pytest.mark.parametrize(("stored", "meant"), [(True, "float16"), (False, None)])
def test_runs_that_knew_one_precision_only_are_resumed_with_it(stored, meant):
    old = {**TrainingOptions("a", "b").to_json(), "mixed_precision": stored}
    assert TrainingOptions.from_json(old).mixed_precision == meant


def test_class_weights_and_names_reach_the_loss_and_the_scores():
    mask, wrong = np.array([[[[0], [1]]]]), np.full((1, 1, 2, 3), [0.8, 0.1, 0.1])
    costs = [float(make_loss("dice+crossentropy", [1, w, 1])(mask, wrong)) for w in (1, 10)]
    assert costs[0] < costs[1]
    for wrong_list in ({"class_names": ["a", "b"]}, {"class_weights": [1, 1]}):
        with pytest.raises(ValueError, match="there are 3 classes"):
            TrainingOptions("images", "masks", classes=3, **wrong_list)


def test_a_named_class_that_occurs_nowhere_does_not_stop_a_training(tmp_path):
    found = TrainingOptions("images", "masks", classes=2, class_names=["ground", "disc"])
    training = Training(RunFolder(tmp_path), found, {"train": [], "validation": []}, None)
    scores = {"loss": 1.0, "val_loss": 1.0, "val_iou": 0.5, "val_iou_disc": float("nan")}
    assert training.check_row(1, scores) is None
    with pytest.raises(TrainingDiverged):
        training.check_row(1, scores | {"val_loss": float("nan")})


@pytest.mark.parametrize("text", ["1:0", "0:0,1:1,255:ignore", "#000000:0,#ff8000:2", "7:1,*:0"])
def test_labels_are_read_and_written(text):
    assert format_labels(parse_labels(text)) == text


@pytest.mark.parametrize("text", ["", "1", "1:", "a:1", "1:b", "#ff:x", "1:0,1:1", "#zz0000:1"])
def test_labels_of_another_form_are_an_error(text):
    with pytest.raises(ValueError, match=r"VALUE:CLASS|twice"):
        parse_labels(text)


def test_images_of_every_mode_and_size_can_be_trained_on(tiny, tmp_path):
    images, masks = write_pairs(tmp_path / "data", count=2, values=(0, 255))
    picture = Image.open(images / "größe_0.png")
    picture.convert("CMYK").save(images / "cmyk.jpg")
    Image.fromarray(np.full((32, 32), 40_000, "uint16")).save(images / "deep.png")
    picture.quantize(8).save(images / "palette.png")
    picture.convert("RGBA").save(images / "alpha.png")
    picture.resize((20_000, 50)).save(images / "strip.png")
    Image.new("L", (20_000, 50)).save(masks / "strip.png")
    for name in ("cmyk", "deep", "palette", "alpha"):
        Image.open(masks / "größe_0.png").save(masks / f"{name}.png")
    Image.new("RGB", (1, 1)).save(images / "one pixel.png")
    Image.new("L", (1, 1)).save(masks / "one pixel.png")
    chosen = options((images, masks), labels=None)
    run = RunFolder(tmp_path)
    data = TrainingImages(run, chosen, split(chosen))
    data.check()
    batch, mask = next(iter(data.training_set(1)))
    assert batch.shape[1:] == (32, 32, 3)
    assert set(np.unique(mask)) <= {0.0, 1.0}
    assert run.cache.exists()


@pytest.mark.parametrize("seed", [21_475, 42_950, 20_261_126])
def test_the_seeds_of_epochs_fit_every_backends_generator(seed, tiny, pairs, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "tl_unet.data.augmentation", lambda seed, **_: seen.append(seed) or (lambda x: x)
    )
    chosen = options(pairs, seed=seed)
    data = TrainingImages(RunFolder(tmp_path), chosen, split(chosen))
    monkeypatch.setattr(data, "_load", lambda *_, **given: types.SimpleNamespace(dataset=None))
    for epoch in range(30):
        data.training_set(epoch)
    # `augmentation` also takes the numbers behind it.
    assert all(0 <= value < 2**31 - 16 for value in seen)
    assert len(set(seen)) == 30
