"""The timed candidates on torch: the explainer, Captum, hand-written ``autograd.grad``, the bare forward pass."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from explainers import Explainer, References, methods

from .models import LARGE_BATCH, MODELS, Subject, subject
from .report import REMOVAL, STEPS, Line
from .timing import median, rounds

REFERENCES = 20
SAME_AS_CAPTUM = ("mlp",)  # elsewhere Captum's DeepLIFT differs: max pools of a batch, functional ReLU

__all__ = ["LARGE_BATCH", "MODELS", "cell", "one_against_many", "overhead", "versions"]


def versions() -> str:
    threads = torch.get_num_threads()
    return f"torch {torch.__version__} on {threads} threads, captum {version('captum')}"


def cell(name: str, method: str, batch: int, seconds: float) -> Line:
    """One line of the table."""
    if method.startswith("deeplift"):
        return deeplift(name, method, batch, seconds)
    if method in REMOVAL:
        return removal(name, method, batch, seconds)
    item = subject(name)
    inputs = item.inputs(batch)
    value = methods.Saliency() if method == "saliency" else methods.IntegratedGradients(STEPS)
    explain = Explainer.compile(item.model, value, inputs=inputs, wrt=item.wrt)
    point = item.point(*inputs)
    rows = batch if method == "saliency" else batch * STEPS
    package = min(rows, explain.stats.batch_size)
    candidates: dict[str, Callable[[], object]] = {
        "forward": by_forward(item, point, inputs, rows, package),
        "explain": lambda: explain(*inputs, target=1),
        "hand": by_hand(item, point, inputs, rows, package, method == "saliency"),
        **by_captum(item, method, point, inputs, package),
    }
    check(candidates, method)
    return Line("torch", name, item.title, method, batch, package, rounds(candidates, seconds))


def deeplift(name: str, method: str, batch: int, seconds: float) -> Line:
    """DeepLIFT with one fixed reference or several; F and hand are for the batch itself."""
    item = subject(name)
    inputs = item.inputs(batch)
    point = item.point(*inputs)
    several = method == "deeplift_shap"
    references = torch.randn(REFERENCES, *point.shape[1:])
    baseline: Any = References(references.numpy()) if several else 0.0
    explain = Explainer.compile(item.model, method, inputs=inputs, wrt=item.wrt, baseline=baseline)
    candidates: dict[str, Callable[[], Any]] = {
        "forward": by_forward(item, point, inputs, batch, batch),
        "explain": lambda: explain(*inputs, target=1),
        "hand": by_hand(item, point, inputs, batch, batch, False),
    }
    if item.rest is None:  # Captum explains whole modules
        from captum.attr import DeepLift, DeepLiftShap

        peer: Any = DeepLiftShap(item.model) if several else DeepLift(item.model)
        against = references if several else torch.zeros_like(point[:1])
        candidates["Captum"] = lambda: peer.attribute(point, against, target=1)
        if name in SAME_AS_CAPTUM:
            scores, expected = candidates["explain"](), candidates["Captum"]().detach()
            torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3 * float(abs(expected).max()))
    else:
        candidates["gradient"] = candidates["hand"]  # no peer runs on it
    package = batch * REFERENCES if several else batch
    return Line("torch", name, item.title, method, batch, package, rounds(candidates, seconds))


def removal(name: str, method: str, batch: int, seconds: float) -> Line:
    """Shapley sampling of 49 squares with 10 permutations, or occlusion of 4 × 4 with stride 2. F: the same rows."""
    item = subject(name)
    (x,) = item.inputs(batch)
    image = x.reshape(batch, 1, 28, 28)
    model = torch.nn.Sequential(torch.nn.Flatten(), item.model) if x.ndim == 2 else item.model
    squares = torch.arange(28).div(4, rounding_mode="floor")
    groups = (squares[:, None] * 7 + squares)[None]
    value: Any = methods.Occlusion((1, 4, 4), (1, 2, 2))
    if method == "shapley_sampling":
        value = methods.ShapleySampling(10, antithetic=False, groups=groups.numpy())
    explain = Explainer.compile(model, value, inputs=image)
    rows = batch * int(explain.explanation(image[:1], target=1).evaluations[0])
    package = min(rows, explain.stats.batch_size)
    parts = torch.randn(rows, 1, 28, 28).split(package)

    def forward() -> None:
        with torch.inference_mode():
            for part in parts:
                model(part)

    from captum.attr import Occlusion, ShapleyValueSampling

    def by_captum(at_once: int) -> Callable[[], Any]:
        if method == "occlusion":
            peer: Any = Occlusion(model)
            options: dict[str, Any] = {"sliding_window_shapes": (1, 4, 4), "strides": (1, 2, 2)}
        else:
            peer, options = ShapleyValueSampling(model), {"feature_mask": groups, "n_samples": 10}

        def run() -> Any:
            with torch.inference_mode():
                return peer.attribute(image, target=1, perturbations_per_eval=at_once, **options)

        return run

    most_at_once = 169 if method == "occlusion" else 50
    settings = [n for n in (1, 4, 16, 64, most_at_once) if n <= most_at_once and n * batch <= 4096]
    captum = {f"Captum, {n} at once": by_captum(n) for n in settings}
    best_setting = min(captum, key=lambda key: median(rounds({key: captum[key]}, 0.5, least_rounds=2, warm=0)[key]))
    candidates = {
        "forward": forward, "explain": lambda: explain(image, target=1), best_setting: captum[best_setting],
        "hand": forward,
    }  # fmt: skip
    if method == "occlusion":
        torch.testing.assert_close(candidates["explain"](), captum[best_setting](), rtol=1e-3, atol=1e-4)
    return Line("torch", name, item.title, method, batch, package, rounds(candidates, seconds))


def check(candidates: dict[str, Callable[[], Any]], method: str) -> None:
    """Check that all candidates compute the same result, so that their times are comparable."""
    results = {key: run() for key, run in candidates.items() if key != "forward"}
    if method == "saliency":
        results["hand"] = torch.cat(results["hand"])
    else:
        del results["hand"]  # the rows' gradients, not yet summed
    for key, result in results.items():
        torch.testing.assert_close(
            result.float(), results["explain"].float(), rtol=1e-3, atol=1e-3 * float(abs(result).max()), msg=key
        )


def packages(point: Tensor, inputs: tuple[Tensor, ...], rows: int, size: int) -> list[tuple[Tensor, ...]]:
    """The repeated rows of the point and of the inputs (each sample's together), in parts of ``size``."""
    repeated = [array.repeat_interleave(rows // len(point), 0) for array in (point, *inputs)]
    return list(zip(*(array.split(size) for array in repeated), strict=True))


def by_forward(item: Subject, point: Tensor, inputs: tuple[Tensor, ...], rows: int, size: int) -> Callable[[], object]:
    parts = packages(point, inputs, rows, size)

    def run() -> None:
        with torch.inference_mode():
            for part in parts:
                item.f(*part)

    return run


def by_hand(
    item: Subject, point: Tensor, inputs: tuple[Tensor, ...], rows: int, size: int, absolute: bool
) -> Callable[[], list[Tensor]]:
    parts = packages(point, inputs, rows, size)

    def run() -> list[Tensor]:
        grads = []
        for first, *rest in parts:
            leaf = first.detach().requires_grad_()
            (grad,) = torch.autograd.grad(item.f(leaf, *rest)[:, 1].sum(), leaf)
            grads.append(grad.abs() if absolute else grad)
        return grads

    return run


def by_captum(
    item: Subject, method: str, point: Tensor, inputs: tuple[Tensor, ...], package: int
) -> dict[str, Callable[[], object]]:
    """Captum with each of its sensible settings, of which the fastest is compared."""
    from captum.attr import IntegratedGradients, Saliency

    f: Any = item.model if item.rest is None else item.f
    extra_inputs = None if item.rest is None else inputs
    if method == "saliency":
        saliency, leaf = Saliency(f), point.clone().requires_grad_()
        return {"Captum": lambda: saliency.attribute(leaf, target=1, abs=True, additional_forward_args=extra_inputs)}
    gradients = IntegratedGradients(f)

    def attribute(size: int | None) -> Callable[[], object]:
        return lambda: gradients.attribute(
            point, target=1, n_steps=STEPS, method="gausslegendre", internal_batch_size=size,
            additional_forward_args=extra_inputs,
        )  # fmt: skip

    warnings.filterwarnings("ignore", module="captum")
    return {"Captum, one batch": attribute(None), "Captum, packages": attribute(max(package, len(point)))}


def overhead(seconds: float) -> list[tuple[str, float]]:
    """Microseconds of Python in a warm call: the time of explain(x) minus that of its compiled function."""
    model = torch.nn.Sequential(torch.nn.Linear(784, 8), torch.nn.ReLU(), torch.nn.Linear(8, 10)).eval()
    x = torch.randn(1, 784)
    array = x.numpy()
    mask, choose = torch.eye(10)[1:2].contiguous(), torch.tensor(0.0)
    index = torch.zeros(STEPS, dtype=torch.long)
    value = methods.IntegratedGradients(STEPS)
    alpha, weight = (torch.from_numpy(a).float() for a in methods.gradient.quadrature_rule(value.quadrature, STEPS))
    prepared_calls: dict[str, tuple[Any, tuple[Tensor, ...]]] = {
        "saliency": (methods.Saliency(), (x, mask, choose)),
        "integrated_gradients": (value, (x, mask, torch.zeros(1, 784), index, index, alpha, weight)),
    }
    overheads = []
    for name, (method, arguments) in prepared_calls.items():
        explain = Explainer.compile(model, method, inputs=x)
        times = rounds(bare(explain, array, x, explain.native, arguments), seconds, least_rounds=500)
        for kind in ("numpy", "torch"):
            extra = (median(times[kind]) - median(times["native"])) * 1e6
            overheads.append((f"{name} of one {kind} sample", extra))
    return overheads


def one_against_many(seconds: float) -> float:
    """Rows per second of one sample with 2,016 perturbations, over those of 63 samples with 32 each."""
    item = subject("mlp")
    x = item.inputs(63)[0]
    squares = torch.arange(784).div(16, rounding_mode="floor").numpy()  # 49 features, 48 coalitions a permutation
    one_sample, many_samples = (
        Explainer.compile(item.model, value, inputs=x)
        for value in (methods.ShapleySampling(42, False, squares), methods.FeatureAblation(squares * 31 // 49))
    )
    explainer_by_name = {"one": one_sample, "many": many_samples}
    rows = {name: int(e.explanation(x[:1], target=1).evaluations[0]) for name, e in explainer_by_name.items()}
    times = rounds({"one": lambda: one_sample(x[:1], target=1), "many": lambda: many_samples(x, target=1)}, seconds)
    return (rows["one"] / median(times["one"])) / (63 * rows["many"] / median(times["many"]))


def bare(explain: Any, array: Any, x: Tensor, native: Any, arguments: Any) -> dict[str, Callable[[], object]]:
    return {
        "numpy": lambda: explain(array, target=1),
        "torch": lambda: explain(x, target=1),
        "native": lambda: native(*arguments),
    }
