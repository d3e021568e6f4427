"""`kitune cache`: what is kept under HF_HOME, and its end."""

import json
from pathlib import Path

import pytest

from kitune.cli import main
from kitune.data.cache import cache_folder, kept_json, made_once


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with token ids, kernels and a data set prepared by `datasets`."""
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    for folder, size in (("encoded/a", 1_500), ("encoded/b", 500), ("kernels/k", 70_000)):
        (cache_folder() / folder).mkdir(parents=True)
        (cache_folder() / folder / "file.bin").write_bytes(bytes(size))
    prepared = tmp_path / "datasets" / "owner___name"
    prepared.mkdir(parents=True)
    (prepared / "rows.arrow").write_bytes(bytes(3_000_000))
    return tmp_path


def run(*words: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["cache", *words])
    assert stopped.value.code == code


def test_sizes_are_shown(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--json")
    found = {entry["name"]: (entry["items"], entry["size"]) for entry in json.loads(capsys.readouterr().out)}
    assert found == {"encoded": (2, 2_000), "kernels": (1, 70_000), "owner/name": (1, 3_000_000)}
    run()
    shown = capsys.readouterr().out
    assert "2.0 kB" in shown
    assert "3.0 MB" in shown
    assert str(home) in shown


def test_one_kind_is_deleted_and_nothing_else(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("--clear", "encoded")
    assert not (cache_folder() / "encoded").exists()
    assert (cache_folder() / "kernels").exists()
    run("--clear", "nothing", code=2)
    assert "there is kernels, owner/name" in capsys.readouterr().err


def test_all_of_kitune_s_own_is_deleted_and_what_was_downloaded_is_kept(home: Path) -> None:
    run("--clear", "all")
    assert list(cache_folder().iterdir()) == []
    assert (home / "datasets" / "owner___name").exists()
    run("--clear", "owner/name")
    assert not (home / "datasets" / "owner___name").exists()


def test_what_is_kept_can_be_read_by_whoever_may_read_the_cache(home: Path) -> None:
    (cache_folder() / "costs").mkdir(parents=True)
    (cache_folder() / "costs").chmod(0o775)
    assert kept_json("costs", "k", lambda: {"a": [1]}) == {"a": [1]}
    assert (cache_folder() / "costs" / "k").stat().st_mode & 0o777 == 0o775
    assert kept_json("costs", "k", lambda: pytest.fail("it is kept")) == {"a": [1]}


def test_a_damaged_one_is_made_anew(home: Path) -> None:
    def make(folder: Path) -> None:
        (folder / "a.bin").write_bytes(b"whole")

    folder = made_once(cache_folder() / "encoded" / "c", make)
    (folder / "a.bin").write_bytes(b"")
    assert (made_once(folder, make) / "a.bin").read_bytes() == b"whole"
    assert {path.name for path in folder.parent.iterdir()} == {"a", "b", "c"}


def test_where_nothing_can_be_kept_it_is_made_each_time(home: Path) -> None:
    (cache_folder() / "costs").write_text("a file where a folder should be")
    made = iter([[1], [2]])
    assert [kept_json("costs", "k", lambda: next(made)) for _ in range(2)] == [[1], [2]]
