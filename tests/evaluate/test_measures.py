"""Metrics equal scikit-learn's and scipy's own, and what has no meaning says so."""

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit, softmax
from scipy.stats import pearsonr, spearmanr
from sklearn import metrics as reference

from kitune.evaluate.bootstrap import difference, intervals
from kitune.evaluate.measures import Answered, Measure, calibration_error, measures
from kitune.metrics import Metrics

NAMES = tuple("abcdefgh")


def all_of(answered: Answered) -> Metrics:
    return {name: value for measure in measures(answered) for name, value in measure.value().items()}


def single(seed: int, rows: int, classes: int) -> Answered:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, classes, rows)
    logits = generator.normal(size=(rows, classes)) + np.eye(classes)[labels]
    return Answered("single-label", logits.astype(np.float32), labels, NAMES[:classes])


def by_chance(task: str, generator: np.random.Generator, rows: int) -> Answered:
    """Answers and labels that have nothing to do with each other: of three labels, or of a number."""
    logits = generator.normal(size=(rows, 1 if task == "regression" else 3)).astype(np.float32)
    labels: dict[str, NDArray[np.int64] | NDArray[np.float32]] = {
        "single-label": generator.integers(0, 3, rows),
        "multi-label": (generator.random((rows, 3)) < 0.5).astype(np.float32),
        "regression": generator.normal(size=(rows, 1)).astype(np.float32),
    }
    return Answered(task, logits, labels[task], NAMES[: logits.shape[1]])  # type: ignore[arg-type]


@pytest.mark.parametrize("classes", [2, 3, 8])
@pytest.mark.parametrize("seed", range(5))
def test_single_label_metrics_are_those_of_scikit_learn(seed: int, classes: int) -> None:
    answered = single(seed, 60, classes)
    gold, predicted = answered.labels, answered.logits.argmax(axis=1)
    shares = softmax(answered.logits.astype(np.float64), axis=1)
    expected = {
        "accuracy": reference.accuracy_score(gold, predicted),
        "balanced_accuracy": reference.balanced_accuracy_score(gold, predicted),
        "mcc": reference.matthews_corrcoef(gold, predicted),
        "log_loss": reference.log_loss(gold, shares, labels=range(classes)),
        **{f"{how}_f1": reference.f1_score(gold, predicted, average=how) for how in ("macro", "micro", "weighted")},
    }
    of_labels = reference.precision_recall_fscore_support(gold, predicted, labels=range(classes), zero_division=0.0)
    for kind, values in zip(("precision", "recall", "f1"), of_labels, strict=False):
        expected |= {f"{kind}[{NAMES[number]}]": value for number, value in enumerate(values)}
    if classes == 2:
        expected |= {"f1": reference.f1_score(gold, predicted), "auc": reference.roc_auc_score(gold, shares[:, 1])}
    else:
        expected["auc"] = reference.roc_auc_score(gold, shares, multi_class="ovr")
    found = all_of(answered)
    assert found.pop("calibration_error") >= 0
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_multi_label_metrics_are_those_of_scikit_learn(seed: int) -> None:
    generator = np.random.default_rng(seed)
    gold = generator.random((70, 4)) < 0.4
    logits = (3 * generator.normal(size=gold.shape) + gold).astype(np.float32)
    answered = Answered("multi-label", logits, gold.astype(np.float32), NAMES[:4], threshold=0.3)
    shares = expit(logits.astype(np.float64))
    predicted = shares >= 0.3
    expected = {
        "subset_accuracy": reference.accuracy_score(gold, predicted),
        "auc": reference.roc_auc_score(gold, shares, average="macro"),
        "log_loss": np.mean([reference.log_loss(gold[:, i], shares[:, i]) for i in range(4)]),
        **{f"{how}_f1": reference.f1_score(gold, predicted, average=how) for how in ("macro", "micro", "weighted")},
    }
    of_labels = reference.precision_recall_fscore_support(gold, predicted, zero_division=0.0)
    for kind, values in zip(("precision", "recall", "f1"), of_labels, strict=False):
        expected |= {f"{kind}[{NAMES[number]}]": value for number, value in enumerate(values)}
    found = all_of(answered)
    assert found.pop("calibration_error") >= 0
    assert found == pytest.approx(expected, rel=1e-9)


