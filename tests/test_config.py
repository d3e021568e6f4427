import math
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from kitune.config import (
    FREE_AT_RESUME,
    RunOptions,
    describe_options,
    dump_yaml,
    flat,
    load_yaml,
    option_names,
    parse_set,
    with_values,
    yaml_line,
)
from kitune.errors import UserError

DEFAULTS = RunOptions()


def with_set(*words: str) -> RunOptions:
    return with_values(DEFAULTS, parse_set(words))


@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("train.epoch", "train.epochs"),
        ("train.learning_rat", "train.learning_rate"),
        ("epochs", "train.epochs"),
        ("data.learning_rate", "train.learning_rate"),
        ("engine.precison", "engine.precision"),
        ("models", "model"),
        ("train.batchrows", "train.batch_rows"),
    ],
)
def test_a_misspelt_option_is_answered_with_the_nearest(wrong: str, right: str) -> None:
    message = f"--set: there is no option '{wrong}'\n  fix: did you mean {right}?"
    with pytest.raises(UserError, match=re.escape(message)):
        with_set(f"{wrong}=3")


def test_an_option_like_no_other_is_answered_with_the_list_of_all() -> None:
    with pytest.raises(UserError, match="there is no option 'xyzzy'\n  fix: kitune train --options lists every option"):
        with_set("xyzzy=3")


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("train.epochs=many", "train.epochs"),
        ("train.epochs=2.5", "train.epochs"),
        ("train.learning_rate=fast", "train.learning_rate"),
        ("train.sampler=sorted", "train.sampler"),
        ("train.schedule=exponential", "train.schedule"),
        ("engine.cache=perhaps", "engine.cache"),
        ("engine.precision=fp8", "engine.precision"),
        ("task=tagging", "task"),
        ("data.label=[a]", "data.label"),
        ("data.text={a: b}", "data.text"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_its_option(word: str, name: str) -> None:
    with pytest.raises(UserError, match=f"^(--set: there is no option '|){re.escape(name)}(:|')") as refused:
        with_set(word)
    assert "Input should" not in str(refused.value)


def test_a_section_is_told_as_a_table_of_options() -> None:
    assert with_set("train={epochs: 3, seed: 2}") == with_set("train.epochs=3", "train.seed=2")
    with pytest.raises(UserError, match=r"^--set: train: a section of options, not a value \(given: 5\)"):
        with_set("train=5")


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("data.text=[a, b, c]", "it takes list of text (1 to 2 of them) or null (given: ['a', 'b', 'c'])"),
        ("data.text=[]", "it takes list of text (1 to 2 of them) or null (given: [])"),
        ("data.labels=[]", "it takes list of text (at least 1) or null (given: [])"),
        ("data.labels=[true, false]", "it takes list of text (at least 1) or null (given: True)"),
        ("train.include_for_metrics=[foo]", "it takes list of inputs or loss (given: 'foo')"),
        (
            "train.class_weights={a: heavy}",
            "it takes auto or table of number >= 0 by name or null (given: {'a': 'heavy'})",
        ),
        ("train.class_weights={a: -1}", "it takes auto or table of number >= 0 by name or null (given: -1)"),
        ("train.class_weights={a: .nan}", "it takes auto or table of number >= 0 by name or null (given: {'a': nan})"),
        ("train.class_weights={a: 0, b: 0}", "some weight must be above 0 (given: {'a': 0, 'b': 0})"),
        ("train.weight_decay=.inf", "it takes number >= 0 (given: inf)"),
        ("train.schedule_options={power: .nan}", "it takes table of number or text by name (given: nan)"),
        ("data.label_separator=''", "it takes text, not empty or auto (given: '')"),
        ("train.seed=4294967296", "it takes integer >= 0 and <= 4294967295 (given: 4294967296)"),
        ("engine.threads=3000000000", "it takes integer >= 1 and <= 4096 or auto (given: 3000000000)"),
    ],
)
def test_what_an_option_takes_is_told_beside_what_was_given(word: str, says: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(word.partition('=')[0])}: {re.escape(says)}\n"):
        with_set(word)


