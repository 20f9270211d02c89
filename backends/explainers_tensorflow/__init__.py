"""The tensorflow backend. Importing this package imports neither tensorflow nor keras."""

from __future__ import annotations

from explainers.backend import Backend
from explainers.graph import Function, Role

from . import backend, roles

BACKEND: Backend = backend.BACKEND


def register_operation(
    operation: str, role: Role | str, function: Function | str = Function.NONE, *, elementwise: bool | None = None
) -> None:
    """Tell attribution rules how to treat an operation that the library does not know.

    Parameters
    ----------
    operation: its type as in ``tensor.op.type``, such as ``"Betainc"`` or that of a custom op. It needs a registered
        gradient.
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
    roles.REGISTERED.add(operation, role, function, elementwise)


__all__ = ["BACKEND", "register_operation"]
