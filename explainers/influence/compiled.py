"""Influence: compiled once for a model and a loss, fitted to training data, called with tests and training samples."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from .. import losses, tables
from ..backend import Backend, Traced, device_name, find
from ..errors import ArtifactError, InputError, UnknownNameError, UnsupportedOperation
from ..explainer import bind, compiling, mixing
from ..explainer.plan import pick_output
from ..file import writing
from ..graph import Value
from ..losses import Loss, OutputLoss
from ..spec import Numpy, Signature, TensorSpec
from . import methods
from .coverage import Coverage
from .methods import InfluenceMethod, State
from .programs import Derivatives
from .running import Runner, Samples, Vectors
from .scores import Scores, check_memory
from .sites import Sites, chosen

FORM = "explainers influence 1"


class Influence:
    """The influence of training samples on the loss of test samples, compiled for one model and one loss.

    Made by :meth:`compile`; :meth:`fit` makes the function. It has a copy of the model's weights as they were then:
    training the model further changes nothing.
    """

    def __init__(
        self, run: Runner, method: InfluenceMethod, coverage: Coverage, target: str, recipe: tuple[Any, dict[str, Any]]
    ) -> None:
        self._run, self.method, self.coverage, self._target = run, method, coverage, target
        self._recipe = recipe  # the model and the arguments, for other processes

    @classmethod
    def compile(
        cls,
        model: Any,
        loss: Any = "cross_entropy",
        method: Any = "ekfac",
        *,
        inputs: Any = None,
        targets: Any = None,
        wrt: str | Sequence[str] | None = None,
        output: int | str | None = None,
        target: str = "target",
        backend: str | None = None,
        engine: str = "auto",
        device: Any = None,
        dtype: Any = None,
        batch_size: int | None = None,
    ) -> Influence:
        """Trace ``model`` once, with inputs and targets as placeholders.

        Parameters
        ----------
        model: a torch.nn.Module, torch.export.ExportedProgram, Keras model, tf.Module, tf.function or SavedModel.
        loss: ``"cross_entropy"``, ``"binary_cross_entropy"`` (both of logits: a softmax or sigmoid at the end is left
            out), ``"squared_error"`` (½·Σ (f − y)²), a value of :mod:`explainers.losses`, or a function
            ``loss(output, targets)`` of the framework's tensors that returns the loss of each sample, (N,). Of a
            function, the curvature is that of the empirical Fisher matrix. Losses of tokens are added up.
        method: a name or a value of :mod:`explainers.influence.methods`.
        inputs: example arrays or TensorSpecs, for a model that does not declare its inputs.
        targets: an example or a TensorSpec of the targets, (N, …), which a function as loss needs.
        wrt: names of the weights, of modules that they belong to, or patterns such as ``"layer4.*"``. Default: all that
            are trained (not frozen).
        output: which of several outputs the loss takes, by key or position.
        target: the name of the targets' column, in sources with columns.
        backend, engine, device, dtype: as for :meth:`Explainer.compile`.
        batch_size: samples in a batch; it does not change results.

        Raises
        ------
        UnknownNameError, InputError, TraceError, UnsupportedOperation, BackendMissing
        """
        known, kind, given = losses.resolve(loss), methods.resolve(method), model
        bind.checked_size(batch_size, ", or None")
        args, kwargs = bind.split(inputs)
        found = find(model, backend)
        engine = compiling.checked_engine(found, engine)
        if found.engines[engine]:
            raise InputError(f"influence needs an engine that takes any number of samples; {engine!r} pads them")
        if device is not None:
            device_name(found, device)
        if found.forward_only:
            raise UnsupportedOperation(
                f"influence needs the derivative of the model, and backend {found.name!r} only calls it: give the "
                "torch or TensorFlow model"
            )
        with found.neutral():
            model = found.opened(model)
            signature = tables.signature(found, model, args, kwargs)
            if signature is None:
                raise InputError("the model does not declare its inputs: give examples or TensorSpecs with inputs=")
            if wrt is not None and not list(wrt):
                raise InputError("wrt names no weight: leave it out for all that are trained")
            if signature.lengths:
                raise InputError(f"({signature}): influence needs all sizes but the batch's. Give them in inputs=")
            if known is None:
                model, signature = _followed(found, model, signature, loss, targets)
            kept = None if dtype is None else bind.dtype_name(dtype)
            for elementary in (False, True):  # recurrent layers, for example, only have derivatives taken apart
                traced = found.trace(model, signature, device=device, dtype=kept, elementary=elementary)
                names = found.parameters(model, traced)
                wanted = chosen(names, [wrt] if isinstance(wrt, str) else wrt)
                sites = _sites(found, traced, known or OutputLoss(), output, wanted)
                opaque = sites.opaque | _failing(found, traced, sites, known or OutputLoss(), engine)
                if not opaque:
                    break
            blocks = tuple(block for block in sites.blocks if block.weights[0] not in opaque)
            if not blocks:
                reasons = "; ".join(f"{wanted[v]}: {why}" for v, why in opaque.items())
                raise UnsupportedOperation(
                    f"no weight can be differentiated for each sample apart: {reasons or 'the output depends on none'}"
                )
            run = Runner(found, model, traced, sites, blocks, known or OutputLoss(), engine, batch_size)
            run.check_apart()
        sizes = {value: math.prod(int(size) for size in traced.weights[value].shape) for value in names}
        coverage = Coverage.of(sites, blocks, opaque, names, sizes)
        arguments = {
            "loss": loss, "method": kind, "inputs": inputs, "targets": targets, "wrt": wrt, "output": output,
            "target": target, "backend": found.name, "engine": engine, "device": device, "dtype": dtype,
            "batch_size": batch_size,
        }  # fmt: skip
        return cls(run, kind, coverage, target, (given, arguments))

    @property
    def signature(self) -> Signature:
        return self._run.traced.signature

    def samples(self, source: Any, what: str) -> Samples:
        return Samples(source, self._run.inputs, self._target, what)

    def fit(self, train: Any) -> FittedInfluence:
        """Find the curvature of the training samples.

        train: (inputs, targets), each (N, …), or anything whose samples can be read at any place and again: a dict or
        a dataset with columns, memory maps, zarr.

        Raises
        ------
        InputError: a source that can be read only once, other shapes. TargetError, NonFiniteError.
        """
        samples = self.samples(train, "training data")
        state = self.method.fit(self._run, samples)
        return FittedInfluence(self, self.method, state, samples, len(samples))

    def load(self, path: str | os.PathLike[str], train: Any = None) -> FittedInfluence:
        """What :meth:`FittedInfluence.save` wrote, for the same model.

        train: the training data, for methods that read it again.

        Raises
        ------
        ArtifactError: no such file, or of another model, loss or method.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(os.fspath(path), "numpy") as file:
                facts = json.loads((file.metadata() or {}).get("facts", "{}"))
                state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        except (OSError, SafetensorError, ValueError) as error:
            raise ArtifactError(f"{os.fspath(path)!r} cannot be read: {error}") from error
        expected = self._facts(self.method)
        for name, value in expected.items():
            if facts.get(name) != value:
                raise ArtifactError(
                    f"{os.fspath(path)!r} is not of this influence: its {name} is {str(facts.get(name))[:200]}, and "
                    f"here {str(value)[:200]}"
                )
        if not np.allclose(self._run.probe(), facts["probe"], rtol=1e-2):
            raise ArtifactError(f"{os.fspath(path)!r} is not of this influence: losses of random samples differ")
        samples = None if train is None else self.samples(train, "training data")
        if samples is not None and len(samples) != facts["samples"]:
            raise ArtifactError(f"it was fitted to {facts['samples']} samples; there are {len(samples)} now")
        method = replace(self.method, **facts["later"])  # type: ignore[type-var]
        return FittedInfluence(self, method, state, samples, int(facts["samples"]))

    def _chosen(self) -> list[str]:
        """The names of the weights in question, for other processes, where other ones may be trained."""
        return list(self._run.sites.names.values())

    def _facts(self, method: InfluenceMethod) -> dict[str, Any]:
        """What tells an influence from others: of another model, loss or method. Parameters of calls are left out."""
        run = self._run
        names = [field.name for field in fields(method) if field.init and field.repr]  # type: ignore[arg-type]
        fixed = {name: repr(getattr(method, name)) for name in names if name not in method.later}
        return {
            "format": FORM, "method": f"{method.name} {json.dumps(fixed)}{method.identity(run)}",
            "loss": str(run.loss), "groups of weights": [list(block.names) for block in run.blocks],
            "hash of all weights": run.hash(),
            "hash of the graph": hashlib.sha256(str(run.sites.graph).encode()).hexdigest(),
        }  # fmt: skip

    def __repr__(self) -> str:
        weights = sum(block.entries for block in self._run.blocks)
        return f"Influence({self.method}, {self._run.loss}, {weights:,} weights)"


