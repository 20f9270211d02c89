"""Expressions of sizes as nodes of a graph."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from functools import reduce
from typing import Any

import sympy  # type: ignore[import-untyped]
import torch
from torch import fx
from torch.utils._sympy import functions as forms

from explainers.errors import TraceError

_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    sympy.Add: operator.add, sympy.Mul: operator.mul, forms.FloorDiv: operator.floordiv,
    forms.CleanDiv: operator.floordiv, forms.IntTrueDiv: operator.truediv, forms.FloatTrueDiv: operator.truediv,
    forms.Mod: operator.mod, forms.PythonMod: operator.mod, sympy.Mod: operator.mod, forms.FloatPow: operator.pow,
    forms.Max: torch.sym_max, forms.Min: torch.sym_min, sympy.Max: torch.sym_max, sympy.Min: torch.sym_min,
    forms.ToFloat: torch.sym_float, forms.TruncToInt: math.trunc, forms.FloorToInt: math.floor,
    forms.CeilToInt: math.ceil, forms.RoundToInt: round, forms.OpaqueUnaryFn_sqrt: math.sqrt,
    sympy.Eq: operator.eq, sympy.Ne: operator.ne, sympy.Lt: operator.lt, sympy.Le: operator.le, sympy.Gt: operator.gt,
    sympy.Ge: operator.ge, sympy.Not: torch.sym_not, sympy.And: operator.and_, sympy.Or: operator.or_,
}  # fmt: skip


def written(expression: Any, graph: fx.Graph, known: dict[Any, Any]) -> Any:
    """A node that computes the expression, or a number. ``known``: the nodes of symbols, and of what was written.

    Raises
    ------
    TraceError: an expression with a function that is not listed here.
    """
    if expression in known:
        return known[expression]
    if expression.is_number or expression in (sympy.true, sympy.false):
        number = int if expression.is_Integer else bool if expression.is_Boolean else float
        return number(expression)
    power = expression.func in (sympy.Pow, forms.PowByNatural)
    if power and expression.args[1].is_Integer and expression.args[1] > 0:
        base = written(expression.args[0], graph, known)  # a power of two integers is a float in TorchScript
        made = reduce(lambda a, b: graph.call_function(operator.mul, (a, b)), [base] * int(expression.args[1]))
    else:
        function = _FUNCTIONS.get(expression.func)
        if function is None:
            raise TraceError(
                f"the model computes a size in a way that cannot be followed: {expression}. Write it with +, -, *, //, "
                "% and the like."
            )
        args = [written(part, graph, known) for part in expression.args]
        if len(args) > 2:
            made = reduce(lambda a, b: graph.call_function(function, (a, b)), args)
        else:
            made = graph.call_function(function, tuple(args))
    known[expression] = made
    return made
