"""DeepLIFT, and one method of every family, on trained networks: what random weights hide.

Bounds: attributions add up to the change of the output, which the model itself tells, and none is much larger
than the largest change of any output of the batch.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, References, methods

from . import zoo
from .subjects import ENGINES, assert_close

ROOT = Path(__file__).parents[2]
GAP = {"float32": 2e-4, "float64": 1e-8}  # of the change, or of 1e-3 where it is smaller
LARGEST = 30  # attributions by the largest change
DEEPLIFT: dict[str, Any] = {
    **{rule: methods.DeepLift(rule=rule) for rule in ("rescale", "revealcancel", "genomics")},
    "shap": methods.DeepLiftShap(),
}
FAMILIES: dict[str, Any] = {
    "gradient": methods.Gradient(),
    "integrated_gradients": methods.IntegratedGradients(steps=5),
    "guided_backprop": methods.GuidedBackprop(),
    "lrp": methods.LRP(),
    "elrp": methods.ELRP(),
    "occlusion": methods.Occlusion(window=4, stride=4),
    "shapley_sampling": methods.ShapleySampling(permutations=1),
    "deeplift": methods.DeepLift(),
    "deeplift_shap": methods.DeepLiftShap(),
}
SLOW = pytest.mark.slow
QUICK = ("tensorflow-cnn", "torch-vit", "torch-decoder", "torch-instance_norm")
EVERY_FAMILY = ("tensorflow-cnn", "torch-cnn_softmax")
UNROLLED = {("torch-gru", "inductor"), ("torch-lstm", "inductor")}  # minutes of compiling each


@functools.cache
def compiled(label: str, method: Any, dtype: str = "float32", scale: float = 1, engine: str | None = None) -> Explainer:
    """On the engine, by default the one that starts soonest: rules are the same on all."""
    x = zoo.data(label).held_out.astype(dtype)
    engine = engine or ("eager" if label.startswith("torch") else "auto")
    return Explainer.compile(zoo.network(label, dtype, scale), method, inputs=x, engine=engine)


def changes(label: str, given: np.ndarray, dtype: str, scale: float, mean: bool) -> np.ndarray:
    """Outputs at the held-out samples less those at the baseline, by the model itself: (B, classes)."""
    held_out = zoo.data(label).held_out
    at = given if given.ndim == held_out.ndim else given[None]
    low = zoo.outputs(label, at, dtype, scale)
    return zoo.outputs(label, held_out, dtype, scale) - (low.mean(0) if mean else low)


def measure(
    label: str, rule: str, baseline: str, target: str, dtype: str = "float32", scale: float = 1
) -> tuple[float, float, float]:
    """The largest gap by max(|change|, 1e-3); by what is allowed; the largest attribution by the largest change.

    Allowed are GAP of the change, or of 1e-3, and the rounding of what is added up: attributions of 0.5 in float32
    stand 6e-8 apart, and so does an output near 1. The largest change is that of any output.
    """
    x, given, classes = zoo.data(label).held_out, zoo.baseline(label, baseline), zoo.targets(label, target, scale)
    explain = compiled(label, DEEPLIFT[rule], dtype, scale)
    argument = given.astype(dtype)
    got = explain(
        x.astype(dtype), target=classes, baseline=References(argument) if baseline == "references" else argument
    )
    got = np.asarray(got, np.float64)
    change = changes(label, given, dtype, scale, mean=baseline == "references")
    wanted = change[np.arange(len(x)), classes]
    size = np.maximum(abs(got).reshape(len(x), -1).max(1), abs(zoo.outputs(label, x, dtype, scale)).max(1))
    unit = np.maximum(abs(wanted), 1e-3)
    gap = abs(got.reshape(len(x), -1).sum(1) - wanted)
    excess = gap / (GAP[dtype] * unit + 8 * np.finfo(dtype).eps * size)
    return float((gap / unit).max()), float(excess.max()), float(abs(got).max() / abs(change).max())


def check(label: str, rule: str, baseline: str, dtype: str = "float32", scale: float = 1) -> None:
    found = {target: measure(label, rule, baseline, target, dtype, scale) for target in ("predicted", "wrong")}
    assert all(excess <= 1 and ratio <= LARGEST for _, excess, ratio in found.values()), found  # not where one is NaN


# --- the zoo is what it says -----------------------------------------------------------------


@pytest.mark.parametrize("label", zoo.LABELS)
def test_members_are_trained(label: str) -> None:
    found = zoo.data(label)
    assert np.mean(zoo.outputs(label, found.x).argmax(1) == found.labels) >= 0.95
    assert np.mean(zoo.outputs(label, found.held_out).argmax(1) == found.held_out_labels) >= 0.85
    twin = zoo.outputs(label, found.held_out, "float64")
    assert_close([zoo.outputs(label, found.held_out)], [twin], 1e-4)


def test_the_ordinary_classifier_is_sure() -> None:
    found = zoo.data("tensorflow-cnn")
    says = zoo.outputs("tensorflow-cnn", found.x)
    assert np.mean(says.argmax(1) == found.labels) >= 0.995
    assert np.median(says.max(1)) > 0.9999


# --- DeepLIFT --------------------------------------------------------------------------------


@pytest.mark.parametrize("baseline", zoo.BASELINES)
@pytest.mark.parametrize(
    ("label", "dtype"),
    [
        pytest.param(label, dtype, marks=[] if dtype == "float32" or label in EVERY_FAMILY else SLOW)
        for label in zoo.LABELS
        for dtype in GAP
    ],
)
def test_rescale(label: str, baseline: str, dtype: str) -> None:
    check(label, "rescale", baseline, dtype)


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=SLOW)])
@pytest.mark.parametrize(
    "label", [pytest.param(label, marks=[] if label in EVERY_FAMILY + QUICK else SLOW) for label in zoo.LABELS]
)
def test_shap(label: str, dtype: str) -> None:
    check(label, "shap", "references", dtype)


OTHER_RULES = [
    pytest.param(label, marks=[] if label in ("tensorflow-cnn", "torch-cnn_softmax") else SLOW)
    for label in ("tensorflow-cnn", "tensorflow-dense", "torch-cnn_softmax", "torch-vit", "torch-residual")
]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=SLOW)])
@pytest.mark.parametrize("baseline", zoo.BASELINES)
@pytest.mark.parametrize("rule", ["revealcancel", "genomics"])
@pytest.mark.parametrize("label", OTHER_RULES)
def test_other_rules(label: str, rule: str, baseline: str, dtype: str) -> None:
    check(label, rule, baseline, dtype)


OVERCONFIDENT = [
    pytest.param(label, scale, marks=[] if label in ("tensorflow-cnn", "torch-cnn_softmax", "torch-decoder") else SLOW)
    for label in zoo.LABELS
    for scale in (30, 1000)
]


@pytest.mark.parametrize("dtype", ["float32", pytest.param("float64", marks=SLOW)])
@pytest.mark.parametrize("baseline", zoo.BASELINES)
@pytest.mark.parametrize(("label", "scale"), OVERCONFIDENT)
def test_large_logits(label: str, scale: float, baseline: str, dtype: str) -> None:
    check(label, "rescale", baseline, dtype, scale)


@pytest.mark.parametrize(
    "label",
    [pytest.param(label, marks=SLOW if label in ("torch-gru", "torch-lstm") else []) for label in zoo.SMOOTH],
)
def test_multipliers_become_gradients(label: str) -> None:
    """Near the reference, m = contribution/(x − r) is the gradient midway, by the framework's own differentiation."""
    x = zoo.data(label).held_out.astype(np.float64)
    generator = np.random.default_rng(2)
    step = 1e-3 * generator.choice([-1, 1], x.shape) * generator.uniform(0.5, 1, x.shape)
    classes = zoo.targets(label, "predicted")
    got = compiled(label, DEEPLIFT["rescale"], "float64")(x, target=classes, baseline=x + step)
    want = zoo.framework(label).gradient(zoo.network(label, "float64"), x + step / 2, classes)
    assert_close([np.asarray(got) / -step], [want], 1e-4)


