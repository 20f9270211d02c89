"""Other libraries as candidates: what Captum and SHAP say of the same torch model."""

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

# The peer's class → our method of the same definition, as far as their parameters allow it.
CAPTUM = {
    "Saliency": "saliency", "InputXGradient": "input_x_gradient", "IntegratedGradients": "integrated_gradients",
    "DeepLift": "deeplift", "DeepLiftShap": "deeplift_shap", "GradientShap": "gradient_shap", "LRP": "lrp",
    "GuidedBackprop": "guided_backprop", "Deconvolution": "deconvnet", "FeatureAblation": "feature_ablation",
    "Occlusion": "occlusion", "ShapleyValueSampling": "shapley_sampling", "KernelShap": "kernel_shap", "Lime": "lime",
}  # fmt: skip
SHAP = {"DeepExplainer": "deeplift_shap", "GradientExplainer": "gradient_shap"}
KINDS: Mapping[str, Mapping[str, str]] = {"captum": CAPTUM, "shap": SHAP}
COMPLETE = ("integrated_gradients", "deeplift", "shapley_sampling", "kernel_shap")


def compiled(candidate: Candidate, model: Any, question: Question) -> Peer:
    """The peer, at hand.

    Raises
    ------
    BackendMissing: the package is not installed. UnknownNameError: it has no such class. InputError: no torch model.
    """
    assert candidate.peer is not None
    package, kind = candidate.peer
    if kind not in KINDS[package]:
        raise UnknownNameError.among(f"explainer of {package}", kind, KINDS[package])
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
    """A copy of the model in inference, and how the question reads in torch."""

    traces = rows = None
    engine = "eager"
    value = ""

    def __init__(self, kind: Any, candidate: Candidate, model: Any, torch: Backend) -> None:
        assert candidate.peer is not None
        began = time.perf_counter()
        self.method = str(candidate.method)
        self.family = KINDS[candidate.peer[0]][candidate.peer[1]]
        self.backend = candidate.peer[0]
        self.options = dict(candidate.options)
        self.torch = torch
        self.model = copy.deepcopy(model).eval()  # peers hang hooks on it
        weight = next(self.model.parameters(), None)
        self.device = None if weight is None else weight.device
        self.kind = kind
        self.compile_s: float | None = time.perf_counter() - began

    def staged(self, array: Any) -> Any:
        """As torch's, where the model is."""
        array = np.asarray(array)
        return self.torch.stage(array, str(array.dtype), self.device)

    def inputs(self, question: Question) -> tuple[Any, ...]:
        return tuple(map(self.staged, question.arrays))

    def outputs(self, arrays: tuple[Any, ...]) -> Numpy:
        result = self.model(*arrays)
        if not hasattr(result, "detach"):
            raise InputError(f"{self.method} explains models of one output; this returns {type(result).__name__}")
        return self.torch.numpy(result)

    def target(self, question: Question, outputs: Numpy) -> Any:
        """One index for all, or one for each sample."""
        given = question.target
        if isinstance(given, str) and given == "max" and outputs.ndim == 2:
            return outputs.argmax(1)
        indices = given is None or isinstance(given, (int, np.integer, tuple))
        if not indices:
            given = np.asarray(given)
            indices = given.dtype.kind in "iu" and given.ndim == 1
        if not indices:
            raise InputError(f"{self.method} takes an index, one for each sample, or 'max' as target")
        return given

    def baselines(self, question: Question) -> list[Numpy]:
        """For each input with a leading axis: of 1, of the samples, or of the references."""
        given = question.baseline.array if isinstance(question.baseline, References) else question.baseline
        given = tuple(given.values()) if isinstance(given, dict) else given
        parts = list(given) if isinstance(given, tuple) else [0.0 if given is None else given]
        arrays = question.arrays
        if len(parts) == 1:
            parts = parts * len(arrays)
        found = []
        for part, array in zip(parts, arrays, strict=True):
            if callable(part):
                raise InputError(f"{self.method} takes arrays and numbers as baseline; got a function")
            part = np.asarray(part, array.dtype)
            whole = part if part.ndim == array.ndim else np.broadcast_to(part, array.shape[1:])[None]
            found.append(np.ascontiguousarray(whole))
        return found

    def answer(self, question: Question) -> Answer:
        question = question.plain()
        outputs = self.outputs(self.inputs(question))
        found = tuple(self.attributions(question, outputs))
        return Answer(found, outputs, self._gap(question, outputs, found))

    def attributions(self, question: Question, outputs: Numpy) -> list[Numpy]:
        raise NotImplementedError

    def call(self, question: Question) -> Any:
        question = question.plain()
        fixed = question.target
        outputs = self.outputs(self.inputs(question)) if isinstance(fixed, str) else np.zeros((0, 0))
        return self.attributions(question, outputs)

    def _gap(self, question: Question, outputs: Numpy, found: tuple[Numpy, ...]) -> float | None:
        """As :attr:`Explanation.largest_gap`, where the method promises completeness."""
        if self.family not in COMPLETE:
            return None
        target = self.target(question, outputs)
        bases = self.baselines(question)
        before = self.outputs(tuple(self.staged(np.broadcast_to(b, a.shape).copy())
                                    for b, a in zip(bases, question.arrays, strict=True)))  # fmt: skip
        change = _picked(outputs, target) - _picked(before, target)
        total = sum((part.reshape(len(part), -1).sum(1, dtype=np.float64) for part in found), np.zeros(len(question)))
        return float(np.max(np.abs(total - change) / np.maximum(np.abs(change), 1e-3), initial=0.0))


