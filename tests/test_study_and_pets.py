"""The scripts around the main job: studies of many runs, and the pets recipe in stages."""

import argparse
import csv
import dataclasses
import json
import pathlib
import shutil
import subprocess
import types

import ensemble_pets
import keras
import numpy as np
import pets_model
import pets_recipes
import pytest
import results
import study
import tensorflow as tf
import train_pets
from conftest import shared_path
from tiny import shallow_unet

import tl_unet
from tl_unet.runs import write_json


def finished(folder, model, iou, **options):
    scores = {"hard_iou": iou, "dice": 0.5, "accuracy": 0.5, "half": 0.0}
    folder.mkdir(parents=True)
    entry = {"status": "done", "validation": scores, "test": scores, "best_epoch": 2, "epochs": 3}
    entry |= {"seconds_per_epoch": 10.0}
    scores["iou"] = 0.4
    options = {"models": [model], "seed": int(folder.name[-1]), "epochs": 1} | options
    results = {"status": "complete", "models": {model: entry}, "configuration": options}
    (folder / "results.json").write_text(json.dumps(results))


def test_a_study_gives_the_mean_and_the_spread_over_its_seeds(tmp_path):
    row = study.STUDIES["confounds"].rows[0]
    for seed, iou in enumerate((0.5, 0.6, 0.7)):
        finished(tmp_path / "confounds" / f"{row.name}-seed{seed}", row.model, iou)
    lines = study.table("confounds", tmp_path).splitlines()
    assert "| 3 | 0.6000 (0.5000 to 0.7000) |" in next(line for line in lines if row.name in line)
    assert sum("not run here" in line for line in lines) == len(study.STUDIES["confounds"].rows) - 1


def test_a_study_runs_what_is_missing_and_resumes_what_was_interrupted(tmp_path, monkeypatch):
    rows = (study.Row("first", "munet", ""), study.Row("second", "vunet", "--loss bce"))
    monkeypatch.setitem(study.STUDIES, "small", study.Study("?", "--epochs 1", (0, 1), rows))
    finished(tmp_path / "small" / "first-seed0", "munet", 0.5)
    (tmp_path / "small" / "second-seed0").mkdir()
    interrupted = {"status": "running", "models": {}}
    (tmp_path / "small" / "second-seed0" / "results.json").write_text(json.dumps(interrupted))
    skipped = {"status": "complete", "models": {"vunet": {"status": "skipped", "reason": "none"}}}
    (tmp_path / "small" / "second-seed1").mkdir()
    (tmp_path / "small" / "second-seed1" / "results.json").write_text(json.dumps(skipped))
    calls = []
    monkeypatch.setattr(
        subprocess, "run", lambda call: calls.append(call) or types.SimpleNamespace(returncode=0)
    )
    places = argparse.Namespace(data="pets", weights_dir="weights", output=tmp_path, rows=None)
    study.run("small", places)
    ran = [pathlib.Path(call[call.index("--output") + 1]).name for call in calls]
    assert ran == ["second-seed0", "first-seed1", "second-seed1"]
    assert ["--resume" in call for call in calls] == [True, False, True]
    assert (tmp_path / "small" / "table.md").exists()
    places.rows = {"first"}
    calls.clear()
    study.run("small", places)
    assert [pathlib.Path(call[call.index("--output") + 1]).name for call in calls] == [
        "first-seed1"
    ]


@pytest.mark.parametrize("other", [{"loss": "dice"}, {"epochs": 3}, {"limit": 30}])
def test_a_study_refuses_a_complete_run_of_other_options(tmp_path, monkeypatch, other):
    row = study.Row("first", "munet", "--loss bce")
    monkeypatch.setitem(study.STUDIES, "small", study.Study("?", "--epochs 1", (0,), (row,)))
    places = argparse.Namespace(data="pets", weights_dir="weights", output=tmp_path, rows=None)
    finished(tmp_path / "small" / "first-seed0", "munet", 0.5, **{"loss": "bce"} | other)
    with pytest.raises(SystemExit, match=next(iter(other))):
        study.run("small", places)


def test_a_study_of_the_papers_models_has_the_papers_figures_and_says_what_was_not_run(tmp_path):
    finished(tmp_path / "claim" / "munet-seed0", "munet", 0.7)
    lines = study.table("claim", tmp_path).splitlines()
    ours = next(line for line in lines if "M-Unet" in line)
    assert "| 0.8014 | 0.5000 | 0.6692 | 0.4000 | 0.9053 | 0.5000 | 0.7000 |" in ours
    absent = next(line for line in lines if "R-Unet" in line)
    assert absent.count("not run here") == 5
    assert "0.7569" in absent


