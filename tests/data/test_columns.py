from typing import Any

import pytest

from kitune.config import DataOptions
from kitune.data.columns import Columns, choose_columns, require_columns
from kitune.data.read import read_table
from kitune.errors import UserError


def chosen(rows: list[dict[str, Any]], **options: Any) -> tuple[Columns, list[str]]:
    return choose_columns(read_table(rows), DataOptions(**options))


def many(**columns: Any) -> list[dict[str, Any]]:
    """40 rows: a value repeats, a function gets the row's number."""
    return [{name: value(i) if callable(value) else value for name, value in columns.items()} for i in range(40)]


def test_known_names_are_guessed_and_said() -> None:
    rows = many(id=str, Text="a text", LABEL=lambda i: i % 2)
    columns, said = chosen(rows)
    assert columns == Columns(("Text",), "LABEL")
    assert said == ["label column: LABEL", "text column: Text"]


@pytest.mark.parametrize(
    "pair",
    [("sentence1", "sentence2"), ("premise", "hypothesis"), ("#1 String", "#2 String"), ("question", "sentence")],
)
def test_known_pairs_are_guessed_in_their_order(pair: tuple[str, str]) -> None:
    columns, said = chosen(many(**{pair[1]: "b", "text": "much longer than both", pair[0]: "a", "quality": "1"}))
    assert columns == Columns(pair, "quality")
    assert said[1] == f"text columns: {pair[0]} and {pair[1]}"


def test_without_known_names_the_longest_strings_are_the_text_and_what_repeats_is_the_label() -> None:
    rows = many(number=lambda i: i, short=lambda i: f"t{i}", long=lambda i: f"a longer text {i}", kind=lambda i: i % 3)
    assert chosen(rows)[0] == Columns(("long",), "kind")


def test_no_label_is_guessed_where_two_columns_could_be_it() -> None:
    rows = many(words=lambda i: f"text {i}", kind=lambda i: str(i % 3), place=lambda i: str(i % 4))
    with pytest.raises(UserError, match=r"no column is clearly the label; there are words, kind, place\n.*--label"):
        chosen(rows)
    assert chosen(rows, label="place")[0] == Columns(("words",), "place")


def test_a_column_that_never_changes_is_no_label() -> None:
    with pytest.raises(UserError, match="no column is clearly the label"):
        chosen(many(words=lambda i: f"text {i}", kind="same"))


def test_a_column_with_another_part_is_neither_label_nor_text() -> None:
    rows = many(body=lambda i: f"text {i}", kind=lambda i: str(i % 2), score=lambda i: float(i), target=lambda i: i % 5)
    columns, _ = chosen(rows, weight="score", group="target")
    assert columns == Columns(("body",), "kind", weight="score", group="target")


def test_numbers_are_no_text() -> None:
    with pytest.raises(UserError, match=r"no column holds text; there are a, label\n  fix: name it: --text"):
        chosen(many(a=lambda i: i, label=lambda i: i % 2))


def test_told_columns_are_taken_without_a_word() -> None:
    rows = many(text="a", label="b", other="c", key=str, heavy=1.0, who="me")
    told = {"text": ("other",), "label": "text", "id": "key", "weight": "heavy", "group": "who"}
    columns, said = chosen(rows, **told)
    assert columns == Columns(("other",), "text", "key", "heavy", "who")
    assert columns.used == ["other", "text", "key", "heavy", "who"]
    assert said == []


@pytest.mark.parametrize("part", ["text", "label", "id", "weight", "group"])
def test_a_misspelt_column_is_answered_with_the_nearest(part: str) -> None:
    told: Any = ("sentense",) if part == "text" else "sentense"
    message = r"there is no column 'sentense'; there are sentence, label\n  fix: did you mean 'sentence'\?"
    with pytest.raises(UserError, match=message):
        chosen(many(sentence="a", label=str), **{part: told})


def test_a_column_like_no_other_is_answered_with_all() -> None:
    with pytest.raises(UserError, match="there are text, label\n  fix: name one of these"):
        require_columns(read_table([{"text": "a", "label": "b"}]), ["text", "xyz"])


@pytest.mark.parametrize("told", [{"text": ("label",), "label": "label"}, {"text": ("text", "text")}])
def test_a_column_has_one_part(told: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"column '(label|text)' is named twice"):
        chosen(many(text="a", label=str), **told)
