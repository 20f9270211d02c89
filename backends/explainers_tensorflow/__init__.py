"""The tensorflow backend. Importing this package imports neither tensorflow nor keras."""

from __future__ import annotations

from explainers.backend import Backend
from explainers.graph import Function, Role

from . import backend, roles

BACKEND: Backend = backend.BACKEND


def register_operation(
    operation: str, role: Role | str, function: Function | str = Function.NONE, *, elementwise: bool | None = None
) -> None:
    """Say what an operation that the library does not know is to attribution rules.

    Parameters
    ----------
    operation: its type, such as ``"Betainc"`` or that of a custom op, as in ``tensor.op.type``. It needs a registered
        gradient.
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
    roles.REGISTERED.add(operation, role, function, elementwise)


__all__ = ["BACKEND", "register_operation"]
