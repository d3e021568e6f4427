"""What the docs say is what the code does."""

import re
import runpy
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


def test_the_page_of_options_is_the_code_s() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "options.py"))["page"]()
    assert made == (ROOT / "docs" / "options.md").read_text(), "python docs/options.py makes it anew"
    assert all(f"| `{name}` |" in made for name in option_names())


def test_every_format_that_is_read_is_listed() -> None:
    text = (ROOT / "docs" / "data.md").read_text()
    assert all(f"`.{name}`" in text for name in READERS)


def test_the_readme_s_figures_are_those_of_the_benchmarks_in_every_language() -> None:
    speed = (ROOT / "BENCHMARKS.md").read_text(encoding="utf-8").partition("## Speed")[2].partition("###")[0]
    measured = {round(float(figure), 1) for figure in re.findall(r"\d+\.\d+(?= x)", speed)}
    told = []
    for path in sorted(ROOT.glob("README*.md")):
        rows = re.findall(
            r"^\|.*(?:Trainer|sentence-transformers|ONNX).*\| (.*\d.*) \|$", path.read_text("utf-8"), re.MULTILINE
        )
        told.append([float(figure) for row in rows for figure in re.findall(r"\d+\.\d+", row)])
    assert told[0] == [6.1, 0.5, 2.7, 0.4, 5.0, 0.3, 7.0, 2.2, 1.6]
    assert all(figures == told[0] for figures in told)
    assert set(told[0]) <= measured
