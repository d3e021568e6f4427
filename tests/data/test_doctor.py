"""The doctor on planted defects: all of them found, on their lines, and none invented."""

import csv
import json
import random
import re
import shlex
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest

from kitune.cli import main
from kitune.config import RunOptions, parse_set, with_values
from kitune.data.mojibake import misread
from kitune.data.near import near_duplicates, resemblance
from kitune.data.parts import read_parts
from kitune.data.read import read_table
from kitune.diagnosis import diagnose
from kitune.errors import UserError
from kitune.findings import CODES, Finding
from tests.conftest import WORDS

Row = dict[str, str]
Expected = dict[tuple[str, str | None], set[int]]


class Planting:
    """A clean table of three classes with a validation part, into which defects are planted one by one.

    Attributes:
        expected: the finding's code and part -> the rows that it is to name (none where it is about the whole).
        taken: rows that a defect has already.
    """

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.labels = ["joy", "anger", "fear"]
        self.parts = {
            "train": self.rows(self.chance.randrange(240, 400)),
            "valid": self.rows(self.chance.randrange(110, 150)),
        }
        self.expected: Expected = {}
        self.taken: dict[str, set[int]] = {"train": set(), "valid": set()}

    def sentence(self, words: int | None = None) -> str:
        """Random words: no two of them share many shingles."""
        return " ".join(self.chance.choices(WORDS, k=words or self.chance.randrange(8, 15)))

    def rows(self, count: int) -> list[Row]:
        return [{"text": self.sentence(), "label": self.labels[i % 3]} for i in range(count)]

    def free(self, part: str, count: int, *, label: str | None = None) -> list[int]:
        """Rows that no defect has yet."""
        rows = [
            i for i, row in enumerate(self.parts[part]) if i not in self.taken[part] and label in (None, row["label"])
        ]
        chosen = sorted(self.chance.sample(rows, count))
        self.taken[part] |= set(chosen)
        return chosen

    def part(self) -> str:
        return self.chance.choice(["train", "valid"])

    def expect(self, code: str, part: str | None = None, rows: Iterable[int] = ()) -> None:
        self.expected.setdefault((code, part), set()).update(rows)

    # One method a defect; its name is the finding's code.

    def empty_texts(self) -> None:
        part = self.part()
        rows = self.free(part, self.chance.randrange(1, 5))
        for row in rows:
            self.parts[part][row]["text"] = self.chance.choice(["", "  ", "\u3000"])
        self.expect("empty-texts", part, rows)

    def duplicates(self) -> None:
        part = self.part()
        for _ in range(self.chance.randrange(1, 4)):
            label = self.chance.choice(self.labels)
            first, second = self.free(part, 2, label=label)
            space = self.chance.choice(["", " "])
            self.parts[part][second]["text"] = self.parts[part][first]["text"] + space
            self.expect("duplicates", part, {second})

    def near_duplicates(self) -> None:
        part = self.part()
        first, second = self.free(part, 2)
        words = self.sentence(45).split()
        self.parts[part][first]["text"] = " ".join(words)
        words[self.chance.randrange(10, 35)] = "another"
        self.parts[part][second]["text"] = " ".join(words)
        self.expect("near-duplicates", part, {second})

    def conflicting_labels(self) -> None:
        part = self.part()
        (first,), (second,) = self.free(part, 1, label="joy"), self.free(part, 1, label="anger")
        self.parts[part][second]["text"] = self.parts[part][first]["text"]
        self.expect("conflicting-labels", part, {first, second})
        self.expect("duplicates", part, {max(first, second)})

    def leak(self) -> None:
        for _ in range(self.chance.randrange(1, 4)):
            label = self.chance.choice(self.labels)
            (known,), (row,) = self.free("train", 1, label=label), self.free("valid", 1, label=label)
            self.parts["valid"][row]["text"] = self.parts["train"][known]["text"]
            self.expect("leak", "valid", {row})

    def unseen_labels(self) -> None:
        rows = self.free("valid", self.chance.randrange(1, 4))
        for row in rows:
            self.parts["valid"][row]["label"] = "boredom"
        self.expect("unseen-labels", "valid", rows)

    def few_rows(self) -> None:
        rows = self.free("train", self.chance.randrange(1, 7))
        for row in rows:
            self.parts["train"][row]["label"] = "awe"
        self.expect("few-rows", "train", rows)

    def label_spelling(self) -> None:
        rows = self.free("train", 10, label="fear")
        for row in rows:
            self.parts["train"][row]["label"] = "Ｆear"
        self.expect("label-spelling", "train", rows)

    def index_column(self) -> None:
        begin, name = self.chance.choice([0, 1]), self.chance.choice(["", "Unnamed: 0", "number"])
        for rows in self.parts.values():
            for i, row in enumerate(rows):
                row[name] = str(i + begin)
        self.expect("index-column")

    def unused_text(self) -> None:
        for rows in self.parts.values():
            for row in rows:
                row["remark"] = self.sentence()
        self.expect("unused-text")

    def mojibake(self) -> None:
        part = self.part()
        encoding = self.chance.choice(["cp1252", "latin-1", "cp932", "gb18030"])
        wide = encoding in ("cp932", "gb18030")
        rows = self.free(part, self.chance.randrange(1, 4))
        for row in rows:
            word = {"cp932": "日本語", "gb18030": "日本語の本"}.get(encoding, "café")
            broken = word.encode().decode(encoding, errors="ignore" if wide else "strict")
            self.parts[part][row]["text"] += " " + broken
        if wide and misread(self.parts[part][rows[0]]["text"]) is None:  # a byte was lost on the way: nothing to find
            for row in rows:
                self.parts[part][row]["text"] = self.sentence()
            return
        self.expect("mojibake", part, rows)

    def html_entities(self) -> None:
        part = self.part()
        rows = self.free(part, self.chance.randrange(1, 4))
        for row in rows:
            self.parts[part][row]["text"] += self.chance.choice(
                [" &amp; so", "<br />", " &#39;good&#39;", "<p>fine</p>"]
            )
        self.expect("html-entities", part, rows)

    def escapes(self) -> None:
        part = self.part()
        rows = self.free(part, self.chance.randrange(1, 4))
        for row in rows:
            self.parts[part][row]["text"] += self.chance.choice([r"\n\n", r"\nWas it?", r" \u3042"])
        self.expect("escapes", part, rows)

    def missing_labels(self) -> None:
        part = self.part()
        rows = self.free(part, self.chance.randrange(1, 4))
        for row in rows:
            self.parts[part][row]["label"] = self.chance.choice(["", " "])
        self.expect("missing-labels", part, rows)

    def imbalance(self) -> None:
        for label in ("anger", "fear"):
            rows = [
                i for i, row in enumerate(self.parts["train"]) if row["label"] == label and i not in self.taken["train"]
            ]
            for row in rows[10:]:
                self.parts["train"][row]["label"] = "joy"
        self.expect("imbalance")

    def small_valid(self) -> None:
        if not self.taken["valid"]:
            self.parts["valid"] = self.parts["valid"][: self.chance.randrange(20, 80)]
            self.expect("small-valid")

    def some_unknown_tokens(self) -> None:
        rows = self.free("train", len(self.parts["train"]) // 10)
        for row in rows:
            self.parts["train"][row]["text"] += " ☃" * 4
        self.expect("some-unknown-tokens", "train", rows)

    def unknown_tokens(self) -> None:
        for row, cells in enumerate(self.parts["train"]):
            if row not in self.taken["train"]:
                cells["text"] = " ".join("☃" if self.chance.random() < 0.5 else w for w in self.sentence(25).split())
        self.expect("unknown-tokens", "train")

    def write(self, folder: Path) -> dict[str, str]:
        paths = {}
        for part, rows in self.parts.items():
            paths[part] = str(folder / f"{part}.csv")
            with Path(paths[part]).open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        return paths


# What changes many rows comes first, so that it leaves those of the others alone.
DEFECTS = [
    "small_valid",
    "label_spelling",
    "index_column",
    "unused_text",
    "some_unknown_tokens",
    "empty_texts",
    "duplicates",
    "near_duplicates",
    "conflicting_labels",
    "leak",
    "unseen_labels",
    "few_rows",
    "mojibake",
    "html_entities",
    "escapes",
    "missing_labels",
]
# They say something about the whole, which the rows of others would blur.
ALONE = ["unknown_tokens", "imbalance"]


def by_code(findings: list[Finding]) -> Expected:
    return {
        (finding.code, finding.part): {line - 2 for line in finding.lines}
        for finding in findings
        if finding.severity != "note"
    }


@pytest.fixture(scope="module")
def told(tiny_model: Path) -> RunOptions:
    return with_values(
        RunOptions(),
        {
            "model": str(tiny_model),
            "data.text": ("text",),
            "data.label": "label",
            "engine.cache": False,
            "engine.precision": "fp32",
            "doctor.allow": ["estimate"],
        },
    )


@pytest.mark.parametrize("seeds", [range(20), pytest.param(range(20, 200), marks=pytest.mark.slow)], ids=["20", "180"])
def test_planted_defects_are_found_on_their_rows_and_none_is_invented(
    tmp_path: Path, told: RunOptions, seeds: range
) -> None:
    planted: dict[str, int] = {}
    wrong = []
    for seed in seeds:
        planting = Planting(seed)
        chosen = [name for name in DEFECTS if planting.chance.random() < 0.25]
        if seed % 10 == 7:
            chosen = [ALONE[seed % 20 == 7]]
        for name in chosen:
            getattr(planting, name)()
        findings = diagnose(told, planting.write(tmp_path))
        found, expected = by_code(findings), planting.expected
        for key in (("unknown-tokens", "train"), ("some-unknown-tokens", "train")):
            if key in expected:  # other defects make such tokens too
                assert expected[key] <= found.get(key, set())
                expected[key] = found[key]
        for (code, _), rows in expected.items():
            planted[code] = planted.get(code, 0) + max(1, len(rows))
        if found != expected:
            differ = {key for key in {*found, *expected} if found.get(key) != expected.get(key)}
            wrong.append((seed, {key: (found.get(key), expected.get(key)) for key in differ}))
    assert wrong == []
    known = set(CODES) - {"unreadable", "one-class", "other-language", "cut-texts", "lengths", "estimate"}
    assert set(planted) <= known
    if len(seeds) > 100:
        assert set(planted) == known
        assert min(planted.values()) >= 9


@pytest.mark.parametrize("seed", range(5))
def test_a_clean_table_has_no_findings_but_notes(tmp_path: Path, told: RunOptions, seed: int) -> None:
    findings = diagnose(told, Planting(seed).write(tmp_path))
    assert by_code(findings) == {}
    assert [finding.code for finding in findings] == ["lengths"]


@pytest.mark.parametrize("labels", [["joy"], [""]])
def test_one_class_or_none_is_an_error(tmp_path: Path, told: RunOptions, labels: list[str]) -> None:
    planting = Planting(0)
    for rows in planting.parts.values():
        for row in rows:
            row["label"] = labels[0]
    found = by_code(diagnose(told, planting.write(tmp_path)))
    assert ("one-class", None) in found
    assert (("missing-labels", "train") in found) == (labels == [""])


def test_a_max_length_that_cuts_is_said_with_a_better_one(tmp_path: Path, told: RunOptions) -> None:
    planting = Planting(0)
    for row in planting.parts["train"][:100]:
        row["text"] = planting.sentence(30)
    options = with_values(told, {"data.max_length": 16})
    (cut,) = [f for f in diagnose(options, planting.write(tmp_path)) if f.code == "cut-texts"]
    assert "--set data.max_length=32" in cut.fix
    assert "--long-texts windows" in cut.fix


def test_what_each_way_with_long_texts_leaves_out_is_said(tmp_path: Path, told: RunOptions) -> None:
    planting = Planting(0)
    for row in planting.parts["train"][:100]:
        row["text"] = planting.sentence(30)
    options = with_values(told, {"data.max_length": 16, "data.long_texts": "windows"})
    says = {finding.code: finding.says for finding in diagnose(options, planting.write(tmp_path))}
    assert "cut-texts" not in says
    assert "--long-texts cut and head-tail leave out" in says["lengths"]
    assert "and windows 0.0% with 1." in says["lengths"]


def test_pairs_in_windows_are_counted_text_by_text(tmp_path: Path, told: RunOptions) -> None:
    planting = Planting(0)
    for rows in planting.parts.values():
        for row in rows:
            row["other"] = planting.sentence(400)
    changes = {"data.max_length": 32, "data.long_texts": "windows", "data.text": ("text", "other")}
    findings = diagnose(with_values(told, changes), planting.write(tmp_path))
    (cut,) = [finding for finding in findings if finding.code == "cut-texts"]
    assert "cuts 100% of the texts" in cut.says


def test_findings_are_of_the_task_that_was_asked_for(tmp_path: Path, told: RunOptions) -> None:
    planting = Planting(0)
    planting.labels = ["1", "2", "3"]
    planting.parts = {"train": planting.rows(200), "valid": planting.rows(40)}
    kept = with_values(told, {"engine.cache": True})
    for task in ("single-label", "regression"):
        codes = [found.code for found in diagnose(with_values(kept, {"task": task}), planting.write(tmp_path))]
        assert ("small-valid" in codes) == (task == "single-label")


def test_an_error_that_is_allowed_keeps_no_estimate_back(tmp_path: Path, told: RunOptions) -> None:
    planting = Planting(0)
    planting.parts["train"][5]["label"] = ""
    allowing = with_values(told, {"doctor.allow": ["missing-labels"]})
    assert "estimate" in [found.code for found in diagnose(allowing, planting.write(tmp_path))]


@pytest.mark.parametrize("label", ["joy", ""])
def test_what_a_training_takes_is_estimated_where_it_can_begin(tmp_path: Path, told: RunOptions, label: str) -> None:
    planting = Planting(0)
    planting.parts["train"][5]["label"] = label
    findings = diagnose(with_values(told, {"doctor.allow": []}), planting.write(tmp_path))
    estimates = [finding.says for finding in findings if finding.code == "estimate"]
    assert len(estimates) == bool(label)
    for says in estimates:
        assert re.fullmatch(r"about .* an epoch\); \d+\.\d GB of memory, \d+\.\d GB of disk", says)
    assert {path.name for path in tmp_path.iterdir()} == {"train.csv", "valid.csv"}


@pytest.mark.parametrize("content", ["text,label\na,b\nc\n", 'text,label\n"a,b\n'])
def test_unreadable_rows_are_an_error(tmp_path: Path, told: RunOptions, content: str) -> None:
    path = tmp_path / "rows.csv"
    path.write_text(content)
    (finding,) = diagnose(told, {"train": str(path)})
    assert (finding.code, finding.severity) == ("unreadable", "error")
    assert "rows.csv, line" in finding.says


def test_a_valid_part_that_was_cut_from_train_is_looked_at_with_it(tmp_path: Path, told: RunOptions) -> None:
    planting = Planting(3)
    planting.duplicates()
    planting.parts["test"] = planting.parts.pop("valid")
    planting.parts["test"][5]["text"] = planting.parts["train"][7]["text"]
    paths = planting.write(tmp_path)
    found = by_code(diagnose(told, paths))
    assert found.pop(("leak", "test")) >= {5}
    assert found.pop(("small-valid", None)) == set()
    assert {part for _, part in found} <= {"train", "test"}


def test_findings_are_kept_by_content(tmp_path: Path, told: RunOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    import kitune.diagnosis

    planting = Planting(1)
    planting.empty_texts()
    paths = planting.write(tmp_path)
    options = with_values(told, {"engine.cache": True})
    first = diagnose(options, paths)
    with monkeypatch.context() as patch:
        patch.setattr(kitune.diagnosis, "examine", lambda case: pytest.fail("looked at again"))
        assert diagnose(options, paths) == first
    planting.parts["train"][0]["text"] += " &amp;"
    assert diagnose(options, planting.write(tmp_path)) != first


# The command


def test_the_command_prints_findings_and_exits_with_1_on_errors(
    tmp_path: Path, tiny_model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planting = Planting(2)
    planting.missing_labels()
    paths = planting.write(tmp_path)
    words = ["doctor", paths["train"], "--valid", paths["valid"], "--model", str(tiny_model)]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--json"])
    assert stopped.value.code == 1
    found = json.loads(capsys.readouterr().out)
    assert [finding["code"] for finding in found] == ["missing-labels", "lengths"]
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--set", "doctor.allow=[missing-labels]"])
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    assert "missing" not in out
    assert max(map(len, out.splitlines())) <= 80
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--set", "doctor.allow=[mising-labels]"])
    assert stopped.value.code == 2
    assert "did you mean missing-labels?" in capsys.readouterr().err


# The mistakes that cost people an hour


def test_the_unused_second_text_of_a_pair_is_named(tmp_path: Path, told: RunOptions) -> None:
    planting = Planting(4)
    for rows in planting.parts.values():
        for row in rows:
            row["question"], row["sentence"] = row.pop("text"), planting.sentence()
    options = with_values(told, {"data.text": ("question",)})
    (finding,) = [f for f in diagnose(options, planting.write(tmp_path)) if f.code == "unused-text"]
    assert "'sentence' makes a pair with 'question'" in finding.says
    assert finding.fix == "read both: --text question --text sentence"


JAPANESE = (
    "この店の料理は本当に美味しかった",
    "二度と行きたくないと思いました",
    "店員の態度が良くて気持ちがいい",
    "値段が高いのに量が少なすぎる",
)
KOREAN = (
    "이 영화는 정말 재미있었어요",
    "다시는 보고 싶지 않은 작품이다",
    "배우들의 연기가 아주 훌륭했다",
    "이야기가 너무 지루하고 길었다",
)
CHINESE = ("这家店的菜味道非常好吃", "送餐太慢了，再也不会点了", "服务态度很好，下次还来", "量太少而且价格很贵")


@pytest.mark.parametrize(("texts", "fix"), [(JAPANESE, "cl-tohoku"), (KOREAN, "klue"), (CHINESE, "hfl")])
def test_an_english_model_on_other_languages_is_named_with_a_model_for_them(texts: tuple[str, ...], fix: str) -> None:
    rows = [{"text": f"{texts[i % 4]}{i}", "label": "ab"[i % 2]} for i in range(200)]
    options = with_values(RunOptions(), {"engine.cache": False})
    found = {finding.code: finding for finding in diagnose(options, {"train": rows})}
    named = [found[code] for code in ("unknown-tokens", "some-unknown-tokens", "other-language") if code in found]
    assert named
    assert all(fix in finding.fix for finding in named)


@pytest.mark.parametrize(
    ("text", "encoding", "how"),
    [
        ("日本語のテキスト", "latin-1", "cp1252"),
        ("这家店的味道很好", "cp932", "cp932"),
        ("日本語のテキスト", "gb18030", "gb18030"),
        ("한국어 문장입니다", "cp1252", "cp1252"),
        ("Grüße aus Köln", "cp1252", "cp1252"),
        ("naïve – “so”", "latin-1", "cp1252"),
        ("Österreich", "cp1252", "cp1252"),
        ("voilà", "latin-1", "cp1252"),
    ],
)
def test_mojibake_is_known_by_what_made_it(text: str, encoding: str, how: str) -> None:
    assert misread(text.encode().decode(encoding)) == how
    assert misread(text) is None


HONEST = (
    *("联通", "Ã la carte", "café", "“so” — ‘no’", "ﾊﾝｶｸ", "ｱｲｳ", "BEYONCÉ’S", "CAFÉ… FERMÉ", "3×“ok”", "der „Spaß“"),
    *("LA SOCIÉTÉ\u00a0: non", "«LA SOCIÉTÉ»", "AMANHÃ…"),
)


@pytest.mark.parametrize("text", [*JAPANESE, *KOREAN, *CHINESE, *HONEST])
def test_honest_text_is_no_mojibake(text: str) -> None:
    assert misread(text) is None


def test_lost_characters_are_named() -> None:
    assert misread("caf\ufffd") == "lost"


def test_resembling_texts_are_found_as_by_comparing_all_pairs() -> None:
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=chance.randrange(9, 60))) for _ in range(150)]
    for _ in range(250):
        words = chance.choice(texts).split()
        for _ in range(chance.randrange(4)):
            words[chance.randrange(len(words))] = chance.choice(WORDS)
        texts.append(" ".join(words))
    texts = [text for text in dict.fromkeys(texts) if len(text) >= 40]
    for pair in (False, True):
        rows = [{"a": text[:60], "b": text[60:]} if pair else {"a": text} for text in texts]
        near = {
            later
            for later in range(len(rows))
            for earlier in range(later)
            if all(resemblance(text, rows[earlier][name]) >= 0.8 for name, text in rows[later].items())
        }
        assert len(near) > (30 if pair else 80)
        columns = list(rows[0])
        found = {later for later, _ in near_duplicates(read_table(rows), columns, np.ones(len(rows), dtype=np.bool_))}
        assert found <= near
        assert len(near - found) <= (0.1 if pair else 0.02) * len(near)


