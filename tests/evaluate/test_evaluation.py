"""What an evaluation shows: intervals, labels, confusions, slices, new texts, baselines; on the screen and as JSON."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kitune
from kitune.cli import main
from kitune.data.table import Table
from kitune.errors import UserError
from kitune.evaluate.baselines import SAMPLE_ROWS, writes_without_words
from kitune.evaluate.evaluation import MOST_SLICES, slices_of
from tests.jsonl import write_rows

Rows = Callable[..., list[dict[str, Any]]]
OPTIONS = {
    "train.epochs": 4,
    "train.learning_rate": 3e-3,
    "train.dropout": 0.0,
    "engine.threads": 1,
    "engine.precision": "fp32",
    "data.max_length": 32,
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory, lively_model: Path, rows: Rows) -> Callable[..., kitune.Run]:
    """A run of a task from a file, made once."""
    made: dict[tuple[str, bool], kitune.Run] = {}

    def make(task: str, pair: bool = False) -> kitune.Run:
        if (task, pair) not in made:
            place = tmp_path_factory.mktemp(task)
            data = write_rows(place / "train.jsonl", rows(task, 90, pair=pair))
            text = ["text", "other"] if pair else "text"
            made[task, pair] = kitune.train(
                data, model=str(lively_model), out=place / "run", text=text, label="label", options=OPTIONS
            )
        return made[task, pair]

    return make


def command(*words: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code == code


@pytest.mark.parametrize(
    ("task", "pair"), [("single-label", False), ("single-label", True), ("multi-label", False), ("regression", True)]
)
def test_every_evaluation_stands_beside_three_baselines(
    run_of: Callable[..., kitune.Run], rows: Rows, task: str, pair: bool
) -> None:
    made = rows(task, 60, pair=pair, seed=4)
    found = run_of(task, pair).model.evaluate(made)
    assert list(found.baselines) == ["majority", "TF-IDF", "frozen probe"]
    assert all(one.rows == 60 for one in found.baselines.values())
    name = {"single-label": "accuracy", "multi-label": "micro_f1", "regression": "spearman"}[task]
    # The mood of a text hangs on one word, so that words must beat the commonest answer.
    if not pair:
        assert found.baselines["TF-IDF"].metrics[name] > found.baselines["majority"].metrics[name]
    low, high = found.intervals[name]
    assert low <= found.metrics[name] <= high
    for rival, (ahead, interval) in found.ahead.items():
        assert ahead == pytest.approx(found.metrics[name] - found.baselines[rival].metrics[name])
        assert interval is not None
        assert interval[0] <= ahead <= interval[1]


def test_the_majority_is_the_commonest_label_of_train(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    found = run_of("single-label").model.evaluate(made := rows("single-label", 50, seed=4))
    train = [row["label"] for row in rows("single-label", 90)]
    commonest = max(("no", "yes"), key=train.count)
    assert found.baselines["majority"].metrics["accuracy"] == pytest.approx(
        np.mean([row["label"] == commonest for row in made])
    )


def test_slices_are_scored_as_if_they_were_alone(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    made = [{**row, "source": "ab"[i % 3 == 0]} for i, row in enumerate(rows("single-label", 40, seed=5))]
    model = run_of("single-label").model
    found = model.evaluate(made, by=["source"], baselines=False)
    assert {value: one.rows for value, one in found.slices["source"].items()} == {"a": 26, "b": 14}
    alone = model.evaluate([row for row in made if row["source"] == "b"], baselines=False)
    assert found.slices["source"]["b"].metrics == pytest.approx(alone.scores.metrics, nan_ok=True)


def test_numbers_are_cut_at_their_quartiles_and_many_values_at_the_commonest() -> None:
    table = Table(
        __import__("pyarrow").table({"n": [str(i) for i in range(100)], "name": [f"x{i % 40}" for i in range(100)]}),
        "t",
    )
    quarters, said = slices_of(table, "n")
    assert {value: len(rows) for value, rows in quarters.items()} == {
        "up to 24.75": 25, "24.75 to 49.5": 25, "49.5 to 74.25": 25, "above 74.25": 25,
    }  # fmt: skip
    assert said is None
    values, said = slices_of(table, "name")
    assert len(values) == MOST_SLICES
    assert said == "name: 20 values with fewer rows are not shown"
    days = Table(__import__("pyarrow").table({"day": [str(20240101 + i) for i in range(28)]}), "t")
    assert [len(rows) for rows in slices_of(days, "day")[0].values()] == [7, 7, 7, 7]


def test_rows_whose_text_was_learned_are_told_apart(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    made = rows("single-label", 10) + rows("single-label", 20, seed=6)
    found = run_of("single-label").model.evaluate(made, baselines=False)
    assert found.new is not None
    assert (found.scores.rows, found.new.rows) == (30, 20)


def test_the_confusion_matrix_has_a_row_a_label(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    found = run_of("single-label").model.evaluate(made := rows("single-label", 40, seed=7), baselines=False)
    assert found.confusion is not None
    assert found.confusion.sum(axis=1).tolist() == [
        sum(row["label"] == name for row in made) for name in found.label_names
    ]
    assert np.trace(found.confusion) / 40 == pytest.approx(found.metrics["accuracy"])


def test_evaluate_writes_json_and_never_over_a_file(
    run_of: Callable[..., kitune.Run], rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "new.jsonl", rows("single-label", 30, seed=8))
    out = tmp_path / "metrics.json"
    words = ["evaluate", run_of("single-label").folder, data, "--by", "id", "--out", out]
    command(*words, "--no-baselines", "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert set(printed) >= {"rows", "metrics", "intervals", "labels", "confusion", "by", "baselines", "notes"}
    command(*words, code=2)
    assert "metrics.json: it exists already" in capsys.readouterr().err


def test_of_a_run_from_python_the_baselines_want_the_rows(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    train = rows("single-label", 60)
    run = kitune.train(train, model=str(lively_model), out=tmp_path / "run", options=OPTIONS | {"train.epochs": 1})
    made = rows("single-label", 20, seed=3)
    model = kitune.load(run.folder)
    assert model.evaluate(made).notes[0].startswith("no baselines: the run learned from rows in Python")
    assert set(model.evaluate(made, train=train).baselines) == {"majority", "TF-IDF", "frozen probe"}


def test_baselines_are_not_learned_from_rows_that_have_changed(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "train.jsonl", rows("single-label", 60))
    run = kitune.train(data, model=str(lively_model), out=tmp_path / "run", options=OPTIONS | {"train.epochs": 1})
    write_rows(data, rows("single-label", 60, seed=1))
    found = run.model.evaluate(rows("single-label", 20, seed=3))
    assert "its rows are not those that the run learned from" in found.notes[0]


def test_texts_without_words_leave_out_the_bag_of_words(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    signs = [{**row, "text": "!" * (i % 9 + 1)} for i, row in enumerate(rows("single-label", 40))]
    data = write_rows(tmp_path / "train.jsonl", signs)
    told = OPTIONS | {"train.epochs": 1, "data.text": ["text"], "doctor.allow": ["unknown-tokens"]}
    run = kitune.train(data, model=str(lively_model), out=tmp_path / "run", options=told)
    found = run.model.evaluate(signs)
    assert list(found.baselines) == ["majority", "frozen probe"]
    assert "no TF-IDF: empty vocabulary" in found.notes[0]


def test_a_label_that_the_model_does_not_know_is_no_option_s_fault(
    run_of: Callable[..., kitune.Run], rows: Rows
) -> None:
    made = [*rows("single-label", 4), {"text": "good", "label": "maybe"}]
    with pytest.raises(UserError, match="the model was not trained on that label"):
        run_of("single-label").model.evaluate(made)


def test_the_last_weights_have_a_threshold_of_their_own(run_of: Callable[..., kitune.Run]) -> None:
    run = run_of("multi-label")
    log = json.loads((run / "log.json").read_text())
    last = json.loads((run / "last" / "metrics.json").read_text())
    assert last["micro_f1"] == list(log.values())[-1]["valid_log"]["micro_f1"]
    assert kitune.load(run.folder, which="last").threshold == last["threshold"]


def test_a_column_that_is_not_there_is_refused(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    with pytest.raises(UserError, match="sauce"):
        run_of("single-label").model.evaluate(rows("single-label", 5), by=["sauce"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the film was good, über gut", False),
        ("この映画はとても良かったです", True),
        ("这部电影很好看", True),
        ("이 영화 정말 재미있어요", True),
        ("หนังเรื่องนี้ดีมาก", True),
        ("the word 映画 means film in Japanese", False),
    ],
)
def test_languages_without_words_between_spaces_are_told_by_their_letters(text: str, expected: bool) -> None:
    table = Table(__import__("pyarrow").table({"text": [text] * (SAMPLE_ROWS + 1)}), "t")
    assert writes_without_words(table, ("text",)) is expected
