import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import polars
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.utils.class_weight import compute_class_weight

from kitune.config import RunOptions, parse_set, with_values
from kitune.data.labels import (
    class_weights,
    guess_task,
    label_array,
    label_names,
    read_by_place,
    require_learnable,
    weight_array,
)
from kitune.data.parts import read_parts
from kitune.data.read import read_table
from kitune.data.table import Table
from kitune.errors import UserError


def labelled(values: list[Any], column: str = "label") -> Table:
    return read_table([{"text": f"text {row}", column: value} for row, value in enumerate(values)])


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["no", "yes", "no"], "single-label"),
        ([0, 1, 1], "single-label"),
        (["1", "2", "10"], "single-label"),
        ([1.0, 2.0], "single-label"),
        (["1", "2", "unknown"], "single-label"),
        (["1.5", "2", "3"], "regression"),
        ([0.25, None, 1.0], "regression"),
        ([*range(101)], "regression"),
        ([*range(100)], "single-label"),
        ([["a"], ["a", "b"]], "multi-label"),
        (["a|b", "b", "a"], "multi-label"),
        (["a;b", "b;c", "a;c", ""], "multi-label"),
        (["a, b", "b", "a", "b, a"], "multi-label"),
        (["Yes, gladly", "No, thanks", "Maybe"], "single-label"),
        (["Yes, gladly", "Yes, please", "Yes"], "single-label"),
        (["Yes, gladly"] * 9 + ["No"] * 9, "single-label"),
        (["1,5", "2,5"], "single-label"),
    ],
)
def test_the_task_is_guessed_from_the_labels(values: list[Any], task: str) -> None:
    assert guess_task(values)[0] == task


def test_the_reason_of_a_guess_is_said() -> None:
    assert guess_task(["a|b", "b", "a"])[1] == "the labels are lists parted by '|'"
    assert guess_task(["x", "y"])[1] == "2 different labels"


@pytest.mark.parametrize("separator", ["|", ";", ","])
def test_each_separator_parts_the_labels_of_a_row(separator: str) -> None:
    values = [value.replace("|", separator) for value in ("red|blue", "blue", "red", "green|red", "green", "")]
    names = label_names("multi-label", values)
    assert names == ("blue", "green", "red")
    hot = label_array(labelled(values), "label", "multi-label", names)
    assert hot.dtype == np.float32
    assert hot.tolist() == [[1, 0, 1], [1, 0, 0], [0, 0, 1], [0, 1, 1], [0, 1, 0], [0, 0, 0]]


def test_a_told_separator_is_kept_to() -> None:
    values = ["a, b/c", "c"]
    assert label_names("multi-label", values, "/") == ("a, b", "c")
    assert label_array(labelled(values), "label", "multi-label", ("a, b", "c"), separator="/").tolist() == [
        [1, 1],
        [0, 1],
    ]


def test_lists_of_labels_need_no_separator() -> None:
    values = [["b", "a, too"], [], None, ["b"]]
    names = label_names("multi-label", values)
    assert names == ("a, too", "b")
    assert label_array(labelled(values), "label", "multi-label", names).tolist() == [[1, 1], [0, 0], [0, 0], [0, 1]]


@pytest.mark.parametrize("separator", ["|", ";", ","])
def test_labels_that_only_occur_together_are_parted_where_the_task_is_told(separator: str) -> None:
    assert label_names("multi-label", [f"a{separator}b", "c"]) == ("a", "b", "c")


def test_the_separator_of_train_parts_a_small_valid_part_too() -> None:
    train = [{"text": f"t{i}", "label": label} for i, label in enumerate(["a|b", "a", "b", "b|c", "c"])]
    parts, _ = read_parts(RunOptions(), {"train": train, "valid": [{"text": "v", "label": "a|b"}]})
    assert parts.names == ("a", "b", "c")
    assert parts.labels("valid").tolist() == [[1, 1, 0]]


def test_a_label_in_which_the_separator_of_others_stands_is_not_torn() -> None:
    names = ("a|b", "c")
    assert label_array(labelled(["a|b", "c", "a|b;c"]), "label", "multi-label", names).tolist() == [
        [1, 0],
        [0, 1],
        [1, 1],
    ]


