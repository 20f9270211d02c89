"""Other libraries as candidates: the attributions of Captum and SHAP for the same torch model."""

from __future__ import annotations

import copy
import importlib
import inspect
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..backend import Backend, named
from ..errors import BackendMissing, InputError, UnknownNameError
from ..spec import Numpy, References
from .candidates import Candidate, Question
from .measuring import Answer

# The other library's class → the method of this library with the same definition, as far as their parameters allow.
CAPTUM = {
    "Saliency": "saliency", "InputXGradient": "input_x_gradient", "IntegratedGradients": "integrated_gradients",
    "DeepLift": "deeplift", "DeepLiftShap": "deeplift_shap", "GradientShap": "gradient_shap", "LRP": "lrp",
    "GuidedBackprop": "guided_backprop", "Deconvolution": "deconvnet", "FeatureAblation": "feature_ablation",
    "Occlusion": "occlusion", "ShapleyValueSampling": "shapley_sampling", "KernelShap": "kernel_shap", "Lime": "lime",
}  # fmt: skip
SHAP = {"DeepExplainer": "deeplift_shap", "GradientExplainer": "gradient_shap"}
KINDS: Mapping[str, Mapping[str, str]] = {"captum": CAPTUM, "shap": SHAP}
COMPLETE = ("integrated_gradients", "deeplift", "shapley_sampling", "kernel_shap")


def compile_peer(candidate: Candidate, model: Any, question: Question) -> Peer:
    """The candidate's explainer of the other library, with a copy of the model.

    Raises
    ------
    BackendMissing: the package is not installed. UnknownNameError: it has no such class. InputError: not a torch model.
    """
    assert candidate.peer is not None
    package, kind = candidate.peer
    if kind not in KINDS[package]:
        raise UnknownNameError.among("explainer", kind, KINDS[package], where=f" of {package}")
    try:
        module = importlib.import_module("captum.attr" if package == "captum" else "shap")
    except ImportError as error:
        raise BackendMissing(
            f"{package}:{kind} needs {package}, which is not installed: pip install {package}"
        ) from error
    torch = named("torch")
    if not torch.accepts(model) or not hasattr(model, "parameters"):
        raise InputError(f"{package}:{kind} explains torch modules; got {type(model).__name__}")
    return (Captum if package == "captum" else Shap)(getattr(module, kind), candidate, model, torch)


