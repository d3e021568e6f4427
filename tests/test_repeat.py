"""Folds answer every row with a model that never saw it; seeds are pooled; both go on after a crash."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

import kitune
from kitune.cli import main
from kitune.data.read import read_table
from kitune.errors import UserError
from kitune.repeat import cross_validate, logits_in, train_seeds
from kitune.training import optimizer
from tests.jsonl import write_rows
from tests.training.runs import die, in_child

Rows = Callable[..., list[dict[str, Any]]]
QUICK: dict[str, Any] = {
    "train.epochs": 2,
    "train.learning_rate": 3e-3,
    "train.dropout": 0.0,
    "engine.threads": 1,
    "engine.precision": "fp32",
    "data.max_length": 32,
}


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
def test_every_row_is_answered_once_in_order_by_a_model_that_never_saw_it(
    lively_model: Path, rows: Rows, tmp_path: Path, task: str
) -> None:
    data = write_rows(tmp_path / "all.jsonl", made := rows(task, 45))
    options = QUICK | {"data.id": "id"}
    found = cross_validate(
        data, folds=3, model=str(lively_model), out=tmp_path / "cv", text="text", task=task, options=options,  # type: ignore[arg-type]
    )  # fmt: skip
    table = pq.read_table(tmp_path / "cv" / "out-of-fold.parquet")
    assert table.column("id").to_pylist() == [row["id"] for row in made]
    fold_of = np.asarray(table.column("fold").to_pylist())
    assert np.bincount(fold_of)[1:].tolist() == [15, 15, 15]
    answers: list[Any] = [None] * 45
    for number in (1, 2, 3):
        inside = np.flatnonzero(fold_of == number)
        run = tmp_path / "cv" / f"fold-{number}"
        learned = set(np.load(run / "train_texts.npy").tolist())
        unseen = kitune.load(run).evaluate([made[i] for i in inside], baselines=False)
        assert unseen.new is None, "no text of the fold is among those that its model learned from"
        assert len(learned) == 30
        for i, said in zip(inside, kitune.load(run).predict([made[i] for i in inside]).labels, strict=True):
            answers[i] = said
    if task == "regression":
        assert table.column("prediction").to_pylist() == pytest.approx(answers, abs=1e-5)
    elif task == "single-label":
        assert table.column("prediction").to_pylist() == answers
    else:  # each fold's answers by the threshold that its own model was given
        assert table.column("prediction").to_pylist() == answers
    assert found.together is not None
    assert found.together.scores.rows == 45
    assert {name: one.rows for name, one in found.together.baselines.items()} == {
        "majority": 45, "TF-IDF": 45, "frozen probe": 45,
    }  # fmt: skip
    if task == "single-label":
        right = [row["label"] == said for row, said in zip(made, answers, strict=True)]
        assert found.together.metrics["accuracy"] == pytest.approx(np.mean(right))
        assert found.mean["accuracy"] == pytest.approx(np.mean(right))


def test_outputs_survive_the_way_through_a_file_of_probabilities(
    lively_model: Path, rows: Rows, tmp_path: Path
) -> None:
    from kitune.config import RunOptions, with_values
    from kitune.data.parts import read_parts

    made = rows("single-label", 40)
    run = kitune.train(made, test=made[:10], model=str(lively_model), out=tmp_path / "run", options=QUICK)
    parts, _ = read_parts(with_values(RunOptions(), {"data.text": ["text"], "data.label": "label"}), {"train": made})
    through = logits_in(run.folder, "test", parts)
    direct = run.predict(made[:10]).logits
    np.testing.assert_allclose(through[:, 1] - through[:, 0], direct[:, 1] - direct[:, 0], atol=1e-5)


def test_groups_and_equal_texts_stand_in_one_fold(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    made = [{**row, "customer": f"c{i // 3}"} for i, row in enumerate(rows("single-label", 36))]
    made += [{**made[0], "customer": "someone else"}]
    cross_validate(
        made, folds=3, model=str(tiny_model), out=tmp_path / "cv", text="text",
        options=QUICK | {"train.epochs": 1, "data.group": "customer"},
    )  # fmt: skip
    fold = pq.read_table(tmp_path / "cv" / "out-of-fold.parquet").column("fold").to_pylist()
    assert all(len(set(fold[i : i + 3])) == 1 for i in range(0, 36, 3))
    assert fold[36] == fold[0]


def test_seeds_are_pooled_and_their_mean_answer_is_scored(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    data, test = write_rows(tmp_path / "train.jsonl", rows("single-label", 40)), rows("single-label", 20, seed=3)
    found = train_seeds(data, seeds=(1, 2), test=test, model=str(lively_model), out=tmp_path / "s", options=QUICK)
    runs = [kitune.load(tmp_path / "s" / f"seed-{seed}") for seed in (1, 2)]
    shares = np.mean([run.predict(test).probabilities for run in runs], axis=0)  # type: ignore[arg-type]
    right = np.mean([runs[0].label_names[i] == row["label"] for i, row in zip(shares.argmax(1), test, strict=True)])
    assert found.together is not None
    assert found.together.metrics["accuracy"] == pytest.approx(right)
    scores = [one["accuracy"] for one in found.metrics]
    assert (found.mean["accuracy"], found.sd["accuracy"]) == pytest.approx((np.mean(scores), np.std(scores, ddof=1)))
    assert json.loads((tmp_path / "s" / "metrics.json").read_text())["mean"] == pytest.approx(found.mean)
    assert set(found.together.baselines) == {"majority", "TF-IDF", "frozen probe"}
    written = pq.read_table(tmp_path / "s" / "mean-answers.parquet")
    np.testing.assert_allclose(np.asarray(written.column("p(yes)")), shares[:, 1], atol=1e-6)


def test_the_mean_answer_of_seeds_is_scored_on_new_texts_too_where_train_has_some(
    lively_model: Path, rows: Rows, tmp_path: Path
) -> None:
    train, new = rows("single-label", 40), rows("single-label", 30, seed=3)
    new = [{**row, "text": f"{row['text']} again"} for row in new]
    told = QUICK | {"train.epochs": 1, "doctor.allow": ["leak"]}
    found = train_seeds(
        train, seeds=(1, 2), test=[*train[:20], *new], model=str(lively_model), out=tmp_path / "s", options=told
    )
    assert found.together is not None
    assert found.together.new is not None
    assert (found.together.scores.rows, found.together.new.rows) == (50, 30)
    assert all(one.rows == 30 for one in found.together.baselines.values())


def test_seeds_with_a_valid_part_of_its_own_are_pooled_on_it(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    told = QUICK | {"data.valid": str(write_rows(tmp_path / "valid.jsonl", valid := rows("single-label", 20, seed=3)))}
    found = train_seeds(
        rows("single-label", 40), seeds=(1, 2), model=str(lively_model), out=tmp_path / "s", options=told
    )
    assert found.together is not None
    assert (found.part, found.together.scores.rows) == ("valid", 20)
    assert set(found.together.baselines) == {"majority", "TF-IDF", "frozen probe"}
    assert any("chose the weights" in note for note in found.together.notes)
    assert pq.read_table(tmp_path / "s" / "mean-answers.parquet").num_rows == len(valid)


def test_without_a_test_part_seeds_are_scored_on_what_each_held_out(
    tiny_model: Path, rows: Rows, tmp_path: Path
) -> None:
    found = train_seeds(
        rows("single-label", 30), seeds=(1, 2), model=str(tiny_model), out=tmp_path / "s", options=QUICK
    )
    assert (found.part, found.together) == ("valid", None)


def test_folds_go_on_where_they_were_cut_off(
    lively_model: Path, rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "all.jsonl", rows("single-label", 36))
    words = ["train", str(data), "--model", str(lively_model), "--text", "text"]
    words += [word for name, value in QUICK.items() for word in ("--set", f"{name}={value}")]

    def run(*more: str) -> int:
        with pytest.raises(SystemExit) as stopped:
            main([*words, *more])
        return int(stopped.value.code or 0)

    assert run("--folds", "3", "--out", str(tmp_path / "whole")) == 0
    from kitune import repeat
    from kitune.finetune import finetune

    real, calls = finetune, []

    def cut_off(*given: Any) -> kitune.Run:
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(repeat, "finetune", cut_off)
    assert run("--folds", "3", "--out", str(tmp_path / "cut")) == 130
    assert f"kitune train --resume {tmp_path / 'cut'}" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--resume", str(tmp_path / "cut")])
    assert stopped.value.code == 0
    assert len(calls) == 4, "the first fold was not trained again"
    whole, cut = (pq.read_table(tmp_path / name / "out-of-fold.parquet") for name in ("whole", "cut"))
    assert whole.equals(cut)
    shown = capsys.readouterr().out
    assert "3 trainings in" in shown
    assert "mean" in shown


@pytest.mark.parametrize(
    ("folds", "said"),
    [(1, "there is nothing to compare"), (40, "fewer different texts or groups than 40 folds")],
)
def test_folds_that_make_no_sense_are_refused(
    tiny_model: Path, rows: Rows, tmp_path: Path, folds: int, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        cross_validate(rows("single-label", 20), model=str(tiny_model), out=tmp_path / "cv", options=QUICK, folds=folds)


@pytest.mark.parametrize("folds", ["10", 5.0, [1, 2]])
def test_a_number_of_folds_is_a_whole_number(folds: Any) -> None:
    with pytest.raises(UserError, match=r"folds=.*: it is a whole number\n  fix: folds=5"):
        cross_validate([], folds=folds)


@pytest.mark.parametrize("seeds", [3, "1,2", [1.0, 2.0]])
def test_seeds_are_a_list_of_whole_numbers(seeds: Any) -> None:
    with pytest.raises(UserError, match=r"seeds=.*: they are a list of whole numbers"):
        train_seeds([], seeds=seeds)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--folds", "3", "--seeds", "1,2"], "two ways to train several times"),
        (["--seeds", "one"], "not whole numbers"),
        (["--folds", "3", "--test", "x.csv"], "a test part has no place in it"),
    ],
)
def test_on_the_command_line_they_are_refused_in_one_sentence(
    tmp_path: Path, rows: Rows, words: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "all.jsonl", rows("single-label", 20))
    with pytest.raises(SystemExit) as stopped:
        main(["train", str(data), *words])
    assert stopped.value.code == 2
    assert said in capsys.readouterr().err


def test_a_table_of_our_own_comes_back_as_it_went_in(rows: Rows) -> None:
    table = read_table(rows("multi-label", 6))
    again = read_table(table.data)
    assert again.data.equals(table.data)


def test_seeds_of_a_trial_are_scored_on_the_same_rows(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    test = rows("single-label", 40, seed=3)
    told = QUICK | {"data.limit": 20, "data.id": "id"}
    made = rows("single-label", 40)
    found = train_seeds(made, seeds=(1, 2), test=test, model=str(lively_model), out=tmp_path / "s", options=told)
    ids = [
        pq.read_table(tmp_path / "s" / name / "predictions" / "test.parquet")["id"].to_pylist() for name in found.names
    ]
    assert ids[0] == ids[1]
    assert found.together is not None
    of_id = {row["id"]: row for row in test}
    shares = np.mean(
        [kitune.load(tmp_path / "s" / name).predict([of_id[i] for i in ids[0]]).probabilities for name in found.names], axis=0  # type: ignore[arg-type]
    )  # fmt: skip
    right = [("no", "yes")[k] == of_id[i]["label"] for i, k in zip(ids[0], shares.argmax(axis=1), strict=True)]
    assert found.together.metrics["accuracy"] == pytest.approx(np.mean(right))


@pytest.fixture
def begun(tiny_model: Path, rows: Rows, tmp_path: Path) -> Path:
    """Finished folds of a file, whose last one is gone again."""
    import shutil

    data = write_rows(tmp_path / "all.jsonl", rows("single-label", 36))
    cross_validate(data, folds=2, model=str(tiny_model), out=tmp_path / "cv", text="text", options=QUICK)
    shutil.rmtree(tmp_path / "cv" / "fold-2")
    return tmp_path / "cv"


def test_folds_do_not_go_on_with_other_rows(begun: Path, rows: Rows) -> None:
    write_rows(begun.parent / "all.jsonl", rows("single-label", 36, seed=1))
    with pytest.raises(UserError, match="the train rows are not those that it was begun with"):
        cross_validate(resume=begun)
    (begun.parent / "all.jsonl").unlink()
    with pytest.raises(UserError, match="there is no such file"):
        cross_validate(resume=begun)
    assert (begun / "fold-1" / "metrics.json").exists()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"options": {"train.learning_rate": 1e-5}}, "train.learning_rate was 0.003 and is now 1e-05"),
        ({"options": {"train.epochs": 15}}, "train.epochs was .* and is now 15"),
        ({"model": "starter"}, "model was .* and is now 'starter'"),
        ({"folds": 3}, "it was begun with folds 2"),
        ({"config": "run.yaml"}, "go on in their own folder with their own options"),
    ],
)
def test_folds_do_not_go_on_as_others(begun: Path, told: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        cross_validate(resume=begun, **told)


def test_a_plan_whose_first_training_has_not_begun_survives_a_refused_resumption(begun: Path) -> None:
    import shutil

    shutil.rmtree(begun / "fold-1")
    for name in ("metrics.json", "out-of-fold.parquet"):
        (begun / name).unlink()
    (begun.parent / "all.jsonl").rename(begun.parent / "elsewhere.jsonl")
    with pytest.raises(UserError, match="there is no such file"):
        cross_validate(resume=begun)
    assert (begun / "repeats.json").exists()


def test_columns_of_the_data_with_names_of_ours_are_kept_beside(tiny_model: Path, rows: Rows, tmp_path: Path) -> None:
    made = [
        {"text": row["text"], "prediction": row["label"], "fold": f"c{i}"}
        for i, row in enumerate(rows("single-label", 24))
    ]
    cross_validate(
        made, folds=2, model=str(tiny_model), out=tmp_path / "cv", text="text", label="prediction",
        options=QUICK | {"train.epochs": 1, "data.group": "fold"},
    )  # fmt: skip
    table = pq.read_table(tmp_path / "cv" / "out-of-fold.parquet")
    assert table["prediction (data)"].to_pylist() == [row["prediction"] for row in made]
    assert table["fold (data)"].to_pylist() == [row["fold"] for row in made]
    assert set(table["fold"].to_pylist()) == {1, 2}


def test_a_metric_that_one_training_has_no_value_of_costs_nothing(
    lively_model: Path, rows: Rows, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n\n\ndef compute_metrics(told):\n"
        "    with Path(__file__).with_name('calls').open('a+') as calls:\n"
        "        calls.write('.')\n"
        "        done = calls.tell()\n"
        "    return {'often': 1.0, 'seldom': float('nan') if done >= 6 else 1.0}\n"  # the end of the second training
    )
    options = QUICK | {"train.epochs": 1, "train.compute_metrics": str(tmp_path / "mine.py")}
    found = train_seeds(
        rows("single-label", 30), seeds=[1, 2], model=lively_model, out=tmp_path / "seeds", options=options
    )
    assert found.mean["often"] == 1.0
    assert "accuracy" in found.mean
    assert "seldom" not in found.mean


def test_numbers_of_trainings_that_make_no_sense_are_refused_first(
    lively_model: Path, rows: Rows, tmp_path: Path
) -> None:
    told = {"model": str(lively_model), "out": tmp_path / "new", "options": QUICK}
    with pytest.raises(UserError, match="--folds 0: there is nothing to compare"):
        cross_validate(rows("single-label", 30), folds=0, **told)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"train\.seed: it takes integer >= 0"):
        train_seeds(rows("single-label", 30), seeds=[1, -2], **told)  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_scores_of_rows_that_chose_the_weights_are_called_so(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    options = QUICK | {"train.epochs": 1}
    found = train_seeds(
        rows("single-label", 30), seeds=[1, 2], model=lively_model, out=tmp_path / "seeds", options=options
    )
    assert found.together is None
    assert any("these rows chose the weights" in str(block) for block in found.blocks())
    assert json.loads((tmp_path / "seeds" / "metrics.json").read_text())["notes"]


def test_validation_rows_from_python_choose_in_every_fold(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    made = rows("single-label", 40)
    found = cross_validate(made[:30], valid=made[30:], folds=2, model=lively_model, out=tmp_path / "cv", options=QUICK)
    for name in found.names:
        assert pq.read_table(tmp_path / "cv" / name / "predictions" / "valid.parquet").num_rows == 10


def test_rows_that_chose_the_weights_are_given_again_too(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    made = rows("single-label", 40)
    cross_validate(made[:30], valid=made[30:], folds=2, model=lively_model, out=tmp_path / "cv", options=QUICK)
    (tmp_path / "cv" / "metrics.json").unlink()
    with pytest.raises(UserError, match="the valid rows are not given"):
        cross_validate(made[:30], resume=tmp_path / "cv")
    cross_validate(made[:30], valid=made[30:], resume=tmp_path / "cv")


def test_a_fold_that_was_cut_off_goes_on_and_seeds_do_too(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    made = rows("single-label", 40)
    told: dict[str, Any] = {"model": str(lively_model), "options": QUICK}
    ways: list[tuple[str, Any, Any]] = [("folds", cross_validate, 3), ("seeds", train_seeds, [1, 2])]
    for name, train_all, count in ways:
        data: dict[str, Any] = {"test": made[30:]} if name == "seeds" else {}
        train_all(made[:30], **{name: count}, **data, out=tmp_path / f"whole-{name}", **told)
        begun = partial(train_all, made[:30], **{name: count}, **data, out=tmp_path / name, **told)
        # The first training has 4 updates, so that the second one is killed in its middle.
        assert in_child(killed_at_update(6, begun), log=tmp_path / "log") == -9, (tmp_path / "log").read_text()
        train_all(made[:30], **data, resume=tmp_path / name)
        file = {"folds": "out-of-fold.parquet", "seeds": "mean-answers.parquet"}[name]
        assert pq.read_table(tmp_path / name / file).equals(pq.read_table(tmp_path / f"whole-{name}" / file))


def killed_at_update(number: int, work: Callable[[], object]) -> Callable[[], object]:
    """`work`, killed right after so many updates of all its trainings together."""

    def patched() -> None:
        step, done = optimizer.FlatAdamW.step, 0

        def step_and_die(self: Any, learning_rate: float, *, scale: float = 1.0) -> None:
            nonlocal done
            step(self, learning_rate, scale=scale)
            done += 1
            if done == number:
                die()

        optimizer.FlatAdamW.step = step_and_die  # type: ignore[method-assign]
        work()

    return patched
