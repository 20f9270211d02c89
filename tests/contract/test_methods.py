"""Every method × architecture × engine against its naive re-implementation."""

from __future__ import annotations

import numpy as np
import pytest

from explainers import Explainer, References, methods

from .naive import Naive, mask_of, numbered, one_row
from .subjects import (
    CASE_NAMES,
    ENGINES,
    ONE_OF_EACH,
    SEED,
    SMALLEST,
    TOLERANCE,
    assert_close,
    case,
    expected,
    methods_of,
    subject,
    with_naive_twin,
)

IN_EVERY_VARIANT = {"mlp", "cnn", "two_inputs", "sequential"}
LARGE = {"bert", "vit", "mixture", "attention", "unrolled_lstm"}  # each compile takes seconds
QUICK = {"gradient", "integrated_gradients-gauss_legendre", "smoothgrad-mean", "gradient_shap", "feature_ablation"}
WIDELY = {name: QUICK if name in LARGE else ONE_OF_EACH for names in CASE_NAMES.values() for name in names}
GRID = [
    pytest.param(
        f"{backend}-{name}", method, id=f"{backend}-{name}-{method}",
        marks=[] if name in IN_EVERY_VARIANT or method in WIDELY[name] else [pytest.mark.slow],
    )
    for backend, names in CASE_NAMES.items()
    for name in names
    for method in with_naive_twin(methods_of(backend))
]  # fmt: skip
IN_FLOAT32 = {"mlp", "cnn", "residual", "tokens", "bert", "mixture", "sequential", "functional", "attention"}


def check(label: str, method: str, dtype: str, engine: str = "auto", count: int = 3) -> None:
    """Compile and compare; packages of 5 rows (static engines: 4) cut samples apart and join them."""
    found = subject(label, dtype)
    explain = found.compile(method, engine=engine, batch_size=5)
    arrays = found.case.draw(count, dtype, seed=1)
    x = found.reference.points(arrays)
    target = found.target(found.reference.output(x, arrays))
    given, baselines = found.baselines(method, x)
    got = found.case.explain(explain, arrays, target=target, baseline=given, seed=SEED)
    assert {part.dtype for part in got} == {np.dtype(dtype)}
    assert_close(got, expected(found, method, arrays, target, baselines), TOLERANCE[dtype])


@pytest.mark.parametrize("backend", CASE_NAMES)
def test_every_case_is_in_the_grid(backend: str) -> None:
    case(f"{backend}-{CASE_NAMES[backend][0]}")
    module = {"torch": "models_torch", "tensorflow": "models_keras", "numpy": "models_numpy"}[backend]
    models = __import__(f"{__package__}.{module}", fromlist=["CASES"])
    assert [c.name for c in models.CASES] == CASE_NAMES[backend]


@pytest.mark.parametrize(("label", "method"), GRID)
def test_equals_naive_in_float64(label: str, method: str) -> None:
    check(label, method, "float64")


@pytest.mark.parametrize(
    ("label", "method"),
    [
        pytest.param(*p.values, id=p.id, marks=[] if p.values[1] in QUICK or "-mlp" in p.id else [pytest.mark.slow])
        for p in GRID
        if p.values[0].partition("-")[2] in IN_FLOAT32 and p.values[1] in ONE_OF_EACH
    ],
)
def test_equals_naive_in_float32(label: str, method: str) -> None:
    check(label, method, "float32")


def engine_grid() -> list:
    """Engine × method × dtype; what compiles for long, and is not needed to reach each code path, is slow."""
    grid = []
    for backend, engines in ENGINES.items():
        for engine in engines[1:]:
            for method in with_naive_twin(methods_of(backend, ONE_OF_EACH)):
                for dtype in ("float32", "float64"):
                    quick = engine == "eager" or (method in QUICK and dtype == "float32")
                    marks = [] if quick else [pytest.mark.slow]
                    grid.append(pytest.param(SMALLEST[backend], engine, method, dtype, marks=marks))
    return grid


