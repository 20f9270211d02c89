"""The subjects of the contract: cases by label, built once; and every method with its naive twin.

Labels are strings, so that collecting the tests of one framework imports no other.
"""

from __future__ import annotations

import functools
import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from explainers import Explainer, References, methods
from explainers.backend import backends

from . import naive_removal
from .cases import Case
from .naive import Arrays, Naive, mask_of, numbered, one_row, sample_seed

CASE_NAMES = {
    "torch": [
        "mlp",
        "cnn",
        "residual",
        "reused",
        "two_inputs",
        "float_and_mask",
        "tokens",
        "bert",
        "vit",
        "lstm",
        "mixture",
        "spatial",
        "scalar",
        "dict",
        "tuple",
        "namedtuple",
    ],
    "tensorflow": [
        "sequential",
        "cnn",
        "functional",
        "subclassed",
        "two_inputs",
        "attention",
        "tokens",
        "lstm",
        "unrolled_lstm",
        "dict",
    ],
    "numpy": ["mlp", "two_inputs", "spatial"],
}
ENGINES = {
    name: tuple(engine for engine in backends()[name].engines if engine != "cudagraphs")  # needs a GPU
    for name in ("torch", "tensorflow", "numpy")
}
SMALLEST = {"torch": "torch-mlp", "tensorflow": "tensorflow-sequential", "numpy": "numpy-mlp"}
QUADRATURES = ("gauss_legendre", "midpoint", "trapezoid", "right", "left")
KINDS = ("mean", "squared", "variance")
STEPS, SAMPLES, NOISE, SEED, REFERENCES = 7, 5, 0.2, 13, 3

DEEPLIFT: dict[str, Any] = {
    **{f"deeplift-{rule}": methods.DeepLift(rule=rule) for rule in ("rescale", "revealcancel", "genomics")},
    "deeplift_shap": methods.DeepLiftShap(),
}
METHODS: dict[str, Any] = {
    "gradient": methods.Gradient(),
    "saliency": methods.Saliency(),
    "input_x_gradient": methods.InputXGradient(),
    "guided_backprop": methods.GuidedBackprop(),
    "deconvnet": methods.Deconvnet(),
    **{f"integrated_gradients-{q}": methods.IntegratedGradients(steps=STEPS, quadrature=q) for q in QUADRATURES},
    **{f"smoothgrad-{k}": methods.SmoothGrad(samples=SAMPLES, noise=NOISE, kind=k) for k in KINDS},
    "gradient_shap": methods.GradientShap(samples=SAMPLES),
    "feature_ablation": methods.FeatureAblation(),
    "lrp": methods.LRP(),
    **{f"lrp-{c}": methods.LRP(c) for c in ("epsilon", "epsilon_plus_flat", "alpha_beta")},
    "lrp-epsilon_gamma_box": methods.LRP("epsilon_gamma_box", low=-5, high=5),
    "elrp": methods.ELRP(),
    **DEEPLIFT,
    "occlusion-mean": methods.Occlusion(window=2),
    "occlusion-sum": methods.Occlusion(window=3, stride=2, aggregate="sum"),
    "feature_permutation": methods.FeaturePermutation(repeats=2),
    "shapley_sampling-antithetic": methods.ShapleySampling(permutations=3),
    "shapley_sampling-plain": methods.ShapleySampling(permutations=2, antithetic=False),
}
FORWARD_ONLY = tuple(name for name, method in METHODS.items() if method.rules is None)
ONE_OF_EACH = [
    "gradient", "saliency", "input_x_gradient", "guided_backprop", "deconvnet", "integrated_gradients-gauss_legendre",
    "smoothgrad-mean", "gradient_shap", "feature_ablation", "lrp", "elrp", "deeplift-rescale", "deeplift_shap",
    "occlusion-mean", "feature_permutation", "shapley_sampling-antithetic",
]  # fmt: skip
BY_RULES = ("lrp", "elrp", "deeplift", "deeplift_shap")  # see test_lrp.py and test_deeplift*.py


def methods_of(backend: str, names: Any = METHODS) -> list[str]:
    return [name for name in names if backend != "numpy" or name in FORWARD_ONLY]


def with_naive_twin(names: Any) -> list[str]:
    """Those of the methods that naive.py has again."""
    return [name for name in names if name.partition("-")[0] not in BY_RULES]


@functools.cache
def case(label: str) -> Case:
    backend, _, name = label.partition("-")
    module = {"torch": "models_torch", "tensorflow": "models_keras", "numpy": "models_numpy"}[backend]
    found = importlib.import_module(f".{module}", __package__).CASES
    return next(c for c in found if c.name == name)


