"""What every public call of an explainer runs in."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

from ..errors import OutOfMemory
from ..run.packages import out_of_memory

Callee = TypeVar("Callee", bound=Callable[..., Any])


def neutrally(method: Callee) -> Callee:
    """Run the method in the framework's default modes, so that results do not depend on the caller's.

    For classes with a ``_backend`` and a ``_home``: a call in a process that was forked since is refused. Errors of a
    framework or of numpy that say that the memory is exhausted become one of ours.
    """

    @functools.wraps(method)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        self._home.check()
        try:
            with self._backend.neutral():
                return method(self, *args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, OutOfMemory) or not self._backend.is_out_of_memory(error):
                raise
            raise out_of_memory(error) from error

    return cast(Callee, run)
