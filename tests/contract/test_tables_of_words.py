"""Tables with columns that hold no numbers: words, categories, dates. The model sees the caller's own values."""

from __future__ import annotations

import datetime
import gc
import re
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from math import factorial
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, errors, methods, tables
from explainers.code_books import CodeBook
from explainers.scheduler import Scheduler
from explainers.spec import resolve_baseline

pandas = pytest.importorskip("pandas")
METHODS = ("exact_shapley", "kernel_shap", "shapley_sampling", "feature_ablation", "occlusion")


def people(count: int, seed: int = 0) -> Any:
    generator = np.random.default_rng(seed)
    frame = pandas.DataFrame({
        "color": generator.choice(["red", "blue", "green"], count),
        "age": generator.normal(40, 10, count),
        "town": pandas.Categorical(generator.choice(["Aix", "Bonn"], count), categories=["Aix", "Bonn", "Cork"]),
        "member": generator.random(count) > 0.5,
        "visits": generator.integers(0, 9, count),
    })  # fmt: skip
    frame.index = [f"person {i}" for i in range(count)]
    return frame


@pytest.fixture(scope="module")
def trained() -> Any:
    """A pipeline with interactions, trained on words, categories, booleans and numbers; it knows three colors."""
    pytest.importorskip("sklearn")
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    frame = people(400)
    label = (frame["color"] == "red") ^ (frame["age"] + 5 * (frame["town"] == "Bonn") > 42) ^ frame["member"]
    words = (OneHotEncoder(handle_unknown="ignore"), ["color", "town"])
    encode = make_column_transformer(words, (StandardScaler(), ["age"]), remainder="passthrough")
    return make_pipeline(encode, RandomForestClassifier(30, random_state=0)).fit(frame, label)


def mixed(frame: Any, row: Any, kept: Any) -> Any:
    """The frame with the columns that are not ``kept`` taken from the row, in their own dtypes."""
    found = frame.copy()
    for name, keep in zip(frame.columns, kept, strict=True):
        if not keep:
            value = row[name].iloc[0]
            found[name] = pandas.Series([value] * len(frame), index=frame.index).astype(frame[name].dtype)
    return found


def shapley(model: Callable[[Any], Any], frame: Any, row: Any) -> Any:
    """Shapley values by all coalitions. ``model``: from a frame to one number for each row; ``row``: a frame."""
    count = frame.shape[1]
    value = {kept: np.asarray(model(mixed(frame, row, kept))) for kept in product((False, True), repeat=count)}
    found = np.zeros(frame.shape)
    for kept, before in value.items():
        size = sum(kept)
        for place in (place for place in range(count) if not kept[place]):
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            found[:, place] += weight * (value[(*kept[:place], True, *kept[place + 1 :])] - before)
    return found


# --- numbers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["exact_shapley", "kernel_shap"])
def test_a_trained_pipeline_against_all_coalitions(trained: Any, method: str) -> None:
    frame, row = people(6, 1), people(1, 2)
    right = shapley(lambda table: trained.predict_proba(table)[:, 1], frame, row)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scikit-learn warns of lost names and unknown categories
        explain = Explainer.compile(trained.predict_proba, method, inputs=frame, baseline=row)
        found = explain(frame, target=1)
    assert list(found.columns) == list(frame.columns)
    assert list(found.index) == list(frame.index)
    assert set(map(str, found.dtypes)) == {"float64"}
    np.testing.assert_allclose(found, right, atol=1e-6)
    assert np.abs(right).max() > 0.1
    np.testing.assert_allclose(explain.predict(frame), trained.predict_proba(frame))


