"""Data sets and models by their hub names: a fresh process each, as a user's, against a hub-shaped server on loopback."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from tests.hub.server import Hub

Ask = Callable[..., subprocess.CompletedProcess[str]]
SPLITS = {"train": 40, "validation": 12, "test": 6}


def rows_of(config: str, split: str) -> dict[str, list[Any]]:
    """Rows of a split; those of test have the hub's -1 for "no label"."""
    count = SPLITS[split]
    words = ["good", "bad"]
    return {
        "text": [f"{config} {split} {words[i % 2]} film {i}" for i in range(count)],
        "label": [-1 if split == "test" else i % 2 for i in range(count)],
    }


@pytest.fixture(scope="module")
def repositories(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Path:
    """Two data sets, one of them with two configs, and a model in safetensors, in the old format, and behind a gate."""
    root = tmp_path_factory.mktemp("hub")
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["pos", "neg"])})
    reviews = root / "datasets" / "people" / "reviews"
    card = ["---", "configs:"]
    for config in ("short", "long"):
        (reviews / config).mkdir(parents=True)
        card += [f"- config_name: {config}", "  data_files:"]
        for split in SPLITS:
            rows = datasets.Dataset.from_dict(rows_of(config, split), features=features)
            rows.to_parquet(reviews / config / f"{split}-00000-of-00001.parquet")
            card += [f"  - split: {split}", f"    path: {config}/{split}-*"]
    (reviews / "README.md").write_text("\n".join([*card, "---", "# Reviews", ""]))
    plain = root / "datasets" / "people" / "plain"
    plain.mkdir()
    (plain / "train.csv").write_text("text,label\n" + "".join(f"good film {i},{i % 2}\n" for i in range(20)))
    gated = root / "datasets" / "people" / "gated"
    shutil.copytree(plain, gated)
    models = root / "models" / "people"
    shutil.copytree(tiny_model, models / "tiny")
    shutil.copytree(tiny_model, models / "gated")
    shutil.copytree(tiny_model, models / "old")
    (models / "old" / "model.safetensors").unlink()
    from safetensors.torch import load_file

    torch.save(load_file(tiny_model / "model.safetensors"), models / "old" / "pytorch_model.bin")
    return root


@pytest.fixture
def hub(repositories: Path) -> Iterator[Hub]:
    with Hub(repositories) as hub:
        hub.gated |= {"people/gated"}
        hub.moved |= {"reviews": "people/reviews", "old_tiny": "people/tiny"}
        yield hub


@pytest.fixture
def ask(hub: Hub, tmp_path: Path) -> Ask:
    """`kitune ...` in a process of its own, with an empty home."""

    def ask(*words: str, **changed: str) -> subprocess.CompletedProcess[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        home = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}
        return subprocess.run(
            [sys.executable, "-m", "kitune", *words],
            env={**kept, **home, **changed},
            cwd=tmp_path,
            capture_output=True,
            text=True,
        )

    return ask


def train_on(ask: Ask, data: str, model: str, *more: str, **changed: str) -> subprocess.CompletedProcess[str]:
    short = ["--set", "train.epochs=1", "--set", "engine.plain=true"]
    return ask("train", data, "--model", model, "--out", "run", *short, *more, **changed)


def test_a_data_set_and_a_model_by_name(hub: Hub, ask: Ask, tmp_path: Path) -> None:
    done = train_on(ask, "people/reviews:short", "people/tiny")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "best" / "config.json").read_text())
    assert config["id2label"] == {"0": "pos", "1": "neg"}
    commits = json.loads((tmp_path / "run" / "record.json").read_text())["commits"]
    data, model = (hub.commit(hub.folder / where) for where in ("datasets/people/reviews", "models/people/tiny"))
    assert commits == {"train": data, "valid": data, "model": model}
    assert "test part has no labels and is left out" in done.stderr + done.stdout
    # The hub goes away: all of it is in the cache, and a run that names a split is answered.
    hub.server.shutdown()
    hub.server.server_close()
    again = train_on(ask, "people/reviews:short", "people/tiny", "--out", "again")
    assert again.returncode == 0, again.stderr
    asked = ask("predict", "run", "people/reviews:short", "--split", "test", "--out", "answers.csv")
    assert asked.returncode == 0, asked.stderr
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 1 + SPLITS["test"]
    unnamed = ask("evaluate", "run", "people/reviews:short")
    assert unnamed.returncode == 2
    assert "it has the parts train, valid, test\n  fix: choose one: --split test" in unnamed.stderr
    scored = ask("evaluate", "run", "people/reviews:short", "--split", "validation", "--json")
    assert json.loads(scored.stdout)["metrics"].keys() >= {"accuracy", "log_loss"}


