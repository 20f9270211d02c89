"""Axes that vary from call to call: one trace serves every size, with the numbers of an explainer for that size."""

from __future__ import annotations

import functools
import io
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explainers import Explainer, References, TensorSpec, methods
from explainers.errors import InputError, TraceError
from explainers.scheduler import Scheduler

IDS = TensorSpec((None, None), "int64")
LENGTHS = (16, 2, 60)
WORDS = "embedding"


class Pooled(nn.Module):
    """Convolutions over embeddings, attention, a strided convolution and a maximum over what is left."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 8)
        self.mixed = nn.Conv1d(8, 8, 3, padding=1)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.strided = nn.Conv1d(8, 8, 2, stride=2)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids)
        h = h + torch.nn.functional.gelu(self.mixed(h.transpose(1, 2))).transpose(1, 2)
        h = self.norm(h + self.attention(h, h, h, need_weights=False)[0])
        return self.head(torch.relu(self.strided(h.transpose(1, 2))).amax(dim=2))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 6)
        self.lstm = nn.LSTM(6, 5, batch_first=True, bidirectional=True)
        self.head = nn.Linear(10, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.lstm(self.embedding(ids))[0].mean(dim=1))


class Tagger(nn.Module):
    """An output for each token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(40, 6)
        self.mixed = nn.Conv1d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mixed(self.embedding(ids).transpose(1, 2))).transpose(1, 2))


@functools.cache
def net(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    made = kind().double().eval()
    for parameter in made.parameters():
        parameter.data *= 2
    return made


def ids_of(length: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(length).integers(0, 40, size=(count, length))


METHODS: dict[str, tuple[Any, dict[str, Any]]] = {
    **{
        name: (name, {"wrt": WORDS})
        for name in (
            "gradient", "saliency", "input_x_gradient", "guided_backprop", "lrp", "integrated_gradients", "deeplift",
            "deeplift_shap", "gradient_shap",
        )
    },
    "smoothgrad": (methods.SmoothGrad(samples=3), {"wrt": WORDS}),
    "feature_ablation": ("feature_ablation", {"baseline": 1}),
    "shapley_sampling": (methods.ShapleySampling(permutations=2), {"baseline": 1}),
    "kernel_shap": (methods.KernelShap(samples=130), {"baseline": 1}),
    "lime": (methods.Lime(samples=20), {"baseline": 1}),
}  # fmt: skip


CASES = [(Pooled, name) for name in METHODS]
CASES += [(Recurrent, name) for name in METHODS if name not in ("lrp", "deeplift", "deeplift_shap")]


def check(kind: type[nn.Module], name: str, lengths: Sequence[int]) -> None:
    method, options = METHODS[name]
    explain = Explainer.compile(net(kind), method, inputs=IDS, **options)
    explain(ids_of(5), target=1)
    traces = explain.stats.traces
    for length in lengths:
        ids = ids_of(length)
        found = explain.explanation(ids, target=[0, 1, 2], seed=4)
        fixed = Explainer.compile(net(kind), method, inputs=ids, **options)
        expected = fixed.explanation(ids, target=[0, 1, 2], seed=4)
        scale = abs(expected.attributions).max()
        assert found.attributions.shape == expected.attributions.shape
        np.testing.assert_allclose(found.attributions, expected.attributions, atol=1e-12 * scale)
        np.testing.assert_allclose(found.outputs, expected.outputs, atol=1e-12)
        if expected.completeness_gap is not None:
            np.testing.assert_allclose(found.completeness_gap, expected.completeness_gap, atol=1e-9 * scale)
    apart = [length for length in lengths if explain.signature.unmet({"length": length})]  # of another branch
    assert explain.stats.traces == traces * (1 + len(apart))


@pytest.mark.parametrize("name", METHODS)
def test_as_for_one_length(name: str) -> None:
    check(Pooled, name, [33])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "name"), CASES)
def test_as_for_every_length(kind: type[nn.Module], name: str) -> None:
    check(kind, name, LENGTHS)


def test_a_recurrent_model() -> None:
    check(Recurrent, "integrated_gradients", [12])