@pytest.mark.parametrize(("label", "engine", "method", "dtype"), engine_grid())
def test_engine_equals_naive(label: str, engine: str, method: str, dtype: str) -> None:
    check(label, method, dtype, engine)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("label", "engine"),
    [(f"{backend}-cnn", engine) for backend in ("torch", "tensorflow") for engine in ENGINES[backend][1:]],
)
@pytest.mark.parametrize("method", with_naive_twin(ONE_OF_EACH))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_engine_equals_naive_on_cnn(label: str, engine: str, method: str, dtype: str) -> None:
    check(label, method, dtype, engine)


# --- options ---------------------------------------------------------------------------------

GROUPS = {
    "torch-mlp": ([7, 7, 2, 2, 5],),
    "numpy-mlp": ([7, 7, 2, 2, 5],),
    "tensorflow-sequential": ([7, 7, 2, 2, 5],),
    "torch-two_inputs": ([0, 1, 1, 3], [3, 0, 4]),  # ids that both inputs share
    "numpy-two_inputs": ([0, 1, 1, 3], [3, 0, 4]),
    "tensorflow-two_inputs": ([0, 1, 1, 3], [3, 0, 4]),
    "torch-spatial": ([[0], [1]],),  # broadcast over the last axis
    "numpy-spatial": ([[0], [1]],),
}


@pytest.mark.parametrize("label", GROUPS)
def test_feature_ablation_of_groups(label: str) -> None:
    found = subject(label, "float64")
    arrays = found.case.draw(3, "float64")
    maps = [np.broadcast_to(g, a.shape[1:]) for g, a in zip(map(np.array, GROUPS[label]), arrays, strict=True)]
    given = tuple(np.array(g) for g in GROUPS[label])
    method = methods.FeatureAblation(groups=given if len(given) > 1 else given[0])
    explain = Explainer.compile(found.model, method, inputs=found.case.given(arrays), batch_size=4)
    outputs = found.reference.output(arrays, arrays)
    target = found.target(outputs)
    mask = mask_of(target, outputs)
    zeros = [np.zeros_like(a[:1]) for a in arrays]
    rows = [
        Naive(found.reference, one_row(arrays, i), one_row(arrays, i), zeros, mask[i : i + 1]).feature_ablation(maps)
        for i in range(3)
    ]
    want = [np.concatenate(parts) for parts in zip(*rows, strict=True)]
    assert_close(found.case.explain(explain, arrays, target=target), want, 1e-9)


@pytest.mark.parametrize("label", ["torch-mlp", "tensorflow-sequential", "numpy-mlp", "numpy-spatial"])
def test_all_targets_at_once_equal_one_by_one(label: str) -> None:
    found = subject(label, "float64")
    arrays = found.case.draw(3, "float64")
    explain = found.compile("feature_ablation", batch_size=4)
    (whole,) = found.case.explain(explain, arrays, target="all")
    shape = found.reference.output(arrays, arrays).shape[1:]
    assert whole.shape == (*shape, *arrays[0].shape)
    for index in np.ndindex(*shape):
        target = index[0] if len(shape) == 1 else index
        assert_close([whole[index]], found.case.explain(explain, arrays, target=target), 1e-12)


FORMS = {
    "int": lambda shape, n: 1,
    "list": lambda shape, n: [i % shape[0] for i in range(n)],
    "array": lambda shape, n: np.arange(n) % shape[0],
    "shared mask": lambda shape, n: np.linspace(-1, 2, shape[0]),
    "mask": lambda shape, n: np.random.default_rng(0).normal(size=(n, *shape)),
    "max": lambda shape, n: "max",
}
LABELS = ["torch-mlp", "tensorflow-sequential", "numpy-mlp"]


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", ["gradient", "integrated_gradients-midpoint", "feature_ablation"])
def test_every_form_of_target(label: str, form: str, method: str) -> None:
    if label == "numpy-mlp" and method != "feature_ablation":
        method = "feature_ablation"
    found = subject(label, "float64")
    arrays = found.case.draw(4, "float64")
    target = FORMS[form]((3,), 4)
    got = found.case.explain(found.compile(method, batch_size=3), arrays, target=target)
    plain = target.tolist() if form == "array" else target
    zeros = [np.zeros_like(a) for a in arrays]
    assert_close(got, expected(found, method, arrays, plain, zeros), 1e-9)


