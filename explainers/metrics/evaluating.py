"""Evaluates attributions: equal demands of all metrics and methods run once, in packages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import random_numbers
from ..errors import InputError, UnknownNameError
from ..explainer import bind
from ..explainer.api import Explainer
from ..explainer.states import States
from ..methods.groups import Groups, SampleGroups
from ..random_numbers import UInt64
from ..spec import Numpy, References, row_name
from .base import Facts, Features, Metric, Work
from .evaluation import Curves, Evaluation

CONTROLS = ("random", "reversed")
RANDOM = "random"
CONTROL = 0xC07  # the stream of random numbers of the control
BYTES = 2**26  # that a chunk's arrays may take; explanations of neighbours take several times as much
AGREE = 1e-3  # relative difference of two explainers' outputs
FEW = 8  # samples on which outputs are compared

Chunk = tuple[Numpy, Features]  # numbers of samples, and their features


def evaluate(
    explainers: Explainer | Sequence[Explainer] | Mapping[str, Explainer], inputs: Any, *, metrics: Any,
    target: Any = None, baseline: Any = None, groups: Any = None, masks: Any = None,
    attributions: Mapping[str, Any] | None = None, controls: Sequence[str] = CONTROLS,
    model: Explainer | None = None, batch_size: int | None = None, seed: int = 0,
) -> Evaluation:  # fmt: skip
    """Score the attributions of several methods by several metrics.

    Perturbed samples of all samples fill the packages of the compiled model; what several metrics or methods need is
    evaluated once. Scores do not depend on the other samples, metrics or methods, nor on the size of packages.

    Parameters
    ----------
    explainers: one, a list, or a dict by name; compiled from the same model or loaded from files.
    inputs: of the model, (N, …): an array, a tuple, or a dict by name.
    metrics: names or values of :mod:`explainers.metrics`.
    target, batch_size: as for a call of an explainer; ``"max"`` is the largest output of each sample.
    baseline: what removed features are set to, in place of the explainers' own default: as for a call of an explainer.
        With References s is the mean over them.
    groups: which elements are removed together: an integer map for all samples, broadcastable to a sample, such as
        (1, H, W) for the pixels of images (C, H, W), or one for each sample, (N, …). A feature's attribution is the sum
        over its elements. Default: each element.
    masks: for metrics of localization: the elements that matter, booleans (N, …) of the attributed inputs.
    attributions: further methods as arrays of the attributed inputs' shape, by name.
    controls: ``"random"``: normal numbers in the place of an attribution; ``"reversed"``: each method with its sign
        reversed.
    model: the explainer whose ``predict`` is evaluated; by default the first one.
    seed: of all random draws: sample i draws from (seed, i).

    Returns
    -------
    An :class:`Evaluation`: the score of each sample, with means, intervals and tests.

    Raises
    ------
    InputError, UnknownNameError, TargetError, BaselineError, NonFiniteError
    """
    named = _named(explainers)
    given = dict(attributions or {})
    values = _metrics(metrics)
    for name in controls:
        if name not in CONTROLS:
            raise UnknownNameError.among("control", name, CONTROLS)
    both = sorted({*named} & {*given})
    if both or RANDOM in {*named, *given}:
        name = (both or [RANDOM])[0]
        raise InputError(f"the name {name!r} is used twice, by an explainer and by attributions= or a control")
    scorer = model or next(iter(named.values()), None)
    if scorer is None:
        raise InputError("no explainer is given: attributions as arrays need one, in model=, to run the model with")
    args, by_name = bind.split(inputs)
    states = scorer.states(*args, target=target, baseline=baseline, batch_size=batch_size, **by_name)
    if not states.count:
        raise InputError("there are no samples to evaluate")
    outputs = states.outputs()
    states = states.resolved(outputs)
    arrays = {name: _attributions(array, states, f"attributions[{name!r}]") for name, array in given.items()}
    run = _Run(
        states, values, named, arrays,
        None if masks is None else _masks(masks, states), random_numbers.sample_seeds(seed, states.count),
        baseline, tuple(controls), list(_chunks(states, groups, len(named) + len(arrays))),
    )  # fmt: skip
    run.check(outputs)
    return run.evaluation()


@dataclass
class _Run:
    states: States
    metrics: list[Metric]
    explainers: dict[str, Explainer]
    given: dict[str, list[Numpy]]
    masks: list[Numpy] | None
    seeds: UInt64
    baseline: Any
    controls: tuple[str, ...]
    chunks: list[Chunk]

    @property
    def methods(self) -> list[str]:
        return [*self.explainers, *self.given]

    # --- checks ------------------------------------------------------------------------------------

    def check(self, outputs: Numpy) -> None:
        """Raise for what cannot be evaluated, before anything runs but the outputs of the samples."""
        if not self.methods:
            raise InputError("there are no methods to evaluate: give explainers, or attributions=")
        of_masks = [metric.name for metric in self.metrics if metric.needs_masks]
        if of_masks and self.masks is None:
            raise InputError(f"metric {of_masks[0]!r} compares attributions with masks: give masks=, booleans (N, …)")
        of_calls = [metric.name for metric in self.metrics if metric.reexplains]
        if of_calls and not self.explainers:
            raise InputError(
                f"metric {of_calls[0]!r} explains changed samples: give explainers, not only attributions="
            )
        inputs = self.states.plan.traced.signature.inputs
        whole = [inputs[place] for place in self.states.places if not inputs[place].floating]
        moving = [metric.label for metric in self.metrics if metric.moves]
        if whole and moving:
            raise InputError(
                f"metric {moving[0]!r} changes samples to numbers between others, and input {whole[0]} is not "
                "floating-point. Take metrics that remove features, such as 'deletion'"
            )
        for count in {features.count for _, features in self.chunks}:
            facts = Facts(self.states.shapes, count, outputs[0].size, self.states.backend.channel_axis)
            for metric in self.metrics:
                metric.check(facts)
        few = np.arange(min(FEW, self.states.count))
        for name, explainer in self.explainers.items():
            self._check_same(name, explainer, few, outputs[few])
            for metric in self.metrics:
                metric.check_explainer(name, explainer)

    def _check_same(self, name: str, explainer: Explainer, few: Numpy, outputs: Numpy) -> None:
        """Raise InputError if an explainer explains something else than what is evaluated."""
        if explainer.per_token or explainer.every_output:
            flag = "per_token" if explainer.per_token else "every_output"
            instead = "; groups= can remove tokens as wholes" if explainer.per_token else ""
            raise InputError(f"explainer {name!r} is compiled with {flag}=True: compile it without{instead}")
        rows = self.states.part(few).inputs
        taken = len(explainer.signature.inputs) if explainer.traced else len(rows)
        if taken != len(rows):
            raise InputError(f"explainer {name!r} takes {taken} inputs, and the model that is evaluated {len(rows)}")
        # this traces those that are traced at their first call
        found = np.asarray(bind.to_numpy(explainer.predict(*self._passed(explainer, rows)), "the output"), np.float64)
        if found.shape != outputs.shape or np.abs(found - outputs).max() > AGREE * max(np.abs(outputs).max(), 1e-12):
            raise InputError(
                f"explainer {name!r} explains another output than the one that is evaluated: at the first sample "
                f"{found.reshape(-1)[:3]} … of shape {found.shape[1:]}, against {outputs.reshape(-1)[:3]} … of shape "
                f"{outputs.shape[1:]}. Compile all from one model with the same output= (and the same logits=)"
            )
        shapes = [[spec.sample_shape for spec in specs] for specs in (explainer.attributed, self.states.plan.specs)]
        if shapes[0] != shapes[1]:
            raise InputError(
                f"explainer {name!r} attributes to {[str(spec) for spec in explainer.attributed]}, and the model is "
                f"evaluated at {[str(spec) for spec in self.states.plan.specs]}"
            )

    # --- chunks ------------------------------------------------------------------------------------

    def evaluation(self) -> Evaluation:
        labels = {metric.label: metric for metric in self.metrics}
        count = self.states.count
        names = {label: self._scored(metric) for label, metric in labels.items()}
        found: dict[tuple[str, str], list[Numpy]] = {}
        curves = {label: {name: Curves() for name in names[label]} for label in labels}
        rows = asked = 0
        for index, features in self.chunks:
            work = self._work(index, features)
            for label, metric in labels.items():
                for name in names[label]:
                    if metric.reexplains and name not in self.explainers:
                        continue
                    found.setdefault((label, name), []).append(work.scores(metric, name))
                    curve = metric.curve(work, name)
                    if curve is not None:
                        curves[label][name].add(*curve)
            rows, asked = rows + work.rows, asked + work.asked
        order = np.argsort(np.concatenate([index for index, _ in self.chunks]))
        scores = {
            label: {
                name: metric.of_all(np.concatenate(found[label, name])[order])
                if (label, name) in found
                else np.full(count, np.nan)
                for name in names[label]
            }
            for label, metric in labels.items()
        }
        kept = {label: {n: c for n, c in of.items() if c.count} for label, of in curves.items()}
        kept = {label: of for label, of in kept.items() if of}
        return Evaluation(
            scores, labels, tuple(self.methods), self._controls(), kept, tuple(self.explainers), rows, asked
        )

    def _scored(self, metric: Metric) -> list[str]:
        """The methods with the controls that say something about a metric."""
        controls = [name for name, of in self._controls().items() if metric.signed or not of]
        return [*self.methods, *([] if metric.reexplains else controls)]

    def _controls(self) -> dict[str, str]:
        """The controls by name, with the method that each one reverses, or ""."""
        found = {RANDOM: ""} if RANDOM in self.controls else {}
        if "reversed" in self.controls:
            found |= {f"reversed {name}": name for name in self.methods}
        return found

    def _work(self, index: Numpy, features: Features) -> Work:
        states = self.states.part(index)
        masks = None if self.masks is None else [part[index] for part in self.masks]
        work = Work(index, states, features, {}, self.seeds[index], {}, self.explainers, self._call, masks)
        sample = np.arange(len(index))
        for name in self.explainers:
            work.attributions[name] = work.explain(name, None, sample)
        for name, arrays in self.given.items():
            work.attributions[name] = [array[index] for array in arrays]
        if RANDOM in self.controls:
            work.attributions[RANDOM] = self._random(work, states.shapes)
        derived = {name: of for name, of in self._controls().items() if of}
        for name, of in derived.items():
            work.attributions[name] = [-np.asarray(part) for part in work.attributions[of]]
        work.derived = derived
        return work

    def _random(self, work: Work, shapes: Sequence[tuple[int, ...]]) -> list[Numpy]:
        found = []
        for number, shape in enumerate(shapes):
            keys = work.keys(np.zeros(len(work), np.int64), np.arange(len(work)), CONTROL + number)
            parts = [np.random.Generator(np.random.Philox(int(key))).standard_normal(shape) for key in keys]
            found.append(np.stack(parts))
        return found

    def _call(self, explain: Explainer, rows: list[Any], index: Numpy, target: Any) -> tuple[list[Numpy], int]:
        """Attributions of rows of the samples ``index``, and the evaluations that they took."""
        arguments: dict[str, Any] = {"target": self._target(index) if target is None else target}
        if explain.method.baseline != "none" and self.baseline is not None:
            arguments["baseline"] = self._baseline(self.baseline, index)
        if explain.method.sampled:
            arguments["seed"] = (self.seeds[index] >> np.uint64(33)).astype(np.int64)
        before = explain.stats.rows
        found = explain(*self._passed(explain, rows), **arguments)
        parts = list(found.values()) if isinstance(found, dict) else found if isinstance(found, tuple) else [found]
        return [bind.to_numpy(part, "the attribution") for part in parts], explain.stats.rows - before

    def _baseline(self, given: Any, index: Numpy) -> Any:
        """The baseline of the samples ``index``."""
        count, shapes = self.states.count, self.states.shapes
        if isinstance(given, References) and given.per_sample:
            return References(np.asarray(bind.to_numpy(given.array, "baseline"))[index], per_sample=True)
        if isinstance(given, References):
            return given
        if isinstance(given, (tuple, dict)):
            parts = list(given.values()) if isinstance(given, dict) else list(given)
            axes = [len(shape) for shape in shapes]
            found = [bind.samples_of(part, index, count, n) for part, n in zip(parts, axes, strict=True)]
            return dict(zip(given, found, strict=True)) if isinstance(given, dict) else tuple(found)
        return bind.samples_of(given, index, count, len(shapes[0]))

    def _passed(self, explainer: Explainer, rows: list[Any]) -> list[Any]:
        """Inputs on the device as an explainer takes them, which may be of another framework."""
        backend = self.states.backend
        if explainer.backend == backend.name:
            return rows
        return [backend.numpy(row) if backend.owns(row) else row for row in rows]

    def _target(self, index: Numpy) -> Any:
        target = self.states.target
        data = target.data
        assert data is not None
        if not target.shape:
            return None
        if target.kind == "mask":
            return data[index] if len(data) > 1 else data[0]
        rows = data[index] if len(data) > 1 else data
        if len(target.shape) == 1:
            return int(rows[0, 0]) if len(rows) == 1 else rows[:, 0]
        return tuple(map(int, rows[0])) if len(rows) == 1 else [tuple(map(int, row)) for row in rows]


def _chunks(states: States, groups: Any, methods: int) -> Iterator[Chunk]:
    """The samples that are evaluated together, with their features, equally many in each."""
    shapes = states.shapes
    size = sum(int(np.prod(shape)) for shape in shapes)
    most = max(1, BYTES // (8 * max(size, 1) * (methods + 4)))
    index = np.arange(states.count)
    if not _one_each(groups, states):
        features = Features(Groups(groups, shapes), shapes)
        for start in range(0, states.count, most):
            yield index[start : start + most], features
        return
    ids = bind.sample_groups(states.plan, groups, states.count)
    for count in np.unique(ids.counts):
        alike = index[ids.counts == count]
        for start in range(0, len(alike), most):
            part = alike[start : start + most]
            maps = tuple(m[part] for m in ids.maps)
            yield part, Features(SampleGroups(maps, ids.shapes, ids.counts[part]), shapes)


# --- arguments -----------------------------------------------------------------------------------


def _named(explainers: Any) -> dict[str, Explainer]:
    if isinstance(explainers, Mapping):
        found = dict(explainers)
    else:
        each = [explainers] if isinstance(explainers, Explainer) else list(explainers or ())
        names = [getattr(getattr(item, "method", None), "name", "?") for item in each]
        unique = [name if names.count(name) == 1 else str(item.method) for name, item in zip(names, each, strict=True)]
        found = dict(zip(unique, each, strict=True))
        if len(found) < len(each):
            raise InputError(f"two explainers are called {unique[0]!r}: give a dict with a name for each")
    for name, item in found.items():
        if not isinstance(item, Explainer):
            raise InputError(f"explainer {name!r} is a {type(item).__name__}, not an Explainer")
    return found


def _one_each(groups: Any, states: States) -> bool:
    """Whether there is a map of groups for each sample, not one for all."""
    if groups is None:
        return False
    parts = list(groups.values()) if isinstance(groups, Mapping) else groups if isinstance(groups, tuple) else [groups]
    axes = parts[0].ndim if hasattr(parts[0], "ndim") else np.ndim(parts[0])
    return bool(axes == len(states.shapes[0]) + 1)


def _metrics(given: Any) -> list[Metric]:
    from . import resolve

    items = [given] if isinstance(given, (str, Metric, type)) else list(given)
    if not items:
        raise InputError("the list of metrics is empty; give at least one, such as 'deletion'")
    found = [resolve(item) for item in items]
    labels = [metric.label for metric in found]
    for label in labels:
        if labels.count(label) > 1:
            raise InputError(f"metric {label!r} is given twice")
    return found


def _parts(given: Any, states: States, what: str) -> list[Numpy]:
    """An array for each attributed input."""
    names = [spec.name for spec in states.plan.specs]
    if isinstance(given, Mapping):
        if set(given) != set(names):
            raise InputError(f"{what} has {sorted(given)}; the attributed inputs are {names}")
        given = tuple(given[name] for name in names)
    parts = given if isinstance(given, tuple) else (given,)
    if len(parts) != len(names):
        raise InputError(f"{what} has {len(parts)} arrays; there are {len(names)} attributed inputs: give a tuple")
    return [bind.to_numpy(part, what) for part in parts]


def _attributions(given: Any, states: States, what: str) -> list[Numpy]:
    """One array of the shape of each attributed input."""
    count, found = states.count, _parts(given, states, what)
    for array, shape in zip(found, states.shapes, strict=True):
        if array.shape != (count, *shape):
            raise InputError(f"{what} has the shape {array.shape}; the attributed input has {(count, *shape)}")
        wrong = np.argwhere(~np.isfinite(array.reshape(count, -1)).all(axis=1))
        if len(wrong):
            raise InputError(f"{what} has NaN or infinity at {row_name(int(wrong[0, 0]), count)}")
    flat = np.concatenate([array.reshape(count, -1) for array in found], axis=1)
    if flat.shape[1] > 1 and bool((flat == flat[:, :1]).all()):
        raise InputError(f"{what} is constant in every sample: it orders nothing")
    return found


def _masks(given: Any, states: States) -> list[Numpy]:
    """Booleans of the shape of each attributed input: the elements that matter."""
    parts = []
    for array, shape in zip(_parts(given, states, "masks"), states.shapes, strict=True):
        fits = array.ndim == len(shape) + 1 and len(array) == states.count
        if not fits or any(n not in (1, size) for n, size in zip(array.shape[1:], shape, strict=True)):
            raise InputError(f"masks has the shape {array.shape}; the attributed input has {(states.count, *shape)}")
        parts.append(np.broadcast_to(array != 0, (states.count, *shape)))
    empty = ~np.any([part.reshape(states.count, -1).any(axis=1) for part in parts], axis=0)
    if empty.any():
        raise InputError(f"the mask of {row_name(int(np.argmax(empty)), states.count)} is empty: nothing matters there")
    return parts