def test_texts_of_test_that_choose_the_weights_are_told(tmp_path: Path, tiny_model: Path) -> None:
    planting = Planting(3)
    test = planting.rows(20)
    test[4]["text"] = planting.parts["valid"][7]["text"]
    files = {}
    for part, rows in {**planting.parts, "test": test}.items():
        files[part] = str(tmp_path / f"{part}.csv")
        with open(files[part], "w", newline="") as file:
            writer = csv.DictWriter(file, ["text", "label"])
            writer.writeheader()
            writer.writerows(rows)
    options = with_values(RunOptions(), {"model": str(tiny_model), "data.text": ("text",), "data.label": "label"})
    found = [one for one in diagnose(options, files) if one.code == "leak"]
    assert [(one.part, one.lines) for one in found] == [("test", (6,))]
    assert "in valid too" in found[0].says


def test_a_line_that_moved_is_named_where_it_stands_now(tmp_path: Path, tiny_model: Path) -> None:
    lines = ["text,label", *(f"{row['text']},{row['label']}" for row in Planting(4).rows(60))]
    lines += [lines[7]]
    options = with_values(RunOptions(), {"model": str(tiny_model), "data.text": ("text",), "data.label": "label"})
    seen = []
    for begin in (lines[:1], [lines[0], ""]):  # an empty line is no row, and moves those below it
        (tmp_path / "rows.csv").write_text("\n".join([*begin, *lines[1:]]) + "\n")
        found = diagnose(options, {"train": str(tmp_path / "rows.csv")})
        seen.append(next(one.lines for one in found if one.code == "duplicates"))
    assert seen == [(62,), (63,)]


