"""Findings about data: one table of their codes and severities, which the doctor and the docs share."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

from kitune.errors import command

Severity = Literal["error", "warning", "note"]
# Every finding by its code: how severe it is, and what it means. The docs print this table.
CODES: dict[str, tuple[Severity, str]] = {
    "unreadable": ("error", "the file cannot be read, or some of its rows"),
    "missing-labels": ("error", "rows without a label"),
    "one-class": ("error", "no label at all, or the same one in every row"),
    "unknown-tokens": ("error", "more than 30 % of the tokens are unknown to the model"),
    "some-unknown-tokens": ("warning", "more than 2 % of the tokens are unknown to the model"),
    "other-language": (
        "warning",
        "the model spells the texts character by character: its vocabulary is of another language",
    ),
    "empty-texts": ("warning", "rows without a text"),
    "duplicates": ("warning", "texts that occur more than once in a part"),
    "near-duplicates": ("warning", "texts that differ in a few words only"),
    "conflicting-labels": ("warning", "equal texts with different labels"),
    "leak": (
        "warning",
        "texts of valid or test that are in train too, or of test that are in valid: scores on them flatter",
    ),
    "unseen-labels": ("warning", "labels in valid or test that train lacks"),
    "few-rows": ("warning", "classes with too few rows to learn from"),
    "imbalance": ("warning", "one class has most of the rows"),
    "label-spelling": ("warning", "labels that differ in spaces, width or capitals only"),
    "index-column": ("warning", "a column that only counts the rows"),
    "unused-text": ("warning", "a second text column that the model will not read"),
    "mojibake": ("warning", "text that was read in a wrong encoding before it came here"),
    "html-entities": ("warning", "HTML entities or tags in the text"),
    "escapes": ("warning", "line breaks and the like spelt out as \\n"),
    "cut-texts": ("warning", "more than 5 % of the texts lose tokens to max_length"),
    "small-valid": ("warning", "too few validation rows to tell two models apart"),
    "lengths": ("note", "what each max_length would cut"),
    "estimate": ("note", "time, memory and disk that a training takes"),
}
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")


# So many rows are named in a sentence; `lines` has all of them.
NAMED = 3


@dataclass(frozen=True)
class Finding:
    """Something about the data that the user should know.

    Attributes:
        part: train, valid or test.
        source: the file or frame of the rows.
        lines: where the rows begin in it, from 1; their numbers from 0 where it has no lines.
        in_lines: which of the two it is.
    """

    code: str
    says: str
    fix: str
    part: str | None = None
    source: str | None = None
    lines: tuple[int, ...] = ()
    in_lines: bool = True

    @property
    def severity(self) -> Severity:
        return CODES[self.code][0]

    def as_json(self) -> dict[str, Any]:
        """All of it, the severity too."""
        return {"severity": self.severity, **asdict(self)}

    @classmethod
    def from_json(cls, tree: dict[str, Any]) -> "Finding":
        """The inverse of `as_json`."""
        own = {name: value for name, value in tree.items() if name != "severity"}
        return cls(**{**own, "lines": tuple(own["lines"])})

    @property
    def place(self) -> str:
        """`dev.tsv, lines 4, 17, 30 and 34 more`; empty where it is about the whole."""
        if not self.lines or self.source is None:
            return ""
        unit = ("line" if self.in_lines else "row") + ("s" if len(self.lines) > 1 else "")
        more = f" and {len(self.lines) - NAMED:,} more" if len(self.lines) > NAMED else ""
        return f"{self.source.rpartition('/')[2]}, {unit} {', '.join(map(str, self.lines[:NAMED]))}{more}"

    def line(self) -> str:
        """The finding as a sentence: `test: 37 rows with a text that is in train too (test.tsv, line 4) [leak]`."""
        where = f" ({self.place})" if self.place else ""
        return f"{self.part + ': ' if self.part else ''}{self.says}{where} [{self.code}]"


def allowing(code: str, allowed: Iterable[str] = ()) -> str:
    """The option that lets a finding pass, beside those that pass already."""
    return command("--set", f"doctor.allow=[{', '.join([*allowed, code])}]")


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The severe ones first, each severity in the order of the table of codes."""
    codes = list(CODES)
    return sorted(findings, key=lambda finding: (SEVERITIES.index(finding.severity), codes.index(finding.code)))


class Located(Protocol):
    """What a table tells of the place of its rows."""

    @property
    def source(self) -> str: ...
    @property
    def lines(self) -> Any: ...


def about_rows(code: str, says: str, fix: str, part: str, table: Located, rows: Iterable[int]) -> Finding:
    """A finding about rows of a part's table, numbered from 0."""
    lines = tuple(int(row if table.lines is None else table.lines[row]) for row in rows)
    return Finding(code, says, fix, part, table.source, lines, table.lines is not None)