def test_a_background_of_rows(trained: Any) -> None:
    frame, background = people(4, 1), people(7, 3)
    model = lambda table: trained.predict_proba(table)[:, 1]  # noqa: E731
    right = np.mean([shapley(model, frame, background.iloc[i : i + 1]) for i in range(7)], axis=0)
    explain = Explainer.compile(trained.predict_proba, "exact_shapley", inputs=frame, baseline=References(background))
    np.testing.assert_allclose(explain(frame, target=1), right, atol=1e-9)
    shuffled = References(background[background.columns[::-1]])
    np.testing.assert_allclose(explain(frame, target=1, baseline=shuffled), right, atol=1e-9)
    sampled = Explainer.compile(trained.predict_proba, methods.ShapleySampling(400), inputs=frame)
    result = sampled.explanation(frame, target=1, baseline=References(background))
    assert type(result.standard_error) is pandas.DataFrame
    np.testing.assert_allclose(result.attributions, right, atol=0.05)


@pytest.mark.parametrize("method", METHODS)
def test_every_form_of_a_row_is_the_same_baseline(trained: Any, method: str) -> None:
    frame, row = people(5, 1), people(1, 2)
    explain = Explainer.compile(trained.predict_proba, method, inputs=frame, baseline=row)
    right = explain(frame, target=1)
    names = list(frame.columns[::-1])
    for baseline in (
        row.iloc[0], row.iloc[0][names], dict(row.iloc[0]), {name: row.iloc[0][name] for name in names}, row[names],
        {"input": row.iloc[0]}, {"input": dict(row.iloc[0])}, (row,), lambda batch: row, lambda batch: row.iloc[0],
    ):  # fmt: skip
        pandas.testing.assert_frame_equal(explain(frame, target=1, baseline=baseline), right)
        default = Explainer.compile(trained.predict_proba, method, inputs=frame, baseline=baseline)
        pandas.testing.assert_frame_equal(default(frame, target=1), right)
    assert np.abs(right).to_numpy().max() > 0.01


def test_one_baseline_for_each_sample(trained: Any) -> None:
    frame, rows = people(5, 1), people(5, 4)
    explain = Explainer.compile(trained.predict_proba, "feature_ablation", inputs=frame, baseline=rows.iloc[0])
    for baseline in (References(rows, per_sample=True), lambda batch: rows):
        found = explain(frame, target=1, baseline=baseline)
        for i in range(5):
            one = explain(frame.iloc[i : i + 1], target=1, baseline=rows.iloc[i])
            pandas.testing.assert_frame_equal(found.iloc[i : i + 1], one)
    with pytest.raises(errors.BaselineError, match="Say which"):
        explain(frame, target=1, baseline=rows)


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
@pytest.mark.parametrize("method", ["exact_shapley", "shapley_sampling", "occlusion"])
def test_packages_of_any_size(trained: Any, method: str, batch_size: int) -> None:
    frame, row = people(9, 1), people(1, 2)
    explain = Explainer.compile(trained.predict_proba, method, inputs=frame, baseline=row)
    right = explain(frame, target=1)
    np.testing.assert_allclose(explain(frame, target=1, batch_size=batch_size), right, atol=1e-12)
    np.testing.assert_allclose(explain(frame.iloc[:2], target=1, batch_size=batch_size), right[:2], atol=1e-12)


def test_columns_go_by_name(trained: Any) -> None:
    frame, row = people(5, 1), people(1, 2)
    explain = Explainer.compile(trained.predict_proba, "exact_shapley", inputs=frame, baseline=row)
    names = ["visits", "color", "member", "town", "age"]
    found = explain(frame[names], target=1)
    assert list(found.columns) == names
    pandas.testing.assert_frame_equal(found[list(frame.columns)], explain(frame, target=1))
    for change, words in (
        (frame.drop(columns="color"), "lacks the columns 'color'"), (frame.assign(x="y"), "has the unknown 'x'"),
        (frame.assign(age="old"), "column 'age' of input 'input' has dtype"),
    ):  # fmt: skip
        with pytest.raises(errors.InputError, match=words):
            explain(change, target=1)