def _picked(outputs: Numpy, target: Any) -> Numpy:
    """The explained number of each sample, (N,)."""
    if target is None:
        return outputs.reshape(len(outputs))
    if isinstance(target, tuple):
        found: Numpy = outputs[(slice(None), *target)]
        return found
    each: Numpy = outputs[np.arange(len(outputs)), target]
    return each


class Captum(Peer):
    """``captum.attr.…(model).attribute(inputs, target=…, baselines=…, **options)``."""

    def attributions(self, question: Question, outputs: Numpy) -> list[Numpy]:
        explain: Callable[..., Any] = self.kind(self.model).attribute
        target = self.target(question, outputs)
        given = dict(self.options)
        given["target"] = self.staged(target) if isinstance(target, np.ndarray) else target
        if "baselines" in inspect.signature(explain).parameters:
            given["baselines"] = tuple(map(self.staged, self.baselines(question)))
        found = explain(
            tuple(a.requires_grad_() if a.is_floating_point() else a for a in self.inputs(question)), **given
        )
        return [self.torch.numpy(part) for part in found]


class Shap(Peer):
    """``shap.…(model, background).shap_values(inputs, **options)``, at the target."""

    def attributions(self, question: Question, outputs: Numpy) -> list[Numpy]:
        background = list(map(self.staged, self.baselines(question)))
        arrays = list(self.inputs(question))
        single = len(arrays) == 1
        explain = self.kind(self.model, background[0] if single else background)
        found = explain.shap_values(arrays[0] if single else arrays, **self.options)
        target = self.target(question, outputs)
        return [self._at(np.asarray(part), array, target) for part, array in
                zip([found] if single else found, question.arrays, strict=True)]  # fmt: skip

    def _at(self, part: Numpy, array: Numpy, target: Any) -> Numpy:
        """Of (N, …, outputs) the target's."""
        if part.ndim == array.ndim:
            return part
        if target is None:
            return part[..., 0]
        if isinstance(target, tuple):
            (target,) = target
        index = np.broadcast_to(target, len(part)).reshape(-1, *(1,) * (part.ndim - 1))
        return np.take_along_axis(part, index, axis=-1)[..., 0]
