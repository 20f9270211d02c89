"""Everything about a model that an explanation must leave as it was."""

from __future__ import annotations

from typing import Any

import numpy as np


def fingerprint(backend: str, model: Any) -> dict[str, Any]:
    """A comparable picture of the model's parameters, modes, hooks and attributes."""
    if backend == "torch":
        return _torch(model)
    return _keras(model) if backend == "tensorflow" else _plain(model)


def _torch(model: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for name, tensor in model.state_dict().items():
        state[f"{name}: values"] = tensor.detach().numpy().tobytes()
        state[f"{name}: storage"] = tensor.data_ptr()
    for name, parameter in model.named_parameters():
        state[f"{name}: grad"] = (id(parameter), parameter.requires_grad, parameter.grad is None)
    for path, module in model.named_modules():
        state[f"{path}: training"] = module.training
        state[f"{path}: attributes"] = sorted(module.__dict__)
        state[f"{path}: hooks"] = {k: len(v) for k, v in module.__dict__.items() if k.endswith("_hooks")}
    return state


def _keras(model: Any) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for index, weight in enumerate(model.weights):
        state[f"{index} {weight.path}"] = (id(weight), weight.trainable, weight.value.numpy().tobytes())
    for layer in _layers(model):
        state[f"{layer.name}: trainable"] = layer.trainable
        state[f"{layer.name}: attributes"] = sorted(layer.__dict__)
        nodes = (len(layer._inbound_nodes), len(layer._outbound_nodes))
        state[f"{layer.name}: nodes"] = nodes
    return state


def _layers(model: Any) -> list[Any]:
    return [model, *model._flatten_layers(include_self=False, recursive=True)]


def _plain(model: Any) -> dict[str, Any]:
    return {k: v.tobytes() if isinstance(v, np.ndarray) else v for k, v in vars(model).items()}


def hook_count(model: Any) -> int:
    """Hooks on a torch model, of every kind."""
    modules = list(model.modules())
    return sum(len(v) for m in modules for k, v in m.__dict__.items() if k.endswith("_hooks"))


def operation_count(backend: str, native: Any) -> int:
    """Operations in a compiled function, however it was compiled."""
    if backend == "tensorflow":
        return len(native.graph.get_operations())
    if backend == "torch":
        return sum(1 for _ in native.graph.nodes())
    return 0
