"""The notebook runs from its first cell to its last."""

from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "examples/phantom.ipynb"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Jupyter's own packages
def test_the_notebook_runs(tmp_path):
    reason = "the extra `notebook` is missing"
    nbclient = pytest.importorskip("nbclient", reason=reason)
    nbformat = pytest.importorskip("nbformat", reason=reason)
    for package in ("ipykernel", "pandas"):
        pytest.importorskip(package, reason=reason)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    where = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=300, resources=where).execute()
    outputs = {cell.id: cell.outputs for cell in notebook.cells if "outputs" in cell}
    assert 0 <= float(outputs["train"][-1]["data"]["text/plain"]) <= 1
    assert "p_IV" in outputs["load"][-1]["data"]["text/html"]
    assert "image/png" in outputs["map"][-1]["data"]
