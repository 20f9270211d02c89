"""Explanations of several models of one architecture: one trace, with the weights as placeholders."""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import losses
from ..backend import WARM_RUNS, Backend, Kernel, Size, Traced, on_host, owner
from ..errors import ArtifactError, ExplainersError, InputError, TargetError, UnsupportedOperation
from ..graph import Value
from ..program import Program
from ..program.ensemble import WithWeights, number_weights, runs_together
from ..run import Packages
from ..run.call import Call, Chunk, Piece, Results
from ..spec import Array, Numpy
from . import bind
from .explanation import Explanation
from .neutral import neutrally

if TYPE_CHECKING:
    from .api import Explainer

TRIED = 64  # rows of a package of one model for which it is tried whether all models run faster together
TIMED = 5  # runs of a kernel that are timed


@dataclass(frozen=True)
class Ensemble:
    """Several sets of weights of one model.

    model: a torch.nn.Module or a Keras model, which is not changed. states: for each member its weights: of torch a
    ``state_dict``, of Keras a list as of ``get_weights()``, or a mapping from the variables' paths.
    """

    model: Any
    states: Sequence[Any] = field(repr=False)


def members_of(model: Any) -> tuple[Any, Sequence[Any]] | None:
    """The model to trace and the members of an ensemble; None if ``model`` is one model.

    Raises
    ------
    InputError: none.
    """
    if isinstance(model, Ensemble):
        if not isinstance(model.states, Sequence) or not model.states:
            raise InputError("an Ensemble needs states: a list with the weights of each member")
        _check_single([model.model])
        return model.model, model.states
    if isinstance(model, (list, tuple)):
        if not model:
            raise InputError("the list of models is empty")
        _check_single(model)
        return model[0], model
    return None


def _check_single(models: Sequence[Any]) -> None:
    if any(isinstance(model, (list, tuple, Ensemble)) for model in models):
        raise InputError("a member of an ensemble is one model, not a list of them or another Ensemble")


@dataclass(frozen=True)
class EnsembleExplanation:
    """The explanations of every member.

    members: one for each. attributions: (M, N, …), or a tuple or dict of these. ``mean``, ``spread``: over members.
    """

    members: tuple[Explanation, ...] = field(repr=False)
    attributions: Any = field(repr=False)

    @property
    def mean(self) -> Any:
        """The mean over the members, (N, …)."""
        return _each(self.attributions, _mean)

    @property
    def spread(self) -> Any:
        """The standard deviation over the members, (N, …), with M − 1: how much they disagree. NaN of one member."""
        return _each(self.attributions, _spread)

    @property
    def agreement(self) -> Any:
        """The share of the members whose attribution has the sign of the mean, (N, …)."""
        return _each(self.attributions, _agreement)

    @property
    def outputs(self) -> Numpy:
        """f of every member, (M, N, …)."""
        return np.stack([np.asarray(_on_host(member.outputs)) for member in self.members])