@dataclass(frozen=True)
class Factors:
    """What the influences on some tests are computed from: (H + λ)⁻¹ times their derivatives, for most methods.

    vectors: for each group of weights (tests, weights).
    """

    vectors: Vectors

    def __len__(self) -> int:
        return len(self.vectors[0])


class FittedInfluence:
    """A function of tests and training samples: ``fitted(tests, trains)`` is (tests, trains).

    Positive: training on the sample lowers the loss of the test. To first order, the test's loss rises by the score,
    divided by the number of training samples, if the sample is left out.
    """

    def __init__(
        self, influence: Influence, method: InfluenceMethod, state: State, train: Samples | None, count: int
    ) -> None:
        self.influence, self.method, self.state, self.train, self.count = influence, method, state, train, count

    @property
    def _run(self) -> Runner:
        return self.influence._run

    @property
    def coverage(self) -> Coverage:
        return self.influence.coverage

    def _train(self) -> Samples | None:
        if self.method.keeps_samples and self.train is None:
            raise InputError(f"{self.method.name!r} reads the training samples again: give load() train=")
        return self.train

    def __call__(self, tests: Any, trains: Any = None) -> Numpy:
        """The influence of each training sample on the loss of each test, (tests, trains), float64.

        tests, trains: as for :meth:`Influence.fit`; without ``trains``, of the training data.

        Raises
        ------
        InputError: also where the result does not fit in memory: :meth:`lazy` has no such limit.
        """
        return self.lazy(tests, trains).compute()

    def lazy(self, tests: Any, trains: Any = None, *, chunks: tuple[int, int] | None = None) -> Scores:
        """The influences, which nothing is computed of yet; see :class:`Scores`.

        chunks: tests and training samples of a block; by default what fits in some hundred megabytes.
        """
        return Scores(self, self._samples(tests, "tests"), self._trains(trains), chunks)

    def _samples(self, source: Any, what: str) -> Samples:
        return source if isinstance(source, Samples) else self.influence.samples(source, what)

    def _trains(self, trains: Any) -> Samples:
        if trains is not None:
            return self._samples(trains, "training samples")
        if self.train is None:
            raise InputError("give the training samples: this was loaded without them")
        return self.train

    def factors(self, tests: Any) -> Factors:
        """What the influences on these tests are computed from, for :meth:`from_factors`."""
        samples = self._samples(tests, "tests")
        return Factors(self._vectors(samples, (0, len(samples))))

    def from_factors(self, factors: Factors, trains: Any = None) -> Numpy:
        """The influences on the tests of ``factors``, (tests, trains)."""
        samples = self._trains(trains)
        return self._scores(factors.vectors, samples, (0, len(samples)))

    def _vectors(self, tests: Samples, span: tuple[int, int]) -> Vectors:
        return self.method.factors(self._run, self.state, tests, span, self._train())

    def _scores(self, vectors: Vectors, trains: Samples, span: tuple[int, int]) -> Numpy:
        return self.method.scores(self._run, self.state, vectors, trains, span)

    def self_influence(self, trains: Any = None) -> Numpy:
        """The influence of each sample on itself, (N,): large where the model has learnt a sample by heart."""
        return self.method.self_influence(self._run, self.state, self._trains(trains), self._train())

    def perturbation(self, tests: Any, trains: Any = None) -> Numpy | tuple[Numpy, ...]:
        """The derivative of each influence towards the training sample's input, (tests, trains, …) as the input.

        Moving the input of a training sample along it raises its influence: it would lower the test's loss more
        (Koh and Liang 2017, eq. 5, with the sign of our scores and without 1/n). It costs a second derivative of all
        training samples for each test.

        Returns
        -------
        An array of the input's dtype; a tuple for models of several floating inputs.

        Raises
        ------
        UnsupportedOperation: no input is floating, or the scores are cosines. InputError: it does not fit in memory.
        """
        samples, others = self._samples(tests, "tests"), self._trains(trains)
        specs = [spec for spec in self._run.inputs.inputs if spec.floating]
        if not specs:
            raise UnsupportedOperation(
                f"the inputs ({self._run.inputs}) are whole numbers, which cannot change a little"
            )
        shape = len(samples), len(others)
        numbers = math.prod(shape) * sum(math.prod(spec.sample_shape) for spec in specs)
        what = f"the derivatives of {shape[0]:,} × {shape[1]:,} scores"
        check_memory(8 * numbers, what, "give fewer tests or training samples at once")
        found = self.method.perturbations(self._run, self.state, samples, others, self._train())
        return found[0] if len(found) == 1 else tuple(found)

    def losses(self, samples: Any) -> Numpy:
        """The loss of each sample, (N,)."""
        return self._run.losses(self._samples(samples, "samples"))

    def replace(self, **changes: Any) -> FittedInfluence:
        """The same with other parameters of the method that do not need another fit: ``damping``, ``tolerance`` …"""
        for name in changes:
            if name not in self.method.later:
                if not self.method.later:
                    raise InputError(f"no parameter of {self.method.name!r} can change after the fit: fit it anew")
                raise UnknownNameError.among(
                    "parameter",
                    name,
                    self.method.later,
                    where=f" of {self.method.name!r}, changeable after the fit",
                )
        method = replace(self.method, **changes)  # type: ignore[type-var]
        state = dict(self.state)
        for name, value in changes.items():
            if name in state:  # found by the fit where it was not given
                if value is None:
                    raise InputError(f"{name} was found by the fit, and None would keep it: give a number, or fit anew")
                state[name] = np.broadcast_to(np.float64(value), state[name].shape).copy()
        return FittedInfluence(self.influence, method, state, self.train, self.count)

    def __repr__(self) -> str:
        return f"Fitted{self.influence!r} to {self.count:,} samples"

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the fitted arrays to a safetensors file, whole or not at all; :meth:`Influence.load` reads it."""
        from safetensors.numpy import save

        later = {name: getattr(self.method, name) for name in self.method.later}
        probe = self._run.probe().tolist()
        facts = {**self.influence._facts(self.method), "samples": self.count, "later": later, "probe": probe}
        arrays = {name: np.array(array, order="C") for name, array in self.state.items()} or {"none": np.zeros(0)}
        with writing.replacing(Path(path)) as file:
            file.write(save(arrays, {"facts": json.dumps(facts)}))


def _followed(backend: Backend, model: Any, signature: Signature, loss: Any, targets: Any) -> tuple[Any, Signature]:
    """The model that computes a loss given as a function, with the targets as a further input."""
    if targets is None:
        raise InputError("a function as loss needs targets=, an example or a TensorSpec of the targets, (N, …)")
    spec = targets
    if not isinstance(targets, TensorSpec):
        array = bind.to_numpy(targets, "targets")
        kind = bind.dtype_name(getattr(targets, "dtype", array.dtype))
        spec = TensorSpec((None, *array.shape[1:]), kind, "target")
    name = "target"
    while name in signature.names:
        name += "_"
    inputs = (*signature.inputs, replace(spec, name=name))
    flat = replace(signature, inputs=inputs, positional=len(inputs), arguments=())
    return backend.followed(model, signature, loss), flat


def _failing(backend: Backend, traced: Traced, sites: Sites, loss: Loss, engine: str) -> dict[Value, str]:
    """The weights with operations that the framework cannot differentiate for each sample apart, with the reason."""
    found = {}
    for block in filter(sites.general, sites.blocks):
        try:
            backend.compile(Derivatives(sites, (block,), loss), traced, engine=engine, rows=None)
        except Exception as error:  # each framework has its own
            reason = (str(error).splitlines() or [""])[-1][:200]
            found[block.weights[0]] = f"{block.uses[0].node.op} cannot be differentiated for each sample: {reason}"
    return found


def _sites(backend: Backend, traced: Traced, loss: Loss, output: Any, names: Mapping[Value, str]) -> Sites:
    """The uses of the weights ``names`` on the way to what the loss takes, which is checked."""
    key, value = pick_output(traced.graph, output)
    value = losses.argument(traced.graph, value, loss)
    graph = traced.graph.restrict([(key, value)])
    kind = graph.output(value)
    if isinstance(loss, OutputLoss) and kind.shape != (None,):
        raise InputError(
            f"the loss must be one number for each sample, (N,), and is {kind}: do not average over samples"
        )
    if not kind.floating or kind.batch_axis != 0 or None in kind.shape[1:]:
        raise InputError(f"output {key!r} is {kind}; a loss needs floating-point numbers with the samples first")
    mixing.check(graph, traced, backend, derivative=True)
    return Sites(graph, value, names)