class Peer:
    """A runner for another library's explainer, on a copy of the model in evaluation mode."""

    traces = rows = None
    engine = "eager"
    value = ""

    def __init__(self, kind: Any, candidate: Candidate, model: Any, torch: Backend) -> None:
        assert candidate.peer is not None
        start = time.perf_counter()
        self.method = str(candidate.method)
        self.family = KINDS[candidate.peer[0]][candidate.peer[1]]
        self.backend = candidate.peer[0]
        self.options = dict(candidate.options)
        self.torch = torch
        self.model = copy.deepcopy(model).eval()  # the other libraries register hooks on it
        weight = next(self.model.parameters(), None)
        self.device = None if weight is None else weight.device
        self.kind = kind
        self.compile_s: float | None = time.perf_counter() - start

    def stage(self, array: Any) -> Any:
        """The array as a torch tensor on the model's device."""
        array = np.asarray(array)
        return self.torch.stage(array, str(array.dtype), self.device)

    def inputs(self, question: Question) -> tuple[Any, ...]:
        return tuple(map(self.stage, question.arrays))

    def outputs(self, arrays: tuple[Any, ...]) -> Numpy:
        result = self.model(*arrays)
        if not hasattr(result, "detach"):
            raise InputError(f"{self.method} explains models of one output; this returns {type(result).__name__}")
        return self.torch.numpy(result)

    def target(self, question: Question, outputs: Numpy) -> Any:
        """The target as one index for all samples, or one for each sample."""
        target = question.target
        if isinstance(target, str) and target == "max" and outputs.ndim == 2:
            return outputs.argmax(1)
        is_index = target is None or isinstance(target, (int, np.integer, tuple))
        if not is_index:
            target = np.asarray(target)
            is_index = target.dtype.kind in "iu" and target.ndim == 1
        if not is_index:
            raise InputError(f"{self.method} takes an index, one for each sample, or 'max' as target")
        return target

    def baselines(self, question: Question) -> list[Numpy]:
        """The baseline of each input, with a first axis of length 1, of the samples, or of the references."""
        baseline = question.baseline.array if isinstance(question.baseline, References) else question.baseline
        baseline = tuple(baseline.values()) if isinstance(baseline, dict) else baseline
        parts = list(baseline) if isinstance(baseline, tuple) else [0.0 if baseline is None else baseline]
        arrays = question.arrays
        if len(parts) == 1:
            parts = parts * len(arrays)
        baselines = []
        for part, array in zip(parts, arrays, strict=True):
            if callable(part):
                raise InputError(f"{self.method} takes arrays and numbers as baseline; got a function")
            part = np.asarray(part, array.dtype)
            batch = part if part.ndim == array.ndim else np.broadcast_to(part, array.shape[1:])[None]
            baselines.append(np.ascontiguousarray(batch))
        return baselines

    def answer(self, question: Question) -> Answer:
        question = question.with_arrays()
        outputs = self.outputs(self.inputs(question))
        attributions = tuple(self.attributions(question, outputs))
        return Answer(attributions, outputs, self._gap(question, outputs, attributions))

    def attributions(self, question: Question, outputs: Numpy) -> list[Numpy]:
        raise NotImplementedError

    def call(self, question: Question) -> Any:
        question = question.with_arrays()
        target = question.target
        outputs = self.outputs(self.inputs(question)) if isinstance(target, str) else np.zeros((0, 0))
        return self.attributions(question, outputs)

    def _gap(self, question: Question, outputs: Numpy, attributions: tuple[Numpy, ...]) -> float | None:
        """The same number as :attr:`Explanation.largest_gap`; None for methods without completeness."""
        if self.family not in COMPLETE:
            return None
        target = self.target(question, outputs)
        baselines = self.baselines(question)
        before = self.outputs(tuple(self.stage(np.broadcast_to(b, a.shape).copy())
                                    for b, a in zip(baselines, question.arrays, strict=True)))  # fmt: skip
        change = _target_values(outputs, target) - _target_values(before, target)
        total = sum(
            (part.reshape(len(part), -1).sum(1, dtype=np.float64) for part in attributions), np.zeros(len(question))
        )
        return float(np.max(np.abs(total - change) / np.maximum(np.abs(change), 1e-3), initial=0.0))


def _target_values(outputs: Numpy, target: Any) -> Numpy:
    """The output at the target of each sample, (N,)."""
    values: Numpy
    if target is None:
        return outputs.reshape(len(outputs))
    if isinstance(target, tuple):
        values = outputs[(slice(None), *target)]
        return values
    values = outputs[np.arange(len(outputs)), target]
    return values


class Captum(Peer):
    """A runner for ``captum.attr.…(model).attribute(inputs, target=…, baselines=…, **options)``."""

    def attributions(self, question: Question, outputs: Numpy) -> list[Numpy]:
        explain: Callable[..., Any] = self.kind(self.model).attribute
        target = self.target(question, outputs)
        options = dict(self.options)
        options["target"] = self.stage(target) if isinstance(target, np.ndarray) else target
        if "baselines" in inspect.signature(explain).parameters:
            options["baselines"] = tuple(map(self.stage, self.baselines(question)))
        attributions = explain(
            tuple(a.requires_grad_() if a.is_floating_point() else a for a in self.inputs(question)), **options
        )
        return [self.torch.numpy(part) for part in attributions]


class Shap(Peer):
    """A runner for ``shap.…(model, background).shap_values(inputs, **options)``, at the target."""

    def attributions(self, question: Question, outputs: Numpy) -> list[Numpy]:
        background = list(map(self.stage, self.baselines(question)))
        arrays = list(self.inputs(question))
        has_one_input = len(arrays) == 1
        explain = self.kind(self.model, background[0] if has_one_input else background)
        values = explain.shap_values(arrays[0] if has_one_input else arrays, **self.options)
        target = self.target(question, outputs)
        return [self._at(np.asarray(part), array, target) for part, array in
                zip([values] if has_one_input else values, question.arrays, strict=True)]  # fmt: skip

    def _at(self, part: Numpy, array: Numpy, target: Any) -> Numpy:
        """The values at the target, from SHAP values (N, …, outputs)."""
        if part.ndim == array.ndim:
            return part
        if target is None:
            return part[..., 0]
        if isinstance(target, tuple):
            (target,) = target
        index = np.broadcast_to(target, len(part)).reshape(-1, *(1,) * (part.ndim - 1))
        return np.take_along_axis(part, index, axis=-1)[..., 0]