@pytest.mark.parametrize(
    "word",
    [
        "train.epochs=-1",
        "train.batch_rows=0",
        "train.patience=0",
        "train.evaluate_every=0",
        "train.checkpoint_every=0",
        "train.learning_rate=0.0",
        "train.learning_rate=2.0",
        "train.learning_rate=2",
        "train.resume_learning_rate=-0.1",
        "train.seed=-1",
        "train.batch_tokens=0",
        "train.accumulation=0",
        "train.warmup_share=1",
        "train.weight_decay=-0.1",
        "train.beta2=1",
        "train.epsilon=0",
        "train.clip=0",
        "train.label_smoothing=1",
        "train.dropout=1",
        "data.valid_share=0",
        "data.valid_share=1",
        "data.limit=1",
        "data.max_length=7",
        "engine.keep_checkpoints=0",
        "engine.log_every=0",
        "engine.threads=0",
    ],
)
def test_a_value_out_of_range_is_refused_with_its_option(word: str) -> None:
    name = word.partition("=")[0]
    with pytest.raises(UserError, match=rf"{name.rpartition('.')[2]}(.|\n)*fix: kitune train --options"):
        with_set(word)


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("train.learning_rate=5e-5", 5e-5),
        ("train.learning_rate=5.0e-5", 5e-5),
        ("train.learning_rate=auto", "auto"),
        ("train.epsilon=1e-6", 1e-6),
        ("train.epochs=3", 3),
        ("train.clip=null", None),
        ("train.clip=1", 1.0),
        ("data.text=[a, b]", ("a", "b")),
        ("data.labels=['no', 'yes']", ("no", "yes")),
        ("data.label='2024'", "2024"),
        ("data.label='1e5'", "1e5"),
        ("data.label='#1 String'", "#1 String"),
        ("train.batch_tokens=1e4", 10_000),
        ("data.label_separator='|'", "|"),
        ("model=my models/first", "my models/first"),
        ("train.class_weights={good: 1, bad: 2.5}", {"good": 1.0, "bad": 2.5}),
        ("train.class_weights=auto", "auto"),
        ("train.class_weights={1: 2, 5: 1.5}", {"1": 2.0, "5": 1.5}),
        ("train.class_weights={true: 2}", {"True": 2.0}),
        ("train.best_within=.inf", math.inf),
        ("revision=1234567", "1234567"),
        ("data.id=2024_01", "2024_01"),
        ("data.id=2024-13-45", "2024-13-45"),
        ("data.id=0x1F", "0x1F"),
        ("data.id=truest", "truest"),
        ("data.id==", "="),
        ("data.labels=[010, 020, 2:1, 1:30.5, 1_0.5]", ("010", "020", "2:1", "1:30.5", "1_0.5")),
        ("data.valid_share=.25", 0.25),
        ("data.limit=+20", 20),
        ("train.schedule_options={min_lr: 5e-5, num_cycles: 2}", {"min_lr": 5e-5, "num_cycles": 2.0}),
        ("train.schedule_options={decay_type: 1-sqrt}", {"decay_type": "1-sqrt"}),
        ("engine.cache=false", False),
        ("data.labels=[no, yes, 3]", ("no", "yes", "3")),
        ("data.id=1", "1"),
        ("data.delimiter=|", "|"),
        ("data.delimiter=,", ","),
        (r"data.delimiter=\t", "\t"),
        ("data.delimiter=';'", ";"),
    ],
)
def test_a_value_is_read_as_yaml(word: str, value: Any) -> None:
    name = word.partition("=")[0]
    read = flat(with_set(word))[name]
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    "text",
    [
        "id",
        "Unnamed: 0",
        "Sheet 1",
        "no",
        "1e5",
        "#1",
        "日本",
        'a "b"',
        "it's",
        "2024",
        "2024_01",
        "010",
        "2:1",
        "=",
        "<<",
        "2024-01-05",
        "1.",
        "-",
        "true",
        "caf\x85e",
        "a\u2028b",
    ],
)
def test_a_text_of_a_fix_reads_back(text: str) -> None:
    assert with_set(f"data.id={yaml_line(text)}").data.id == text
    assert yaml_line("id") == "id"


def test_a_set_without_a_value_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"--set train.epochs: it has no '='\n  fix: write it as --set section.key=value"
    ):
        parse_set(["train.epochs"])
    for text in ("[a", "#1 String", "9" * 5000, "{a: 1, a: 2}"):
        with pytest.raises(UserError, match=rf"--set data.label: '{re.escape(text)}' is not a value\n  fix: quote it"):
            parse_set([f"data.label={text}"])


def test_only_the_options_that_are_set_change() -> None:
    changed = with_set("train.epochs=3", "model=bert-base-uncased")
    assert {name for name, value in flat(changed).items() if value != flat(DEFAULTS)[name]} == {"train.epochs", "model"}
    assert flat(DEFAULTS)["train.epochs"] == "auto"


CHANGED = {
    "model": "runs/first",
    "task": "multi-label",
    "data.train": "データ/train 1.csv",
    "data.text": ["#1 String", "no"],
    "data.labels": ["no", "yes", "007", "1e5", "null", "日本"],
    "data.label_separator": "|",
    "data.max_length": 128,
    "train.learning_rate": 5e-5,
    "train.epsilon": 1e-12,
    "train.clip": None,
    "train.class_weights": {"no": 1.0, "yes": 1e-5},
    "train.schedule_options": {"min_lr_rate": 0.1, "decay_type": "1-sqrt"},
    "train.evaluate_every": 100,
    "engine.cache": False,
}


