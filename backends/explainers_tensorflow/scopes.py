"""Names of layers recovered from TensorFlow's scopes: for saved models, functions, modules.

TensorFlow renames a scope that was used before: ``dense_3_1`` may be a layer of that name or another call
of ``dense_3``. Variables that are read inside a scope keep the layer's own name, which is used if there are
any. Otherwise the scope's name gets a question mark (``flatten_1?``), so that it is not mistaken for another
layer's name.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import tensorflow as tf

from .flatten import FlatGraph, Modules


def numbered(path: str, call: int) -> str:
    """``path@1`` for the second call of the layer at ``path``."""
    return f"{path}@{call}" if call else path


def drop_model(flat: FlatGraph) -> None:
    """Remove the model's own name from the layers' paths if everything is inside it."""
    origin = flat.graph.origin
    inside = [modules for _, modules in origin.values() if modules]
    heads = {modules[0] for modules in inside}
    if len(heads) == 1 and any(len(modules) > 1 for modules in inside):
        prefix = f"{heads.pop()}."
        for name, (op, modules) in origin.items():
            origin[name] = op, tuple(module.removeprefix(prefix) for module in modules[1:])


def settle(flat: FlatGraph) -> None:
    """Give each layer its own name, as far as known, and number its calls."""
    variable_names = _variable_names(flat)
    calls: dict[str, list[str]] = {}
    for name, (op, modules) in flat.graph.origin.items():
        module_paths: list[str] = []
        path = ""
        for module, (scope, part) in zip(modules, _parts(modules), strict=True):
            own = _own_name(part, variable_names.get(scope, set()))
            path = f"{path}.{own}" if path else own
            modules_at_path = calls.setdefault(path, [])
            if module not in modules_at_path:
                modules_at_path.append(module)
            module_paths.append(numbered(path, modules_at_path.index(module)))
        flat.graph.origin[name] = op, tuple(module_paths)


def _parts(modules: Modules) -> Iterator[tuple[str, str]]:
    """The path of each scope without call numbers, and its last part."""
    outer = ""
    for module in modules:
        scope = module.partition("@")[0]
        yield scope, scope.removeprefix(f"{outer}.")
        outer = scope


def _own_name(part: str, variable_names: set[str]) -> str:
    if not re.search(r"_\d+$", part):
        return part  # TensorFlow renames only by appending a number
    return next(iter(variable_names)) if len(variable_names) == 1 else f"{part}?"


def _variable_names(flat: FlatGraph) -> dict[str, set[str]]:
    """For each scope, its names according to the variables read inside, from the innermost scope outwards."""
    names_by_scope: dict[str, set[str]] = {}
    for op in flat.graph.get_operations():
        for tensor in op.inputs:
            variable = flat.weights.get(tensor.op.name)
            if not isinstance(variable, tf.Variable):
                continue
            names = variable.name.partition(":")[0].split("/")[:-1]
            scopes = list(_parts(flat.graph.origin[op.name][1]))
            while scopes and names and not _may_be(scopes[-1][1], names[-1]):
                scopes.pop()
            for (scope, part), name in zip(reversed(scopes), reversed(names), strict=False):
                if not _may_be(part, name):
                    break
                names_by_scope.setdefault(scope, set()).add(name)
    return names_by_scope


def _may_be(part: str, name: str) -> bool:
    return re.fullmatch(re.escape(name) + r"(_\d+)?", part) is not None