def test_a_regression_without_a_number_ends_in_a_sentence(tmp_path: Path, tiny_model: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,score\n" + "good,\n" * 5)
    told = {"model": str(tiny_model), "task": "regression", "data.text": ("text",), "data.label": "score"}
    with pytest.raises(UserError, match=r"rows\.csv: no row of the train part has a label"):
        diagnose(with_values(RunOptions(), told), {"train": str(tmp_path / "rows.csv")})


def pairs_of(rows: list[tuple[str, str, str]]) -> list[Row]:
    return [{"first": first, "second": second, "label": label} for first, second, label in rows]


def test_the_questions_on_one_long_passage_are_no_near_duplicates(told: RunOptions) -> None:
    planting = Planting(0)
    passages = [planting.sentence(60) for _ in range(60)]
    rows = pairs_of([(passages[i // 3], planting.sentence(6), "ab"[i % 2]) for i in range(180)])
    rows[7]["second"] = planting.sentence(30)
    rows.append({**rows[7], "second": rows[7]["second"] + " so"})
    options = with_values(told, {"data.text": ("first", "second")})
    (near,) = [found for found in diagnose(options, {"train": rows}) if found.code == "near-duplicates"]
    assert near.lines == (180,)


def test_a_pair_in_the_other_order_is_another_pair_but_a_leak(told: RunOptions) -> None:
    planting = Planting(0)
    texts = [(planting.sentence(), planting.sentence()) for _ in range(60)]
    train = pairs_of([(one, other, "ab"[i % 2]) for i, (one, other) in enumerate(texts)])
    turned = pairs_of([(texts[4][1], texts[4][0], "b"), (texts[6][1], texts[6][0], "a")])
    options = with_values(told, {"data.text": ("first", "second")})
    codes = {found.code for found in diagnose(options, {"train": train + turned})}
    assert codes.isdisjoint({"duplicates", "conflicting-labels"})
    found = diagnose(options, {"train": [*train, train[5], {**train[8], "label": "b"}], "valid": turned})
    by_code = {finding.code: finding.lines for finding in found}
    assert (by_code["duplicates"], by_code["conflicting-labels"]) == ((60, 61), (8, 61))
    assert by_code["leak"] == (0, 1)


def test_empty_texts_alone_are_no_leak(tmp_path: Path, told: RunOptions) -> None:
    planting = Planting(0)
    for rows in planting.parts.values():
        rows[3]["text"] = ""
    codes = {finding.code for finding in diagnose(told, planting.write(tmp_path))}
    assert "empty-texts" in codes
    assert "leak" not in codes


@pytest.mark.parametrize(
    ("value", "is_text"),
    [
        ("2023-01-05 12:33:{:02}", False),
        ("12 345 678.{:02} EUR", False),
        ("this is remark {}", True),
        ("この備考は少し長い文章です{}", True),
    ],
)
def test_a_time_or_an_amount_is_no_second_text(tmp_path: Path, told: RunOptions, value: str, is_text: bool) -> None:
    planting = Planting(0)
    for i, row in enumerate(planting.parts["train"]):
        row["other"] = value.format(i)
    del planting.parts["valid"]
    assert ("unused-text" in {finding.code for finding in diagnose(told, planting.write(tmp_path))}) == is_text


@pytest.mark.parametrize("separator", ["auto", "|"])
def test_a_column_of_lists_without_any_label_is_a_finding(told: RunOptions, separator: str) -> None:
    rows: list[dict[str, object]] = [{"text": f"text {i}", "label": []} for i in range(20)]
    options = with_values(told, {"data.label_separator": separator})
    (found,) = [finding for finding in diagnose(options, {"train": rows}) if finding.severity == "error"]
    assert (found.code, found.says) == ("one-class", "no row has a label in column 'label'")
    with pytest.raises(UserError, match="column 'label' holds no label"):
        read_parts(options, {"train": rows})


def test_the_separator_of_train_parts_the_labels_of_every_part(told: RunOptions) -> None:
    train = [{"text": f"text {i}", "label": "a, b|c" if i % 2 else "c"} for i in range(40)]
    valid = [{"text": f"other {i}", "label": label} for i, label in enumerate(["a, b", "c", "a, b", "c"] * 30)]
    options = with_values(told, {"task": "multi-label"})
    codes = {finding.code for finding in diagnose(options, {"train": train, "valid": valid})}
    assert "unseen-labels" not in codes


def test_labels_told_by_their_place_are_the_names_there(told: RunOptions) -> None:
    options = with_values(told, {"data.labels": ["no", "yes"]})
    train = [{"text": f"text {i}", "label": ["no", "yes"][i % 2]} for i in range(40)]
    valid = [{"text": f"other {i}", "label": i % 2} for i in range(120)]
    by_name = [{**row, "label": ["no", "yes"][i % 2]} for i, row in enumerate(valid)]
    found, expected = (diagnose(options, {"train": train, "valid": rows}) for rows in (valid, by_name))
    assert found == expected
    assert "unseen-labels" not in {finding.code for finding in found}
    mixed = [*train, {"text": "text 1", "label": "1"}, {"text": "text 2", "label": "1"}]
    (conflict,) = [one for one in diagnose(options, {"train": mixed}) if one.code == "conflicting-labels"]
    assert conflict.lines == (2, 41), "1 is yes, as the other row with that text is"


def test_the_column_without_a_name_that_pandas_writes_can_be_told(tmp_path: Path, told: RunOptions) -> None:
    rows = "".join(f"{i},text {i},{'ab'[i % 2]}\n" for i in range(20))
    (tmp_path / "rows.csv").write_text(",text,label\n" + rows)
    (found,) = [one for one in diagnose(told, {"train": str(tmp_path / "rows.csv")}) if one.code == "index-column"]
    words = shlex.split(found.fix.rpartition("name: ")[2])
    options = with_values(told, parse_set(words[1:]))
    assert options.data.id == ""
    parts, _ = read_parts(options, {"train": str(tmp_path / "rows.csv")})
    assert parts.columns.id == ""
    assert parts.columns.used == ["text", "label", ""]