def test_whole_numbers_sort_by_size_and_words_behind_them() -> None:
    assert label_names("single-label", ["10", "9", "b", "-1", "2", "a", None, ""]) == ("-1", "2", "9", "10", "a", "b")
    assert label_names("single-label", [10, 9, 2]) == ("2", "9", "10")


def test_single_labels_are_positions_among_the_names() -> None:
    labels = label_array(labelled(["b", "a", "b"]), "label", "single-label", ("a", "b"))
    assert labels.dtype == np.int64
    assert labels.tolist() == [1, 0, 1]


@pytest.mark.parametrize("values", [[0, 1, 1], ["0", "1", "1"], ["negative", 1, "positive"], [0.0, 1.0, 1.0]])
def test_told_names_may_stand_for_ids_in_their_order(values: list[Any]) -> None:
    table = Table(pa.table({"label": [str(value) for value in values]}), "here")
    assert label_array(table, "label", "single-label", ("negative", "positive")).tolist() == [0, 1, 1]


@pytest.mark.parametrize("label", [2, -1, "0.5", "inf", "neutral"])
def test_a_label_out_of_range_is_refused_with_a_fix_that_kitune_takes(tmp_path: Path, label: Any) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(f"text,label\na,0\nb,{label}\n")
    with pytest.raises(UserError, match=f"rows.csv, line 3: label '{label}' in column 'label'") as caught:
        label_array(read_table(path), "label", "single-label", ("it's bad", "good, really"))
    assert "is not among the 2 labels (it's bad, good, really)" in caught.value.problem
    words = shlex.split(caught.value.fix.rpartition("tell all labels: ")[2])
    assert words[0] == "--set"
    options = with_values(RunOptions(), parse_set(words[1:]))
    assert options.data.labels == ("it's bad", "good, really", str(label))


@pytest.mark.parametrize(("names", "label"), [(("1", "2", "3"), "0"), (("0", "1", "3"), "2"), (("1", "2"), "1.0")])
def test_a_number_is_no_position_where_the_names_are_numbers(names: tuple[str, ...], label: str) -> None:
    with pytest.raises(UserError, match=f"row 1 .*label '{label}' in column 'label' is not among the {len(names)}"):
        label_array(labelled([names[0], label]), "label", "single-label", names)


def test_an_unknown_label_of_many_is_refused_with_its_row() -> None:
    with pytest.raises(UserError, match=r"row 2 \(from 0\): label 'd' in column 'label' is not among the 3 labels"):
        label_array(labelled([["a"], ["b", "c"], ["a", "d"]]), "label", "multi-label", ("a", "b", "c"))


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_rows_without_a_label_are_named_or_dropped_where_that_is_allowed(tmp_path: Path, ending: str) -> None:
    values = ["NA", "", "007", " ", "None", '"so"'] * 4
    rows = [{"text": f"it's, text {row}", "the label": value} for row, value in enumerate(values)]
    path = tmp_path / f"it's my $data.{ending}"
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif ending == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pandas.DataFrame(rows).to_csv(path, sep={"csv": ",", "tsv": "\t"}[ending], index=False)
    place = {"parquet": "rows 1, 3, 7 (from 0)", "jsonl": "lines 2, 4, 8"}.get(ending, "lines 3, 5, 9")
    with pytest.raises(UserError, match=re.escape(f"{place} and 5 more: ")) as caught:
        label_array(read_table(path), "the label", "single-label", ("NA", "007", "None", '"so"'))
    assert "no label in column 'the label'" in caught.value.problem
    told = {"data.label": "the label", "data.text": ("text",), "doctor.allow": ("missing-labels",)}
    parts, _ = read_parts(with_values(RunOptions(), told), {"train": path})
    kept = [row for part in ("train", "valid") for row in parts.tables[part].data.to_pylist()]
    assert sorted(kept, key=rows.index) == [row for row in rows if row["the label"].strip()]
    (finding,) = parts.found
    assert len(finding.lines) == 8


def test_the_first_three_rows_without_a_label_are_named_and_the_others_counted() -> None:
    with pytest.raises(UserError, match=r"rows 1, 2, 4 \(from 0\) and 1,001 more: no label"):
        label_array(labelled(["a", None, "", "b", *[None] * 1002]), "label", "single-label", ("a", "b"))


