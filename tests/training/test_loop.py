"""The loop itself: numbers that are none, early stopping, interruptions, options that reach the mathematics."""

import errno
import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import kitune
from kitune.data.batches import BatchPlan, plan_epoch
from kitune.errors import UserError
from kitune.training import loop, optimizer, probe
from tests.training.runs import SHORT, content, in_child, resume, train

Rows = Callable[..., list[dict[str, Any]]]

OPTIONS = SHORT | {"train.checkpoint_every": 3}


def events(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def test_a_planted_nan_stops_before_the_update_names_the_rows_and_the_run_goes_on_from_the_last_good_state(
    rows: Rows, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = rows("single-label", 50)
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in data))
    kitune.train(path, model=str(tiny_model), out=tmp_path / "whole", options=OPTIONS)

    update, planted = loop.update, 7

    def poisoned(training: loop.Training, state: loop.State, rows: Any, **how: Any) -> Any:
        if state.step == planted:
            norm = training.optimizer.gradient_norm
            monkeypatch.setattr(training.optimizer, "gradient_norm", lambda: norm() * float("nan"))
        return update(training, state, rows, **how)

    monkeypatch.setattr(loop, "update", poisoned)
    with pytest.raises(UserError) as stopped:
        kitune.train(path, model=str(tiny_model), out=tmp_path / "run", options=OPTIONS)
    monkeypatch.undo()
    said = str(stopped.value)
    assert said.startswith("step 7: loss 0.")
    assert "gradient norm nan at learning rate 0.00" in said
    assert "the update was not made" in said
    assert said.count(f"{path}, line ") == 8
    assert f"kitune train --resume {tmp_path / 'run'}" in said
    assert events(tmp_path / "run")[-1]["step"] == 7  # steps 1 to 7 are done, the eighth is not
    kitune.train(resume=tmp_path / "run")
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_weights_that_overflow_stop_the_run_too(rows: Rows, tiny_model: Path, tmp_path: Path) -> None:
    options = OPTIONS | {
        "train.learning_rate": 0.99,
        "train.clip": None,
        "train.schedule": "constant",
        "train.epochs": 40,
    }
    options |= {"train.patience": None, "task": "regression"}
    options |= {"train.head_rate": 1e30}
    data = rows("regression", 50)
    with pytest.raises(UserError, match=r"step \d+: loss inf"):
        train(tmp_path / "run", data, tiny_model, options)()


