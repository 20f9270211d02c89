"""Tables as inputs and baselines: columns go by their names, wherever a table comes from."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import explainers
from explainers import Explainer, References, TensorSpec, errors

COLUMNS = {"age": [30.0, 40.0, 50.0], "income": [1.0, 2.0, 4.0], "debt": [0.5, 0.25, 0.0]}
WEIGHTS = {"age": 1.0, "income": 100.0, "debt": -10.0}
RIGHT = {name: WEIGHTS[name] * np.array(column) for name, column in COLUMNS.items()}  # of a linear model, baseline 0
OTHER = ["debt", "age", "income"]
KINDS = ("pandas.DataFrame", "polars.DataFrame", "pyarrow.table")
FORWARD = ("exact_shapley", "kernel_shap", "feature_ablation", "shapley_sampling", "occlusion")


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Callable[[dict[str, Any]], Any]:
    module, name = request.param.split(".")
    return getattr(pytest.importorskip(module), name)


@pytest.fixture
def frame() -> Any:
    return pytest.importorskip("pandas").DataFrame(COLUMNS)


def column(table: Any, name: str) -> np.ndarray:
    return np.asarray(table[name])


def linear(table: Any) -> np.ndarray:
    """A model that needs names."""
    return sum(weight * column(table, name) for name, weight in WEIGHTS.items())


def holds(found: Any, right: dict[str, np.ndarray], names: list[str]) -> None:
    labels = found.column_names if hasattr(found, "column_names") else found.columns
    assert list(labels) == names
    for name in names:
        np.testing.assert_allclose(column(found, name), right[name], atol=1e-9)


@pytest.mark.parametrize("method", FORWARD)
def test_shares_follow_names(make: Any, method: str) -> None:
    """A linear model: the share of a column is its weight times its value, wherever the column stands."""
    table, other = make(COLUMNS), make({name: COLUMNS[name] for name in OTHER})
    explain = Explainer.compile(linear, method, inputs=table)
    assert explain.signature.inputs[0].columns == tuple(COLUMNS)
    for given, names in ((table, list(COLUMNS)), (other, OTHER)):
        found = explain(given)
        assert type(found) is type(given)
        holds(found, RIGHT, names)
        np.testing.assert_allclose(explain.predict(given), sum(RIGHT.values()))
    bare = np.array(list(COLUMNS.values())).T
    np.testing.assert_allclose(explain(bare), np.array(list(RIGHT.values())).T)


def test_the_first_call_tells_the_names(frame: Any) -> None:
    explain = Explainer.compile(linear, "exact_shapley")
    holds(explain(frame[OTHER]), RIGHT, OTHER)
    holds(explain(frame), RIGHT, list(COLUMNS))
    assert explain.signature.inputs[0].columns == tuple(OTHER)


def test_the_index_stays(frame: Any) -> None:
    frame.index = ["x", "y", "z"]
    explain = Explainer.compile(linear, "exact_shapley", inputs=frame)
    assert list(explain(frame[OTHER]).index) == ["x", "y", "z"]
    found = explain.explanation(frame[OTHER])
    assert list(found.attributions.columns) == OTHER
    np.testing.assert_allclose(found.parts()["input"], found.inputs["input"] * [WEIGHTS[name] for name in OTHER])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda f: f.drop(columns="age"), "lacks the columns 'age'"),
        (lambda f: f.assign(town=1.0), "has the unknown 'town'"),
        (lambda f: f.rename(columns={"debt": "depth"}), "lacks the columns 'debt' and has the unknown 'depth'"),
        (lambda f: f.assign(age=["young", "old", "old"]), "column 'age' of input 'input'"),
        (lambda f: f.assign(age=f["age"].astype("datetime64[s]")), "column 'age' of input 'input'"),
        (lambda f: f[["age", "age", "debt"]], "several columns with the name 'age'"),
    ],
    ids=["missing", "extra", "renamed", "words", "dates", "twice"],
)
def test_other_columns_are_refused_by_name(frame: Any, change: Any, words: str) -> None:
    explain = Explainer.compile(linear, "exact_shapley", inputs=frame)
    for call in (explain, explain.predict, explain.explanation):
        with pytest.raises(errors.InputError, match=words):
            call(change(frame))


def test_a_network_takes_no_words(make: Any) -> None:
    """Functions do: test_tables_of_words."""
    torch = pytest.importorskip("torch")
    table = make({**COLUMNS, "color": ["red", "blue", "red"]})
    with pytest.raises(errors.InputError, match="column 'color' of the example has dtype"):
        Explainer.compile(torch.nn.Linear(4, 2), "occlusion", inputs=table)


@pytest.mark.parametrize("method", ["exact_shapley", "feature_ablation", "kernel_shap"])
def test_baselines_go_by_name(frame: Any, method: str) -> None:
    explain = Explainer.compile(linear, method, inputs=frame)
    start = frame.iloc[0]
    right = {name: RIGHT[name] - RIGHT[name][0] for name in RIGHT}
    for baseline in (
        start, start[OTHER], frame.iloc[:1], frame[OTHER].iloc[:1], (start[OTHER],), {"input": start[OTHER]},
        lambda batch: batch.iloc[0][OTHER],
    ):  # fmt: skip
        holds(explain(frame, baseline=baseline), right, list(COLUMNS))
        holds(Explainer.compile(linear, method, inputs=frame, baseline=baseline)(frame[OTHER]), right, OTHER)
    holds(
        explain(frame, baseline=lambda batch: batch[OTHER] / 2),
        {name: RIGHT[name] / 2 for name in RIGHT},
        list(COLUMNS),
    )
    with pytest.raises(errors.InputError, match="the baseline of 'input' lacks the columns 'age'"):
        explain(frame, baseline=start.drop("age"))


def test_references_go_by_name(frame: Any) -> None:
    explain = Explainer.compile(linear, "shapley_sampling", inputs=frame, baseline=References(frame[OTHER]))
    right = {name: RIGHT[name] - RIGHT[name].mean() for name in RIGHT}
    found = explain(frame[OTHER])
    total = sum(column(found, name) for name in OTHER)
    np.testing.assert_allclose(total, sum(right.values()), rtol=0.5)  # draws of references
    holds(
        explain(frame, baseline=References(frame.iloc[:1][OTHER])), {n: RIGHT[n] - RIGHT[n][0] for n in RIGHT}, [*RIGHT]
    )


def test_columns_keep_their_dtypes() -> None:
    """Where the perturbed values are of the dtype; else they are the numbers they are."""
    pandas = pytest.importorskip("pandas")
    seen: list[Any] = []

    def model(table: Any) -> np.ndarray:
        seen.append(table.dtypes.astype(str).to_dict())
        return np.asarray(table["count"] * 2 + table["flag"] + table["size"] + table["kind"].astype(float), float)

    frame = pandas.DataFrame({
        "count": [1, 2], "flag": [True, False], "size": np.array([0.5, 1.5], "float32"),
        "kind": pandas.Categorical([2, 0], categories=[0, 2]), "known": pandas.array([1, None], "Int64"),
    })  # fmt: skip
    explain = Explainer.compile(model, "exact_shapley", inputs=frame, baseline=np.zeros(5))
    with pytest.raises(errors.NonFiniteError):
        explain(frame)
    found = explain(frame, allow_nonfinite=True)
    wanted = {"count": "int64", "flag": "bool", "size": "float32", "kind": "category", "known": "Int64"}
    assert all(dtypes == wanted for dtypes in seen)
    np.testing.assert_allclose(found[["count", "flag", "size", "kind"]], [[2, 1, 0.5, 2], [4, 0, 1.5, 0]], atol=1e-9)
    seen.clear()
    explain(frame, baseline=np.full(5, 0.5), allow_nonfinite=True)
    assert {dtypes["count"] for dtypes in seen} >= {"float64"}  # a half of a count is no whole number


def test_a_pipeline_that_picks_columns_by_name(frame: Any) -> None:
    """exact_shapley and kernel_shap against all 2^3 coalitions, by hand."""
    compose = pytest.importorskip("sklearn.compose")
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    generator = np.random.default_rng(0)
    pandas = importlib.import_module("pandas")
    table = pandas.DataFrame(generator.normal(size=(60, 3)), columns=list(COLUMNS))
    table["visits"] = generator.integers(0, 9, 60)
    labels = (table["age"] * table["debt"] + table["visits"] > 4).astype(int)
    picked = compose.make_column_transformer(
        (StandardScaler(), ["debt", "age"]), (FunctionTransformer(np.square), ["income"]), ("passthrough", ["visits"])
    )
    model = make_pipeline(picked, LogisticRegression()).fit(table, labels)
    rows, start = table.iloc[:3], table.mean()
    exact = brute_force(model.predict_proba, rows, start)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # scikit-learn warns where names are lost
        explain = Explainer.compile(model.predict_proba, "exact_shapley", inputs=table, baseline=start)
        found = explain(rows[["visits", *OTHER]], target=1)
        assert list(found.columns) == ["visits", *OTHER]
        np.testing.assert_allclose(found[list(table)], exact, atol=1e-9)
        kernel = Explainer.compile(model.predict_proba, "kernel_shap", inputs=table, baseline=start)
        np.testing.assert_allclose(kernel(rows, target=1), exact, atol=1e-6)  # 14 coalitions: all of them
        Explainer.compile(model.predict_proba, "feature_ablation", inputs=table)(rows, target=1)
        every = explain(rows[["visits", *OTHER]], target="all")
    np.testing.assert_allclose(every[1], found, atol=1e-9)


def brute_force(model: Any, rows: Any, start: Any) -> np.ndarray:
    """Shapley values of output 1 by all orders."""
    from itertools import permutations

    names = list(rows.columns)
    orders = list(permutations(range(len(names))))
    total = np.zeros(rows.shape)
    for order in orders:
        now = rows.copy().astype(float)
        for name in names:
            now[name] = start[name]
        before = model(now)[:, 1]
        for place in order:
            now[names[place]] = rows[names[place]].to_numpy()
            after = model(now)[:, 1]
            total[:, place] += after - before
            before = after
    return total / len(orders)


def test_tables_beside_arrays(frame: Any) -> None:
    def model(table: Any, wave: np.ndarray) -> np.ndarray:
        return np.asarray(table["age"] * 2 + table["debt"]) + wave.sum(axis=1)

    explain = Explainer.compile(model, "feature_ablation", inputs=(frame, np.ones((1, 2))))
    first, second = explain(frame[OTHER], np.ones((3, 2)))
    np.testing.assert_allclose(first["age"], 2 * frame["age"])
    assert list(first.columns) == OTHER
    np.testing.assert_allclose(second, 1)
    named = Explainer.compile(model, "feature_ablation", inputs={"table": frame, "wave": np.ones((1, 2))})
    np.testing.assert_allclose(named(wave=np.ones((3, 2)), table=frame[OTHER])["table"]["debt"], frame["debt"])


def test_a_file_knows_the_names(frame: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    explain = Explainer.compile(net, "integrated_gradients", inputs=frame, baseline=frame.iloc[0][OTHER])
    explain.save(tmp_path / "a.explainer")
    loaded = Explainer.load(tmp_path / "a.explainer")
    right = explain(frame.to_numpy(), target=0)
    for some in (explain, loaded):
        assert some.signature.inputs[0].columns == tuple(COLUMNS)
        found = some(frame[OTHER], target=0)
        assert list(found.columns) == OTHER
        np.testing.assert_allclose(found[list(COLUMNS)], right)
        with pytest.raises(errors.InputError, match="lacks the columns 'age'"):
            some(frame.drop(columns="age"), target=0)
    specs = TensorSpec((None, 3), "float64", columns=COLUMNS)
    np.testing.assert_allclose(
        Explainer.compile(net, "integrated_gradients", inputs=specs, baseline=frame.iloc[0])(frame[OTHER], target=0)[
            list(COLUMNS)
        ],
        right,
    )


def test_names_outlive_a_change_of_dtype(frame: Any) -> None:
    """The backend makes new specs where the model is cast."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Linear(3, 2)
    explain = Explainer.compile(net, "input_x_gradient", inputs=frame, dtype="float64")
    assert explain.signature.inputs[0].columns == explain.attributed[0].columns == tuple(COLUMNS)
    weight = net.weight.detach().double().numpy()[0]
    holds(explain(frame[OTHER], target=0), {n: w * frame[n] for n, w in zip(COLUMNS, weight, strict=True)}, OTHER)


