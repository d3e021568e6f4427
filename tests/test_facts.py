"""What `kitune inspect` shows of data and models."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kitune
from kitune.cli import main
from kitune.facts import inspect_data, inspect_model
from tests.conftest import WORDS

ROWS = [{"text": f"本当に good film {i}", "stars": str(1 + i % 5), "note": "" if i % 2 else "x"} for i in range(50)]


def write_csv(path: Path, rows: list[dict[str, str]]) -> Path:
    import csv

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def shown(capsys: pytest.CaptureFixture[str], *words: object, code: int = 0) -> str:
    with pytest.raises(SystemExit) as stopped:
        main(["inspect", *map(str, words)])
    assert stopped.value.code == code
    captured = capsys.readouterr()
    return captured.out if code == 0 else captured.err


def test_rows_columns_labels_and_lengths(tmp_path: Path) -> None:
    facts = inspect_data(write_csv(tmp_path / "rows.csv", ROWS), count=2)
    assert (facts.rows, facts.task, facts.text, facts.label) == (50, "single-label", ("text",), "stars")
    assert facts.labels == {str(star): 10 for star in range(1, 6)}
    assert facts.first == ROWS[:2]
    text, stars, note = facts.columns
    assert text == {"name": "text", "type": "text", "filled": 50, "characters": [15, 16, 16, 16, 16], "different": 50}
    assert (stars["different"], note["filled"]) == (5, 25)


def test_json_is_the_whole_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(tmp_path / "rows.csv", ROWS)
    found = json.loads(shown(capsys, path, "--json", "-n", 1))
    assert found["rows"] == 50
    assert found["first"] == ROWS[:1]
    assert found["labels"]["3"] == 10


def test_rows_of_one_label_and_their_absence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_csv(tmp_path / "rows.csv", ROWS)
    assert inspect_data(path, where="stars=3").rows == 10
    assert "no row has this value; there are 1, 2, 3, 4, 5" in shown(capsys, path, "--where", "stars=9", code=2)
    assert "it has no '='" in shown(capsys, path, "--where", "stars", code=2)
    assert "there is no column 'star'" in shown(capsys, path, "--where", "star=1", code=2)


def test_parts_of_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv(tmp_path / "train.csv", ROWS)
    write_csv(tmp_path / "dev.csv", ROWS[:7])
    assert "parts: valid 7, train 50" in shown(capsys, tmp_path) or "parts: train 50, valid 7" in shown(
        capsys, tmp_path
    )
    assert inspect_data(tmp_path, split="valid").rows == 7
    assert "there is no part 'test'" in shown(capsys, tmp_path, "--split", "test", code=2)


@pytest.mark.parametrize("encoding", ["utf-8", "cp932", "ascii"])
def test_tables_fit_80_columns_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    from rich.cells import cell_len

    long = [
        {**row, "text": "とても長い文章です。" * 30, "an unusually long name of a column": "x" * 200} for row in ROWS
    ]
    path = write_csv(tmp_path / "rows.csv", long)
    command = [sys.executable, "-m", "kitune", "inspect", str(path), "-n", "2"]
    environment = {"PYTHONIOENCODING": encoding, "PATH": "", "HF_HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, env=environment, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr.decode(encoding)
    lines = done.stdout.decode(encoding).splitlines()
    # The first one is the path, which is not cut.
    assert max(cell_len(line) for line in lines[1:]) <= 80
    assert "Traceback" not in done.stderr.decode(encoding)


def test_a_file_is_looked_at_without_torch_or_pandas(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "rows.csv", ROWS)
    code = (
        f"import sys; from kitune.facts import inspect_data; inspect_data({str(path)!r}); "
        "print([name for name in ('torch', 'pandas', 'datasets', 'transformers', 'scipy', 'sklearn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_model_and_a_run(tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    facts = inspect_model(str(tiny_model))
    assert (facts["type"], facts["layers"], facts["width"]) == ("bert", 2, 32)
    assert facts["labels"] == []
    assert facts["tokenizer algorithm"] == "WordPiece"
    from transformers import AutoModel

    network = AutoModel.from_pretrained(tiny_model)
    assert facts["parameters"] == sum(parameter.numel() for parameter in network.parameters())
    assert facts["parameters"] == sum(facts["parameters by part"].values())
    rows = [{"text": " ".join(WORDS[i % 7 : i % 7 + 5 + i % 3]), "stars": row["stars"]} for i, row in enumerate(ROWS)]
    run = kitune.train(rows, model=str(tiny_model), out=tmp_path / "run", label="stars", options={"train.epochs": 1})
    found = json.loads(shown(capsys, run.folder, "--json"))
    assert found["labels"] == ["1", "2", "3", "4", "5"]
    assert found["metrics"]["accuracy"] == pytest.approx(run.metrics["valid"]["accuracy"])
    assert max(map(len, shown(capsys, "starter").splitlines())) <= 80


@pytest.mark.slow
def test_100_000_rows_take_less_than_a_second(tmp_path: Path) -> None:
    import random

    chance = random.Random(0)
    rows = [{"text": " ".join(chance.choices(WORDS, k=25)), "label": str(i % 3)} for i in range(100_000)]
    path = write_csv(tmp_path / "rows.csv", rows)
    taken = []
    for _ in range(3):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "kitune", "inspect", str(path)], check=True, capture_output=True)
        taken.append(time.perf_counter() - begun)
    assert min(taken) < 1.0


def test_of_many_labels_the_shares_are_of_all_rows_and_the_rest_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [{"text": f"text number {i}", "label": f"l{i % 250:03}"} for i in range(1_000)]
    path = write_csv(tmp_path / "rows.csv", made)
    out = shown(capsys, path, "-n", 0)
    assert ["l000", "4", "0.4%"] in [line.split() for line in out.splitlines()]
    assert "and 150 labels more; --json has all" in out
    assert len(json.loads(shown(capsys, path, "--json"))["labels"]) == 250


def test_numbers_are_never_cut(capsys: pytest.CaptureFixture[str]) -> None:
    from kitune.notebook import Grid
    from kitune.show import show

    name = "customer complaint about the billing department"
    header = ("label", "rows", "precision", "recall", "f1", "from", "to")
    show([Grid(header, [(f"{name} {i}", 1_000, 0.1234, 0.5, 0.25, 0.125, 0.375) for i in range(3)], 4)])
    for line in capsys.readouterr().out.splitlines()[1:]:
        assert line.split()[-6:] == ["1,000", "0.1234", "0.5000", "0.2500", "0.1250", "0.3750"]