class EnsembleExplainer:
    """A compiled explanation of several models of one architecture: results have the members first, (M, N, …).

    Made by :meth:`Explainer.compile` with a list of models or an :class:`Ensemble`. The model is traced once. Members
    run one after the other through one kernel, or together in one, whichever is faster for a number of rows: that is
    measured at the first call with it. No member sees another's samples.
    """

    def __init__(self, explainer: Explainer, model: Any, members: Sequence[Any]) -> None:
        plan = explainer._plan
        if plan is None:
            raise InputError("the model does not declare its inputs: give examples or TensorSpecs with inputs=")
        if plan.traced.signature.lengths or explainer._backend.calls or explainer._backend.forward_only:
            raise UnsupportedOperation(
                "an ensemble needs a traced torch or Keras model, and all sizes but the batch's: compile an explainer "
                "for each member"
            )
        self.explainer, self._model, self._given = explainer, model, list(members)
        self._backend: Backend = explainer._backend
        self._home = explainer._home
        packages, traced = plan.packages, plan.traced
        self._shared = _Shared(self._backend, traced, packages.engine)
        self._members: list[_Member] = []
        self._whole: _Whole | None = None
        self._faster: dict[Any, bool] = {}
        self.refresh()

    def refresh(self) -> EnsembleExplainer:
        """Take the members' current weights. Nothing is traced or compiled again. Returns itself."""
        plan = self.explainer._plan
        assert plan is not None
        weights = []
        for place, member in enumerate(self._given):
            try:
                found = self._backend.weights_of(self._model, member, plan.traced)
            except InputError as error:
                error.args = (f"member {place} of 0 … {len(self._given) - 1}: {error.args[0]}",)
                raise
            own = {value: self._backend.copied(weight) for value, weight in found.items()}  # training changes nothing
            weights.append({value: self._backend.read(weight) for value, weight in own.items()})
        self._members = [_Member.of(plan.packages, self._shared, own) for own in weights]
        together = _together(plan.packages) and not self.explainer._options.interacting
        self._whole = _Whole.of(plan.packages, self._shared, weights) if together else None
        return self

    def __len__(self) -> int:
        return len(self._members)

    @property
    def method(self) -> Any:
        return self.explainer.method

    @property
    def stats(self) -> Any:
        return self.explainer.stats

    # --- calling -----------------------------------------------------------------------------

    @neutrally
    def __call__(self, *inputs: Any, **arguments: Any) -> Any:
        """The attributions of every member, (M, N, …), as those of :meth:`Explainer.__call__`, with its arguments."""
        asked, named = bind.Asked.of(arguments)
        request = self.explainer._request(inputs, named, asked)
        return _stacked([request.attributions(chunks) for chunks in self._run(request.call)])

    @neutrally
    def explanation(self, *inputs: Any, **arguments: Any) -> EnsembleExplanation:
        """The explanations of every member, with their mean and spread; arguments as for calling."""
        request = self.explainer.request(*inputs, **arguments)
        found = tuple(request.explanation(chunks) for chunks in self._run(request.call))
        return EnsembleExplanation(found, _stacked([member.attributions for member in found]))

    @neutrally
    def predict(self, *inputs: Any, batch_size: int | None = None, **named: Any) -> Any:
        """f of every member, (M, N, …), of the type of the first input."""
        found = self.explainer._inputs(inputs, named)
        size = int(batch_size or found.plan.packages.batch_size)
        parts = [member.predict(found.arrays, found.count, size, True) for member in self._members]
        return _stacked([self.explainer._results(found).outputs(part, True) for part in parts])

    def losses(self, x: Any, y: Any, loss: Any = "cross_entropy") -> Any:
        """The mean loss of each member over the samples, (M,): float64, or a tensor that can be differentiated.

        x: the inputs, one array or a tuple. y: the targets, (N, …). loss: as for ``Influence.compile``, by name or
        value; of what the explainer explains, so that of a classifier it is of logits where the method takes these.
        A torch tensor x with ``requires_grad`` gives a tensor with derivatives.
        """
        value = losses.resolve(loss)
        if value is None:
            raise InputError("loss must be a name or a value of explainers.losses: apply a function to .predict(x)")
        program = self._members[0].program
        if losses.argument(program.graph, program.output, value) != program.output:
            raise InputError(
                f"{value.name!r} takes logits, and the explained output is squashed: compile with output= the layer of "
                "the logits"
            )
        inputs = x if isinstance(x, tuple) else (x,)
        attached = any(getattr(array, "requires_grad", False) for array in inputs)
        outputs = self._attached(inputs) if attached else self.predict(*inputs)
        ops = self._backend.ops
        packages = self._members[0]
        found = []
        for member in range(len(self)):
            f = outputs[member] if attached else self._stage(outputs[member], packages.mask_dtype)
            target = value.checked(bind.plain(y), packages.output_shape, packages.mask_host_dtype, int(f.shape[0]))
            kind = value.target(packages.output_shape, packages.mask_host_dtype)[1]
            mean = ops.total(value.value(ops, f, self._stage(target, kind))) / int(f.shape[0])
            found.append(mean)
        joined = ops.concat(found, 0)
        return joined if attached else self._backend.numpy(joined).astype(np.float64)

    def topk(self, x: Any, y: Any, k: Sequence[int] | int | None = None) -> Numpy:
        """The share of samples whose class is among the k largest outputs, of each member: (len(k), M), or (M,).

        y: classes, (N,). k: by default 1 and 5, or 1 alone of fewer classes.

        Raises
        ------
        InputError: no such k. TargetError: not one class of the output for each sample.
        """
        outputs = np.asarray(_on_host(self.predict(*(x if isinstance(x, tuple) else (x,)))))
        labels = np.asarray(bind.plain(y))
        classes = outputs.shape[-1] if outputs.ndim == 3 else 0
        k = ((1, 5) if classes >= 5 else (1,)) if k is None else k
        counts = [k] if isinstance(k, (int, np.integer)) else list(k)
        if outputs.ndim != 3 or labels.shape != outputs.shape[1:2] or labels.dtype.kind not in "iu":
            raise TargetError(f"topk needs outputs (N, classes) and one class for each sample; got {labels.shape}")
        if labels.size and (labels.min() < 0 or labels.max() >= classes):
            raise TargetError(f"classes are 0 … {classes - 1}; one is {labels[(labels < 0) | (labels >= classes)][0]}")
        whole = all(isinstance(each, (int, np.integer)) and not isinstance(each, bool) for each in counts)
        if not counts or not whole or not all(1 <= each <= classes for each in counts):
            raise InputError(f"k must be from 1 to {classes}, the number of classes; got {k!r}")
        own = np.take_along_axis(outputs, labels[None, :, None], 2)
        earlier = np.arange(classes) < labels[:, None]
        rank = ((outputs > own) | ((outputs == own) & earlier)).sum(axis=2)
        found = np.array([(rank < each).mean(axis=1) for each in counts])
        return found[0] if isinstance(k, (int, np.integer)) else found

    def save(self, *arguments: Any, **more: Any) -> None:
        """Not possible: save an explainer of each member.

        Raises
        ------
        ArtifactError
        """
        raise ArtifactError("an ensemble has no file form: compile and save an explainer for each member")

    def _attached(self, inputs: Sequence[Any]) -> list[Any]:
        """f of each member, from a kernel whose results can be differentiated."""
        packages = self._members[0]
        places = [packages.predictor.graph.inputs.index(value) for value in packages.predictor.inputs]
        found = []
        for member in self._members:
            kernel, own = self._shared.kernel(member, "predict", None, engine="eager"), member.arguments("predict")
            found.append(kernel(*(inputs[place] for place in places), *own)[0])
        return found

    def _stage(self, array: Any, dtype: str) -> Array:
        return self._members[0].to_device(array, dtype)

    # --- running -----------------------------------------------------------------------------

    def _run(self, call: Call) -> list[list[Chunk]]:
        """The results of each member. All runs go forward step by step, so that one kernel can serve a step of all."""
        if call.groups is not None:
            return [member.run(call) for member in self._members]
        steps = [member.steps(call) for member in self._members]
        found: dict[int, list[Chunk]] = {}
        results: dict[int, Results | None] = dict.fromkeys(range(len(steps)))
        while results:
            pieces: dict[int, Piece] = {}
            for member, own in results.items():
                step = steps[member]
                try:
                    pieces[member] = next(step) if own is None else step.send(own)
                except StopIteration as stop:
                    found[member] = stop.value
            while pieces:
                try:
                    results = dict(self._execute(pieces))
                    break
                except Exception as error:  # of memory: smaller pieces come; else it is raised again
                    pieces = {member: steps[member].throw(error) for member in pieces}
            else:
                results = {}
        return [found[member] for member in range(len(steps))]

    def _execute(self, pieces: dict[int, Piece]) -> dict[int, Results]:
        whole = self._whole
        some = len(pieces) < len(self) or len(self) == 1
        if whole is None or some or not _alike(self._backend, list(pieces.values())):
            return self._one_by_one(pieces)
        piece = pieces[0]
        count = piece.count if piece.rows is None else len(piece.rows.sample)
        if count > TRIED and self._backend.cache_bytes(whole.traced.device) is not None:
            return self._one_by_one(pieces)
        key = (piece.kind, piece.part, (count - 1).bit_length())
        faster = self._faster.get(key)
        if faster is None:
            try:
                faster = _faster(lambda: whole._execute(piece), lambda: self._one_by_one(pieces))
            except ExplainersError:  # an operation that cannot run so: one by one it can
                faster = False
            self._faster[key] = faster
        return self._together(piece, pieces) if faster else self._one_by_one(pieces)

    def _one_by_one(self, pieces: dict[int, Piece]) -> dict[int, Results]:
        return {member: self._members[member]._execute(piece) for member, piece in pieces.items()}

    def _together(self, piece: Piece, pieces: dict[int, Piece]) -> dict[int, Results]:
        assert self._whole is not None
        results = self._whole._execute(piece)
        return {member: tuple(array[member] for array in results) for member in pieces}

    def __repr__(self) -> str:
        return f"Ensemble of {len(self)} × {self.explainer!r}"


