"""Every command and every Python block of the README, in four languages, and of the docs runs as it stands there.

Names of the hub are answered by a server on loopback with tiny models and data sets of the same shape.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest

from tests.hub.server import Hub

ROOT = Path(__file__).parents[1]
LANGUAGES = ("README.md", "README.ja.md", "README.ko.md", "README.zh.md")
BLOCK = re.compile(r"^```(sh|python)(?: title=\"([^\"]+)\")?\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Blocks that set up what the suite itself runs in.
SET_UP = re.compile(r"^(make demo|\. \.venv/bin/activate|pip install -e '\.\[(\w+)\]')$")
Rows = Callable[..., list[dict[str, Any]]]


def blocks(path: Path) -> list[tuple[str, str, str]]:
    """(language, file that it is to be written to, text) of each block that runs."""
    return [(kind, title, text) for kind, title, text in BLOCK.findall(path.read_text(encoding="utf-8"))]


def shell_of(path: Path) -> list[str]:
    return [text for kind, _, text in blocks(path) if kind == "sh"]


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows: Rows) -> Path:
    """What the pages name of the hub, small."""
    from transformers import AutoModelForSequenceClassification

    root = tmp_path_factory.mktemp("hub")
    glue = root / "datasets" / "nyu-mll" / "glue"
    shapes = {
        "mrpc": (("sentence1", "sentence2"), ["not_equivalent", "equivalent"]),
        "qnli": (("question", "sentence"), ["entailment", "not_entailment"]),
    }
    card = ["---", "configs:"]
    for config, (columns, names) in shapes.items():
        (glue / config).mkdir(parents=True)
        card += [f"- config_name: {config}", "  data_files:"]
        label = datasets.ClassLabel(names=names)
        features = datasets.Features(
            {**{name: datasets.Value("string") for name in columns}, "label": label, "idx": datasets.Value("int32")}
        )
        for seed, (split, count) in enumerate({"train": 60, "validation": 16, "test": 8}.items()):
            made = rows("single-label", count, pair=True, seed=seed)
            data = {columns[0]: [row["text"] for row in made], columns[1]: [row["other"] for row in made]}
            data["label"] = [-1 if split == "test" and config == "qnli" else int(row["label"] == "yes") for row in made]
            data["idx"] = list(range(count))
            table = datasets.Dataset.from_dict(data, features=features)
            table.to_parquet(glue / config / f"{split}-00000-of-00001.parquet")
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (glue / "README.md").write_text("\n".join([*card, "---", "# GLUE", ""]))
    models = root / "models"
    of_translations = ("klue/roberta-base", "hfl/chinese-roberta-wwm-ext")
    for name in ("prajjwal1/bert-tiny", "google-bert/bert-base-uncased", *of_translations):
        shutil.copytree(tiny_model, models / name)
    japanese = models / "tohoku-nlp" / "bert-base-japanese-whole-word-masking"
    shutil.copytree(tiny_model, japanese)
    (japanese / "tokenizer.json").unlink()
    signs = "この商品は最高ですまた買うない悪0123456789"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *dict.fromkeys(signs)]
    pieces += [f"##{sign}" for sign in dict.fromkeys(signs)]
    (japanese / "vocab.txt").write_text("\n".join(pieces) + "\n", encoding="utf-8")
    told = {"tokenizer_class": "BertJapaneseTokenizer", "do_lower_case": False, "word_tokenizer_type": "mecab"}
    told |= {"subword_tokenizer_type": "wordpiece", "model_max_length": 64, "mecab_kwargs": {"mecab_dic": "ipadic"}}
    (japanese / "tokenizer_config.json").write_text(json.dumps(told))
    trained = models / "distilbert" / "distilbert-base-uncased-finetuned-sst-2-english"
    shutil.copytree(tiny_model, trained)
    moods = {0: "NEGATIVE", 1: "POSITIVE"}
    AutoModelForSequenceClassification.from_pretrained(tiny_model, id2label=moods).save_pretrained(trained)
    return root


@pytest.fixture(scope="module")
def hub(repositories: Path) -> Iterator[Hub]:
    with Hub(repositories) as hub:
        hub.moved |= {
            "bert-base-uncased": "google-bert/bert-base-uncased",
            "cl-tohoku/bert-base-japanese-whole-word-masking": "tohoku-nlp/bert-base-japanese-whole-word-masking",
            "distilbert-base-uncased-finetuned-sst-2-english": "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
        }
        yield hub


@pytest.fixture
def place(tmp_path: Path, rows: Rows) -> Path:
    """A folder with the files that the pages name."""

    def table(name: str, columns: list[str], lines: list[list[Any]], encoding: str = "utf-8") -> None:
        text = "".join(",".join(map(str, line)) + "\n" for line in [columns, *lines])
        (tmp_path / name).write_text(text, encoding=encoding)

    def reviews(count: int, seed: int) -> list[list[Any]]:
        made = rows("single-label", count, seed=seed)
        star = {"no": (1, 2), "yes": (4, 5)}
        return [[row["id"], row["text"], star[row["label"]][i % 2], "ab"[i % 3 == 0]] for i, row in enumerate(made)]

    columns = ["id", "review", "stars", "shop"]
    for seed, name in enumerate(("reviews.csv", "more-reviews.csv", "train.csv", "valid.csv", "test.csv")):
        table(name, columns, reviews(40 if name in ("reviews.csv", "train.csv") else 12, seed))
    table("new.csv", ["id", "review"], [line[:2] for line in reviews(6, 9)])
    table(
        "moods.csv", ["text", "mood"], [[text, "bad" if stars < 3 else "good"] for _, text, stars, _ in reviews(12, 9)]
    )
    (tmp_path / "texts.txt").write_text("arrived broken\nlovely\n")
    (tmp_path / "folder").mkdir()
    for part in ("train", "valid"):
        shutil.copy(tmp_path / f"{part}.csv", tmp_path / "folder" / f"{part}.csv")
    moods = {"良": ("最高です", "また買う"), "悪": ("最悪です", "買うない")}
    lines = [[f"この商品は{moods[mood][i % 2]}{i}", mood] for i in range(15) for mood in moods]
    for name in ("kuchikomi.csv", "more-kuchikomi.csv"):
        table(name, ["本文", "評価"], lines, encoding="cp932")
    table("new-kuchikomi.csv", ["本文"], [line[:1] for line in lines], encoding="cp932")
    return tmp_path


@pytest.fixture
def run(hub: Hub, place: Path) -> Callable[[str, str, str], None]:
    """Run a block in the folder, with an empty home, against the hub."""

    def run(kind: str, title: str, text: str) -> None:
        if title:
            (place / title).write_text(text)
            return
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        kept |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(place / "home")}
        kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
        if kind == "python":  # in a file, as where processes are started
            (place / "block.py").write_text(text, encoding="utf-8")
        words = ["bash", "-euo", "pipefail", "-c", text] if kind == "sh" else [sys.executable, "block.py"]
        done = subprocess.run(words, cwd=place, env=kept, capture_output=True, text=True)
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        assert "Traceback" not in done.stderr

    return run


def runnable(path: Path) -> list[tuple[str, str, str]]:
    return [block for block in blocks(path) if not SET_UP.match(block[2].strip())]


@pytest.mark.slow
@pytest.mark.parametrize(
    "page",
    ["README.md", "docs/data.md", "docs/doctor.md", "docs/train.md", "docs/evaluate.md", "docs/predict.md",
     "docs/scikit-learn.md", "docs/from-trainer.md"],
)  # fmt: skip
def test_what_a_page_says_to_run_runs(page: str, run: Callable[[str, str, str], None], place: Path) -> None:
    needed = {"docs/evaluate.md": "runs/stars", "docs/predict.md": "runs/stars"}
    if page in needed:  # what an earlier page has made
        run("sh", "", "kitune train reviews.csv --text review --label stars --out runs/stars --set train.epochs=1")
    found = runnable(ROOT / page)
    assert found
    for kind, title, text in found:
        run(kind, title, text)


@pytest.mark.slow
@pytest.mark.parametrize("page", LANGUAGES[1:])
def test_what_a_translation_says_to_run_in_python_runs(page: str, run: Callable[[str, str, str], None]) -> None:
    of_python = [block for block in runnable(ROOT / page) if block[0] == "python"]
    assert of_python
    for block in of_python:
        run(*block)


@pytest.mark.parametrize("page", LANGUAGES[1:])
def test_a_translation_has_the_commands_sections_and_links_of_the_english_page(page: str) -> None:
    english, other = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", page))
    assert shell_of(ROOT / page) == shell_of(ROOT / "README.md")
    assert len(re.findall(r"^## ", other, re.MULTILINE)) == len(re.findall(r"^## ", english, re.MULTILINE))
    links = [sorted(re.findall(r"\]\(([^)]+)\)", text)) for text in (english, other)]
    assert [link for link in links[0] if not link.startswith("README")] == [
        link for link in links[1] if not link.startswith("README")
    ]


@pytest.mark.parametrize("page", LANGUAGES)
def test_every_file_that_a_readme_links_to_is_there(page: str) -> None:
    for link in re.findall(r"\]\(([^)#]+)", (ROOT / page).read_text(encoding="utf-8")):
        assert (ROOT / link).exists(), link


def test_the_extras_that_are_named_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pages = [*(ROOT / name for name in LANGUAGES), *(ROOT / "docs").glob("*.md")]
    named = {name for page in pages for name in re.findall(r"(?:kitune|-e '\.)\[(\w+)\]", page.read_text("utf-8"))}
    assert named
    assert named <= set(extras)


def test_the_site_builds_without_a_dead_link(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "from-trainer" / "index.html").exists()
