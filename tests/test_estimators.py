"""kitune in scikit-learn's ways: cloned, searched, calibrated, piped, pickled, and checked by scikit-learn itself."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

import kitune
from kitune import TextClassifier, TextRegressor
from kitune.errors import UserError
from kitune.estimators import quiet

Rows = Callable[..., list[dict[str, Any]]]
SMALL: dict[str, Any] = {
    "train.dropout": 0.0,
    "engine.threads": 1,
    "engine.precision": "fp32",
    "doctor.allow": ["few-rows", "near-duplicates"],
}


def small(kind: Any, model: Path, **told: Any) -> Any:
    """An estimator that learns in a second."""
    told = {"epochs": 3, "learning_rate": 3e-3, "max_length": 32, "options": SMALL, **told}
    return kind(str(model), **told)


@pytest.fixture(scope="module")
def texts(rows: Rows) -> tuple[list[str], Any]:
    made = rows("single-label", 60)
    return [row["text"] for row in made], np.asarray([row["label"] for row in made])


@pytest.fixture(scope="module")
def fitted(lively_model: Path, texts: tuple[list[str], Any]) -> Any:
    return small(TextClassifier, lively_model).fit(*texts)


def test_probabilities_have_a_column_a_class_in_the_order_of_classes(fitted: Any, texts: tuple[list[str], Any]) -> None:
    shares = fitted.predict_proba(texts[0])
    assert fitted.classes_.tolist() == ["no", "yes"]
    assert shares.shape == (60, 2)
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    assert fitted.predict(texts[0]).tolist() == fitted.classes_[shares.argmax(axis=1)].tolist()
    assert ((fitted.decision_function(texts[0]) > 0) == (shares[:, 1] > 0.5)).all()


@pytest.mark.parametrize(
    "labels", [np.asarray(["yes", "no"]), np.asarray([7, -3]), np.asarray([True, False]), np.asarray([2.0, 1.0])]
)
def test_classes_are_the_labels_as_they_were_given(
    lively_model: Path, texts: tuple[list[str], Any], labels: Any
) -> None:
    y = labels[(texts[1] == "yes").astype(int)]
    model = small(TextClassifier, lively_model, epochs=1).fit(texts[0], y)
    assert model.classes_.tolist() == sorted(labels.tolist())
    assert set(model.predict(texts[0]).tolist()) <= set(labels.tolist())
    assert model.predict(texts[0]).dtype == labels.dtype


def test_a_clone_is_unfitted_and_has_the_same_parameters(fitted: Any, texts: tuple[list[str], Any]) -> None:
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params()
    with pytest.raises(NotFittedError):
        copy.predict(texts[0])


def test_a_second_fit_starts_anew_and_ends_the_same(lively_model: Path, texts: tuple[list[str], Any]) -> None:
    model = small(TextClassifier, lively_model, epochs=1, random_state=3)
    first = model.fit(*texts).predict_proba(texts[0])
    second = model.fit(*texts).predict_proba(texts[0])
    assert (first == second).all()


@pytest.mark.parametrize("way", ["pickle", "joblib"])
def test_a_fitted_model_answers_the_same_after_a_round_trip(
    fitted: Any, texts: tuple[list[str], Any], tmp_path: Path, way: str
) -> None:
    before = fitted.predict_proba(texts[0])
    if way == "pickle":
        back = pickle.loads(pickle.dumps(fitted))
    else:
        joblib.dump(fitted, tmp_path / "model.joblib")
        back = joblib.load(tmp_path / "model.joblib")
    assert (back.predict_proba(texts[0]) == before).all()


def test_a_fitted_model_can_be_saved_as_a_folder(fitted: Any, texts: tuple[list[str], Any], tmp_path: Path) -> None:
    folder = fitted.save(tmp_path / "model")
    assert kitune.load(folder).label_names == ("no", "yes")
    assert kitune.load(folder).predict(texts[0]).labels == fitted.predict(texts[0]).tolist()
    with pytest.raises(UserError, match="there is no folder"):
        fitted.save(tmp_path / "nowhere" / "model")
    np.testing.assert_array_equal(kitune.load(folder).predict(texts[0]).probabilities, fitted.predict_proba(texts[0]))
    with pytest.raises(UserError, match="it exists already"):
        fitted.save(folder)


@pytest.mark.parametrize("light", [0.0, 0.1])
def test_light_rows_teach_little_and_those_of_weight_0_nothing(
    lively_model: Path, texts: tuple[list[str], Any], light: float
) -> None:
    words, y = texts
    wrong = np.where(y == "yes", "no", "yes")
    both, labels = words + words, np.concatenate([y, wrong])
    weights = np.concatenate([np.ones(60), np.full(60, light)])
    allowed = SMALL | {"doctor.allow": ["few-rows", "near-duplicates", "conflicting-labels", "duplicates"]}
    told = {"options": allowed, "valid_share": 0, "epochs": 8}
    right = small(TextClassifier, lively_model, **told).fit(both, labels, sample_weight=weights)
    turned = small(TextClassifier, lively_model, **told).fit(both, labels, sample_weight=weights[::-1])
    assert right.score(words, y) > 0.6 > 0.4 > turned.score(words, y)


def test_a_class_whose_rows_all_weigh_nothing_keeps_its_column(
    lively_model: Path, texts: tuple[list[str], Any]
) -> None:
    y = texts[1].astype(object)
    y[:5] = "maybe"
    weights = np.where(y == "maybe", 0.0, 1.0)
    model = small(TextClassifier, lively_model, epochs=1).fit(texts[0], y.astype(str), sample_weight=weights)
    assert model.classes_.tolist() == ["maybe", "no", "yes"]
    assert model.predict_proba(texts[0]).shape == (60, 3)
    y[:5] = "maybe later"
    model = small(TextClassifier, lively_model, epochs=1).fit(texts[0], pd.Series(y, dtype=object), weights)
    assert model.classes_.tolist() == ["maybe later", "no", "yes"]
    y[:5] = 1
    with pytest.raises(ValueError, match="y has words and numbers"):
        model.fit(texts[0], y, weights)
    y[:5] = None
    model = small(TextClassifier, lively_model, epochs=1).fit(texts[0], y, sample_weight=np.where(y == None, 0, 1))  # noqa: E711
    assert model.classes_.tolist() == ["no", "yes"]


def test_a_fit_that_fails_leaves_what_was_fitted(lively_model: Path, texts: tuple[list[str], Any]) -> None:
    model = small(TextClassifier, lively_model, epochs=1).fit(*texts)
    before = model.predict(texts[0])
    with pytest.raises(UserError, match="max_length"):
        model.set_params(max_length=10_000).fit(texts[0], np.arange(60) % 3)
    assert (model.predict(texts[0]) == before).all()


def test_searches_pipelines_and_cross_validation_take_it(lively_model: Path, texts: tuple[list[str], Any]) -> None:
    words, y = np.asarray(texts[0]), np.where(texts[1] == "yes", -3, 7)
    model = small(TextClassifier, lively_model, epochs=12)
    by_hand = [
        clone(model).fit(words[train], y[train]).score(words[test], y[test])
        for train, test in StratifiedKFold(2).split(words, y)
    ]
    assert cross_val_score(model, words, y, cv=2).tolist() == by_hand
    search = GridSearchCV(model, {"learning_rate": [1e-9, 3e-3]}, cv=2, n_jobs=1).fit(words, y)
    assert search.best_params_["learning_rate"] == 3e-3
    assert search.cv_results_["mean_test_score"][1] == pytest.approx(np.mean(by_hand))
    lower = FunctionTransformer(lambda column: [text.lower() for text in column])
    piped = make_pipeline(lower, clone(model)).fit(words, y)
    assert (piped.predict(words) == clone(model).fit(words, y).predict(words)).all()
    calibrated = CalibratedClassifierCV(model, cv=2).fit(words, y)
    assert calibrated.classes_.tolist() == [-3, 7]
    of_seven = calibrated.predict_proba(words)[:, 1]
    assert of_seven[y == 7].mean() > of_seven[y == -3].mean() + 0.1


def test_pairs_and_frames_go_in(lively_model: Path, rows: Rows) -> None:
    made = rows("single-label", 40, pair=True)
    frame = pd.DataFrame({"a": [row["text"] for row in made], "b": [row["other"] for row in made]})
    y = [row["label"] for row in made]
    model = small(TextClassifier, lively_model, epochs=1).fit(frame, y)
    pairs = list(zip(frame["a"], frame["b"], strict=True))
    assert (model.predict_proba(pairs) == model.predict_proba(frame)).all()
    assert (model.predict_proba(np.asarray(pairs)) == model.predict_proba(frame)).all()
    with pytest.raises(ValueError, match="1 text columns, and the model was fitted on 2"):
        model.predict(frame["a"])


def test_a_regressor_gives_numbers(lively_model: Path, rows: Rows) -> None:
    made = rows("regression", 60)
    words, y = [row["text"] for row in made], np.asarray([row["label"] for row in made])
    model = small(TextRegressor, lively_model, epochs=25).fit(words, y)
    assert model.predict(words).shape == (60,)
    assert model.score(words, y) > 0.2
    again = pickle.loads(pickle.dumps(model))
    assert (again.predict(words) == model.predict(words)).all()


@pytest.mark.parametrize(
    ("X", "y", "said"),
    [
        (["a", "b"], ["x", "x"], "y has one class"),
        (["a", 3], ["x", "y"], "X, row 1: 3 is no text"),
        (["a", "b \ud800"], ["x", "y"], r"X, row 1: 'b \\ud800' is no Unicode text"),
        (["a", "b"], ["x"], "inconsistent numbers of samples"),
        ([("a", "b", "c")], ["x"], "3 columns"),
        ([], [], "0 sample"),
        ("great", ["x"] * 5, "X is one text, 'great'"),
        (["a", "b", "c"], ["x", float("nan"), "y"], "y has nan, which is no label"),
        (["a", "b", "c"], [None, "x", "y"], "y has None, which is no label"),
        (["a", "b", "c"], np.array([1, "x", "y"], dtype=object), "y has words and numbers"),
    ],
)
def test_what_makes_no_sense_is_refused(lively_model: Path, X: Any, y: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        small(TextClassifier, lively_model).fit(X, y)


class Adapted:
    """Lets scikit-learn's checks, which are made of tables of numbers, reach an estimator of texts."""

    def fit(self, X: Any, y: Any = None, sample_weight: Any = None) -> Any:
        if y is not None:
            X, y = validate_data(self, X, y, dtype=None)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, X)
        return super().fit(as_texts(X), y, sample_weight)  # type: ignore[misc]

    def _logits(self, X: Any) -> Any:
        check_is_fitted(self, "files_")
        return super()._logits(as_texts(validate_data(self, X, dtype=None, reset=False)))  # type: ignore[misc]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()  # type: ignore[misc]
        tags.input_tags.string, tags.input_tags.two_d_array = False, True
        # A random encoder does not tell clouds of points apart by the words for their coordinates, in an epoch.
        for of_kind in (tags.classifier_tags, tags.regressor_tags):
            if of_kind is not None:
                of_kind.poor_score = True
        return tags


