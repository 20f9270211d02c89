"""``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` as one operation each, with a backward that loops over the steps.

torch.export and autograd unroll these layers step by step, so that a graph grows with the length of its sequences.
Here a layer stays one operation for any length: the framework's own if only outputs are needed, and one that saves
the values for its backward if derivatives are. The functions are also valid TorchScript: files hold them as code that
needs nothing of this library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# --- one layer in one direction, time first --------------------------------------------------
#
# ``…_steps`` returns the hidden states of all steps, (T, N, H), the last states, and what the backward needs.
# ``…_back`` returns gradients at the inputs of all steps and at the first states, from those at all hidden states
# (``messages``) and at the last ones. Terms that do not depend on other steps are computed for all steps at once.


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.nn.functional.linear(x, weight, bias)


def _lstm_steps(
    x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor], biases: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Kept: the gates before their activations, (T, N, 4H), and the cells, (T + 1, N, H), the initial one first."""
    projected = len(weights) % 2 == 1
    part = _linear(x, weights[0], weights[2] + weights[3] if biases else None)
    turned = weights[1].t()
    size = c.shape[1]
    hidden: list[Tensor] = []
    gates: list[Tensor] = []
    cells = [c]
    for at_input in part.unbind(0):
        gate = torch.addmm(at_input, h, turned)
        i_f, g, o = gate.split([2 * size, size, size], 1)
        i, f = i_f.sigmoid().chunk(2, 1)
        c = torch.addcmul(f * c, i, g.tanh())
        h = o.sigmoid() * c.tanh()
        if projected:
            h = torch.mm(h, weights[-1].t())
        hidden.append(h)
        gates.append(gate)
        cells.append(c)
    return torch.stack(hidden), [h, c], [torch.stack(gates), torch.stack(cells)]