def test_scores_are_numbers_and_what_is_none_is_named() -> None:
    labels = label_array(labelled(["0.5", "2", " 3e0 "]), "label", "regression", ("label",))
    assert labels.dtype == np.float32
    assert labels.tolist() == [[0.5], [2.0], [3.0]]
    for wrong in ("high", "nan", "inf"):
        with pytest.raises(UserError, match=rf"row 1 \(from 0\): '{wrong}' in column 'label' is no finite number"):
            label_array(labelled(["0.5", wrong]), "label", "regression", ("label",))


def test_one_class_is_nothing_to_tell_apart() -> None:
    table = labelled(["a", "a"])
    with pytest.raises(UserError, match=r"every row has the label 'a' in column 'label'(.|\n)*--label COLUMN"):
        require_learnable(table, "label", "single-label", ("a",))
    with pytest.raises(UserError, match="column 'label' holds no label"):
        require_learnable(table, "label", "single-label", ())
    with pytest.raises(UserError, match="every row has the label 'x'"):
        read_parts(RunOptions(), {"train": labelled(["x"] * 20)})


@pytest.mark.parametrize("seed", range(5))
def test_automatic_class_weights_are_those_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(4), generator.choice(4, size=200, p=[0.7, 0.2, 0.08, 0.02])])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    assert class_weights("auto", labels, "abcd") == pytest.approx(expected.tolist(), rel=1e-12)


def test_a_class_without_rows_weighs_nothing() -> None:
    assert class_weights("auto", np.array([0, 0, 2]), "abc") == [0.5, 0.0, 1.0]


def test_told_class_weights_go_by_name_and_the_others_are_one() -> None:
    labels = np.array([0, 1, 2])
    assert class_weights({"c": 5.0}, labels, "abc") == [1.0, 1.0, 5.0]
    assert class_weights(None, labels, "abc") is None
    with pytest.raises(UserError, match=r"train.class_weights: 'd' is not among the labels \(a, b, c\)"):
        class_weights({"a": 1.0, "d": 2.0}, labels, "abc")


def test_row_weights_are_numbers_of_zero_or_more() -> None:
    weights = weight_array(labelled(["0", "1", "0.5"], "heavy"), "heavy")
    assert weights is not None
    assert weights.dtype == np.float32
    assert weights.tolist() == [0, 1, 0.5]
    assert weight_array(labelled(["0"]), None) is None
    for wrong in ("-1", "", "nan", "much"):
        with pytest.raises(UserError, match=r"row 1 \(from 0\): the weight in column 'heavy' is not a number of 0"):
            weight_array(labelled(["1", wrong], "heavy"), "heavy")
    with pytest.raises(UserError, match="every weight in column 'heavy' is 0"):
        weight_array(labelled(["0", "0.0"], "heavy"), "heavy")


def test_validation_rows_may_say_the_same_labels_otherwise() -> None:
    train, valid = labelled(["0", "1"] * 10), labelled(["no", "yes"] * 3)
    told = with_values(RunOptions(), {"data.labels": ("no", "yes"), "data.text": ("text",), "data.label": "label"})
    parts, _ = read_parts(told, {"train": train, "valid": valid})
    assert parts.labels("valid").tolist() == [0, 1] * 3
    many = with_values(RunOptions(), {"data.text": ("text",), "data.label": "label", "task": "multi-label"})
    one, two = labelled(["a, b|c", "c|a, b", "c"] * 5), labelled(["a, b", "c"])
    parts, _ = read_parts(with_values(many, {"data.label_separator": "|"}), {"train": one, "valid": two})
    assert parts.labels("valid").sum() == 2
    for seed in range(5):  # one that was cut from train has what it has
        rare = labelled([f"l{i}" for i in range(20)] * 2 + ["l0"] * 20)
        read_parts(
            with_values(told, {"data.labels": None, "train.seed": seed, "data.valid_share": 0.05}), {"train": rare}
        )