def as_texts(X: Any) -> list[str]:
    """Each row of numbers as words."""
    numbers = [[float(value) for value in row] for row in np.asarray(X)]
    return [" ".join(f"{'good' if value > 0 else 'bad'} {abs(value):.4g}" for value in row) for row in numbers]


class AdaptedClassifier(Adapted, TextClassifier):
    pass


class AdaptedRegressor(Adapted, TextRegressor):
    pass


# Checks of scikit-learn that do not fit an estimator of texts, and why.
EXPECTED_TO_FAIL = {
    "check_sample_weight_equivalence_on_dense_data": "a row of weight 2 is in one batch, a row that stands twice in two",
}


# Checks that scikit-learn leaves out by itself: arrays of other libraries, which texts are not.
SKIPPED = {"check_array_api_input"}


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AdaptedClassifier, AdaptedRegressor])
def test_scikit_learn_s_own_checks_pass(kind: Any, lively_model: Path) -> None:
    from sklearn.utils.estimator_checks import check_estimator

    told = {"epochs": 1, "valid_share": 0.0}
    results = check_estimator(small(kind, lively_model, **told), expected_failed_checks=EXPECTED_TO_FAIL, on_fail=None)
    failed = {one["check_name"]: str(one["exception"])[:300] for one in results if one["status"] == "failed"}
    assert not failed, "\n".join(f"{name}: {said}" for name, said in failed.items())
    assert sum(one["status"] == "passed" for one in results) > 40
    assert {one["check_name"] for one in results if one["status"] == "skipped"} <= SKIPPED


