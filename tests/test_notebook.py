"""The quick start as a notebook: committed without outputs, and it runs offline."""

import pathlib

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

NOTEBOOK = pathlib.Path(__file__).resolve().parents[1] / "examples" / "quickstart.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_the_notebook_is_valid_and_has_no_outputs(notebook):
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)


# Few pictures and one pass: it is to run to its end, not to learn.
SHORTER = {"shapes(384": "shapes(16", "shapes(64": "shapes(16", "epochs=6": "epochs=1"}


@pytest.mark.slow
def test_the_notebook_runs_to_its_end_and_shows_its_pictures(notebook, tmp_path):
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for text, shorter in SHORTER.items():
        (cell,) = (cell for cell in cells if text in cell.source)
        cell.source = cell.source.replace(text, shorter)
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    printed = "".join(output.get("text", "") for output in cells[-1].outputs)
    assert "The loaded model predicts the same: True" in printed
    for call in ("learning_curves(", "prediction_panel("):
        cell = next(
            cell for cell in cells if cell.source.startswith(call) or f"\n{call}" in cell.source
        )
        assert any("image/png" in output.get("data", {}) for output in cell.outputs)
    assert (tmp_path / "model.keras").exists()
