"""The example of three classes, on a few tiny pictures."""

import csv
import json

import keras
import multiclass
import numpy as np
import pytest
from conftest import shared_path
from PIL import Image
from tiny import shallow_unet


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["multiclass.py", *map(str, arguments), "--verbose", "0"])
    multiclass.main()


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setattr(
        multiclass, "build_model", lambda arguments, classes: shallow_unet(classes=classes)
    )


SMALL = ("--limit", 6, "--size", 32, "--epochs", 2, "--batch-size", 2)


def test_synthetic_figures_are_learned_and_judged_class_by_class(
    tiny, tmp_path, monkeypatch, capsys
):
    run(monkeypatch, *SMALL, "--balance", 1, "--output", tmp_path)
    names = ("background", "ellipse", "polygon")
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["pictures"] == {"train": 6, "validation": 2, "test": 2}
    assert np.sum(results["confusion"]) == 2 * 32 * 32
    assert {f"{score}_{name}" for score in ("iou", "dice", "recall") for name in names} < set(
        results["test"]
    )
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert {f"val_iou_{name}" for name in names} < set(rows[0])
    for figure in ("curves", "confusion", "per_class", "predictions"):
        assert Image.open(tmp_path / f"{figure}.png").size[0] > 200
    printed = capsys.readouterr().out
    assert "Weights: background" in printed
    assert all(f"\n{name} " in printed for name in names)

    # What is saved scores what is printed.
    model = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    options = multiclass.argparse.Namespace(**{**results["options"], "data": "shapes"})
    parts, _ = multiclass.load_data(options)
    scores, _ = multiclass.judge(model, parts["test"].dataset, names)
    assert scores["iou"] == pytest.approx(results["test"]["iou"], abs=1e-6)

    with pytest.raises(SystemExit):
        run(monkeypatch, *SMALL, "--output", tmp_path)
    assert "holds a finished run" in capsys.readouterr().err


def test_pets_have_a_border_and_the_encoder_thaws(tiny, tmp_path, monkeypatch):
    pets = shared_path("oxford_pets")
    stages = []
    monkeypatch.setattr(
        multiclass.tl_unet, "unfreeze_encoder", lambda model, **options: stages.append(options)
    )
    arguments = ("--data", pets, "--freeze-epochs", 1, "--output", tmp_path)
    run(monkeypatch, *SMALL, *arguments)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["class_names"] == ["background", "animal", "border"]
    assert min(np.sum(results["confusion"], axis=1)) > 0  # all three occur in the test pictures
    assert stages == [{"batch_norm": False, "batch_norm_momentum": None}]
    assert len((tmp_path / "history.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_the_model_is_built_for_its_classes():
    options = multiclass.argparse.Namespace(weights=None)
    model = multiclass.build_model(options, 3)
    assert model.output_shape == (None, None, None, 3)
    assert model.get_layer("encoder").trainable


def test_a_folder_of_something_else_is_refused(tmp_path, monkeypatch, capsys):
    (tmp_path / "model.keras").write_text("of `tl-unet train`")
    monkeypatch.setattr(multiclass, "load_data", lambda arguments: pytest.fail("the work began"))
    with pytest.raises(SystemExit):
        run(monkeypatch, *SMALL, "--output", tmp_path)
    assert "is not empty" in capsys.readouterr().err
    assert (tmp_path / "model.keras").read_text() == "of `tl-unet train`"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--limit", "2"], "--limit at least 3"),
        (["--balance", "-1"], "must not be negative"),
        (["--epochs", "0"], "must be at least 1"),
        (["--data", "nowhere"], "nowhere"),
        (["--weights", "nowhere.h5"], "nowhere.h5"),
    ],
)
def test_wrong_options_are_refused(wrong, said, tmp_path, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, *wrong, "--output", tmp_path)
    assert end.value.code == 2
    assert said in capsys.readouterr().err.rsplit("error:", 1)[1]