def test_an_option_that_a_parameter_sets_is_refused(lively_model: Path, texts: tuple[list[str], Any]) -> None:
    with pytest.raises(ValueError, match=r"train\.learning_rate is the parameter learning_rate"):
        small(TextClassifier, lively_model, options=SMALL | {"train.learning_rate": 1e-4}).fit(*texts)
    with pytest.raises(ValueError, match=r"train\.seed is the parameter random_state"):
        small(TextClassifier, lively_model, options=SMALL | {"train.seed": 3}).fit(*texts)


@pytest.mark.parametrize("name", ["task", "data.train", "data.text", "data.label", "data.labels", "data.weight"])
def test_an_option_that_would_replace_the_rows_or_the_task_is_refused(lively_model: Path, name: str) -> None:
    with pytest.raises(ValueError, match=rf"options: {name}: fit is given the rows"):
        small(TextClassifier, lively_model, options=SMALL | {name: "other"}).fit(["a", "b"], ["x", "y"])


def test_a_missing_label_whose_row_weighs_nothing_is_none(lively_model: Path, texts: tuple[list[str], Any]) -> None:
    model = small(TextClassifier, lively_model, epochs=1)
    weights = np.ones(60)
    weights[7] = 0
    for missing in (None, float("nan"), pd.NA):
        labels: list[Any] = [number % 2 for number in range(60)]
        labels[7] = missing
        assert model.fit(texts[0], labels, sample_weight=weights).classes_.tolist() == [0, 1]
    assert model.fit(texts[0], pd.Series(labels, dtype="Int64"), weights).classes_.tolist() == [0, 1]
    small(TextRegressor, lively_model, epochs=1).fit(texts[0], labels, weights)


