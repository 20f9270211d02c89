"""The torch backend. Importing this package does not import torch."""

from __future__ import annotations

from typing import Any

from explainers.backend import Backend
from explainers.errors import InputError
from explainers.graph import Function, Role

from . import backend, roles

BACKEND: Backend = backend.BACKEND


def register_operation(
    operation: Any, role: Role | str, function: Function | str = Function.NONE, *, elementwise: bool | None = None
) -> None:
    """Tell attribution rules how to treat a custom operation. Without a role, only its derivative is used.

    Parameters
    ----------
    operation: the result of ``torch.library.custom_op``, ``torch.ops.library.name``, or ``"library::name"``. It needs a
        fake implementation, so that it can be traced, and a derivative (``register_autograd``).
    role: its role when one of its tensors depends on the model's inputs: ``"linear"``, ``"univariate"``,
        ``"gather"`` …; see :class:`explainers.graph.Role`. A univariate operation of two such tensors has no rule.
    function: for a linear operation: ``"copy"`` if each output entry is an entry of its input or a constant,
        ``"scale"`` if it is one tensor times constants.
    elementwise: whether each output entry depends only on the input entries at the same place; by default True for
        univariate operations only.

    Raises
    ------
    InputError: the operation has a role already, or the role cannot be registered. UnknownNameError.
    """
    name = getattr(operation, "_qualname", None) or getattr(operation, "_qualified_op_name", None) or operation
    name = name.name() if callable(getattr(name, "name", None)) else str(name)
    library, _, plain = name.partition("::")
    if not plain:
        raise InputError(f'name an operation as "library::name"; got {operation!r}')
    plain = plain.partition(".")[0]
    roles.REGISTERED.add(plain if library == "aten" else f"{library}::{plain}", role, function, elementwise)


__all__ = ["BACKEND", "register_operation"]