@pytest.mark.parametrize("label", ["torch-spatial", "numpy-spatial"])
@pytest.mark.parametrize("target", [(1, 2), [(0, 1), (1, 0), (1, 2)], "max"], ids=str)
def test_targets_of_two_axes(label: str, target: object) -> None:
    found = subject(label, "float64")
    arrays = found.case.draw(3, "float64")
    got = found.case.explain(found.compile("feature_ablation"), arrays, target=target)
    assert_close(got, expected(found, "feature_ablation", arrays, target, [np.zeros_like(arrays[0])]), 1e-9)


BASELINES = {
    "number": lambda x: (0.5, np.full_like(x, 0.5)),
    "one sample": lambda x: (x[0] * 0.3, np.broadcast_to(x[:1] * 0.3, x.shape)),
    "per sample": lambda x: (x[::-1].copy(), x[::-1]),
    "callable": lambda x: (lambda batch: np.roll(batch, 1, axis=0), np.roll(x, 1, axis=0)),
}


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("form", BASELINES)
@pytest.mark.parametrize("method", ["integrated_gradients-right", "feature_ablation"])
@pytest.mark.parametrize("at", ["compile", "call"])
def test_every_form_of_baseline(label: str, form: str, method: str, at: str) -> None:
    if label == "numpy-mlp":
        method = "feature_ablation"
    found = subject(label, "float64")
    (x,) = arrays = found.case.draw(4, "float64")
    given, table = BASELINES[form](x)
    if form == "per sample" and method == "feature_ablation":
        given = References(given[:, None], per_sample=True)
    explain = found.compile(method, batch_size=3, **({"baseline": given} if at == "compile" else {}))
    got = found.case.explain(explain, arrays, target=2, **({"baseline": given} if at == "call" else {}))
    assert_close(got, expected(found, method, arrays, 2, [table]), 1e-9)


@pytest.mark.parametrize("label", ["torch-tokens", "tensorflow-tokens"])
def test_per_token_sums_over_the_embedding(label: str) -> None:
    found = subject(label, "float64")
    arrays = found.case.draw(3, "float64")
    (whole,) = found.case.explain(found.compile("integrated_gradients-midpoint"), arrays, target=1)
    (tokens,) = found.case.explain(found.compile("integrated_gradients-midpoint", per_token=True), arrays, target=1)
    assert_close([tokens], [whole.sum(-1)], 1e-12)


@pytest.mark.parametrize("label", ["torch-cnn", "torch-residual", "tensorflow-cnn", "tensorflow-functional"])
def test_the_references_tell_the_rules_apart(label: str) -> None:
    """A control: where ReLU is everywhere, the three derivatives differ, so agreeing with each says something."""
    found = subject(label, "float64")
    arrays = found.case.draw(1, "float64", seed=1)
    naive = Naive(found.reference, arrays, arrays, arrays, np.array([[0.0, 1.0, 0.0]]))
    rules = [naive.gradient()[0], naive.guided_backprop()[0], naive.deconvnet()[0]]
    for i in range(3):
        assert abs(rules[i]).max() > 0
        assert abs(rules[i] - rules[i - 1]).max() > 1e-3 * abs(rules[i]).max()


def test_numbered_elements_are_all_different() -> None:
    first, second = numbered([np.zeros((1, 2, 3)), np.zeros((1, 4))])
    assert sorted([*first.ravel(), *second.ravel()]) == list(range(10))