@pytest.mark.parametrize("missing", [None, pd.NA])
def test_a_missing_number_is_refused(lively_model: Path, texts: tuple[list[str], Any], missing: Any) -> None:
    with pytest.raises(ValueError, match="contains NaN"):
        small(TextRegressor, lively_model).fit(texts[0], [missing, *range(59)])
    with pytest.raises(ValueError, match="which is no label"):
        small(TextClassifier, lively_model).fit(texts[0], [missing] * 60)


def test_a_random_state_that_is_none_is_refused(lively_model: Path, texts: tuple[list[str], Any]) -> None:
    with pytest.raises(ValueError, match="cannot be used to seed"):
        small(TextClassifier, lively_model, random_state=np.random.default_rng(0)).fit(*texts)


def test_columns_in_another_order_are_refused(lively_model: Path, rows: Rows) -> None:
    made = pd.DataFrame(rows("single-label", 40, pair=True))
    model = small(TextClassifier, lively_model, epochs=1).fit(made[["text", "other"]], made["label"])
    with pytest.raises(ValueError, match="fitted on \\['text', 'other'\\], in this order"):
        model.predict(made[["other", "text"]])
    assert len(model.predict(made[["text", "other"]].to_numpy())) == 40


def test_weights_and_numbers_that_are_none_are_refused(lively_model: Path, texts: tuple[list[str], Any]) -> None:
    weights = np.ones(60)
    weights[3] = -1
    with pytest.raises(ValueError, match="sample_weight: negative"):
        small(TextClassifier, lively_model).fit(*texts, sample_weight=weights)
    for wrong, said in (
        (np.ones((60, 2)), "the shape \\(60, 2\\)"),
        (np.ones(59), "59"),
        (["heavy"] * 60, "no number"),
    ):
        with pytest.raises(ValueError, match=f"sample_weight.*{said}"):
            small(TextClassifier, lively_model).fit(*texts, sample_weight=wrong)
    with pytest.raises(ValueError, match="contains NaN"):
        small(TextRegressor, lively_model).fit(texts[0], [float("nan"), *range(59)])