# --- kernels -----------------------------------------------------------------------------------------


class _Shared:
    """The kernels of all members, which take the weights as arguments."""

    def __init__(self, backend: Backend, traced: Traced, engine: str) -> None:
        self.backend, self.traced, self.engine = backend, traced, engine
        self.kernels: dict[Any, Kernel] = {}
        self.lock = threading.RLock()

    def weights(self, program: Any) -> tuple[Value, ...]:
        return number_weights(program.graph, self.traced.weights)

    def kernel(self, packages: Packages, part: str, rows: Size, models: int = 0, engine: str = "") -> Kernel:
        program = packages._whole._part(part)
        key = (part, rows, models, engine, type(program).__name__)
        with self.lock:
            if key not in self.kernels:
                own = WithWeights(program, self.weights(program), models)
                self.kernels[key] = self.backend.compile(own, self.traced, engine=engine or self.engine, rows=rows)
            return self.kernels[key]


class _Bound:
    """A kernel with its weights given."""

    def __init__(self, kernel: Kernel, weights: Sequence[Array]) -> None:
        self.native, self.weights = kernel, tuple(weights)

    def __call__(self, *arguments: Array) -> tuple[Array, ...]:
        results: tuple[Array, ...] = self.native(*arguments, *self.weights)
        return results

    def bind(self, weights: dict[Value, Array]) -> None:
        """Does nothing: members are made anew with other weights."""