def test_names_that_are_not_known_are_taken_by_place_with_a_warning(frame: Any) -> None:
    explain = Explainer.compile(lambda x: x @ np.array([1.0, 100.0, -10.0]), "exact_shapley", inputs=np.zeros((1, 3)))
    with pytest.warns(
        errors.ColumnsWarning, match="the explainer knows no column names: they are taken by position"
    ) as told:
        found = explain(frame)
    assert told[0].filename == __file__
    holds(found, RIGHT, list(COLUMNS))
    frame.columns = range(3)  # only counted: no names
    np.testing.assert_allclose(explain(frame), np.array(list(RIGHT.values())).T)


def test_columns_of_a_spec() -> None:
    assert TensorSpec((None, 2), columns=("a", "b")).columns == ("a", "b")
    for shape, columns in (((None, 2), ("a",)), ((None, 2), ("a", "a")), ((None, 2, 2), ("a", "b"))):
        with pytest.raises(errors.InputError, match="a name of its own"):
            TensorSpec(shape, columns=columns)


def test_a_table_of_no_rows(frame: Any) -> None:
    explain = Explainer.compile(linear, "exact_shapley", inputs=frame)
    found = explain(frame[OTHER].iloc[:0])
    assert list(found.columns) == OTHER
    assert len(found) == 0
    with pytest.raises(errors.InputError, match="has no columns"):
        explain(frame[[]])


