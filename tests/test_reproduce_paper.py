"""The main job: its tables of models, its options, training that can be interrupted, and a small run from end to end."""

import csv
import dataclasses
import functools
import inspect
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import shared_path
from test_build_unet import PAPER
from tiny import TINY, tiny_unet

import tl_unet
from tl_unet import plotting
from tl_unet.data import shapes
from tl_unet.encoders import registry

pytest.importorskip("matplotlib")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import reproduce_paper
from paper import (
    experiment,
    features,
    figures,
    pictures,
    recipes,
    report,
    source_task,
    training,
)
from paper.options import INTERRUPTED, SKIPPED, Options, parser, resolve
from paper.published import PARTS, PUBLISHED

EXAMPLES = Path(reproduce_paper.__file__).parent


def options(*arguments, stored=None) -> Options:
    return resolve(parser().parse_args(arguments), stored)


# The six models


@pytest.mark.parametrize("name", recipes.MODELS)
def test_paper_recipe_has_the_papers_parameter_counts(name):
    """It builds what test_build_unet.py builds and counts."""

    def complete(arguments):
        call = inspect.signature(tl_unet.build_unet).bind(**arguments)
        call.apply_defaults()
        filters = call.arguments["decoder_filters"]
        return call.arguments | {"decoder_filters": filters and tuple(filters)}

    arguments = recipes.build_arguments(name, options("--recipe", "paper"))
    built, parameters, trainable = PAPER[name]
    assert complete(arguments) == complete(built | {"preprocessing": "rescale"})
    published = PUBLISHED[name]
    assert (published.parameters, published.trainable) == (parameters, trainable)


def test_published_parts_add_up_to_the_papers_data_set():
    assert np.sum(list(PARTS.values()), axis=0).tolist() == [3686, 2498, 1188]
    assert all(pictures == dogs + cats for pictures, dogs, cats in PARTS.values())


def test_corrected_recipe_removes_the_confounds():
    arguments = recipes.build_arguments("munet", options("--recipe", "corrected"))
    assert arguments["preprocessing"] == "encoder"
    assert arguments["input_skip"] is False
    assert arguments["decoder_filters"] == [512, 256, 128, 64, 32]
    rates = [recipes.learning_rate(n, options("--recipe", "corrected")) for n in ("vunet", "unet")]
    assert rates == [1e-3, 1e-4]


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["--preprocessing", "encoder"], {"preprocessing": "encoder"}),
        (
            ["--last-stage", "normal"],
            {"decoder_filters": [576, 196, 144, 96, 32], "input_skip": False},
        ),
        (["--normalization", "batch"], {"normalization": "batch"}),
        (["--normalize-features", "off"], {"normalize_features": False}),
    ],
)
def test_an_override_changes_one_thing_of_the_recipe(arguments, changed):
    plain = recipes.build_arguments("munet", options("--recipe", "paper"))
    assert (
        recipes.build_arguments("munet", options("--recipe", "paper", *arguments))
        == plain | changed
    )


def test_models_with_a_full_size_map_have_no_last_stage_to_change():
    narrow, normal = (options("--recipe", "paper", "--last-stage", s) for s in ("narrow", "normal"))
    for name in ("unet", "vunet"):
        assert recipes.build_arguments(name, narrow) == recipes.build_arguments(name, normal)


@pytest.mark.parametrize("loss", recipes.LOSSES)
def test_every_loss_prefers_the_truth(loss):
    mask = np.zeros((1, 4, 4, 1), "float32")
    mask[:, 1:3, 1:3] = 1
    good, bad = 0.9 * mask + 0.05, 0.05 + 0.9 * (1 - mask)
    compute = recipes.LOSSES[loss]()
    assert float(compute(mask, good)) < float(compute(mask, bad))


@pytest.mark.parametrize("optimizer", recipes.OPTIMIZERS)
def test_every_optimizer_takes_the_learning_rate(optimizer):
    built = recipes.OPTIMIZERS[optimizer](learning_rate=0.25)
    assert float(built.learning_rate) == 0.25


def test_half_is_the_share_of_pixels_at_exactly_one_half():
    half = next(metric for metric in recipes.metrics() if metric.name == "half")
    half.update_state(
        np.zeros((1, 2, 2, 1)), np.array([0.5, 0.5000001, 0.1, 0.5]).reshape(1, 2, 2, 1)
    )
    assert float(half.result()) == 0.5