def _lstm_back(
    messages: Tensor, at_h: Tensor, at_c: Tensor, weights: list[Tensor], kept: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    projected = len(weights) % 2 == 1
    i, f, g, o = kept[0].chunk(4, 2)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    bent = kept[1][1:].tanh()
    slopes = torch.cat([g * i * (1 - i), kept[1][:-1] * f * (1 - f), i * (1 - g * g), bent * o * (1 - o)], 2).unbind(0)
    through, forgotten, arriving = (o * (1 - bent * bent)).unbind(0), f.unbind(0), messages.unbind(0)
    parts: list[Tensor] = []
    for k in range(len(slopes)):
        t = len(slopes) - 1 - k
        at_h = at_h + arriving[t]
        at_y = torch.mm(at_h, weights[-1]) if projected else at_h
        at_c = torch.addcmul(at_c, at_y, through[t])
        part = torch.cat([at_c, at_c, at_c, at_y], 1) * slopes[t]
        at_h = torch.mm(part, weights[1])
        at_c = at_c * forgotten[t]
        parts.append(part)
    parts.reverse()
    return torch.matmul(torch.stack(parts), weights[0]), [at_h, at_c]


def _gru_steps(x: Tensor, h: Tensor, weights: list[Tensor], biases: bool) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Kept: r and z, (T, N, 2H); n; the contribution of the states to n; the states before each step."""
    part = _linear(x, weights[0], weights[2] if biases else None)
    size = h.shape[1]
    before: list[Tensor] = []
    r_z: list[Tensor] = []
    news: list[Tensor] = []
    states: list[Tensor] = []
    hidden: list[Tensor] = []
    for at_input in part.unbind(0):
        x_rz, x_n = at_input.split([2 * size, size], 1)
        h_rz, h_n = _linear(h, weights[1], weights[3] if biases else None).split([2 * size, size], 1)
        both = (x_rz + h_rz).sigmoid()
        r, z = both.chunk(2, 1)
        n = torch.addcmul(x_n, r, h_n).tanh()
        before.append(h)
        h = torch.addcmul(n, z, h - n)
        r_z.append(both)
        news.append(n)
        states.append(h_n)
        hidden.append(h)
    kept = [torch.stack(r_z), torch.stack(news), torch.stack(states), torch.stack(before)]
    return torch.stack(hidden), [h], kept


def _gru_back(messages: Tensor, at_h: Tensor, weights: list[Tensor], kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    r, z = kept[0].chunk(2, 2)
    n, states, before = kept[1], kept[2], kept[3]
    at_n = (1 - z) * (1 - n * n)
    at_rz = torch.cat([at_n * states * r * (1 - r), (before - n) * z * (1 - z)], 2)
    slopes, passed, arriving = torch.cat([at_rz, at_n * r], 2).unbind(0), z.unbind(0), messages.unbind(0)
    arrived: list[Tensor] = []
    for k in range(len(slopes)):
        t = len(slopes) - 1 - k
        at_h = at_h + arriving[t]
        arrived.append(at_h)
        at_h = torch.addmm(at_h * passed[t], torch.cat([at_h, at_h, at_h], 1) * slopes[t], weights[1])
    arrived.reverse()
    all_h = torch.stack(arrived)
    return torch.matmul(torch.cat([all_h, all_h, all_h], 2) * torch.cat([at_rz, at_n], 2), weights[0]), [at_h]


def _rnn_steps(
    x: Tensor, h: Tensor, weights: list[Tensor], biases: bool, relu: bool
) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Kept: the slopes of the activation at each step. Not the hidden states: outputs must not share memory."""
    part = _linear(x, weights[0], weights[2] + weights[3] if biases else None)
    turned = weights[1].t()
    hidden: list[Tensor] = []
    for at_input in part.unbind(0):
        total = torch.addmm(at_input, h, turned)
        h = total.relu() if relu else total.tanh()
        hidden.append(h)
    y = torch.stack(hidden)
    return y, [h], [(y > 0).to(y.dtype) if relu else 1 - y * y]


def _rnn_back(messages: Tensor, at_h: Tensor, weights: list[Tensor], kept: list[Tensor]) -> tuple[Tensor, list[Tensor]]:
    slopes, arriving = kept[0].unbind(0), messages.unbind(0)
    parts: list[Tensor] = []
    for k in range(len(slopes)):
        t = len(slopes) - 1 - k
        part = (at_h + arriving[t]) * slopes[t]
        at_h = torch.mm(part, weights[1])
        parts.append(part)
    parts.reverse()
    return torch.matmul(torch.stack(parts), weights[0]), [at_h]


# --- all layers in all directions ------------------------------------------------------------


def kept(
    x: Tensor, states: list[Tensor], weights: list[Tensor], kind: str, biases: bool, layers: int, bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:  # fmt: skip
    """The outputs, the last states, and the values that ``backward`` needs of each layer in each direction."""
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    x = x.transpose(0, 1) if batch_first else x
    last: list[list[Tensor]] = []
    needed: list[Tensor] = []
    for layer in range(layers):
        outs: list[Tensor] = []
        for direction in range(directions):
            cell = layer * directions + direction
            own = weights[cell * each : (cell + 1) * each]
            at = x.flip(0) if direction == 1 else x
            if kind == "lstm":
                y, ends, some = _lstm_steps(at, states[0][cell], states[1][cell], own, biases)
            elif kind == "gru":
                y, ends, some = _gru_steps(at, states[0][cell], own, biases)
            else:
                y, ends, some = _rnn_steps(at, states[0][cell], own, biases, kind == "rnn_relu")
            outs.append(y.flip(0) if direction == 1 else y)
            last.append(ends)
            needed.extend(some)
        x = torch.cat(outs, 2) if bidirectional else outs[0]
    results = [x.transpose(0, 1) if batch_first else x]
    for place in range(len(states)):
        results.append(torch.stack([ends[place] for ends in last]))
    results.extend(needed)
    return results


def backward(
    messages: list[Tensor], needed: list[Tensor], weights: list[Tensor], kind: str, layers: int, bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients at ``x`` and at the first states, from ``messages`` at the outputs and at the last states."""
    directions = 2 if bidirectional else 1
    each, some = len(weights) // (layers * directions), len(needed) // (layers * directions)
    at_y = messages[0].transpose(0, 1) if batch_first else messages[0]
    first: list[list[Tensor]] = []
    for k in range(layers):
        parts = at_y.chunk(directions, 2)
        found: list[Tensor] = []
        for d in range(directions):
            direction = directions - 1 - d
            cell = (layers - 1 - k) * directions + direction
            part = parts[direction].flip(0) if direction == 1 else parts[direction]
            own, saved = weights[cell * each : (cell + 1) * each], needed[cell * some : (cell + 1) * some]
            if kind == "lstm":
                at_x, at_first = _lstm_back(part, messages[1][cell], messages[2][cell], own, saved)
            elif kind == "gru":
                at_x, at_first = _gru_back(part, messages[1][cell], own, saved)
            else:
                at_x, at_first = _rnn_back(part, messages[1][cell], own, saved)
            found.append(at_x.flip(0) if direction == 1 else at_x)
            first.append(at_first)
        at_y = found[0] + found[1] if bidirectional else found[0]
    first.reverse()
    results = [at_y.transpose(0, 1) if batch_first else at_y]
    for place in range(len(messages) - 1):
        results.append(torch.stack([at_first[place] for at_first in first]))
    return results


def lstm(
    x: Tensor, states: list[Tensor], weights: list[Tensor], biases: bool, layers: int, bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:  # fmt: skip
    y, h, c = torch.lstm(x, states, weights, biases, layers, 0.0, False, bidirectional, batch_first)
    return [y, h, c]


def gru(
    x: Tensor, states: list[Tensor], weights: list[Tensor], biases: bool, layers: int, bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:  # fmt: skip
    y, h = torch.gru(x, states[0], weights, biases, layers, 0.0, False, bidirectional, batch_first)
    return [y, h]


def rnn_tanh(
    x: Tensor, states: list[Tensor], weights: list[Tensor], biases: bool, layers: int, bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:  # fmt: skip
    y, h = torch.rnn_tanh(x, states[0], weights, biases, layers, 0.0, False, bidirectional, batch_first)
    return [y, h]


def rnn_relu(
    x: Tensor, states: list[Tensor], weights: list[Tensor], biases: bool, layers: int, bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:  # fmt: skip
    y, h = torch.rnn_relu(x, states[0], weights, biases, layers, 0.0, False, bidirectional, batch_first)
    return [y, h]


# --- as operations ---------------------------------------------------------------------------

NAMESPACE = "explainers_recurrent"
_LIBRARY = torch.library.Library(NAMESPACE, "DEF")
_HOW = "int layers, bool bidirectional, bool batch_first"
_FORWARD: dict[str, Callable[..., list[Tensor]]] = {f.__name__: f for f in (lstm, gru, rnn_tanh, rnn_relu)}


def _shapes(
    x: Tensor, states: list[Tensor], weights: list[Tensor], biases: bool, layers: int, bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:  # fmt: skip
    size = states[0].shape[2] * (2 if bidirectional else 1)
    return [x.new_empty((*x.shape[:2], size)), *(torch.empty_like(state) for state in states)]


def _kept_shapes(
    x: Tensor, states: list[Tensor], weights: list[Tensor], kind: str, biases: bool, *how: Any
) -> list[Tensor]:
    steps, rows = (x.shape[1], x.shape[0]) if how[2] else x.shape[:2]
    size = weights[1].shape[0] // {"lstm": 4, "gru": 3}.get(kind, 1)
    kinds = {"lstm": [(0, 4), (1, 1)], "gru": [(0, 2), (0, 1), (0, 1), (0, 1)]}.get(kind, [(0, 1)])
    needed = [(steps + more, rows, times * size) for _ in range(int(states[0].shape[0])) for more, times in kinds]
    return [*_shapes(x, states, weights, biases, *how), *map(x.new_empty, needed)]


def _backward_shapes(messages: list[Tensor], needed: list[Tensor], weights: list[Tensor], *how: Any) -> list[Tensor]:
    y, *last = messages
    return [y.new_empty((*y.shape[:2], weights[0].shape[1])), *map(torch.empty_like, last)]


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    _, states, weights, ctx.kind, _, *ctx.how = inputs
    ctx.ends, ctx.weights = 1 + len(states), len(weights)
    ctx.save_for_backward(*output[ctx.ends :], *weights)


def _derivative(ctx: Any, messages: list[Tensor]) -> Any:
    saved = ctx.saved_tensors
    needed, weights = saved[: -ctx.weights], saved[-ctx.weights :]
    at_x, *at_states = BACKWARD(messages[: ctx.ends], needed, weights, ctx.kind, *ctx.how)
    return at_x, at_states, [None] * len(weights), None, None, None, None, None


def _differentiable(kind: str) -> Callable[..., list[Tensor]]:
    """The layer while derivatives are on: it keeps the values for its backward if an input requires a gradient."""

    def layer(x: Tensor, states: list[Tensor], weights: list[Tensor], *how: Any) -> list[Tensor]:
        if torch.is_grad_enabled() and any(array.requires_grad for array in (x, *states)):
            return list(KEPT(x, states, weights, kind, *how)[: 1 + len(states)])
        with torch._C._AutoDispatchBelowAutograd():
            return list(_OPS[kind](x, states, weights, *how))

    return layer


def _define(name: str, arguments: str, function: Callable[..., Any], shapes: Callable[..., Any]) -> None:
    _LIBRARY.define(f"{name}({arguments}, {_HOW}) -> Tensor[]")
    _LIBRARY.impl(name, function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"{NAMESPACE}::{name}", shapes, lib=_LIBRARY)


_define("kept", "Tensor x, Tensor[] states, Tensor[] weights, str kind, bool biases", kept, _kept_shapes)
_define("backward", "Tensor[] messages, Tensor[] needed, Tensor[] weights, str kind", backward, _backward_shapes)
torch.library.register_autograd(f"{NAMESPACE}::kept", _derivative, setup_context=_keep, lib=_LIBRARY)
for _name, _function in _FORWARD.items():
    _define(_name, "Tensor x, Tensor[] states, Tensor[] weights, bool biases", _function, _shapes)
    _LIBRARY.impl(_name, _differentiable(_name), "Autograd")

KEPT, BACKWARD = torch.ops.explainers_recurrent.kept.default, torch.ops.explainers_recurrent.backward.default
_OPS = {name: getattr(torch.ops.explainers_recurrent, name).default for name in _FORWARD}
FUNCTIONS: dict[Any, Callable[..., Any]] = {
    **{_OPS[name]: function for name, function in _FORWARD.items()}, KEPT: kept, BACKWARD: backward,
}  # fmt: skip


def weights_move(program: Any) -> bool:
    """Whether weights of a layer depend on an input: the backward here, towards data and states only, is then wrong."""
    moved = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if any(other.name in moved for other in node.all_input_nodes):
            moved.add(node.name)
        if node.target in FUNCTIONS and any(weight.name in moved for weight in node.args[2]):
            return True
    return False


def as_one(kind: str) -> Callable[..., Any]:
    """The torch function ``kind`` as one operation; torch's own for packed sequences."""
    plain = getattr(torch, kind)

    def layer(*args: Any) -> Any:
        x, states, weights = args[:3]
        if isinstance(weights, Tensor):  # packed: (data, sizes, states, weights, …)
            return plain(*args)
        biases, layers, dropout, training, bidirectional, batch_first = args[3:]
        if training and dropout:
            return plain(*args)
        states = [states] if isinstance(states, Tensor) else list(states)
        return tuple(_OPS[kind](x, states, list(weights), biases, layers, bidirectional, batch_first))

    return layer


LAYERS = {getattr(torch, kind): as_one(kind) for kind in _FORWARD}
