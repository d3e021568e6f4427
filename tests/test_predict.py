"""Answers: a row out for a row in, in the input's order, in every format, from every source, the same bytes each time."""

import csv
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kitune
from kitune.answers import predict_file
from kitune.cli import main
from kitune.data import scratch
from kitune.data.read import read_table
from kitune.errors import UserError
from tests.jsonl import write_rows

Rows = Callable[..., list[dict[str, Any]]]
ENDINGS = [".csv", ".tsv", ".jsonl", ".parquet"]
QUICK = {"train.epochs": 1, "train.dropout": 0.0, "engine.threads": 1, "engine.precision": "fp32"}
AWKWARD = [
    "",
    " ",
    "NA",
    "good, but cold",
    'they said "good" and "bad"',
    '"bad"',
    "first line\nsecond line",
    "with\ta tab",
    "with a\rcarriage return",
    "とても good 🦊",
    "=1+1",
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, lively_model: Path, rows: Rows) -> Callable[..., kitune.Run]:
    """A run of a task, with one text column or two, made once."""
    made: dict[tuple[str, bool], kitune.Run] = {}

    def make(task: str, *, pair: bool = False) -> kitune.Run:
        if (task, pair) not in made:
            data = rows(task, 80, pair=pair)
            options = {
                "train.epochs": 10,
                "train.learning_rate": 3e-3,
                "train.head_rate": 1.0,
                "train.patience": None,
                "train.best_metric": "loss",
            }
            made[task, pair] = kitune.train(
                data,
                valid=data[:30],
                model=str(lively_model),
                out=tmp_path_factory.mktemp(task) / "run",
                text=["text", "other"] if pair else "text",
                label="label",
                options=options
                | {"train.dropout": 0.0, "engine.threads": 1, "engine.precision": "fp32", "data.max_length": 32},
            )
        return made[task, pair]

    return make


@pytest.fixture
def asked(rows: Rows) -> list[dict[str, Any]]:
    """Rows of very different lengths, short and long ones mixed, awkward and empty texts among them."""
    made = rows("single-label", 30, seed=9)
    for i, text in enumerate(AWKWARD):
        made[2 * i]["text"] = text
    for i in (1, 11, 29):
        made[i]["text"] = " ".join([made[i]["text"]] * 8)
    return made