def test_steps_of_a_loop() -> None:
    """Rules walk recurrent layers step by step, whose number is fixed."""
    with pytest.raises(TraceError, match="one size of axis 1 of 'ids' only"):
        Explainer.compile(net(Recurrent), "lrp", inputs=IDS, wrt=WORDS)(ids_of(5), target=0)


@pytest.mark.parametrize("name", ["gradient", "integrated_gradients", "kernel_shap", "deeplift"])
def test_a_single_token(name: str) -> None:
    """What is broadcast along an axis of size 1 is not what is done along others."""
    method, options = METHODS[name]
    explain = Explainer.compile(net(Tagger), method, inputs=IDS, **options)
    found = explain(ids_of(1), target=(0, 1))
    expected = Explainer.compile(net(Tagger), method, inputs=ids_of(1), **options)(ids_of(1), target=(0, 1))
    np.testing.assert_allclose(found, expected, atol=1e-12)
    traces = explain.stats.traces
    explain(ids_of(1, 7), target=(0, 1))
    assert explain.stats.traces == traces


def test_an_output_for_each_token() -> None:
    explain = Explainer.compile(net(Tagger), "integrated_gradients", inputs=IDS, wrt=WORDS, per_token=True)
    assert str(explain.output) == "0: float64[batch, length, 3]"
    for length in (4, 9):
        found = explain(ids_of(length), target=(length - 1, 2))
        assert found.shape == (3, length)
        assert not found[:, : length - 2].any()  # beyond the convolution's window
        assert found[:, length - 2 :].any()
        with pytest.raises(InputError, match=rf"\({length}, 3\)"):
            explain(ids_of(length), target=(length, 0))
    ablate = Explainer.compile(net(Tagger), "feature_ablation", inputs=IDS, baseline=0)
    assert ablate(ids_of(6), target="all").shape == (6, 3, 3, 6)


def test_lengths_groups_and_references_share_one_trace() -> None:
    explain = Explainer.compile(net(Pooled), methods.ShapleySampling(permutations=2), inputs=IDS, baseline=0)
    generator = np.random.default_rng(0)
    for length in (16, 512, 100, 31):
        ids = ids_of(length)
        words = np.sort(generator.integers(0, 8, size=ids.shape), axis=1)
        own = References(generator.integers(0, 40, size=(3, 2, length)), per_sample=True)
        shared = References(generator.integers(0, 40, size=(2, length)))
        for baseline in (None, own, shared, 3):
            detailed = explain.explanation(ids, target=1, groups=words, baseline=baseline)
            assert abs(detailed.completeness_gap).max() < 1e-9
            for row, word in zip(detailed.attributions, words, strict=True):
                assert all(len(np.unique(row[word == w])) == 1 for w in np.unique(word))
    assert explain.stats.traces == 1
    ablate = Explainer.compile(net(Pooled), "feature_ablation", inputs=IDS, baseline=0)
    for length in (7, 20):
        ids, words = ids_of(length), np.arange(length)[None] // 2
        found = ablate(ids, target=0, groups=words)
        fixed = Explainer.compile(net(Pooled), methods.FeatureAblation(words[0]), inputs=ids, baseline=0)
        np.testing.assert_allclose(found, fixed(ids, target=0), atol=1e-12)
    assert ablate.stats.traces == 1


