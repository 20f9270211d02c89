"""Reads and checks the parameters of a request: target, baseline, seed, timeout, format and effort."""

from __future__ import annotations

import threading
import typing
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..errors import InputError, UnknownNameError, shown
from ..explainer.api import Explainer
from ..methods import Method
from ..spec import References
from .arrays import array_of, as_floats
from .settings import Settings

COMMON = ("target", "baseline", "seed", "timeout")
FORMATS = ("raw", "full")
STEPS = ("steps", "max_steps")  # quadrature nodes


@dataclass
class Arguments:
    """The parameters of a request, as arguments of an explainer."""

    target: Any = None
    baseline: Any = None
    seed: Any = None
    groups: Any = None
    timeout: float = 60.0
    form: str = "raw"
    effort: dict[str, Any] = field(default_factory=dict)


class Parameters:
    """Reads the parameters of one explainer's requests."""

    def __init__(self, explain: Explainer, settings: Settings) -> None:
        self.settings = settings
        self.axes = len(explain.output.sample_shape)
        self.inputs = [spec.name for spec in explain.attributed]
        method = explain.method
        self.common = (*COMMON, *(("groups",) if method.takes_groups and not method.has_groups else ()))
        hints = typing.get_type_hints(type(explain.method))
        strict = ConfigDict(strict=True, allow_inf_nan=False)
        self.effort = {name: TypeAdapter(hints[name], config=strict) for name in explain.method.effort}

    def read(self, parameters: Any, formats: bool = True) -> Arguments:
        """Check the ``parameters`` of a request.

        Raises
        ------
        UnknownNameError: a parameter does not exist; the message lists those that do. InputError: an invalid value.
        """
        settings, arguments = self.settings, Arguments(timeout=self.settings.timeout)
        if parameters is None:
            return arguments
        if not isinstance(parameters, dict):
            raise InputError(f"parameters must be a JSON object; got {type(parameters).__name__}")
        allowed = [*self.common, *(["format"] if formats else []), *self.effort]
        for name, value in parameters.items():
            if name not in allowed:
                raise UnknownNameError.among("parameter", name, allowed)
            if name in self.effort:
                arguments.effort[name] = self._effort(name, value)
        arguments.target = self._target(parameters.get("target"))
        arguments.baseline = self._baseline(parameters.get("baseline"))
        arguments.seed = _seed(parameters.get("seed"))
        arguments.groups = self._arrays(parameters.get("groups"), "groups")
        if parameters.get("timeout") is not None:
            timeout = array_of(parameters["timeout"], "timeout")
            if timeout.ndim or not 0 < timeout <= settings.timeout:
                raise InputError(
                    f"timeout must be seconds above 0, at most {settings.timeout}; got {shown(parameters['timeout'])}"
                )
            arguments.timeout = float(timeout)
        if parameters.get("format") is not None:
            if parameters["format"] not in FORMATS:
                raise UnknownNameError.among("format", parameters["format"], FORMATS)
            arguments.form = parameters["format"]
        return arguments

    def _effort(self, name: str, value: Any) -> Any:
        try:
            checked_value = self.effort[name].validate_python(value)
        except ValidationError as error:
            wanted = error.errors()[0]["msg"].removeprefix("Input should be ")
            raise InputError(f"{name} must be {wanted}; got {shown(value)}") from None
        limit = self.settings.max_steps if name in STEPS else self.settings.max_effort
        if isinstance(checked_value, int) and not isinstance(checked_value, bool) and checked_value > limit:
            raise InputError(f"{name} may be at most {limit}; got {checked_value}")
        return checked_value

    def _target(self, value: Any) -> Any:
        if value is None or isinstance(value, str) or type(value) is int:
            return value
        array = _array(value, "target")
        is_one_index = array.shape == (self.axes,) and self.axes > 1 and array.dtype.kind == "i"
        return tuple(array.tolist()) if is_one_index else array  # one index into several axes, for all instances

    def _baseline(self, value: Any) -> Any:
        if isinstance(value, dict) and "references" in value and "references" not in self.inputs:
            per_sample = value.get("per_sample", False)
            if not set(value) <= {"references", "per_sample"} or not isinstance(per_sample, bool):
                raise InputError(
                    f"baseline: {{'references': […], 'per_sample': true or false}}; got {shown(sorted(value))}"
                )
            return References(self._arrays(value["references"], "references of the baseline"), per_sample)
        return self._arrays(value, "baseline")

    def _arrays(self, value: Any, what: str) -> Any:
        """A number or lists of numbers, or an object with these by input name."""
        if isinstance(value, dict):
            return {name: _array(entry, f"{what} {shown(name)}") for name, entry in value.items()}
        return None if value is None else _array(value, what)


def _array(value: Any, what: str) -> Any:
    """Numbers, of which none is rounded where floating-point numbers are needed."""
    array = array_of(value, what)
    as_floats(array, what)
    return array


def _seed(value: Any) -> Any:
    if value is None:
        return None
    seeds = array_of(value, "seed")
    if seeds.dtype.kind != "i" or seeds.ndim > 1:
        raise InputError("seed must be an integer below 2^63, or a list of these, one for each instance")
    return int(seeds) if not seeds.ndim else seeds


class Variants:
    """Variants of an explainer with other effort parameters; a cache holds those used last."""

    def __init__(self, explain: Explainer, settings: Settings) -> None:
        self.explain, self.settings = explain, settings
        self.explainers: OrderedDict[tuple[tuple[str, Any], ...], Explainer] = OrderedDict()
        self.lock = threading.Lock()

    def find(self, effort: dict[str, Any], count: int) -> Explainer | None:
        """The explainer for ``effort`` if it is in the cache, else None."""
        effort = self._bounded(effort, count)
        if not effort:
            return self.explain
        key = tuple(sorted(effort.items()))
        with self.lock:
            if key in self.explainers:
                self.explainers.move_to_end(key)
            return self.explainers.get(key)

    def make(self, effort: dict[str, Any], count: int) -> Explainer:
        """Make and cache the explainer for ``effort``, for requests of ``count`` instances."""
        effort = self._bounded(effort, count)
        explain = self.explain.replace(**effort)
        with self.lock:
            self.explainers[tuple(sorted(effort.items()))] = explain
            while len(self.explainers) > self.settings.variants:
                self.explainers.popitem(last=False)
        return explain

    def _bounded(self, effort: dict[str, Any], count: int) -> dict[str, Any]:
        """``effort`` with a limit on evaluations, if the method stops by a tolerance."""
        method: Method = self.explain.method
        if effort.get("tolerance", method.refines_to or method.error_to) is None:
            return effort
        limit = "max_evaluations" if "max_evaluations" in method.effort else "max_steps"
        share = self.settings.max_effort // max(count, 1)
        # a method that refines evaluates 1 + ½ + ¼ + … times its last number of steps
        share = share if limit == "max_evaluations" else min(share // 2, self.settings.max_steps)
        requested = effort.get(limit)
        if requested is not None:
            if requested > share:
                raise InputError(f"{limit} may be {share} at most for {count} instances; got {requested}")
            return effort
        default = getattr(method, limit)
        if default is not None and default <= share:
            return effort
        return {**effort, limit: 1 << max(share, 1).bit_length() - 1}


def finite(array: Any) -> bool:
    return bool(np.isfinite(array).all())