@dataclass(frozen=True)
class Subject:
    """A case with its model and its reference."""

    case: Case
    model: Any
    reference: Any
    dtype: str

    def compile(self, method: str, count: int = 3, **options: Any) -> Explainer:
        inputs = self.case.given(self.case.draw(count, self.dtype))
        return Explainer.compile(self.model, METHODS[method], inputs=inputs, **{**self.case.options(), **options})

    def target(self, outputs: np.ndarray) -> Any:
        """A target for each sample, none equal to its neighbour's where the output allows it."""
        shape = outputs.shape[1:]
        if not shape:
            return None
        indices = [np.unravel_index((2 * i + 1) % int(np.prod(shape)), shape) for i in range(len(outputs))]
        return [int(i[0]) if len(shape) == 1 else tuple(map(int, i)) for i in indices]

    def baselines(self, method: str, x: Arrays, seed: int = 1) -> tuple[Any, Arrays]:
        """The argument ``baseline`` for the method, and the arrays behind it: one per sample, or references."""
        kind = METHODS[method].baseline
        generator = np.random.default_rng(seed)
        count = REFERENCES if kind == "references" else len(x[0])
        arrays = [generator.normal(size=(count, *a.shape[1:])).astype(a.dtype) for a in x]
        if kind == "none":
            return None, x
        sets = [array[:, None] for array in arrays] if kind == "either" else arrays
        given = sets[0] if len(sets) == 1 else tuple(sets)
        return (given if kind == "point" else References(given, per_sample=kind == "either")), arrays


@functools.cache
def subject(label: str, dtype: str) -> Subject:
    found = case(label)
    model = found.build(dtype)
    return Subject(found, model, _reference(found, model), dtype)


def _reference(found: Case, model: Any) -> Any:
    if found.backend == "torch":
        from .reference_torch import TorchReference

        return TorchReference(found, model)
    if found.backend == "tensorflow":
        from .reference_tensorflow import TensorFlowReference

        return TensorFlowReference(found, model)
    from .models_numpy import NumpyReference

    return NumpyReference(found, model)


def expected(subject: Subject, method: str, arrays: Arrays, target: Any, baselines: Arrays, seed: Any = SEED) -> Arrays:
    """What the method gives, sample by sample, naively."""
    x = subject.reference.points(arrays)
    mask = mask_of(target, subject.reference.output(x, arrays))
    rows = []
    for i in range(len(arrays[0])):
        b = one_row(baselines, min(i, len(baselines[0]) - 1))
        naive = Naive(subject.reference, one_row(arrays, i), one_row(x, i), b, mask[i : i + 1])
        rows.append(_one(naive, method, baselines, sample_seed(seed, i)))
    return [np.concatenate(parts) for parts in zip(*rows, strict=True)]


def _one(naive: Naive, method: str, baselines: Arrays, seed: int) -> Arrays:
    name, _, variant = method.partition("-")
    if name == "integrated_gradients":
        return naive.integrated_gradients(STEPS, variant)
    if name == "smoothgrad":
        return naive.smoothgrad(SAMPLES, NOISE, variant, seed)
    if name == "gradient_shap":
        return naive.gradient_shap(SAMPLES, baselines, seed)
    if name == "feature_ablation":
        return naive.feature_ablation(None)
    if name == "occlusion":
        method = METHODS[method]
        return naive_removal.occlusion(naive.value, naive.x, naive.b, method.window, method.stride, method.aggregate)
    if name == "feature_permutation":
        repeats = METHODS[method].repeats
        return naive_removal.feature_permutation(naive.value, naive.x, baselines, numbered(naive.x), repeats, seed)
    if name == "shapley_sampling":
        method = METHODS[method]
        return naive_removal.shapley_sampling(
            naive.value, naive.x, naive.b, numbered(naive.x), method.permutations, method.antithetic, seed
        )[0]
    return getattr(naive, name)()


TOLERANCE = {"float64": 1e-9, "float32": 1e-4}


def assert_close(got: Arrays, want: Arrays, relative: float) -> None:
    """Equal up to ``relative`` of the largest entry of what is wanted."""
    assert [g.shape for g in got] == [w.shape for w in want]
    scale = max(float(abs(w).max(initial=0.0)) for w in want)
    for g, w in zip(got, want, strict=True):
        off = float(abs(g.astype(np.float64) - w).max(initial=0.0))
        assert off <= relative * scale, f"off by {off:.3g} where the largest entry is {scale:.3g}"