def test_groups_of_columns(trained: Any) -> None:
    """Color and town are one feature, the numbers another."""
    frame, row = people(5, 1), people(1, 2)
    groups = np.array([0, 1, 0, 2, 1])
    method = methods.FeatureAblation(groups=groups)
    found = Explainer.compile(trained.predict_proba, method, inputs=frame, baseline=row)(frame, target=1)
    before = trained.predict_proba(frame)[:, 1]
    for group in range(3):
        after = trained.predict_proba(mixed(frame, row, groups != group))[:, 1]
        for name in frame.columns[groups == group]:
            np.testing.assert_allclose(found[name], before - after, atol=1e-12)


# --- what the model sees -----------------------------------------------------------------------

WHEN = datetime.datetime(2024, 2, 29, 12, 30, 5, 123456)
UTC = datetime.timezone(datetime.timedelta())
BERLIN = "Europe/Berlin"
KINDS: dict[str, tuple[Any, Any]] = {  # two rows of the column, and its baseline, as pandas columns
    "words": (pandas.Series(["a", "b"]), pandas.Series(["c"])),
    "objects": (pandas.Series(["a", None], dtype=object), pandas.Series(["b"], dtype=object)),
    "mixed": (pandas.Series([1, "1"], dtype=object), pandas.Series([True], dtype=object)),
    "mixed numbers": (pandas.Series([1.0, 1], dtype=object), pandas.Series([True], dtype=object)),
    "missing": (pandas.Series([None, float("nan")], dtype=object), pandas.Series([pandas.NA], dtype=object)),
    "lists": (pandas.Series([["a"], {"b": 1}], dtype=object), pandas.Series([["a", "b"]], dtype=object)),
    "string": (pandas.Series(["a", None], dtype="string"), pandas.Series(["b"], dtype="string")),
    "category": (
        pandas.Series(pandas.Categorical(["a", None], categories=["b", "a", "z"])),
        pandas.Series(pandas.Categorical(["b"], categories=["b", "a", "z"])),
    ),
    "ordered": (
        pandas.Series(pandas.Categorical(["low", "high"], categories=["low", "mid", "high"], ordered=True)),
        pandas.Series(pandas.Categorical(["mid"], categories=["low", "mid", "high"], ordered=True)),
    ),
    "dates": (
        pandas.Series(pandas.to_datetime([WHEN, None])).astype("datetime64[ns]") + pandas.Timedelta(7, "ns"),
        pandas.Series(pandas.to_datetime(["1999-01-01"])).astype("datetime64[ns]"),
    ),
    "zones": (
        pandas.Series(pandas.to_datetime([WHEN, WHEN]).tz_localize("UTC").tz_convert(BERLIN)),
        pandas.Series(pandas.to_datetime(["1999-01-01"]).tz_localize(BERLIN)).astype(f"datetime64[us, {BERLIN}]"),
    ),
    "durations": (pandas.Series(pandas.to_timedelta([1, 2], "s")), pandas.Series(pandas.to_timedelta([0], "s"))),
    "periods": (pandas.Series(pandas.period_range("2024-01", periods=2, freq="M")),
                pandas.Series(pandas.period_range("2023-01", periods=1, freq="M"))),
    "bytes": (pandas.Series([b"a", b"b"], dtype=object), pandas.Series([b"c"], dtype=object)),
}  # fmt: skip


def same(found: Any, right: Any) -> bool:
    """Whether two values are the same, of one type."""
    if type(found) is not type(right):
        return False
    return bool(found is right or (isinstance(found, float) and found != found and right != right) or found == right)


