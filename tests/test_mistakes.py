"""A user's mistake ends in a sentence: what, where, and what to do; exit code 2, and nothing on the disk has changed."""

import csv
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import kitune
from kitune.cli import main

Words = list[str]
MISTAKES: list[Any] = []
SMALL = ("--set", "engine.threads=1", "--set", "train.epochs=1")


def mistake(*fragments: str, **environment: str) -> Callable[[Callable[[Path], Words]], Callable[[Path], Words]]:
    """A mistake is a function that prepares files in a folder and returns the command's words; `fragments` must be said."""

    def note(prepare: Callable[[Path], Words]) -> Callable[[Path], Words]:
        name = prepare.__name__.replace("_", " ")
        MISTAKES.append(pytest.param(prepare, fragments, environment, id=name))
        return prepare

    return note


def train(here: Path, data: str = "tickets.csv", *words: str, model: str = "model", out: str = "new") -> Words:
    return ["train", str(here / data), "--model", str(here / model), "--out", str(here / out), *SMALL, *words]


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def edit(path: Path, change: Callable[[list[dict[str, str]]], object]) -> None:
    """Change the rows of a CSV file."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    change(rows)
    write_csv(path, rows)


def tree(folder: Path) -> dict[str, bytes | None]:
    """Every path under `folder`, files with their bytes."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows: Callable[..., Any]) -> Path:
    """A folder with tickets.csv, a model and a finished run."""
    folder = tmp_path_factory.mktemp("workplace")
    write_csv(folder / "tickets.csv", rows("single-label", 24))
    shutil.copytree(tiny_model, folder / "model")
    small = {"engine.threads": 1, "train.epochs": 1, "data.max_length": 32}
    kitune.train(folder / "tickets.csv", model=str(folder / "model"), out=folder / "run", options=small)
    return folder


