"""A dense first layer that is computed once for each sample: the numbers are those of the program without."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods
from explainers.graph import Attributes, Function, Graph, Node, Output, Role, Value
from explainers.methods.removal import Units
from explainers.program import first_layer
from explainers.program.walk import Program
from explainers_numpy import ops as numpy_ops

SIZE, HIDDEN, CLASSES = 8, 24, 3
GROUPS = np.arange(SIZE)[:, None] // 4 * 3 + np.arange(SIZE) // 3  # 2 × 3 patches of unequal sizes
BOUND = {"float32": 1e-5, "float64": 1e-10}
METHODS: dict[str, Any] = {
    "feature_ablation": methods.FeatureAblation(GROUPS),
    "exact_shapley": methods.ExactShapley(GROUPS),
    "shapley_sampling": methods.ShapleySampling(6, groups=GROUPS),
    "kernel_shap": methods.KernelShap(40, groups=GROUPS),
    "lime": methods.Lime(50, groups=GROUPS),
}
BACKENDS = ("torch", "tensorflow")


@pytest.fixture(autouse=True)
def _small_models_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_layer, "LEAST_WORK", 0)
    monkeypatch.setattr(first_layer, "SETUP", 0)


@functools.cache
def trained(dtype: str) -> list[np.ndarray]:
    """Weights of a network with a softmax, trained by gradient descent until the softmax is sharp."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, SIZE * SIZE))
    y = np.eye(CLASSES)[(x @ rng.normal(size=(SIZE * SIZE, CLASSES))).argmax(1)]
    a, c = rng.normal(size=(SIZE * SIZE, HIDDEN)) / 8, rng.normal(size=(HIDDEN, CLASSES)) / 4
    b, d = np.zeros(HIDDEN), np.zeros(CLASSES)
    for _ in range(400):
        h = np.maximum(x @ a + b, 0)
        z = h @ c + d
        p = np.exp(z - z.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        back = (p - y) / len(x)
        inner = back @ c.T * (h > 0)
        for weight, slope in ((c, h.T @ back), (d, back.sum(0)), (a, x.T @ inner), (b, inner.sum(0))):
            weight -= 2.0 * slope
    assert np.sort(p, 1)[:, -1].mean() > 0.95
    return [weight.astype(dtype) for weight in (a, b, c, d)]


def network(backend: str, dtype: str, weights: list[np.ndarray]) -> Any:
    a, b, c, d = weights
    if backend == "torch":
        torch = pytest.importorskip("torch")
        net = torch.nn.Sequential(
            torch.nn.Flatten(), torch.nn.Linear(*a.shape), torch.nn.ReLU(), torch.nn.Linear(*c.shape),
            torch.nn.Softmax(1),
        ).to(getattr(torch, dtype)).eval()  # fmt: skip
        with torch.no_grad():
            for holder, array in zip(net.parameters(), (a.T, b, c.T, d), strict=True):
                holder.copy_(torch.from_numpy(array))
        return net
    pytest.importorskip("tensorflow")
    import keras

    layers = keras.layers
    net = keras.Sequential(
        [
            layers.Input((SIZE, SIZE), dtype=dtype), layers.Flatten(dtype=dtype),
            layers.Dense(HIDDEN, activation="relu", dtype=dtype),
            layers.Dense(CLASSES, activation="softmax", dtype=dtype),
        ]
    )  # fmt: skip
    net.set_weights([a, b, c, d])
    return net


def samples(count: int, dtype: str, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, SIZE, SIZE)).astype(dtype)


def pair(model: Any, method: Any, x: np.ndarray, monkeypatch: pytest.MonkeyPatch, **options: Any) -> list[Explainer]:
    """The explainer with the layer computed once, and the one without."""
    found = [Explainer.compile(model, method, inputs=x, **options)]
    monkeypatch.setattr(first_layer, "ENABLED", False)
    found.append(Explainer.compile(model, method, inputs=x, **options))
    monkeypatch.setattr(first_layer, "ENABLED", True)
    kinds = [type(explain._plan.packages.program) for explain in found]
    assert kinds[0] is not Program
    assert kinds[1] is Program
    return found


