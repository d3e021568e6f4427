"""Every command in a terminal of 80 columns and in a pipe, in three encodings: right, aligned, and without a traceback."""

import csv
import fcntl
import json
import os
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from rich.cells import cell_len

WIDTH = 80
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "utf-8": {"PYTHONIOENCODING": "utf-8"},
    "cp932": {"PYTHONIOENCODING": "cp932"},
    "C": {"LC_ALL": "C"},
    "ascii": {"PYTHONIOENCODING": "ascii"},
}
# One process does all of them: each would import torch for itself.
SCRIPT = """
import json, sys
from kitune.cli import main
for words in json.loads(sys.argv[1]):
    print("=== " + words[0], flush=True)
    print("=== " + words[0], file=sys.stderr, flush=True)
    try:
        main(words)
    except SystemExit as done:
        print("=== exit", done.code, flush=True)
"""
LABELS = ("良い映画", "ひどい映画")
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def commands(folder: Path, model: Path) -> list[list[str]]:
    data, run = str(folder / "reviews.csv"), str(folder / "run")
    told = ["--text", "text", "--label", "label"]
    return [
        ["train", data, "--model", str(model), "--out", run, *told, "--set", "train.epochs=2"],
        ["train", "--options"],
        ["predict", run, data, "--keep", "id"],
        ["inspect", data, "-n", "1"],
        ["inspect", run],
        ["doctor", data, "--model", str(model), *told],
        ["evaluate", run, data],
        ["predict", run, data, "--keep", "id", "--out", str(folder / "answers.csv")],
        ["cache"],
        ["train", str(folder / "ない.csv")],
        ["evaluate", run, data, "--label", "ラベル"],
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with (tmp_path / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "text", "label", "とても長い名前の列"])
        for i in range(60):
            writer.writerow([f"r{i}", f"{'good fine film ' * 4}映画 {i}", LABELS[i % 2], "本当に長い説明文です。" * 12])
    return tmp_path


def in_pipe(words: list[str], environment: dict[str, str]) -> bytes:
    done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True)
    return done.stdout


def on_terminal(words: list[str], environment: dict[str, str]) -> bytes:
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
    with subprocess.Popen(words, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as running:
        os.close(theirs)
        seen = b""
        while True:
            try:
                block = os.read(ours, 65536)
            except OSError:  # the other side is closed
                block = b""
            if not block:
                break
            seen += block
    os.close(ours)
    assert running.returncode == 0, seen.decode("utf-8", "replace")
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("place", ["pipe", "terminal"])
@pytest.mark.parametrize("encoding", ENVIRONMENTS)
def test_every_command_is_right(folder: Path, tiny_model: Path, encoding: str, place: str) -> None:
    usual = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "PYTHON", "COLUMNS"))}
    environment = {**usual, "TERM": "xterm-256color", "LANG": "C.UTF-8", **ENVIRONMENTS[encoding]}
    asked = commands(folder, tiny_model)
    words = [sys.executable, "-c", SCRIPT, json.dumps(asked)]
    raw = (on_terminal if place == "terminal" else in_pipe)(words, environment)
    text = raw.decode({"C": "utf-8"}.get(encoding, encoding))  # not one byte is of another encoding
    assert "Traceback" not in text
    assert "\ufffd" not in text
    codes = re.findall(r"=== exit (\d+)", text)
    # ASCII has no letter of these labels: on a terminal or in a pipe that is refused, and a file has all of them.
    printed = 2 if encoding == "ascii" else 0
    assert codes == ["0", "0", str(printed), "0", "0", "0", "0", "0", "0", "2", "2"]
    answers = (folder / "answers.csv").read_text(encoding="utf-8").splitlines()
    assert len(answers) == 61
    assert {line.split(",")[1] for line in answers[1:]} <= set(LABELS)
    lines = [ESCAPES.sub("", line) for line in re.split(r"[\r\n]+", text)]
    bars = [line for line in lines if line.startswith("[Epoch ")]
    assert bool(bars) == (place == "terminal")
    assert all(cell_len(bar) <= WIDTH for bar in bars)
    if encoding in ("cp932", "ascii"):
        assert not re.search("[█▏▎▍▌▋▊▉]", text)
    sections = dict(zip([" ".join(one) for one in asked], split_by_command(lines), strict=True))
    for name, section in sections.items():
        if name.startswith(("inspect", "doctor", "cache")):
            # Sentences wrap where the terminal does; tables are made for it.
            tables = [line for line in section if re.search(r"\S {2,}\S", line)]
            assert tables
            assert all(cell_len(line) <= WIDTH for line in tables), name
    if encoding != "ascii":
        shares = [line for line in sections[" ".join(asked[3])] if "50.0%" in line]
        assert len(shares) == 2
        assert len({cell_len(line[: line.index("50.0%")]) for line in shares}) == 1, "wide characters are not aligned"


def split_by_command(lines: list[str]) -> list[list[str]]:
    """The lines of each command."""
    sections: list[list[str]] = [[]]
    for line in lines:
        if line.startswith("=== exit"):
            sections.append([])
        else:
            sections[-1].append(line)
    return sections[:-1]
