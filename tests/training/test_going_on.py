"""Going on with a run: more epochs, other places, and everything that must not be lost on the way."""

import errno
import json
import os
import shlex
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kitune
from kitune import finetune, run_folder
from kitune.cli import main
from kitune.config import FREE_AT_RESUME, RunOptions, checked, flat, load_yaml, option_names, with_values
from kitune.errors import UserError
from kitune.resume import new_run, refuse_changed_options
from kitune.training import checkpoint
from tests.training.runs import SHORT, content, in_child, killed_after_step, train

Rows = Callable[..., list[dict[str, Any]]]

OPTIONS = SHORT


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Later tests fork: no OpenMP pool may come to be in this process."""
    torch.set_num_threads(1)


@pytest.fixture
def data(rows: Rows) -> list[dict[str, Any]]:
    return rows("single-label", 50)


def resume(run: Path, data: list[dict[str, Any]], **told: Any) -> kitune.Run:
    return kitune.train(data[:40], valid=data[40:], resume=run, **told)


def rates(run: Path) -> list[float]:
    return [json.loads(line)["lr"] for line in (run / "events.jsonl").read_text().splitlines()]


def test_a_run_that_patience_ended_gets_more_epochs_even_if_they_are_fewer_than_were_planned(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    still = OPTIONS | {"train.learning_rate": 1e-12, "train.epochs": 12, "train.patience": 2}
    train(tmp_path / "run", data, tiny_model, still)()
    assert len(rates(tmp_path / "run")) == 15
    resume(tmp_path / "run", data)
    assert "nothing is left to train (patience ended it)" in capsys.readouterr().err
    assert len(rates(tmp_path / "run")) == 15
    resume(tmp_path / "run", data, options={"train.epochs": 5})
    assert len(rates(tmp_path / "run")) == 25
    assert rates(tmp_path / "run")[15] == pytest.approx(0.5e-12)


def test_a_run_killed_between_its_last_epoch_and_its_scores_is_a_finished_one_for_more_epochs(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    train(tmp_path / "whole", data, tiny_model, OPTIONS)()
    resume(tmp_path / "whole", data, options={"train.epochs": 4})

    def killed() -> None:
        vars(finetune)["finish"] = lambda *_: os.kill(os.getpid(), 9)
        train(tmp_path / "run", data, tiny_model, OPTIONS)()

    assert in_child(killed, log=tmp_path / "log") == -9
    resume(tmp_path / "run", data, options={"train.epochs": 4})
    assert rates(tmp_path / "run")[10] == pytest.approx(1e-3)
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_an_untrained_run_gets_its_epochs_at_the_full_rate(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    train(tmp_path / "run", data, tiny_model, OPTIONS | {"train.epochs": 0})()
    assert (tmp_path / "run" / "last" / "model.safetensors").exists()
    resume(tmp_path / "run", data, options={"train.epochs": 2})
    train(tmp_path / "whole", data, tiny_model, OPTIONS)()
    assert rates(tmp_path / "run") == rates(tmp_path / "whole")


def test_a_run_enlarged_before_its_end_follows_the_new_total(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    from tests.training.runs import killed_after_step

    options = OPTIONS | {"train.epochs": 4}
    work = killed_after_step(7, train(tmp_path / "run", data, tiny_model, options))
    assert in_child(work, log=tmp_path / "log") == -9
    resume(tmp_path / "run", data, options={"train.epochs": 6})
    train(tmp_path / "six", data, tiny_model, options | {"train.epochs": 6})()
    assert rates(tmp_path / "run")[5:] == rates(tmp_path / "six")[5:]


def test_making_a_run_never_replaces_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first = run_folder.create(None, RunOptions(), {"format": 1})
    (first / "precious").write_text("work")
    # Somebody else was faster between the choice of a name and the making of the folder.
    names = iter([first, first, Path("runs/run-002")])
    monkeypatch.setattr(run_folder, "choose_folder", lambda out: next(names))
    assert run_folder.create(None, RunOptions(), {"format": 1}) == Path("runs/run-002")
    assert (first / "precious").read_text() == "work"
    monkeypatch.undo()
    with pytest.raises(UserError, match="it exists already"):
        run_folder.create(tmp_path / first, RunOptions(), {"format": 1})
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["run-001", "run-002"]


def test_a_second_process_may_not_train_in_the_same_run(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    train(tmp_path / "run", data, tiny_model, OPTIONS)()
    before = content(tmp_path / "run")

    def refused() -> None:
        with pytest.raises(UserError, match="another process is training in it"):
            resume(tmp_path / "run", data)

    with run_folder.only_one(tmp_path / "run"):
        assert in_child(refused, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    assert content(tmp_path / "run") == before
    resume(tmp_path / "run", data)


def test_damaged_checkpoints_do_not_take_the_place_of_whole_ones(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    train(tmp_path / "run", data, tiny_model, OPTIONS)()
    (tmp_path / "run" / "checkpoints" / "step-000010" / "state.json").unlink()
    resume(tmp_path / "run", data, options={"engine.keep_checkpoints": 1})
    folders = sorted(path.name for path in (tmp_path / "run" / "checkpoints").iterdir())
    assert folders == ["damaged-step-000010", "step-000010"]
    assert checkpoint.fault(tmp_path / "run" / "checkpoints" / "step-000010") is None


def test_copies_and_files_beside_the_checkpoints_do_no_harm(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    train(tmp_path / "run", data, tiny_model, OPTIONS)()
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.copytree(checkpoints / "step-000010", checkpoints / "step-000010.bak")
    (checkpoints / "step-000011").write_text("a file")
    resume(tmp_path / "run", data, options={"train.epochs": 3})
    assert (checkpoints / "step-000010.bak").exists()
    assert len(rates(tmp_path / "run")) == 15


@pytest.mark.parametrize(
    ("name", "said"),
    [("model.safetensors", "best: its weights do not load"), ("metrics.json", "best/metrics.json: damaged or missing")],
)
def test_a_damaged_best_is_named(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path, name: str, said: str
) -> None:
    train(tmp_path / "run", data, tiny_model, OPTIONS)()
    damaged = tmp_path / "run" / "best" / name
    content = damaged.read_bytes()[:50]
    damaged.unlink()  # checkpoints hold the same file: only this name of it shall be spoilt
    damaged.write_bytes(content)
    with pytest.raises(UserError, match=said):
        resume(tmp_path / "run", data)


def test_a_disk_that_fills_under_the_journal_is_said_too(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kitune.training.journal import Journal

    def full(self: Journal, log: dict[str, Any]) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Journal, "write_log", full)
    with pytest.raises(UserError, match="saving failed: No space left on device"):
        train(tmp_path / "run", data, tiny_model, OPTIONS)()


def test_the_base_model_may_move_but_not_change(data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path) -> None:
    base = Path(shutil.copytree(tiny_model, tmp_path / "base"))
    train(tmp_path / "run", data, base, OPTIONS)()
    base.rename(tmp_path / "moved")
    resume(tmp_path / "run", data, model=str(tmp_path / "moved"), options={"train.epochs": 3})
    tokenizer = tmp_path / "moved" / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace('"good"', '"evil"'))
    with pytest.raises(UserError, match=r"the tokenizer of the base model .* is not what the run began with"):
        resume(tmp_path / "run", data, options={"train.epochs": 4})


def test_a_run_on_a_file_resumes_from_another_folder(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data))
    kitune.train("rows.jsonl", model=str(tiny_model), out="run", options=OPTIONS)
    monkeypatch.chdir(tmp_path)
    resumed = kitune.train(resume="here/run", options={"train.epochs": 3})
    assert resumed.options.train.epochs == 3


def test_a_resumption_with_another_number_of_threads_says_so_and_marks_the_record(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(tmp_path / "run", data, tiny_model, OPTIONS)()
    record = json.loads((tmp_path / "run" / "record.json").read_text())
    assert record["machine"]["path"] == "fast"
    record["machine"] |= {"threads": 64, "processes": 3, "path": "plain"}
    record["versions"]["numpy"] = "1.0"
    (tmp_path / "run" / "record.json").write_text(json.dumps(record))
    resume(tmp_path / "run", data)
    said = capsys.readouterr().err
    assert "threads: now 1, before 64: the last bits may differ" in said
    assert "path: now fast, before plain: dropout differs" in said
    differs = json.loads((tmp_path / "run" / "record.json").read_text())["resumed"][0]["differs"]
    assert [line.partition(":")[0] for line in differs] == ["numpy", "threads", "processes", "path"]


def test_a_new_run_may_read_longer_texts_than_the_run_it_starts_from(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    train(tmp_path / "short", data, tiny_model, OPTIONS | {"data.max_length": 16})()
    run = kitune.train(data, model=str(tmp_path / "short"), out=tmp_path / "long", options=OPTIONS)
    assert run.options.data.max_length == 32
    assert kitune.load(tmp_path / "short").max_length == 16


@pytest.mark.parametrize("outputs", [2, 3])
def test_a_classifier_without_label_names_gets_a_new_head(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], outputs: int
) -> None:
    from transformers import AutoTokenizer, BertForSequenceClassification

    BertForSequenceClassification.from_pretrained(tiny_model, num_labels=outputs).save_pretrained(tmp_path / "hub")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "hub")
    train(tmp_path / "run", data, tmp_path / "hub", OPTIONS)()
    assert "the head is new (2 outputs)" in capsys.readouterr().err
    run = kitune.load(tmp_path / "run")
    assert run.label_names == ("no", "yes")
    assert run.run is not None
    assert run.run.train.head_rate == 5.0
    assert kitune.load(tmp_path / "hub").label_names == tuple(f"LABEL_{i}" for i in range(outputs))


def test_valid_and_test_need_no_group_and_no_weight(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    grouped = [row | {"customer": str(i // 2), "weight": 1.0} for i, row in enumerate(data)]
    options = OPTIONS | {"data.group": "customer", "data.weight": "weight"}
    run = kitune.train(grouped, test=data, model=str(tiny_model), out=tmp_path / "run", options=options)
    assert set(run.metrics) == {"valid", "test"}


def test_evaluate_knows_how_the_labels_were_parted(tiny_model: Path, tmp_path: Path, rows: Rows) -> None:
    data = [row | {"label": "/".join(row["label"])} for row in rows("multi-label", 50)]
    options = OPTIONS | {"data.label_separator": "/"}
    kitune.train(data, model=str(tiny_model), task="multi-label", out=tmp_path / "run", options=options)
    assert "micro_f1" in kitune.load(tmp_path / "run").evaluate(data).metrics


def test_rows_of_valid_that_came_from_python_are_given_again(
    tiny_model: Path, data: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in data[:40]))
    kitune.train(tmp_path / "rows.jsonl", valid=data[40:], model=tiny_model, out=tmp_path / "run", options=OPTIONS)
    more = {"train.epochs": int(OPTIONS["train.epochs"]) + 1}
    with pytest.raises(UserError, match=r"it was begun with valid rows[^$]*kitune.train\(valid=..., resume="):
        kitune.train(resume=tmp_path / "run", options=more)
    kitune.train(valid=data[40:], resume=tmp_path / "run", options=more)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--text", "body"], ["--text body --label label"]),
        (["--label", "topic", "--limit", "20"], ["--label topic", "--set data.limit=20"]),
        (["--set", "train.clip=null", "--set", "data.valid_share=0.3"], ["--set data.valid_share=0.3"]),
    ],
)
def test_what_a_refusal_prints_can_be_pasted(
    tiny_model: Path,
    data: list[dict[str, Any]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    told: list[str],
) -> None:
    rows = [row | {"body": row["text"], "topic": row["label"]} for row in data]
    (tmp_path / "the rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    kitune.train(tmp_path / "the rows.jsonl", model=tiny_model, out=tmp_path / "run", options=OPTIONS)
    with pytest.raises(SystemExit):
        main(["train", "--resume", str(tmp_path / "run"), *words])
    line = capsys.readouterr().err.partition("weights: ")[2]
    options = [word for word in shlex.split(line) if "=" in word]
    assert len({option.partition("=")[0] for option in options}) == len(options), "none is told twice"
    assert all(one in line for one in told)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main([*shlex.split(line)[1:], "--set", "engine.threads=1", "--set", "train.epochs=1"])
    assert stopped.value.code == 0
    (made,) = (tmp_path / "runs").iterdir()
    assert load_yaml(made / "run.yaml").model == str(tmp_path / "run")


def test_a_run_without_weights_is_no_start_of_a_new_one(tmp_path: Path) -> None:
    assert new_run(tmp_path, RunOptions()) == "start anew with another --out"


def test_a_new_run_is_told_the_columns_files_and_layout_of_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("runs/first/best").mkdir(parents=True)
    told: dict[str, Any] = {
        "data.train": "my rows.csv",
        "data.valid": "v.csv",
        "data.text": ["a", "b"],
        "data.label": "y",
    }
    told |= {
        "task": "regression",
        "data.encoding": "cp932",
        "data.delimiter": ";",
        "data.group": "who",
        "data.limit": 50,
    }
    options = with_values(RunOptions(), told)
    assert new_run(Path("runs/first"), options) == (
        "start a new run from this one's weights: "
        "kitune train 'my rows.csv' --model runs/first --text a --text b --label y --valid v.csv --task regression "
        "--set data.encoding=cp932 --set 'data.delimiter=;' --set data.group=who --set data.limit=50"
    )


def test_hashes_that_were_cut_off_cost_an_evaluation_one_note_and_no_more(
    tiny_model: Path, data: list[dict[str, Any]], tmp_path: Path
) -> None:
    run = kitune.train(data[:40], valid=data[40:], model=tiny_model, out=tmp_path / "run", options=OPTIONS)
    (run / "train_texts.npy").write_bytes(b"")
    found = kitune.load(run).evaluate(data, baselines=False)
    assert "which texts it was trained on is not known: scores on them say nothing about new ones" in found.notes


def test_a_run_that_gets_more_epochs_is_unfinished_until_they_are_done(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path
) -> None:
    run, more = tmp_path / "run", {"train.epochs": 4}
    train(run, data, tiny_model, OPTIONS)()
    assert (run / "metrics.json").exists()
    killed = killed_after_step(12, lambda: resume(run, data, options=more))
    assert in_child(killed, log=tmp_path / "log") == -signal.SIGKILL
    assert not (run / "metrics.json").exists()
    resume(run, data)
    assert json.loads((run / "metrics.json").read_text())["step"] == 20


@pytest.mark.parametrize("of", ["last evaluation", "scores of best/"])
def test_ctrl_c_after_the_last_update_tells_how_to_go_on(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of: str
) -> None:
    evaluations, scored = [], finetune.scored

    def interrupted(*given: Any, best: str | None = None, **told: Any) -> Any:
        evaluations.append(best)
        if len(evaluations) == 2 if of == "last evaluation" else best is None:
            os.kill(os.getpid(), signal.SIGINT)
        return scored(*given, best=best, **told)

    monkeypatch.setattr(finetune, "scored", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a suite in the background has not
    with pytest.raises(KeyboardInterrupt, match=f"^kitune train --resume {tmp_path}"):
        train(tmp_path / "run", data, tiny_model, OPTIONS)()
    assert not (tmp_path / "run" / "metrics.json").exists()
    signal.signal(signal.SIGINT, before)
    monkeypatch.undo()
    resume(tmp_path / "run", data)
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["step"] == 10


def test_another_fault_of_the_system_is_not_called_one_of_saving(
    data: list[dict[str, Any]], tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(finetune, "scored", failing)
    with pytest.raises(OSError, match="Input/output error"):
        train(tmp_path / "run", data, tiny_model, OPTIONS)()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_labels_of_any_size_are_learned_alike(tiny_model: Path, rows: Rows, tmp_path: Path, precision: str) -> None:
    made, size = rows("regression", 50), 2.0**14
    options = OPTIONS | {"engine.precision": precision}
    found: list[tuple[Any, Any]] = []
    for name, factor in (("small", 1.0), ("large", size)):
        run = tmp_path / name
        train(run, [row | {"label": row["label"] * factor} for row in made], tiny_model, options)()
        events = [json.loads(line)["loss"] for line in (run / "events.jsonl").read_text().splitlines()]
        found.append((np.asarray(events) / factor**2, kitune.load(run).predict(made).logits / factor))
    (losses, answers), (of_large, large_answers) = found
    np.testing.assert_array_equal(losses, of_large)
    np.testing.assert_array_equal(answers, large_answers)


@pytest.mark.parametrize("plain", [False, True])
def test_labels_far_from_zero_are_learned_and_answered_as_those_around_it(
    lively_model: Path, rows: Rows, tmp_path: Path, plain: bool
) -> None:
    made = rows("regression", 50)
    options = OPTIONS | {"engine.precision": "bf16", "engine.plain": plain, "train.dropout": 0.0}
    answers = []
    for shift in (0, 2000):
        of_shift = [row | {"label": row["label"] + shift} for row in made]
        train(tmp_path / str(shift), of_shift, lively_model, options)()
        answers.append(kitune.load(tmp_path / str(shift), which="last").predict(made).logits - shift)
    assert answers[0].std() > 0.03
    np.testing.assert_allclose(answers[1], answers[0], atol=0.005)


def test_rows_without_a_weight_have_no_say_in_the_scale(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    made = [row | {"weight": 1.0} for row in rows("regression", 40)]
    strange = [row | {"label": -9999.0, "weight": 0.0} for row in rows("regression", 20, seed=3)]
    options = OPTIONS | {"data.weight": "weight"}
    run = kitune.train(made + strange, valid=made, model=tiny_model, out=tmp_path / "run", options=options)
    assert run.metrics["valid"]["rmse"] < 1.0


def test_a_regression_of_an_earlier_kitune_is_not_gone_on_with(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    made = rows("regression", 50)
    train(tmp_path / "run", made, tiny_model, OPTIONS)()
    (state,) = (tmp_path / "run" / "checkpoints").glob("*10/state.json")
    saved = json.loads(state.read_text())
    del saved["output_bias"]
    state.write_text(json.dumps(saved))
    (state.parent / checkpoint.MANIFEST).unlink()
    manifest = json.dumps(checkpoint.manifest_of(state.parent))
    (state.parent / checkpoint.MANIFEST).write_text(manifest)
    with pytest.raises(UserError, match="of a kitune that learned numbers as they are"):
        resume(tmp_path / "run", made, options={"train.epochs": 3})


def test_a_run_goes_on_from_a_regression_with_its_head(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    made = [row | {"label": 3000 + 700 * row["label"]} for row in rows("regression", 50)]
    first = kitune.train(made, model=tiny_model, out=tmp_path / "first", options=OPTIONS)
    again = kitune.train(made, model=first, out=tmp_path / "again", options=OPTIONS | {"train.epochs": 0})
    np.testing.assert_allclose(again.predict(made).logits, first.predict(made).logits, rtol=1e-6)


def test_events_that_a_crash_has_torn_are_cut_back(
    tiny_model: Path, data: list[dict[str, Any]], tmp_path: Path
) -> None:
    more = {"train.epochs": int(OPTIONS["train.epochs"]) + 1}
    for name in ("whole", "torn"):
        kitune.train(data[:40], valid=data[40:], model=tiny_model, out=tmp_path / name, options=OPTIONS)
    with (tmp_path / "torn" / "events.jsonl").open("a") as file:
        file.write('{"step": 11, "epoch": 2, "loss": 0.5}\n{"step": 12, "lo')
    for name in ("whole", "torn"):
        resume(tmp_path / name, data, options=more)
    assert content(tmp_path / "torn") == content(tmp_path / "whole")


def test_epochs_on_top_begin_at_the_rate_that_was_told(
    tiny_model: Path, data: list[dict[str, Any]], tmp_path: Path
) -> None:
    run = kitune.train(data[:40], valid=data[40:], model=tiny_model, out=tmp_path / "run", options=OPTIONS)
    done = len(rates(run.folder))
    more = {"train.epochs": int(OPTIONS["train.epochs"]) + 2, "train.resume_learning_rate": 5e-4}
    resume(run.folder, data, options=more)
    assert rates(run.folder)[done] == pytest.approx(5e-4)


@pytest.mark.parametrize(
    "name", sorted(set(option_names()) - FREE_AT_RESUME - {"data.train", "data.valid", "data.test"})
)
def test_an_option_that_decides_what_is_learned_may_not_change(name: str, tmp_path: Path) -> None:
    before = checked({"train": {"learning_rate": 1e-3, "epochs": 2}, "task": "single-label"}, "options")
    now = flat(before)[name]
    others: list[Any] = [
        "otherwise",
        3,
        0.25,
        True,
        False,
        ["otherwise"],
        {"otherwise": 0.5},
        "csv",
        "random",
        "cosine",
        "windows",
        2,
    ]
    others += ["inputs", ["inputs"], "regression", "fp32", "cpu", 17, ";"]
    for other in others:
        try:
            changed = with_values(before, {name: other})
        except UserError:
            continue
        if flat(changed)[name] != now:
            break
    else:
        pytest.fail(f"no other value of {name}")
    with pytest.raises(UserError, match=f"{name} was "):
        refuse_changed_options(tmp_path, before, changed)


@pytest.mark.parametrize(
    "changes",
    [{"engine.log_every": 2}, {"train.checkpoint_every": 3}, {"engine.cache": False}, {"doctor.allow": ["duplicates"]}],
)
def test_an_option_that_decides_nothing_of_it_may_change(
    tiny_model: Path, data: list[dict[str, Any]], tmp_path: Path, changes: dict[str, Any]
) -> None:
    more = {"train.epochs": int(OPTIONS["train.epochs"]) + 1}
    found = []
    for name, told in (("as it was", more), ("changed", more | changes)):
        kitune.train(data[:40], valid=data[40:], model=tiny_model, out=tmp_path / name, options=OPTIONS)
        resume(tmp_path / name, data, options=told)
        found.append((tmp_path / name / "last" / "model.safetensors").read_bytes())
    assert found[0] == found[1]