@pytest.mark.parametrize(("within", "step"), [(0.0, 5), (1.0, 20)])
def test_early_stopping_waits_as_long_as_patience_says_and_best_is_the_best_or_a_later_one_as_good(
    rows: Rows, tiny_model: Path, tmp_path: Path, within: float, step: int
) -> None:
    # A rate of next to nothing: no evaluation after the first can be better.
    options = OPTIONS | {"train.learning_rate": 1e-12, "train.epochs": 20, "train.patience": 3}
    options |= {"train.best_within": within}
    data = rows("single-label", 50)
    train(tmp_path / "run", data, tiny_model, options)()
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    assert len(log) == 4
    assert json.loads((tmp_path / "run" / "best" / "metrics.json").read_text())["step"] == step
    train(tmp_path / "never", data, tiny_model, options | {"train.patience": None, "train.epochs": 6})()
    assert len(json.loads((tmp_path / "never" / "log.json").read_text())) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_saves_at_the_next_boundary_and_ends_where_an_unbroken_one_does(
    rows: Rows, tiny_model: Path, tmp_path: Path, number: int
) -> None:
    data = rows("single-label", 50)
    train(tmp_path / "whole", data, tiny_model, OPTIONS)()

    def interrupted() -> None:
        step = optimizer.FlatAdamW.step

        def step_and_signal(self: optimizer.FlatAdamW, learning_rate: float, *, scale: float = 1.0) -> None:
            step(self, learning_rate, scale=scale)
            if self.step_count == 6:
                os.kill(os.getpid(), number)

        optimizer.FlatAdamW.step = step_and_signal  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt, match="--resume"):
            train(tmp_path / "run", data, tiny_model, OPTIONS)()

    assert in_child(interrupted, log=tmp_path / "log") == 0, (tmp_path / "log").read_text()
    saved = sorted(folder.name for folder in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved[-1] == "step-000007", "the update that was under way, and no other"
    assert events(tmp_path / "run")[-1]["step"] == 7
    assert in_child(resume(tmp_path / "run", data), log=tmp_path / "log") == 0
    assert content(tmp_path / "run") == content(tmp_path / "whole")


def test_the_loop_is_a_plain_torch_loop(rows: Rows, tiny_model: Path, tmp_path: Path) -> None:
    """Losses of every step against transformers' own model and loss, torch's AdamW, clipping and transformers' schedule."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_linear_schedule_with_warmup

    data = rows("single-label", 50)
    options = OPTIONS | {"train.dropout": 0.0, "train.weight_decay": 0.1, "train.clip": 0.5, "train.sampler": "random"}
    options |= {"train.head_rate": 3.0}
    train(tmp_path / "start", data, tiny_model, options | {"train.epochs": 0})()
    train(tmp_path / "run", data, tiny_model, options)()

    network = AutoModelForSequenceClassification.from_pretrained(tmp_path / "start" / "best").train()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "start" / "best")
    adamw = torch.optim.AdamW(
        [
            {
                "params": [parameter],
                "weight_decay": 0.1 if parameter.ndim > 1 else 0.0,
                "lr": 6e-3 if "pooler" in name or "classifier" in name else 2e-3,
            }
            for name, parameter in network.named_parameters()
        ]
    )
    schedule = get_linear_schedule_with_warmup(adamw, 1, 10)
    for step, event in enumerate(events(tmp_path / "run")):
        epoch, place = divmod(step, 5)
        lengths = torch.tensor([len(ids) for ids in tokenizer([row["text"] for row in data[:40]])["input_ids"]]).numpy()
        chosen = plan_epoch(BatchPlan("random", 8), lengths, seed=1, epoch=epoch)[place]
        batch = tokenizer([data[i]["text"] for i in chosen], padding=True, truncation=True, return_tensors="pt")
        labels = torch.tensor([network.config.label2id[data[i]["label"]] for i in chosen])
        loss = network(**batch, labels=labels).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        assert event["lr"] == pytest.approx(schedule.get_last_lr()[0], rel=1e-12)
        assert event["loss"] == pytest.approx(float(loss.detach()), rel=2e-5)
        assert event["grad_norm"] == pytest.approx(float(norm), rel=2e-4)
        adamw.step()
        schedule.step()
        adamw.zero_grad()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_lower_precisions_learn_too_and_keep_fp32_weights(
    rows: Rows, tiny_model: Path, tmp_path: Path, precision: str
) -> None:
    from safetensors.torch import load_file

    data = rows("single-label", 100)
    options = OPTIONS | {"engine.precision": precision, "train.epochs": 6, "train.learning_rate": 5e-3}
    options |= {"train.head_rate": 1.0}
    train(tmp_path / "run", data, tiny_model, options)()
    losses = [event["loss"] for event in events(tmp_path / "run")]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert {weight.dtype for weight in load_file(tmp_path / "run" / "best" / "model.safetensors").values()} == {
        torch.float32
    }


def test_gradient_checkpointing_changes_nothing_but_memory(
    rows: Rows, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.bert.modeling_bert import BertAttention

    data = rows("single-label", 50)
    options = OPTIONS | {"engine.plain": True}  # the packed path has other masks, and no checkpointing
    train(tmp_path / "plain", data, tiny_model, options)()
    train(tmp_path / "again", data, tiny_model, options | {"engine.gradient_checkpointing": True})()
    plain, again = events(tmp_path / "plain"), events(tmp_path / "again")
    assert [event["loss"] for event in again] == pytest.approx([event["loss"] for event in plain], rel=1e-6)
    forwards: dict[bool, int] = {}
    for checkpointing in (False, True):
        calls: list[int] = []
        original = BertAttention.forward

        def counted(self: Any, *told: Any, original: Any = original, calls: list[int] = calls, **named: Any) -> Any:
            calls.append(1)
            return original(self, *told, **named)

        monkeypatch.setattr(BertAttention, "forward", counted)
        changes = {"engine.gradient_checkpointing": checkpointing, "train.epochs": 1}
        train(tmp_path / f"counted-{checkpointing}", data, tiny_model, options | changes)()
        monkeypatch.undo()
        forwards[checkpointing] = len(calls)
    assert forwards[True] == forwards[False] + 2 * 5, "two layers, once more in each of five updates"


def test_label_smoothing_class_weights_and_row_weights_reach_the_loss(
    rows: Rows, tiny_model: Path, tmp_path: Path
) -> None:
    data = [row | {"weight": 1.0 if row["label"] == "yes" else 3.0} for row in rows("single-label", 50)]
    first: dict[str, float] = {}
    variants: dict[str, dict[str, Any]] = {
        "plain": {},
        "smoothed": {"train.label_smoothing": 0.2},
        "class weights": {"train.class_weights": {"yes": 1.0, "no": 3.0}},
        "row weights": {"data.weight": "weight"},
    }
    for name, options in variants.items():
        train(tmp_path / name, data, tiny_model, OPTIONS | {"train.dropout": 0.0, "train.epochs": 1} | options)()
        first[name] = events(tmp_path / name)[0]["loss"]
    assert first["smoothed"] != pytest.approx(first["plain"], rel=1e-4)
    assert first["class weights"] != pytest.approx(first["plain"], rel=1e-4)
    assert first["row weights"] == pytest.approx(first["class weights"], rel=1e-6)


def test_a_second_run_in_the_same_process_gives_the_same_bytes(rows: Rows, tiny_model: Path, tmp_path: Path) -> None:
    data = rows("multi-label", 50, pair=True)
    options = OPTIONS | {"task": "multi-label", "data.text": ["text", "other"]}
    train(tmp_path / "one", data, tiny_model, options)()
    torch.rand(7)  # whatever else the process drew must not matter
    train(tmp_path / "two", data, tiny_model, options)()
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert one == two


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("plain", [True, False])
def test_the_probe_for_the_estimate_leaves_no_trace(
    tiny_model: Path, rows: Callable[..., list[dict[str, Any]]], tmp_path: Path, plain: bool, precision: str
) -> None:
    made = rows("single-label", 720)
    weights = []
    for allow in ((), ("estimate",)):
        options = {"train.epochs": 1, "doctor.allow": allow, "engine.plain": plain, "engine.precision": precision}
        run = kitune.train(made, model=str(tiny_model), out=tmp_path / f"run{len(allow)}", options=options)
        weights.append((run / "last" / "model.safetensors").read_bytes())
        found = json.loads((run.folder / "findings.json").read_text())
        assert ("estimate" in [finding["code"] for finding in found]) == (not allow)
    assert weights[0] == weights[1]


def test_light_rows_count_little_among_light_rows_too(rows: Rows, lively_model: Path, tmp_path: Path) -> None:
    """A row an update, and a rate at which the weights stay as they are: each gradient is the row's own."""
    data, norms = rows("single-label", 20), {}
    weights = {"equal": [1.0] * 20, "light": [1.0] + [0.01] * 19}
    for name, of_rows in weights.items():
        weighted = [{**row, "weight": weight} for row, weight in zip(data, of_rows, strict=True)]
        changes = {"data.weight": "weight", "train.batch_rows": 1, "train.epochs": 1, "train.learning_rate": 1e-9}
        run = kitune.train(weighted, valid=data, model=str(lively_model), out=tmp_path / name, options=SHORT | changes)
        norms[name] = np.asarray([event["grad_norm"] for event in events(run.folder)])
    found, mean = np.sort(norms["light"] / norms["equal"]), np.mean(weights["light"])
    np.testing.assert_allclose(found, np.sort(weights["light"]) / mean, rtol=1e-3)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "the GPU has no more memory"),
        (MemoryError(), "the system gives no more memory"),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), "the system gives no more memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), "the system gives no more memory"),
    ],
)
def test_memory_that_is_not_enough_ends_in_a_sentence(
    rows: Rows, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fails(*told: Any, **named: Any) -> Any:
        raise error

    monkeypatch.setattr(loop, "update", fails)
    with pytest.raises(UserError, match=f"{said}\n  fix: free some, then kitune train --resume"):
        kitune.train(rows("single-label", 30), model=str(tiny_model), out=tmp_path / "run", options=SHORT)
    monkeypatch.setattr(probe, "add_gradients", fails)
    with pytest.raises(UserError, match=f"{said}, at the first updates\n  fix: free some, or --set"):
        kitune.train(rows("single-label", 720), model=str(tiny_model), out=tmp_path / "other", options=SHORT)
    assert not (tmp_path / "other").exists()


def test_evaluations_and_checkpoints_come_when_they_are_asked_for(rows: Rows, tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "calls = []\n\n\ndef compute_metrics(told):\n    calls.append(1)\n    return {'worse': len(calls)}\n"
    )
    changes = {
        "train.evaluate_every": 3, "train.checkpoint_every": 4, "engine.keep_checkpoints": 9, "engine.log_every": 3,
        "train.compute_metrics": str(tmp_path / "mine.py"), "train.best_metric": "worse", "train.more_is_better": False,
    }  # fmt: skip
    train(tmp_path / "run", rows("single-label", 50), tiny_model, SHORT | changes)()
    log = json.loads((tmp_path / "run" / "log.json").read_text())
    assert [list(log[f"Epoch {epoch}"]["steps"]) for epoch in (0, 1)] == [["3"], ["6", "9"]]
    saved = sorted(int(folder.name[5:]) for folder in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved == [3, 4, 5, 8, 10], "the first is the best, and the others are due"
    assert [event["step"] for event in events(tmp_path / "run")] == [3, 6, 9]
    best, last = (json.loads((tmp_path / "run" / part / "metrics.json").read_text()) for part in ("best", "last"))
    assert (best["step"], last["step"]) == (3, 10)
    run = kitune.load(tmp_path / "run"), kitune.load(tmp_path / "run", which="last")
    one, other = (model.predict(["good film", "bad book"]).logits for model in run)
    assert not (one == other).all()


def test_every_forward_pass_draws_dropout_of_its_own(
    rows: Rows, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    places = list(itertools.product(range(3), repeat=4))
    assert len({loop.dropout_seed(*place) for place in places}) == len(places)
    drawn, seeded = list[int](), torch.manual_seed

    def noted(seed: int) -> torch.Generator:
        drawn.append(seed)
        return seeded(seed)

    monkeypatch.setattr(torch, "manual_seed", noted)
    options = SHORT | {"train.accumulation": 2, "doctor.allow": ["estimate"]}
    train(tmp_path / "run", rows("single-label", 50), tiny_model, options)()
    of_passes = [seed for seed in drawn if seed > 2**32]  # others seed the head
    assert len(set(of_passes)) == len(of_passes) == 2 * 5 * 2


def test_a_loss_scale_halves_where_gradients_overflow_and_doubles_where_they_do_not() -> None:
    class Half:
        machine = type("Machine", (), {"precision": "fp16"})

    state, rows = loop.State(peak=1e-3, planned_epochs=1), np.arange(3)

    def made(norm: float, loss: float = 0.5) -> bool:
        return loop.advance(Half(), state, rows, loss, norm, 1e-3)  # type: ignore[arg-type]

    assert made(1.0)
    assert not made(float("inf"))
    assert (state.loss_scale, state.good_updates) == (loop.FIRST_SCALE / 2, 0)
    for _ in range(loop.GOOD_UPDATES):
        assert made(1.0)
    assert (state.loss_scale, state.good_updates) == (loop.FIRST_SCALE, 0)
    state.loss_scale = loop.LEAST_SCALE
    with pytest.raises(loop.NotFinite):
        made(float("inf"))
    state.loss_scale = loop.FIRST_SCALE
    with pytest.raises(loop.NotFinite):
        made(1.0, loss=float("nan"))


def test_a_second_signal_ends_at_once() -> None:
    with loop.boundary_signals() as received:
        os.kill(os.getpid(), signal.SIGINT)
        assert received == [signal.SIGINT]
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_training_of_one_update_learns_something(rows: Rows, tiny_model: Path, tmp_path: Path) -> None:
    data = rows("single-label", 16)
    train(tmp_path / "run", data, tiny_model, SHORT | {"train.epochs": 1, "train.batch_rows": 16})()
    assert [event["lr"] for event in events(tmp_path / "run")] == [SHORT["train.learning_rate"]]


@pytest.mark.parametrize(
    ("schedule", "options", "says"),
    [
        ("inverse_sqrt", {"timescale": -1}, "cannot be computed"),
        ("cosine_with_min_lr", {"min_lr": 5.0}, "and the peak is 0.002"),
    ],
)
def test_a_schedule_is_tried_to_its_end_before_the_first_step(
    rows: Rows, tiny_model: Path, tmp_path: Path, schedule: str, options: dict[str, Any], says: str
) -> None:
    told = SHORT | {"train.schedule": schedule, "train.schedule_options": options}
    with pytest.raises(UserError, match=f"train.schedule_options: .*{says}"):
        train(tmp_path / "run", rows("single-label", 50), tiny_model, told)()
    assert not (tmp_path / "run").exists()


def test_options_reach_the_schedule(rows: Rows, tiny_model: Path, tmp_path: Path) -> None:
    changes = {"train.schedule": "cosine_with_min_lr", "train.schedule_options": {"min_lr_rate": 0.5}}
    train(tmp_path / "run", rows("single-label", 50), tiny_model, SHORT | changes)()
    rates = [event["lr"] for event in events(tmp_path / "run")]
    assert 0.5 * SHORT["train.learning_rate"] <= rates[-1] < 0.6 * SHORT["train.learning_rate"]
