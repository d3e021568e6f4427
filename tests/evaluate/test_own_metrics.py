"""The user's own metrics get what Trainer gives them, choose the best weights, and cost no epoch where they are broken."""

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kitune
from kitune.errors import UserError
from kitune.evaluate.own_metrics import beside, file_and_function, loaded

Rows = Callable[..., list[dict[str, Any]]]
QUICK: dict[str, Any] = {
    "train.epochs": 2,
    "train.patience": None,
    "engine.threads": 1,
    "engine.precision": "fp32",
    "data.max_length": 32,
}
SHAPES = """
import json
from pathlib import Path

def compute_metrics(told):
    seen = {"predictions": told.predictions, "labels": told.label_ids, "inputs": told.inputs, "losses": told.losses}
    said = {name: [list(a.shape), str(a.dtype)] for name, a in seen.items() if a is not None}
    with Path(__file__).with_suffix(".seen").open("a") as file:
        file.write(json.dumps(said) + "\\n")
    return {"rows": float(len(told.predictions))}
"""


def shapes_of_trainer(task: str, model: Path, made: list[dict[str, Any]], module: Path, folder: Path) -> dict[str, Any]:
    """What transformers' Trainer hands to the same function."""
    import importlib.util

    import torch
    from accelerate.state import AcceleratorState, GradientState, PartialState
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainingArguments,
    )

    spec = importlib.util.spec_from_file_location("told", module)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    tokenizer = AutoTokenizer.from_pretrained(model)
    names = {"single-label": ["no", "yes"], "multi-label": ["bad", "good", "odd"], "regression": ["label"]}[task]
    problem = {"single-label": "single_label_classification", "multi-label": "multi_label_classification"}
    network = AutoModelForSequenceClassification.from_pretrained(
        model, num_labels=len(names), problem_type=problem.get(task, "regression")
    )

    def label(row: dict[str, Any]) -> Any:
        if task == "multi-label":
            return [float(name in row["label"]) for name in names]
        return names.index(row["label"]) if task == "single-label" else float(row["label"])

    data = [{**tokenizer(row["text"], truncation=True, max_length=32), "labels": label(row)} for row in made]
    arguments = TrainingArguments(
        output_dir=str(folder),
        include_for_metrics=["inputs", "loss"],
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        per_device_eval_batch_size=8,
    )
    torch.manual_seed(0)
    Trainer(
        model=network,
        args=arguments,
        eval_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer),
        compute_metrics=loaded.compute_metrics,
    ).evaluate()
    for state in (AcceleratorState, GradientState, PartialState):  # Trainer leaves them; later tests fork from here
        state._reset_state()
    return last_seen(module)


