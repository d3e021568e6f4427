"""The example data are what they are said to be, and the starter beats a bag of words on them."""

import csv
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def tickets(name: str) -> list[dict[str, str]]:
    with (EXAMPLES / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def parts() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    return tickets("tickets.csv"), tickets("tickets_test.csv")


Parts = tuple[list[dict[str, str]], list[dict[str, str]]]


def test_there_are_600_rows_of_six_intents_in_two_languages(parts: Parts) -> None:
    rows = parts[0] + parts[1]
    assert len(parts[0]) >= 600
    assert len(Counter(row["intent"] for row in rows)) == 6
    assert min(Counter(row["language"] for row in rows).values()) >= 150


def test_no_two_rows_share_eight_words_in_a_row(parts: Parts) -> None:
    seen: dict[tuple[str, ...], int] = {}
    for number, row in enumerate(parts[0] + parts[1]):
        words = re.findall(r"\w+", row["text"].lower())
        for place in range(len(words) - 7):
            assert seen.setdefault(tuple(words[place : place + 8]), number) == number


def test_no_customer_is_in_both_files(parts: Parts) -> None:
    customers = [{row["customer"] for row in part} for part in parts]
    assert not customers[0] & customers[1]


def test_the_starter_is_three_points_above_a_bag_of_words(parts: Parts, tmp_path: Path) -> None:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    (train, test), inputs = parts, [[row["text"] for row in part] for part in parts]
    words = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    bag_of_words = words.fit(inputs[0], [row["intent"] for row in train]).score(
        inputs[1], [row["intent"] for row in test]
    )
    assert 0.6 < bag_of_words < 0.95

    # In a process of its own: its threads would be in the way of tests that fork.
    command = [sys.executable, "-m", "kitune", "train", str(EXAMPLES / "tickets.csv"), "--out", str(tmp_path / "run")]
    told = ["--text", "text", "--label", "intent", "--group", "customer", "--set", "train.epochs=4"]
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run([*command, *told], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    scored = [
        sys.executable,
        "-m",
        "kitune",
        "evaluate",
        str(tmp_path / "run"),
        str(EXAMPLES / "tickets_test.csv"),
        "--json",
    ]
    accuracy = json.loads(subprocess.run(scored, capture_output=True, text=True, check=True).stdout)["metrics"][
        "accuracy"
    ]
    assert accuracy >= bag_of_words + 0.03
