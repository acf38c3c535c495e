"""The comparison with other libraries: what its table says, and that a run goes on where it stopped."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import compare
import contestants
import exported
import feature_cache
import figures
import keras
import profile_exported
import profile_step
import pytest
import report
import side_keras
import worker
from tiny import shallow_unet

SPEED = Path(__file__).resolve().parents[1] / "docs" / "results" / "speed"


def document(quick=False, **seconds):
    cell = {
        "work": "latency",
        "settings": {"encoder": "vgg16", "size": 64, "batch": 1, "threads": 2},
        "peak_gflops": 100.0,
        "contestants": {
            name: {"seconds": values, "memory": 2 * 10**9, "parameters": 3 * 10**6}
            for name, values in seconds.items()
        },
    }
    machine = {
        "date": "2026-01-01",
        "platform": "Linux",
        "threads": 2,
        "rounds": 3,
        "quick": quick,
        "versions": {"tl_unet": {"keras": "3.15.1"}},
    }
    return {"machine": machine, "cells": {"latency vgg16": cell}}


def test_a_ratio_is_taken_round_by_round():
    # A machine that gets slower in the middle changes both.
    middle, low, high = report.ratios([1.0, 10.0, 1.0], [2.0, 20.0, 2.0])
    assert (middle, low, high) == (0.5, 0.5, 0.5)
    assert report.ratios([1.0, 2.0, 3.0], [1.0, 1.0, 1.0]) == (2.0, 1.5, 2.5)
    assert report.ratios([3.0], [2.0]) == (1.5, 1.5, 1.5)


def test_the_table_has_medians_ratios_memory_and_shares():
    found = document(tl_unet=[0.1, 0.3, 0.2], smp=[0.2, 0.6, 0.4])
    found["cells"]["latency vgg16"]["contestants"]["tl_unet"]["gflops"] = 5.0
    text = report.text(found)
    assert "| tl_unet | 200.0 |  | 2.00 | 25% | 3.00 |" in text
    assert "| smp | 400.0 | 0.50 (0.50 to 0.50) | 2.00 |  | 3.00 |" in text
    assert "no result" not in text
    assert "no result" in report.text(document(quick=True, tl_unet=[1.0]))


def test_the_first_table_compares_with_the_fastest_of_the_others():
    found = document(**{
        "tl_unet": [0.4, 0.4],
        "tl_unet, folded": [0.2, 0.2],
        "smp": [0.8, 0.8],
        "smp, compile": [0.5, 0.5],
    })  # fmt: skip
    other = document(tl_unet=[0.3])["cells"]["latency vgg16"]
    found["cells"]["latency resnet50"] = other | {
        "settings": other["settings"] | {"encoder": "resnet50"}
    }
    lines = report.summary(found)[:-2]
    assert lines[0] == "| | vgg16 | resnet50 |"
    assert lines[2:] == [
        "| prediction, as built | 0.80 (smp, compile) |  |",
        "| prediction, best way | 0.40 (folded; smp, compile) |  |",
    ]
    assert report.summary(document(smp=[1.0])) == []
    # In Keras' own layers is no further way to run it.
    for cell in found["cells"].values():
        cell["work"] = "step"
    assert report.summary(found)[2] == "| training step, everything | 0.80 (smp, compile) |  |"


def test_the_first_table_leaves_out_other_networks():
    found = document(tl_unet=[0.4], smp=[0.8], medicai=[0.1])
    found["cells"]["latency vgg16"]["contestants"]["medicai"]["parameters"] = 4 * 10**6
    assert "0.50 (smp)" in report.summary(found)[2]


def test_what_misses_its_goal_is_named_unrounded():
    found = document(tl_unet=[0.4496], smp=[0.5])
    assert report.misses(found) == []
    found["cells"]["latency vgg16"]["contestants"]["tl_unet"]["seconds"] = [0.4504]
    assert report.misses(found)[-1] == "- prediction, vgg16: 0.901 (goal: below 0.9)"
    found["cells"]["latency vgg16"] |= {"work": "frozen"}
    assert report.misses(found)[-1].endswith("0.901 (goal: below 0.6)")


def test_figures_show_every_cell_and_encoder(tmp_path, capsys):
    found = document(**{"tl_unet": [0.4, 0.4], "tl_unet, folded": [0.2, 0.2], "smp": [0.5, 0.5]})
    (tmp_path / "compare.json").write_text(json.dumps(found))
    assert report.best_ratios(found) == {("latency", "vgg16"): (0.4, 0.4, 0.4)}
    panels = figures.compare_figure(found).axes
    assert [len(panel.containers) for panel in panels] == [1, 0, 0, 0]
    row = {"seconds": {way: [2.0, 2.0] for way in feature_cache.WAYS} | {"float32": [1.0, 1.0]}}
    for name, filters in (("feature-cache-slim", [8, 4]), ("feature-cache", None)):
        cached = {"setting": {"filters": filters}, "rows": {"unet": row, "vgg16": row}}
        (tmp_path / f"{name}.json").write_text(json.dumps(cached))
    slim, default = figures.cache_figure([cached, cached]).axes
    assert [bar.get_height() for bar in slim.patches] == [1, 1, 0.5, 0.5, 1, 1]
    assert default.get_title() == "default decoder"
    figures.main([str(tmp_path)])
    for name in ("compare", "feature-cache"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "compare.json").unlink()
    with pytest.raises(SystemExit):
        figures.main([str(tmp_path)])
    assert "measure first" in capsys.readouterr().err


def test_our_start_needs_nothing_that_users_may_not_have():
    for work, row in contestants.WORK.items():
        environments = [c.environment(work) for c in row.contestants]
        assert environments[0] == ("plain" if work == "start" else None)
        assert {"torch"} <= set(environments)


def test_memory_is_that_of_a_process_and_not_of_the_one_that_started_it():
    code = "import worker; print(worker.peak_memory())"
    environment = os.environ | {"PYTHONPATH": str(Path(worker.__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < worker.peak_memory() / 4  # TensorFlow is here, and not there


def test_what_reads_pictures_has_no_memory_in_the_table():
    cell = document(tl_unet=[0.1], smp=[0.2])["cells"]["latency vgg16"]
    assert [row[3] for row in report.rows(cell)] == ["2.00", "2.00"]
    assert [row[3] for row in report.rows(cell | {"work": "data"})] == ["", ""]


def test_without_what_exports_need_nothing_is_begun(tmp_path, monkeypatch):
    monkeypatch.setattr(compare.importlib.util, "find_spec", lambda name: None)
    run = ["--json", str(tmp_path / "x.json"), "--work"]
    with pytest.raises(SystemExit, match=r"lacks onnx, .*pip install -e"):
        compare.main([*run, "int8"])
    assert not list(tmp_path.iterdir())
    compare.check_export([("step", "vgg16")], ["tl_unet"])
    compare.check_export([("int8", "vgg16")], ["smp"])


def test_a_failure_is_in_the_table_with_its_reason():
    found = document(tl_unet=[0.1])
    found["cells"]["latency vgg16"]["contestants"]["smp"] = {"error": "no such module"}
    text = report.text(found)
    assert "| smp | failed |" in text
    assert "- smp: no such module" in text


def test_every_work_is_done_by_us_first():
    for row in contestants.WORK.values():
        assert row.contestants[0] == contestants.OURS
        assert len({c.name for c in row.contestants}) == len(row.contestants)


def test_measured_cells_are_not_measured_again(tmp_path, monkeypatch, capsys):
    asked = []

    def measure(work, encoder, arguments, found, missing):
        asked.append((work, encoder))
        if len(asked) == 2:
            raise KeyboardInterrupt
        names = [c.name for c in contestants.WORK[work].contestants if c.library == "tl_unet"]
        return document(**dict.fromkeys(names, [0.1]))["cells"]["latency vgg16"] | {"work": work}

    monkeypatch.setattr(compare, "measure", measure)
    versions = iter([{"torch": {"torch": "2"}}, {"tl_unet": {"keras": "3"}}])
    machine = document()["machine"] | {"platform": compare.platform_name()}
    monkeypatch.setattr(compare, "machine", lambda *_: machine | {"versions": next(versions)})
    run = ["--json", str(tmp_path / "x.json"), "--libraries", "tl_unet", "--work", "latency"]
    run += ["--encoders", "vgg16", "resnet50"]
    with pytest.raises(KeyboardInterrupt):
        compare.main(run)
    compare.main([*run, "--list"])
    listed = capsys.readouterr().out
    assert "latency vgg16: measured" in listed
    assert "latency resnet50: not measured" in listed
    compare.main(run)
    assert asked == [("latency", "vgg16"), ("latency", "resnet50"), ("latency", "resnet50")]
    found = json.loads((tmp_path / "x.json").read_text())
    assert len(found["cells"]) == 2
    assert found["machine"]["versions"] == {"torch": {"torch": "2"}, "tl_unet": {"keras": "3"}}
    assert (tmp_path / "x.md").is_file()
    for option, other in (("--threads", "threads=2"), ("--rounds", "rounds=15")):
        with pytest.raises(SystemExit, match=f"another setting .{other}"):
            compare.main([*run, option, "1"])


def test_a_cell_that_lacks_a_contestant_is_not_measured():
    cell = document(**{"tl_unet": [0.1], "tl_unet, folded": [0.1]})["cells"]["latency vgg16"]

    def state(*libraries):
        return compare.state(cell, "latency", compare.parse(["--libraries", *libraries]))

    cell["contestants"]["tl_unet, enlarged first"] = {"error": "ended"}
    assert state("tl_unet") == "measured; failed: tl_unet, enlarged first"
    assert state("tl_unet", "medicai") == "not measured"
    assert compare.state(None, "latency", compare.parse([])) == "not measured"


@pytest.mark.slow
@pytest.mark.parametrize("encoder", sorted(side_keras.TAPS))
def test_our_side_has_the_architecture_of_the_peer(encoder):
    # Counted in segmentation_models.pytorch 0.6.0, with the statistics of BatchNorm.
    parameters = {"densenet121": 13_693_137, "mobilenetv2": 6_664_913}
    model = side_keras._tl_unet(encoder, 64)
    assert model.count_params() == parameters[encoder]
    plain = side_keras._in_keras_layers(model)
    assert plain.count_params() == parameters[encoder]
    kinds = {type(layer) for layer in (*plain.layers, *plain.get_layer("encoder").layers)}
    assert keras.layers.UpSampling2D in kinds
    assert not any(kind.__module__.startswith("tl_unet.layers") for kind in kinds)


@pytest.mark.slow
def test_children_take_turns(tmp_path):
    run = ["--quick", "--json", str(tmp_path / "q.json"), "--libraries", "tl_unet"]
    compare.main([*run, "--work", "data"])
    cell = json.loads((tmp_path / "q.json").read_text())["cells"]["data"]
    assert len(cell["contestants"]["tl_unet"]["seconds"]) == 3
    assert cell["peak_gflops"] > 0


def test_operations_belong_to_the_layer_they_were_made_for():
    layers = {"conv1_bn": "BatchNormalization", "conv1": "Conv2D"}
    assert profile_step.place("unet/conv1_bn/Mul", "Mul", layers) == "BatchNormalization"
    assert profile_step.place("gradient_tape/unet_1/conv1_1/Sum", "Sum", layers) == "Conv2D"
    kind = "Conv2DBackpropFilter"
    assert profile_step.place("gradient_tape/unet/conv1/x", kind, layers) == "convolutions"
    assert profile_step.place("Adam/Mul_7", "Mul", layers) == "optimizer"
    assert profile_step.place("binary_crossentropy/Mean", "Mean", layers) == "other"


@pytest.mark.slow
def test_the_profile_says_what_a_step_is_spent_on(tmp_path, monkeypatch, capsys):
    small = {w: dataclasses.replace(r, batch=1, size=64) for w, r in contestants.WORK.items()}
    monkeypatch.setattr(profile_step, "WORK", small)
    monkeypatch.setattr(os, "environ", dict(os.environ))  # its threads are not for later tests
    tiny = shallow_unet(normalization="batch", upsampling="nearest")
    monkeypatch.setitem(side_keras.BUILD, "tl_unet", lambda encoder, size: tiny)
    path = tmp_path / "x.json"
    run = ["--encoders", "mobilenetv2", "--calls", "2", "--operations", "4", "--json", str(path)]
    profile_step.main(run)
    step, frozen, latency = json.loads(path.read_text())["rows"]
    assert {"convolutions", "BatchNormalization", "optimizer"} < set(step["places"])
    assert "optimizer" not in latency["places"]
    assert frozen["look_up_milliseconds"] > 0
    assert "look_up_milliseconds" not in step
    assert sum(step["places"].values()) == pytest.approx(sum(step["kinds"].values()))
    text = path.with_suffix(".md").read_text()
    assert text.strip() in capsys.readouterr().out
    assert "| prediction, folded, mobilenetv2 |" in text


@pytest.mark.slow
def test_a_file_is_exported_in_another_process_and_run_in_this_one():
    pytest.importorskip("onnxruntime")
    task = {"library": "tl_unet", "variant": "", "work": "onnxruntime", "encoder": "mobilenetv2"}
    task |= {"size": 64, "batch": 1, "threads": 1}
    predict, facts = exported.prepare(task)
    assert predict().shape == (1, 64, 64, 1)
    assert facts["parameters"] == 6_664_913
    del task["library"]
    with pytest.raises(RuntimeError, match="KeyError: 'library'"):  # what the other process met
        exported.prepare(task)


@pytest.mark.slow
def test_counters_tell_what_an_exported_file_is_spent_on(tmp_path, monkeypatch, capsys):
    for runtime in profile_exported.RUNTIMES:
        pytest.importorskip(runtime)
        small = dataclasses.replace(contestants.WORK[runtime], size=64)
        monkeypatch.setitem(profile_exported.WORK, runtime, small)
    path = tmp_path / "x.json"
    run = ["--encoders", "mobilenetv2", "--calls", "2", "--threads", "1", "--json", str(path)]
    works = profile_exported.RUNTIMES
    profile_exported.main([*run, "--libraries", "tl_unet", "--work", *works])
    rows = json.loads(path.read_text())["rows"]
    assert [(row["library"], row["work"]) for row in rows] == [("tl_unet", work) for work in works]
    for row in rows:
        assert "Conv" in max(row["milliseconds"], key=row["milliseconds"].get)
    assert path.with_suffix(".md").read_text().strip() in capsys.readouterr().out


def of_all_encoders(works, ours, theirs=None):
    """The ratios in docs/results/speed/compare.json from least to greatest, as the pages give them; to the fastest peer unless `theirs` is given."""
    found = []
    for cell in json.loads((SPEED / "compare.json").read_text())["cells"].values():
        if cell["work"] in works:
            seconds = {name: entry.get("seconds") for name, entry in cell["contestants"].items()}
            other = seconds[theirs] if theirs else report.fastest(cell["contestants"], False)[1]
            ratio, _, _ = report.ratios(seconds[ours], other)
            found.append(ratio)
    assert len(found) == len(works) * len(contestants.ENCODERS)
    return f"{min(found):.2f} to {max(found):.2f}"


def test_the_pages_give_the_ratios_that_were_measured():
    readme = (SPEED.parents[2] / "README.md").read_text()
    assert f"a training step takes {of_all_encoders(['step'], 'tl_unet')} of the time" in readme
    assert f"{of_all_encoders(['frozen'], 'tl_unet, cached')} with the features" in readme
    assert f"a prediction {of_all_encoders(['latency'], 'tl_unet, folded')} with its" in readme
    guide = (SPEED.parents[1] / "guides" / "speed.md").read_text()
    step = of_all_encoders(["step"], "tl_unet", "tl_unet, Keras' layers")
    assert f"both layers a training step takes {step} of" in guide
    plain = "tl_unet, enlarged first"
    assert f"prediction in Keras takes {of_all_encoders(['latency'], 'tl_unet', plain)} of" in guide
    exported = of_all_encoders(["onnxruntime", "openvino"], "tl_unet", plain)
    assert f"ONNX Runtime or OpenVINO {exported}, measured" in guide
    folded = of_all_encoders(["onnxruntime"], "tl_unet, folded", "tl_unet")
    assert f"took {folded} of its time in ONNX Runtime" in guide