def last_seen(module: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(module.with_suffix(".seen").read_text().splitlines()[-1])
    return found


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
def test_the_function_gets_arrays_of_trainer_s_shapes_and_types(
    tiny_model: Path, rows: Rows, tmp_path: Path, task: str
) -> None:
    module = tmp_path / "shapes.py"
    module.write_text(SHAPES)
    valid = rows(task, 20, seed=1)
    told = {"train.compute_metrics": str(module), "train.include_for_metrics": ["inputs", "loss"]}
    run = kitune.train(
        rows(task, 24), valid=valid, model=str(tiny_model), out=tmp_path / "run", text="text", options=QUICK | told
    )
    assert run.metrics["valid"]["rows"] == 20
    ours = last_seen(module)
    theirs = shapes_of_trainer(task, tiny_model, valid, module, tmp_path / "trainer")
    assert {name: shape for name, (shape, _) in ours.items()} == {name: shape for name, (shape, _) in theirs.items()}
    kinds = {name: np.dtype(kind).kind for name, (_, kind) in ours.items()}
    assert kinds == {name: np.dtype(kind).kind for name, (_, kind) in theirs.items()}


def test_losses_are_each_row_s_own_and_inputs_its_token_ids(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    seen: list[Any] = []

    def metrics(told: Any) -> Mapping[str, float]:
        seen.append(told)
        return {"mean_loss": told.losses.mean()}

    run = kitune.train(
        rows("single-label", 24),
        valid=rows("single-label", 10, seed=1),
        model=str(tiny_model),
        out=tmp_path / "run",
        compute_metrics=metrics,
        options=QUICK | {"train.include_for_metrics": ["inputs", "loss"]},
    )
    assert run.metrics["valid"]["mean_loss"] == pytest.approx(run.metrics["valid"]["loss"], rel=1e-5)
    last = seen[-1]
    lengths = (last.inputs != -100).sum(axis=1)
    assert last.inputs.shape == (10, lengths.max())
    assert (last.inputs[np.arange(10), lengths - 1] == run.model.tokenizer.sep_token_id).all()


@pytest.mark.parametrize("more", [True, False])
def test_a_metric_of_one_s_own_chooses_the_best_weights(
    tiny_model: Path, rows: Rows, tmp_path: Path, more: bool
) -> None:
    calls: list[int] = []

    def metrics(told: Any) -> Mapping[str, float]:
        calls.append(len(told.predictions))
        return {"age": float(len(calls))}  # grows with every epoch

    run = kitune.train(
        rows("single-label", 24),
        model=str(tiny_model),
        out=tmp_path / "run",
        compute_metrics=metrics,
        options=QUICK | {"train.epochs": 3, "train.best_metric": "age", "train.more_is_better": more},
    )
    steps = json.loads((run / "metrics.json").read_text())
    assert steps["best_step"] == (steps["step"] if more else steps["step"] // 3)
    assert json.loads((run / "log.json").read_text())["Epoch 1"]["valid_log"]["age"] == 3.0  # one call was a trial


@pytest.mark.parametrize(
    ("code", "told", "said"),
    [
        ("def compute_metrics(told):\n    return told.nothing\n", {}, "line 2: AttributeError"),
        ("def compute_metrics(told):\n    return 0.5\n", {}, "it gave '0.5'"),
        ("def other(told):\n    return {}\n", {}, "has no function 'compute_metrics'"),
        ("import nowhere_at_all\n", {}, "line 1: ModuleNotFoundError"),
        ("def compute_metrics(told):\n    return {'f2': 0.5}\n", {"train.best_metric": "f2"}, "more or less of f2"),
        ("def compute_metrics(told):\n    return {'f2': 0.5}\n", {"train.best_metric": "f3"}, "has no f3"),
    ],
)
def test_a_broken_function_is_named_before_anything_is_trained(
    tiny_model: Path, rows: Rows, tmp_path: Path, code: str, told: dict[str, Any], said: str
) -> None:
    module = tmp_path / "mine.py"
    module.write_text(code)
    options = QUICK | {"train.compute_metrics": str(module), **told}
    with pytest.raises(UserError, match=said):
        kitune.train(rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run", options=options)
    assert not (tmp_path / "run").exists()


def test_of_many_labels_the_trial_has_rows_of_each(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    from sklearn.metrics import roc_auc_score

    def metrics(told: Any) -> Mapping[str, float]:
        if len(told.predictions) < 60:  # the trial
            assert set(told.label_ids) == set(range(12))
            shares = np.exp(told.predictions) / np.exp(told.predictions).sum(axis=1, keepdims=True)
            return {"auc": roc_auc_score(told.label_ids, shares, multi_class="ovr")}
        return {"auc": 0.5}

    made = [{**row, "label": f"l{i % 12:02}"} for i, row in enumerate(rows("single-label", 48))]
    valid = [{**row, "label": f"l{i % 12:02}"} for i, row in enumerate(rows("single-label", 60, seed=2))]
    options = QUICK | {"train.epochs": 1}
    run = kitune.train(
        made, valid=valid, model=str(tiny_model), out=tmp_path / "run", compute_metrics=metrics, options=options
    )
    assert run.metrics["valid"]["auc"] == 0.5


def test_a_metric_that_is_no_number_is_null_in_every_file(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    run = kitune.train(
        rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run", options=QUICK,
        compute_metrics=lambda told: {"odd": float("nan")},
    )  # fmt: skip
    strict: dict[str, Any] = {"parse_constant": lambda word: pytest.fail(word)}
    assert json.loads((run / "metrics.json").read_text(), **strict)["valid"]["odd"] is None
    assert json.loads((run / "log.json").read_text(), **strict)["Epoch 0"]["valid_log"]["odd"] is None


def test_a_metric_that_goes_missing_is_named(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    calls: list[int] = []

    def metrics(told: Any) -> Mapping[str, float]:
        calls.append(1)
        return {"f2": 0.5} if len(calls) < 3 else {}

    told = QUICK | {"train.best_metric": "f2", "train.more_is_better": True}
    with pytest.raises(UserError, match="compute_metrics gave no f2"):
        kitune.train(
            rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run", compute_metrics=metrics, options=told
        )


def test_a_run_is_not_resumed_with_another_function(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    module, data = tmp_path / "mine.py", rows("single-label", 24)
    module.write_text("def half(told):\n    return {'f2': 0.5}\n")
    chosen_by = {"train.best_metric": "f2", "train.more_is_better": True}
    options = QUICK | chosen_by | {"train.compute_metrics": f"{module}:half"}
    kitune.train(data, model=str(tiny_model), out=tmp_path / "run", options=options)
    module.write_text("def half(told):\n    return {'f2': 0.5}\n\nother = half\n")
    with pytest.raises(UserError, match="is not what it was when the run began"):
        kitune.train(data, resume=tmp_path / "run", options={"train.compute_metrics": f"{module}:other"})
    module.write_text("def half(told):\n    return {'f2': 0.25}\n")
    with pytest.raises(UserError, match="is not what it was when the run began"):
        kitune.train(data, resume=tmp_path / "run", options={"train.epochs": 3})
    module.write_text("def half(told):\n    return {'f2': 0.5}\n")
    assert kitune.train(data, resume=tmp_path / "run", options={"train.epochs": 3}).metrics["valid"]["f2"] == 0.5


def test_an_evaluation_gives_them_with_intervals(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    from sklearn.metrics import fbeta_score

    module, valid = tmp_path / "mine.py", rows("single-label", 40, seed=1)
    module.write_text(
        "from sklearn.metrics import fbeta_score\n\n"
        "def compute_metrics(told):\n"
        "    answers = told.predictions.argmax(axis=1)\n"
        "    f2 = fbeta_score(told.label_ids, answers, beta=2, average='macro')\n"
        "    return {'f2': f2, 'loss_here': told.losses.mean(), 'tokens': (told.inputs >= 0).sum()}\n"
    )
    told = {"train.compute_metrics": str(module), "train.include_for_metrics": ["inputs", "loss"]}
    run = kitune.train(
        rows("single-label", 40), valid=valid, model=str(tiny_model), out=tmp_path / "run", options=QUICK | told
    )
    plain = run.model.evaluate(valid, baselines=False)
    assert "f2" not in plain.metrics
    assert any(f"--compute-metrics {module}" in note for note in plain.notes)
    found = run.model.evaluate(valid, baselines=False, compute_metrics=module)
    for name in ("f2", "loss_here", "tokens"):
        assert found.metrics[name] == pytest.approx(run.metrics["valid"][name])
    answers = run.model.predict([row["text"] for row in valid]).logits.argmax(axis=1)
    names = sorted({row["label"] for row in valid})
    gold = np.asarray([names.index(row["label"]) for row in valid])
    generator, drawn = np.random.default_rng(3), []
    for _ in range(400):
        some = generator.integers(0, len(gold), len(gold))
        drawn.append(fbeta_score(gold[some], answers[some], beta=2, average="macro"))
    assert found.intervals["f2"] == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.05)
    low, high = found.intervals["tokens"]
    assert low < found.metrics["tokens"] < high


def test_a_resample_that_they_fail_on_is_not_counted(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    def picky(told: Any) -> Mapping[str, float]:
        ones = int(told.label_ids.sum())
        return {"ones": ones / (ones % 2)} if len(told.label_ids) == 31 else {"ones": 0}

    valid = [
        {"text": row["text"], "label": "yes" if i < 15 else "no"} for i, row in enumerate(rows("single-label", 31))
    ]
    run = kitune.train(rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run", options=QUICK)
    found = run.model.evaluate(valid, baselines=False, compute_metrics=picky)
    low, high = found.intervals["ones"]
    assert (found.metrics["ones"], low % 1, high % 1) == (15, 0, 0)
    assert low < 15 < high


def test_a_broken_one_costs_no_answers(
    tiny_model: Path, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = kitune.train(rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run", options=QUICK)
    monkeypatch.setattr("kitune.predict.outputs", lambda *_, **__: pytest.fail("it answered"))

    def picky(told: Any) -> Mapping[str, float]:
        return {"f2": told.nothing}

    with pytest.raises(UserError, match=r"compute_metrics \(picky\): line .*AttributeError"):
        run.model.evaluate(rows("single-label", 24), compute_metrics=picky)


def test_where_they_choose_nothing_a_run_goes_on_with_another_function(
    tiny_model: Path, rows: Rows, tmp_path: Path
) -> None:
    module, data = tmp_path / "mine.py", rows("single-label", 24)
    module.write_text("def compute_metrics(told):\n    return {'f2': 0.5}\n")
    options = QUICK | {"train.compute_metrics": str(module)}
    kitune.train(data, model=str(tiny_model), out=tmp_path / "run", options=options)
    module.write_text("def compute_metrics(told):\n    return {'f3': 0.5}\n")
    assert kitune.train(data, resume=tmp_path / "run", options={"train.epochs": 3}).metrics["valid"]["f3"] == 0.5


def test_a_function_that_no_longer_gives_what_chooses_is_refused(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    module, data = tmp_path / "mine.py", rows("single-label", 24)
    module.write_text("def compute_metrics(told):\n    return {'f2': 0.5}\n")
    options = QUICK | {"train.compute_metrics": str(module), "train.best_metric": "f2", "train.more_is_better": True}
    kitune.train(data, model=str(tiny_model), out=tmp_path / "run", options=options)
    module.write_text("def compute_metrics(told):\n    return {'f3': 0.5}\n")
    with pytest.raises(UserError, match="is not what it was when the run began"):
        kitune.train(data, resume=tmp_path / "run", options={"train.epochs": 3})


def test_one_that_fails_on_the_rows_costs_an_evaluation_nothing_else(
    tiny_model: Path, rows: Rows, tmp_path: Path
) -> None:
    def picky(told: Any) -> Mapping[str, float]:
        if len(told.predictions) == 30:
            raise ValueError("only one class")
        return {"f2": 0.5}

    run = kitune.train(rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run", options=QUICK)
    found = run.model.evaluate(rows("single-label", 30, seed=3), baselines=False, compute_metrics=picky)
    assert "accuracy" in found.metrics
    assert any("ValueError: only one class: left out" in note for note in found.notes)


def test_one_that_fails_later_loses_nothing(
    tiny_model: Path, rows: Rows, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def picky(told: Any) -> Mapping[str, float]:
        if len(told.predictions) == 7:  # the test part
            raise ValueError("only one class")
        return {"f2": 0.5}

    test = rows("single-label", 7, seed=3)
    run = kitune.train(
        rows("single-label", 24), test=test, model=str(tiny_model), out=tmp_path / "run", compute_metrics=picky,
        options=QUICK,
    )  # fmt: skip
    assert "f2" in run.metrics["valid"]
    assert "f2" not in run.metrics["test"]
    assert "accuracy" in run.metrics["test"]
    assert "ValueError: only one class: left out" in capfd.readouterr().err
    with pytest.raises(UserError, match="only one class"):  # without it the best weights cannot be chosen
        kitune.train(
            rows("single-label", 24), valid=test, model=str(tiny_model), out=tmp_path / "other", compute_metrics=picky,
            options=QUICK | {"train.best_metric": "f2", "train.more_is_better": True},
        )  # fmt: skip


def test_arrays_and_tensors_of_one_number_are_numbers_and_files_beside_it_are_found(
    tiny_model: Path, rows: Rows, tmp_path: Path
) -> None:
    (tmp_path / "beside_mine.py").write_text("HALF = 0.5\n")
    (tmp_path / "also_beside_mine.py").write_text("")
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n\n"
        "import numpy as np\nimport torch\nfrom beside_mine import HALF\n\n\n"
        "@dataclass\nclass Found:\n    value: float\n\n\n"
        "def compute_metrics(told):\n"
        "    import also_beside_mine\n"
        "    return {'tensor': torch.tensor(Found(HALF).value), 'array': np.array([HALF]), 'flag': np.bool_(True)}\n"
    )
    run = kitune.train(
        rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run",
        options=QUICK | {"train.compute_metrics": str(tmp_path / "mine.py")},
    )  # fmt: skip
    assert {name: run.metrics["valid"][name] for name in ("tensor", "array", "flag")} == {
        "tensor": 0.5, "array": 0.5, "flag": 1.0,
    }  # fmt: skip


def test_one_with_the_name_of_another_stands_beside_it(
    tiny_model: Path, rows: Rows, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def mine(told: Any) -> Mapping[str, float]:
        print("called")
        return {"f1": 0.125, "accuracy": float((told.predictions.argmax(1) == told.label_ids).mean())}

    valid = rows("single-label", 30, seed=3)
    run = kitune.train(rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run", options=QUICK)
    plain = run.model.evaluate(valid, baselines=False)
    capfd.readouterr()
    (tmp_path / "mine.py").write_text("print('loaded')\n\ndef compute_metrics(told):\n    return {'f2': 0.5}\n")
    loaded(tmp_path / "mine.py", frozenset())
    found = run.model.evaluate(valid, baselines=False, compute_metrics=mine)
    assert dict(found.metrics) == {**plain.metrics, "f1 (own)": 0.125}
    assert dict(found.intervals) == dict(plain.intervals)  # of what never varies there is none
    heard = capfd.readouterr()
    assert heard.out == ""  # where --json puts the scores
    assert (heard.err.count("loaded"), heard.err.count("called")) == (1, 1)  # of neither made-up rows nor resamples


def test_a_slow_one_has_its_value_alone(
    tiny_model: Path, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitune.evaluate.own_metrics.SLOW_CALL", 0.01)

    def slow(told: Any) -> Mapping[str, float]:
        time.sleep(0.02)
        return {"f2": 0.5}

    run = kitune.train(rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run", options=QUICK)
    found = run.model.evaluate(rows("single-label", 30, seed=3), baselines=False, compute_metrics=slow)
    assert (found.metrics["f2"], "f2" in found.intervals) == (0.5, False)
    assert any(note.startswith("no interval of f2") for note in found.notes)


def test_what_they_are_given_can_be_told_anew(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    run = kitune.train(rows("single-label", 24), model=str(tiny_model), out=tmp_path / "run", options=QUICK)
    model = run.model.with_layout({"train.include_for_metrics": ["loss"]})
    found = model.evaluate(
        valid := rows("single-label", 30, seed=3),
        baselines=False,
        compute_metrics=lambda told: {"l": told.losses.mean()},
    )
    assert found.metrics["l"] == pytest.approx(model.evaluate(valid, baselines=False).metrics["log_loss"], rel=1e-5)


def test_what_else_a_script_is_and_imports_is_none_of_its_metrics(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def compute_metrics(told):\n    from halves import HALF\n    return {'half': HALF}\n"
    )
    (tmp_path / "halves.py").write_text("import quarters\n\nHALF = 2 * quarters.QUARTER\n")
    (tmp_path / "quarters.py").write_text("QUARTER = 0.25\n")
    (tmp_path / "script.py").write_text("import mine\n")
    assert [file.name for file in beside(tmp_path / "mine.py")] == ["halves.py", "quarters.py"]
    before = loaded(tmp_path / "mine.py", frozenset()).digest
    (tmp_path / "script.py").write_text("import mine, json\n")
    assert loaded(tmp_path / "mine.py", frozenset()).digest == before
    (tmp_path / "quarters.py").write_text("QUARTER = 0.125\n")
    assert loaded(tmp_path / "mine.py", frozenset()).digest != before


@pytest.mark.parametrize(
    ("told", "file", "function"),
    [
        ("mine.py", "mine.py", "compute_metrics"),
        ("mine.py:f2", "mine.py", "f2"),
        (r"C:\\x\\mine.py", r"C:\\x\\mine.py", "compute_metrics"),
    ],
)
def test_a_file_may_be_followed_by_a_function(told: str, file: str, function: str) -> None:
    assert file_and_function(told) == (Path(file), function)
