"""What is wrong with a data set, found before an hour is spent on it: findings with their rows and a fix."""

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from kitune.config import TaskName, yaml_line
from kitune.data.columns import PAIR_NAMES, Columns, is_text
from kitune.data.encode import Encoded
from kitune.data.labels import label_lists, label_names, label_values, name_of, names_by_place, nothing_to_learn, quoted
from kitune.data.long_texts import LongTexts
from kitune.data.mojibake import misread, misread_rows
from kitune.data.near import near_duplicates
from kitune.data.parts import Parts
from kitune.data.split import text_keys
from kitune.data.table import Rows, Table, arrow_column, as_bools
from kitune.errors import command, numbered
from kitune.findings import Finding, about_rows

UNKNOWN_ERROR, UNKNOWN_WARNING = 0.30, 0.02
# Tokens a letter beyond which a model spells: English texts have 0.3, Chinese ones in a vocabulary of characters 1.0, Korean
# ones in an English vocabulary 1.6.
SPELT = 1.3
FEW_ROWS, IMBALANCE, SMALL_VALID, CUT_TEXTS = 8, 0.9, 100, 0.05
# An unused column is a second text where its strings are as long as this on average, and this share of them differ.
TEXT_LENGTH, TEXT_DISTINCT, SAMPLE_ROWS = 12, 0.5, 2_000
ENTITIES = r"&(amp|lt|gt|quot|apos|nbsp|#\d{2,5}|#x[0-9a-fA-F]{2,4});|<(br|p|div|span|a|b|i)( [^<>]*)?/?>|</(p|div|span|a|b|i)>"
ESCAPES = r"\\[nrt](\W|[A-Z]|$)|\\u[0-9a-fA-F]{4}|\\x[0-9a-fA-F]{2}"
LENGTHS = (64, 128, 256, 512)
# Odd, so that no key is lost; makes a pair's key depend on the order of its texts.
MIXER = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Piece:
    """Encoded rows of a part, and where they stand in its table."""

    encoded: Encoded
    rows: Rows


@dataclass(frozen=True)
class Case:
    """A data set as the doctor looks at it: in the parts that the user gave, every row with a label.

    Attributes:
        pieces: the token ids of each part, cut at `max_length`: two of train where valid was cut from it; none where
            there is nothing to learn.
        full_lengths: tokens of uncut texts of train, without special ones, from a sample, (sampled rows, texts).
        special_tokens: how many the tokenizer adds to a text or pair.
    """

    parts: Parts
    pieces: Mapping[str, Sequence[Piece]] = field(default_factory=dict)
    full_lengths: NDArray[np.int64] | None = None
    max_length: int | None = None
    special_tokens: int = 0
    unknown_id: int | None = None
    special_ids: frozenset[int] = frozenset()

    @cached_property
    def tables(self) -> dict[str, Table]:
        return self.parts.given

    @property
    def columns(self) -> Columns:
        return self.parts.columns

    @property
    def task(self) -> TaskName:
        return self.parts.task

    @property
    def keys(self) -> dict[str, NDArray[np.uint64]]:
        """A key of each row's text or pair, by part."""
        return self.parts.given_keys

    @cached_property
    def ordered_keys(self) -> dict[str, NDArray[np.uint64]]:
        """The same with the texts of a pair in their order: what holds of (a, b) need not hold of (b, a)."""
        if len(self.columns.text) == 1:
            return self.keys
        first, second = (
            {part: text_keys(table, [name]) for part, table in self.tables.items()} for name in self.columns.text
        )
        return {part: first[part] * MIXER + second[part] for part in self.tables}

    @cached_property
    def empty(self) -> dict[str, NDArray[np.bool_]]:
        """Whether a text of each row is empty, by part."""
        return {part: empty_rows(table, self.columns.text) for part, table in self.tables.items()}

    @cached_property
    def labels(self) -> dict[str, list[tuple[str, ...]]]:
        """Each row's label, or labels in order, by part."""
        assert self.columns.label is not None
        return {part: self.label_tuples(label_values(table, self.columns.label)) for part, table in self.tables.items()}

    @cached_property
    def by_place(self) -> dict[str, str]:
        """The name behind each label that is the place of one, where their order was told."""
        assert self.columns.label is not None
        if not self.parts.ordered:
            return {}
        values = [value for table in self.tables.values() for value in label_values(table, self.columns.label)]
        return names_by_place(values, self.task, self.parts.names, self.parts.separator)

    def label_tuples(self, values: Sequence[Any]) -> list[tuple[str, ...]]:
        named = self.by_place
        if self.task == "multi-label":
            lists = label_lists(values, self.parts.separator)
            return [tuple(sorted(named.get(label, label) for label in labels)) for labels in lists]
        return [(named.get(name, name),) for name in map(name_of, values)]

    def names(self, part: str) -> tuple[str, ...]:
        """The label names that a part holds."""
        assert self.columns.label is not None
        names = label_names(self.task, label_values(self.tables[part], self.columns.label), self.parts.separator)
        return tuple(dict.fromkeys(self.by_place.get(name, name) for name in names))

    def rows_labelled(self, part: str, names: Collection[str]) -> list[int]:
        """The rows of a part with one of these labels."""
        wanted = frozenset(names)
        return [row for row, labels in enumerate(self.labels[part]) if not wanted.isdisjoint(labels)]

    def about(
        self, code: str, says: str, fix: str, part: str | None = None, rows: Sequence[int] | Rows = ()
    ) -> Finding:
        """A finding about some rows of a part."""
        if part is None:
            return Finding(code, says, fix)
        return about_rows(code, says, fix, part, self.tables[part], map(int, rows))


