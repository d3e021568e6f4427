"""Checkpoints that are damaged are passed over by name, changed runs are refused by name, and a full disk loses nothing."""

import errno
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

import kitune
from kitune import finetune
from kitune.errors import UserError
from kitune.model.encoder import PUT_ASIDE
from kitune.training import checkpoint, direct
from tests.training.runs import SHORT, content, train

Rows = Callable[..., list[dict[str, Any]]]

OPTIONS = SHORT


@pytest.fixture(scope="module")
def data(rows: Rows) -> list[dict[str, Any]]:
    return rows("single-label", 50)


@pytest.fixture(scope="module")
def whole(data: list[dict[str, Any]], tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a checkpoint after each of its two epochs."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(folder, data, tiny_model, OPTIONS)()
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "run"))


def resume(run: Path, data: list[dict[str, Any]], **options: Any) -> kitune.Run:
    changes = {name.replace("__", "."): value for name, value in options.items()}
    return kitune.train(data[:40], valid=data[40:], resume=run, options=changes)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def remove(file: Path) -> None:
    file.unlink()


def empty(file: Path) -> None:
    file.write_bytes(b"")


FILES = ("model.safetensors", "moments.safetensors", "state.json", "manifest.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove, empty])
def test_a_damaged_checkpoint_is_passed_over_by_name_and_the_one_before_ends_the_same(
    run: Path,
    whole: Path,
    data: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Callable[[Path], None],
) -> None:
    damage(run / "checkpoints" / "step-000010" / name)
    resume(run, data)
    said = capsys.readouterr().err
    # A bit of the manifest may have spoilt what it says of any file.
    named = name if (name, damage) != ("manifest.json", flip_a_bit) else ""
    assert f"passed over step-000010: {named}" in said
    assert "on from step-000005" in said
    assert content(run) == content(whole)


def test_where_no_checkpoint_is_whole_each_is_named_and_the_run_is_left_alone(
    run: Path, data: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (run / "checkpoints").iterdir():
        remove(folder / "manifest.json")
    with pytest.raises(UserError, match=r"none of its 2 checkpoints is whole\n  fix: .*rm -r"):
        resume(run, data)
    said = capsys.readouterr().err
    assert "passed over step-000010: manifest.json is missing" in said
    assert "passed over step-000005: manifest.json is missing" in said


def test_changed_rows_are_refused_with_the_name_of_the_part(run: Path, data: list[dict[str, Any]]) -> None:
    changed = [row | {"text": row["text"] + " again"} if i == 3 else row for i, row in enumerate(data)]
    with pytest.raises(UserError, match=r"the train rows .* are not those that it was trained on"):
        resume(run, changed)
    changed = [*data[:45], data[45] | {"label": "no" if data[45]["label"] == "yes" else "yes"}, *data[46:]]
    with pytest.raises(UserError, match=r"the valid rows .* are not those"):
        resume(run, changed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train.learning_rate", 1e-3),
        ("train.weight_decay", 0.1),
        ("train.seed", 2),
        ("train.batch_rows", 4),
        ("train.sampler", "random"),
        ("train.schedule", "cosine"),
        ("train.dropout", 0.3),
        ("data.max_length", 16),
        ("engine.precision", "bf16"),
    ],
)
def test_changed_options_are_refused_by_name(run: Path, data: list[dict[str, Any]], name: str, value: object) -> None:
    before = content(run)
    with pytest.raises(UserError, match=f"{name} was .* and is now"):
        kitune.train(data[:40], valid=data[40:], resume=run, options={name: value})
    assert content(run) == before


def test_fewer_epochs_than_are_done_are_refused(run: Path, data: list[dict[str, Any]]) -> None:
    with pytest.raises(UserError, match="10 steps are done, more than the 5 of 1 epoch"):
        resume(run, data, train__epochs=1)


def test_a_finished_run_gets_more_epochs_from_half_the_rate_and_says_both(
    run: Path, data: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    resume(run, data, train__epochs=4)
    assert "gets 10 more steps, from a rate of 0.001 down" in capsys.readouterr().err
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert [event["step"] for event in events] == list(range(1, 21))
    assert events[10]["lr"] == pytest.approx(1e-3)
    assert events[19]["lr"] == pytest.approx(1e-4)
    assert list(json.loads((run / "log.json").read_text())) == ["Epoch 0", "Epoch 1", "Epoch 2", "Epoch 3"]


def test_a_finished_run_that_is_resumed_as_it_is_stays_as_it_is(run: Path, data: list[dict[str, Any]]) -> None:
    before = content(run)
    assert resume(run, data).metrics["valid"]["accuracy"] >= 0
    assert content(run) == before


def test_a_disk_that_fills_while_saving_leaves_the_last_whole_checkpoint(
    data: list[dict[str, Any]], whole: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync, left = checkpoint.sync, iter([True] * 32)

    def full_after_a_while(path: Path) -> None:
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        sync(path)

    monkeypatch.setattr(checkpoint, "sync", full_after_a_while)
    with pytest.raises(
        UserError, match=r"saving failed: No space left on device; the last whole checkpoint is step-000005"
    ):
        train(tmp_path / "run", data, tiny_model, OPTIONS)()
    monkeypatch.undo()
    resume(tmp_path / "run", data)
    assert content(tmp_path / "run") == content(whole)


@pytest.mark.parametrize("place", ["weights", "predictions", "the end"])
def test_a_disk_that_fills_anywhere_loses_nothing(
    data: list[dict[str, Any]],
    whole: Path,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    """In the midst of the second checkpoint's weights, of the predictions, and with metrics.json."""
    owner, name = {
        "weights": (direct.NewFile, "_flush"),
        "predictions": (pq.ParquetWriter, "write_table"),
        "the end": (finetune, "mark_finished"),
    }[place]
    original, saved = getattr(owner, name), tmp_path / "run" / "checkpoints" / "step-000005"

    def full(*told: Any, **named: Any) -> Any:
        if saved.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return original(*told, **named)

    monkeypatch.setattr(owner, name, full)
    with pytest.raises(UserError, match=r"No space left on device"):
        train(tmp_path / "run", data, tiny_model, OPTIONS)()
    monkeypatch.undo()
    resume(tmp_path / "run", data)
    assert content(tmp_path / "run") == content(whole)


def test_a_disk_without_room_is_noticed_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"saving failed: .* MiB are needed and .* MiB are free"):
        checkpoint.require_space(tmp_path, 2**60)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone has RENAME_EXCHANGE")
def test_two_folders_change_places_and_at_no_instant_is_one_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("new", "old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    monkeypatch.setattr(Path, "rename", lambda *told: pytest.fail("more than one step"))
    checkpoint.move_in(tmp_path / "new", tmp_path / "old")
    assert [(tmp_path / name / "file").read_text() for name in ("old", "new")] == ["new", "old"]


def test_where_folders_cannot_change_places_one_is_put_aside_and_brought_back_after_a_crash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("new", "best"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    monkeypatch.setattr(checkpoint, "exchange", lambda first, second: False)
    checkpoint.move_in(tmp_path / "new", tmp_path / "best")
    assert (tmp_path / "best" / "file").read_text() == "new"
    (tmp_path / "best").rename(
        tmp_path / f"{checkpoint.STAGING}old-best"
    )  # as a crash between the two renames leaves it
    checkpoint.sweep(tmp_path)
    assert (tmp_path / "best" / "file").read_text() == "new"


def test_a_folder_that_a_crash_has_left_aside_answers(run: Path, data: list[dict[str, Any]]) -> None:
    before = kitune.load(run).predict(data).logits
    (run / "best").rename(run / f"{PUT_ASIDE}best")
    assert (kitune.load(run).predict(data).logits == before).all()


def test_a_pickle_in_a_run_is_refused(run: Path) -> None:
    torch.save(load_file(run / "best" / "model.safetensors"), run / "best" / "pytorch_model.bin")
    (run / "best" / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"pytorch_model\.bin: kitune writes no pickles, and reads none in a run"):
        kitune.load(run)


def test_weights_that_are_the_same_are_on_the_disk_once(run: Path, whole: Path) -> None:
    newest = whole / "checkpoints" / "step-000010" / "model.safetensors"
    assert (whole / "last" / "model.safetensors").samefile(newest)


def test_where_there_are_no_hard_links_weights_are_copied(
    data: list[dict[str, Any]], whole: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*told: Any, **named: Any) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", none)
    monkeypatch.setattr(Path, "hardlink_to", none)
    train(tmp_path / "run", data, tiny_model, OPTIONS)()
    newest = tmp_path / "run" / "checkpoints" / "step-000010" / "model.safetensors"
    assert not (tmp_path / "run" / "last" / "model.safetensors").samefile(newest)
    assert content(tmp_path / "run") == content(whole)


def test_the_space_for_a_save_is_asked_for_before_it(
    data: list[dict[str, Any]], whole: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage, asked = shutil.disk_usage, []

    def full(path: Any) -> Any:
        asked.append(path)
        return usage(path)._replace(free=0) if len(asked) == 2 else usage(path)

    monkeypatch.setattr(shutil, "disk_usage", full)
    with pytest.raises(UserError, match=r"saving failed: .* 0 MiB are free; the last whole checkpoint is step-000005"):
        train(tmp_path / "run", data, tiny_model, OPTIONS)()
    monkeypatch.undo()
    assert not list((tmp_path / "run" / "checkpoints").glob(".*"))
    resume(tmp_path / "run", data)
    assert content(tmp_path / "run") == content(whole)


def test_only_the_newest_checkpoints_are_kept(run: Path, data: list[dict[str, Any]]) -> None:
    resume(run, data, train__epochs=3)
    assert sorted(folder.name for folder in (run / "checkpoints").iterdir()) == ["step-000010", "step-000015"]
    checkpoint.drop_old(run / "checkpoints", 1)
    assert [folder.name for folder in (run / "checkpoints").iterdir()] == ["step-000015"]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Later tests fork: no OpenMP pool may come to be in this process."""
    import torch

    torch.set_num_threads(1)
