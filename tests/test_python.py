"""kitune from Python: any table goes in, a Run comes out, and goes on with the same rows."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import kitune
from kitune.cli import main
from kitune.config import load_yaml
from kitune.errors import UserError

Rows = Callable[..., list[dict[str, Any]]]
SMALL = {"engine.threads": 1, "train.epochs": 1, "data.max_length": 32}


def as_pandas(rows: list[dict[str, Any]], folder: Path) -> Any:
    import pandas as pd

    return pd.DataFrame(rows, index=range(100, 100 + len(rows)))


def as_polars(rows: list[dict[str, Any]], folder: Path) -> Any:
    import polars as pl

    return pl.DataFrame(rows)


def as_arrow(rows: list[dict[str, Any]], folder: Path) -> Any:
    import pyarrow as pa

    return pa.Table.from_pylist(rows)


def as_dataset(rows: list[dict[str, Any]], folder: Path) -> Any:
    from datasets import ClassLabel, Dataset

    dataset = Dataset.from_list(rows)
    if isinstance(rows[0]["label"], str):
        dataset = dataset.cast_column("label", ClassLabel(names=["no", "yes"]))
    return dataset


def as_json_lines(rows: list[dict[str, Any]], folder: Path) -> Any:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def as_path_in_a_string(rows: list[dict[str, Any]], folder: Path) -> Any:
    return str(as_json_lines(rows, folder))


SOURCES = [as_pandas, as_polars, as_arrow, as_dataset, as_json_lines, as_path_in_a_string]


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
@pytest.mark.parametrize("convert", SOURCES, ids=lambda convert: convert.__name__)
def test_equal_rows_in_any_table_make_equal_runs(
    tmp_path: Path, tiny_model: Path, rows: Rows, convert: Callable[..., Any], task: str
) -> None:
    made = rows(task, 24)
    told: dict[str, Any] = {"model": str(tiny_model), "text": "text", "label": "label", "options": SMALL}
    expected = kitune.train(made, out=tmp_path / "expected", **told)
    found = kitune.train(convert(made, tmp_path), out=tmp_path / "found", **told)
    assert found.metrics == expected.metrics
    assert found.model.label_names == expected.model.label_names
    np.testing.assert_array_equal(found.predict(made).logits, expected.predict(made).logits)


def test_a_frame_is_left_as_it_was(tmp_path: Path, tiny_model: Path, rows: Rows) -> None:
    import pandas as pd

    frame = pd.DataFrame(rows("single-label", 24))
    before = frame.copy(deep=True)
    kitune.train(frame, model=str(tiny_model), out=tmp_path / "run", options=SMALL)
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize("valid", ["validation", "valid", "dev"])
def test_a_dataset_dict_brings_its_parts(tmp_path: Path, tiny_model: Path, rows: Rows, valid: str) -> None:
    from datasets import Dataset, DatasetDict

    parts = {"train": rows("single-label", 24), valid: rows("single-label", 7, seed=1), "test": rows("single-label", 5)}
    data = DatasetDict({name: Dataset.from_list(part) for name, part in parts.items()})
    run = kitune.train(data, model=str(tiny_model), out=tmp_path / "run", options=SMALL)
    assert set(run.metrics) == {"valid", "test"}
    answers = kitune.load(run / "best").evaluate(parts[valid], baselines=False).metrics
    same = {name: answers[name] for name in ("accuracy", "macro_f1", "mcc", "f1")}
    assert run.metrics["valid"] == pytest.approx({"loss": answers["log_loss"], **same}, abs=1e-6)


def test_a_dict_of_tables_without_train_is_refused(tiny_model: Path, rows: Rows) -> None:
    with pytest.raises(UserError, match="there are rows for test and none to learn from"):
        kitune.train({"test": rows("single-label", 24)}, model=str(tiny_model))


def test_without_out_each_run_gets_a_name_of_its_own_under_runs(
    tmp_path: Path, tiny_model: Path, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (
        kitune.train(rows("single-label", 24), model=str(tiny_model), options=SMALL).folder for _ in range(2)
    )
    assert first != second
    assert {folder.parent for folder in (first, second)} == {Path("runs")}
    assert [(folder / "best" / "model.safetensors").exists() for folder in (first, second)] == [True, True]


def test_a_run_knows_its_folder_its_options_and_its_metrics(tmp_path: Path, tiny_model: Path, rows: Rows) -> None:
    run = kitune.train(
        rows("single-label", 24),
        model=str(tiny_model),
        out=tmp_path / "run",
        test=rows("single-label", 9),
        options=SMALL,
    )
    assert run.folder == tmp_path / "run"
    assert run / "best" == tmp_path / "run" / "best"
    assert (run.options.task, run.options.data.text, run.options.data.label) == ("single-label", ("text",), "label")
    assert (run.options.train.epochs, run.options.data.labels) == (1, ("no", "yes"))
    assert set(run.metrics) == {"valid", "test"}
    assert set(run.metrics["test"]) == {"loss", "accuracy", "macro_f1", "f1", "mcc"}
    saved = json.loads((run / "metrics.json").read_text())
    assert {part: saved[part] for part in run.metrics} == run.metrics
    assert run.options == kitune.train(rows("single-label", 24), resume=run, test=rows("single-label", 9)).options


def test_an_option_that_is_told_to_be_nothing_is_nothing(tmp_path: Path, tiny_model: Path, rows: Rows) -> None:
    none = {"train.clip": None, "train.patience": None}
    run = kitune.train(rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run", options=SMALL | none)
    assert (run.options.train.clip, run.options.train.patience) == (None, None)


def test_kitune_train_is_a_function_whatever_was_imported_before(tiny_model: Path) -> None:
    import importlib

    importlib.import_module("kitune.training.loop")
    assert kitune.train is importlib.import_module("kitune.finetune").train
    with pytest.raises(UserError, match="there is no training data"):
        kitune.train(model=str(tiny_model))


@pytest.mark.parametrize("convert", [as_pandas, as_polars, as_dataset], ids=lambda convert: convert.__name__)
@pytest.mark.parametrize("name", ["run", "path", "string"])
def test_a_finished_run_goes_on_with_the_same_frame(
    tmp_path: Path, tiny_model: Path, rows: Rows, convert: Callable[..., Any], name: str
) -> None:
    made = rows("single-label", 24)
    run = kitune.train(convert(made, tmp_path), model=str(tiny_model), out=tmp_path / "run", options=SMALL)
    resume: Any = {"run": run, "path": run.folder, "string": str(run.folder)}[name]
    again = kitune.train(convert(made, tmp_path), resume=resume, options={"train.epochs": 3})
    assert again.folder == run.folder
    assert again.options.train.epochs == 3
    assert list(json.loads((run / "log.json").read_text())) == ["Epoch 0", "Epoch 1", "Epoch 2"]


def test_a_run_of_a_frame_does_not_go_on_without_it(tmp_path: Path, tiny_model: Path, rows: Rows) -> None:
    run = kitune.train(rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run", options=SMALL)
    with pytest.raises(UserError, match="its rows came from Python and are in no file"):
        kitune.train(resume=run, options={"train.epochs": 2})


def change_a_text(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"text": row["text"] + "!"} if i == 3 else row for i, row in enumerate(rows)]


def change_a_label(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    other = {"no": "yes", "yes": "no"}
    return [row | {"label": other[row["label"]]} if i == 3 else row for i, row in enumerate(rows)]


def drop_a_row(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[:-1]


def turn_the_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return rows[::-1]


@pytest.mark.parametrize(
    "change", [change_a_text, change_a_label, drop_a_row, turn_the_order], ids=lambda change: change.__name__
)
def test_a_run_does_not_go_on_with_other_rows_and_stays_as_it_is(
    tmp_path: Path, tiny_model: Path, rows: Rows, change: Callable[..., Any]
) -> None:
    import pandas as pd

    made = rows("single-label", 24)
    run = kitune.train(pd.DataFrame(made), model=str(tiny_model), out=tmp_path / "run", options=SMALL)
    before = {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()}
    with pytest.raises(UserError, match=r"rows \(DataFrame train\) are not those that it was trained on"):
        kitune.train(pd.DataFrame(change(made)), resume=run, options={"train.epochs": 2})
    assert {file: file.read_bytes() for file in run.folder.rglob("*") if file.is_file()} == before


@pytest.mark.parametrize(
    ("task", "metric"), [("single-label", "accuracy"), ("multi-label", "micro_f1"), ("regression", "spearman")]
)
def test_a_run_ends_with_what_evaluate_says(
    tmp_path: Path, tiny_model: Path, rows: Rows, capsys: pytest.CaptureFixture[str], task: str, metric: str
) -> None:
    """Scores, how far chance moves them, and those of the test rows whose text train does not have."""
    train, unseen = rows(task, 24), [{**row, "text": f"{row['text']} again"} for row in rows(task, 12)]
    test = train[:8] + unseen
    run = kitune.train(
        train, test=test, valid=train[:10], model=str(tiny_model), out=tmp_path / "run", text="text", label="label",
        options=SMALL,
    )  # fmt: skip
    said = capsys.readouterr().err
    evaluation = run.model.evaluate(test, baselines=False)
    low, high = evaluation.intervals[metric]
    assert f"best/ on test (20 rows): loss {run.metrics['test']['loss']:.4f}" in said
    assert f"  {metric} of other such rows: {low:.3f} to {high:.3f} (95 %)" in said
    assert "  without the 8 rows whose text it was trained on: loss" in said
    alone = run.model.evaluate(unseen, baselines=False)
    assert run.metrics["test"][metric] == pytest.approx(evaluation.metrics[metric])
    assert run.metrics["test_new"][metric] == pytest.approx(alone.metrics[metric])
    assert evaluation.new is not None
    assert evaluation.new.metrics[metric] == pytest.approx(alone.metrics[metric])


def test_a_flag_counts_more_than_a_file_and_a_set_more_than_a_flag(
    tiny_model: Path, rows: Callable[..., Any], tmp_path: Path
) -> None:
    made = [
        {"a": row["label"], "b": row["label"], "c": row["label"], "text": row["text"]}
        for row in rows("single-label", 30)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    (tmp_path / "other.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made[:10]))
    (tmp_path / "mine.yaml").write_text("train: {epochs: 3, seed: 5}\ndata: {label: a, max_length: 24}\n")
    words = ["train", str(tmp_path / "rows.jsonl"), "--model", str(tiny_model), "--config", str(tmp_path / "mine.yaml")]
    words += ["--label", "b", "--set", "data.label=c", "--set", "train.epochs=1", "--set", "engine.threads=1"]
    words += ["--valid", str(tmp_path / "rows.jsonl"), "--set", f"data.valid={tmp_path / 'other.jsonl'}"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--out", str(tmp_path / "run")])
    assert stopped.value.code == 0
    settled = load_yaml(tmp_path / "run" / "run.yaml")
    assert (settled.data.label, settled.data.max_length, settled.train.epochs, settled.train.seed) == ("c", 24, 1, 5)
    assert settled.data.valid == str(tmp_path / "other.jsonl")
    assert pq.read_table(tmp_path / "run" / "predictions" / "valid.parquet").num_rows == 10
    found = kitune.doctor(tmp_path / "rows.jsonl", model=tiny_model, config=tmp_path / "mine.yaml", text="text")
    assert "duplicates" not in {one.code for one in found}


def test_a_set_counts_more_than_a_flag_in_predict_too(
    tiny_model: Path, rows: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = kitune.train(rows("single-label", 24), model=tiny_model, out=tmp_path / "run", options={"train.epochs": 1})
    (tmp_path / "rows.csv").write_text("text,body\ngood,bad\n")
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(run.folder), str(tmp_path / "rows.csv"), "--text", "text", "--set", "data.text=nope"])
    assert stopped.value.code == 2
    assert "there is no column 'nope'" in capsys.readouterr().err


def test_a_trial_run_takes_the_rows_and_the_task_that_it_is_told(
    tiny_model: Path, rows: Callable[..., Any], tmp_path: Path
) -> None:
    for name, count in (("train", 60), ("test", 30)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows("single-label", count)))
    words = ["train", str(tmp_path / "train.jsonl"), "--test", str(tmp_path / "test.jsonl"), "--model", str(tiny_model)]
    words += ["--text", "text", "--label", "label", "--task", "multi-label", "--limit", "12", "--long-texts", "windows"]
    words += ["--set", "data.max_length=8", "--set", "train.epochs=1", "--set", "engine.threads=1"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--out", str(tmp_path / "run")])
    assert stopped.value.code == 0
    settled = load_yaml(tmp_path / "run" / "run.yaml")
    assert (settled.task, settled.data.limit, settled.data.long_texts) == ("multi-label", 12, "windows")
    parts = {part: pq.read_table(tmp_path / "run" / "predictions" / f"{part}.parquet") for part in ("valid", "test")}
    assert parts["valid"].num_rows < 12
    assert 12 <= parts["test"].num_rows < 30
    assert "micro_f1" in json.loads((tmp_path / "run" / "metrics.json").read_text())["test"]


def test_a_model_from_elsewhere_is_compared_by_rows_that_are_told(
    tiny_model: Path, rows: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = kitune.train(
        rows("single-label", 40), model=tiny_model, out=tmp_path / "run", text="text", label="label", options=SMALL
    )
    plain = shutil.copytree(run / "best", tmp_path / "plain", ignore=shutil.ignore_patterns("run.yaml", "metrics.json"))
    for name, seed in (("train", 1), ("test", 2)):
        (tmp_path / f"{name}.jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows("single-label", 40, seed=seed))
        )
    words = ["evaluate", str(plain), str(tmp_path / "test.jsonl"), "--label", "label", "--text", "text", "--json"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--train", str(tmp_path / "train.jsonl")])
    assert stopped.value.code == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["baselines"]) == ["majority", "TF-IDF"]
    assert "no frozen probe: it is not known which model this one was trained from" in found["notes"]


def test_without_a_compiler_it_trains_and_answers_the_slower_way(
    tiny_model: Path, rows: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows("single-label", 40)))
    settings = {**SMALL, "train.dropout": 0.0, "engine.precision": "fp32", "engine.threads": 1}
    words = [
        sys.executable,
        "-m",
        "kitune",
        "train",
        str(tmp_path / "rows.jsonl"),
        "--model",
        str(tiny_model),
        "--text",
        "text",
    ]
    words += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    answers = {}
    for name, changes in {"fast": {}, "slow": {"CXX": "/nowhere", "HF_HOME": str(tmp_path / "home")}}.items():
        environment = {**os.environ, **changes}
        done = subprocess.run([*words, "--out", str(tmp_path / name)], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert ("the slower plain path is taken" in done.stderr) == (name == "slow")
        answers[name] = pq.read_table(tmp_path / name / "predictions" / "valid.parquet").column("p(yes)").to_numpy()
    np.testing.assert_allclose(answers["slow"], answers["fast"], atol=1e-3)