def test_numbers_are_places_only_where_the_order_of_the_names_was_told() -> None:
    train, valid = labelled(["World", "Sports", "Business"] * 8), labelled(["0", "1", "2"] * 4)
    told = with_values(RunOptions(), {"data.text": ("text",), "data.label": "label"})
    with pytest.raises(UserError, match=r"none of its labels \(0, 1, 2\) is one of train's") as caught:
        read_parts(told, {"train": train, "valid": valid})
    assert "tell the names in the order of the numbers: --set 'data.labels=[...]'" in caught.value.fix
    with pytest.raises(UserError, match=r"none of its labels \(0, 1, 2\) is one of train's"):
        read_parts(told, {"train": train, "test": valid})  # valid is cut from train
    in_order = ("World", "Sports", "Business")
    parts, _ = read_parts(with_values(told, {"data.labels": in_order}), {"train": train, "valid": valid})
    assert [parts.names[i] for i in parts.labels("valid")] == [*in_order] * 4
    ordered = Table(train.data, "train", classes={"label": in_order})
    parts, _ = read_parts(told, {"train": ordered, "valid": valid})
    assert [parts.names[i] for i in parts.labels("valid")] == [*in_order] * 4


@pytest.mark.parametrize("write", [str, json.dumps])
def test_lists_that_pandas_wrote_to_csv_are_several_labels(tmp_path: Path, write: Any) -> None:
    lists: list[list[Any]] = [["anger", "it's"], ["anger"], [], ["it's", "a, b"]]
    cells = [write(labels) for labels in lists] * 6
    pandas.DataFrame({"text": [f"text {i}" for i in range(24)], "label": cells}).to_csv(tmp_path / "rows.csv")
    table = read_table(tmp_path / "rows.csv")
    values = table.values("label")
    assert guess_task(values) == ("multi-label", "the labels are lists in brackets")
    names = label_names("multi-label", values)
    assert names == ("a, b", "anger", "it's")
    hot = [[float(name in labels) for name in names] for labels in lists]
    assert label_array(table, "label", "multi-label", names).tolist() == hot * 6
    assert label_array(table.take(np.array([1])), "label", "multi-label", names).tolist() == hot[1:2]
    parts, said = read_parts(with_values(RunOptions(), {"data.text": ("text",)}), {"train": tmp_path / "rows.csv"})
    assert (parts.task, parts.names) == ("multi-label", names)
    assert "task: multi-label (the labels are lists in brackets)" in said


@pytest.mark.parametrize("cell", ["['anger' 'fear']", "['anger', fear]", "['anger', ['fear']]"])
def test_a_list_that_is_none_is_refused_with_its_line(tmp_path: Path, cell: str) -> None:
    pandas.DataFrame({"text": list("abcd"), "label": ["['anger']", "[]", cell, "['fear']"]}).to_csv(tmp_path / "a.csv")
    with pytest.raises(UserError, match=r"a.csv, line 4: the labels are lists in brackets, and .* is none") as caught:
        read_parts(RunOptions(), {"train": tmp_path / "a.csv"})
    assert "--task single-label" in caught.value.fix
    told = with_values(RunOptions(), {"task": "single-label"})
    parts, _ = read_parts(told, {"train": tmp_path / "a.csv", "valid": tmp_path / "a.csv"})
    assert cell in parts.names


@pytest.mark.parametrize("values", [["[PAD]", "[CLS]"], ["[1]", "[2]"], ["[a]", "b"]])
def test_names_in_brackets_are_names(values: list[str]) -> None:
    assert guess_task(values * 5)[0] == "single-label"
    assert label_names("single-label", values) == tuple(sorted(values))


NAN = float("nan")


@pytest.mark.parametrize("kind", ["jsonl", "dicts", "polars", "arrow"])
@pytest.mark.parametrize(("values", "task"), [([0.5, 1.25, NAN, 2.0], "regression"), ([1, 0, NAN, 1], "single-label")])
def test_a_number_that_is_none_is_a_missing_label(tmp_path: Path, kind: str, values: list[Any], task: str) -> None:
    rows = [{"text": f"text {i}", "label": value} for i, value in enumerate(values * 6)]
    sources: dict[str, Any] = {
        "jsonl": tmp_path / "rows.jsonl",
        "dicts": rows,
        "polars": polars.DataFrame(rows, strict=False),
        "arrow": pa.table({"text": [row["text"] for row in rows], "label": pa.array(values * 6, pa.float64())}),
    }
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = sources[kind]
    with pytest.raises(UserError, match="no label in column 'label'"):
        read_parts(RunOptions(), {"train": source})
    parts, _ = read_parts(RunOptions(), {"train": source}, examined=True)
    assert parts.task == task
    assert parts.names == (("label",) if task == "regression" else ("0", "1"))
    assert [(found.code, len(found.lines)) for found in parts.found] == [("missing-labels", 6)]