class _Member(Packages):
    """The packages of one member."""

    shared: _Shared
    own: dict[Value, Array]

    @classmethod
    def of(cls, packages: Packages, shared: _Shared, weights: dict[Value, Array]) -> _Member:
        found: _Member = _copied(packages, cls)
        found.shared, found.own = shared, weights
        found.references = found._new_references()
        return found

    def arguments(self, part: str) -> list[Array]:
        return [self.own[value] for value in self.shared.weights(self._whole._part(part))]

    def _compiled(self, part: str, rows: Size) -> Kernel:
        return _Bound(self.shared.kernel(self, part, rows), self.arguments(part))


class _Whole(Packages):
    """The packages of all members at once: kernels' results have the members first."""

    shared: _Shared
    weights: list[dict[Value, Array]]

    @classmethod
    def of(cls, packages: Packages, shared: _Shared, weights: list[dict[Value, Array]]) -> _Whole:
        found: _Whole = _copied(packages, cls)
        found.shared, found.weights = shared, weights
        return found

    def _compiled(self, part: str, rows: Size) -> Kernel:
        ops = self.backend.ops
        needed = self.shared.weights(self._whole._part(part))
        stacked = [ops.concat([ops.insert_axis(own[value], 0) for own in self.weights], 0) for value in needed]
        return _Bound(self.shared.kernel(self, part, rows, len(self.weights)), stacked)