@pytest.fixture
def here(workplace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the workplace, which is also the current folder."""
    folder = tmp_path / "here"
    shutil.copytree(workplace, folder)
    monkeypatch.chdir(folder)
    return folder


# The data


@mistake("tikets.csv: there is no such file", "did you mean", "tickets.csv?")
def a_misspelt_file(here: Path) -> Words:
    return train(here, "tikets.csv")


@mistake("validation.csv: there is no such file")
def a_validation_file_that_is_not_there(here: Path) -> Words:
    return train(here, "tickets.csv", "--valid", str(here / "validation.csv"))


@mistake("empty: a folder without train.*, valid.* or test.* and no data in it")
def a_folder_without_data(here: Path) -> Words:
    (here / "empty").mkdir()
    return train(here, "empty")


@mistake("the ending .docx is not one that kitune reads", ".csv")
def an_unknown_ending(here: Path) -> Words:
    (here / "tickets.docx").write_text("text,label\n")
    return train(here, "tickets.docx")


@mistake("nothing.csv: it is empty", "a header and rows")
def an_empty_table(here: Path) -> Words:
    (here / "nothing.csv").write_text("")
    return train(here, "nothing.csv")


@mistake("header.csv: it has no rows")
def a_header_only(here: Path) -> Words:
    (here / "header.csv").write_text("text,label\n")
    return train(here, "header.csv")


@mistake("tickets.csv, line 5: 5 fields where the header has 3")
def a_ragged_row(here: Path) -> Words:
    lines = (here / "tickets.csv").read_text().splitlines()
    lines[4] = "r3,the food, good, but cold,yes"
    (here / "tickets.csv").write_text("\n".join(lines))
    return train(here)


@mistake("latin.csv: not UTF-8, and its characters do not show which other encoding it is", "--set data.encoding=")
def an_encoding_that_nothing_shows(here: Path) -> Words:
    (here / "latin.csv").write_bytes("text,label\nþað þý,yes\nnon,no\n".encode("latin-1"))
    return train(here, "latin.csv")


@mistake("latin.csv, line 2: byte 0xe9 is not UTF-8", "--set data.encoding=")
def another_encoding_than_the_one_that_was_told(here: Path) -> Words:
    (here / "latin.csv").write_bytes("text,label\nun café,yes\nnon,no\n".encode("latin-1"))
    return [*train(here, "latin.csv"), "--set", "data.encoding=utf-8"]


@mistake("there is no column 'txt'; there are id, text, label", "did you mean 'text'?")
def a_wrong_text_column(here: Path) -> Words:
    return train(here, "tickets.csv", "--text", "txt")


@mistake("there is no column 'topic'; there are id, text, label", "name one of these")
def a_wrong_label_column(here: Path) -> Words:
    return train(here, "tickets.csv", "--label", "topic")


@mistake("valid.csv: there is no column 'label'")
def a_validation_file_with_other_columns(here: Path) -> Words:
    (here / "valid.csv").write_text("text\ngood film\n")
    return train(here, "tickets.csv", "--valid", str(here / "valid.csv"))


@mistake("column 'text' is named twice")
def a_column_that_is_text_and_label(here: Path) -> Words:
    return train(here, "tickets.csv", "--text", "text", "--label", "text")


@mistake("every row has the label 'yes' in column 'label'", "nothing to tell apart")
def a_single_class(here: Path) -> Words:
    edit(here / "tickets.csv", lambda rows: [row.update(label="yes") for row in rows])
    return train(here)


@mistake("tickets.csv, lines 4, 9: no label in column 'label'", "--set 'doctor.allow=[missing-labels]'")
def rows_without_a_label(here: Path) -> Words:
    edit(here / "tickets.csv", lambda rows: [rows[i].update(label="") for i in (2, 7)])
    return train(here)


@mistake("tickets.csv, line 4: label '7' in column 'label' is not among the 2 labels (no, yes)", "--set 'data.labels=")
def a_label_out_of_range_of_the_told_ones(here: Path) -> Words:
    edit(here / "tickets.csv", lambda rows: rows[2].update(label="7"))
    return train(here, "tickets.csv", "--task", "single-label", "--set", "data.labels=['no', 'yes']")


@mistake("55% of the tokens are unknown to the model (tickets.csv, lines 2, 3, 4 and 21 more) [unknown-tokens]", "klue")
def a_model_of_another_language(here: Path) -> Words:
    edit(here / "tickets.csv", lambda rows: [row.update(text=f"아주 재미있는 영화 {row['text'][:4]}") for row in rows])
    return train(here)


@mistake("tickets.csv, lines 2, 3, 4 and 21 more: 'yes' in column 'label' is no finite number")
def words_where_a_regression_needs_numbers(here: Path) -> Words:
    edit(here / "tickets.csv", lambda rows: [row.update(label="yes") for row in rows])
    return train(here, "tickets.csv", "--task", "regression")


@mistake("tickets.csv, line 6: the weight in column 'weight' is not a number of 0 or more")
def a_negative_weight(here: Path) -> Words:
    edit(here / "tickets.csv", lambda rows: [row.update(weight="-1" if i == 4 else "1") for i, row in enumerate(rows)])
    return train(here, "tickets.csv", "--set", "data.weight=weight")


@mistake("24 rows cannot be split into train and valid by the groups of column 'customer'", "--valid FILE")
def a_group_column_with_one_group(here: Path) -> Words:
    edit(here / "tickets.csv", lambda rows: [row.update(customer="Kim") for row in rows])
    return train(here, "tickets.csv", "--group", "customer")


@mistake("there is no column 'custmer'", "did you mean 'customer'?")
def a_wrong_group_column(here: Path) -> Words:
    edit(here / "tickets.csv", lambda rows: [row.update(customer="Kim") for row in rows])
    return train(here, "tickets.csv", "--group", "custmer")


# The words of the command


@mistake("there is no training data", "kitune train DATA")
def no_data(here: Path) -> Words:
    return ["train", "--model", str(here / "model")]


@mistake("No such option: --labl", "--label")
def a_misspelt_flag(here: Path) -> Words:
    return train(here, "tickets.csv", "--labl", "label")


@mistake("there is no option --learning-rate", "did you mean --set train.learning_rate=1e-4?")
def an_option_of_set_as_a_flag(here: Path) -> Words:
    return train(here, "tickets.csv", "--learning-rate=1e-4")


@mistake("there is no option --seed", "did you mean --set train.seed=3?")
def an_option_of_set_as_a_flag_that_another_is_like(here: Path) -> Words:
    return train(here, "tickets.csv", "--seed", "3")


@mistake("there is no option --encoding", "did you mean --set data.encoding=cp932? kitune predict --help")
def an_option_of_data_as_a_flag(here: Path) -> Words:
    return ["predict", str(here / "run"), str(here / "tickets.csv"), "--encoding", "cp932"]


@mistake("Option '--limit' requires an argument", "kitune train --help")
def a_flag_without_its_value(here: Path) -> Words:
    return train(here, "tickets.csv", "--limit")


@mistake("No such option: -d", "kitune train --help")
def a_word_of_one_dash(here: Path) -> Words:
    return train(here, "tickets.csv", "-device", "cpu")


@mistake("train.batch_rows: it takes integer >= 1 or auto (given: [16])")
def a_list_in_the_place_of_a_number(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "train.batch_rows=[16]")


@mistake("'caf\\udce9.csv': not UTF-8", "rename")
def a_name_that_is_not_utf8(here: Path) -> Words:
    return ["train", os.fsdecode(b"caf\xe9.csv")]


@mistake("train.seed: --seeds tells the seed of each training")
def a_seed_beside_seeds(here: Path) -> Words:
    return train(here, "tickets.csv", "--seeds", "1,2", "--set", "train.seed=7")


@mistake("train.batch_rows and train.batch_tokens are two ways to say one thing")
def a_step_in_rows_and_in_tokens(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "train.batch_rows=4", "--set", "train.batch_tokens=100")


@mistake("there is no option 'trian.epochs'", "did you mean train.epochs?")
def a_misspelt_option_for_a_model_that_is_looked_at(here: Path) -> Words:
    return ["inspect", str(here / "model"), "--set", "trian.epochs=3"]


@mistake("--train has rows for the baselines, and --no-baselines leaves them out")
def rows_for_baselines_that_are_not_wanted(here: Path) -> Words:
    return ["evaluate", str(here / "run"), str(here / "tickets.csv"), "--no-baselines", "--train", "nowhere.csv"]


@mistake("run: a run or a model, not data", "--model takes a run")
def a_run_in_the_place_of_data(here: Path) -> Words:
    return train(here, "run")


@mistake("there are rows for test and none to learn from", "kitune train FILE")
def a_folder_without_rows_to_learn_from(here: Path) -> Words:
    (here / "data").mkdir()
    shutil.copy(here / "tickets.csv", here / "data" / "test.csv")
    return train(here, "data")


@mistake("tickets.csv: a file, not a model", "it comes before the data")
def a_run_and_its_data_the_other_way_round(here: Path) -> Words:
    return ["evaluate", str(here / "tickets.csv"), str(here / "run")]


@mistake("there is no such file", "echo ... | kitune predict RUN -")
def a_text_in_the_place_of_data(here: Path) -> Words:
    return ["predict", str(here / "run"), "arrived broken"]


@mistake(
    "WORLD_SIZE=2 is set and RANK is not: the processes cannot find each other", "unset WORLD_SIZE", WORLD_SIZE="2"
)
def processes_without_a_launcher(here: Path) -> Words:
    return train(here, "tickets.csv")


@mistake("No such command 'trian'", "train")
def a_misspelt_command(here: Path) -> Words:
    return ["trian", str(here / "tickets.csv")]


@mistake("Missing argument 'DATA'", "kitune predict --help")
def a_missing_argument(here: Path) -> Words:
    return ["predict", str(here / "run")]


@mistake("'train.learningrate'", "did you mean train.learning_rate?")
def a_misspelt_option(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "train.learningrate=1e-4")


@mistake("train.epochs", "'many'")
def an_option_of_a_wrong_type(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "train.epochs=many")


@mistake("train.warmup_share: it takes number >= 0 and < 1 (given: 1.5)")
def an_option_out_of_range(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "train.warmup_share=1.5")


@mistake("train.learning_rate: it takes number > 0 and < 1 or auto (given: -0.0001)")
def a_negative_learning_rate(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "train.learning_rate=-1e-4")


@mistake("data.max_length: it takes integer >= 8 or auto (given: 0)")
def a_max_length_of_nothing(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "data.max_length=0")


@mistake("--set train.epochs: it has no '='", "section.key=value")
def an_option_without_a_value(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "train.epochs")


@mistake("task", "it takes single-label or multi-label or regression or auto", "'singel-label'")
def a_misspelt_task(here: Path) -> Words:
    return train(here, "tickets.csv", "--task", "singel-label")


@mistake("options.yaml: there is no such file")
def a_config_file_that_is_not_there(here: Path) -> Words:
    return train(here, "tickets.csv", "--config", str(here / "options.yaml"))


@mistake("options.yaml", "'train.epoch'", "did you mean train.epochs?")
def a_misspelt_option_in_a_config_file(here: Path) -> Words:
    (here / "options.yaml").write_text("train:\n  epoch: 3\n")
    return train(here, "tickets.csv", "--config", str(here / "options.yaml"))


@mistake("train.schedule_options: cosine has no option 'num_cyclez'", "it takes num_cycles")
def an_option_that_the_schedule_does_not_have(here: Path) -> Words:
    return train(
        here, "tickets.csv", "--set", "train.schedule=cosine", "--set", "train.schedule_options={num_cyclez: 2}"
    )


@mistake("train.best_metric: a single-label task has no rmse", "choose among loss, accuracy")
def a_metric_that_the_task_does_not_have(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "train.best_metric=rmse")


@mistake("train.class_weights: 'maybe' is not among the labels (no, yes)")
def a_class_weight_of_no_class(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "train.class_weights={maybe: 2.0}")


@mistake("data.max_length: 65 is more than the model's 64 positions", "--set data.max_length=64")
def more_tokens_than_the_model_has_positions(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "data.max_length=65")


# The model


@mistake("no-such-model", "the hub cannot be reached", "--model starter")
def an_unknown_model_without_a_network(here: Path) -> Words:
    return ["train", str(here / "tickets.csv"), "--model", "no-such-model"]


@mistake("models/mine: there is no such folder")
def a_model_folder_that_is_not_there(here: Path) -> Words:
    return train(here, model="models/mine")


@mistake("empty: not a model: it holds no config.json")
def a_folder_without_a_model(here: Path) -> Words:
    (here / "empty").mkdir()
    return train(here, model="empty")


@mistake("tickets.csv: a file, not a model")
def a_file_as_a_model(here: Path) -> Words:
    return train(here, model="tickets.csv")


@mistake("model: no model.safetensors and no pytorch_model.bin")
def a_model_without_weights(here: Path) -> Words:
    (here / "model" / "model.safetensors").unlink()
    return train(here)


@mistake("model: its weights do not load", "download the model again")
def truncated_weights(here: Path) -> Words:
    weights = here / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    return train(here)


@mistake("config.json", "download the model again")
def a_config_that_is_not_json(here: Path) -> Words:
    (here / "model" / "config.json").write_text('{"model_type": "bert",')
    return train(here)


@mistake("config.json", "download the model again")
def a_config_of_an_unknown_family(here: Path) -> Words:
    (here / "model" / "config.json").write_text('{"model_type": "berd"}')
    return train(here)


@mistake("model: none of the encoder's", "so its config names another model")
def weights_of_another_model(here: Path) -> Words:
    save_file({"wte.weight": torch.zeros(4, 4)}, here / "model" / "model.safetensors", {"format": "pt"})
    return train(here)


@mistake("word_embeddings.weight is [7, 32] in its file and [", ", 32] by its config.json")
def weights_of_another_size(here: Path) -> Words:
    weights = load_file(here / "model" / "model.safetensors")
    name = next(name for name in weights if "word_embeddings" in name)
    weights[name] = torch.zeros(7, 32)
    save_file(weights, here / "model" / "model.safetensors", {"format": "pt"})
    return train(here)


@mistake("model: it holds no tokenizer's vocabulary", "put the tokenizer's files there")
def a_model_without_a_tokenizer(here: Path) -> Words:
    for file in (here / "model").iterdir():
        if file.name not in {"config.json", "model.safetensors"}:
            file.unlink()
    return train(here)


# Where the run goes, and going on


@mistake("run: it exists already and is a run; nothing in it was touched", "kitune train --resume")
def a_run_folder_that_exists(here: Path) -> Words:
    return train(here, out="run")


@mistake("model: it exists already; nothing in it was touched", "choose another --out")
def a_folder_that_exists(here: Path) -> Words:
    return train(here, out="model")


@mistake("tickets.csv: not a folder", "choose another --out")
def a_run_folder_below_a_file(here: Path) -> Words:
    return train(here, out="tickets.csv/new")


@mistake("model: not a run: it has no record.json")
def going_on_with_something_that_is_no_run(here: Path) -> Words:
    return ["train", "--resume", str(here / "model")]


@mistake("runs/first: not a run")
def going_on_with_a_run_that_is_not_there(here: Path) -> Words:
    return ["train", "--resume", "runs/first"]


@mistake("--resume goes on in the run's own folder", "leave one of them out")
def going_on_in_another_folder(here: Path) -> Words:
    return ["train", "--resume", str(here / "run"), "--out", str(here / "new")]


@mistake("run: train.learning_rate was", "and is now 0.01", "--set train.learning_rate=0.01")
def going_on_with_another_learning_rate(here: Path) -> Words:
    return ["train", "--resume", str(here / "run"), "--set", "train.learning_rate=0.01"]


@mistake("run: the train rows (", "tickets.csv) are not those that it was trained on", "put the old data back")
def going_on_with_other_rows(here: Path) -> Words:
    edit(here / "tickets.csv", lambda rows: rows[2].update(text="something else"))
    return ["train", str(here / "tickets.csv"), "--resume", str(here / "run")]


@mistake("run: none of its 1 checkpoint is whole", "rm -r")
def going_on_without_a_whole_checkpoint(here: Path) -> Words:
    for weights in here.glob("run/checkpoints/step-*/model.safetensors"):
        data = weights.read_bytes()
        weights.unlink()  # best/ and last/ may be the same file
        weights.write_bytes(data[:-1])
    return ["train", "--resume", str(here / "run"), "--set", "train.epochs=2"]


@mistake("steps are done, more than the 0 of 0 epochs", "train.epochs=")
def going_on_with_fewer_epochs_than_are_done(here: Path) -> Words:
    return ["train", "--resume", str(here / "run"), "--set", "train.epochs=0"]


@mistake(
    "ACCELERATE_MIXED_PRECISION=fp16 is set", "unset ACCELERATE_MIXED_PRECISION", ACCELERATE_MIXED_PRECISION="fp16"
)
def a_launcher_with_a_precision_of_its_own(here: Path) -> Words:
    return train(here)


@mistake("ACCELERATE_USE_FSDP is set", "unset ACCELERATE_USE_FSDP", ACCELERATE_USE_FSDP="true")
def a_launcher_that_shards(here: Path) -> Words:
    return train(here)


# Predicting and evaluating


@mistake("model: an encoder without a trained head answers nothing", "kitune train")
def predicting_with_an_untrained_model(here: Path) -> Words:
    return ["predict", str(here / "model"), str(here / "tickets.csv"), "--out", str(here / "answers.csv")]


@mistake("tikets.csv: there is no such file", "tickets.csv?")
def predicting_from_a_misspelt_file(here: Path) -> Words:
    return ["predict", str(here / "run"), str(here / "tikets.csv")]


@mistake("others.csv: there is no column 'text'; there is texts", "did you mean 'texts'?")
def predicting_without_the_text_column(here: Path) -> Words:
    (here / "others.csv").write_text("texts\ngood\n")
    return ["predict", str(here / "run"), str(here / "others.csv"), "--out", str(here / "answers.csv")]


@mistake("there is no column 'identifier'; there are id, text, label", "name one of these")
def keeping_a_column_that_is_not_there(here: Path) -> Words:
    words = ["--keep", "identifier", "--out", str(here / "answers.csv")]
    return ["predict", str(here / "run"), str(here / "tickets.csv"), *words]


@mistake("tickets.csv: it exists already; nothing in it was touched")
def predicting_into_a_file_that_exists(here: Path) -> Words:
    return ["predict", str(here / "run"), str(here / "tickets.csv"), "--out", str(here / "tickets.csv")]


@mistake("the ending .docx is not one that kitune writes", "use .csv")
def predicting_into_an_unknown_format(here: Path) -> Words:
    return ["predict", str(here / "run"), str(here / "tickets.csv"), "--out", str(here / "answers.docx")]


@mistake("answers: there is no such folder")
def predicting_into_a_folder_that_is_not_there(here: Path) -> Words:
    return ["predict", str(here / "run"), str(here / "tickets.csv"), "--out", str(here / "answers" / "first.csv")]


@mistake("--which newest: a run has best and last", "--which best")
def an_unknown_part_of_a_run(here: Path) -> Words:
    return ["predict", str(here / "run"), str(here / "tickets.csv"), "--which", "newest"]


@mistake("precision: it takes fp32 or bf16 or fp16 or auto (given: 'fp8')")
def an_unknown_precision(here: Path) -> Words:
    return ["predict", str(here / "run"), str(here / "tickets.csv"), "--precision", "fp8"]


@mistake("config.json", "download the model again")
def predicting_with_a_config_that_is_not_json(here: Path) -> Words:
    (here / "run" / "best" / "config.json").write_text("{")
    return ["predict", str(here / "run"), str(here / "tickets.csv")]


@mistake("runs/first: not a model: the run has no finished part yet")
def predicting_with_an_unfinished_run(here: Path) -> Words:
    (here / "runs" / "first").mkdir(parents=True)
    shutil.copy(here / "run" / "run.yaml", here / "runs" / "first")
    return ["predict", "runs/first", str(here / "tickets.csv")]


@mistake("others.csv: there is no column 'label'; there are text, topic", "name one of these")
def evaluating_without_the_label_column(here: Path) -> Words:
    (here / "others.csv").write_text("text,topic\ngood,yes\n")
    return ["evaluate", str(here / "run"), str(here / "others.csv")]


@mistake("others.csv, line 3: label 'maybe' in column 'label' is not among the 2 labels (no, yes)")
def evaluating_a_label_that_the_run_does_not_know(here: Path) -> Words:
    (here / "others.csv").write_text("text,label\ngood,yes\nbad,maybe\n")
    return ["evaluate", str(here / "run"), str(here / "others.csv")]


@mistake("tickets.csv: there is no column 'shop'", "name one of these")
def scoring_by_a_column_that_is_not_there(here: Path) -> Words:
    return ["evaluate", str(here / "run"), str(here / "tickets.csv"), "--by", "shop"]


@mistake("scores.csv: the ending .csv is not one that kitune writes", "use .json")
def scores_that_are_no_json(here: Path) -> Words:
    return ["evaluate", str(here / "run"), str(here / "tickets.csv"), "--out", "scores.csv"]


@mistake("--out answers.tsv: a GLUE submission has no file of that name", "QNLI.tsv")
def a_submission_of_no_task(here: Path) -> Words:
    return ["predict", str(here / "run"), str(here / "tickets.csv"), "--format", "glue", "--out", "answers.tsv"]


@mistake("the model answers 'no', and the file holds entailment, not_entailment", "data.labels")
def a_submission_of_a_model_of_other_labels(here: Path) -> Words:
    return ["predict", str(here / "run"), str(here / "tickets.csv"), "--format", "glue", "--out", "QNLI.tsv"]


@mistake("--format xlsx: there is glue")
def a_format_that_is_not_there(here: Path) -> Words:
    return ["predict", str(here / "run"), str(here / "tickets.csv"), "--format", "xlsx", "--out", "a.csv"]


@mistake("--folds 1: there is nothing to compare", "--folds 5")
def a_single_fold(here: Path) -> Words:
    return train(here, "tickets.csv", "--folds", "1")


@mistake("tickets.csv: fewer different texts or groups than 99 folds", "--folds with less")
def more_folds_than_rows(here: Path) -> Words:
    return train(here, "tickets.csv", "--folds", "99")


@mistake("12 rows cannot be split", "each has a label of its own in column 'id'", "--label COLUMN")
def a_label_column_that_numbers_the_rows(here: Path) -> Words:
    edit(here / "tickets.csv", lambda rows: rows.__delitem__(slice(12, None)))
    return train(here, "tickets.csv", "--label", "id")


@mistake("valid.csv: none of its labels (maybe, never) is one of train's (no, yes)", "write them alike")
def validation_rows_with_other_labels(here: Path) -> Words:
    write_csv(here / "valid.csv", [{"text": "good film", "label": "maybe"}, {"text": "bad film", "label": "never"}])
    return train(here, "tickets.csv", "--valid", str(here / "valid.csv"))


@mistake("it holds several trainings", "such as")
def a_folder_of_several_trainings(here: Path) -> Words:
    (here / "folds").mkdir()
    (here / "folds" / "repeats.json").write_text("{}")
    shutil.copytree(here / "run", here / "folds" / "fold-1")
    return ["predict", str(here / "folds"), str(here / "tickets.csv")]


@mistake("-: rows to be scored come from a file", "kitune predict")
def scores_of_standard_input(here: Path) -> Words:
    return ["evaluate", str(here / "run"), "-"]


@mistake("--text: 2 columns, and the model reads text", "give as many")
def another_number_of_texts(here: Path) -> Words:
    return ["predict", str(here / "run"), str(here / "tickets.csv"), "--text", "text", "--text", "id"]


@mistake("File name too long", "check the path")
def a_name_that_the_system_refuses(here: Path) -> Words:
    return train(here, "x" * 300 + ".csv")


@mistake("compute_metrics: mine.py: there is no such file", "FILE.py:NAME")
def metrics_in_a_file_that_is_not_there(here: Path) -> Words:
    return train(here, "tickets.csv", "--set", "train.compute_metrics=mine.py")


@mistake("test.csv: no row of the test part has a label", "leave the part out")
def a_test_part_without_any_label(here: Path) -> Words:
    rows = [{"text": "good film", "label": ""}, {"text": "bad film", "label": ""}]
    write_csv(here / "test.csv", rows)
    return train(here, "tickets.csv", "--test", str(here / "test.csv"), "--set", "doctor.allow=[missing-labels]")


@mistake("train.epochs was settled when the run began, at", "give a value, or leave it out")
def a_resumption_with_auto(here: Path) -> Words:
    return ["train", "--resume", str(here / "run"), "--set", "train.epochs=auto"]


@mistake("run: no folds or seeds are under way there", "another --out")
def folds_where_a_run_is(here: Path) -> Words:
    return ["train", "--folds", "3", "--resume", str(here / "run")]


@mistake("ACCELERATE_USE_DEEPSPEED is set, and kitune does not shard models", ACCELERATE_USE_DEEPSPEED="true")
def another_launcher_that_shards(here: Path) -> Words:
    return train(here)


@mistake(
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 is set", "--set train.accumulation=4",
    ACCELERATE_GRADIENT_ACCUMULATION_STEPS="4",
)  # fmt: skip
def a_launcher_with_settings_of_its_own(here: Path) -> Words:
    return train(here)


@mistake("--folds runs in one process", "without torchrun", WORLD_SIZE="2")
def folds_of_several_processes(here: Path) -> Words:
    return train(here, "tickets.csv", "--folds", "3")


@mistake("engine.device: cuda was asked for and there is none", "engine.device=cpu", CUDA_VISIBLE_DEVICES="")
def a_gpu_that_is_not_there(here: Path) -> Words:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    return train(here, "tickets.csv", "--set", "engine.device=cuda")


@mistake("run: written by a later kitune (format 99)", "pip install --upgrade kitune")
def going_on_with_a_run_of_a_later_version(here: Path) -> Words:
    record = json.loads((here / "run" / "record.json").read_text())
    (here / "run" / "record.json").write_text(json.dumps({**record, "format": 99}))
    return ["train", "--resume", str(here / "run")]


@mistake("record.json: damaged", "start anew")
def going_on_with_a_record_that_was_cut_off(here: Path) -> Words:
    (here / "run" / "record.json").write_text("{")
    return ["train", "--resume", str(here / "run")]


@mistake("compute_metrics: mine.py has no function 'my-f'", "FILE.py:NAME")
def metrics_of_a_name_that_is_not_there(here: Path) -> Words:
    (here / "mine.py").write_text("def compute_metrics(told):\n    return {}\n")
    return train(here, "tickets.csv", "--set", "train.compute_metrics=mine.py:my-f")


@pytest.mark.parametrize(("prepare", "fragments", "environment"), MISTAKES)
def test_a_mistake_is_named_with_its_place_and_its_remedy_and_nothing_is_written(
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Path], Words],
    fragments: tuple[str, ...],
    environment: dict[str, str],
) -> None:
    words = prepare(here)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    before = tree(here)
    with pytest.raises(SystemExit) as stopped:
        main(words)
    output = capsys.readouterr()
    said = output.err[output.err.index("error:") :] if "error:" in output.err else output.err
    assert stopped.value.code == 2
    assert said.startswith("error: ")
    assert "\n  fix: " in said
    assert "Traceback" not in output.err
    assert output.out == ""
    for fragment in fragments:
        assert fragment in said
    assert tree(here) == before


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_the_fix_for_rows_without_a_label_drops_them_and_no_others(
    here: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    import pyarrow as pa

    from kitune.data.read import read_table
    from kitune.data.write import row_writer

    data = here / f"it's data{ending}"
    rows = [{"text": f"good film {i}", "label": None if i in (2, 7) else "NA" if i % 2 else "ok"} for i in range(20)]
    with row_writer(data) as write:
        write(pa.Table.from_pylist(rows))
    with pytest.raises(SystemExit):
        main(train(here, data.name))
    fix = capsys.readouterr().err.partition("a training does so with ")[2].partition(")")[0]
    with pytest.raises(SystemExit) as stopped:
        main([*train(here, data.name), *shlex.split(fix)])
    assert stopped.value.code == 0
    answers = [read_table(path) for path in (here / "new" / "predictions").iterdir()]
    found = json.loads((here / "new" / "findings.json").read_text())
    assert [finding["code"] for finding in found][:1] == ["missing-labels"]
    assert sum(map(len, answers)) + 16 == 18
    assert "18 rows are held out" in capsys.readouterr().err


def test_what_lets_one_finding_pass_lets_the_earlier_ones_pass_too(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [f"日本語の文{'あいうえおかきくけこ'[i % 10]}{i},{['yes', 'no', ''][i % 3]}" for i in range(24)]
    (here / "strange.csv").write_text("text,label\n" + "\n".join(lines) + "\n")
    words = train(here, "strange.csv")
    for codes in (["missing-labels"], ["missing-labels", "unknown-tokens"]):
        with pytest.raises(SystemExit) as stopped:
            main(words)
        assert stopped.value.code == 2
        fix = re.findall(r"--set '(doctor.allow=.*?)'", capsys.readouterr().err)[-1]
        assert fix == f"doctor.allow=[{', '.join(codes)}]"
        words = [*train(here, "strange.csv"), "--set", fix]
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0


def test_a_label_that_only_the_validation_file_has_is_scored_and_said(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "valid.csv").write_text("text,label\ngood film,yes\nbad film,maybe\n")
    with pytest.raises(SystemExit) as stopped:
        main(train(here, "tickets.csv", "--valid", str(here / "valid.csv")))
    assert stopped.value.code == 0
    said = capsys.readouterr().err
    assert "valid: 1 row with a label that train lacks: 'maybe' (valid.csv, line 3) [unseen-labels]" in said
    config = json.loads((here / "new" / "best" / "config.json").read_text())
    assert list(config["id2label"].values()) == ["no", "yes", "maybe"]


def test_the_fix_for_a_run_folder_that_exists_goes_on_with_it(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(train(here, out="run"))
    fix = capsys.readouterr().err.partition("go on with ")[2].partition(", or choose")[0]
    program, *words = shlex.split(fix)
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--set", "train.epochs=2"])
    assert (program, stopped.value.code) == ("kitune", 0)
    assert json.loads((here / "run" / "record.json").read_text())["resumed"][0]["epochs"] == 2


@pytest.mark.parametrize(
    "words",
    [[], ["--help"], *([name, "--help"] for name in ("train", "evaluate", "predict", "inspect", "doctor", "cache"))],
)
def test_help_of_every_command_exits_with_0(words: Words, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(words)
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith("Usage: kitune")


def test_every_option_is_listed_with_its_default_and_what_it_does(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--options"])
    listed = capsys.readouterr().out
    assert stopped.value.code == 0
    assert (
        "train.warmup_share = 0.06  (number >= 0 and < 1)\n    Share of all optimizer steps spent warming up." in listed
    )


def test_help_answers_at_once_and_without_torch() -> None:
    # The processor's seconds, not the clock's: what the neighbours of a busy machine take is no fault of ours.
    times = []
    for _ in range(5):
        before = os.times()
        done = subprocess.run([sys.executable, "-m", "kitune", "--help"], capture_output=True, text=True, check=True)
        after = os.times()
        times.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert "train" in done.stdout
    assert min(times) < 0.3
    ask = (
        "import sys, kitune.cli\ntry: kitune.cli.main(['--help'])\nexcept SystemExit: sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", ask], capture_output=True).returncode == 0


@pytest.mark.parametrize("words", [["train", "--options"], ["inspect", "tickets.csv"], ["doctor", "bare.csv"]])
def test_a_reader_that_goes_away_ends_the_command_without_a_word(here: Path, words: Words) -> None:
    (here / "bare.csv").write_text("text,label\n" + "good film,yes\nbad film,\n" * 20)
    with subprocess.Popen(
        [sys.executable, "-m", "kitune", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        said = process.stderr.read().decode()
    assert process.returncode == 141, said
    assert "Traceback" not in said


def test_a_training_goes_on_where_nobody_reads_what_it_says(here: Path) -> None:
    words = [sys.executable, "-m", "kitune", *train(here)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        process.stderr.close()
    assert process.returncode == 0
    assert (here / "new" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("inspect tickets.csv >&-", 0),
        ("train --options >&- 2>&-", 0),
        ("train nowhere.csv 2>&-", 2),
        ("predict run - <&-", 2),
    ],
)
def test_closed_streams_hold_nothing(here: Path, command: str, code: int) -> None:
    line = f"{shlex.quote(sys.executable)} -m kitune {command}"
    done = subprocess.run(line, shell=True, capture_output=True, text=True, cwd=here)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr


def test_an_interrupted_command_ends_with_130_and_says_how_to_go_on(here: Path) -> None:
    words = [*train(here, "tickets.csv", "--set", "train.epochs=2000"), "--set", "engine.keep_checkpoints=1"]
    with subprocess.Popen([sys.executable, "-m", "kitune", *words], stderr=subprocess.PIPE, text=True) as running:
        events, deadline = here / "new" / "events.jsonl", time.monotonic() + 120
        while (
            running.poll() is None and time.monotonic() < deadline and not (events.exists() and events.stat().st_size)
        ):
            time.sleep(0.01)
        running.send_signal(signal.SIGINT)
        said = running.communicate(timeout=120)[1]
    assert running.returncode == 130, said
    assert f"interrupted; go on with kitune train --resume {here / 'new'}" in said


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert (stopped.value.code, capsys.readouterr().out) == (0, f"kitune {kitune.__version__}\n")
