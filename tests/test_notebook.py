"""The notebook runs from its first cell to its last, and is kept without what it printed."""

import copy
import csv
import os
import re

import nbformat
import pytest
from nbclient import NotebookClient
from pages import ROOT

PATH = ROOT / "examples" / "quickstart.ipynb"
NOTEBOOK = nbformat.read(PATH, as_version=4)
CODE = [cell for cell in NOTEBOOK.cells if cell.cell_type == "code"]


def test_the_notebook_holds_no_outputs():
    assert CODE
    assert all(cell.outputs == [] and cell.execution_count is None for cell in CODE)


def test_the_pages_that_the_notebook_points_to_are_there():
    text = "\n".join(cell.source for cell in NOTEBOOK.cells)
    for page in ("metrics", "data", "configuration", "extending"):
        assert f"docs/{page}.md" in text
        assert (ROOT / "docs" / f"{page}.md").is_file()


def likelihoods(folder, run):
    with (folder / "runs" / run / "metrics.csv").open() as file:
        return [float(row["val/nll_response"]) for row in csv.DictReader(file) if row["val/nll_response"]]


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"MODEL": '"smollm2"', "STEPS": "2"}], ids=["as it is", "smollm2"])
def test_the_notebook_runs_from_beginning_to_end(tmp_path, monkeypatch, settings):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("MPLBACKEND", "agg")
    executed = copy.deepcopy(NOTEBOOK)
    for name, value in settings.items():
        cell = next(cell for cell in executed.cells if cell.source.startswith("MODEL = "))
        cell.source = re.sub(rf"^{name} = .*$", f"{name} = {value}", cell.source, flags=re.MULTILINE)
    NotebookClient(executed, timeout=1200, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = [output.text for cell in executed.cells for output in cell.get("outputs", []) if "text" in output]
    measures = [re.match(r"accuracy (\S+), margin (\S+) ", line) for text in printed for line in text.splitlines()]
    margins = [float(found[2]) for found in measures if found]
    assert len(margins) == 3
    if not settings:
        assert min(margins) > 0
        assert likelihoods(tmp_path, "orpo")[-1] < likelihoods(tmp_path, "orpo")[0] - 0.5
        for run in ("dpo", "squared"):
            assert abs(likelihoods(tmp_path, run)[-1] - likelihoods(tmp_path, run)[0]) < 0.1
    assert {"metrics.csv", "data_report.json", "model"} <= {path.name for path in (tmp_path / "runs/orpo").iterdir()}