def _copied(packages: Packages, kind: type[Packages]) -> Any:
    found = copy.copy(packages)
    found.__class__ = kind
    found._kernels, found._lock = {}, threading.RLock()
    found.known_rows, found._designs = {}, {}
    found.last_rows = found.last_units = found._last_mask = found._fixed_tables = None
    return found


def _together(packages: Packages) -> bool:
    """Whether all members of an ensemble can run in one kernel."""
    if packages.prefix is not None or packages.static or type(packages.program) is not Program:
        return False
    graph, weights = packages.program.graph, packages.traced.weights
    tables = {value for value in weights if value.node in graph.by_name} - set(number_weights(graph, weights))
    return not tables and runs_together(graph)


def _alike(backend: Backend, pieces: Sequence[Piece]) -> bool:
    """Whether the members ask for the same rows, with the same targets: each may have another largest output."""
    first = pieces[0]
    mask = backend.numpy(first.staged.mask)
    if not all(np.array_equal(mask, backend.numpy(piece.staged.mask)) for piece in pieces[1:]):
        return False
    for piece in pieces[1:]:
        if (piece.kind, piece.part, piece.first, piece.last) != (first.kind, first.part, first.first, first.last):
            return False
        if (piece.rows is None) != (first.rows is None) or piece.activations:
            return False
        if piece.rows is not None and first.rows is not None and piece.rows is not first.rows:
            if not np.array_equal(piece.rows.sample, first.rows.sample):
                return False
            values = zip(piece.rows.values.values(), first.rows.values.values(), strict=True)
            if not all(np.array_equal(a, b) for a, b in values):
                return False
    return True


def _faster(one: Callable[[], Any], other: Callable[[], Any]) -> bool:
    """Whether ``one`` takes clearly less time than ``other``, measured in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for turn in range(WARM_RUNS + TIMED):
        for run, own in zip((one, other), times, strict=True):
            began = time.perf_counter()
            run()
            if turn >= WARM_RUNS:
                own.append(time.perf_counter() - began)
    return min(times[0]) < 0.95 * min(times[1])


# --- results of several members ----------------------------------------------------------------------


def _stacked(results: Sequence[Any]) -> Any:
    """Results of the same form as one, with the members first."""
    first = results[0]
    if isinstance(first, dict):
        return {name: _stacked([result[name] for result in results]) for name in first}
    if isinstance(first, tuple):
        return tuple(_stacked(parts) for parts in zip(*results, strict=True))
    home = owner(first)
    if home is None:
        return np.stack(list(results))
    return home.ops.concat([home.ops.insert_axis(result, 0) for result in results], 0)


def _on_host(array: Any) -> Any:
    home = owner(array)
    return array if home is None else on_host(home, array)


def _each(arrays: Any, function: Callable[[Any], Any]) -> Any:
    if isinstance(arrays, dict):
        return {name: function(array) for name, array in arrays.items()}
    return tuple(map(function, arrays)) if isinstance(arrays, tuple) else function(arrays)


def _parts(array: Any) -> Iterator[Any]:
    return (array[member] for member in range(int(array.shape[0])))


def _mean(array: Any) -> Any:
    return sum(_parts(array)) / int(array.shape[0])


def _spread(array: Any) -> Any:
    count, mean = int(array.shape[0]), _mean(array)
    squares = sum((part - mean) ** 2 for part in _parts(array))
    return (squares / (count - 1)) ** 0.5 if count > 1 else squares * float("nan")


def _agreement(array: Any) -> Any:
    home = owner(array)
    host = np.asarray(_on_host(array))
    share = (np.sign(host) == np.sign(host.mean(axis=0))).mean(axis=0).astype(host.dtype)
    return share if home is None else home.like(share, array)
