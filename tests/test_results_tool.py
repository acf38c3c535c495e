"""The tool that collects the studies' runs for the pages: its short table, its rank correlations, and where it writes them."""

import json
import re

import numpy as np
import pytest

pytest.importorskip("scipy")

import results
import study
from marks import insert
from test_study_and_pets import finished


def kept(root, study, run, model, iou):
    """A finished run as the results page keeps it."""
    finished(root / study / run, model, iou)
    (root / study / run / "results.json").rename(root / study / f"{run}.json")


def test_the_short_table_has_the_papers_scores_beside_ours(tmp_path):
    kept(tmp_path, "claim", "munet-seed0", "munet", 0.7)
    lines = results.summary(tmp_path).splitlines()
    assert "| M-Unet | 0.8014 | 0.500 | 0.700 | 0.700 | 2 of 3 |" in lines
    assert "| R-Unet | 0.7569 | not run here | not run here | not run here | – |" in lines


def test_a_picture_of_predictions_is_not_replaced_by_one_of_fewer_models(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(results, "RESULTS", tmp_path / "kept")
    kept(tmp_path / "kept", "claim", "munet-seed0", "munet", 0.7)
    results.prediction_figure("claim", tmp_path / "runs", "pets")
    assert "munet are not in" in capsys.readouterr().out
    assert not (tmp_path / "kept" / "claim" / "predictions.md").exists()


def test_ranks_are_correlated_where_encoders_differ_on_imagenet(tmp_path):
    for name, iou in (("vunet", 0.6), ("munet", 0.7)):
        kept(tmp_path, "claim", f"{name}-seed0", name, iou)
        kept(tmp_path, "corrected", f"{name}-seed0", name, iou)
    kept(tmp_path, "corrected", "dunet-seed0", "dunet", 0.8)
    _, _, paper, _, equal, three = results.ranks(tmp_path).splitlines()
    assert paper.endswith("| -0.21, of 4 |")
    assert equal.endswith("| none: no two differ on ImageNet |")
    assert three.endswith("| +0.87, of 3 |")


def test_only_what_is_between_the_marks_is_replaced():
    page = "above\n{0}\n{2}\n{1}\nbelow\n".format
    text = insert(page(results.START, results.END, "old"), results.START, results.END, "new")
    assert text == page(results.START, results.END, "new")
    for wrong in ("no marks", 2 * text):
        with pytest.raises(SystemExit, match="lacks the marks"):
            insert(wrong, results.START, results.END, "new")


MARKS = [(results.START, results.END), (results.PETS_START, results.PETS_END)]


@pytest.mark.parametrize("marks", MARKS, ids=["claim", "pets"])
def test_the_pages_have_the_marks_once(marks):
    for page in results.PAGES:
        text = page.read_text(encoding="utf-8")
        assert insert(text, *marks, "new") != text


KEPT = [name for name in study.STUDIES if (results.RESULTS / name).exists()]


def test_the_kept_studies_are_found():
    assert {"claim", "confounds", "corrected", "questions", "rate"} <= set(KEPT)


@pytest.mark.parametrize("name", KEPT)
def test_the_table_of_a_study_is_that_of_the_kept_runs(name):
    kept_table = (results.RESULTS / name / "table.md").read_text("utf-8")
    assert kept_table == study.table(name, results.RESULTS, results.kept_path)
    assert f"results/{name}/table.md" in (results.RESULTS / "index.md").read_text("utf-8")


def test_the_pages_show_the_scores_of_the_kept_runs():
    assert (results.RESULTS / "ranks.md").read_text("utf-8") == results.ranks()
    for page in results.PAGES:
        assert results.summary() in page.read_text("utf-8")


def test_the_pages_show_the_scores_of_the_pets_run_that_is_kept():
    found = json.loads((results.RESULTS / "pets" / "results.json").read_text())
    table = results.pets_table(found)
    for page in results.PAGES:
        assert table in page.read_text(encoding="utf-8")
    for page in (results.ROOT / "README.md", results.ROOT / "docs" / "index.md"):
        caption = re.search(r"IoU ([0-9.]+) on the 738 test pictures", page.read_text("utf-8"))
        assert caption[1] == f"{found['test']['plain']['iou']:.3f}"


def test_a_dead_last_stage_shows_in_the_spread_of_the_probabilities():
    dead = np.where(np.arange(10) < 4, 0.5122, 0.0)
    text = results.spread({"M": dead}, {"M": (np.array([-0.2, -0.9, -0.5]), 0.0486)})
    assert "| M | 0.0000 | 0.5122 | 40% | 0.5121 | 0 positive, 3 negative |" in text