def test_a_missing_label_may_stand_beside_strings() -> None:
    rows = [{"text": f"text {i}", "label": label} for i, label in enumerate(["a", NAN, "b", "a"] * 6)]
    parts, _ = read_parts(RunOptions(), {"train": rows}, examined=True)
    assert parts.names == ("a", "b")


def test_whole_numbers_have_one_name_with_a_fraction_or_without() -> None:
    frame = pandas.DataFrame({"text": [f"text {i}" for i in range(24)], "label": [0, 1, None] * 8})
    told = with_values(RunOptions(), {"doctor.allow": ("missing-labels",)})
    parts, _ = read_parts(told, {"train": frame, "valid": labelled([0, 1] * 4), "test": labelled(["1", "0"] * 4)})
    assert parts.names == ("0", "1")
    assert parts.labels("valid").tolist() == [0, 1] * 4
    assert parts.labels("test").tolist() == [1, 0] * 4


def test_names_that_were_told_with_a_fraction_are_met_all_the_same() -> None:
    floats = labelled([1.0, 2.0])
    assert label_array(floats, "label", "single-label", ("1.0", "2.0")).tolist() == [0, 1]
    assert read_by_place([1.0, 2.0], "single-label", ("1.0", "2.0")) is None


@pytest.mark.parametrize(("value", "what"), [({"a": 1}, "records"), ([["a"]], "lists"), (b"\xff", "bytes")])
def test_a_column_of_records_holds_no_labels(value: Any, what: str) -> None:
    with pytest.raises(UserError, match=f"column 'label' holds {what}, not labels"):
        read_parts(RunOptions(), {"train": labelled([value] * 8)})


@pytest.mark.parametrize(("values", "what"), [([["a", "b"]], "lists"), ([{"a": "b"}], "records")])
def test_a_column_of_lists_or_records_holds_no_texts(values: list[Any], what: str) -> None:
    rows = [{"words": value, "label": label} for value in values for label in "ab" * 6]
    told = with_values(RunOptions(), {"data.text": ("words",)})
    with pytest.raises(UserError, match=f"column 'words' holds {what}, not texts\n.*--text COLUMN"):
        read_parts(told, {"train": rows})
    with pytest.raises(UserError, match=f"column 'words' holds {what}, not texts"):
        read_table(rows).texts("words")


def test_bytes_are_texts_where_they_are_utf8(tmp_path: Path) -> None:
    texts = [f"text {i} é".encode() for i in range(12)]
    pq.write_table(pa.table({"text": texts, "label": list("ab" * 6)}), tmp_path / "rows.parquet")
    parts, _ = read_parts(RunOptions(), {"train": tmp_path / "rows.parquet"})
    assert parts.columns.text == ("text",)
    assert sorted(text for table in parts.tables.values() for text in table.texts("text")) == sorted(
        text.decode() for text in texts
    )
    texts[7] = b"caf\xe9"
    told = with_values(RunOptions(), {"data.text": ("text",)})
    with pytest.raises(UserError, match=r"row 7 \(from 0\): column 'text' holds bytes that are not UTF-8"):
        read_parts(told, {"train": pa.table({"text": texts, "label": list("ab" * 6)})})


@pytest.mark.parametrize("separator", ["|", ";", ","])
def test_the_separator_is_that_of_train_in_every_part(separator: str) -> None:
    train = labelled([f"x, y{separator}z" if separator != "," else "x,z", "z"] * 10)
    valid = labelled(["x, y" if separator != "," else "x", "z"])
    told = with_values(RunOptions(), {"task": "multi-label", "data.text": ("text",), "data.label": "label"})
    parts, _ = read_parts(told, {"train": train, "valid": valid})
    assert parts.separator == separator
    assert parts.names == (("x", "z") if separator == "," else ("x, y", "z"))
    assert parts.labels("valid").tolist() == [[1, 0], [0, 1]]
