"""What a notebook shows: unit by unit, and the notebook of the examples as its kernel runs it."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kitune.evaluate.score import Predictions
from kitune.findings import Finding
from kitune.notebook import Grid, as_html

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_tables_are_escaped_and_numbers_stand_to_the_right() -> None:
    rows = [("<b>", 1234, True), ("c", None, False), (None, 0.5, None)]
    html = as_html(["a < b", "", Grid(("name", "rows", "seen"), rows)])
    assert html.count("<p>") == 1
    assert "<p>a &lt; b</p>" in html
    left, right = '<td style="text-align: left">', '<td style="text-align: right">'
    assert f"{left}&lt;b&gt;</td>{right}1,234</td>{left}yes</td>" in html
    assert f"{left}c</td>{right}</td>{left}no</td>" in html
    assert f"{left}</td>{right}0.5</td>{left}</td>" in html
    assert f"{right}0.5000</td>" in as_html([Grid(("name", "rows"), [("a", 0.5)], 4)])
    assert "<thead>" not in as_html([Grid(("", ""), [(1, 2)])])


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
def test_answers_are_a_table_of_their_first_rows(task: Any) -> None:
    logits = np.linspace(-1, 1, 36, dtype=np.float32).reshape(12, 3)[:, : 1 if task == "regression" else 3]
    names = ("score",) if task == "regression" else ("a", "b", "c")
    html = Predictions(logits, names, task)._repr_html_()
    assert html.count("<tr>") == 11
    assert "<p>and 2 more</p>" in html
    assert ("p(c)" in html) == (task != "regression")


def test_findings_are_a_table() -> None:
    from kitune.diagnosis import Findings

    html = Findings([Finding("leak", "37 rows with a text", "drop them", "test", "test.tsv", (4, 9))])._repr_html_()
    assert "warning" in html
    assert "test: 37 rows with a text (test.tsv, lines 4, 9) [leak]" in html


@pytest.mark.slow
def test_the_notebook_of_the_examples_runs_and_shows_bars_and_tables(tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    for name in ("tickets.ipynb", "tickets.csv", "tickets_test.csv"):
        shutil.copy(EXAMPLES / name, tmp_path)
    notebook: Any = nbformat.read(tmp_path / "tickets.ipynb", 4)  # type: ignore[no-untyped-call]
    assert not any(cell.get("outputs") for cell in notebook.cells)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert not [output for output in outputs if output.get("name") == "stderr"], "shown as if it had failed"
    shown = [output.data for output in outputs if "data" in output]
    bars = [data["text/plain"] for data in shown if "application/vnd.jupyter.widget-view+json" in data]
    assert [bar[:17] for bar in bars] == [
        f"[Epoch {epoch}] [{part}]" for epoch in range(3) for part in ("TRAIN", "VALID")
    ]
    inspected, found, run, scores, answers, wrong = (data["text/html"] for data in shown if "text/html" in data)
    assert "613 rows, 4 columns" in inspected
    assert "feature_request" in inspected
    assert "small-valid" in found
    assert "[estimate]" in found
    assert ">test</td>" in run
    assert all(f">{word}</td>" in scores for word in ("balanced_accuracy", "es", "TF-IDF", "frozen probe"))
    assert answers.count("<tr>") == 4
    assert "<th>prediction</th>" in wrong
    assert (tmp_path / "runs" / "run-001" / "best" / "model.safetensors").exists()
