"""Which part of an explanation is shown: panels of numpy arrays for its samples, and the facts for their titles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from .. import tables
from ..errors import InputError, NonFiniteError, UnknownNameError
from ..explainer.explanation import Explanation
from ..spec import Numpy

SHOWN = 6  # samples by default
WEIGHTED = "weighted outputs"


@dataclass(frozen=True)
class View:
    """Which part of an explanation is shown, and with which names.

    samples: how many of the first samples, or a sequence of positions. input: the name of one of several attributed
    values. output: with ``target="all"``, which output (an int or an index tuple). names: names of the features
    (bars, waterfall; for several inputs a dict by input), the letters of a logo, the channels (curves), or the words
    (tokens): a list or dict by id, a function of an id, or one list of words for every sample. classes: names of the
    outputs. channels: where the axis of channels or letters of an image, signal or sequence is, ``"first"`` or
    ``"last"``. top: largest number of bars; the other features share one more. allow_nonfinite: show NaN and
    infinity hatched in grey instead of raising an error. numbers: sample numbers for the titles, if the samples are
    a selection from a larger set.
    """

    samples: int | Sequence[int] = SHOWN
    input: str | None = None
    output: int | tuple[int, ...] | None = None
    names: Any = None
    classes: Sequence[str] | None = None
    channels: str | None = None
    top: int = 12
    allow_nonfinite: bool = False
    numbers: Sequence[int] | None = None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> View:
        names = [field.name for field in fields(cls)]
        for name in options:
            if name not in names:
                raise UnknownNameError.among("part of a view", name, names)
        view = cls(**options)
        if view.channels not in (None, "first", "last"):
            raise InputError(f"channels must be 'first' or 'last'; got {view.channels!r}")
        if view.top < 1:
            raise InputError(f"top must be ≥ 1; got {view.top}")
        return view

    def positions(self, count: int) -> list[int]:
        """The positions of the samples that are shown, out of ``count``."""
        if isinstance(self.samples, (int, np.integer)):
            if self.samples < 1:
                raise InputError(f"samples must be ≥ 1, or a sequence of positions; got {self.samples}")
            return list(range(min(int(self.samples), count)))
        positions = [int(position) for position in self.samples]
        wrong_positions = [position for position in positions if not 0 <= position < count]
        if wrong_positions or not positions:
            raise InputError(f"there are {count} samples, 0 to {count - 1}; got the positions {positions}")
        return positions

    def class_name(self, index: tuple[int, ...]) -> str:
        if self.classes is not None and len(index) == 1:
            if index[0] >= len(self.classes):
                raise InputError(f"classes has {len(self.classes)} names; the target is output {index[0]}")
            return str(self.classes[index[0]])
        return str(index[0]) if len(index) == 1 else str(index)


@dataclass(frozen=True)
class Facts:
    """Facts about one sample; output and baseline_output are s = Σ mask·f at x and at the baseline.

    of_changes, only_differences: as of the method.
    """

    position: int
    method: str
    target: str
    output: float
    baseline_output: float | None
    gap: float | None
    evaluations: int
    of_changes: bool = False
    only_differences: bool = False

    @property
    def title(self) -> str:
        """The title, in two short lines."""
        baseline = "" if self.baseline_output is None else f", baseline {number(self.baseline_output)}"
        return f"sample {self.position}, {self.target}\noutput {number(self.output)}{baseline}"


@dataclass(frozen=True, eq=False)
class Panel:
    """One attributed value of one sample: scores, values (None for a layer) and errors, all of the sample's shape.

    ``words``: the words of tokens. ``columns``: names of the features, if the sample is a row of a table.
    ``elsewhere``: Σ attribution of the sample's other attributed values. ``incomplete``: why the attributions do not
    add up to a waterfall, or "".
    """

    facts: Facts
    name: str
    scores: Numpy
    values: Numpy | None = None
    error: Numpy | None = None
    words: tuple[str, ...] | None = None
    elsewhere: float = 0.0
    incomplete: str = ""
    columns: tuple[str, ...] = ()


def panels(explanation: Explanation, view: View) -> list[list[Panel]]:
    """For each shown sample, one panel for each attributed value.

    Raises
    ------
    InputError: there are no samples, or no such sample or output. UnknownNameError: no such input. NonFiniteError:
    a shown number is not finite, unless ``allow_nonfinite``.
    """
    count = len(explanation.outputs)
    if not count:
        raise InputError("the explanation has no samples, so there is nothing to show")
    positions = view.positions(count)
    scores = {name: one_output(array, explanation, view) for name, array in explanation.parts().items()}
    errors = {name: one_output(array, explanation, view) for name, array in explanation.parts("standard_error").items()}
    totals = {name: array.reshape(count, -1).sum(axis=1) for name, array in scores.items()}
    if view.input is not None and view.input not in scores:
        raise UnknownNameError.among("attributed input", view.input, scores)
    names = [view.input] if view.input is not None else list(scores)
    incomplete = _incomplete(explanation)
    inputs = explanation.inputs
    lines = []
    for i in positions:
        facts = facts_of(explanation, view, i)
        line = []
        for name in names:
            values = _values(inputs[name][i]) if name in inputs else None
            part = np.asarray(scores[name][i], np.float64)
            check_finite(part, values, view, i)
            error = np.asarray(errors[name][i], np.float64) if errors else None
            other_sum = float(sum(total[i] for other, total in totals.items() if other != name))
            words = None if values is not None else _words(inputs, part.shape, view, i)
            if words is not None:
                token_count = _without_padding(words, part)
                words, part = words[:token_count], part[:token_count]
                error = None if error is None else error[:token_count]
            columns = _columns(explanation, name, part.size)
            line.append(Panel(facts, name, part, values, error, words, other_sum, incomplete, columns))
        lines.append(line)
    return lines


def _values(sample: Numpy) -> Numpy:
    """A sample as floats; as objects if it is a row of a table that holds more than numbers."""
    return sample if sample.dtype == object else sample.astype(np.float64)


def _columns(explanation: Explanation, name: str, size: int) -> tuple[str, ...]:
    given_input = explanation.given.get(name)
    names = tables.names(given_input) if tables.is_table(given_input) else ()
    return names if len(names) == size else ()


def one_output(array: Numpy, explanation: Explanation, view: View) -> Numpy:
    """The attributions of one output, (N, …): with ``target="all"`` those of the chosen output."""
    if not isinstance(explanation.target, str):
        if view.output is not None:
            raise InputError('output= is for explanations of target="all"; this one has a target')
        return array
    shape = explanation.outputs.shape[1:]
    index = _index(view)
    if len(index) != len(shape) or any(not 0 <= i < size for i, size in zip(index, shape, strict=False)):
        raise InputError(f'target="all" explains outputs of shape {shape}; say which to show with output=')
    part: Numpy = array[index]
    return part


def _index(view: View) -> tuple[int, ...]:
    if view.output is None:
        return ()
    return (view.output,) if isinstance(view.output, int) else tuple(view.output)


def check_finite(scores: Numpy, values: Numpy | None, view: View, position: int) -> None:
    if view.allow_nonfinite:
        return
    for array, what in ((scores, "the attribution"), (values, "the input")):
        if array is not None and array.dtype != object and not np.isfinite(array).all():
            raise NonFiniteError(
                f"{what} of sample {position} has NaN or infinity; pass allow_nonfinite=True to show it hatched in grey"
            )


def _incomplete(explanation: Explanation) -> str:
    name = explanation.method.name
    if not explanation.method.adds_up or explanation.baseline_outputs is None:
        return f"the attributions of {name!r} do not add up from a baseline's output to the output"
    if explanation.method.has_groups or explanation.groups is not None:
        return "elements of one group share their effect"
    return ""


def facts_of(explanation: Explanation, view: View, i: int) -> Facts:
    """The facts about sample ``i``."""
    outputs, baselines, gaps = explanation.outputs, explanation.baseline_outputs, explanation.completeness_gap
    if isinstance(explanation.target, str):
        mask = np.zeros(outputs.shape[1:])
        mask[_index(view)] = 1.0
    else:
        mask = explanation.target[i]
    target = "the output"
    if mask.ndim:
        name = target_name(mask, view)
        target = f"target: {name}" if name.endswith(WEIGHTED) else f"target {name}"
    number_of_sample = i if view.numbers is None else view.numbers[i]
    return Facts(
        number_of_sample, explanation.method.name, target, float((outputs[i] * mask).sum()),
        None if baselines is None else float((baselines[i] * mask).sum()),
        None if gaps is None else float(gaps[i]), int(explanation.evaluations[i]),
        explanation.method.of_changes, explanation.method.only_differences,
    )  # fmt: skip


def target_name(mask: Numpy, view: View) -> str:
    """The name of the output that a target's mask selects, or how many outputs it weights."""
    places = np.argwhere(mask)
    if not mask.ndim:
        return "the output"
    if len(places) == 1 and mask.sum() == 1:
        return view.class_name(tuple(int(k) for k in places[0]))
    return f"{len(places)} {WEIGHTED}"