@pytest.mark.slow
def test_names_of_old_and_weights_of_old(hub: Hub, ask: Ask, tmp_path: Path) -> None:
    done = train_on(ask, "reviews:long", "people/old", TRANSFORMERS_CACHE="/somewhere")
    assert done.returncode == 0, done.stderr
    assert "pytorch_model.bin" in done.stderr
    assert "TRANSFORMERS_CACHE is ignored" in done.stderr
    assert not list((tmp_path / "run").rglob("*.bin"))
    hub.server.shutdown()
    hub.server.server_close()
    assert train_on(ask, "reviews:long", "people/old", "--out", "again").returncode == 0
    gone = train_on(ask, "people/plain", "people/old", "--out", "third")
    assert gone.returncode == 2
    assert gone.stderr.startswith("error: people/plain: no such file here, and the hub cannot be reached")
    assert "HF_ENDPOINT may name a mirror" in gone.stderr


@pytest.mark.slow
def test_a_download_that_breaks_in_the_middle_is_gone_on_with(hub: Hub, ask: Ask, tmp_path: Path) -> None:
    hub.breaks = {"train-00000-of-00001.parquet": 1, "model.safetensors": 2}
    done = train_on(ask, "people/reviews:short", "people/tiny")
    for _ in range(3):  # where the client itself does not try again, the same command does
        if done.returncode == 0:
            break
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
        done = train_on(ask, "people/reviews:short", "people/tiny")
    assert done.returncode == 0, done.stderr
    assert hub.breaks == {"train-00000-of-00001.parquet": 0, "model.safetensors": 0}


@pytest.mark.parametrize(
    ("data", "model", "said"),
    [
        ("people/reviews", "people/tiny", "it has the configs short, long\n  fix: choose one: people/reviews:short"),
        ("people/reviews:tall", "people/tiny", "it has the configs short, long\n"),
        (
            "people/reviews:short@v9",
            "people/tiny",
            "it has no such revision\n  fix: leave it out: people/reviews:short",
        ),
        ("people/gated", "people/tiny", "people/gated: its owner asks for a permission first"),
        ("people/nothing", "people/tiny", "there is no such file or folder here and no such data set on the hub"),
        ("nothing", "people/tiny", "there is no such file or folder here and no such data set on the hub"),
        ("people/plain", "people/gated", "its owner asks for a permission first"),
        ("people/plain", "people/nothing", "no such folder here and no such model on the hub"),
    ],
)
def test_what_cannot_be_had_is_one_sentence(
    hub: Hub, ask: Ask, tmp_path: Path, data: str, model: str, said: str
) -> None:
    done = train_on(ask, data, model)
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_revision_that_a_model_lacks_is_named(hub: Hub, ask: Ask) -> None:
    done = train_on(ask, "people/plain", "people/tiny", "--set", "revision=v9")
    assert done.returncode == 2
    assert "model 'people/tiny': it has no revision 'v9'\n  fix: check --set revision=, or leave it out" in done.stderr


@pytest.mark.slow
def test_a_legacy_model_name_is_redirected(hub: Hub, ask: Ask) -> None:
    done = train_on(ask, "people/plain", "old_tiny")
    assert done.returncode == 0, done.stderr


def test_a_path_that_exists_wins_over_a_name(hub: Hub, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "people").mkdir()
    shutil.copytree(hub.folder / "datasets" / "people" / "plain", tmp_path / "people" / "plain")
    shutil.copytree(hub.folder / "models" / "people" / "tiny", tmp_path / "people" / "tiny")
    assert train_on(ask, "people/plain", "people/tiny").returncode == 0
    assert hub.seen == []


@pytest.mark.slow
def test_commits_may_be_named_and_names_be_inspected(hub: Hub, ask: Ask, tmp_path: Path) -> None:
    data, model = (hub.commit(hub.folder / where) for where in ("datasets/people/reviews", "models/people/tiny"))
    done = train_on(ask, f"people/reviews:short@{data}", "people/tiny", "--set", f"revision={model}")
    assert done.returncode == 0, done.stderr
    commits = json.loads((tmp_path / "run" / "record.json").read_text())["commits"]
    assert commits == {"train": data, "valid": data, "model": model}
    rows = ask("inspect", "people/reviews:short", "--json")
    assert json.loads(rows.stdout)["rows"] == SPLITS["train"], rows.stderr
    for name in ("people/tiny", f"people/tiny@{model}"):
        facts = ask("inspect", name, "--json")
        assert facts.returncode == 0, facts.stderr
        assert json.loads(facts.stdout)["layers"] == 2
    wrong = ask("inspect", f"people/tiny@{'0' * 40}")
    assert wrong.returncode == 2
    assert "it has no revision" in wrong.stderr