def test_images_of_any_size() -> None:
    torch.manual_seed(0)
    layers = [nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)]
    model = nn.Sequential(*layers).double()
    spec = TensorSpec((None, 1, "height", "width"), "float64")
    for name in ("deeplift", "input_x_gradient", "exact_shapley"):
        explain = Explainer.compile(model, name, inputs=spec)
        for height, width in ((12, 8), (9, 9), (40, 13)):
            x = np.random.default_rng(height).normal(size=(2, 1, height, width))
            groups = (np.arange(height)[:, None] // 8 * 2 + np.arange(width) // 8).reshape(1, 1, height, width) % 7
            extra = {"groups": groups} if name == "exact_shapley" else {}
            method = methods.ExactShapley(groups[0]) if extra else name
            expected = Explainer.compile(model, method, inputs=x)(x, target=1)
            np.testing.assert_allclose(explain(x, target=1, **extra), expected, atol=1e-12)


def test_two_axes_of_different_names() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(40, 4)
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

        def forward(self, premise: Tensor, hypothesis: Tensor) -> Tensor:
            a, b = self.embedding(premise), self.embedding(hypothesis)
            return self.attention(b, a, a, need_weights=False)[0].mean(dim=1)

    inputs = {
        "premise": TensorSpec((None, "premise"), "int64"), "hypothesis": TensorSpec((None, "hypothesis"), "int64")
    }  # fmt: skip
    model = net(Pair)
    explain = Explainer.compile(model, "kernel_shap", inputs=inputs, baseline=0)
    for first, second in ((5, 9), (9, 5), (6, 6)):
        arrays = {"premise": ids_of(first), "hypothesis": ids_of(second)}
        expected = Explainer.compile(model, "kernel_shap", inputs=arrays, baseline=0)(arrays, target=0)
        found = explain(arrays, target=0)
        for part in arrays:
            np.testing.assert_allclose(found[part], expected[part], atol=1e-12)
    assert explain.stats.traces == 1
    same = {name: TensorSpec((None, None), "int64") for name in inputs}
    together = Explainer.compile(model, "kernel_shap", inputs=same, baseline=0)
    with pytest.raises(InputError, match="'length' has the size 5 in input 'premise' and 9 in 'hypothesis'"):
        together({"premise": ids_of(5), "hypothesis": ids_of(9)}, target=0)


def test_callables() -> None:
    def f(x: np.ndarray) -> np.ndarray:
        return np.stack([np.sin(x).sum(axis=1), (x**2).mean(axis=1)], axis=1)

    explain = Explainer.compile(f, "shapley_sampling", inputs=TensorSpec((None, None), "float64"))
    for length in (1, 5, 9):
        x = np.random.default_rng(length).normal(size=(4, length))
        expected = Explainer.compile(f, "shapley_sampling", inputs=x)(x, target=1)
        np.testing.assert_allclose(explain(x, target=1), expected, atol=1e-12)
    double = Explainer.compile(lambda x: x * 2, "feature_ablation", inputs=TensorSpec((None, None), "float64"))
    assert double(np.ones((1, 4)), target=3).tolist() == [[0, 0, 0, 2]]


@pytest.mark.parametrize("name", ["integrated_gradients", "deeplift", "kernel_shap", "feature_ablation"])
def test_saved_and_loaded(name: str) -> None:
    method, options = METHODS[name]
    explain = Explainer.compile(net(Pooled), method, inputs=IDS, **options)
    buffer = io.BytesIO()
    explain.save(buffer)
    loaded = Explainer.load(buffer.getvalue())
    assert str(loaded.signature) == str(explain.signature) == "ids: int64[batch, length]"
    for length in (5, 20):
        expected = explain(ids_of(length), target=1)
        np.testing.assert_allclose(loaded(ids_of(length), target=1), expected, atol=1e-12)
    assert loaded.stats.traces == 0
    with pytest.raises(Exception, match="an axis of size 1 needs the model"):
        loaded(ids_of(1), target=1)


def test_refresh_replace_and_predict() -> None:
    model = Pooled().double().eval()
    explain = Explainer.compile(model, "integrated_gradients", inputs=IDS, wrt=WORDS)
    ids = ids_of(9)
    before = explain(ids, target=0)
    more = explain.replace(steps=64)
    again = Explainer.compile(model, methods.IntegratedGradients(64), inputs=ids, wrt=WORDS)(ids, target=0)
    np.testing.assert_allclose(more(ids, target=0), again, atol=1e-12)
    np.testing.assert_allclose(explain.predict(ids), model(torch.as_tensor(ids)).detach(), atol=1e-12)
    assert np.array_equal(explain(ids, target=0), before)
    with torch.no_grad():
        model.head.weight.mul_(2)
        model.strided.weight = nn.Parameter(model.strided.weight * 1.5)
    expected = Explainer.compile(model, "integrated_gradients", inputs=ids, wrt=WORDS)(ids, target=0)
    np.testing.assert_allclose(explain.refresh()(ids, target=0), expected, atol=1e-12)


def test_threads_and_a_scheduler() -> None:
    explain = Explainer.compile(net(Pooled), "deeplift", inputs=IDS, wrt=WORDS)
    expected = {length: explain(ids_of(length), target=1) for length in range(2, 12)}
    failures: list[int] = []

    def work() -> None:
        for length, wanted in expected.items():
            if not np.allclose(explain(ids_of(length), target=1), wanted, atol=1e-12):
                failures.append(length)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with Scheduler() as scheduler:
        futures = {length: scheduler.submit(explain, ids_of(length), target=1) for length in expected}
        for length, future in futures.items():
            np.testing.assert_allclose(future.result().attributions, expected[length], atol=1e-12)


def test_packages_follow_the_length() -> None:
    explain = Explainer.compile(net(Pooled), "shapley_sampling", inputs=IDS, baseline=0)
    short, long = (explain.request(ids_of(n), target=0).packages.batch_size for n in (4, 4000))
    assert long < short


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Explainer.compile(net(Pooled), "occlusion", inputs=IDS), "'occlusion' needs all sizes but"),
        (lambda: Explainer.compile(net(Pooled), "gradient", inputs=IDS, wrt=WORDS, engine="inductor"),
         "engine 'inductor' compiles for fixed sizes"),
        (lambda: Explainer.compile(net(Pooled), methods.Lime(groups=[0, 0, 1]), inputs=IDS), "Give them at each call"),
        (lambda: Explainer.compile(net(Pooled), "gradient", inputs=IDS, wrt="strided"),
         "the size of an axis is computed from one that varies"),
        (lambda: Explainer.compile(net(Pooled), "lime", inputs=IDS, baseline=0)(np.zeros((2, 3, 4), int), target=0),
         r"has shape \(2, 3, 4\); the model takes ids: int64\[batch, length\]"),
        (lambda: Explainer.compile(net(Pooled), "lime", inputs=IDS, baseline=0)(np.zeros((2, 0), int), target=0),
         r"shape \(2, 0\); the trace holds for 'length' of 1 or more"),
    ],
)  # fmt: skip
def test_refused(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_beyond_the_positions_of_the_model() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.places = nn.Embedding(40, 4), nn.Embedding(50, 4)
            self.register_buffer("ids", torch.arange(50)[None])
            self.head = nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            return self.head(torch.tanh(self.embedding(ids) + self.places(self.ids[:, : ids.shape[1]])).mean(dim=1))

    explain = Explainer.compile(net(Positions), "gradient", inputs=IDS, wrt=WORDS)
    assert explain(ids_of(50), target=0).shape == (3, 50, 4)
    with pytest.raises(InputError, match=r"shape \(3, 51\); the trace holds for 'length' of 1 to 50"):
        explain(ids_of(51), target=0)


def test_a_model_of_one_length() -> None:
    model = nn.Sequential(nn.Embedding(40, 4), nn.Flatten(), nn.Linear(44, 2))
    with pytest.raises(TraceError, match="one size of axis 1 of 'input' only"):
        Explainer.compile(model, "gradient", inputs=IDS, wrt="0")


# --- what the trace does not hold for --------------------------------------------------------


class Branching(nn.Module):
    """Takes another branch for some lengths."""

    def __init__(self, branch: str) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        length, batch = x.shape[1], x.shape[0]
        taken = {
            "odd": length % 2 == 1, "one": length != 13, "batch": length != batch, "long": length <= 20,
        }  # fmt: skip
        return x.sum(dim=1) if taken[self.branch] else x.mean(dim=1) ** 2


@pytest.mark.parametrize(("branch", "held", "other"), [("odd", 9, 8), ("one", 12, 13)])
def test_lengths_on_another_branch_are_traced_by_themselves(branch: str, held: int, other: int) -> None:
    spec = TensorSpec((None, None, 2), "float64")
    explain = Explainer.compile(Branching(branch), "gradient", inputs=spec)
    for length in (held, other):
        x = np.random.default_rng(length).normal(size=(3, length, 2))
        expected = Explainer.compile(Branching(branch), "gradient", inputs=x)(x, target=1)
        np.testing.assert_allclose(explain(x, target=1), expected, atol=1e-12)
    traces = explain.stats.traces
    assert traces == 2
    explain(np.ones((2, other, 2)), target=0)
    assert explain.stats.traces == traces
    buffer = io.BytesIO()
    explain.save(buffer)
    with pytest.raises(InputError, match=rf"with length {other} the model takes another branch"):
        Explainer.load(buffer.getvalue())(np.ones((3, other, 2)), target=1)


def test_lengths_that_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = TensorSpec((None, None, 2), "float64")
    with pytest.raises(InputError, match="the trace holds for 'length' of 1 to 20"):
        Explainer.compile(Branching("long"), "gradient", inputs=spec)(np.ones((3, 21, 2)), target=1)
    with pytest.raises(TraceError, match="branches on the batch size"):
        Explainer.compile(Branching("batch"), "gradient", inputs=spec)(np.ones((3, 9, 2)), target=1)
    monkeypatch.setattr("explainers.explainer.api.MOST_FIXED", 2)
    explain = Explainer.compile(Branching("odd"), "gradient", inputs=spec)
    for length in (4, 6, 4):
        explain(np.ones((3, length, 2)), target=1)
    with pytest.raises(InputError, match=r"takes another branch .* where (Ne|Eq)\(Mod\(length, 2\), [01]\)"):
        explain(np.ones((3, 8, 2)), target=1)


def test_two_lengths_that_are_compared() -> None:
    class Compared(nn.Module):
        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            return a.sum(dim=1) if a.shape[1] < b.shape[1] else b.mean(dim=1)

    inputs = {name: TensorSpec((None, name, 2), "float64") for name in "ab"}
    explain = Explainer.compile(Compared(), "gradient", inputs=inputs, wrt="a")
    assert (explain(np.ones((2, 4, 2)), np.ones((2, 5, 2)), target=0)[..., 0] == 1).all()
    assert not explain(np.ones((2, 5, 2)), np.ones((2, 4, 2)), target=0).any()
    assert explain.stats.traces == 2


def test_a_table_of_positions() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.places, self.head = nn.Embedding(40, 4), nn.Embedding(30, 4), nn.Linear(4, 2)

        def forward(self, ids: Tensor) -> Tensor:
            places = torch.arange(ids.shape[1])
            return self.head(torch.tanh(self.embedding(ids) + self.places(places)).mean(dim=1))

    explain = Explainer.compile(net(Positions), "gradient", inputs=IDS, wrt=WORDS)
    assert explain(ids_of(30), target=0).shape == (3, 30, 4)
    with pytest.raises(InputError, match="the trace holds for 'length' of 1 to 30"):
        explain(ids_of(31), target=0)


def test_numbers_made_of_lengths() -> None:
    class Scaled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(dim=1) / x.shape[1] ** 0.5 + x.std(dim=1)

    explain = Explainer.compile(Scaled(), "gradient", inputs=TensorSpec((None, None, 2), "float64"))
    for length in (4, 9):
        x = np.random.default_rng(length).normal(size=(3, length, 2))
        expected = Explainer.compile(Scaled(), "gradient", inputs=x)(x, target=1)
        np.testing.assert_allclose(explain(x, target=1), expected, atol=1e-12)


@pytest.mark.parametrize("f", [lambda x: x[:, 9::10], lambda x: x[:, :16], lambda x: x[:, :5], lambda x: x[:, ::2]])
def test_a_callable_whose_output_was_not_seen_to_vary(f: Any) -> None:
    def explained() -> None:
        explain = Explainer.compile(f, "feature_ablation", inputs=TensorSpec((None, None), "float64"))
        for length in (3, 20, 40):
            explain(np.ones((2, length)), target=0)

    with pytest.raises((InputError, TraceError), match="computed from one that varies"):
        explained()


def test_a_called_model_whose_output_ends_somewhere() -> None:
    """Its output has as many places as the input only up to 16."""

    class Cut(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, :16].cumsum(dim=1)

    spec = TensorSpec((None, None), "float64")
    explain = Explainer.compile(Cut(), "feature_ablation", engine="eager", inputs=spec)
    assert explain(np.ones((2, 12)), target=3).tolist() == [[1] * 4 + [0] * 8] * 2
    with pytest.raises(TraceError, match="computed from one that varies"):
        explain(np.ones((2, 20)), target=18)


def test_every_output_needs_their_number() -> None:
    with pytest.raises(InputError, match="every_output=True needs a fixed number of outputs"):
        Explainer.compile(net(Tagger), "gradient", inputs=IDS, wrt=WORDS, every_output=True)