def _words(inputs: Mapping[str, Numpy], shape: tuple[int, ...], view: View, i: int) -> tuple[str, ...] | None:
    """The words that a layer's scores belong to, from the first integer input with one id for each score."""
    ids = next((a[i] for a in inputs.values() if a.dtype.kind in "iu" and a.shape[1:] == shape), None)
    if ids is None or len(shape) != 1:
        return None
    names = view.names
    if names is None:
        return tuple(map(str, ids))
    if callable(names):
        return tuple(str(names(int(k))) for k in ids)
    if isinstance(names, Mapping):
        return tuple(str(names.get(int(k), k)) for k in ids)
    if len(names) and not isinstance(names[0], str):  # words for each sample
        words = names[i] if i < len(names) else []
        return tuple(str(words[k]) if k < len(words) else "" for k in range(len(ids)))
    return tuple(str(names[k]) if 0 <= k < len(names) else str(k) for k in ids)


def _without_padding(words: Sequence[str], scores: Numpy) -> int:
    """The number of tokens without the padding at the end, which has neither words nor attributions."""
    token_positions = [i for i, (word, score) in enumerate(zip(words, scores, strict=True)) if word or score]
    return max(token_positions, default=0) + 1


def centred(panel: Panel) -> Numpy:
    """The scores as pictures colour them: minus their mean, if only their differences say what matters."""
    finite = panel.scores[np.isfinite(panel.scores)]
    return panel.scores - finite.mean() if panel.facts.only_differences and finite.size else panel.scores


def number(value: float) -> str:
    """The number with three significant digits, or as a whole number from 1,000 on, with a true minus sign."""
    text = f"{value:,.0f}" if 1e3 <= abs(value) < 1e7 else f"{value:.3g}"
    return text.replace("-", "−")


def largest(arrays: Sequence[Numpy]) -> float:
    """The largest finite absolute value, the end of a scale; 1 if all are 0."""
    maxima = [float(np.abs(a[np.isfinite(a)]).max(initial=0.0)) for a in arrays]
    return max(maxima, default=0.0) or 1.0


class Draw(Protocol):
    """Draws a panel on axes; ``scale``: the largest absolute value of all panels."""

    def __call__(self, axes: Any, panel: Panel, view: View, scale: float) -> None: ...