@pytest.mark.parametrize("kind", KINDS)
def test_values_and_dtypes_reach_the_model_as_they_are(kind: str) -> None:
    """Each row that the model sees is made of the caller's values, in the caller's dtype."""
    column, base = KINDS[kind]
    frame = pandas.DataFrame({"number": [1.0, 2.0], "other": column})
    row = pandas.DataFrame({"number": [5.0], "other": base})
    seen: list[Any] = []

    def model(table: Any) -> Any:
        seen.append(table)
        return table["number"].to_numpy() * (table["other"].map(repr) == repr(column.tolist()[0])).to_numpy()

    explain = Explainer.compile(model, "exact_shapley", inputs=frame, baseline=row)
    found = explain(frame)
    values = [*column.tolist(), *base.tolist()]
    assert all(table["other"].dtype == column.dtype for table in seen), [table["other"].dtype for table in seen]
    for table in seen:
        for value in table["other"].tolist():
            assert any(same(value, known) for known in values), (value, values)
    shown = {repr(value) for table in seen for value in table["other"].tolist()}
    assert shown == set(map(repr, values))
    np.testing.assert_allclose(found, shapley(model, frame, row), atol=1e-12)


def test_unseen_categories(trained: Any) -> None:
    """A word that the pipeline and the example do not know, at the call and in the baseline."""
    frame, row = people(4, 1), people(1, 2)
    explain = Explainer.compile(trained.predict_proba, "exact_shapley", inputs=frame, baseline=row)
    new = frame.assign(color=["mauve", "red", "teal", "blue"])
    model = lambda table: trained.predict_proba(table)[:, 1]  # noqa: E731
    np.testing.assert_allclose(explain(new, target=1), shapley(model, new, row), atol=1e-9)
    other = row.assign(color="ochre")
    np.testing.assert_allclose(explain(new, target=1, baseline=other), shapley(model, new, other), atol=1e-9)


def test_other_categories_come_after_those_of_the_example() -> None:
    """No category is silently missing, and the example's keep their codes, which a model may use."""
    seen: list[Any] = []

    def model(table: Any) -> Any:
        seen.append(table["town"].dtype)
        return table["town"].cat.codes.to_numpy().astype(float)

    frame = pandas.DataFrame({"town": pandas.Categorical(["b", "a"], categories=["b", "a"])})
    explain = Explainer.compile(model, "exact_shapley", inputs=frame, baseline={"town": "b"})
    np.testing.assert_allclose(explain(frame)["town"], [0, 1])
    assert {tuple(dtype.categories) for dtype in seen} == {("b", "a")}
    other = pandas.DataFrame({"town": pandas.Categorical(["x", "a"], categories=["x", "a"])})
    np.testing.assert_allclose(explain(other)["town"], [2, 1])
    np.testing.assert_allclose(explain(pandas.DataFrame({"town": ["x", "a"]}))["town"], [2, 1])


def test_a_finer_unit_of_time_is_not_cut_off() -> None:
    frame = pandas.DataFrame({"when": pandas.to_datetime(["2024-01-01"]).astype("datetime64[s]")})
    start = pandas.Timestamp("2024-01-01")

    def model(table: Any) -> Any:
        return (table["when"] - start).dt.total_seconds().to_numpy()

    explain = Explainer.compile(model, "exact_shapley", inputs=frame, baseline={"when": start})
    late = pandas.DataFrame({"when": pandas.to_datetime(["2024-01-01 00:00:01.5"])})
    np.testing.assert_allclose(explain(late)["when"], [1.5])


def test_missing_words_are_values(trained: Any) -> None:
    frame, row = people(4, 1), people(1, 2)
    frame["color"] = pandas.Series(["red", None, float("nan"), "blue"], dtype=object, index=frame.index)
    seen: list[Any] = []

    def model(table: Any) -> Any:
        seen.extend(table["color"].tolist())
        return table["color"].isna().to_numpy() * table["age"].to_numpy()

    explain = Explainer.compile(model, "exact_shapley", inputs=frame, baseline=row)
    np.testing.assert_allclose(explain(frame), shapley(model, frame, row), atol=1e-9)
    assert any(value is None for value in seen)
    assert any(isinstance(value, float) for value in seen)
    gone = row.assign(color=None)
    np.testing.assert_allclose(explain(frame, baseline=gone), shapley(model, frame, gone), atol=1e-9)
    with pytest.raises(errors.NonFiniteError, match="sample 0 of 4"):  # of a number it is an error as ever
        explain(frame.assign(age=[float("nan"), 1, 2, 3]))