def empty_rows(table: Table, text: Sequence[str]) -> NDArray[np.bool_]:
    """Whether any text of a row is empty or white space, (rows,)."""
    empty = np.zeros(len(table), dtype=np.bool_)
    for name in text:
        column = strings(table, name)
        empty |= ~as_bools(pc.match_substring_regex(column, r"[^\s\pZ]"))
    return empty


def strings(table: Table, column: str) -> pa.ChunkedArray:
    """A column as Arrow strings."""
    if is_text(table, column):
        return table.data.column(column)
    return pa.chunked_array([arrow_column(table.texts(column))])


def examine(case: Case) -> list[Finding]:
    """All findings about a data set."""
    return [finding for check in CHECKS for finding in check(case)]


def one_class(case: Case) -> Iterator[Finding]:
    if case.task != "regression" and nothing_to_learn(case.task, names := case.names("train")):
        only = f"every row has the label {names[0]!r}" if names else "no row has a label"
        yield case.about(
            "one-class",
            f"{only} in column {case.columns.label!r}",
            "add rows of another class, or name another column: --label",
        )


def unknown_tokens(case: Case) -> Iterator[Finding]:
    unknown, own, rows = 0, 0, []
    for piece in case.pieces.get("train", ()):
        ids = np.asarray(piece.encoded.input_ids)
        places = np.flatnonzero(ids == case.unknown_id)
        unknown += len(places)
        own += len(ids) - sum(int((ids == special).sum()) for special in case.special_ids - {case.unknown_id})
        rows.append(piece.rows[np.unique(np.searchsorted(piece.encoded.bounds, places, side="right") - 1)])
    share = unknown / max(1, own)
    if share > UNKNOWN_WARNING:
        code = "unknown-tokens" if share > UNKNOWN_ERROR else "some-unknown-tokens"
        says = f"{share:.0%} of the tokens are unknown to the model"
        yield case.about(code, says, other_model(case, "train"), "train", np.sort(np.concatenate(rows)))


