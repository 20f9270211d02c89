"""The parameters of a request, checked: what is explained, against what, and at what effort."""

from __future__ import annotations

import threading
import typing
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import InputError, UnknownNameError
from ..explainer.api import Explainer
from ..methods import Method
from ..spec import References
from .arrays import array_of
from .settings import Settings

COMMON = ("target", "baseline", "seed", "timeout")
FORMATS = ("raw", "full")
STEPS = ("steps", "max_steps")  # quadrature nodes


@dataclass
class Arguments:
    """What a request asks for, as an explainer takes it."""

    target: Any = None
    baseline: Any = None
    seed: Any = None
    timeout: float = 60.0
    form: str = "raw"
    effort: dict[str, Any] = field(default_factory=dict)


class Parameters:
    """Reads the parameters of one explainer's requests."""

    def __init__(self, explain: Explainer, settings: Settings) -> None:
        self.settings = settings
        self.axes = len(explain.output.sample_shape)
        self.inputs = [spec.name for spec in explain.attributed]
        hints = typing.get_type_hints(type(explain.method))
        strict = ConfigDict(strict=True, allow_inf_nan=False)
        self.effort = {name: TypeAdapter(hints[name], config=strict) for name in explain.method.effort}

    def read(self, given: Any, formats: bool = True) -> Arguments:
        """Check ``given``, the request's ``parameters``.

        Raises
        ------
        UnknownNameError: for a parameter that is not taken; lists those that are. InputError and its kinds.
        """
        settings, found = self.settings, Arguments(timeout=self.settings.timeout)
        if given is None:
            return found
        if not isinstance(given, dict):
            raise InputError(f"parameters must be a JSON object; got {type(given).__name__}")
        allowed = [*COMMON, *(["format"] if formats else []), *self.effort]
        for name, value in given.items():
            if name not in allowed:
                raise UnknownNameError.among("parameter", name, allowed)
            if name in self.effort:
                found.effort[name] = self._effort(name, value)
        found.target = self._target(given.get("target"))
        found.baseline = self._baseline(given.get("baseline"))
        found.seed = _seed(given.get("seed"))
        if given.get("timeout") is not None:
            timeout = array_of(given["timeout"], "timeout")
            if timeout.ndim or not 0 < timeout <= settings.timeout:
                raise InputError(f"timeout must be seconds above 0, at most {settings.timeout}; got {given['timeout']}")
            found.timeout = float(timeout)
        if given.get("format") is not None:
            if given["format"] not in FORMATS:
                raise UnknownNameError.among("format", given["format"], FORMATS)
            found.form = given["format"]
        return found

    def _effort(self, name: str, value: Any) -> Any:
        try:
            checked = self.effort[name].validate_python(value)
        except ValidationError as error:
            raise InputError(f"{name}: {error.errors()[0]['msg']}; got {value!r:.100}") from None
        most = self.settings.max_steps if name in STEPS else self.settings.max_effort
        if isinstance(checked, int) and not isinstance(checked, bool) and checked > most:
            raise InputError(f"{name} may be {most} at most; got {checked}")
        return checked

    def _target(self, value: Any) -> Any:
        if value is None or isinstance(value, str) or type(value) is int:
            return value
        array = array_of(value, "target")
        one = array.shape == (self.axes,) and self.axes > 1 and array.dtype.kind == "i"
        return tuple(array.tolist()) if one else array  # an index into several axes, for all

    def _baseline(self, value: Any) -> Any:
        if isinstance(value, dict) and "references" in value and "references" not in self.inputs:
            own = value.get("per_sample", False)
            if not set(value) <= {"references", "per_sample"} or not isinstance(own, bool):
                raise InputError(f"baseline: {{'references': […], 'per_sample': true or false}}; got {sorted(value)}")
            return References(self._baseline(value["references"]), own)
        if isinstance(value, dict):
            return {name: array_of(entry, f"baseline {name!r}") for name, entry in value.items()}
        return None if value is None else array_of(value, "baseline")


def _seed(value: Any) -> Any:
    if value is None:
        return None
    seeds = array_of(value, "seed")
    if seeds.dtype.kind != "i" or seeds.ndim > 1:
        raise InputError("seed must be an integer below 2^63, or a list of these, one for each instance")
    return int(seeds) if not seeds.ndim else seeds


class Variants:
    """An explainer at other efforts; the last used are kept."""

    def __init__(self, explain: Explainer, settings: Settings) -> None:
        self.explain, self.settings = explain, settings
        self.kept: OrderedDict[tuple[tuple[str, Any], ...], Explainer] = OrderedDict()
        self.lock = threading.Lock()

    def known(self, effort: dict[str, Any], count: int) -> Explainer | None:
        """The explainer for ``effort``, if it needs not be made."""
        effort = self._bounded(effort, count)
        if not effort:
            return self.explain
        key = tuple(sorted(effort.items()))
        with self.lock:
            if key in self.kept:
                self.kept.move_to_end(key)
            return self.kept.get(key)

    def make(self, effort: dict[str, Any], count: int) -> Explainer:
        """The explainer for ``effort``, for ``count`` instances."""
        effort = self._bounded(effort, count)
        explain = self.explain.replace(**effort)
        with self.lock:
            self.kept[tuple(sorted(effort.items()))] = explain
            while len(self.kept) > self.settings.variants:
                self.kept.popitem(last=False)
        return explain

    def _bounded(self, effort: dict[str, Any], count: int) -> dict[str, Any]:
        """With a tolerance, evaluations have a limit of their own: what the request may cost."""
        method: Method = self.explain.method
        if effort.get("tolerance", method.refines_to or method.error_to) is None:
            return effort
        limit = "max_evaluations" if "max_evaluations" in method.effort else "max_steps"
        share = self.settings.max_effort // max(count, 1)
        # a method that refines evaluates 1 + ½ + ¼ + … times its last number of steps
        share = share if limit == "max_evaluations" else min(share // 2, self.settings.max_steps)
        given = effort.get(limit)
        if given is not None:
            if given > share:
                raise InputError(f"{limit} may be {share} at most for {count} instances; got {given}")
            return effort
        default = getattr(method, limit)
        if default is not None and default <= share:
            return effort
        return {**effort, limit: 1 << max(share, 1).bit_length() - 1}


def finite(array: Any) -> bool:
    return bool(np.isfinite(array).all())