# --- polars and Arrow --------------------------------------------------------------------------


def polars_kinds() -> dict[str, Any]:
    polars = pytest.importorskip("polars")
    enum, ns, series = polars.Enum(["b", "a", "z"]), polars.Datetime("ns"), polars.Series
    late, early = WHEN.replace(tzinfo=UTC), datetime.datetime(1999, 1, 1, tzinfo=UTC)
    return {
        "string": (series(["a", None]), series(["b"])),
        "enum": (series(["a", "b"], dtype=enum), series(["z"], dtype=enum)),
        "categorical": (series(["a", "b"], dtype=polars.Categorical), series(["c"], dtype=polars.Categorical)),
        "date": (series([WHEN.date(), None]), series([datetime.date(1999, 1, 1)])),
        "time": (series([WHEN, WHEN]), series([datetime.datetime(1999, 1, 1)])),
        "zone": (series([late, late]), series([early])),
        "nanoseconds": (series([5, 7]).cast(ns), series([1]).cast(ns)),
        "list": (series([["a"], ["b", "c"]]), series([["d"]])),
    }


def arrow_kinds() -> dict[str, Any]:
    pyarrow = pytest.importorskip("pyarrow")
    array, ns = pyarrow.array, pyarrow.timestamp("ns")
    return {
        "string": (array(["a", None]), array(["b"])),
        "dictionary": (array(["a", "b"]).dictionary_encode(), array(["c"]).dictionary_encode()),
        "date": (array([WHEN.date(), None]), array([datetime.date(1999, 1, 1)])),
        "time": (array([WHEN, WHEN]), array([datetime.datetime(1999, 1, 1)])),
        "nanoseconds": (array([5, 7]).cast(ns), array([1]).cast(ns)),
        "binary": (array([b"a", b"b"]), array([b"c"])),
    }


@pytest.mark.parametrize("kind", polars_kinds())
def test_polars(kind: str) -> None:
    import polars

    column, base = polars_kinds()[kind]
    frame = polars.DataFrame({"number": [1.0, 2.0], "other": column})
    row = polars.DataFrame({"number": [5.0], "other": base})
    values = polars.Int64 if kind == "nanoseconds" else column.dtype  # Python cuts nanoseconds off
    check_kind(frame, row, column.dtype, lambda table: table["other"].dtype, lambda table: table["other"].cast(values))


@pytest.mark.parametrize("kind", arrow_kinds())
def test_arrow(kind: str) -> None:
    import pyarrow

    column, base = arrow_kinds()[kind]
    frame = pyarrow.table({"number": [1.0, 2.0], "other": column})
    row = pyarrow.table({"number": [5.0], "other": base})
    check_kind(frame, row, column.type, lambda table: table.schema.field("other").type, lambda table: table["other"])


def check_kind(frame: Any, row: Any, dtype: Any, dtype_of: Any, column_of: Any) -> None:
    """One column of any dtype and one of numbers: the model is the number where the column has its first value."""
    seen: list[Any] = []
    first = str(column_of(frame)[0])

    def model(table: Any) -> Any:
        seen.append(dtype_of(table))
        return np.array([
            number if str(value) == first else 0.0
            for number, value in zip(np.asarray(table["number"]), column_of(table), strict=True)
        ])  # fmt: skip

    explain = Explainer.compile(model, "exact_shapley", inputs=frame, baseline=row)
    found = explain(frame)
    assert set(seen) == {dtype}
    assert type(found) is type(frame)
    second = [0.0, 0.0] if str(column_of(frame)[1]) != first else [(2 - 5) / 2, (2 + 5) / 2]
    # f(number, other): f(1, a) = 1, f(5, a) = 5, 0 elsewhere
    np.testing.assert_allclose(np.array([found["number"], found["other"]]).T, [[(1 - 5) / 2, (1 + 5) / 2], second])