@pytest.mark.parametrize("values", [{}, CHANGED], ids=["defaults", "changed"])
def test_options_written_as_yaml_read_back_equal(tmp_path: Path, values: dict[str, Any]) -> None:
    options = with_values(DEFAULTS, values)
    path = tmp_path / "run.yaml"
    path.write_text(dump_yaml(options), encoding="utf-8")
    assert load_yaml(path) == options
    assert flat(load_yaml(path)) == flat(options)
    assert load_yaml(path).model_dump() == options.model_dump()


def test_what_a_yaml_file_leaves_out_has_its_default(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  learning_rate: 5e-5\n  schedule_options: {min_lr: 1e-6}\n")
    options = load_yaml(path)
    assert options.train.learning_rate == 5e-5
    assert options.train.schedule_options == {"min_lr": 1e-6}
    assert options.data == DEFAULTS.data
    path.write_text("")
    assert load_yaml(path) == DEFAULTS


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {epoch: 3}", "there is no option 'train.epoch'\n  fix: did you mean train.epochs?"),
        ("trian: {epochs: 3}", "there is no option 'trian'\n  fix: did you mean train?"),
        ("epochs: 3", "there is no option 'epochs'\n  fix: did you mean train.epochs?"),
        ("train: {epochs: [3]}", "train.epochs: "),
        ("train: {warmup_share: 1.5}", "train.warmup_share: "),
        ("train: 5", "train: a section of options, not a value (given: 5)\n  fix: write it as 'train: {name: value}'"),
        ("data: a.csv", "data: a section of options, not a value (given: 'a.csv')"),
        ("model:", "model: it takes text (given: None)"),
        ("train: {epochs: 3}\ntrain.epochs: 4", "train.epochs stands there twice\n  fix: leave one of them out"),
        ("[a, b]", "not a table of options"),
    ],
)
def test_what_is_wrong_in_a_yaml_file_is_named_with_the_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "my run.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(f"{path}: {message}")):
        load_yaml(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("train: {epochs: 3", ", line 1: not YAML: expected ',' or '}', but got '<stream end>'"),
        ("data: {}\ntrain: {}\ntrain: {epochs: 3}", ", line 3: not YAML: 'train' stands there twice"),
        ("task: \tx: y", ", line 1: not YAML: "),
        (f"train: {{seed: {'9' * 5000}}}", ": not YAML: Exceeds the limit"),
    ],
)
def test_a_place_that_is_no_yaml_is_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "my run.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(f"{path}{message}")):
        load_yaml(path)


def test_a_yaml_file_may_have_whole_names_and_empty_sections(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("train.epochs: 3\ndata:\nengine: {cache: false}\nengine.threads: 2\n")
    told = {"train.epochs": 3, "engine.cache": False, "engine.threads": 2}
    assert load_yaml(path) == with_values(DEFAULTS, told)


def test_a_yaml_file_that_is_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run.yaml: there is no such file"):
        load_yaml(tmp_path / "run.yaml")
    with pytest.raises(UserError, match=re.escape(f"{tmp_path}: ")):
        load_yaml(tmp_path)


def test_every_option_is_described_once() -> None:
    described = describe_options().split("\n")
    heads, texts = described[::2], described[1::2]
    assert [head.partition(" = ")[0] for head in heads] == [*option_names()]
    assert all(re.fullmatch(r"    \S.{10,}\.", text) for text in texts), texts
    assert len(set(texts)) == len(texts)


def test_every_default_of_the_list_is_a_value_that_set_takes() -> None:
    for head in describe_options().split("\n")[::2]:
        name, _, value = head.rpartition("  (")[0].partition(" = ")
        assert with_values(DEFAULTS, {name: yaml.safe_load(value)}) == DEFAULTS


def test_options_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        DEFAULTS.train.epochs = 5  # type: ignore[misc]


def test_what_may_change_at_resume_is_an_option() -> None:
    assert set(option_names()) >= FREE_AT_RESUME


def test_the_list_of_options_shows_type_range_and_default() -> None:
    listed = describe_options()
    assert "train.epochs = auto  (integer >= 0 or auto)" in listed
    assert "train.learning_rate = auto  (number > 0 and < 1 or auto)" in listed
    assert "train.sampler = bucketed  (bucketed or random)" in listed
    assert len(listed.splitlines()) == 2 * len(list(option_names()))
