"""Explainers that metrics derive from those that are evaluated: compiled once, and kept as long as these live."""

from __future__ import annotations

import threading
from weakref import WeakKeyDictionary

from ..explainer.api import Explainer

LOCK = threading.RLock()  # one evaluation at a time compiles them, and sets the weights of a copy
_COPIES: WeakKeyDictionary[Explainer, Explainer] = WeakKeyDictionary()
_SHIFTED: WeakKeyDictionary[Explainer, dict[float, Explainer]] = WeakKeyDictionary()


def copy_of(explain: Explainer) -> Explainer:
    """The explainer with weights of its own. Raises as :meth:`.Explainer.detached`."""
    with LOCK:
        found = _COPIES.get(explain)
        if found is None:
            found = _COPIES[explain] = explain.detached()
        return found


def shifted(explain: Explainer, amount: float) -> Explainer:
    """The explainer of the model x ↦ f(x − amount). Raises as :meth:`.Explainer.shifted`."""
    with LOCK:
        known = _SHIFTED.setdefault(explain, {})
        if amount not in known:
            known[amount] = explain.shifted(amount)
        return known[amount]
