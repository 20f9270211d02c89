"""Token ids, categories, booleans and pixels of a byte as features: removed by selecting the baseline."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, Scheduler, methods
from explainers.errors import BaselineError, InputError

N, TOKENS, WORDS, PAD = 3, 6, 20, 0
REMOVAL: dict[str, methods.Method] = {
    "feature_ablation": methods.FeatureAblation(),
    "occlusion": methods.Occlusion(window=1),
    "exact_shapley": methods.ExactShapley(),
    "shapley_sampling": methods.ShapleySampling(permutations=3),
    "kernel_shap": methods.KernelShap(samples=62),  # all coalitions
}


def ids(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, WORDS, (N, TOKENS))


def table() -> np.ndarray:
    found = np.random.default_rng(1).normal(size=(WORDS, 2))
    found[PAD] = 0
    return found


def bag_torch() -> Any:
    torch = pytest.importorskip("torch")
    model = torch.nn.Embedding(WORDS, 2, _weight=torch.tensor(table()))

    class Bag(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = model

        def forward(self, x: Any) -> Any:
            return self.embedding(x).sum(1)

    return Bag()


def bag_keras() -> Any:
    keras = pytest.importorskip("keras")
    given = keras.Input((TOKENS,), dtype="int32")
    layer = keras.layers.Embedding(WORDS, 2, dtype="float64")
    model = keras.Model(given, keras.ops.sum(layer(given), axis=1))
    layer.set_weights([table()])
    return model


def bag_numpy() -> Any:
    return lambda x: table()[x].sum(1)


BAGS = {"torch": bag_torch, "tensorflow": bag_keras, "numpy": bag_numpy}


@pytest.mark.parametrize("backend", BAGS)
@pytest.mark.parametrize("method", REMOVAL)
def test_deletion_in_a_bag_of_embeddings(backend: str, method: str) -> None:
    """Additive: taking a token away for padding takes its entry of the table away, for every method."""
    x = ids()
    explain = Explainer.compile(BAGS[backend](), REMOVAL[method], inputs=x, baseline=PAD)
    got = explain(x, target=1)
    assert got.dtype == np.float64
    np.testing.assert_allclose(got, table()[x][..., 1], atol=1e-9)
    assert explain.attributed[0].floating
    assert explain(x[:0], target=1).dtype == np.float64
    everything = explain(x, target="all")
    np.testing.assert_allclose(everything, np.moveaxis(table()[x], -1, 0), atol=1e-9)


@pytest.mark.parametrize("backend", ["torch", "numpy"])
def test_equals_a_loop(backend: str) -> None:
    """A model where tokens interact, with a set of references and words of several tokens."""
    w, x = table(), ids()
    if backend == "torch":
        torch = pytest.importorskip("torch")
        weights = torch.tensor(w)

        class Net(torch.nn.Module):
            def forward(self, x: Any) -> Any:
                return torch.tanh(torch.nn.functional.embedding(x, weights).cumsum(1)).prod(1)

        model: Any = Net()
    else:
        model = lambda x: np.tanh(w[x].cumsum(1)).prod(1)  # noqa: E731
    groups, references = np.array([0, 0, 1, 2, 2, 2]), ids(5)[:2]

    def value(row: np.ndarray) -> float:
        return float(np.tanh(w[row].cumsum(0)).prod(0)[0])

    expected = np.zeros(x.shape)
    for i, row in enumerate(x):
        for group in range(3):
            removed = [value(np.where(groups == group, reference, row)) for reference in references]
            expected[i, groups == group] = value(row) - np.mean(removed)
    explain = Explainer.compile(model, methods.FeatureAblation(groups), inputs=x)
    assert abs(expected).max() > 1e-4
    np.testing.assert_allclose(explain(x, target=0, baseline=References(references)), expected, atol=1e-12)


def test_bytes_and_booleans() -> None:
    image = np.random.default_rng(0).integers(0, 256, (2, 5, 5), dtype=np.uint8)
    seen = np.random.default_rng(1).random((2, 4)) < 0.5

    def model(image: np.ndarray, seen: np.ndarray) -> np.ndarray:
        assert image.dtype == np.uint8
        assert seen.dtype == bool
        return (image / 255.0).sum((1, 2)) * (1 + seen @ np.arange(4.0))

    explain = Explainer.compile(model, methods.FeatureAblation(), inputs=(image, seen))
    first, second = explain(image, seen)
    scale = 1 + seen @ np.arange(4.0)
    np.testing.assert_allclose(first, image / 255.0 * scale[:, None, None], atol=1e-12)
    np.testing.assert_allclose(second, seen * np.arange(4.0) * (image / 255.0).sum((1, 2))[:, None], atol=1e-12)
    white = explain(image, seen, baseline=(255, True))[0]
    assert (white <= 0).all()


def test_floats_and_categories_together() -> None:
    """Floating inputs alone by default; categories where they are asked for."""
    torch = pytest.importorskip("torch")

    class Mixed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = torch.nn.Embedding(7, 3)
            self.head = torch.nn.Linear(7, 2)

        def forward(self, x: Any, kind: Any) -> Any:
            return self.head(torch.cat([x, self.embedding(kind)], 1))

    torch.manual_seed(0)
    model, x, kind = Mixed(), np.random.default_rng(0).normal(size=(N, 4)).astype(np.float32), np.array([1, 4, 6])
    assert Explainer.compile(model, "feature_ablation", inputs=(x, kind))(x, kind, target=0).shape == (N, 4)
    explain = Explainer.compile(model, "feature_ablation", inputs=(x, kind), wrt=["kind", "x"])
    of_kind, of_x = explain(x, kind, target=0, baseline=(3, 0.0))
    expected = explain.predict(x, kind) - explain.predict(x, np.full(N, 3))
    np.testing.assert_allclose(of_kind, expected[:, 0], atol=1e-6)
    assert of_x.shape == x.shape
    with pytest.raises(InputError, match="removes features"):
        Explainer.compile(model, "gradient", inputs=(x, kind), wrt="kind")


def test_use() -> None:
    torch = pytest.importorskip("torch")
    x = ids()
    explain = Explainer.compile(bag_torch(), "shapley_sampling", inputs=x, baseline=PAD).warmup()
    whole = explain(x, target=0)
    file = io.BytesIO()
    explain.save(file)
    assert (Explainer.load(file.getvalue())(x, target=0) == whole).all()
    of_torch = explain(torch.tensor(x), target=0)
    assert of_torch.dtype == torch.float64
    with Scheduler() as scheduler:
        found = scheduler.submit(explain, x, target=0).result()
    np.testing.assert_allclose(found.attributions, whole, atol=1e-12)
    narrow = explain(x.astype(np.int16), target=0)
    np.testing.assert_allclose(narrow, whole, atol=1e-12)


@pytest.mark.parametrize("wrt", [None, "embedding"])
def test_ids_outside_the_vocabulary(wrt: str | None) -> None:
    x = ids()
    method = "feature_ablation" if wrt is None else "gradient"
    explain = Explainer.compile(bag_torch(), method, inputs=x, wrt=wrt, baseline=PAD)
    for wrong in (WORDS, -1):
        given = x.copy()
        given[2, 5] = wrong
        for call in (lambda given=given: explain(given, target=0), lambda given=given: explain.predict(given)):
            with pytest.raises(InputError, match=rf"the id {wrong} at \(2, 5\); the model's table has {WORDS}"):
                call()


def test_baselines_that_say_nothing() -> None:
    x = ids()
    explain = Explainer.compile(bag_torch(), "feature_ablation", inputs=x)
    with pytest.raises(BaselineError, match="id of a mask or padding token"):
        explain(x, target=0)
    with pytest.raises(BaselineError, match="whole numbers"):
        explain(x, target=0, baseline=1.5)
    with pytest.raises(InputError, match=f"the baseline of 'x' holds the id {WORDS}"):
        explain(x, target=0, baseline=WORDS)
    with pytest.raises(InputError, match="'feature_ablation'"):
        Explainer.compile(bag_torch(), "rise", inputs=x)