def test_regression_metrics_are_those_of_scipy_and_scikit_learn_with_ties_too() -> None:
    generator = np.random.default_rng(0)
    gold = generator.integers(0, 4, (50, 1)).astype(np.float32)
    said = np.round(gold + generator.normal(size=gold.shape), 1).astype(np.float32)
    found = all_of(Answered("regression", said, gold, ("score",)))
    assert found == pytest.approx(
        {
            "pearson": pearsonr(said[:, 0].astype(float), gold[:, 0].astype(float)).statistic,
            "spearman": spearmanr(said[:, 0], gold[:, 0]).statistic,
            "rmse": reference.root_mean_squared_error(gold, said),
            "mae": reference.mean_absolute_error(gold, said),
        },
        rel=1e-6,
    )


def test_equal_probabilities_count_half_in_an_auc() -> None:
    logits = np.zeros((10, 2), dtype=np.float32)
    assert all_of(Answered("single-label", logits, np.arange(10) % 2, NAMES[:2]))["auc"] == 0.5


def test_a_class_that_neither_occurs_nor_is_predicted_is_in_no_average() -> None:
    logits = np.asarray([[3, 1, 0], [3, 1, 0], [1, 3, 0], [1, 3, 0]], dtype=np.float32)
    found = all_of(Answered("single-label", logits, np.asarray([0, 0, 1, 0]), NAMES[:3]))
    assert all(np.isnan(found[f"{kind}[c]"]) for kind in ("precision", "recall", "f1"))
    assert found["macro_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)


def test_a_class_that_is_predicted_but_does_not_occur_has_no_recall_and_an_f1_of_0() -> None:
    logits = np.asarray([[3, 1], [1, 3]], dtype=np.float32)
    found = all_of(Answered("single-label", logits, np.asarray([0, 0]), NAMES[:2]))
    assert np.isnan(found["recall[b]"])
    assert (found["precision[b]"], found["f1[b]"]) == (0.0, 0.0)


def test_a_test_part_of_one_class_has_accuracy_but_no_auc_and_an_mcc_of_0() -> None:
    logits = np.asarray([[3, 1], [2, 1], [4, 0]], dtype=np.float32)
    found = all_of(Answered("single-label", logits, np.zeros(3, dtype=np.int64), NAMES[:2]))
    assert (found["accuracy"], found["mcc"]) == (1.0, 0.0)
    assert np.isnan(found["auc"])


def test_constant_answers_correlate_with_nothing() -> None:
    gold = np.arange(5, dtype=np.float32)[:, None]
    found = all_of(Answered("regression", np.ones_like(gold), gold, ("score",)))
    assert (found["pearson"], found["spearman"]) == (0.0, 0.0)


def test_the_calibration_error_is_the_mean_gap_between_confidence_and_share_right() -> None:
    confidence = np.asarray([0.95, 0.95, 0.55, 0.55])
    right = np.asarray([True, False, True, True])
    assert calibration_error(confidence, right, np.ones(4)) == pytest.approx((0.45 + 0.45) / 2)
    twice = calibration_error(np.repeat(confidence, 2), np.repeat(right, 2), np.ones(8))
    assert calibration_error(confidence, right, np.full(4, 2)) == pytest.approx(twice)


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
def test_a_row_that_weighs_two_counts_as_two_rows(task: str) -> None:
    generator = np.random.default_rng(3)
    gold: NDArray[np.int64] | NDArray[np.float32]
    if task == "single-label":
        gold, logits = generator.integers(0, 3, 30), generator.normal(size=(30, 3))
    elif task == "multi-label":
        gold, logits = (generator.random((30, 3)) < 0.5).astype(np.float32), generator.normal(size=(30, 3))
    else:
        gold, logits = generator.normal(size=(30, 1)).astype(np.float32), generator.normal(size=(30, 1))
    answered = Answered(task, logits.astype(np.float32), gold, NAMES[: logits.shape[1]])  # type: ignore[arg-type]
    doubled = all_of(answered.take(np.repeat(np.arange(30), 2)))
    weighted: Metrics = {}
    for measure in measures(answered):
        weighted |= dict(zip(measure.names, measure.of(2 * measure.counts[None])[0], strict=True))
    assert weighted == pytest.approx(doubled, rel=1e-9)


def right_or_wrong(right: NDArray[np.bool_]) -> Measure:
    """Accuracy alone, as the evaluation has it: over two cells."""
    share = lambda weights: np.asarray(weights[:, :1] / weights.sum(axis=1, keepdims=True))  # noqa: E731
    return Measure(("accuracy",), (~right).astype(np.int64), share, 1)


@pytest.mark.parametrize(("rows", "accuracy"), [(200, 0.7), (400, 0.85), (1000, 0.9)])
def test_of_500_test_sets_the_interval_covers_the_true_accuracy_in_93_to_97_percent(rows: int, accuracy: float) -> None:
    generator = np.random.default_rng(5)
    covered = 0
    for _ in range(500):
        low, high = intervals(right_or_wrong(generator.random(rows) < accuracy))["accuracy"]
        covered += low <= accuracy <= high
    assert 0.93 <= covered / 500 <= 0.97


@pytest.mark.parametrize("sizes", ["equal", "uneven"])
def test_of_groups_whose_rows_are_alike_the_interval_covers_the_truth_where_one_by_rows_does_not(sizes: str) -> None:
    generator = np.random.default_rng(5)
    by_rows = by_groups = 0
    for _ in range(500):
        share = generator.beta(4, 1, size=60)  # of a customer's rows that are right; 0.8 on average
        count = np.full(60, 10) if sizes == "equal" else 1 + generator.geometric(0.1, size=60)
        groups = np.repeat(np.arange(60), count)
        answers = right_or_wrong(generator.random(len(groups)) < share[groups])
        low, high = intervals(answers, groups=groups)["accuracy"]
        by_groups += low <= 0.8 <= high
        low, high = intervals(answers)["accuracy"]
        by_rows += low <= 0.8 <= high
    assert 0.93 <= by_groups / 500 <= 0.97
    assert by_rows / 500 < 0.8


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
def test_intervals_of_groups_of_one_row_are_those_of_rows(task: str) -> None:
    answered = by_chance(task, np.random.default_rng(8), 60)
    groups = np.repeat(np.arange(20), 3)
    for measure in measures(answered):
        rows, own, together = (intervals(measure, groups=one) for one in (None, 7 + np.arange(60), groups))
        assert own.keys() == rows.keys()
        for name, (low, high) in rows.items():
            assert own[name][1] - own[name][0] == pytest.approx(high - low, rel=0.35), name
        assert together.keys() <= rows.keys()
    assert intervals(measures(answered)[0], groups=np.zeros(60, dtype=np.int64)) == {}


def test_a_difference_over_groups_is_that_of_whole_groups() -> None:
    generator = np.random.default_rng(9)
    groups = np.repeat(np.arange(30), 10)
    easy = generator.random(30)[groups] < 0.5  # one side answers all rows of such a customer, the other none
    one, other = right_or_wrong(easy), right_or_wrong(~easy)
    by_rows, by_groups = difference(one, other, "accuracy"), difference(one, other, "accuracy", groups)
    assert by_rows is not None
    assert by_groups is not None
    assert (by_groups[1] - by_groups[0]) / (by_rows[1] - by_rows[0]) == pytest.approx(10**0.5, rel=0.2)


def test_intervals_are_the_same_each_time_and_hold_the_value() -> None:
    answered = single(1, 200, 3)
    first, second = (intervals(measures(answered)[0], most=200) for _ in range(2))
    assert first == second
    values = measures(answered)[0].value()
    assert all(low <= values[name] <= high for name, (low, high) in first.items())


@pytest.mark.parametrize("task", ["single-label", "multi-label", "regression"])
def test_of_rows_that_are_weighed_the_metrics_are_those_of_their_cases(task: str) -> None:
    generator = np.random.default_rng(4)
    answered = by_chance(task, generator, 40)
    rows = generator.integers(0, 40, 40)
    drawn = all_of(answered.take(rows))
    weights = np.bincount(rows, minlength=40)[None]
    for measure in measures(answered):
        values = measure.of_rows(weights)[0]
        told = dict(zip(measure.names, values, strict=True))
        assert told == pytest.approx({name: drawn[name] for name in measure.names}, nan_ok=True)


def test_a_difference_on_the_same_rows_is_covered_and_narrower_than_two_intervals_say() -> None:
    generator, covered, widths = np.random.default_rng(6), 0, []
    for _ in range(300):
        hard = generator.random(300) < 0.3  # for both
        first, second = (~hard & (generator.random(300) < share) for share in (0.95, 0.9))
        one, other = right_or_wrong(first), right_or_wrong(second)
        found = difference(one, other, "accuracy")
        assert found is not None
        covered += found[0] <= 0.7 * 0.05 <= found[1]
        alone = intervals(one)["accuracy"]
        widths.append((found[1] - found[0]) / (alone[1] - alone[0]))
    assert 0.91 <= covered / 300 <= 0.98
    assert np.mean(widths) < 0.8  # of independent rows it would be 1.4


def test_the_interval_narrows_with_the_root_of_the_rows() -> None:
    widths = []
    for rows in (200, 3200):
        low, high = intervals(measures(single(1, rows, 2))[0], most=300)["accuracy"]
        widths.append(high - low)
    assert widths[0] / widths[1] == pytest.approx(4, rel=0.3)


def test_an_interval_that_would_take_too_long_is_not_there() -> None:
    slow = Measure(("accuracy",), np.arange(5), lambda weights: np.ones((len(weights), 1)), 1e6)
    assert intervals(slow) == {}


def test_a_calibration_error_has_no_interval_because_resamples_inflate_it() -> None:
    assert intervals(measures(single(0, 100, 2))[-1]) == {}


def test_a_resample_without_a_meaning_is_not_counted() -> None:
    labels = np.zeros(100, dtype=np.int64)
    labels[0] = 1  # a third of the resamples lack it
    right = 5 * np.eye(2, dtype=np.float32)[labels]
    found = {
        name: value
        for one in measures(Answered("single-label", right, labels, NAMES[:2]))
        for name, value in intervals(one).items()
    }
    assert "mcc" not in found, "it is 1 on every resample that it has a meaning on"
    assert found["accuracy"][1] == 1.0


def test_a_mean_over_labels_of_a_row_each_has_no_interval() -> None:
    labels = np.concatenate([np.zeros(80, dtype=np.int64), np.arange(1, 21)])
    answers = np.tile(np.eye(21, dtype=np.float32)[0], (100, 1))
    decisions = measures(Answered("single-label", answers, labels, tuple(f"label {i}" for i in range(21))))[0]
    found = intervals(decisions)
    assert "macro_f1" in decisions.names
    assert "macro_f1" not in found, "resamples lack some of the labels that are always wrong"
    assert found["accuracy"][0] < 0.8 < found["accuracy"][1]


def test_sides_that_differ_alike_on_every_resample_have_no_interval() -> None:
    right, wrong = right_or_wrong(np.ones(12, dtype=bool)), right_or_wrong(np.zeros(12, dtype=bool))
    assert difference(right, wrong, "accuracy") is None
    assert difference(right, right, "accuracy") is None