@pytest.mark.parametrize("name", study.STUDIES)
def test_the_results_that_are_published_are_of_the_studys_options(name):
    published = 0
    for row in study.STUDIES[name].rows:
        for seed in study.STUDIES[name].seeds:
            path = results.kept_path(results.RESULTS, name, row, seed)
            if study.read(path, row):
                study.check(study.STUDIES[name], row, seed, path)
                published += 1
    assert published or name == "features"  # which was not run


@pytest.mark.parametrize("name", study.STUDIES)
def test_every_row_of_a_study_is_a_valid_run(name):
    from paper.options import parser, resolve

    places = argparse.Namespace(data="shapes", weights_dir=None)
    one = study.STUDIES[name]
    names = [row.name for row in one.rows]
    assert len(set(names)) == len(names)
    for row in one.rows:
        call = [part for part in study.command(one, row, 7, places) if part is not None]
        options = resolve(parser().parse_args(call[: call.index("--weights-dir")]), None)
        assert (options.models, options.seed, options.limit) == ([row.model], 7, None)


@pytest.mark.parametrize("name", train_pets.RECIPES)
def test_the_models_of_the_pets_recipes_reach_a_stride_of_32_with_normalized_maps(name):
    model = pets_model.build_model(train_pets.RECIPES[name], None)
    names = {layer.name for layer in model.layers}
    encoder = model.get_layer("encoder")
    maps = encoder.compute_output_spec(keras.KerasTensor((1, 64, 64, 3)))
    assert maps[-1].shape[1:3] == (2, 2)
    normalized = any(isinstance(layer, keras.layers.BatchNormalization) for layer in encoder.layers)
    assert normalized or {f"feature{2**i}_norm" for i in range(6)} <= names


def test_an_encoders_share_of_the_rate_is_that_of_its_steps_also_after_saving(image):
    def change(share):
        keras.utils.set_random_seed(0)
        model = shallow_unet(normalization="batch")
        stage = pets_recipes.Stage("full", 32, 1, 1e-3, frozen=False, encoder_share=share)
        pets_model.compile_model(model, stage, steps=10)
        tl_unet.unfreeze_encoder(model)  # from the optimizer's configuration
        encoder = model.get_layer("encoder").trainable_variables
        before = [variable.numpy() for variable in model.trainable_variables]
        for _ in range(3):
            model.train_on_batch(image, (image[..., :1] > 128).astype("float32"))
        moved = [
            np.abs(v.numpy() - old).mean()
            for v, old in zip(model.trainable_variables, before, strict=True)
        ]
        paths = {variable.path for variable in encoder}
        inside = [variable.path in paths for variable in model.trainable_variables]
        return [
            np.mean([m for m, i in zip(moved, inside, strict=True) if i == wanted])
            for wanted in (True, False)
        ]

    encoder, decoder = change(1.0)
    slow, same = change(0.1)
    assert 0.08 < slow / encoder < 0.13
    assert 0.9 < same / decoder < 1.1


def test_a_run_of_pets_is_resumed_with_its_own_options_only(tmp_path, monkeypatch, capsys):
    class Begun(Exception):
        pass

    def begin(*args):
        raise Begun

    def run(*arguments):
        call = ["train_pets.py", "--data", "pets", "--output", str(tmp_path / "run"), *arguments]
        monkeypatch.setattr("sys.argv", call)
        train_pets.main()

    monkeypatch.setattr(train_pets, "build_model", begin)
    for limit in ("7", "8"):  # nothing was trained with the first ones
        with pytest.raises(Begun):
            run("--limit", limit)
    (tmp_path / "run" / "decoder").mkdir()
    (tmp_path / "run" / "decoder" / "history.csv").write_text("epoch\n")
    with pytest.raises(Begun):
        run("--limit", "8", "--resume", "--verbose", "0")
    for changed in (["--limit", "9"], ["--limit", "8", "--fast"], ["--limit", "8", "--seed", "1"]):
        with pytest.raises(SystemExit):
            run(*changed, "--resume")
        message = capsys.readouterr().err
        assert "holds a run with other options" in message
        assert (
            f"--{'recipe' if '--fast' in changed else changed[-2].removeprefix('--')} (" in message
        )
    recipe = train_pets.RECIPES["mobilenetv2"]
    other = dataclasses.replace(recipe, stages=recipe.stages[:2])
    monkeypatch.setitem(train_pets.RECIPES, "mobilenetv2", other)
    with pytest.raises(SystemExit):
        run("--limit", "8", "--resume")
    assert "another version of the recipe" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--size", "320"], "--size is for --evaluate"),
        (["--labels", "1:1"], "--labels is for --evaluate"),
        (["--limit", "2"], "--limit must be at least 3"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--data", "nowhere"], "nowhere"),
        (["--evaluate", "nowhere", "masks", "--size", "32"], "nowhere"),
        (["--evaluate", "images", "masks", "--size", "0"], "--size must be at least 1"),
    ],
)
def test_wrong_options_of_the_pets_script_are_told_in_a_line(
    given, said, tmp_path, monkeypatch, capsys
):
    (tmp_path / "model.keras").touch()
    monkeypatch.setattr(train_pets, "build_model", lambda recipe, weights: None)
    monkeypatch.setattr("sys.argv", ["train_pets.py", *given, "--output", str(tmp_path)])
    if "--evaluate" not in given:
        (tmp_path / "model.keras").unlink()
    with pytest.raises(SystemExit) as end:
        train_pets.main()
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_the_accuracy_of_pets_leaves_out_what_is_255():
    masks = np.array([1.0, 0.0, 255.0, 255.0], "float32").reshape(1, 2, 2, 1)
    found = np.array([0.9, 0.9, 0.9, 0.1], "float32").reshape(1, 2, 2, 1)
    accuracy = pets_model.Accuracy()
    accuracy.update_state(masks, found)
    assert float(accuracy.result()) == 0.5