def test_a_polars_enum_of_other_words() -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame({"size": polars.Series(["s", "m"], dtype=polars.Enum(["s", "m"]))})

    def model(table: Any) -> Any:
        return table["size"].to_physical().to_numpy().astype(float)

    explain = Explainer.compile(model, "exact_shapley", inputs=frame, baseline={"size": "s"})
    other = polars.DataFrame({"size": polars.Series(["l", "m"], dtype=polars.Enum(["m", "l"]))})
    np.testing.assert_allclose(explain(other)["size"], [2, 1])


# --- many calls at once ------------------------------------------------------------------------


def length_model(table: Any) -> Any:
    return table["word"].str.len().to_numpy() * table["times"].to_numpy()


@pytest.fixture
def lengths() -> Any:
    frame = pandas.DataFrame({"word": ["one", "three"], "times": [1.0, 2.0]})
    return Explainer.compile(length_model, "exact_shapley", inputs=frame, baseline={"word": "", "times": 0.0})


def batch_of(number: int) -> tuple[Any, Any]:
    """A frame with words that no other call has, and its attributions: half the product each."""
    words = [f"{number}" + "x" * (number % 7) + "é" * i for i in range(20)]
    frame = pandas.DataFrame({"word": words, "times": np.arange(20.0) + number})
    half = length_model(frame) / 2
    return frame, np.stack([half, half], 1)


def test_threads_with_words_of_their_own(lengths: Explainer) -> None:
    def call(number: int) -> None:
        frame, right = batch_of(number)
        np.testing.assert_allclose(lengths(frame, batch_size=3 + number % 50), right)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(call, range(300)))
    finally:
        sys.setswitchinterval(before)


