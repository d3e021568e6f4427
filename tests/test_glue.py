"""Submissions to GLUE: the official names, header, words and indices, from small files and from QNLI's own."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kitune
from kitune.answers import predict_file
from kitune.cli import main
from kitune.data.read import read_table
from kitune.errors import UserError
from kitune.evaluate.score import Predictions
from kitune.glue import GLUE, count_note, glue_index, glue_rows, glue_task

DATA = Path(__file__).parents[2] / "shared" / "data"
Rows = Callable[..., list[dict[str, Any]]]
QUICK = {"train.epochs": 1, "engine.threads": 1, "engine.precision": "fp32", "data.max_length": 32}
# The label names that the hub's data sets have, and the words of the submission.
NINE = {
    "CoLA": (("unacceptable", "acceptable"), {"0", "1"}),
    "SST-2": (("negative", "positive"), {"0", "1"}),
    "MRPC": (("not_equivalent", "equivalent"), {"0", "1"}),
    "QQP": (("not_duplicate", "duplicate"), {"0", "1"}),
    "STS-B": ((), set()),
    "MNLI-m": (("entailment", "neutral", "contradiction"), {"entailment", "neutral", "contradiction"}),
    "MNLI-mm": (("entailment", "neutral", "contradiction"), {"entailment", "neutral", "contradiction"}),
    "QNLI": (("entailment", "not_entailment"), {"entailment", "not_entailment"}),
    "RTE": (("entailment", "not_entailment"), {"entailment", "not_entailment"}),
    "WNLI": (("not_entailment", "entailment"), {"0", "1"}),
    "AX": (("entailment", "neutral", "contradiction"), {"entailment", "neutral", "contradiction"}),
}


@pytest.fixture(scope="module")
def model_with(tmp_path_factory: pytest.TempPathFactory, lively_model: Path, rows: Rows) -> Callable[..., kitune.Run]:
    """A run with these label names, or of a regression where there are none; made once."""
    made: dict[tuple[str, ...], kitune.Run] = {}

    def make(names: tuple[str, ...]) -> kitune.Run:
        if names not in made:
            train = rows("single-label" if names else "regression", 40)
            for number, row in enumerate(train):
                row["label"] = names[number % len(names)] if names else 6 * row["label"]
            folder = tmp_path_factory.mktemp("glue") / "run"
            made[names] = kitune.train(train, model=str(lively_model), out=folder, options=QUICK)
        return made[names]

    return make


@pytest.mark.parametrize("name", NINE)
def test_a_submission_has_the_official_name_header_indices_and_words(
    model_with: Callable[..., kitune.Run], rows: Rows, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    names, words = NINE[name]
    test = [{"index": number, "text": row["text"]} for number, row in enumerate(rows("single-label", 12, seed=5))]
    data = tmp_path / "test.tsv"
    data.write_text("index\ttext\n" + "".join(f"{row['index']}\t{row['text']}\n" for row in test))
    out = tmp_path / f"{name}.tsv"
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(model_with(names).folder), str(data), "--format", "glue", "--out", str(out)])
    assert stopped.value.code == 0
    lines = [line.split("\t") for line in out.read_text().splitlines()]
    assert lines[0] == ["index", "prediction"]
    assert [line[0] for line in lines[1:]] == [str(number) for number in range(12)]
    said = {line[1] for line in lines[1:]}
    if words:
        assert said <= words
    else:
        assert all(0 <= float(value) <= 5 for value in said)
    assert f"the site takes the {GLUE[name].rows:,}" in capsys.readouterr().err


def test_each_answer_becomes_its_own_word() -> None:
    index = np.asarray([7, 8, 9])
    logits = np.asarray([[2, 0], [0, 2], [2, 0]], dtype=np.float32)
    answers = Predictions(logits, ("not_entailment", "entailment"), "single-label")
    assert glue_rows(GLUE["WNLI"], answers, index).to_pydict() == {
        "index": [7, 8, 9],
        "prediction": ["0", "1", "0"],
    }
    assert glue_rows(GLUE["QNLI"], answers, index)["prediction"].to_pylist()[0] == "not_entailment"
    scores = Predictions(np.asarray([[-1], [2.5], [9]], dtype=np.float32), ("score",), "regression")
    assert glue_rows(GLUE["STS-B"], scores, index)["prediction"].to_pylist() == ["0.000", "2.500", "5.000"]


@pytest.mark.parametrize("name", [name for name, (names, _) in NINE.items() if names])
def test_a_label_s_word_is_the_task_s(name: str) -> None:
    names, words = NINE[name]
    answers = Predictions(np.eye(len(names), dtype=np.float32), names, "single-label")
    expected = ["0", "1"] if words == {"0", "1"} else list(names)
    found = glue_rows(GLUE[name], answers, np.arange(len(names))).to_pydict()
    assert found == {"index": list(range(len(names))), "prediction": expected}


@pytest.mark.parametrize(
    ("columns", "index"),
    [
        ({"index": ["4", "9", "5"]}, [4, 9, 5]),
        ({"idx": [2, 1, 0], "id": [7, 8, 9]}, [2, 1, 0]),
        ({"id": ["7", "8", "q-1"]}, [0, 1, 2]),  # one that is no number, if only in one row
        ({"id": ["3", "3", "4"], "pairID": ["5", "6", "7"]}, [5, 6, 7]),  # one that comes twice
        ({"idx": [0, None, 2]}, [0, 1, 2]),
        ({}, [0, 1, 2]),
    ],
)
def test_the_index_is_the_file_s_own_where_it_numbers_all_rows(columns: dict[str, list[Any]], index: list[int]) -> None:
    rows = [{"text": "a", **{name: values[row] for name, values in columns.items()}} for row in range(3)]
    assert glue_index(read_table(rows)).tolist() == index


def test_the_official_number_of_rows_needs_no_word() -> None:
    assert count_note(GLUE["RTE"], Path("RTE.tsv"), 3000) is None


@pytest.mark.parametrize(("out", "said"), [("qnli.tsv", "no file of that name"), ("QNLI.csv", "no file of that name")])
def test_another_name_is_refused(out: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        glue_task(Path(out))


def test_without_a_file_there_is_no_submission() -> None:
    with pytest.raises(UserError, match="official name"):
        glue_task(None)


@pytest.mark.parametrize(
    ("names", "name", "said"),
    [
        (("0", "1"), "QNLI", "the model answers '0', and the file holds entailment, not_entailment"),
        ((), "QNLI", "this is a regression model"),
        (("negative", "positive"), "STS-B", "this is a single-label model"),
    ],
)
def test_a_model_that_cannot_answer_the_task_is_refused_before_anything_is_written(
    model_with: Callable[..., kitune.Run], tmp_path: Path, names: tuple[str, ...], name: str, said: str
) -> None:
    table = read_table([{"text": "good film"}])
    with pytest.raises(UserError, match=said):
        predict_file(model_with(names).model, table, tmp_path / f"{name}.tsv", glue=GLUE[name])
    assert not (tmp_path / f"{name}.tsv").exists()


@pytest.mark.real
@pytest.mark.skipif(not DATA.is_dir(), reason="the real data are not here")
def test_qnli_s_own_test_file_gives_a_submission_that_the_site_would_take(
    lively_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = {**QUICK, "data.limit": 200}
    kitune.train(DATA / "qnli" / "dev.tsv", model=str(lively_model), out=tmp_path / "run", options=told)
    out = tmp_path / "QNLI.tsv"
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(tmp_path / "run"), str(DATA / "qnli" / "test.tsv"), "--format", "glue", "--out", str(out)])
    assert stopped.value.code == 0
    assert "the site takes" not in capsys.readouterr().err
    with out.open(newline="") as file:
        lines = list(csv.DictReader(file, delimiter="\t"))
    assert [line["index"] for line in lines] == [str(number) for number in range(5463)]
    assert {line["prediction"] for line in lines} <= {"entailment", "not_entailment"}


def test_the_likeliest_labels_stand_beside_the_answer(
    model_with: Callable[..., kitune.Run], rows: Rows, tmp_path: Path
) -> None:
    model = model_with(("entailment", "neutral", "contradiction")).model
    table, out = read_table(rows("single-label", 9, seed=2)), tmp_path / "answers.jsonl"
    predict_file(model, table, out, top=2, probabilities=True)
    for line, shares in zip(map(json.loads, out.open()), model.predict_table(table).probabilities, strict=True):  # type: ignore[arg-type]
        order = np.argsort(-shares)
        assert [line["top1"], line["top2"]] == [model.label_names[i] for i in order[:2]]
        assert line["prediction"] == line["top1"]
        assert [line["p1"], line["p2"]] == pytest.approx(shares[order[:2]])
        assert line[f"p({line['top2']})"] == line["p2"]
