"""What an evaluation shows: intervals, labels, confusions, slices, new texts, baselines; on the screen and as JSON."""

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import kitune
from kitune.cli import main
from kitune.data.long_texts import LongTexts
from kitune.data.table import Table
from kitune.errors import UserError
from kitune.evaluate import linear
from kitune.evaluate.baselines import SAMPLE_ROWS, writes_without_words
from kitune.evaluate.evaluation import chance_line, judged, leads, scores
from kitune.evaluate.measures import Answered, Measure
from kitune.evaluate.score import score
from kitune.evaluate.slices import MOST_SLICES, slices_of
from kitune.inference import load_to_embed
from tests.jsonl import write_rows

Rows = Callable[..., list[dict[str, Any]]]
OPTIONS = {
    "train.epochs": 4,
    "train.learning_rate": 3e-3,
    "train.dropout": 0.0,
    "engine.threads": 1,
    "engine.precision": "fp32",
    "data.max_length": 32,
}


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory, lively_model: Path, rows: Rows) -> Callable[..., kitune.Run]:
    """A run of a task from a file, made once."""
    made: dict[tuple[str, bool], kitune.Run] = {}

    def make(task: str, pair: bool = False) -> kitune.Run:
        if (task, pair) not in made:
            place = tmp_path_factory.mktemp(task)
            data = write_rows(place / "train.jsonl", rows(task, 90, pair=pair))
            text = ["text", "other"] if pair else "text"
            made[task, pair] = kitune.train(
                data, model=str(lively_model), out=place / "run", text=text, label="label", options=OPTIONS
            )
        return made[task, pair]

    return make