def test_of_several_weights_those_are_chosen_that_find_most_on_the_validation_pictures(image):
    model = shallow_unet(normalization="batch")
    masks = (image[..., :1] > 128).astype("float32")
    part = types.SimpleNamespace(dataset=tf.data.Dataset.from_tensors((image, masks)))
    model.compile(loss="binary_crossentropy", metrics=pets_model.metrics())
    candidates = {}
    for name, bias in (("everything", 9.0), ("nothing", -9.0)):
        *others, _ = model.get_weights()
        candidates[name] = [*others, np.array([bias], "float32")]
    scores = train_pets.choose(model, candidates, {"train": part, "validation": part})
    assert scores["everything"] > 0 == scores["nothing"]
    assert model.get_weights()[-1] == 9.0


def test_stages_of_one_size_see_other_pictures_by_their_seeds():
    arguments = argparse.Namespace(data=shared_path("oxford_pets"), limit=8, seed=0)

    def first(seed):
        stage = pets_recipes.Stage("full", 32, 1, 1e-3, frozen=False, batch_size=8, seed=seed)
        return next(iter(train_pets.load_data(arguments, stage)["train"].dataset))[0].numpy()

    keras.utils.set_random_seed(0)
    one, other = first(0), first(1)
    keras.utils.set_random_seed(0)
    np.testing.assert_array_equal(first(0), one)
    assert np.abs(one - other).mean() > 5


