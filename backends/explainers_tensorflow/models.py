"""The kinds of TensorFlow model: the inputs of each, and calling it in inference mode with flat tensors."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from explainers.backend import Change
from explainers.errors import InputError, TraceError
from explainers.spec import Signature, TensorSpec

Leaf = tuple[str, Any]  # dotted path in the arguments, leaf


def kind(model: Any) -> str | None:
    """``keras``, ``saved``, ``concrete``, ``function``, ``module``; None if it is no model."""
    keras = sys.modules.get("keras")
    if keras is not None and hasattr(keras, "layers") and isinstance(model, keras.layers.Layer):
        return "keras" if keras.backend.backend() == "tensorflow" else None
    if isinstance(model, tf.types.experimental.ConcreteFunction):
        return "concrete"
    if isinstance(model, tf.types.experimental.PolymorphicFunction):
        return "function"
    if hasattr(model, "signatures") and isinstance(model, tf.__internal__.tracking.AutoTrackable):
        return "saved"
    return "module" if isinstance(model, tf.Module) and callable(model) else None


def opened(model: Any) -> Any:
    """``model`` itself; for a file or folder, the model saved there."""
    if not isinstance(model, (str, os.PathLike)):
        return model
    if os.path.isdir(model):
        return tf.saved_model.load(os.fspath(model))
    import keras

    return keras.saving.load_model(model)


def endpoint(saved: Any) -> Any:
    """The concrete function of a SavedModel: its serving signature, or its ``__call__``."""
    names = sorted(saved.signatures)
    for name in ("serving_default", "serve", *names[: len(names) == 1]):
        if name in saved.signatures:
            return saved.signatures[name]
    if names:
        raise InputError(f"the SavedModel has the signatures {names} and none called 'serving_default'. Load it with "
                         "tf.saved_model.load and give the one to explain, loaded.signatures[name].")  # fmt: skip
    if not callable(saved):
        raise InputError(
            "the SavedModel has no signature and no __call__. Save it with signatures=, or model.export()."
        )
    concrete: Sequence[Any] = getattr(saved.__call__, "concrete_functions", ())
    return concrete[0] if len(concrete) == 1 else saved


# --- signature -------------------------------------------------------------------------------


def signature(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Signature | None:
    """Specs from the model if it declares them, with sizes and dtypes from examples if given."""
    target = model
    own = template(target)
    if own is not None:
        leaves = [leaf for leaf in walk(own) if isinstance(leaf[1], tf.TensorSpec)]
        names = _names(leaves)
        positional = sum(path.startswith("0.") for path, _ in leaves)
        if not args and not kwargs:
            specs = [_own_spec(spec, name) for (_, spec), name in zip(leaves, names, strict=True)]
            return Signature(tuple(specs), positional)
        given = _matched(names, args, kwargs)
        specs = [_spec(a, n, s.dtype) for a, n, (_, s) in zip(given, names, leaves, strict=True)]
        for spec, (_, known) in zip(specs, leaves, strict=True):
            if not known.shape.is_compatible_with(spec.shape):
                expected = ("N", *known.shape[1:])
                raise InputError(
                    f"input {spec.name!r} has shape {('N', *spec.sample_shape)}, the model takes {expected}"
                )
        return Signature(tuple(specs), positional)
    if not args and not kwargs:
        return None
    leaves = list(_example_leaves(target, args, kwargs))
    floating = _model_dtype(target)
    positional = len([value for _, value in walk(tuple(args))])
    return Signature(tuple(_spec(value, name, floating) for name, value in leaves), positional)


def template(model: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """The model's arguments with ``tf.TensorSpec`` in place of tensors, if the model declares them."""
    what = kind(model)
    if what == "keras":
        return _keras_template(model)
    if what == "saved":
        model = endpoint(model)
        what = kind(model)
    if what == "concrete":
        args, named = model.structured_input_signature
        return args, dict(named)
    function = model if what == "function" else getattr(model, "__call__", None)  # noqa: B004 - the tf.function itself
    specs = getattr(function, "input_signature", None)
    if function is None or specs is None:
        return None
    parameters = [p for p in inspect.signature(function.python_function).parameters if p != "self"]
    return tuple(tf.nest.map_structure(_named(p), s) for p, s in zip(parameters, specs, strict=False)), {}