class Slow:
    """A value that lets other threads run whenever a dict looks for it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __hash__(self) -> int:
        time.sleep(1e-4)
        return self.number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slow) and self.number == other.number


def test_threads_that_share_words() -> None:
    """A value that several threads bring at once has one code."""
    book, start = CodeBook(), threading.Barrier(8)

    def use(_: int) -> Any:
        start.wait()
        return book.encode([Slow(number) for number in range(5)])

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(use, range(8)))
    assert {tuple(codes) for codes, _ in results} == {(0, 1, 2, 3, 4)}
    for _, used in results:
        book.release(used)
    assert len(book) == 0


def test_a_scheduler_joins_calls_with_words_of_their_own(lengths: Explainer) -> None:
    with Scheduler(max_wait=0.05) as scheduler:
        batches = [batch_of(number) for number in range(40)]
        futures = [scheduler.submit(lengths, frame) for frame, _ in batches]
        for future, (_, right) in zip(futures, batches, strict=True):
            result = future.result(60)
            np.testing.assert_allclose(getattr(result, "attributions", result), right)


def test_words_of_past_calls_are_forgotten(lengths: Explainer) -> None:
    (book,) = lengths.signature.inputs[0].words.books.values()
    lengths(batch_of(0)[0])
    gc.collect()
    before = len(book)
    for number in range(200):
        frame, _ = batch_of(number)
        lengths(frame)
        lengths.predict(frame)
        lengths(frame, baseline={"word": f"base {number}", "times": 1.0})
        lengths.explanation(frame)
    gc.collect()
    assert before <= len(book) <= 1  # the default baseline's


def test_a_failing_call_forgets_its_words() -> None:
    frame = pandas.DataFrame({"word": ["fine"], "times": [1.0]})

    def model(table: Any) -> Any:
        if (table["word"] == "bad").any():
            raise RuntimeError("bad word")
        return length_model(table)

    explain = Explainer.compile(model, "exact_shapley", inputs=frame, baseline={"word": "", "times": 0.0})
    with pytest.raises(RuntimeError, match="bad word"):
        explain(frame.assign(word="bad"))
    np.testing.assert_allclose(explain(frame), [[2, 2]])
    (book,) = explain.signature.inputs[0].words.books.values()
    gc.collect()
    assert len(book) == 1


# --- other uses --------------------------------------------------------------------------------


def test_the_first_call_tells_the_columns(trained: Any) -> None:
    frame, row = people(4, 1), people(1, 2)
    late = Explainer.compile(trained.predict_proba, "exact_shapley", baseline=row)
    right = Explainer.compile(trained.predict_proba, "exact_shapley", inputs=frame, baseline=row)
    for _ in range(2):
        pandas.testing.assert_frame_equal(late(frame, target=1), right(frame, target=1))


def test_a_table_of_words_beside_an_array() -> None:
    frame = pandas.DataFrame({"word": ["aa", "b"], "times": [1.0, 2.0]})

    def model(table: Any, wave: Any) -> Any:
        return length_model(table) + wave.sum(axis=1)

    wave = np.ones((2, 3))
    explain = Explainer.compile(model, "exact_shapley", inputs=(frame, wave))
    shares, of_wave = explain(frame, wave, baseline=({"word": "", "times": 0.0}, 0.0))
    np.testing.assert_allclose(shares, [[1, 1], [1, 1]])
    np.testing.assert_allclose(of_wave, 1)
    by_name = Explainer.compile(model, "exact_shapley", inputs={"table": frame, "wave": wave})
    found = by_name({"table": frame, "wave": wave}, baseline={"table": {"word": "", "times": 0.0}, "wave": 0.0})
    np.testing.assert_allclose(found["table"], [[1, 1], [1, 1]])
    with pytest.raises(errors.BaselineError, match="column 'word' of input 'input_0' holds no numbers"):
        explain(frame, wave)


def test_columns_without_names() -> None:
    frame = pandas.DataFrame([["aa", 1.0], ["b", 2.0]])
    explain = Explainer.compile(
        lambda table: table[0].str.len().to_numpy() * table[1].to_numpy(), "exact_shapley", inputs=frame,
        baseline=pandas.Series(["", 0.0]),
    )  # fmt: skip
    np.testing.assert_allclose(explain(frame), [[1, 1], [1, 1]])


def test_no_rows(lengths: Explainer) -> None:
    found = lengths(batch_of(0)[0].iloc[:0])
    assert found.shape == (0, 2)
    assert list(found.columns) == ["word", "times"]


def test_every_output_at_once(trained: Any) -> None:
    frame, row = people(3, 1), people(1, 2)
    explain = Explainer.compile(trained.predict_proba, "exact_shapley", inputs=frame, baseline=row)
    np.testing.assert_allclose(explain(frame, target="all")[1], explain(frame, target=1), atol=1e-12)


def test_inputs_and_pictures(lengths: Explainer) -> None:
    frame = pandas.DataFrame({"word": ["one", "three"], "times": [1.0, 2.0]})
    result = lengths.explanation(frame)
    assert result.inputs["input"].tolist() == frame.to_numpy().tolist()
    np.testing.assert_allclose(result.completeness_gap, 0, atol=1e-12)
    pytest.importorskip("matplotlib")
    for kind in ("bars", "waterfall", "auto"):
        figure = result.plot(kind, samples=[1])
        texts = " ".join(label.get_text() for axes in figure.axes for label in axes.get_yticklabels())
        assert "word = three" in texts
        assert "times = 2" in texts


# --- errors ------------------------------------------------------------------------------------

FRAME = pandas.DataFrame({"times": [1.0, 2.0], "word": ["one", "three"], "color": ["red", "blue"]})


@pytest.mark.parametrize(
    ("baseline", "words"),
    [
        (None, "column 'word' (and 1 more) of input 'input' holds no numbers"),
        (0.0, "'input', 0.0, does not say which value stands for its absence. Give baseline= one row"),
        (np.zeros(3), "of type ndarray, does not say"),
        ("red", "'red', does not say"),
        ({"times": 0.0, "word": ""}, "lacks the columns 'color'"),
        ({"times": 0.0, "word": "", "color": "", "size": 1}, "has the unknown 'size'"),
        ({"times": "none", "word": "", "color": ""}, "column 'times' of the baseline of 'input' is 'none'"),
        ({"times": "3", "word": "", "color": ""}, "column 'times' of the baseline of 'input' is '3'"),
        ({"times": None, "word": "", "color": ""}, "has NaN or infinity"),
        (FRAME.drop(columns="word").iloc[0], "lacks the columns 'word'"),
        (pandas.Series(["", 0.0]), "has 2 entries; the table has 3 columns"),
        (References(np.zeros((5, 3))), "does not say which value"),
    ],
    ids=str,
)
def test_baselines_that_do_not_fit(baseline: Any, words: str) -> None:
    explain = Explainer.compile(length_model, "exact_shapley", inputs=FRAME)
    with pytest.raises(errors.InputError, match=re.escape(words)):
        explain(FRAME, baseline=baseline)


def test_what_takes_no_words() -> None:
    for method in ("rise", methods.Perturbation(lambda x, a: [], lambda values, x: x)):
        with pytest.raises(errors.InputError, match="column 'word' of input 'input' holds no numbers, and"):
            Explainer.compile(length_model, method, inputs=FRAME)
    explain = Explainer.compile(length_model, "exact_shapley", inputs=FRAME, baseline=FRAME.iloc[0])
    for given in (np.zeros((2, 3)), FRAME.to_numpy()):
        with pytest.raises(errors.InputError, match="give a table with the columns 'times', 'word', 'color'"):
            explain(given)
    with pytest.raises(errors.ArtifactError, match="no file form"):
        explain.save("nowhere.explainer")
    serve = pytest.importorskip("explainers.serve")
    with pytest.raises(errors.InputError, match="columns hold no numbers, and requests are arrays of numbers"):
        serve.app({"words": explain})


def test_a_code_that_is_none_is_an_error() -> None:
    book = CodeBook()
    codes, _ = book.encode(["a", "b"])
    assert book.decode(codes) == ["a", "b"]
    with pytest.raises(errors.InputError, match="changed by arithmetic"):
        book.decode(codes * 0.5 + 0.2)


def test_equal_values_of_one_type_have_one_code() -> None:
    book = CodeBook()
    values = ["a", "a", 1, 1, 1.0, True, float("nan"), float("nan"), np.float64("nan"), None, pandas.NA, pandas.NaT]
    codes, used = book.encode(values)
    assert codes.tolist() == [0, 0, 1, 1, 2, 3, 4, 4, 4, 5, 6, 7]
    assert len(book) == 8
    again, used_again = book.encode([True, "a", "new"])
    assert again.tolist() == [3, 0, 8]
    book.release(used)
    assert len(book) == 3
    assert book.decode(again) == [True, "a", "new"]
    book.release(used_again)
    assert len(book) == 0


def test_a_baseline_keeps_its_words_where_its_numbers_are_copied() -> None:
    frame = pandas.DataFrame({"word": ["one", "three"]})
    spec = Explainer.compile(
        lambda table: table["word"].str.len().to_numpy(), "exact_shapley", inputs=frame
    ).signature.inputs[0]
    (book,) = spec.words.books.values()
    for given in (frame.iloc[0], References(frame), frame):
        resolved = resolve_baseline(tables.aligned(given, [spec]), [spec], 2, lambda: None, np.array)
        gc.collect()
        assert len(book)  # forgets what nothing holds
        assert book.decode(resolved.tables[0][:, 0])[0] == "one"
