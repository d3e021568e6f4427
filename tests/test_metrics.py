import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import expit
from scipy.special import softmax as scipy_softmax
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import (
    accuracy_score,
    f1_score,
    matthews_corrcoef,
    mean_absolute_error,
    root_mean_squared_error,
)

from kitune.metrics import (
    MORE_IS_BETTER,
    THRESHOLDS,
    best_threshold,
    better,
    multi_label_metrics,
    regression_metrics,
    sigmoid,
    single_label_metrics,
    softmax,
    standard_error,
    table_line,
)
from kitune.tasks import TASKS

Floats = NDArray[np.float32]


def random_logits(seed: int, *shape: int) -> Floats:
    return (3 * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


def logits_for(predicted: list[int], classes: int) -> Floats:
    return np.eye(classes, dtype=np.float32)[predicted]


@pytest.mark.parametrize("classes", [2, 3, 7])
@pytest.mark.parametrize("seed", range(5))
def test_single_label_metrics_are_those_of_scikit_learn(seed: int, classes: int) -> None:
    logits = random_logits(seed, 50, classes)
    labels = np.random.default_rng(seed + 100).integers(0, classes, size=50)
    predicted = logits.argmax(axis=1)
    expected = {
        "accuracy": accuracy_score(labels, predicted),
        "macro_f1": f1_score(labels, predicted, average="macro"),
        "mcc": matthews_corrcoef(labels, predicted),
    }
    if classes == 2:
        expected["f1"] = f1_score(labels, predicted)
    metrics = single_label_metrics(logits, labels)
    assert metrics == pytest.approx(expected, rel=1e-12)
    assert all(type(value) is float for value in metrics.values())


def test_f1_is_that_of_the_second_class() -> None:
    metrics = single_label_metrics(logits_for([1, 1, 0, 0, 0], 2), np.array([1, 0, 1, 0, 0]))
    assert metrics["f1"] == pytest.approx(0.5)
    assert metrics["macro_f1"] == pytest.approx((0.5 + 2 / 3) / 2)


def test_of_equal_outputs_the_first_is_the_answer() -> None:
    labels = np.array([0, 1, 2])
    assert single_label_metrics(np.zeros((3, 3), dtype=np.float32), labels)["accuracy"] == pytest.approx(1 / 3)


def test_classes_that_occur_nowhere_do_not_count_in_macro_f1() -> None:
    metrics = single_label_metrics(logits_for([0, 0, 2, 2], 5), np.array([0, 0, 2, 2]))
    assert metrics == {"accuracy": 1.0, "macro_f1": 1.0, "mcc": 1.0}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("right", [True, False])
def test_labels_of_one_class_have_metrics(right: bool) -> None:
    metrics = single_label_metrics(logits_for([int(right)] * 4, 2), np.array([1, 1, 1, 1]))
    assert metrics == {"accuracy": float(right), "macro_f1": float(right), "mcc": 0.0, "f1": float(right)}


@pytest.mark.filterwarnings("error")
def test_constant_answers_have_metrics() -> None:
    metrics = single_label_metrics(logits_for([0, 0, 0, 0], 2), np.array([0, 1, 0, 1]))
    assert metrics == pytest.approx({"accuracy": 0.5, "macro_f1": 1 / 3, "mcc": 0.0, "f1": 0.0})


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_multi_label_metrics_are_those_of_scikit_learn(seed: int, threshold: float) -> None:
    logits = random_logits(seed, 40, 4)
    labels = (np.random.default_rng(seed + 100).random((40, 4)) < 0.3).astype(np.float32)
    predicted = expit(logits.astype(np.float64)) >= threshold
    gold = labels.astype(int)
    assert multi_label_metrics(logits, labels, threshold=threshold) == pytest.approx(
        {
            "micro_f1": f1_score(gold, predicted, average="micro"),
            "macro_f1": f1_score(gold, predicted, average="macro", zero_division=0),
            "subset_accuracy": accuracy_score(gold, predicted),
        },
        rel=1e-12,
    )


@pytest.mark.filterwarnings("error")
def test_rows_without_any_label_or_answer_have_metrics() -> None:
    nothing = np.zeros((3, 2), dtype=np.float32)
    assert multi_label_metrics(nothing - 9, nothing) == {"micro_f1": 0.0, "macro_f1": 0.0, "subset_accuracy": 1.0}
    assert multi_label_metrics(nothing, nothing + 1)["subset_accuracy"] == 1.0  # 0.5 reaches the threshold of 0.5


@pytest.mark.parametrize("seed", range(5))
def test_the_best_threshold_is_the_best_of_its_grid_and_of_equals_the_one_nearest_to_a_half(seed: int) -> None:
    logits = random_logits(seed, 30, 3)
    labels = (expit(logits - 1) > np.random.default_rng(seed + 100).random((30, 3))).astype(np.float32)
    probabilities = expit(logits.astype(np.float64))
    scores = np.array([f1_score(labels.astype(int), probabilities >= t, average="micro") for t in THRESHOLDS])
    chosen = best_threshold(logits, labels)
    equals = THRESHOLDS[scores == scores.max()]
    assert chosen in equals
    assert abs(chosen - 0.5) == pytest.approx(np.abs(equals - 0.5).min())


def test_where_every_threshold_is_as_good_it_is_a_half() -> None:
    labels = np.array([[1, 0], [0, 1]], dtype=np.float32)
    assert best_threshold(100 * (labels - 0.5), labels) == pytest.approx(0.5)


@pytest.mark.parametrize("seed", range(5))
def test_regression_metrics_are_those_of_scipy_and_scikit_learn(seed: int) -> None:
    predicted = random_logits(seed, 40, 1)
    gold = (predicted + random_logits(seed + 100, 40, 1)).round(0)  # rounded: ties
    assert len(np.unique(gold)) < 40
    assert regression_metrics(predicted, gold) == pytest.approx(
        {
            "pearson": pearsonr(predicted[:, 0], gold[:, 0]).statistic,
            "spearman": spearmanr(predicted[:, 0], gold[:, 0]).statistic,
            "rmse": root_mean_squared_error(gold, predicted),
            "mae": mean_absolute_error(gold, predicted),
        },
        rel=1e-6,
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("predicted", "gold"), [([2, 2, 2], [1, 2, 3]), ([1, 2, 3], [2, 2, 2]), ([1], [3])])
def test_a_correlation_with_a_constant_is_zero(predicted: list[float], gold: list[float]) -> None:
    metrics = regression_metrics(np.array([predicted], np.float32).T, np.array([gold], np.float32).T)
    assert (metrics["pearson"], metrics["spearman"]) == (0.0, 0.0)
    assert metrics["mae"] == pytest.approx(np.abs(np.subtract(predicted, gold)).mean())


def test_probabilities_are_those_of_scipy_and_bear_large_logits() -> None:
    logits = np.concatenate([random_logits(0, 20, 5), np.array([[1e4, -1e4, 0, 1e4, 3]], np.float32)])
    np.testing.assert_allclose(softmax(logits), scipy_softmax(logits.astype(np.float64), axis=1), rtol=1e-6)
    np.testing.assert_allclose(softmax(logits).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(sigmoid(logits), expit(logits.astype(np.float64)), rtol=1e-12, atol=1e-15)
    assert np.isfinite(sigmoid(logits)).all()


@pytest.mark.parametrize("name", MORE_IS_BETTER)
def test_the_better_of_two_values_goes_by_the_metric(name: str) -> None:
    larger_wins = name not in {"loss", "rmse", "mae"}
    assert better(name, 0.8, 0.7) is larger_wins
    assert better(name, 0.7, 0.8) is not larger_wins
    assert better(name, 0.7, 0.7) is False
    assert better(name, 0.7, None) is True
    assert better(name, float("nan"), 0.7) is False
    assert better(name, float("nan"), None) is False


def test_a_standard_error_is_the_spread_of_a_metric_over_many_test_sets() -> None:
    generator = np.random.default_rng(0)
    shares = generator.binomial(400, 0.85, size=20_000) / 400
    assert standard_error("accuracy", 0.85, 400) == pytest.approx(shares.std(), rel=0.03)
    x = generator.normal(size=(4_000, 300))
    y = 0.8 * x + 0.6 * generator.normal(size=x.shape)
    assert standard_error("pearson", 0.8, 300) == pytest.approx(pearsonr(x, y, axis=1).statistic.std(), rel=0.05)


def test_of_a_loss_or_a_single_row_no_standard_error_is_known() -> None:
    assert standard_error("loss", 0.3, 400) == standard_error("accuracy", 0.5, 1) == 0.0
    assert standard_error("accuracy", 1.0, 400) == 0.0


def test_every_metric_that_may_be_asked_for_has_a_direction() -> None:
    assert set(MORE_IS_BETTER) == {"loss"} | {name for task in TASKS.values() for name in task.headline}


def test_a_line_holds_the_metrics_that_are_there_in_the_order_asked() -> None:
    assert table_line({"f1": 0.5, "accuracy": 0.91234}, ["accuracy", "mcc", "f1"]) == "accuracy 0.9123, f1 0.5000"


@pytest.mark.parametrize("seed", range(3))
def test_a_single_label_of_many_that_could_be_is_scored_as_one_of_several(seed: int) -> None:
    logits, labels = random_logits(seed, 40, 1), (np.random.default_rng(seed).random((40, 1)) < 0.4).astype(np.float32)
    found, predicted = multi_label_metrics(logits, labels), logits[:, 0] >= 0
    f1 = f1_score(labels[:, 0] > 0.5, predicted)
    assert found == pytest.approx(
        {"micro_f1": f1, "macro_f1": f1, "subset_accuracy": accuracy_score(labels[:, 0] > 0.5, predicted)}
    )
    assert best_threshold(logits, labels) in THRESHOLDS