def command(*words: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code == code


@pytest.mark.parametrize(
    ("task", "pair"), [("single-label", False), ("single-label", True), ("multi-label", False), ("regression", True)]
)
def test_every_evaluation_stands_beside_three_baselines(
    run_of: Callable[..., kitune.Run], rows: Rows, task: str, pair: bool
) -> None:
    made = rows(task, 60, pair=pair, seed=4)
    found = run_of(task, pair).model.evaluate(made)
    assert list(found.baselines) == ["majority", "TF-IDF", "frozen probe"]
    assert all(one.rows == 60 for one in found.baselines.values())
    name = {"single-label": "accuracy", "multi-label": "micro_f1", "regression": "spearman"}[task]
    # The mood of a text hangs on one word, so that words must beat the commonest answer.
    if not pair:
        told = {"single-label": "accuracy", "multi-label": "subset_accuracy"}[task]
        assert found.baselines["TF-IDF"].metrics[told] > found.baselines["majority"].metrics[told]
    low, high = found.intervals[name]
    assert low <= found.metrics[name] <= high
    for rival, (ahead, interval) in found.ahead.items():
        assert ahead == pytest.approx(found.metrics[name] - found.baselines[rival].metrics[name])
        assert interval is not None
        assert interval[0] <= ahead <= interval[1]


def test_the_majority_is_the_commonest_label_of_train(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    found = run_of("single-label").model.evaluate(made := rows("single-label", 50, seed=4))
    train = [row["label"] for row in rows("single-label", 90)]
    commonest = max(("no", "yes"), key=train.count)
    assert found.baselines["majority"].metrics["accuracy"] == pytest.approx(
        np.mean([row["label"] == commonest for row in made])
    )


def test_slices_are_scored_as_if_they_were_alone(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    made = [{**row, "source": "ab"[i % 3 == 0]} for i, row in enumerate(rows("single-label", 40, seed=5))]
    model = run_of("single-label").model
    found = model.evaluate(made, by=["source"], baselines=False)
    assert {value: one.rows for value, one in found.slices["source"].items()} == {"a": 26, "b": 14}
    alone = model.evaluate([row for row in made if row["source"] == "b"], baselines=False)
    assert found.slices["source"]["b"].metrics == pytest.approx(alone.scores.metrics, nan_ok=True)


def test_numbers_are_cut_at_their_quartiles_and_many_values_at_the_commonest() -> None:
    table = Table(
        __import__("pyarrow").table({"n": [str(i) for i in range(100)], "name": [f"x{i % 40}" for i in range(100)]}),
        "t",
    )
    quarters, said = slices_of(table, "n")
    assert {value: len(rows) for value, rows in quarters.items()} == {
        "up to 24.75": 25, "24.75 to 49.5": 25, "49.5 to 74.25": 25, "above 74.25": 25,
    }  # fmt: skip
    assert said is None
    values, said = slices_of(table, "name")
    assert len(values) == MOST_SLICES
    assert said == "name: 20 values with fewer rows are not shown"
    days = Table(__import__("pyarrow").table({"day": [str(20240101 + i) for i in range(28)]}), "t")
    assert [len(rows) for rows in slices_of(days, "day")[0].values()] == [7, 7, 7, 7]


def test_rows_whose_text_was_learned_are_told_apart(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    made = rows("single-label", 10) + rows("single-label", 20, seed=6)
    found = run_of("single-label").model.evaluate(made, baselines=False)
    assert found.new is not None
    assert (found.scores.rows, found.new.rows) == (30, 20)


def test_of_nothing_but_learned_texts_it_says_so(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    found = run_of("single-label").model.evaluate(rows("single-label", 10))
    assert any("it was trained on all of these texts" in note for note in found.notes)
    assert found.baselines
    assert found.as_json()["new"] == {"rows": 0, "metrics": {}, "intervals": {}}
    str(found)


def test_texts_that_chose_the_weights_are_told(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    valid, other = rows("single-label", 12, seed=2), rows("single-label", 9, seed=3)
    run = kitune.train(
        rows("single-label", 40), valid=valid, model=str(lively_model), out=tmp_path / "run", options=OPTIONS
    )
    found = kitune.load(run.folder).evaluate(valid + other, baselines=False)
    assert any(note.startswith("12 rows chose its weights") for note in found.notes)
    (run / "train_texts.npy").unlink()
    found = kitune.load(run.folder).evaluate(other, baselines=False)
    assert any("which texts it was trained on is not known" in note for note in found.notes)


def test_labels_that_are_told_by_their_place_are_named(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    made = rows("single-label", 20, seed=4)
    as_places = [{**row, "label": int(row["label"] == "yes")} for row in made]
    model = run_of("single-label").model
    found = model.evaluate(as_places, baselines=False)
    assert "column 'label': 0, 1 are read as no, yes" in found.notes
    assert found.metrics == model.evaluate(made, baselines=False).metrics


def test_a_file_without_the_head_s_weights_answers_nothing(run_of: Callable[..., kitune.Run], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(run_of("single-label") / "best", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier.")}
    save_file(kept, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="no weights of a head for 2 outputs"):
        kitune.load(tmp_path / "model")


def test_the_majority_of_many_labels_answers_the_commonest(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    from sklearn.metrics import f1_score

    found = run_of("multi-label").model.evaluate(made := rows("multi-label", 60, seed=4))
    names = run_of("multi-label").model.label_names
    gold = np.asarray([[name in row["label"] for name in names] for row in made])
    best = max(
        f1_score(gold, np.tile([bool(bits & 1 << i) for i in range(3)], (60, 1)), average="micro", zero_division=0)
        for bits in range(8)
    )
    assert found.baselines["majority"].metrics["micro_f1"] == pytest.approx(best, abs=0.05)


def test_training_and_evaluation_give_one_metric_one_value() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(40, 5)).astype(np.float32) - 0.5
    logits[:, 4] = -9  # neither occurs nor is answered
    hot = (generator.random((40, 5)) < 0.3).astype(np.float32)
    hot[:, 4] = 0
    single = generator.integers(0, 4, size=40)
    numbers = generator.normal(size=(40, 1)).astype(np.float32)
    alone = np.full((40, 5), -9, dtype=np.float32)
    alone[:, 2], hot_alone = generator.normal(size=40), np.zeros((40, 5), dtype=np.float32)
    hot_alone[::3, 2] = 1
    cases: list[tuple[Any, Any, Any]] = [
        ("multi-label", logits, hot),
        ("multi-label", alone, hot_alone),
        ("single-label", logits, single),
        ("regression", logits[:, :1], numbers),
    ]
    for task, outputs, labels in cases:
        of_training = score(task, outputs, labels)
        names = tuple("abcde") if task != "regression" else ("label",)
        of_evaluation = scores(Answered(task, outputs, labels, names)).metrics
        for name in set(of_training) - {"loss"}:
            assert of_training[name] == pytest.approx(of_evaluation[name]), (task, name)


def test_long_texts_are_a_probe_s_too_and_a_large_encoder_s_probe_learns_from_fewer_rows(
    run_of: Callable[..., kitune.Run], rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kitune.rivals.MOST_WORK", 2e6)
    found = run_of("single-label").model.evaluate(rows("single-label", 20, seed=4))
    note = next(note for note in found.notes if note.startswith("the frozen probe learns from"))
    assert 2 <= int(note.split()[5]) < 81
    assert "frozen probe" in found.baselines
    windows = run_of("single-label").model.with_layout({"data.long_texts": "windows"})
    machine, vectors = windows.machine, []
    for how in ("cut", "windows"):
        embed = load_to_embed(
            Path(run_of("single-label").options.model), run_of("single-label").options.engine, machine,
            max_length=16, long_texts=LongTexts(how),
        )  # fmt: skip
        table = Table(__import__("pyarrow").table({"text": ["good bad " * 20, "good"]}), "t")
        vectors.append(embed(table, "text"))
    np.testing.assert_allclose(np.linalg.norm(vectors[1], axis=1), 1, rtol=1e-5)
    assert np.abs(vectors[0][0] - vectors[1][0]).max() > 1e-4
    np.testing.assert_allclose(vectors[0][1], vectors[1][1], atol=1e-5)


def test_a_metric_without_an_interval_is_named() -> None:
    generator = np.random.default_rng(0)
    answered = Answered(
        "single-label", generator.normal(size=(3_000, 40)), np.arange(3_000) % 40, tuple(map(str, range(40)))
    )
    assert "no interval of auc: resampling 3,000 rows takes too long" in judged(answered, "t").notes


def test_two_threads_get_the_answers_that_one_gets(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    model = run_of("single-label").model
    texts = [[row["text"] for row in rows("single-label", 30, seed=seed)] for seed in range(6)]
    alone = [model.predict(some).logits for some in texts]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda some: model.predict(some).logits, texts * 5))
    assert all((found == alone[i % 6]).all() for i, found in enumerate(together))


def test_the_confusion_matrix_has_a_row_a_label(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    found = run_of("single-label").model.evaluate(made := rows("single-label", 40, seed=7), baselines=False)
    assert found.confusion is not None
    assert found.confusion.sum(axis=1).tolist() == [
        sum(row["label"] == name for row in made) for name in found.label_names
    ]
    assert np.trace(found.confusion) / 40 == pytest.approx(found.metrics["accuracy"])


def test_evaluate_writes_json_and_never_over_a_file(
    run_of: Callable[..., kitune.Run], rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_rows(tmp_path / "new.jsonl", rows("single-label", 30, seed=8))
    out = tmp_path / "metrics.json"
    words = ["evaluate", run_of("single-label").folder, data, "--by", "id", "--out", out]
    command(*words, "--no-baselines", "--json")
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert set(printed) >= {"rows", "metrics", "intervals", "labels", "confusion", "by", "baselines", "notes"}
    command(*words, code=2)
    assert "metrics.json: it exists already" in capsys.readouterr().err


def test_of_a_run_from_python_the_baselines_want_the_rows(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    train = rows("single-label", 60)
    run = kitune.train(train, model=str(lively_model), out=tmp_path / "run", options=OPTIONS | {"train.epochs": 1})
    made = rows("single-label", 20, seed=3)
    model = kitune.load(run.folder)
    assert model.evaluate(made).notes[0].startswith("no baselines: the run learned from rows in Python")
    assert set(model.evaluate(made, train=train).baselines) == {"majority", "TF-IDF", "frozen probe"}


def test_baselines_are_not_learned_from_rows_that_have_changed(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    data = write_rows(tmp_path / "train.jsonl", rows("single-label", 60))
    run = kitune.train(data, model=str(lively_model), out=tmp_path / "run", options=OPTIONS | {"train.epochs": 1})
    write_rows(data, rows("single-label", 60, seed=1))
    found = run.model.evaluate(rows("single-label", 20, seed=3))
    assert "its rows are not those that the run learned from" in found.notes[0]


def test_texts_without_words_leave_out_the_bag_of_words(lively_model: Path, rows: Rows, tmp_path: Path) -> None:
    signs = [{**row, "text": "!" * (i % 9 + 1)} for i, row in enumerate(rows("single-label", 40))]
    data = write_rows(tmp_path / "train.jsonl", signs)
    told = OPTIONS | {"train.epochs": 1, "data.text": ["text"], "doctor.allow": ["unknown-tokens"]}
    run = kitune.train(data, model=str(lively_model), out=tmp_path / "run", options=told)
    found = run.model.evaluate(signs)
    assert list(found.baselines) == ["majority", "frozen probe"]
    assert any("no TF-IDF: empty vocabulary" in note for note in found.notes)


def test_a_label_that_the_model_does_not_know_is_no_option_s_fault(
    run_of: Callable[..., kitune.Run], rows: Rows
) -> None:
    made = [*rows("single-label", 4), {"text": "good", "label": "maybe"}]
    with pytest.raises(UserError, match="is not among the 2 labels") as raised:
        run_of("single-label").model.evaluate(made)
    assert "data.labels" in raised.value.fix
    model = run_of("single-label").model
    other = [{**row, "label": {"no": "NEG", "yes": "POS"}[row["label"]]} for row in made[:4]]
    renamed = model.with_layout({"data.labels": ["NEG", "POS"]})
    assert renamed.evaluate(other, baselines=False).metrics == model.evaluate(made[:4], baselines=False).metrics
    assert set(renamed.predict(["good"]).labels) < {"NEG", "POS"}
    for wrong, said in {
        ("NEG",): "1 name, and the model answers no, yes",
        ("A", "B", "C"): "3 names, and the model answers no, yes",
        ("NEG", "NEG"): "'NEG' stands there twice",
    }.items():
        with pytest.raises(UserError, match=said):
            model.with_layout({"data.labels": list(wrong)})
    with_baselines = renamed.evaluate(other * 5)
    assert set(with_baselines.baselines) == {"majority", "TF-IDF", "frozen probe"}


def test_the_last_weights_have_a_threshold_of_their_own(run_of: Callable[..., kitune.Run]) -> None:
    run = run_of("multi-label")
    log = json.loads((run / "log.json").read_text())
    last = json.loads((run / "last" / "metrics.json").read_text())
    assert last["micro_f1"] == list(log.values())[-1]["valid_log"]["micro_f1"]
    assert kitune.load(run.folder, which="last").threshold == last["threshold"]


def test_a_column_that_is_not_there_is_refused(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    with pytest.raises(UserError, match="sauce"):
        run_of("single-label").model.evaluate(rows("single-label", 5), by=["sauce"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the film was good, über gut", False),
        ("この映画はとても良かったです", True),
        ("这部电影很好看", True),
        ("이 영화 정말 재미있어요", True),
        ("หนังเรื่องนี้ดีมาก", True),
        ("the word 映画 means film in Japanese", False),
    ],
)
def test_languages_without_words_between_spaces_are_told_by_their_letters(text: str, expected: bool) -> None:
    table = Table(__import__("pyarrow").table({"text": [text] * (SAMPLE_ROWS + 1)}), "t")
    assert writes_without_words(table, ("text",)) is expected


def test_rows_that_are_all_right_have_the_exact_interval() -> None:
    """Clopper and Pearson: of n of n right ones it begins at 0.025 ** (1 / n)."""
    logits = np.eye(2)[np.arange(12) % 2] * 9
    found = judged(Answered("single-label", logits, np.arange(12) % 2, ("no", "yes")), "t")
    assert found.metrics["accuracy"] == 1
    assert found.intervals["accuracy"] == pytest.approx((0.025 ** (1 / 12), 1))
    assert "macro_f1" not in found.intervals
    assert not any("takes too long" in note for note in found.notes)


def test_baselines_are_learned_from_the_run_s_own_columns(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    made = rows("single-label", 30, seed=4)
    named = [{"comment": row["text"], "mood": row["label"]} for row in made]
    model = run_of("single-label").model
    found = model.with_layout({"data.text": ["comment"]}).evaluate(named, label="mood")
    assert found.as_json()["baselines"] == model.evaluate(made).as_json()["baselines"]


def test_a_task_of_one_label_that_a_row_may_have_is_evaluated() -> None:
    logits = np.asarray([[2.0], [-1.0], [0.5], [-3.0]], dtype=np.float32)
    found = judged(
        Answered("multi-label", logits, np.asarray([[1.0], [0.0], [0.0], [1.0]], np.float32), ("toxic",)), "rows"
    )
    assert found.confusion is not None
    assert found.confusion.tolist() == [[[1, 1], [1, 1]]]
    assert found.metrics["macro_f1"] == found.metrics["micro_f1"] == pytest.approx(0.5)


def test_a_model_is_ahead_on_texts_that_are_new_to_it(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    known, new = (
        rows("single-label", 90)[:40],
        [{**row, "text": f"{row['text']} again"} for row in rows("single-label", 30, seed=9)],
    )
    found = run_of("single-label").evaluate([*known, *new])
    alone = run_of("single-label").evaluate(new)
    assert found.new is not None
    assert found.scores.rows == 70
    assert all(one.rows == found.new.rows == 30 for one in found.baselines.values())
    assert {name: gap for name, (gap, _) in found.ahead.items()} == pytest.approx(
        {name: gap for name, (gap, _) in alone.ahead.items()}
    )


def test_intervals_draw_the_rows_of_a_group_together_where_a_run_has_groups(
    lively_model: Path, rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = [{**row, "customer": number // 2} for number, row in enumerate(rows("single-label", 40))]
    options = OPTIONS | {"data.group": "customer", "train.epochs": 1}
    valid = [{**row, "customer": number // 2} for number, row in enumerate(rows("single-label", 24, seed=2))]
    run = kitune.train(made, valid=valid, model=str(lively_model), out=tmp_path / "run", options=options)
    assert "of other such groups of rows, so few that their intervals are too narrow: " in capsys.readouterr().err
    # Three copies of each customer's rows tell nothing new.
    thrice = [{**row, "text": f"{row['text']} {copy}"} for row in made for copy in ("again", "anew", "twice")]
    found = run.evaluate(thrice, baselines=False)
    assert "120 rows are of 20 groups: the intervals draw whole groups" in found.notes
    alone = run.evaluate([{k: v for k, v in row.items() if k != "customer"} for row in thrice], baselines=False)
    assert "without the column 'customer' of its groups, the intervals take rows for independent" in alone.notes
    assert found.metrics == alone.metrics
    widths = [high - low for low, high in (found.intervals["log_loss"], alone.intervals["log_loss"])]
    assert widths[0] > 1.3 * widths[1]


def test_groups_may_be_told_to_an_evaluation(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    made = [{**row, "who": number // 2} for number, row in enumerate(rows("single-label", 40))]
    told = run_of("single-label").model.with_layout({"data.group": "who"})
    assert any(note.startswith("40 rows are of 20 groups") for note in told.evaluate(made, baselines=False).notes)
    with pytest.raises(UserError, match=r"'whom'.*\n  fix: "):
        told.with_layout({"data.group": "whom"}).evaluate(made, baselines=False)


def test_parts_of_few_groups_are_named_and_those_of_hardly_any_have_no_interval() -> None:
    logits = np.random.default_rng(0).normal(size=(300, 2)).astype(np.float32)
    groups = np.arange(300) // 10
    parts = {"shop": {"a": np.arange(0, 250), "b": np.arange(250, 300)}, "day": {"one": np.arange(20)}}
    answered = Answered("single-label", logits, np.arange(300) % 2, ("no", "yes"), groups=groups)
    found = judged(answered, "t", groups=parts, new=np.arange(100, 200))
    few = next(note for note in found.notes if "fewer than" in note)
    assert few.startswith("the new texts, shop b: of fewer than 20 groups")
    assert "accuracy" in found.slices["shop"]["b"].intervals
    assert not found.slices["day"]["one"].intervals
    hardly = answered.take(np.arange(30))
    assert "30 rows are of 3 groups, too few for intervals" in judged(hardly, "t").notes
    assert not judged(hardly, "t").intervals
    assert chance_line(hardly) is None
    assert "so few that" in (chance_line(answered.take(np.arange(100))) or "")
    assert leads(hardly, {"other": answered.take(np.arange(30, 60))})["other"][1] is None


def test_a_metric_of_one_s_own_may_end_in_a_bracket() -> None:
    logits = np.eye(2, dtype=np.float32)[np.arange(20) % 2]
    answered = Answered("single-label", logits, np.arange(20) % 2, ("no", "yes"))
    own = Measure(("recall[5]",), np.arange(20), lambda weights: np.asarray(weights[:, :1], dtype=np.float64), 1.0)
    found = judged(answered, "t", own=own)
    assert found.metrics["recall[5]"] == found.as_json()["metrics"]["recall[5]"] == 1.0
    assert "recall[yes]" not in found.metrics


def test_a_model_from_elsewhere_never_reads_the_labels_as_texts_and_says_what_it_reads(
    run_of: Callable[..., kitune.Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = shutil.copytree(run_of("single-label") / "best", tmp_path / "plain")
    (plain / "run.yaml").unlink()
    made = [{"query": word, "intent": f"a long name of a label, {word}"} for word in ("good", "bad")] * 5
    model = kitune.load(plain).with_layout(
        {"data.labels": ["a long name of a label, bad", "a long name of a label, good"]}
    )
    capsys.readouterr()
    found = model.evaluate(made, label="intent", baselines=False)
    assert "text column: query" in capsys.readouterr().err
    right = [
        label.endswith(word) for word, label in zip(["good", "bad"], model.predict(["good", "bad"]).labels, strict=True)
    ]
    assert found.metrics["accuracy"] == np.mean(right)


def test_baselines_that_learn_from_the_rows_that_are_scored_are_called_flattered(
    run_of: Callable[..., kitune.Run], rows: Rows, tmp_path: Path
) -> None:
    plain = shutil.copytree(run_of("single-label") / "best", tmp_path / "plain")
    (plain / "run.yaml").unlink()
    made = rows("single-label", 40, seed=4)
    found = kitune.load(plain).evaluate(made, label="label", train=made)
    assert "the baselines learn from 40 rows of these, which flatters them" in found.notes
    other = [{**row, "text": f"{row['text']} more"} for row in made]
    assert not any("flatters" in note for note in kitune.load(plain).evaluate(made, label="label", train=other).notes)


def test_rows_to_learn_from_that_are_not_there_are_refused(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    with pytest.raises(UserError, match=r"trian\.csv: there is no such file"):
        run_of("single-label").evaluate(rows("single-label", 10), train="trian.csv")


def test_groups_of_an_evaluation_are_no_matter_of_the_rows_that_baselines_learn_from(
    run_of: Callable[..., kitune.Run], rows: Rows
) -> None:
    made = [{**row, "who": number // 2} for number, row in enumerate(rows("single-label", 60, seed=4))]
    told = run_of("single-label").model.with_layout({"data.group": "who"})
    assert "TF-IDF" in told.evaluate(made, train=rows("single-label", 60)).baselines


def test_rows_to_learn_baselines_from_need_no_id_weight_or_group(
    lively_model: Path, rows: Rows, tmp_path: Path
) -> None:
    made = [
        {**row, "ticket": number, "who": number // 2, "w": 1.0} for number, row in enumerate(rows("single-label", 40))
    ]
    told = OPTIONS | {"train.epochs": 1, "data.id": "ticket", "data.group": "who", "data.weight": "w"}
    run = kitune.train(made, model=str(lively_model), out=tmp_path / "run", text="text", label="label", options=told)
    plain = [{"text": row["text"], "label": row["label"]} for row in made]
    assert "TF-IDF" in run.evaluate(rows("single-label", 20, seed=3), train=plain).baselines


def test_a_group_column_of_lists_is_refused(run_of: Callable[..., kitune.Run], rows: Rows) -> None:
    made = [{**row, "who": [number]} for number, row in enumerate(rows("single-label", 10))]
    with pytest.raises(UserError, match="column 'who' holds lists, which name no groups"):
        run_of("single-label").model.with_layout({"data.group": "who"}).evaluate(made, baselines=False)


def test_texts_of_the_run_that_a_run_goes_on_from_are_not_new(
    run_of: Callable[..., kitune.Run], rows: Rows, tmp_path: Path
) -> None:
    first = run_of("single-label")
    other = [{**row, "text": f"{row['text']} anew"} for row in rows("single-label", 30, seed=7)]
    told = OPTIONS | {"train.epochs": 1}
    second = kitune.train(other, model=first, out=tmp_path / "second", text="text", label="label", options=told)
    found = second.evaluate(rows("single-label", 90), baselines=False)
    assert any("was trained on all of these texts" in note for note in found.notes)


def test_validation_rows_from_python_are_said_to_be_missing_not_changed(
    lively_model: Path, rows: Rows, tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "train.jsonl", rows("single-label", 40))
    told = OPTIONS | {"train.epochs": 1}
    run = kitune.train(
        data, valid=rows("single-label", 20, seed=2), model=str(lively_model), out=tmp_path / "run", options=told
    )
    notes = run.evaluate(rows("single-label", 20, seed=3)).notes
    assert any("validation rows came from Python" in note for note in notes)
    assert not any("are not those that the run learned from" in note for note in notes)


def test_half_a_surrogate_is_refused_as_a_text(run_of: Callable[..., kitune.Run]) -> None:
    with pytest.raises(UserError, match="is no Unicode text"):
        run_of("single-label").predict(["a \ud800 b"])


def test_few_groups_are_told_to_say_little() -> None:
    logits = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)
    found = judged(
        Answered("single-label", logits, np.arange(200) % 2, ("no", "yes"), groups=np.arange(200) // 25), "t"
    )
    told = "200 rows are of 8 groups: the intervals draw whole groups, so few that"
    assert any(note.startswith(told) for note in found.notes)


def test_a_model_from_elsewhere_reads_both_texts_of_a_pair(run_of: Callable[..., kitune.Run], tmp_path: Path) -> None:
    plain = shutil.copytree(run_of("single-label") / "best", tmp_path / "plain")
    (plain / "run.yaml").unlink()
    model = kitune.load(plain)
    one, other = (model.predict([pair]).logits for pair in (("good film", "bad"), ("bad", "good film")))
    assert not np.allclose(one, other, atol=1e-3)


def test_a_baseline_that_would_take_minutes_is_left_out_aloud(
    run_of: Callable[..., kitune.Run], rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linear, "MOST_COEFFICIENTS", 70)  # two labels of the probe's 32 features, and not of all words
    found = run_of("single-label").evaluate(rows("single-label", 30, seed=4))
    assert set(found.baselines) == {"majority", "frozen probe"}
    assert any(note.startswith("no TF-IDF: 2 labels of ") for note in found.notes)


def test_a_label_that_every_row_of_train_has_is_always_answered() -> None:
    labels = np.asarray([[1, 0], [1, 1]] * 10, dtype=np.float32)
    features = np.random.default_rng(0).normal(size=(20, 3))
    head, threshold, _ = linear.fit_head("multi-label", (features, features), (labels, labels), num_outputs=2)
    assert ((head(features)[:, 0] > 1e3) & (threshold < 1)).all()