def test_pets_train_in_stages_resume_and_are_evaluated_on_a_folder(tmp_path, monkeypatch, capsys):
    pets = shared_path("oxford_pets")
    stages = (
        pets_recipes.Stage("decoder", 32, 1, 1e-3, frozen=True, batch_size=4),
        pets_recipes.Stage("first", 64, 1, 1e-4, frozen=False, batch_size=4),
        pets_recipes.Stage("full", 64, 2, 1e-4, frozen=False, batch_size=4, seed=1),
    )
    fast = dataclasses.replace(
        train_pets.RECIPES["fast"], stages=stages, averaged=("first", "full")
    )
    monkeypatch.setitem(train_pets.RECIPES, "fast", fast)

    def build_model(recipe, weights):
        model = shallow_unet(normalization="batch")
        for layer in model.get_layer("encoder").layers:
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = (
                    0.0  # MobileNetV2 and VGG16 have none; what it draws is in no checkpoint
                )
        return model

    monkeypatch.setattr(train_pets, "build_model", build_model)
    run = ["train_pets.py", "--data", str(pets), "--fast"]
    run += ["--limit", "8", "--output", str(tmp_path / "run"), "--verbose", "0"]
    monkeypatch.setattr("sys.argv", run)
    train_pets.main()
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert set(results["test"]) == set(results["validation"]) == set(train_pets.VIEWS)
    assert (results["recipe"], results["dtype_policy"]) == ("fast", "float32")
    assert set(results["weights"]) == {"first", "full", "mean"}
    assert "--fast --limit 8" in results["command"]
    assert results["environment"]["processor"]

    # The last stage again, as if it had been interrupted in the row of its second epoch.
    record = tmp_path / "run" / "full" / "history.csv"
    whole = record.read_text()
    record.write_text(whole[:-30])
    (tmp_path / "run" / "model.keras").unlink()
    monkeypatch.setattr("sys.argv", [*run, "--resume"])
    train_pets.main()
    with record.open() as file:
        again = list(csv.DictReader(file))
    assert [row["epoch"] for row in again] == ["0", "1"]
    for row, wanted in zip(again, csv.DictReader(whole.splitlines()), strict=True):
        for name in set(wanted) - {"seconds"}:
            assert float(row[name]) == pytest.approx(float(wanted[name]), abs=1e-5), name

    monkeypatch.setattr("sys.argv", run)
    with pytest.raises(SystemExit):
        train_pets.main()
    assert "--resume" in capsys.readouterr().err

    shutil.copytree(tmp_path / "run", tmp_path / "other")
    members = [keras.saving.load_model(tmp_path / "run" / "model.keras", compile=False)]
    members.append(keras.models.clone_model(members[0]))
    members[1].set_weights([0.9 * values for values in members[0].get_weights()])
    members[1].save(tmp_path / "other" / "model.keras")
    call = ["ensemble_pets.py", str(tmp_path / "run"), "--data", str(pets)]
    call += ["--output", str(tmp_path / "both")]
    monkeypatch.setattr("sys.argv", call)
    with pytest.raises(SystemExit):
        ensemble_pets.main()
    assert "two different runs" in capsys.readouterr().err
    call.insert(1, str(tmp_path / "other"))
    monkeypatch.setattr("sys.argv", call)
    ensemble_pets.main()
    both = json.loads((tmp_path / "both" / "results.json").read_text())
    one = json.loads((tmp_path / "run" / "results.json").read_text())
    assert both["seconds"] == pytest.approx(2 * one["seconds"])
    assert both["limit"] == 8
    assert both["members"][1]["test"] == one["test"]
    model = keras.saving.load_model(tmp_path / "both" / "model.keras", compile=False)
    image = np.random.default_rng(0).integers(0, 256, (1, 64, 64, 3), "uint8")
    first, second = (member.predict(image, verbose=0) for member in members)
    assert np.abs(first - second).max() > 1e-3
    np.testing.assert_allclose(model.predict(image, verbose=0), (first + second) / 2, atol=1e-5)
    pictures = {"train": 8, "validation": 2, "test": 3}
    for key, value in {
        "limit": 9,
        "pictures": pictures,
        "stages": [{**one["stages"][-1], "size": 32}],
    }.items():
        write_json(tmp_path / "other" / "results.json", {**one, key: value})
        monkeypatch.setattr("sys.argv", [*call[:-1], str(tmp_path / "new")])
        with pytest.raises(SystemExit):
            ensemble_pets.main()
        assert "different pictures" in capsys.readouterr().err
    for folder in ("run", "other"):  # judged as one, but on pictures that --data has not
        write_json(tmp_path / folder / "results.json", {**one, "pictures": pictures})
    with pytest.raises(SystemExit):
        ensemble_pets.main()
    assert "has other pictures" in capsys.readouterr().err
    write_json(tmp_path / "run" / "results.json", one)
    write_json(tmp_path / "other" / "results.json", both)
    with pytest.raises(SystemExit):
        ensemble_pets.main()
    assert "it lacks recipe, encoder, seed" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", call)
    with pytest.raises(SystemExit):
        ensemble_pets.main()
    assert "holds results" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", [*call[:-1], str(tmp_path / "new")])
    (tmp_path / "other" / "model.keras").unlink()
    with pytest.raises(SystemExit):
        ensemble_pets.main()
    assert "finish that run" in capsys.readouterr().err

    for kind, source in (("images", "images"), ("masks", "annotations/trimaps")):
        (tmp_path / kind).mkdir()
        file = next((pets / source).glob("Abyssinian_10.*"))
        (tmp_path / kind / file.name).write_bytes(file.read_bytes())
    folders = [str(tmp_path / "images"), str(tmp_path / "masks"), "--labels", "1:1,2:0,3:1"]
    evaluate = ["train_pets.py", "--output", str(tmp_path / "run"), "--evaluate", *folders]
    printed = []
    for size in ([], ["--size", "64"], ["--size", "32"]):  # by default that of the last stage
        monkeypatch.setattr("sys.argv", [*evaluate, *size])
        train_pets.main()
        printed.append(capsys.readouterr().out)
    assert "mirrored and scaled: iou" in printed[0]
    assert printed[0] == printed[1] != printed[2]
    monkeypatch.setattr("sys.argv", [*evaluate[:-1], "1:1,2:0,3:255"])  # without the border
    train_pets.main()
    assert "accuracy" in (without := capsys.readouterr().out)
    assert without != printed[0]
    (tmp_path / "run" / "results.json").unlink()
    monkeypatch.setattr("sys.argv", evaluate)
    with pytest.raises(SystemExit):
        train_pets.main()
    assert "give --size" in capsys.readouterr().err