def run_command(*words: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code == code


def test_outputs_that_are_large_lie_in_a_file(
    trained: Callable[..., kitune.Run], asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained("single-label").model
    in_memory = model.predict(asked).logits
    monkeypatch.setattr(scratch, "SMALL_BYTES", 10)
    mapped = model.predict(asked).logits
    assert isinstance(mapped, np.memmap)
    assert not isinstance(in_memory, np.memmap)
    assert (mapped == in_memory).all()


@pytest.mark.parametrize("option", ["--top=2", "--probabilities"])
def test_a_regression_has_no_probabilities(
    trained: Callable[..., kitune.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    data = write_rows(tmp_path / "new.jsonl", [{"text": "good"}])
    run_command("predict", trained("regression").folder, data, option, code=2)
    assert f"{option.split('=')[0]}: a regression answers with one number" in capsys.readouterr().err


def test_texts_that_are_cut_and_rows_without_a_text_are_told(
    trained: Callable[..., kitune.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["good film", "good " * 100, "", "bad " * 100, "  "]
    data = write_rows(tmp_path / "new.jsonl", [{"text": text, "label": "yes"} for text in texts])
    run = trained("single-label").folder
    run_command("predict", run, data)
    said = capsys.readouterr().err
    assert "2 of 5 texts fill the 32 tokens that the model reads, and what is longer is cut" in said
    assert "2 rows without a text, answered all the same" in said
    run_command("predict", run, data, "--set", "data.long_texts=windows")
    assert "that the model reads" not in capsys.readouterr().err
    run_command("evaluate", run, data, "--no-baselines")
    assert "2 of 5 texts fill the 32 tokens" in " ".join(capsys.readouterr().out.split())


def test_a_text_column_of_another_name_is_told(
    trained: Callable[..., kitune.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "new.jsonl", [{"comment": "good film", "mood": "yes"}] * 2)
    run = trained("single-label").folder
    run_command("predict", run, data, code=2)
    capsys.readouterr()
    run_command("predict", run, data, "--text", "comment")
    assert capsys.readouterr().out.splitlines()[0] == "prediction"
    run_command("evaluate", run, data, "--text", "comment", "--label", "mood", "--no-baselines")


# Order and sameness


def test_each_row_gets_the_answer_that_it_gets_alone(
    trained: Callable[..., kitune.Run], asked: list[dict[str, Any]]
) -> None:
    run = trained("single-label")
    together = run.predict(asked).logits
    alone = np.concatenate([run.predict([row]).logits for row in asked])
    assert together.shape == (30, 2)
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.ptp(together[:, 0]) > 0.1  # the rows do differ


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Callable[..., Path]:
    """A folder with a tiny random classifier of another family, from elsewhere, with its kind of tokenizer."""
    import torch
    from tokenizers import processors
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer, PreTrainedTokenizerFast

    sizes: dict[str, dict[str, Any]] = {
        "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 64},
        "xlnet": {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64},
    }

    def make(family: str, *, pad: int | None = None, **told: Any) -> Path:
        folder = tmp_path_factory.mktemp(family)
        backend = AutoTokenizer.from_pretrained(tiny_model).backend_tokenizer
        names: dict[str, Any] = {"unk_token": "[UNK]"}
        if family == "xlnet":
            signs = [(sign, backend.token_to_id(sign)) for sign in ("[SEP]", "[CLS]")]
            backend.post_processor = processors.TemplateProcessing(single="$A [SEP] [CLS]:2", special_tokens=signs)
            names |= {"pad_token": "[PAD]", "sep_token": "[SEP]", "cls_token": "[CLS]"}
        elif family == "gpt2":
            backend.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
        else:
            names |= {"pad_token": "[PAD]"}
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=backend, padding_side="right" if family == "bert" else "left", model_max_length=64, **names
        )
        tokenizer.save_pretrained(folder)
        config = AutoConfig.for_model(family, vocab_size=len(tokenizer), initializer_range=0.5, **sizes[family], **told)
        config.pad_token_id = pad
        torch.manual_seed(3)
        AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
        return folder

    return make


@pytest.mark.parametrize(("family", "pad"), [("xlnet", 5), ("gpt2", 4), ("gpt2", 0)])
def test_a_row_of_a_family_that_reads_its_last_token_gets_the_answer_that_it_gets_alone(
    elsewhere: Callable[..., Path], rows: Rows, tmp_path: Path, family: str, pad: int
) -> None:
    folder, texts = elsewhere(family, pad=pad), ["good film", "bad " * 9, "a very good book and a bad film", "warm"]
    for model in (
        kitune.load(folder, precision="fp32"),
        kitune.train(rows("single-label", 24), model=str(folder), out=tmp_path / "run", options=QUICK).model,
    ):
        together = model.predict(texts).logits
        alone = np.concatenate([model.predict([text]).logits for text in texts])
        np.testing.assert_allclose(together, alone, atol=1e-5)
        assert np.ptp(together[:, 0]) > 0.1


def test_a_model_without_any_padding_token_is_refused(
    elsewhere: Callable[..., Path], rows: Rows, tmp_path: Path
) -> None:
    folder = elsewhere("gpt2")
    with pytest.raises(UserError, match=r"neither its config\.json nor its tokenizer names a padding token"):
        kitune.load(folder).predict(["good film", "bad"])
    with pytest.raises(UserError, match=r"neither its config\.json nor its tokenizer names a padding token"):
        kitune.train(rows("single-label", 24), model=str(folder), out=tmp_path / "run", options=QUICK)
    assert not (tmp_path / "run").exists()


def test_answers_follow_the_order_of_the_input(trained: Callable[..., kitune.Run], asked: list[dict[str, Any]]) -> None:
    run = trained("single-label")
    order = np.random.default_rng(0).permutation(len(asked))
    shuffled = run.predict([asked[i] for i in order]).logits
    np.testing.assert_allclose(shuffled, run.predict(asked).logits[order], atol=1e-5)


def test_more_rows_than_a_window_holds_stay_in_order(
    trained: Callable[..., kitune.Run], monkeypatch: pytest.MonkeyPatch, asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    run = trained("single-label")
    expected = run.predict(asked)
    monkeypatch.setattr("kitune.answers.WINDOW_ROWS", 7)
    monkeypatch.setattr("kitune.evaluate.score.WINDOW_ROWS", 7)
    run_command(
        "predict", run.folder, write_rows(tmp_path / "asked.jsonl", asked), "--out", tmp_path / "a.parquet",
        "--keep", "id", "--probabilities",
    )  # fmt: skip
    found = read_table(tmp_path / "a.parquet")
    assert found.values("id") == [row["id"] for row in asked]
    assert found.values("prediction") == expected.labels
    assert expected.probabilities is not None
    np.testing.assert_allclose(found.values("p(yes)"), expected.probabilities[:, 1], atol=1e-5)


@pytest.mark.parametrize("ending", ENDINGS)
def test_two_runs_of_predict_write_the_same_bytes(
    trained: Callable[..., kitune.Run], asked: list[dict[str, Any]], tmp_path: Path, ending: str
) -> None:
    data = write_rows(tmp_path / "asked.jsonl", asked)
    for name in ("first", "second"):
        words = ("--out", tmp_path / f"{name}{ending}", "--probabilities", "--keep", "text")
        run_command("predict", trained("single-label").folder, data, *words)
    assert (tmp_path / f"first{ending}").read_bytes() == (tmp_path / f"second{ending}").read_bytes()


# Files


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
@pytest.mark.parametrize("ending", ENDINGS)
def test_answers_and_kept_columns_come_back_from_every_format(
    trained: Callable[..., kitune.Run], asked: list[dict[str, Any]], tmp_path: Path, ending: str, task: str
) -> None:
    run, out = trained(task), tmp_path / f"answers{ending}"
    data = write_rows(tmp_path / "asked.jsonl", asked)
    shares = [] if task == "regression" else ["--probabilities"]
    run_command("predict", run.folder, data, "--out", out, "--keep", "id", "--keep", "text", *shares)
    expected, found = run.predict(asked), read_table(out)
    assert found.values("id") == [row["id"] for row in asked]
    assert found.values("text") == [row["text"] for row in asked]
    answers = found.values("prediction")
    if task == "regression":
        np.testing.assert_array_equal([float(answer) for answer in answers], expected.labels)
        assert found.columns == ["id", "text", "prediction"]
        return
    if task == "multi-label" and ending in {".csv", ".tsv"}:
        answers = [answer.split("|") if answer else [] for answer in answers]
    assert answers == expected.labels
    assert expected.probabilities is not None
    assert found.columns == ["id", "text", "prediction", *(f"p({name})" for name in expected.label_names)]
    for i, name in enumerate(expected.label_names):
        np.testing.assert_array_equal([float(p) for p in found.values(f"p({name})")], expected.probabilities[:, i])


def test_a_window_without_any_label_has_the_type_of_the_others(
    trained: Callable[..., kitune.Run], monkeypatch: pytest.MonkeyPatch, rows: Rows, tmp_path: Path
) -> None:
    model = replace(trained("multi-label").model, threshold=1.0)
    data = read_table(write_rows(tmp_path / "asked.jsonl", rows("multi-label", 20)))
    monkeypatch.setattr("kitune.answers.WINDOW_ROWS", 7)
    answers = iter([[["warm"], *[[]] * 6], [[]] * 7, [[]] * 6])
    monkeypatch.setattr("kitune.evaluate.score.Predictions.labels", property(lambda self: next(answers)))
    predict_file(model, data, tmp_path / "a.parquet")
    assert read_table(tmp_path / "a.parquet").values("prediction") == [["warm"], *[[]] * 19]


@pytest.mark.parametrize("ending", ENDINGS)
def test_columns_of_any_type_are_kept(trained: Callable[..., kitune.Run], tmp_path: Path, ending: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    day, price = datetime(2026, 11, 22, 8, 30), Decimal("9.50")
    rows = [{"text": "good", "day": day, "price": price, "ranks": [1, None]}, {"text": "bad", "day": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    keep = [word for name in ("day", "price", "ranks") for word in ("--keep", name)]
    run_command(
        "predict", trained("single-label").folder, tmp_path / "rows.parquet", "--out", tmp_path / f"a{ending}", *keep
    )
    found = read_table(tmp_path / f"a{ending}")
    assert str(found.values("day")[0]).startswith("2026-11-22")
    assert str(found.values("price")[0]) == "9.50"
    assert found.values("ranks")[0] in ("1|", [1, None])


def test_a_text_a_line_is_the_runs_text_whatever_its_column_is_called(
    trained: Callable[..., kitune.Run], tmp_path: Path
) -> None:
    run, lines = trained("single-label"), ["good film", "bad film"]
    of_reviews = replace(run.model, data=run.model.data.model_copy(update={"text": ("review",)}))
    (tmp_path / "new.txt").write_text("good film\nbad film\n")
    table = of_reviews.read(tmp_path / "new.txt")
    assert of_reviews.predict_table(table).labels == run.predict(lines).labels
    assert table.notes[-1].endswith("new.txt: its only column, 'text', is read as 'review'")
    with pytest.raises(UserError, match="there is no column 'text'"):
        run.predict([{"review": "good film"}])


@pytest.mark.parametrize("ending", ENDINGS)
def test_without_kept_columns_there_is_still_a_row_for_each_row(
    trained: Callable[..., kitune.Run], asked: list[dict[str, Any]], tmp_path: Path, ending: str
) -> None:
    run, out = trained("multi-label"), tmp_path / f"answers{ending}"
    folder = tmp_path / "strict"
    shutil.copytree(run / "best", folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps(metrics | {"threshold": 0.999999}))  # hardly a row gets a label
    run_command("predict", folder, write_rows(tmp_path / "asked.jsonl", asked), "--out", out)
    assert len(read_table(out)) == len(asked)


def test_without_out_the_answers_are_csv_on_standard_output_and_nothing_else_is(
    trained: Callable[..., kitune.Run], asked: list[dict[str, Any]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained("single-label")
    run_command("predict", run.folder, write_rows(tmp_path / "asked.jsonl", asked), "--keep", "id")
    found = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    expected = [
        {"id": row["id"], "prediction": name} for row, name in zip(asked, run.predict(asked).labels, strict=True)
    ]
    assert found == expected


def test_a_predict_that_fails_halfway_leaves_no_file(
    trained: Callable[..., kitune.Run], asked: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kitune.answers import predict_file

    model, windows = trained("single-label").model, [True, True]
    monkeypatch.setattr("kitune.answers.WINDOW_ROWS", 7)
    forward = type(model.network).forward

    def fails_at_last(*args: Any, **kwargs: Any) -> Any:
        windows.pop()
        return forward(*args, **kwargs)

    monkeypatch.setattr(type(model.network), "forward", fails_at_last)
    with pytest.raises(IndexError):
        predict_file(model, read_table(asked), tmp_path / "answers.csv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("empty", [None, ""])
def test_a_missing_text_is_an_empty_text(
    trained: Callable[..., kitune.Run], rows: Rows, tmp_path: Path, empty: str | None
) -> None:
    run, made = trained("single-label"), rows("single-label", 6)
    made[2]["text"] = made[5]["text"] = empty
    expected = run.predict([row["text"] or "" for row in made]).logits
    np.testing.assert_array_equal(run.predict(made).logits, expected)
    from_file = run.predict(write_rows(tmp_path / "asked.jsonl", made)).logits
    np.testing.assert_array_equal(from_file, expected)


def test_a_file_whose_texts_are_all_missing_still_gets_its_answers(
    trained: Callable[..., kitune.Run], tmp_path: Path
) -> None:
    run = trained("single-label")
    data = write_rows(tmp_path / "asked.jsonl", [{"text": None}, {"text": None}])
    np.testing.assert_array_equal(run.predict(data).logits, run.predict(["", ""]).logits)


# Standard input


@pytest.mark.parametrize("kind", ["lines", "json", "csv", "tsv"])
def test_standard_input_may_be_lines_json_lines_csv_or_tsv(
    trained: Callable[..., kitune.Run],
    rows: Rows,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
) -> None:
    run, texts = trained("single-label"), [row["text"] for row in rows("single-label", 9, seed=4)]
    texts[3] = "good, but cold"
    sent = {
        "lines": "".join(text + "\n" for text in texts),
        "json": "".join(json.dumps({"text": text, "n": i}) + "\n" for i, text in enumerate(texts)),
        "csv": "n,text\r\n" + "".join(f'{i},"{text}"\r\n' for i, text in enumerate(texts)),
        "tsv": "text\tn\n" + "".join(f"{text}\t{i}\n" for i, text in enumerate(texts)),
    }[kind]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(sent.encode())))
    run_command("predict", run.folder, "-")
    found = [row["prediction"] for row in csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert found == run.predict(texts).labels
    assert set(found) == {"no", "yes"}


def test_an_empty_line_of_standard_input_is_an_empty_text(
    trained: Callable[..., kitune.Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"good film\n\nbad film")))
    run_command("predict", trained("single-label").folder, "-", "--keep", "text")
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["text"] for row in rows] == ["good film", "", "bad film"]


def test_nothing_on_standard_input_is_a_mistake(
    trained: Callable[..., kitune.Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO()))
    with pytest.raises(SystemExit) as stopped:
        main(["predict", str(trained("single-label").folder), "-"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("error: standard input: it")


def test_a_pipe_in_a_shell_gives_the_answers(trained: Callable[..., kitune.Run]) -> None:
    run = trained("single-label")
    done = subprocess.run(
        [sys.executable, "-m", "kitune", "predict", str(run.folder), "-", "--keep", "text"],
        input="good とても film\nbad, awful film\n",
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    names = run.predict(["good とても film", "bad, awful film"]).labels
    assert done.returncode == 0
    assert done.stdout == f'text,prediction\ngood とても film,{names[0]}\n"bad, awful film",{names[1]}\n'
    said = "standard input is read as a text a line: its first line is no header with 'text'\n"
    assert done.stderr == said


def test_the_layout_of_a_file_can_be_told(trained: Callable[..., kitune.Run], tmp_path: Path) -> None:
    run, texts = trained("single-label"), ["good ð film", "bad film"]
    path = tmp_path / "asked.csv"
    path.write_bytes("\n".join(["text", *texts]).encode("latin-1"))
    run_command("predict", run.folder, path, "--out", tmp_path / "answers.csv", code=2)
    run_command("predict", run.folder, path, "--out", tmp_path / "answers.csv", "--set", "data.encoding=latin-1")
    with (tmp_path / "answers.csv").open(encoding="utf-8") as file:
        assert [row["prediction"] for row in csv.DictReader(file)] == run.predict(texts).labels
    run_command("predict", run.folder, path, "--set", "train.epochs=3", code=2)


def test_a_csv_for_excel_has_a_byte_order_mark(trained: Callable[..., kitune.Run], tmp_path: Path) -> None:
    run = trained("single-label")
    path = write_rows(tmp_path / "asked.jsonl", [{"text": "良い film"}])
    run_command("predict", run.folder, path, "--keep", "text", "--out", tmp_path / "answers.csv", "--excel")
    content = (tmp_path / "answers.csv").read_bytes()
    assert content.startswith("\ufefftext,prediction\n良い film,".encode())
    run_command("predict", run.folder, path, "--out", tmp_path / "answers.jsonl", "--excel", code=2)
    assert not (tmp_path / "answers.jsonl").exists()


# In Python


def test_a_run_its_parts_and_a_plain_folder_are_loaded_alike(
    trained: Callable[..., kitune.Run], asked: list[dict[str, Any]], tmp_path: Path
) -> None:
    run = trained("single-label")
    plain = tmp_path / "plain"
    shutil.copytree(run / "best", plain, ignore=shutil.ignore_patterns("run.yaml", "metrics.json"))
    expected = run.predict(asked).logits
    for name in (run.folder, str(run.folder), run / "best", plain):
        np.testing.assert_array_equal(kitune.load(name, precision="fp32").predict(asked).logits, expected)
    last = kitune.load(run.folder, which="last").predict(asked).logits
    np.testing.assert_array_equal(last, kitune.load(run / "last").predict(asked).logits)


@pytest.mark.parametrize("precision", ["auto", "bf16"])
def test_a_lower_precision_gives_nearly_the_same_answers(
    trained: Callable[..., kitune.Run], asked: list[dict[str, Any]], precision: Any
) -> None:
    run = trained("single-label")
    model = kitune.load(run.folder, precision=precision)
    assert model.machine.precision == {"auto": "fp32", "bf16": "bf16"}[precision], "the run was trained in fp32"
    found = model.predict(asked).probabilities
    expected = run.predict(asked).probabilities
    assert found is not None
    assert expected is not None
    np.testing.assert_allclose(found, expected, atol=0.05)
    assert (precision == "auto") == np.array_equal(found, expected)


def test_texts_may_come_as_any_list_or_column(trained: Callable[..., kitune.Run], rows: Rows) -> None:
    import datasets
    import pandas as pd
    import polars as pl

    run, texts = trained("single-label"), [row["text"] for row in rows("single-label", 9, seed=4)]
    table = [{"text": text} for text in texts]
    expected = run.predict(table).logits
    columns = [texts, tuple(texts), np.array(texts), pd.Series(texts), pl.Series(texts)]
    for column in [*columns, datasets.Dataset.from_list(table)["text"]]:
        np.testing.assert_array_equal(run.predict(column).logits, expected)
    texts[4], table[4]["text"] = None, ""
    np.testing.assert_array_equal(run.predict(texts).logits, run.predict(table).logits)


def test_pairs_may_come_as_a_list_or_a_table(trained: Callable[..., kitune.Run], rows: Rows) -> None:
    run, made = trained("single-label", pair=True), rows("single-label", 9, pair=True, seed=4)
    expected = run.predict(made)
    pairs = [(row["text"], row["other"]) for row in made]
    np.testing.assert_array_equal(run.predict(pairs).logits, expected.logits)
    np.testing.assert_array_equal(run.predict([list(pair) for pair in pairs]).logits, expected.logits)
    turned = run.predict([(second, first) for first, second in pairs]).logits
    assert np.abs(turned - expected.logits).max() > 1e-3  # which text is first does matter


def test_what_is_guessed_of_a_table_is_said_in_python_too(
    trained: Callable[..., kitune.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "plain"
    shutil.copytree(trained("single-label") / "best", plain, ignore=shutil.ignore_patterns("run.yaml"))
    (tmp_path / "rows.csv").write_text("review;stars\ngood film;5\nbad film;1\n")
    model, notes = kitune.load(plain), ["rows.csv is read with semicolons", "text column: review"]
    expected = model.predict(["good film", "bad film"]).logits
    capsys.readouterr()
    np.testing.assert_array_equal(model.predict(tmp_path / "rows.csv").logits, expected)
    said = capsys.readouterr()
    assert [line[: len(note)] for line, note in zip(said.err.splitlines(), notes, strict=True)] == notes
    run_command("predict", plain, tmp_path / "rows.csv")
    said = capsys.readouterr()
    assert [said.err.count(note) for note in notes] == [1, 1]


@pytest.mark.parametrize("missing", [None, float("nan"), "NA"])
def test_a_missing_text_is_an_empty_one_in_columns_arrays_and_frames(
    trained: Callable[..., kitune.Run], missing: Any
) -> None:
    import pandas as pd

    run, missing = trained("single-label"), pd.NA if missing == "NA" else missing
    expected = run.predict(["good film", "", "bad film"]).logits
    texts = ["good film", missing, "bad film"]
    frame = pd.DataFrame({"text": texts})
    for given in (texts, np.asarray(texts, dtype=object), frame["text"], pd.Series(texts, dtype="string"), frame):
        np.testing.assert_array_equal(run.predict(given).logits, expected)


def test_no_texts_at_all_are_refused_in_one_sentence(trained: Callable[..., kitune.Run]) -> None:
    import pandas as pd

    empty: list[Any] = [[], (), np.asarray([]), pd.Series([], dtype=str)]
    for given in empty:
        with pytest.raises(UserError, match="there are no texts"):
            trained("single-label").predict(given)


@pytest.mark.parametrize("text", ["lovely", "lovely film", "Lovely. A film and/or a book", "so. lovely"])
def test_a_single_text_is_answered_with_a_list(trained: Callable[..., kitune.Run], text: str) -> None:
    with pytest.raises(UserError) as caught:
        trained("single-label").predict(text)
    assert caught.value.fix.count("of texts, give a list") == 1


@pytest.mark.parametrize("name", ["rows.csv", "owner/name", "owner/name:config@main"])
def test_a_name_that_is_no_text_is_not(trained: Callable[..., kitune.Run], name: str) -> None:
    with pytest.raises(UserError) as caught:
        trained("single-label").predict(name)
    assert "give a list" not in caught.value.fix


def test_an_item_that_is_no_unicode_text_is_named(trained: Callable[..., kitune.Run]) -> None:
    with pytest.raises(UserError, match=r"item 1 \(from 0\): 'bad \\ud800' is no Unicode text"):
        trained("single-label").predict(["good", "bad \ud800"])


def test_two_columns_of_one_name_are_refused(trained: Callable[..., kitune.Run], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    model = trained("single-label").model
    for names in (["text", "label", "text"], ["text", "label", "label"], ["text", "id", "id"]):
        table = pa.table([["good film"], ["yes"], ["no"]], names=names)
        pq.write_table(table, tmp_path / "rows.parquet")
        for ask in (
            model.predict,
            lambda data: replace(model, data=model.data.model_copy(update={"text": None})).predict(data),
            lambda data: model.evaluate(data, baselines=False),
            lambda data: predict_file(model, read_table(data), None, columns=["text"]),
        ):
            with pytest.raises(UserError, match=f"two columns are called '{names[2]}'"):
                ask(tmp_path / "rows.parquet")


def test_kept_numbers_that_are_none_are_null_in_json_lines(trained: Callable[..., kitune.Run], tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    nested = [{"ranks": [1.0, float("inf")]}, {"ranks": [float("nan")]}]
    table = pa.table({"text": ["good", "bad"], "price": [1.5, float("nan")], "more": nested})
    pq.write_table(table, tmp_path / "rows.parquet")
    keep = ("--keep", "price", "--keep", "more")
    run_command(
        "predict", trained("single-label").folder, tmp_path / "rows.parquet", "--out", tmp_path / "a.jsonl", *keep
    )
    strict: dict[str, Any] = {"parse_constant": lambda word: pytest.fail(word)}
    found = [json.loads(line, **strict) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [row["price"] for row in found] == [1.5, None]
    assert [row["more"] for row in found] == [{"ranks": [1.0, None]}, {"ranks": [None]}]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problem_type": "regression", "id2label": {0: "a", 1: "b"}}, "it gives 2 numbers a row"),
        ({"id2label": {0: "ok", 1: "ok"}}, r"two of its labels are called 'ok'(.|\n)*id2label of .*config\.json"),
    ],
)
def test_a_folder_whose_outputs_have_no_names_of_their_own_is_refused(
    trained: Callable[..., kitune.Run], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    folder = shutil.copytree(trained("single-label") / "best", tmp_path / "plain")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=said):
        kitune.load(folder)


def test_header_only_on_standard_input_is_a_mistake(
    trained: Callable[..., kitune.Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for options in ((), ("--set", "data.format=csv")):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text,id\n")))
        run_command("predict", trained("single-label").folder, "-", *options, code=2)
        assert "standard input: it has no rows" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["good", "bad"], r"item 0 \(from 0\) has 1 text, and the model reads 2"),
        ([("a", "b"), ("a", "b", "c")], r"item 1 \(from 0\) has 3 texts, and the model reads 2"),
        ([("a", "b"), ("a", 7)], r"item 1 \(from 0\): 7 is no text"),
        (7, "data: a int is no table"),
    ],
)
def test_what_is_not_a_list_of_pairs_is_refused(trained: Callable[..., kitune.Run], given: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        trained("single-label", pair=True).predict(given)


# Many labels


def test_the_threshold_that_is_best_on_valid_decides_about_labels(
    trained: Callable[..., kitune.Run], rows: Rows, tmp_path: Path
) -> None:
    from sklearn.metrics import f1_score

    run = trained("multi-label")
    valid = read_table(run / "predictions" / "valid.parquet")
    names = run.model.label_names
    gold = np.array([[name in labels for name in names] for labels in valid.values("label")])
    probabilities = np.array([valid.values(f"p({name})") for name in names]).T
    thresholds = np.linspace(0.05, 0.95, 19)
    scores = [f1_score(gold, probabilities >= t, average="micro", zero_division=0.0) for t in thresholds]
    assert scores[9] < max(scores)  # else 0.5 would do
    assert run.metrics["valid"]["micro_f1"] == pytest.approx(max(scores))
    assert run.model.threshold in thresholds[np.isclose(scores, max(scores))]
    answers = run.predict(rows("multi-label", 20, seed=6))
    assert answers.probabilities is not None
    expected = [[names[i] for i in np.flatnonzero(row >= run.model.threshold)] for row in answers.probabilities]
    assert answers.labels == expected


# Evaluating


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
def test_evaluate_prints_what_scikit_learn_says_of_the_answers(
    trained: Callable[..., kitune.Run], rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    from scipy.stats import pearsonr, spearmanr
    from sklearn import metrics

    run, made = trained(task), rows(task, 40, seed=8)
    run_command("evaluate", run.folder, write_rows(tmp_path / "asked.jsonl", made), "--json")
    found = json.loads(capsys.readouterr().out)
    answers, gold = run.predict(made), [row["label"] for row in made]
    if task == "single-label":
        expected = {
            "log_loss": metrics.log_loss(gold, answers.probabilities, labels=["no", "yes"]),
            "accuracy": metrics.accuracy_score(gold, answers.labels),
            "macro_f1": metrics.f1_score(gold, answers.labels, average="macro"),
            "f1": metrics.f1_score(gold, answers.labels, pos_label="yes"),
            "mcc": metrics.matthews_corrcoef(gold, answers.labels),
        }
    elif task == "multi-label":
        hot = [[[name in labels for name in answers.label_names] for labels in side] for side in (gold, answers.labels)]
        truth, said = (np.array(side) for side in hot)
        p = answers.probabilities
        assert p is not None
        expected = {
            "log_loss": float(-np.where(truth, np.log(p), np.log(1 - p)).mean()),
            "micro_f1": metrics.f1_score(truth, said, average="micro"),
            "macro_f1": metrics.f1_score(truth, said, average="macro"),
            "subset_accuracy": metrics.accuracy_score(truth, said),
        }
    else:
        said = np.array(answers.labels)
        expected = {
            "pearson": pearsonr(said, gold).statistic,
            "spearman": spearmanr(said, gold).statistic,
            "rmse": metrics.root_mean_squared_error(gold, said),
            "mae": metrics.mean_absolute_error(gold, said),
        }
    assert {name: found["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-4)
    run_command("evaluate", run.folder, tmp_path / "asked.jsonl", "--no-baselines")
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    begin = lines.index(["metric", "value", "from", "to"]) + 1
    printed = {words[0]: float(words[1]) for words in lines[begin : begin + len(found["metrics"])]}
    assert printed == pytest.approx(found["metrics"], abs=1e-3)


def test_evaluate_takes_labels_from_the_column_that_it_is_told(trained: Callable[..., kitune.Run], rows: Rows) -> None:
    run, made = trained("single-label"), rows("single-label", 20, seed=8)
    turned = [{"text": row["text"], "truth": {"no": "yes", "yes": "no"}[row["label"]]} for row in made]
    right = run.model.evaluate(made, baselines=False)
    wrong = run.model.evaluate(turned, label="truth", baselines=False)
    assert right.metrics["accuracy"] == pytest.approx(1 - wrong.metrics["accuracy"])


@pytest.mark.parametrize("separator", ["|", ";", ","])
def test_evaluate_reads_several_labels_in_a_cell_even_of_a_single_row(
    trained: Callable[..., kitune.Run], tmp_path: Path, separator: str
) -> None:
    data = tmp_path / "one.tsv"
    data.write_text(f"text\tlabel\ngood film\tgood{separator}odd\n")
    model = trained("multi-label").model
    told = model.evaluate([{"text": "good film", "label": ["good", "odd"]}], baselines=False)
    assert model.evaluate(data, baselines=False).as_json()["metrics"] == told.as_json()["metrics"]


@pytest.mark.parametrize("words", [["predict", "run", "data.csv"], ["evaluate", "run", "data.csv"]])
def test_a_launcher_of_many_processes_is_refused_where_one_is_right(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(SystemExit, match="2"):
        main(words)
    assert f"error: kitune {words[0]} runs in one process" in capsys.readouterr().err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize(
    "words", [("predict", "RUN", "DATA"), ("evaluate", "RUN", "DATA", "--no-baselines"), ("inspect", "DATA")]
)
def test_an_output_that_is_full_ends_in_a_sentence(
    trained: Callable[..., kitune.Run], tmp_path: Path, words: tuple[str, ...]
) -> None:
    (tmp_path / "rows.csv").write_text("text,label\n" + "good film,yes\nbad film,no\n" * 400)
    told = [
        {"RUN": str(trained("single-label").folder), "DATA": str(tmp_path / "rows.csv")}.get(word, word)
        for word in words
    ]
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "kitune", *told], stdout=full, stderr=subprocess.PIPE, text=True,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )  # fmt: skip
    assert done.returncode == 2
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_part_that_no_run_has_is_named(trained: Callable[..., kitune.Run]) -> None:
    with pytest.raises(UserError, match="a run has best and last"):
        kitune.load(trained("single-label"), which="lst")


def test_a_model_computes_where_it_is_told_to(trained: Callable[..., kitune.Run]) -> None:
    import torch

    before = torch.get_num_threads()
    try:
        assert kitune.load(trained("single-label"), device="cpu", threads=1).machine.threads == 1
    finally:
        torch.set_num_threads(before)


def test_all_public_names_can_be_completed() -> None:
    assert set(kitune.__all__) <= set(dir(kitune))
    assert all(getattr(kitune, name) is not None for name in kitune.__all__)
    assert set(kitune._HOMES) | {"__version__"} == set(kitune.__all__)
