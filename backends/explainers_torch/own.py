"""Users' ``torch.autograd.Function`` as one operation of the graph each, with the user's backward."""

from __future__ import annotations

import threading
import types
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_LIBRARY = torch.library.Library("explainers_own", "DEF")
_LIBRARY.define("call(Tensor[] tensors, int number) -> Tensor[]")
_APPLIED = torch.autograd.Function.__dict__["apply"].__func__
_APPLY = types.FunctionType(
    _APPLIED.__code__, _APPLIED.__globals__, _APPLIED.__name__, _APPLIED.__defaults__, _APPLIED.__closure__
)
CALL = torch.ops.explainers_own.call.default


class OwnCall:
    """A call of ``function``, with its non-tensor arguments."""

    def __init__(self, function: type[torch.autograd.Function], args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        self.function, self.args, self.kwargs = function, list(args), kwargs
        self.places = [place for place, arg in enumerate(args) if isinstance(arg, Tensor)]
        for place in self.places:  # they differ at each evaluation
            self.args[place] = None
        self.one = True

    @property
    def name(self) -> str:
        return self.function.__name__

    def __call__(self, tensors: Sequence[Tensor], number: int = 0) -> list[Tensor]:
        """The function's outputs, with its own backward if derivatives are on."""
        args = list(self.args)
        for place, tensor in zip(self.places, tensors, strict=True):
            args[place] = tensor
        outputs = _APPLY(self.function, *args, **self.kwargs)
        self.one = isinstance(outputs, Tensor)
        return [outputs] if self.one else list(outputs)


_CALLS: list[OwnCall] = []  # set while a model is traced, one model at a time
_THREAD: ContextVar[int | None] = ContextVar("tracing", default=None)


def _plain(tensors: Sequence[Tensor], number: int) -> list[Tensor]:
    with torch.no_grad():
        return [out.clone() for out in _CALLS[number](tensors)]


_LIBRARY.impl("call", _plain, "CompositeExplicitAutograd")
torch.library.register_fake("explainers_own::call", _plain, lib=_LIBRARY)


def record(cls: type[torch.autograd.Function], *args: Any, **kwargs: Any) -> Any:
    tensors = [arg for arg in args if isinstance(arg, Tensor)]
    if not tensors or _THREAD.get() != threading.get_ident():
        return _APPLY(cls, *args, **kwargs)
    call = OwnCall(cls, args, kwargs)
    _CALLS.append(call)
    outs = CALL(tensors, len(_CALLS) - 1)
    return outs[0] if call.one else tuple(outs)


def _stand_in() -> Any:
    __class__ = None  # the code that it replaces has this free variable

    def apply(cls: Any, *args: Any, **kwargs: Any) -> Any:
        __class__  # noqa: B018
        from explainers_torch.own import record

        return record(cls, *args, **kwargs)

    return apply


@contextmanager
def recorded(known: Sequence[OwnCall] = ()) -> Iterator[list[OwnCall]]:
    """Turn ``Function.apply`` into one operation on this thread, even where a model holds a reference to it.

    ``known``: the calls that were recorded before, by the number that their operations have. Yields all calls.
    """
    _CALLS[:] = known
    code, token = _APPLIED.__code__, _THREAD.set(threading.get_ident())
    _APPLIED.__code__ = _stand_in().__code__
    try:
        yield _CALLS
    finally:
        _APPLIED.__code__ = code
        _THREAD.reset(token)


def call_of(number: int) -> OwnCall:
    return _CALLS[number]