def assert_equal(got: Any, want: Any, dtype: str) -> None:
    assert got.dtype == want.dtype
    assert np.isfinite(want).all()
    assert abs(got - want).max() <= BOUND[dtype] * abs(want).max()
    assert abs(want).max() > 1e-3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_groups(backend: str, name: str, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One baseline, one for each sample, few references, and as many as run without; any packages, any target."""
    x, b = samples(5, dtype), samples(5, dtype, 2)
    reused, plain = pair(network(backend, dtype, trained(dtype)), METHODS[name], x, monkeypatch)
    many = samples(12, dtype, 3)
    for baseline in (
        0.0, b[0], References(b[:, None], per_sample=True), References(b[:3]), References(many),
        References(np.stack([b, b[::-1]], 1), per_sample=True),
    ):  # fmt: skip
        for target in ([0, 2, 1, 1, 0], "max"):
            keys = {"target": target, "baseline": baseline, "seed": 3}
            assert_equal(reused(x, **keys), plain(x, **keys), dtype)
    keys = {"target": 1, "baseline": b[0], "seed": 3}
    for size in (1, 7, 64):
        assert_equal(reused(x, **keys, batch_size=size), plain(x, **keys), dtype)


@pytest.mark.parametrize("backend", BACKENDS)
def test_large_differences(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows without the large values of x or of the baseline have the digits that they have in the dense product."""
    a, *others = trained("float32")
    scale = np.ones(SIZE * SIZE, np.float32)
    scale[GROUPS.ravel() == 2] = 1e-6  # large entries count as much as the others
    weights = [a * scale[:, None], *others]
    x, b = samples(4, "float32"), samples(1, "float32", 2)[0]
    b[GROUPS == 2] *= 1e6
    reused, plain = pair(network(backend, "float32", weights), METHODS["exact_shapley"], x, monkeypatch)
    assert_equal(reused(x, target=0, baseline=b), plain(x, target=0, baseline=b), "float32")
    x[:, GROUPS == 2] *= 1e6
    assert_equal(reused(x, target=0, baseline=b), plain(x, target=0, baseline=b), "float32")
    rest = np.where(GROUPS == 2, 0, b)
    assert_equal(reused(x, target=0, baseline=rest), plain(x, target=0, baseline=rest), "float32")
    full = [a, *others]  # the large values saturate the softmax unless they are removed
    reused, plain = pair(network(backend, "float32", full), METHODS["feature_ablation"], x, monkeypatch)
    x[:, GROUPS == 2] /= 1e6
    assert_equal(reused(x, target=0, baseline=b), plain(x, target=0, baseline=b), "float32")
    clean = pair(network(backend, "float64", [w.astype(np.float64) for w in full]), METHODS["exact_shapley"],
                 x.astype(np.float64), monkeypatch)[1]  # fmt: skip
    coalitions = pair(network(backend, "float32", full), METHODS["exact_shapley"], x, monkeypatch)
    exact = clean(x.astype(np.float64), target=0, baseline=b.astype(np.float64))
    errors = [abs(explain(x, target=0, baseline=b) - exact).max() for explain in coalitions]
    assert errors[0] <= 1e-5 * abs(exact).max()


def test_values_that_are_not_finite_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 · NaN is NaN: with allow_nonfinite rows without the feature, and other samples, do not see it."""
    x = samples(3, "float32")
    reused, plain = pair(network("torch", "float32", trained("float32")), METHODS["feature_ablation"], x, monkeypatch)
    x[1, 0, 0] = np.nan
    keys: dict[str, Any] = {"target": 0, "allow_nonfinite": True}
    np.testing.assert_array_equal(reused(x, **keys), plain(x, **keys))
    assert np.isfinite(reused(x, **keys)[[0, 2]]).all()


def test_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    x = samples(9, "float32")
    explain, _ = pair(network("torch", "float32", trained("float32")), METHODS["shapley_sampling"], x, monkeypatch)
    for count, target in ((1, 0), (9, "max"), (4, "all"), (2, [1, 2])):
        explain(x[:count], target=target, baseline=x[0])
        explain(x[:count], target=target, baseline=References(x[:count, None], per_sample=True))
    explain.explanation(x, target=1)
    assert explain.stats.traces == 1


def test_weights_and_files(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file keeps the program that it was saved with, whatever pays here; new weights count."""
    x, b = samples(4, "float32"), samples(1, "float32", 2)[0]
    model = network("torch", "float32", trained("float32"))
    explainers = pair(model, METHODS["kernel_shap"], x, monkeypatch)
    many = References(samples(12, "float32", 3))
    for place, explain in enumerate(explainers):
        explain.save(tmp_path / f"{place}.explainer")
    for enabled in (True, False):
        monkeypatch.setattr(first_layer, "ENABLED", enabled)
        for place, explain in enumerate(explainers):
            loaded = Explainer.load(tmp_path / f"{place}.explainer")
            for baseline in (b, many):
                want = explain(x, target=0, baseline=baseline, seed=1)
                np.testing.assert_array_equal(loaded(x, target=0, baseline=baseline, seed=1), want)
    model[1].weight.data.mul_(0.5)
    model[1].bias.data.add_(0.25)
    for explain in explainers:
        explain.refresh()
    after = [explain(x, target=0, baseline=b, seed=1) for explain in explainers]
    assert_equal(*after, "float32")


def test_another_user_of_the_input_keeps_the_rows() -> None:
    torch = pytest.importorskip("torch")

    class Skip(torch.nn.Module):
        def __init__(self, around: bool) -> None:
            super().__init__()
            self.first, self.last, self.around = torch.nn.Linear(64, 64), torch.nn.Linear(64, 3), around

        def forward(self, x: Any) -> Any:
            x = x.flatten(1)
            hidden = self.first(x).relu()
            return self.last(hidden + x if self.around else hidden).view(x.size(0), 3)

    x = samples(3, "float32")
    kinds = []
    for around in (True, False):
        explain = Explainer.compile(Skip(around).eval(), METHODS["exact_shapley"], inputs=x)
        kinds.append(type(explain._plan.packages.program) is Program)
        explain(x, target=0)
    assert kinds == [True, False]


def test_order_of_the_elements_is_known() -> None:
    """What reorders the input before the layer is not mistaken for flattening it."""
    torch = pytest.importorskip("torch")

    class Turned(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = torch.nn.Linear(64, 8)

        def forward(self, x: Any) -> Any:
            return self.first(x.transpose(1, 2).flatten(1)).relu()

    explain = Explainer.compile(Turned().eval(), METHODS["exact_shapley"], inputs=samples(2, "float32"))
    assert type(explain._plan.packages.program) is Program


# --- the program over numpy --------------------------------------------------------------------


class Ops:
    """numpy's array namespace, with operations that are given as functions."""


for _name in dir(numpy_ops):
    if not _name.startswith("_"):
        setattr(Ops, _name, staticmethod(getattr(numpy_ops, _name)))


def graph(axis: int) -> Graph:
    """x (N, 2, 3) → flatten → x·W + bias → square."""
    kinds = {"x": (None, 2, 3), "w": (6, 4) if axis == 0 else (4, 6), "c": (4,), "flat": (None, 6), "y": (None, 4)}
    out = {name: (Output(shape, "float64"),) for name, shape in kinds.items()}
    x, w, c, flat, y = (Value(name) for name in kinds)
    dense = Attributes(weight=1, bias=2, contracted=axis)
    nodes = (
        Node("x", "input", Role.INPUT, outputs=out["x"]),
        Node("w", "weight", Role.WEIGHT, outputs=out["w"]),
        Node("c", "weight", Role.WEIGHT, outputs=out["c"]),
        Node("flat", "flatten", Role.LINEAR, (x,), out["flat"], function=Function.COPY,
             payload=lambda x: x.reshape(len(x), -1)),
        Node("y", "dense", Role.LINEAR, (flat, w, c), out["y"], function=Function.DENSE, attributes=dense,
             payload=lambda x, w, c: x @ (w if axis == 0 else w.T) + c),
        Node("z", "square", Role.UNIVARIATE, (y,), out["y"], payload=np.square),
    )  # fmt: skip
    return Graph(nodes, (x,), (("0", Value("z")),))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("method", [methods.FeatureAblation, methods.ExactShapley])
def test_the_program_over_numpy(method: Any, axis: int) -> None:
    rng = np.random.default_rng(0)
    groups = np.array([[0, 1, 1], [2, 1, 0]])
    plain = Program(graph(axis), method(groups), (Value("x"),))
    reused = first_layer.GroupsInFirstLayer(graph(axis), method(groups), (Value("x"),))
    np.testing.assert_array_equal(reused.members, [[0, 5, -1], [1, 2, 4], [3, -1, -1]])
    sample = np.array([0, 0, 1, 1, 1])
    number = np.array([0, 2, 0, 1, 2])
    design = plain.design
    assert design is not None
    given = design.rows(Units(sample, number, np.zeros(5, np.uint64)), np.arange(5))
    args: dict[str, Any] = {
        "input_x": rng.normal(size=(2, 2, 3)), "mask": rng.normal(size=(2, 4)),
        "baseline_0": rng.normal(size=(3, 2, 3)),
        "sample": sample, "baseline": np.array([2, 0, 0, 1, 2]), **given, **reused.constants(),
    }  # fmt: skip
    weights = {Value("w"): rng.normal(size=(6, 4) if axis == 0 else (4, 6)), Value("c"): rng.normal(size=4)}
    want = plain(Ops, weights, *(args[p.name] for p in plain.placeholders))
    got = reused(Ops, weights, *(args[p.name] for p in reused.placeholders))
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_what_pays() -> None:
    """Few large groups and many rows for each sample pay; small features, or few rows in a package, do not."""
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(256, 4096), torch.nn.ReLU(), torch.nn.Linear(4096, 2)).eval()
    x = np.zeros((1, 256), np.float32)

    def reuses(method: Any, **options: Any) -> bool:
        explain = Explainer.compile(net, method, inputs=x, **options)
        return type(explain._plan.packages.program) is not Program

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(first_layer, "SETUP", 16)
        patch.setattr(first_layer, "LEAST_WORK", 2**24)
        assert reuses(methods.ShapleySampling(4, groups=np.arange(256) // 16))
        assert not reuses(methods.ShapleySampling(4, groups=np.arange(256) // 16), batch_size=8)
        assert not reuses(methods.ShapleySampling(4, groups=np.arange(256) // 2))
        assert not reuses(methods.ShapleySampling(1))