def test_comparisons_follow_names(frame: Any) -> None:
    """Explainers of tables in other orders, one that is compiled for the question, one of arrays."""
    compare, candidate = explainers.compare, explainers.Candidate
    found = compare(
        {
            "ordered": Explainer.compile(linear, "exact_shapley", inputs=frame),
            "other": Explainer.compile(linear, "exact_shapley", inputs=frame[OTHER]),
            "new": candidate(linear, "exact_shapley"),
        },
        frame[["income", "age", "debt"]], baseline=frame.iloc[0][OTHER], seconds=0.001,
    )  # fmt: skip
    assert found.agrees(1e-9)
    names = ("income", "age", "debt")
    right = np.array([RIGHT[name] - RIGHT[name][0] for name in names]).T
    for shares in found.attributions.values():
        np.testing.assert_allclose(shares, right, atol=1e-9)
    base = References(frame.to_numpy()[:, None] / 2, per_sample=True)
    each = compare([candidate(linear, "exact_shapley")], frame, baseline=base, seconds=0.001)
    (shares,) = each.attributions.values()
    np.testing.assert_allclose(shares, np.array(list(RIGHT.values())).T / 2, atol=1e-9)


def test_a_peer_gets_arrays_in_the_order_of_the_inputs(frame: Any) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("captum")
    net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Tanh(), torch.nn.Linear(4, 2)).double()
    mine = Explainer.compile(net, "integrated_gradients", inputs=frame)
    baseline = frame[OTHER].iloc[:1]
    peer = explainers.Candidate(net, "captum:IntegratedGradients")
    found = explainers.compare({"mine": mine, "peer": peer}, frame[OTHER], target=0, baseline=baseline, seconds=0)
    assert found.pairs[0].relative > 0.01  # the peer knows no names: it sees the columns as they stand
    same = explainers.compare({"mine": mine, "peer": peer}, frame, target=0, baseline=baseline, seconds=0)
    assert same.pairs[0].relative < 1e-6


def test_pictures_have_the_names(frame: Any) -> None:
    pytest.importorskip("matplotlib")
    explain = Explainer.compile(linear, "exact_shapley", inputs=frame)
    figure = explain.explanation(frame[OTHER]).plot("bars", samples=1)
    texts = " ".join(label.get_text() for axes in figure.axes for label in axes.get_yticklabels())
    assert all(name in texts for name in OTHER)