def test_weights_may_be_a_column_or_one_number(lively_model: Path, texts: tuple[list[str], Any]) -> None:
    model = small(TextClassifier, lively_model, epochs=1)
    expected = model.fit(*texts, sample_weight=np.full(60, 2.0)).predict_proba(texts[0])
    for weights in (np.full((60, 1), 2.0), 2, pd.Series([2] * 60)):
        np.testing.assert_array_equal(model.fit(*texts, sample_weight=weights).predict_proba(texts[0]), expected)


@pytest.mark.parametrize("kind", ["frame", "column", "list", "taken"])
def test_a_saved_model_reads_the_column_that_it_was_fitted_on(
    lively_model: Path, texts: tuple[list[str], Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    frame = pd.DataFrame({"review": texts[0], "story": "so " * 30})
    given = {
        "frame": frame[["review"]],
        "column": frame["review"],
        "list": texts[0],
        "taken": frame[["review"]].rename(columns={"review": "label"}),
    }[kind]
    model = small(TextClassifier, lively_model, epochs=1).fit(given, texts[1])
    for one in (model, pickle.loads(pickle.dumps(model)), clone(model).fit(given, texts[1])):
        np.testing.assert_array_equal(one.predict_proba(texts[0]), model.predict_proba(given))
    saved = kitune.load(model.save(tmp_path / "saved"))
    assert saved.text == (("review",) if kind in ("frame", "column") else None)
    frame.to_csv(tmp_path / "rows.csv", index=False)
    capsys.readouterr()
    expected = saved.predict(texts[0]).logits
    assert capsys.readouterr().err == ""
    np.testing.assert_array_equal(saved.predict(tmp_path / "rows.csv").logits, expected)
    assert capsys.readouterr().err == ("" if saved.text else "text column: review\n")


def test_a_run_that_has_answered_can_be_copied_pickled_and_fitted_on(
    lively_model: Path, rows: Rows, texts: tuple[list[str], Any], tmp_path: Path
) -> None:
    told = SMALL | {"train.epochs": 1, "data.max_length": 32}
    run = kitune.train(rows("single-label", 60), model=str(lively_model), out=tmp_path / "run", options=told)
    expected = run.predict(texts[0]).logits
    for copied in (pickle.loads(pickle.dumps(run)), copy.deepcopy(run)):
        assert copied == run
        np.testing.assert_array_equal(copied.predict(texts[0]).logits, expected)
    model = clone(small(TextClassifier, lively_model, epochs=1).set_params(model=run)).fit(*texts)
    assert model.classes_.tolist() == ["no", "yes"]


def test_threads_that_are_silent_at_once_give_the_streams_back(capsys: pytest.CaptureFixture[str]) -> None:
    first, second = quiet(True), quiet(True)
    first.__enter__()
    second.__enter__()
    print("nobody hears this")
    first.__exit__(None, None, None)
    print("nor this")
    second.__exit__(None, None, None)
    print("this is heard")
    assert capsys.readouterr().out == "this is heard\n"


def test_a_fitted_model_computes_where_its_options_say(fitted: Any, texts: tuple[list[str], Any]) -> None:
    again = pickle.loads(pickle.dumps(fitted))
    again.predict(texts[0])
    assert again._loaded.machine.threads == SMALL["engine.threads"] == 1