# Options


def test_preset_paper_is_the_papers_protocol():
    paper = options("--preset", "paper")
    assert (paper.recipe, paper.data, paper.size, paper.epochs) == ("paper", "tfds", 256, 50)
    assert (paper.batch_size, paper.limit, paper.loss, paper.optimizer) == (
        32,
        None,
        "dice",
        "adam",
    )
    assert {recipes.learning_rate(name, paper) for name in recipes.MODELS} == {1e-5}
    assert paper.weights_source == "imagenet"


def test_demo_is_offline_and_runs_all_six_models():
    demo = options()
    assert (demo.data, demo.weights_source, demo.models) == (
        "shapes",
        "source task",
        list(recipes.MODELS),
    )


def test_an_option_beats_the_preset_and_the_recipe():
    given = options("--preset", "paper", "--size", "96", "--learning-rate", "0.01", "--limit", "30")
    assert (given.size, given.limit, recipes.learning_rate("munet", given)) == (96, 30, 0.01)
    assert options("--limit", "0").limit is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--models", "vunet,munett"], "did you mean 'munet'"),
        (["--models", "vunet,vunet"], "different names"),
        (["--size", "16"], "at least 32"),
        (["--learning-rate", "0"], "above 0"),
        (["--limit", "2"], "at least 3"),
        (["--data", "no/such/directory"], "no directory"),
        (["--weights-dir", "no/such/directory"], "no directory"),
        (["--loss", "hinge"], "invalid choice"),
        (["--overwrite", "--resume"], "exclude each other"),
    ],
)
def test_wrong_arguments_say_what_is_wrong_and_run_nothing(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        reproduce_paper.main([*arguments, "--output", str(tmp_path / "run")])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def stored_run(folder, *arguments):
    folder.mkdir(exist_ok=True)
    configuration = vars(options(*arguments))
    (folder / "results.json").write_text(
        json.dumps({"configuration": configuration, "command": ""})
    )
    return configuration


def test_a_run_is_not_overwritten_by_accident(tmp_path, capsys):
    stored_run(tmp_path)
    with pytest.raises(SystemExit):
        reproduce_paper.main(["--output", str(tmp_path)])
    assert "--resume" in capsys.readouterr().err


def test_there_must_be_a_run_to_resume(tmp_path, capsys):
    with pytest.raises(SystemExit):
        reproduce_paper.main(["--output", str(tmp_path / "run"), "--resume"])
    assert "no run to go on with" in capsys.readouterr().err


def test_a_run_that_stopped_while_it_read_the_pictures_is_resumed(tmp_path, monkeypatch):
    def interrupted(options):
        seen.append(options)
        raise KeyboardInterrupt

    seen = []
    monkeypatch.setattr(pictures, "load", interrupted)
    output = ["--output", str(tmp_path / "run")]
    assert reproduce_paper.main([*output, "--models", "unet", "--size", "48"]) == INTERRUPTED
    assert reproduce_paper.main([*output, "--resume"]) == INTERRUPTED
    assert seen[0] == seen[1]
    assert seen[1].size == 48


def test_a_wrong_folder_of_pictures_is_told_in_a_line_and_leaves_no_run(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    run = ["--models", "unet", "--output", str(tmp_path / "run")]
    for _ in range(2):  # the first leaves nothing that the second would have to replace
        with pytest.raises(SystemExit) as end:
            reproduce_paper.main([*run, "--data", str(tmp_path / "empty")])
        assert end.value.code == 2
        message = capsys.readouterr().err
        assert f"--data {tmp_path / 'empty'}" in message
        assert "images" in message


def test_weights_are_found_by_the_names_of_keras_downloads_and_a_wrong_file_is_a_reason(tmp_path):
    asked = options("--weights-dir", str(tmp_path), "--models", "munet", "--data", "shapes")
    run = experiment.Experiment(asked, tmp_path, "", None)
    with pytest.raises(FileNotFoundError, match=r"mobilenetv2_imagenet.* or mobilenet_v2_weights"):
        run._weights("mobilenetv2")
    file = tmp_path / experiment.DOWNLOADS["mobilenetv2"]
    file.write_bytes(b"no weights")
    assert run._weights("mobilenetv2") == str(file)
    entry = run._run_model("munet", {}, [], None)
    assert entry["status"] == "skipped"
    assert "not an HDF5 file" in entry["reason"]


def test_a_run_that_goes_on_elsewhere_names_both_machines(tmp_path, monkeypatch):
    first = experiment.Experiment(options(), tmp_path, "", None).results
    again = experiment.Experiment(options(), tmp_path, "", first).results
    assert "resumed_on" not in again
    elsewhere = {**first["environment"], "processor": "another"}
    monkeypatch.setattr(experiment, "environment", lambda: elsewhere)
    moved = experiment.Experiment(options(), tmp_path, "", first).results
    assert moved["environment"] == first["environment"]
    assert moved["resumed_on"] == [elsewhere]
    assert experiment.Experiment(options(), tmp_path, "", moved).results["resumed_on"] == [
        elsewhere
    ]
    counts = {"pictures": 3, "foreground": None}
    moved["data"] = dict.fromkeys(("train", "validation", "test"), counts)
    assert "; resumed on: 2 CPU" in report.page(moved).replace(f"{os.cpu_count()} CPU", "2 CPU")


def test_only_a_run_is_deleted_and_nothing_goes_on_from_leftovers(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(experiment.Experiment, "run", lambda self: 0)
    overwrite = ["--overwrite", "--output", str(tmp_path)]
    mine = tmp_path / "models" / "mine"
    mine.mkdir(parents=True)
    with pytest.raises(SystemExit):
        reproduce_paper.main(overwrite)
    assert "parts of a run without its results.json" in capsys.readouterr().err
    assert mine.exists()
    (tmp_path / "results.json").write_text('{"test": {}}')  # as other scripts write it
    with pytest.raises(SystemExit):
        reproduce_paper.main(overwrite)
    assert "something else, not a run of this script" in capsys.readouterr().err
    assert mine.exists()
    stored_run(tmp_path)
    assert reproduce_paper.main(overwrite) == 0
    assert not mine.exists()
    assert not (tmp_path / "results.json").exists()


def test_the_order_of_a_models_pictures_does_not_depend_on_those_before_it(tmp_path):
    run = experiment.Experiment(options("--size", "32", "--limit", "12"), tmp_path, "", None)

    def masks():
        return np.concatenate([mask for _, mask in run._read()["train"].dataset])

    first = masks()
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(masks(), first)


def test_a_run_is_not_deleted_for_options_that_are_wrong(tmp_path):
    stored_run(tmp_path)
    arguments = ["--overwrite", "--data", str(tmp_path / "nowhere"), "--output", str(tmp_path)]
    with pytest.raises(SystemExit):
        reproduce_paper.main(arguments)
    assert (tmp_path / "results.json").exists()


def test_resume_takes_the_stored_configuration(tmp_path):
    stored = stored_run(tmp_path, "--size", "48", "--augment", "--normalization", "none")
    assert vars(options("--resume", "--size", "48", stored=stored)) == stored


@pytest.mark.parametrize(
    "changed", [["--size", "64"], ["--no-augment"], ["--limit", "0"], ["--normalization", "none"]]
)
def test_resume_with_another_configuration_is_an_error(changed, tmp_path, capsys):
    stored_run(tmp_path, "--size", "48", "--augment")
    with pytest.raises(SystemExit):
        reproduce_paper.main(["--output", str(tmp_path), "--resume", *changed])
    error = capsys.readouterr().err
    assert "another configuration" in error
    assert changed[0].replace("no-", "") in error


def test_resume_may_change_the_epochs_of_what_is_not_done(tmp_path, monkeypatch, capsys):
    stored = stored_run(tmp_path, "--epochs", "6")
    assert options("--resume", "--epochs", "4", stored=stored).epochs == 4
    record = tmp_path / "results.json"
    results = {"status": "running", "command": "c --epochs 6", "configuration": stored}
    results["models"] = {"unet": {"status": "done"}}
    resume = ["--output", str(tmp_path), "--resume", "--epochs", "4"]
    monkeypatch.setattr(experiment.Experiment, "run", lambda self: self.results)
    record.write_text(json.dumps(results))
    resumed = reproduce_paper.main(resume)
    assert resumed["command"] == "c --epochs 6 --epochs 4"
    assert resumed["configuration"] == stored | {"epochs": 4}
    record.write_text(json.dumps(results | {"status": "complete"}))
    with pytest.raises(SystemExit):
        reproduce_paper.main(resume)
    assert "is complete" in capsys.readouterr().err
    skipped = {"vunet": {"status": "skipped"}}  # for want of weights, which may have come
    record.write_text(json.dumps(results | {"status": "complete", "models": skipped}))
    assert reproduce_paper.main(resume)["status"] == "running"


@pytest.mark.parametrize("asked", ["float16", "bfloat16"])
def test_every_model_of_a_run_computes_in_the_precision_asked_for(asked, tmp_path, monkeypatch):
    class Seen(Exception):
        pass

    def fit(model, *_):
        raise Seen(model.get_layer("encoder").layers[-1].compute_dtype)

    monkeypatch.setattr(experiment, "fit", fit)
    run = [
        "--models",
        "unet",
        "--limit",
        "3",
        "--mixed-precision",
        asked,
        "--output",
        str(tmp_path),
    ]
    with pytest.raises(Seen, match=f"^{asked}$"):
        reproduce_paper.main(run)


# Training and resuming


EPOCHS = 4


def small_model(loss="dice"):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu")(inputs / 255)
    outputs = keras.layers.Conv2D(1, 1, activation="sigmoid")(x)
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(0.01), recipes.LOSSES[loss](), metrics=recipes.metrics())
    model.optimizer.build(model.trainable_variables)
    return model


def fit(output, augment=False, loss="dice"):
    asked = types.SimpleNamespace(epochs=EPOCHS, augment=augment)
    parts = {
        part: shapes(12, size=16, batch_size=4, seed=seed, shuffle=part == "train", augment=augment and part == "train")
        for seed, part in enumerate(("train", "validation"))
    }  # fmt: skip
    model = small_model(loss)
    history = training.fit(model, parts, "unet", asked, output, ["vunet"])
    history.pop("seconds")
    return model.get_weights(), history


@pytest.fixture(scope="module")
def whole_training(tmp_path_factory):
    """Trains without interruption; once for each kind."""
    return functools.cache(lambda augment: fit(tmp_path_factory.mktemp("whole"), augment))


def interrupt(monkeypatch, where, epoch):
    """Let a step of the second half of an epoch be the last thing that happens."""
    original = where.on_epoch_end

    def stop(self, now, logs=None):
        if now == epoch:
            raise KeyboardInterrupt
        original(self, now, logs)

    monkeypatch.setattr(where, "on_epoch_end", stop)


@pytest.mark.parametrize(
    ("where", "augment"),
    [
        (training.Clock, False),  # nothing of the epoch is on disk
        (keras.callbacks.CSVLogger, True),  # its checkpoint is, but no row
        (training.DropCheckpoints, False),  # all but the tidying up
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    where, augment, whole_training, tmp_path, monkeypatch
):
    weights, history = whole_training(augment)
    with monkeypatch.context() as patch:
        interrupt(patch, where, epoch=2)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "resumed", augment)
    resumed_weights, resumed_history = fit(tmp_path / "resumed", augment)
    assert resumed_history == history
    assert history["epoch"] == list(range(EPOCHS))
    for ours, theirs in zip(resumed_weights, weights, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_first_row_that_was_cut_off_counts_for_nothing(whole_training, tmp_path):
    record = tmp_path / "history" / "unet.csv"
    record.parent.mkdir()
    record.write_text("epoch,loss,val_loss\n0,0.5")
    assert fit(tmp_path)[1] == whole_training(False)[1]


def fit_decoder(output, where, epochs):
    """Trains the decoder of a frozen U-Net, with the features cached as `--feature-cache` says."""
    asked = types.SimpleNamespace(
        epochs=epochs,
        augment=False,
        data="shapes",
        limit=6,
        size=32,
        batch_size=3,
        seed=0,
        loss="dice",
    )
    parts = pictures.load(asked)
    keras.utils.set_random_seed(0)
    model = tl_unet.freeze_encoder(
        tiny_unet(
            encoder=dataclasses.replace(TINY, taps=TINY.taps[:2]),
            decoder_filters=(4, 4),
            dropout=0.2,
        )
    )
    model.compile(
        keras.optimizers.Adam(0.01),
        recipes.LOSSES["dice"](),
        metrics=recipes.metrics(),
        jit_compile=False,
        run_eagerly=True,
    )
    model.optimizer.build(model.trainable_variables)
    found = features.cached_features(model, "vunet", parts, asked, output, where)
    assert (found is None) == (where == "off")
    history = training.fit(model, parts, "vunet", asked, output, [], found)
    history.pop("seconds")
    return history


def test_cached_features_train_as_the_whole_model_does_and_either_resumes_the_other(tmp_path):
    whole = fit_decoder(tmp_path / "whole", "off", 2)
    cached = fit_decoder(tmp_path / "cached", "auto", 2)
    fit_decoder(tmp_path / "mixed", "off", 1)
    mixed = fit_decoder(tmp_path / "mixed", "disk", 3)
    assert (tmp_path / "mixed" / "features" / "vunet").is_dir()
    for name, values in whole.items():
        np.testing.assert_allclose(cached[name], values, atol=1e-4, err_msg=name)
        # Dropout goes on from its first random number where a training is resumed.
        np.testing.assert_allclose(mixed[name][:1], values[:1], atol=1e-4, err_msg=name)
    assert len(mixed["loss"]) == 3


def test_features_are_not_cached_where_that_would_change_or_gain_nothing(tmp_path, monkeypatch):
    asked = types.SimpleNamespace(epochs=3, augment=False, size=10**6)
    model = tl_unet.freeze_encoder(tiny_unet())
    parts = {part: types.SimpleNamespace(names=["one"]) for part in ("train", "validation")}
    ask = functools.partial(features.cached_features, model, output=tmp_path)
    assert ask("vunet", parts, asked, where="auto") is None  # too large
    with pytest.raises(OSError, match="no room"):
        ask("vunet", parts, asked, where="disk")
    monkeypatch.setattr(pictures, "load", lambda options: pytest.fail("reads the pictures"))
    asked.size = 32
    assert ask("vunet", parts, asked, where="off") is None
    assert ask("vunet-finetuned", parts, asked, where="auto") is None
    asked.augment = True
    assert ask("vunet", parts, asked, where="auto") is None
    asked.augment, asked.epochs = False, 1
    assert ask("vunet", parts, asked, where="auto") is None


def test_only_the_latest_and_the_best_checkpoint_are_kept_and_the_best_is_loaded(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(
        training, "best_epoch", lambda history: 2 if len(history["epoch"]) > 1 else 1
    )
    weights, _ = fit(tmp_path)
    kept = sorted(path.name for path in (tmp_path / "models" / "unet").iterdir())
    assert kept == ["epoch-2.weights.h5", "epoch-4.weights.h5"]
    model = small_model()
    model.load_weights(tmp_path / "models" / "unet" / kept[0])
    np.testing.assert_array_equal(weights[0], model.get_weights()[0])


def test_a_row_that_was_cut_off_is_not_an_epoch(tmp_path):
    record = tmp_path / "unet.csv"
    record.write_text("")
    assert training.read_history(record) == {}
    record.write_text("epoch,loss,val_loss\n0,0.5,0.6\n1,0.4,")
    assert training.read_history(record) == {"epoch": [0], "loss": [0.5], "val_loss": [0.6]}


def test_best_epoch_is_the_lowest_validation_loss_that_is_a_number():
    nan = float("nan")
    assert training.best_epoch({"val_loss": [nan, 0.5, 0.3, 0.3]}) == 3
    assert training.best_epoch({"val_loss": [nan]}) is None
    assert training.best_epoch({}) is None


def test_training_stops_when_the_loss_is_no_number_and_does_not_go_on(tmp_path, monkeypatch):
    def explode(self, epoch, logs=None):
        if epoch == 1:
            self.model.set_weights([weights * np.nan for weights in self.model.get_weights()])

    monkeypatch.setattr(training.DropCheckpoints, "on_epoch_begin", explode)
    weights, history = fit(tmp_path, loss="bce")
    assert training.diverged(history)
    assert history["epoch"] == [0, 1]
    assert np.isfinite(weights[0]).all()  # those of the first epoch
    assert fit(tmp_path, loss="bce")[1]["epoch"] == [0, 1]


# The source task


def test_textures_repeat_with_the_seed_and_are_balanced():
    images, labels = source_task.textures(16, 24, seed=3)
    again, _ = source_task.textures(16, 24, seed=3)
    np.testing.assert_array_equal(images, again)
    assert images.shape == (16, 24, 24, 3)
    assert 0 <= images.min() < images.max() <= 255
    assert np.bincount(labels).tolist() == [2] * 8


# The run as a whole


def read_rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """U-Net trains; M-Unet has no weights in an empty directory."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "weights").mkdir()
    arguments = [
        "--models",
        "unet,munet",
        "--size",
        "32",
        "--epochs",
        "2",
        "--limit",
        "6",
        "--recipe",
        "paper",
    ]
    arguments += ["--weights-dir", str(folder / "weights"), "--output", str(folder / "run")]
    return folder / "run", reproduce_paper.main(arguments)


def test_a_small_run_writes_all_that_it_promises(small_run):
    output, _ = small_run
    results = json.loads((output / "results.json").read_text())
    assert results["status"] == "complete"
    entry = results["models"]["unet"]
    assert entry["status"] == "done"
    assert entry["parameters"] == entry["trainable_parameters"] == 31_031_745
    assert entry["best_epoch"] in (1, 2)
    for part in ("validation", "test"):
        assert {"dice", "iou", "accuracy", "hard_dice", "hard_iou", "half", "loss"} <= set(
            entry[part]
        )
    assert results["configuration"]["seed"] == 0
    assert {"keras", "tensorflow", "tl_unet", "cpus", "processor"} <= set(results["environment"])
    assert len(read_rows(output / "history" / "unet.csv")) == 2
    page = (output / "report.md").read_text()
    for figure in ("figure1", "figure2", "figure3"):
        assert (output / "figures" / f"{figure}.png").stat().st_size < 300_000
        assert f"(figures/{figure}.png)" in page
    assert (output / "table1.md").read_text().split("\n", 1)[1] in page
    assert (output / "table2.md").read_text().split("\n", 1)[1] in page


def test_best_epoch_scores_are_those_of_its_row(small_run):
    output, _ = small_run
    entry = json.loads((output / "results.json").read_text())["models"]["unet"]
    row = read_rows(output / "history" / "unet.csv")[entry["best_epoch"] - 1]
    for score in ("dice", "hard_iou", "accuracy"):
        assert entry["validation"][score] == pytest.approx(float(row[f"val_{score}"]), abs=1e-5)


def test_a_model_without_weights_is_skipped_with_the_reason_and_the_status_says_so(small_run):
    output, status = small_run
    assert status == SKIPPED
    entry = json.loads((output / "results.json").read_text())["models"]["munet"]
    assert entry["status"] == "skipped"
    assert "mobilenetv2_imagenet_notop.weights.h5" in entry["reason"]
    page = (output / "report.md").read_text()
    assert entry["reason"] in page
    assert "| M-Unet | 0.8014 | skipped |" in page
    assert "| V-Unet | 0.8989 | not run |" in page


def test_a_model_that_is_skipped_keeps_the_epochs_that_it_has(small_run, tmp_path):
    shutil.copytree(small_run[0], tmp_path / "run")
    epoch = tmp_path / "run" / "models" / "munet" / "epoch-1.weights.h5"
    epoch.parent.mkdir()
    epoch.touch()
    assert reproduce_paper.main(["--resume", "--output", str(tmp_path / "run")]) == SKIPPED
    assert epoch.exists()


def test_the_saved_model_predicts_what_figure_1_shows(small_run):
    output, _ = small_run
    model = keras.saving.load_model(output / "models" / "unet.keras")
    shown = np.load(output / "predictions" / "unet.npy")
    images = shapes(2, size=32, batch_size=2, seed=2).dataset
    np.testing.assert_allclose(model.predict(images, verbose=0), shown, atol=1e-5)


@pytest.mark.parametrize("status", ["done", "diverged"])
def test_resuming_a_finished_run_trains_nothing_and_writes_the_report_again(
    status, small_run, tmp_path, monkeypatch
):
    output = shutil.copytree(small_run[0], tmp_path / "run")
    results = json.loads((output / "results.json").read_text())
    results["models"]["unet"]["status"] = status
    (output / "results.json").write_text(json.dumps(results))
    for name in ("report.md", "figures/figure3.png"):
        (output / name).unlink()
    monkeypatch.setattr(experiment, "fit", None)
    assert reproduce_paper.main(["--output", str(output), "--resume"]) == SKIPPED
    assert "figures/figure3.png" in (output / "report.md").read_text()
    assert (output / "figures" / "figure3.png").exists()


def test_an_interrupted_run_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(experiment.Experiment, "run", interrupted)
    assert reproduce_paper.main(["--output", str(tmp_path / "run")]) == INTERRUPTED
    assert "--resume" in capsys.readouterr().err


def test_a_figure_full_of_noise_still_fits_a_repository(tmp_path):
    images = np.random.default_rng(0).uniform(0, 255, (5, 128, 128, 3))
    panel = plotting.prediction_panel(
        images, images[..., 0], {f"{i}": images[..., 0] for i in range(6)}
    )
    figures.save(panel, tmp_path / "noise.png")
    assert 0 < (tmp_path / "noise.png").stat().st_size < 300_000


def test_table_2_of_pets_shows_the_erratum():
    counts = {"pictures": 3, "dogs": 2, "cats": 1, "foreground": None}
    text = report.table2({"data": {"train": counts, "validation": counts, "test": counts}})
    assert "| train | 3 | 2 | 1 | – |" in text
    assert "| validation | 738 | 520 | 218 |" in text
    assert "columns are swapped" in text


# Slow: real data, real interruptions


# The script as it is, but with a small U-Net; frozen, since the random state of its encoder's
# dropout is in no checkpoint.
CHILD = """
import dataclasses, os, runpy, sys
sys.path[:0] = sys.argv[1], os.path.dirname(sys.argv[2])
import tl_unet
from tiny import TINY
small = {"encoder": dataclasses.replace(TINY, taps=TINY.taps[:2]), "decoder_filters": (8, 8)}
build = tl_unet.build_unet
tl_unet.build_unet = lambda encoder, name=None, **_: build(**small, weights=None, name=name)
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""

# Its epochs are short: of so many, some are left after two signals. At this learning rate it would
# show if one of them was lost.
SMALL = ("--models", "unet", "--size", "32", "--epochs", "30", "--limit", "24")
SMALL += ("--learning-rate", "0.01")


@pytest.mark.slow
def test_an_interrupted_and_a_killed_process_resume_to_the_same_result(tmp_path):
    def start(folder, *options):
        script = [str(EXAMPLES / "reproduce_paper.py"), "--output", str(tmp_path / folder)]
        call = [sys.executable, "-c", CHILD, str(Path(__file__).parent), *script, *options]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        # Where the tests run in the background, their children would ignore Ctrl-C.
        listen = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(call, cwd=EXAMPLES.parent, preexec_fn=listen, **quiet)

    record = tmp_path / "stopped" / "history" / "unet.csv"

    def epochs():
        return len(training.read_history(record).get("epoch", [])) if record.exists() else 0

    options = SMALL
    for how, status in ((signal.SIGINT, INTERRUPTED), (signal.SIGKILL, -signal.SIGKILL)):
        process, done = start("stopped", *options), epochs()
        while epochs() == done:
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(how)
        assert process.wait(300) == status
        assert epochs() < 30
        options = ["--resume"]
    assert start("stopped", "--resume").wait(300) == 0
    assert start("whole", *SMALL).wait(300) == 0
    stopped, whole = (
        json.loads((tmp_path / run / "results.json").read_text())["models"]["unet"]
        for run in ("stopped", "whole")
    )
    assert stopped["best_epoch"] == whole["best_epoch"]
    assert stopped["test"] == pytest.approx(whole["test"], abs=1e-5)


@pytest.mark.slow
def test_corrected_munet_beats_the_papers_on_real_pets(tmp_path):
    arguments = [
        "--data",
        str(shared_path("oxford_pets")),
        "--weights-dir",
        str(shared_path("weights")),
    ]
    arguments += ["--models", "munet", "--size", "64", "--epochs", "2", "--limit", "48"]
    scores = {}
    for recipe in ("paper", "corrected"):
        output = tmp_path / recipe
        assert reproduce_paper.main([*arguments, "--recipe", recipe, "--output", str(output)]) == 0
        entry = json.loads((output / "results.json").read_text())["models"]["munet"]
        scores[recipe] = entry["test"]["hard_iou"]
    assert scores["corrected"] > scores["paper"]


@pytest.mark.slow
def test_demo_trains_its_encoder_on_the_source_task_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", {**registry._REGISTRY, "tiny": TINY})
    munet = dataclasses.replace(recipes.MODELS["munet"], encoder="tiny")
    monkeypatch.setitem(recipes.MODELS, "munet", munet)
    monkeypatch.setattr(source_task, "LEARNING_RATE", 0.02)  # few filters: slow learners
    arguments = ["--models", "munet", "--epochs", "1", "--limit", "12", "--output", str(tmp_path)]
    assert reproduce_paper.main(arguments) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["source_task"]["tiny"] > 1 / 8
    assert "not ImageNet weights" in (tmp_path / "report.md").read_text()