def _named(parameter: str) -> Callable[[Any], Any]:
    def named(spec: Any) -> Any:
        return (
            tf.TensorSpec(spec.shape, spec.dtype, spec.name or parameter) if isinstance(spec, tf.TensorSpec) else spec
        )

    return named


def _keras_template(model: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    struct = getattr(model, "_inputs_struct", None)
    if struct is None and getattr(model, "inputs", None):  # a Sequential
        struct = model.inputs[0] if len(model.inputs) == 1 else model.inputs
    if struct is None:
        return None
    from keras import tree

    return (tree.map_structure(lambda t: tf.TensorSpec(t.shape, t.dtype, t.name), struct),), {}


def walk(structure: Any, path: tuple[str, ...] = ()) -> Iterator[Leaf]:
    """Every leaf of nested tuples, lists and dicts with its dotted path."""
    if isinstance(structure, Mapping):
        for key, value in structure.items():
            yield from walk(value, (*path, str(key)))
    elif isinstance(structure, (tuple, list)):
        for place, value in enumerate(structure):
            yield from walk(value, (*path, str(place)))
    elif structure is not None:
        yield ".".join(path), structure


def _names(leaves: Sequence[Leaf]) -> list[str]:
    """The specs' own names if these are distinct, else the last parts of their paths, else the paths."""
    for names in ([spec.name for _, spec in leaves], [path.rpartition(".")[2] for path, _ in leaves]):
        if all(names) and len(set(names)) == len(names):
            return names
    return [path for path, _ in leaves]


def _own_spec(spec: tf.TensorSpec, name: str) -> TensorSpec:
    if spec.shape.rank is None:
        raise InputError(f"the model takes {name!r} in any shape: give an example, or a TensorSpec with the sizes")
    return TensorSpec((None, *spec.shape[1:]) if spec.shape.rank else (), spec.dtype.name, name)


def _matched(names: Sequence[str], args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """The examples in the order of ``names``; a single list or dict may hold all of them."""
    if len(args) == 1 and not kwargs and isinstance(args[0], Mapping):
        args, kwargs = [], args[0]
    if len(args) == 1 and not kwargs and isinstance(args[0], (list, tuple)) and len(names) > 1:
        args = args[0]
    specs = tuple(TensorSpec((None,), "float32", name) for name in names)
    return Signature(specs, len(specs)).bind(args, dict(kwargs))


def _example_leaves(model: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Leaf]:
    """Examples under the names of the model's own parameters; nested ones as ``inputs.key``."""
    function = _python_function(model)
    try:
        bound = inspect.signature(function).bind(*args, **kwargs)
    except TypeError as error:
        raise InputError(f"{type(model).__name__}{inspect.signature(function)}: {error}") from error
    leaves: list[Leaf] = []
    for name, value in bound.arguments.items():
        parameter = bound.signature.parameters[name].kind
        if parameter is inspect.Parameter.VAR_POSITIONAL:
            value = {f"{name}_{place}": entry for place, entry in enumerate(value)}
        elif parameter is not inspect.Parameter.VAR_KEYWORD:
            value = {name: value}
        leaves += walk(value)
    return leaves


def _python_function(model: Any) -> Any:
    what = kind(model)
    if what == "function":
        return model.python_function
    function = model.call if what == "keras" else model.__call__
    return getattr(function, "python_function", function)


def _spec(value: Any, name: str, floating: Any) -> TensorSpec:
    """The spec of an example. ``floating``: the model's dtype, used for its floating-point inputs."""
    if isinstance(value, TensorSpec):
        return TensorSpec(value.shape, value.dtype, name)
    if isinstance(value, (tf.Tensor, tf.Variable, tf.TensorSpec)):
        dtype, shape = value.dtype, tuple(value.shape)
    else:
        array = np.asarray(value)
        kind = array.dtype.kind
        words = kind in "US" or (kind == "O" and all(isinstance(each, (str, bytes)) for each in array.flat))
        if kind not in "fiub" and not words:
            raise InputError(f"input {name!r} of type {type(value).__name__} is not an array of numbers or of words")
        dtype, shape = tf.string if words else tf.as_dtype(array.dtype), array.shape
    if not shape:
        raise InputError(f"input {name!r} is a single number; inputs have the batch as their first axis")
    if floating is not None and (dtype.is_floating and floating.is_floating):
        dtype = floating
    return TensorSpec((None, *shape[1:]), dtype.name, name)


def _model_dtype(model: Any) -> tf.DType | None:
    """The dtype of the model's floating variables, which its floating inputs share."""
    kinds = (tf.as_dtype(v.dtype) for v in getattr(model, "variables", ()))
    return next((dtype for dtype in kinds if dtype.is_floating), None)


# --- calling ---------------------------------------------------------------------------------


def caller(model: Any, sig: Signature) -> Callable[..., Any]:
    """The model in inference mode as a function of flat tensors in the order of ``sig``."""
    what = kind(model)
    if what == "saved":
        model = endpoint(model)
        what = kind(model)
    own = template(model)
    target: Any = model
    extra: dict[str, Any] = {}
    if what == "keras":
        target, extra = _keras_call(model)

    def call(*tensors: Any) -> Any:
        if own is None:
            args, named = _rebuilt(sig, tensors)
        else:
            args, named = _filled(own, iter(tensors))
        return target(*args, **named, **extra)

    return call


def preceded(model: Any, sig: Signature, change: Change) -> Any:
    """x ↦ model(change(x)) of flat tensors in the order of ``sig``, as a ``tf.function``."""
    call = caller(model, sig)
    return tf.function(lambda *tensors: call(*change(tensors)), autograph=False)


def followed(model: Any, sig: Signature, loss: Callable[[Any, Any], Any]) -> Any:
    """(x, y) ↦ loss(model(x), y) of flat tensors in the order of ``sig``, and y, as a ``tf.function``."""
    call = caller(model, sig)

    def run(*tensors: Any) -> Any:
        result = call(*tensors[:-1])
        if isinstance(result, (list, tuple)) and len(result) == 1:
            (result,) = result
        return loss(result, tensors[-1])

    made = tf.function(run, autograph=False)
    made.followed = model
    return made


def weights_of(model: Any, other: Any, weights: Mapping[Any, Any]) -> dict[Any, Any]:
    """The weights of another Keras model of the same architecture, or a state of it, for a trace of ``model``.

    A state is a list as of ``get_weights``, or a mapping from the variables' paths.
    """
    if kind(model) != "keras":
        raise InputError("ensembles of TensorFlow are of Keras models: compile an explainer for each of the others")
    own = list(model.variables)
    if kind(other) == "keras":
        if type(other) is not type(model) or _structure(other) != _structure(model):
            raise InputError(
                f"the models are not of one architecture: {model.name!r} and {other.name!r} differ in their layers. "
                "Compile an explainer for each"
            )
        values = [variable.value for variable in other.variables]
    elif isinstance(other, Mapping):
        missing = [variable.path for variable in own if variable.path not in other]
        if missing:
            raise InputError(f"a state lacks the weights {missing[:4]}; it has {list(other)[:4]}")
        values = [other[variable.path] for variable in own]
    elif isinstance(other, (list, tuple)):
        if len(other) != len(model.weights):
            raise InputError(f"a state has {len(other)} arrays, and the model {len(model.weights)} weights")
        by_id = {id(variable): array for variable, array in zip(model.weights, other, strict=True)}
        values = [by_id.get(id(variable), variable.value) for variable in own]
    else:
        raise InputError(
            f"a state is a list as of get_weights(), or a mapping from names to arrays; got {type(other).__name__}"
        )
    places = {id(getattr(variable, "value", variable)): place for place, variable in enumerate(own)}
    found = {}
    for value, weight in weights.items():
        if hasattr(weight, "resource_handle"):
            found[value] = weight  # a table of words
            continue
        if id(weight) not in places:
            raise InputError(f"variable {value.node!r} is none of the model's own variables, so that no state has it")
        place = places[id(weight)]
        array = tf.convert_to_tensor(values[place], weight.dtype)
        if array.shape != weight.shape:
            raise InputError(f"weight {own[place].path!r} has shape {array.shape}, and the model's {weight.shape}")
        found[value] = array
    return found


def _structure(model: Any) -> Any:
    """The layers' settings, without their names."""

    def plain(config: Any) -> Any:
        if isinstance(config, Mapping):
            skip = ("name", "inbound_nodes", "input_layers", "output_layers", "build_config", "keras_history")
            return {key: plain(part) for key, part in config.items() if key not in skip}
        return [plain(part) for part in config] if isinstance(config, (list, tuple)) else str(config)

    return [(type(layer).__name__, plain(layer.get_config())) for layer in model._flatten_layers(include_self=False)]


def _filled(structure: Any, tensors: Iterator[Any]) -> Any:
    """``structure`` with its specs replaced, in order, by tensors."""
    if isinstance(structure, Mapping):
        return {key: _filled(value, tensors) for key, value in structure.items()}
    if isinstance(structure, (tuple, list)):
        parts = [_filled(value, tensors) for value in structure]
        return parts if isinstance(structure, list) else tuple(parts)
    return next(tensors) if isinstance(structure, tf.TensorSpec) else structure


def _rebuilt(sig: Signature, tensors: Sequence[Any]) -> tuple[list[Any], dict[str, Any]]:
    """Arguments from dotted names: ``inputs.a`` is entry ``a`` of the parameter ``inputs``."""
    nested: dict[str, Any] = {}
    for name, tensor in zip(sig.names, tensors, strict=True):
        *outer, last = name.split(".")
        here = nested
        for part in outer:
            here = here.setdefault(part, {})
        here[last] = tensor
    heads = list(dict.fromkeys(name.partition(".")[0] for name in sig.names[: sig.positional]))
    args = [_listed(nested.pop(head)) for head in heads]
    return args, {name: _listed(value) for name, value in nested.items()}


def _listed(structure: Any) -> Any:
    if not isinstance(structure, dict):
        return structure
    parts = {key: _listed(value) for key, value in structure.items()}
    return list(parts.values()) if all(key.isdigit() for key in parts) else parts


def _keras_call(model: Any) -> tuple[Callable[..., Any], dict[str, Any]]:
    if not model.built:
        raise InputError(f"the Keras model {model.name!r} is not built, so it has no weights yet: call it once on data")
    parameters = inspect.signature(model.call).parameters.values()
    takes = any(p.name == "training" or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return model, {"training": False} if takes or hasattr(model, "layers") else {}


def output_tensors(result: Any) -> list[tuple[str, Any]]:
    """The tensors that a model returned, each with its key: ``"0"``, ``"logits"``, ``"a.0"``."""
    if hasattr(result, "__dataclass_fields__"):
        result = {name: getattr(result, name) for name in result.__dataclass_fields__}
    elif hasattr(result, "_asdict"):
        result = result._asdict()
    pairs = []
    for key, leaf in walk(result):
        if isinstance(leaf, (tf.SparseTensor, tf.RaggedTensor)):
            raise TraceError(
                f"output {key!r} of the model is a {type(leaf).__name__}; return a dense tensor, to_dense()"
            )
        if isinstance(leaf, (tf.Tensor, tf.Variable)) or hasattr(leaf, "__array__"):
            pairs.append((key or "0", tf.convert_to_tensor(leaf)))
    if not pairs:
        raise TraceError("the model returns no tensor")
    return pairs