# --- one Keras model, two backends -----------------------------------------------------------


@pytest.fixture(scope="module")
def on_torch(tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    """What torch says of the trained Keras members, in a process of its own; weights pass through a file."""
    folder = tmp_path_factory.mktemp("zoo")
    for label in zoo.LABELS:
        if label.startswith("tensorflow"):
            np.savez(folder / f"{label}.npz", *zoo.trained(label))
    done = subprocess.run(
        [sys.executable, "-m", "tests.contract.explain_zoo", str(folder)],
        cwd=ROOT, env={**os.environ, "KERAS_BACKEND": "torch"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return dict(np.load(folder / "result.npz"))


@pytest.mark.parametrize("baseline", zoo.BASELINES)
@pytest.mark.parametrize("label", [label for label in zoo.LABELS if label.startswith("tensorflow")])
def test_torch_and_tensorflow_agree(label: str, baseline: str, on_torch: dict[str, np.ndarray]) -> None:
    x, given = zoo.data(label).held_out, zoo.baseline(label, baseline)
    got = compiled(label, DEEPLIFT["rescale"])(x, target=zoo.targets(label, "predicted"), baseline=given)
    assert_close([on_torch[f"{label}/{baseline}"]], [np.asarray(got)], 1e-4)


# --- every family ----------------------------------------------------------------------------


EVERY = [
    pytest.param(label, name, None, id=f"{label}-{name}", marks=[] if label in EVERY_FAMILY else SLOW)
    for label in zoo.LABELS
    for name in FAMILIES
] + [
    pytest.param(label, name, engine, id=f"{label}-{name}-{engine}", marks=SLOW)
    for label in zoo.LABELS
    for name in FAMILIES
    for engine in ENGINES[label.partition("-")[0]]
    if (label, engine) not in UNROLLED
]


def explained(label: str, name: str, rows: slice, baseline: str = "mean", **options: Any) -> np.ndarray:
    method, x = FAMILIES[name], zoo.data(label).held_out[rows]
    given: Any = {} if method.baseline == "none" else {"baseline": zoo.baseline(label, baseline)}
    if method.baseline == "references":
        given = {"baseline": References(zoo.baseline(label, "references"))}
    elif given and given["baseline"].ndim == x.ndim:
        given["baseline"] = given["baseline"][rows]
        if method.baseline == "either":
            given["baseline"] = References(given["baseline"][:, None], per_sample=True)
    x = x * options.pop("scale", 1)
    dtype = options.pop("dtype", "float32")
    if given and dtype != "float32":
        kept = given["baseline"]
        sets = isinstance(kept, References)
        given["baseline"] = replace(kept, array=kept.array.astype(dtype)) if sets else kept.astype(dtype)
    target = (zoo.targets(label, "predicted")[rows] + options.pop("other", 0)) % 2
    explain = compiled(label, method, dtype, engine=options.pop("engine", None))
    return np.asarray(explain(x.astype(dtype), target=target, **given))


@pytest.mark.parametrize(("label", "name", "engine"), EVERY)
def test_finite_traced_once_and_rows_alone(label: str, name: str, engine: str | None) -> None:
    explain = compiled(label, FAMILIES[name], engine=engine)
    whole = explained(label, name, slice(0, 8), engine=engine)
    assert np.isfinite(whole).all()
    assert abs(whole).max() > 0
    traces = explain.stats.traces
    nudged = explained(label, name, slice(0, 8), engine=engine, scale=1 + 2**-21)
    rounding = 20 * abs(nudged - whole).max()  # LRP's denominators may be small
    rounding += rounding_of_the_sure(label, whole)
    for row in (0, 5):
        alone = explained(label, name, slice(row, row + 1), engine=engine)
        if name != "shapley_sampling":  # which draws by the place in the batch
            assert abs(alone - whole[row]).max() <= 1e-5 * abs(whole).max() + rounding
    for count, other, baseline in ((3, 1, "zero"), (5, 0, "sample"), (7, 1, "mean")):
        assert np.isfinite(explained(label, name, slice(0, count), baseline, other=other, engine=engine)).all()
    if engine in (None, "torchscript", "graph", "eager"):  # the others trace for each power of two
        assert explain.stats.traces == traces


def rounding_of_the_sure(label: str, attributions: np.ndarray) -> float:
    """What float32 does to attributions of a probability p near 1, where 1 − p is a factor: p stand an eps apart."""
    if label != "tensorflow-dense":  # the others are less sure, or normalise over more classes
        return 0.0
    p = zoo.outputs(label, zoo.data(label).held_out[: len(attributions)])
    largest = abs(attributions).reshape(len(attributions), -1).max(1)
    return float((4 * np.finfo("float32").eps * largest / np.maximum(1 - p.max(1), 1e-7)).max())


TWINS = ("gradient", "integrated_gradients", "guided_backprop", "lrp", "elrp")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        pytest.param(label, name, marks=[] if label in EVERY_FAMILY and name in ("gradient", "lrp") else SLOW)
        for label in zoo.LABELS
        for name in TWINS
    ],
)
def test_float32_and_its_twin(label: str, name: str) -> None:
    rows = slice(0, 8)
    found, twin = explained(label, name, rows), explained(label, name, rows, dtype="float64")
    nudged = explained(label, name, rows, dtype="float64", scale=1 + 2**-22)  # LRP's denominators may be small
    rounding = rounding_of_the_sure(label, twin) + abs(nudged - twin).max()
    assert abs(found - twin).max() <= 1e-3 * abs(twin).max() + rounding