def other_language(case: Case) -> Iterator[Finding]:
    letters = beyond = tokens = 0
    for piece in case.pieces.get("train", ()):
        encoded, step = piece.encoded, max(1, len(piece.rows) // SAMPLE_ROWS)
        sample = np.arange(0, len(piece.rows), step)
        sample = sample[encoded.lengths[sample] < (case.max_length or np.inf)]  # of cut texts it is not known
        table = case.tables["train"].take(piece.rows[sample])
        for text in (text for name in case.columns.text for text in table.texts(name)):
            letters += sum(map(str.isalnum, text))
            beyond += sum(sign > "\u02ff" for sign in text)
        for row in sample:
            ids = encoded.input_ids[encoded.bounds[row] : encoded.bounds[row + 1]]
            tokens += int((~np.isin(ids, list(case.special_ids))).sum())
    if letters > 100 and beyond > letters / 2 and tokens > SPELT * letters:
        says = f"the model takes {tokens / letters:.2f} tokens for a letter: it was not made for this language"
        yield case.about("other-language", says, other_model(case, "train"))


def other_model(case: Case, part: str) -> str:
    """A fix that names models for the script of the texts."""
    rows = np.arange(min(200, len(case.tables[part])))
    text = "".join("".join(case.tables[part].take(rows).texts(name)) for name in case.columns.text)
    scripts = (
        (
            "[\u3040-\u30ff]",
            "Japanese, such as --model cl-tohoku/bert-base-japanese-v3 (pip install fugashi unidic-lite)",
        ),
        ("[\uac00-\ud7a3]", "Korean, such as --model klue/roberta-base"),
        ("[\u4e00-\u9fff]", "Chinese, such as --model hfl/chinese-roberta-wwm-ext"),
    )
    for pattern, models in scripts:
        if len(re.findall(pattern, text)) > 0.1 * len(text):
            return f"take a model for {models}, or a multilingual one: --model FacebookAI/xlm-roberta-base"
    return "take a model for this language, or a multilingual one: --model FacebookAI/xlm-roberta-base"


def empty_texts(case: Case) -> Iterator[Finding]:
    for part, empty in case.empty.items():
        if empty.any():
            rows = np.flatnonzero(empty)
            yield case.about(
                "empty-texts", f"{numbered(len(rows), 'row')} without a text", "fill or drop them", part, rows
            )


def duplicates(case: Case) -> Iterator[Finding]:
    for part in case.tables:
        rows = repeats(case, part)
        if len(rows):
            says = f"{numbered(len(rows), 'row')} repeat{'s' if len(rows) == 1 else ''} the text of an earlier one"
            yield case.about(
                "duplicates", says, "drop them, unless they are as frequent where the model will work", part, rows
            )


def repeats(case: Case, part: str) -> Rows:
    """Rows, but empty ones, whose text an earlier row of the part has."""
    keys = case.ordered_keys[part]
    first = np.zeros(len(keys), dtype=np.bool_)
    first[np.unique(keys, return_index=True)[1]] = True
    return np.flatnonzero(~first & ~case.empty[part])


def near(case: Case) -> Iterator[Finding]:
    for part, table in case.tables.items():
        apart = ~case.empty[part]
        apart[repeats(case, part)] = False
        pairs = near_duplicates(table, case.columns.text, apart)
        if pairs:
            earlier = pairs[0][1]
            place = f"row {earlier}" if table.lines is None else f"line {table.lines[earlier]}"
            verb = "nearly repeats" if len(pairs) == 1 else "nearly repeat"
            says = f"{numbered(len(pairs), 'row')} {verb} another one (the first {place})"
            rows = [later for later, _ in pairs]
            yield case.about("near-duplicates", says, "look at them: copies of one text teach little", part, rows)


def conflicting_labels(case: Case) -> Iterator[Finding]:
    if case.task == "regression":
        return
    for part, keys in case.ordered_keys.items():
        order = np.argsort(keys, kind="stable")
        shared = np.flatnonzero(keys[order][1:] == keys[order][:-1])
        groups: dict[int, set[int]] = defaultdict(set)
        for place in shared:
            groups[int(keys[order[place]])] |= {int(order[place]), int(order[place + 1])}
        labels = case.labels[part]
        rows = sorted(
            row
            for group in groups.values()
            if len({labels[member] for member in group}) > 1
            for row in group
            if not case.empty[part][row]
        )
        if rows:
            says = f"{numbered(len(rows), 'row')} with the text of another one and a different label"
            yield case.about("conflicting-labels", says, "decide on one label for each text", part, rows)


def leak(case: Case) -> Iterator[Finding]:
    for part in case.tables:
        in_train, filled = np.isin(case.keys[part], case.keys["train"]), ~case.empty[part]
        if part != "train" and (in_train & filled).any():  # empty texts alone are equal, and give nothing away
            says = f"{numbered(int(in_train.sum()), 'row')} with a text that is in train too"
            fix = "drop them from train; the scores are also given without them"
            yield case.about("leak", says, fix, part, np.flatnonzero(in_train))
        if part == "test" and "valid" in case.keys:
            in_valid = np.isin(case.keys[part], case.keys["valid"]) & ~in_train
            if (in_valid & filled).any():
                says = f"{numbered(int(in_valid.sum()), 'row')} with a text that is in valid too, which chooses the weights"
                yield case.about("leak", says, "drop them from valid", part, np.flatnonzero(in_valid))


def unseen_labels(case: Case) -> Iterator[Finding]:
    if case.task == "regression" or case.columns.label is None:
        return
    for part in case.tables:
        strange = sorted(set(case.names(part)) - set(case.names("train")))
        if strange:
            rows = case.rows_labelled(part, strange)
            says = f"{numbered(len(rows), 'row')} with a label that train lacks: {', '.join(map(repr, strange[:5]))}"
            yield case.about("unseen-labels", says, "correct the label, or add rows of it to train", part, rows)


def label_counts(case: Case) -> Counter[str]:
    """Rows of each label in train."""
    return Counter(name for labels in case.labels["train"] for name in labels)


def few_rows(case: Case) -> Iterator[Finding]:
    if case.task == "regression":
        return
    few = sorted((count, name) for name, count in label_counts(case).items() if count < FEW_ROWS)
    if few:
        listed = ", ".join(f"{quoted(name)} ({count})" for count, name in few[:5])
        says = f"{numbered(len(few), 'label')} with fewer than {FEW_ROWS} rows: {listed}"
        rows = case.rows_labelled("train", {name for _, name in few})
        yield case.about("few-rows", says, "add rows, or join these labels with others", "train", rows)


def imbalance(case: Case) -> Iterator[Finding]:
    if case.task != "single-label" or len(case.names("train")) < 2:
        return
    (name, count), rows = label_counts(case).most_common(1)[0], len(case.tables["train"])
    if count >= IMBALANCE * rows:
        yield case.about(
            "imbalance",
            f"{count / rows:.0%} of the rows are {name!r}: always saying so would be {count / rows:.0%} right",
            "judge by macro_f1 or mcc, and try --set train.class_weights=auto",
        )


def label_spelling(case: Case) -> Iterator[Finding]:
    if case.task == "regression":
        return
    alike: dict[str, list[str]] = defaultdict(list)
    for name in case.names("train"):
        alike[unicodedata.normalize("NFKC", name).strip().casefold()].append(name)
    for names in alike.values():
        if len(names) > 1:
            rows = case.rows_labelled("train", names[1:])
            listed = " and ".join(map(repr, names))
            yield case.about(
                "label-spelling", f"the labels {listed} look alike", "write them in one way", "train", rows
            )


def index_column(case: Case) -> Iterator[Finding]:
    table = case.tables["train"]
    for name in table.columns:
        if name in case.columns.used or len(table) < 3:
            continue
        head = [str(value) for value in table.data.column(name).slice(0, SAMPLE_ROWS).to_pylist()]
        if not all(map(str.isdecimal, head)):
            continue
        numbers = np.asarray([int(value) for value in head[:SAMPLE_ROWS]])
        # Rows without a label may be missing.
        if numbers[0] <= 5 and (np.diff(numbers) >= 1).all() and numbers[-1] <= numbers[0] + 1.1 * len(numbers):
            kept = command("--set", f"data.id={yaml_line(name)}")
            yield case.about(
                "index-column",
                f"column {name!r} only counts the rows",
                f"leave it out, or keep it as the rows' name: {kept}",
            )


def unused_text(case: Case) -> Iterator[Finding]:
    if len(case.columns.text) != 1:
        return
    table, chosen = case.tables["train"], case.columns.text[0]
    by_name = {name.strip().lower(): name for name in table.columns}
    for pair in PAIR_NAMES:
        pair_names = [by_name.get(name.lower()) for name in pair]
        if chosen in pair_names and None not in pair_names:
            fix = command(*(word for name in pair_names for word in ("--text", name)))
            other = next(name for name in pair_names if name != chosen)
            yield case.about(
                "unused-text", f"column {other!r} makes a pair with {chosen!r}, and is not read", f"read both: {fix}"
            )
            return
    for name in table.columns:
        if name in case.columns.used or not is_text(table, name):
            continue
        sample = [value or "" for value in table.data.column(name).slice(0, SAMPLE_ROWS).to_pylist()]
        filled = [value for value in sample if value]
        long = sum(map(len, filled)) >= TEXT_LENGTH * len(sample)
        wordy = sum(map(is_wordy, filled)) > len(sample) / 2
        if long and wordy and len(set(filled)) >= TEXT_DISTINCT * len(sample):
            fix = command("--text", chosen, "--text", name)
            yield case.about("unused-text", f"column {name!r} holds text too, and is not read", f"to read both: {fix}")


def is_wordy(value: str) -> bool:
    """Whether a cell is several words, or of a script that does not part them, and no date or number with its unit."""
    return (" " in value.strip() or value > "\u2fff") and sum(map(str.isalpha, value)) > sum(map(str.isdigit, value))


def mojibake(case: Case) -> Iterator[Finding]:
    for part, table in case.tables.items():
        found: dict[int, str] = {}
        for name in case.columns.text:
            found |= misread_rows(strings(table, name))
        if not found:
            continue
        rows = sorted(found)
        how = Counter(found.values()).most_common(1)[0][0]
        texts = (text for name in case.columns.text for text in table.take(np.asarray(rows[:1])).texts(name))
        example = next(text for text in texts if misread(text))
        begin = max(0, next(place for place, sign in enumerate(example) if sign > "\x7f") - 8)
        example = example[begin : begin + 24]
        if how == "lost":
            says, fix = "with lost characters (U+FFFD)", "write the file again from its source, as UTF-8"
        else:
            says = f"with UTF-8 that was read as {how.upper()}: {example!r}"
            fix = f"mend the text: text.encode({how!r}).decode('utf-8'), or write the file again from its source"
        yield case.about("mojibake", f"{numbered(len(rows), 'row')} {says}", fix, part, rows)


def matching(code: str, pattern: str, what: str, fix: str) -> Callable[[Case], Iterator[Finding]]:
    """A check for rows with a pattern in a text."""

    def check(case: Case) -> Iterator[Finding]:
        for part, table in case.tables.items():
            hits = np.zeros(len(table), dtype=np.bool_)
            for name in case.columns.text:
                hits |= as_bools(pc.match_substring_regex(strings(table, name), pattern))
            rows = np.flatnonzero(hits)
            if len(rows):
                yield case.about(code, f"{numbered(len(rows), 'row')} with {what}", fix, part, rows)

    return check


def lengths(case: Case) -> Iterator[Finding]:
    if case.full_lengths is None or case.max_length is None:
        return
    most, data, each = case.max_length, case.parts.options.data, case.full_lengths.tolist()
    own, room = case.full_lengths.sum(axis=1), most - case.special_tokens
    full, windows = own + case.special_tokens, LongTexts("windows", data.most_windows)
    in_windows = np.asarray([windows.read(lengths, room) for lengths in each])

    def lost(read: NDArray[np.int64]) -> float:
        """Share of all tokens that are not read."""
        return float((own - read).sum()) / max(1, int(own.sum()))

    taken = in_windows if data.long_texts == "windows" else np.minimum(own, room)
    cut = float((own > taken).mean())
    if cut > CUT_TEXTS:
        enough = 8 * math.ceil(int(np.quantile(full, 1 - CUT_TEXTS, method="higher")) / 8)
        says = f"max_length {most} cuts {cut:.0%} of the texts, and {lost(taken):.0%} of all tokens"
        fix = f"--set data.max_length={enough}, where the model has as many positions"
        yield case.about("cut-texts", says, fix if data.long_texts == "windows" else f"{fix}; or --long-texts windows")
    choices = [length for length in sorted({*LENGTHS, most}) if length <= max(int(full.max()), most)]
    table = ", ".join(f"{size} cuts {lost(np.minimum(own, size - case.special_tokens)):.1%}" for size in choices)
    says = f"of all tokens, max_length {table}; {most} is taken"
    if (own > room).any():
        counts = [windows.plan(lengths, room)[1] for lengths in each]
        says += f", where --long-texts cut and head-tail leave out {lost(np.minimum(own, room)):.1%}"
        says += f", and windows {lost(in_windows):.1%} with {np.mean(counts):.2f} sequences a row"
    yield case.about("lengths", says, "--set data.max_length=N")


def small_valid(case: Case) -> Iterator[Finding]:
    if not case.pieces or case.task == "regression":
        return
    rows = len(case.parts.tables["valid"])
    if rows < SMALL_VALID:
        margin = 100 * 1.96 * float(np.sqrt(0.25 / max(1, rows)))
        says = f"{numbered(rows, 'validation row')}: scores that differ by less than {margin:.0f} points may be chance"
        yield case.about("small-valid", says, "give more rows, or judge over several seeds")


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    one_class,
    unknown_tokens,
    other_language,
    empty_texts,
    duplicates,
    near,
    conflicting_labels,
    leak,
    unseen_labels,
    few_rows,
    imbalance,
    label_spelling,
    index_column,
    unused_text,
    mojibake,
    matching(
        "html-entities", ENTITIES, "HTML entities or tags", "unescape them: html.unescape(text), and strip the tags"
    ),
    matching("escapes", ESCAPES, "line breaks and the like spelt out (\\n)", "write the characters themselves"),
    lengths,
    small_valid,
)
