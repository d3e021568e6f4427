"""What the docs say is what the code does."""

import re
from pathlib import Path

from kitune.config import option_names
from kitune.data.read import READERS
from kitune.findings import CODES

ROOT = Path(__file__).parents[1]


def test_the_table_of_findings_is_the_code_s() -> None:
    found = re.findall(r"^\| `([\w-]+)` \| (\w+) \| (.+) \|$", (ROOT / "docs" / "doctor.md").read_text(), re.MULTILINE)
    assert found == [(code, severity, meaning) for code, (severity, meaning) in CODES.items()]


def test_every_option_that_is_named_exists() -> None:
    known = set(option_names())
    for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        text = path.read_text()
        named = set(re.findall(r"\b((?:data|train|engine|doctor)\.[a-z_]+)\b(?!\.)", text))
        files = {name for name in named if name.rpartition(".")[2] in {*READERS, "md", "yaml", "py"}}
        assert named - files <= known, path.name


def test_every_format_that_is_read_is_listed() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    assert all(f"`.{name}`" in text for name in READERS)
