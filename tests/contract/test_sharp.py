"""DeepLIFT on transformers whose attention is all but one-hot: query and key weights times 1, 10 and 60.

Weights have the standard deviation that the configurations have by themselves, 0.02. With 15 times that, logits of
thousands compete, and what two of them add cancels as it does in gradient × input: then only sums are bounded.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from explainers import Explainer, methods

from .test_deeplift_architectures import torch_case

NAMES = ("bert", "gpt2", "llama", "vit")
GAP = {"float32": 2e-4, "float64": 1e-8}
INTERNAL_FLOAT32 = {"llama": 1e-5}  # RMSNorm casts to float32 inside
LARGEST = 30
FAST = {("bert", 60), ("llama", 60)}


@functools.cache
def compiled(name: str, dtype: str, rule: str) -> tuple[Any, dict[str, Any], dict[str, np.ndarray], dict, Explainer]:
    model, options, inputs, _ = torch_case(name, dtype, std=0.02)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    explain = Explainer.compile(model, methods.DeepLift(rule=rule), inputs=inputs, engine="eager", **options)
    return model, options, inputs, state, explain


def sharpen(model: Any, state: dict[str, Any], scale: float) -> None:
    """The first weights, with those of queries and keys times ``scale``, in place."""
    import torch

    model.load_state_dict(state)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if any(part in name for part in ("query", "key", "q_proj", "k_proj")):
                parameter *= scale
            elif "c_attn" in name:
                parameter[..., : 2 * parameter.shape[-1] // 3] *= scale


def tensors(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
    import torch

    return {name: torch.tensor(value) for name, value in inputs.items()}


def point(model: Any, options: dict[str, Any], inputs: dict[str, np.ndarray]) -> np.ndarray:
    """What is attributed: the first input, or what the layer gives."""
    if "wrt" not in options:
        return next(iter(inputs.values()))
    seen: list[Any] = []
    handle = model.get_submodule(options["wrt"]).register_forward_hook(lambda *args: seen.append(args[-1].detach()))
    logits(model, inputs)
    handle.remove()
    return seen[0].numpy()


def at(model: Any, options: dict[str, Any], inputs: dict[str, np.ndarray], value: np.ndarray) -> np.ndarray:
    """The model's logits with ``value`` in the place of what is attributed."""
    import torch

    if "wrt" not in options:
        return logits(model, {next(iter(inputs)): value})
    replaced: Callable[..., Any] = lambda *_: torch.tensor(value)  # noqa: E731
    handle = model.get_submodule(options["wrt"]).register_forward_hook(replaced)
    found = logits(model, inputs)
    handle.remove()
    return found


def logits(model: Any, inputs: dict[str, np.ndarray]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(**tensors(inputs)).logits.numpy().astype(np.float64)


def reference(x: np.ndarray, name: str) -> np.ndarray:
    """One for each sample: zeros, the mean over samples, or another sample."""
    if name == "sample":
        return np.roll(x, 1, axis=0)
    return np.zeros_like(x) if name == "zero" else np.broadcast_to(x.mean(0), x.shape).copy()


def measure(name: str, scale: float, baseline: str, dtype: str, rule: str = "rescale") -> tuple[float, float]:
    """The largest gap by max(|change|, 1e-3), and the largest attribution by the largest change of any output."""
    model, options, inputs, state, explain = compiled(name, dtype, rule)
    sharpen(model, state, scale)
    x = point(model, options, inputs)
    r = reference(x, baseline)
    change = at(model, options, inputs, x) - at(model, options, inputs, r)
    target = np.array([1, 2, 1])
    got = explain(**inputs, target=target, baseline=r)
    got = np.asarray(next(iter(got.values())) if isinstance(got, dict) else got, np.float64)
    wanted = change[np.arange(3), target]
    gap = abs(got.reshape(3, -1).sum(1) - wanted) / np.maximum(abs(wanted), 1e-3)
    return float(gap.max()), float(abs(got).max() / abs(change).max())


GRID = [
    pytest.param(
        name, scale, dtype, rule, id=f"{name}-{scale}-{dtype}-{rule}",
        marks=[] if (rule, dtype) == ("rescale", "float32") and (name, scale) in FAST else [pytest.mark.slow],
    )
    for name in NAMES
    for dtype in GAP
    for rule in ("rescale", "revealcancel")
    for scale in (1, 10, 60)
]  # fmt: skip


@pytest.mark.parametrize("baseline", ["zero", "mean", "sample"])
@pytest.mark.parametrize(("name", "scale", "dtype", "rule"), GRID)
def test_sharp_attention(name: str, scale: float, dtype: str, rule: str, baseline: str) -> None:
    gap, ratio = measure(name, scale, baseline, dtype, rule)
    allowed = INTERNAL_FLOAT32.get(name, GAP[dtype]) if dtype == "float64" else GAP[dtype]
    assert gap <= allowed, (gap, ratio)
    assert ratio <= LARGEST, (gap, ratio)
