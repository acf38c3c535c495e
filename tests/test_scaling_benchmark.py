"""The measurement of how cost grows: its exponents, and what it writes. Nothing is timed here."""

import importlib.metadata
import json
import types

import numpy as np
import pytest
import scaling


@pytest.fixture
def document():
    """Time that is linear, memory that is quadratic in what grows, above a fixed cost."""
    points = {}
    for name, task in scaling.points(quick=False):
        axis = name.split()[0]
        amount = task[axis] ** 2 if axis == "side" else task.get(axis, task.get("batch"))
        points[name] = {"seconds": amount / 10, "bytes": 10**6 * amount**2}
    machine = {"quick": False, "repeats": 3, "platform": scaling.platform_name()}
    machine |= {name: importlib.metadata.version(name) for name in ("keras", "tensorflow")}
    machine |= {"date": "2026-01-01"}
    return {"machine": machine, "points": points}


def test_growth_is_the_exponent_of_the_upper_points():
    amounts = np.array([1, 2, 4, 8, 16, 32], "float64")
    fixed = np.array([100, 100, 0, 0, 0, 0])
    for exponent in (0.5, 1, 2):
        assert scaling.growth(amounts, amounts**exponent + fixed) == pytest.approx(exponent)


def test_a_side_counts_as_its_pixels(document):
    amounts, seconds = scaling.curve(document, "side", "step", "seconds")
    assert amounts.max() == 512**2
    assert scaling.growth(amounts, seconds) == pytest.approx(1)


def test_table_and_figure_show_what_was_measured_and_what_failed(document, tmp_path):
    document["points"]["paper float32, batches of 8"] = {"error": "ended with status -9"}
    document["points"]["side 512 step"] = {"error": "ended with status -9"}
    text = scaling.table(document)
    assert "| pictures of a batch | step | 1.00 | 2.00 |" in text
    assert "| float32, batches of 4 | 0.02 | 0.10 |" in text
    assert "| float32, batches of 8 | ended with status -9 | |" in text
    assert "no result" not in text
    scaling.figure(document).savefig(tmp_path / "growth.png")
    assert (tmp_path / "growth.png").stat().st_size < 300_000


def test_measured_points_are_not_measured_again_and_settings_do_not_mix(
    document, tmp_path, monkeypatch
):
    monkeypatch.setattr(scaling.subprocess, "run", lambda *_, **__: pytest.fail("measured again"))
    record = tmp_path / "x.json"
    record.write_text(json.dumps(document))
    run = ["--json", str(record)]
    scaling.main(run)
    assert "growth of the time" in (tmp_path / "x.md").read_text()
    assert (tmp_path / "x.png").is_file()
    with pytest.raises(SystemExit):
        scaling.main([*run, "--quick"])
    monkeypatch.setattr(scaling, "platform_name", lambda: "another processor")
    with pytest.raises(SystemExit):
        scaling.main(run)
    monkeypatch.undo()
    document["machine"]["keras"] = "3.0"
    record.write_text(json.dumps(document))
    with pytest.raises(SystemExit):
        scaling.main(run)


def test_a_point_that_failed_is_tried_again(document, tmp_path, monkeypatch):
    failed = "paper float32, batches of 32"
    document["points"][failed] = {"error": "ended with status -9"}
    record = tmp_path / "x.json"
    record.write_text(json.dumps(document))
    tried = []

    def run(command, **options):
        tried.append(json.loads(command[-1]))
        return types.SimpleNamespace(returncode=0, stdout='{"seconds": 1.5, "bytes": 10}\n')

    monkeypatch.setattr(scaling.subprocess, "run", run)
    scaling.main(["--json", str(record)])
    assert [task["batch"] for task in tried] == [32]
    assert json.loads(record.read_text())["points"][failed]["seconds"] == 1.5
