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
    """Say what an operation of your own is to attribution rules. Without a role, only its derivative is known.

    Parameters
    ----------
    operation: what ``torch.library.custom_op`` gave, ``torch.ops.library.name``, or ``"library::name"``. It needs a
        fake implementation, so that it can be traced, and a derivative (``register_autograd``).
    role: what it is where one of its tensors depends on the model's inputs: ``"linear"``, ``"univariate"``,
        ``"gather"`` …; see :class:`explainers.graph.Role`. A univariate operation of two such tensors has no rule.
    function: of a linear operation: ``"copy"`` where each output entry is an entry of its input or a constant,
        ``"scale"`` where it is one tensor times constants.
    elementwise: whether each output entry depends on the entries at its own place only; by default, whether it is
        univariate.

    Raises
    ------
    InputError: an operation that has a role already, or a role that says nothing. UnknownNameError.
    """
    name = getattr(operation, "_qualname", None) or getattr(operation, "_qualified_op_name", None) or operation
    name = name.name() if callable(getattr(name, "name", None)) else str(name)
    library, _, plain = name.partition("::")
    if not plain:
        raise InputError(f'name an operation as "library::name"; got {operation!r}')
    plain = plain.partition(".")[0]
    roles.REGISTERED.add(plain if library == "aten" else f"{library}::{plain}", role, function, elementwise)


__all__ = ["BACKEND", "register_operation"]
