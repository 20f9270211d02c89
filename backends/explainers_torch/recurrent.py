"""``nn.LSTM``, ``nn.GRU`` and ``nn.RNN`` as one operation each, with a backward that loops over the steps.

torch.export and autograd take these layers apart, step by step, so that a graph grows with the length of its
sequences. Here a layer stays one operation however long they are. The functions are plain TorchScript, too: they go
into files as code that needs nothing of this library.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Lists = tuple[list[Tensor], list[Tensor], list[Tensor]]


# --- one layer in one direction, time first --------------------------------------------------


def _inputs_part(x: Tensor, weights: list[Tensor], biases: bool) -> Tensor:
    part = torch.matmul(x, weights[0].t())
    return part + weights[2] if biases else part


def _state_part(h: Tensor, weights: list[Tensor], biases: bool) -> Tensor:
    part = torch.matmul(h, weights[1].t())
    return part + weights[3] if biases else part


def _lstm_steps(x: Tensor, h: Tensor, c: Tensor, weights: list[Tensor], biases: bool) -> Lists:
    """Hidden states, cells and gates (i, f, g, o) after each step; first of all the initial states."""
    projected = len(weights) % 2 == 1
    part = _inputs_part(x, weights, biases)
    hidden, cells, gates = [h], [c], [c]
    for t in range(x.shape[0]):
        i, f, g, o = (part[t] + _state_part(hidden[-1], weights, biases)).chunk(4, 1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        c = f * cells[-1] + i * g
        h = o * c.tanh()
        hidden.append(torch.matmul(h, weights[-1].t()) if projected else h)
        cells.append(c)
        gates.append(torch.cat([i, f, g, o], 1))
    return hidden, cells, gates


def _lstm_back(
    messages: Tensor, at_h: Tensor, at_c: Tensor, weights: list[Tensor], saved: Lists
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients at the inputs, at h₀ and at c₀, from those at all hidden states and at the last ones."""
    projected = len(weights) % 2 == 1
    _, cells, gates = saved
    parts: list[Tensor] = []
    for k in range(messages.shape[0]):
        t = messages.shape[0] - 1 - k
        i, f, g, o = gates[t + 1].chunk(4, 1)
        bent = cells[t + 1].tanh()
        at_h = at_h + messages[t]
        at_y = torch.matmul(at_h, weights[-1]) if projected else at_h
        at_c = at_c + at_y * o * (1 - bent * bent)
        part = torch.cat(
            [
                at_c * g * i * (1 - i),
                at_c * cells[t] * f * (1 - f),
                at_c * i * (1 - g * g),
                at_y * bent * o * (1 - o),
            ],
            1,
        )
        at_h = torch.matmul(part, weights[1])
        at_c = at_c * f
        parts.append(part)
    parts.reverse()
    return torch.matmul(torch.stack(parts), weights[0]), at_h, at_c


def _gru_steps(x: Tensor, h: Tensor, weights: list[Tensor], biases: bool) -> Lists:
    """Hidden states, the states' part of n, and gates (r, z, n)."""
    part = _inputs_part(x, weights, biases)
    hidden, states, gates = [h], [h], [h]
    for t in range(x.shape[0]):
        r, z, n = part[t].chunk(3, 1)
        r_h, z_h, n_h = _state_part(hidden[-1], weights, biases).chunk(3, 1)
        r, z = (r + r_h).sigmoid(), (z + z_h).sigmoid()
        n = (n + r * n_h).tanh()
        hidden.append(n + z * (hidden[-1] - n))
        states.append(n_h)
        gates.append(torch.cat([r, z, n], 1))
    return hidden, states, gates


def _gru_back(messages: Tensor, at_h: Tensor, weights: list[Tensor], saved: Lists) -> tuple[Tensor, Tensor]:
    hidden, states, gates = saved
    parts: list[Tensor] = []
    for k in range(messages.shape[0]):
        t = messages.shape[0] - 1 - k
        r, z, n = gates[t + 1].chunk(3, 1)
        at_h = at_h + messages[t]
        at_z = at_h * (hidden[t] - n) * z * (1 - z)
        at_n = at_h * (1 - z) * (1 - n * n)
        at_r = at_n * states[t + 1] * r * (1 - r)
        at_h = at_h * z + torch.matmul(torch.cat([at_r, at_z, at_n * r], 1), weights[1])
        parts.append(torch.cat([at_r, at_z, at_n], 1))
    parts.reverse()
    return torch.matmul(torch.stack(parts), weights[0]), at_h


def _rnn_steps(x: Tensor, h: Tensor, weights: list[Tensor], biases: bool, relu: bool) -> Lists:
    part = _inputs_part(x, weights, biases)
    hidden = [h]
    for t in range(x.shape[0]):
        total = part[t] + _state_part(hidden[-1], weights, biases)
        hidden.append(total.relu() if relu else total.tanh())
    return hidden, hidden, hidden


def _rnn_back(messages: Tensor, at_h: Tensor, weights: list[Tensor], saved: Lists, relu: bool) -> tuple[Tensor, Tensor]:
    hidden = saved[0]
    parts: list[Tensor] = []
    for k in range(messages.shape[0]):
        t = messages.shape[0] - 1 - k
        y = hidden[t + 1]
        at_h = at_h + messages[t]
        part = torch.where(y > 0, at_h, torch.zeros_like(at_h)) if relu else at_h * (1 - y * y)
        at_h = torch.matmul(part, weights[1])
        parts.append(part)
    parts.reverse()
    return torch.matmul(torch.stack(parts), weights[0]), at_h


# --- all layers in all directions ------------------------------------------------------------


def _steps(kind: str, x: Tensor, states: list[Tensor], cell: int, weights: list[Tensor], biases: bool) -> Lists:
    if kind == "lstm":
        return _lstm_steps(x, states[0][cell], states[1][cell], weights, biases)
    if kind == "gru":
        return _gru_steps(x, states[0][cell], weights, biases)
    return _rnn_steps(x, states[0][cell], weights, biases, kind == "rnn_relu")


def _back(
    kind: str, messages: Tensor, at_states: list[Tensor], cell: int, weights: list[Tensor], saved: Lists
) -> list[Tensor]:
    if kind == "lstm":
        at_x, at_h, at_c = _lstm_back(messages, at_states[0][cell], at_states[1][cell], weights, saved)
        return [at_x, at_h, at_c]
    if kind == "gru":
        at_x, at_h = _gru_back(messages, at_states[0][cell], weights, saved)
        return [at_x, at_h]
    at_x, at_h = _rnn_back(messages, at_states[0][cell], weights, saved, kind == "rnn_relu")
    return [at_x, at_h]


def backward(
    messages: list[Tensor], x: Tensor, states: list[Tensor], weights: list[Tensor], kind: str, biases: bool,
    layers: int, bidirectional: bool, batch_first: bool,
) -> list[Tensor]:  # fmt: skip
    """Gradients at ``x`` and at the initial states, from ``messages`` at the outputs and at the last states."""
    directions = 2 if bidirectional else 1
    each = len(weights) // (layers * directions)
    x = x.transpose(0, 1) if batch_first else x
    saved: list[Lists] = []
    for layer in range(layers):
        outs: list[Tensor] = []
        for direction in range(directions):
            cell = layer * directions + direction
            at = x.flip(0) if direction == 1 else x
            saved.append(_steps(kind, at, states, cell, weights[cell * each : (cell + 1) * each], biases))
            out = torch.stack(saved[-1][0][1:])
            outs.append(out.flip(0) if direction == 1 else out)
        x = torch.cat(outs, 2)
    at_y = messages[0].transpose(0, 1) if batch_first else messages[0]
    initial: list[list[Tensor]] = []
    for k in range(layers):
        layer = layers - 1 - k
        parts = at_y.chunk(directions, 2)
        found: list[Tensor] = []
        for d in range(directions):
            direction = directions - 1 - d
            cell = layer * directions + direction
            part = parts[direction].flip(0) if direction == 1 else parts[direction]
            own = weights[cell * each : (cell + 1) * each]
            passed = _back(kind, part, messages[1:], cell, own, saved[cell])
            found.append(passed[0].flip(0) if direction == 1 else passed[0])
            initial.append(passed[1:])
        at_y = found[0] + found[1] if bidirectional else found[0]
    initial.reverse()
    results = [at_y.transpose(0, 1) if batch_first else at_y]
    for place in range(len(states)):
        results.append(torch.stack([at_cell[place] for at_cell in initial]))
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

_LIBRARY = torch.library.Library("explainers_recurrent", "DEF")
_HOW = "bool biases, int layers, bool bidirectional, bool batch_first"
_FORWARD: dict[str, Callable[..., list[Tensor]]] = {f.__name__: f for f in (lstm, gru, rnn_tanh, rnn_relu)}


def _shapes(
    x: Tensor, states: list[Tensor], weights: list[Tensor], biases: bool, layers: int, bidirectional: bool,
    batch_first: bool,
) -> list[Tensor]:  # fmt: skip
    size = states[0].shape[2] * (2 if bidirectional else 1)
    return [x.new_empty((*x.shape[:2], size)), *(torch.empty_like(state) for state in states)]


def _keep(ctx: Any, inputs: Any, output: Any) -> None:
    x, states, weights, *ctx.how = inputs
    ctx.count = len(states)
    ctx.save_for_backward(x, *states, *weights)


def _derivative(kind: str) -> Callable[..., Any]:
    def derivative(ctx: Any, messages: list[Tensor]) -> Any:
        x, *rest = ctx.saved_tensors
        states, weights = rest[: ctx.count], rest[ctx.count :]
        at_x, *at_states = BACKWARD(list(messages), x, states, weights, kind, *ctx.how)
        return at_x, at_states, [None] * len(weights), None, None, None, None

    return derivative


_LIBRARY.define(
    f"backward(Tensor[] messages, Tensor x, Tensor[] states, Tensor[] weights, str kind, {_HOW}) -> Tensor[]"
)
_LIBRARY.impl("backward", backward, "CompositeExplicitAutograd")
BACKWARD = torch.ops.explainers_recurrent.backward.default


@torch.library.register_fake("explainers_recurrent::backward", lib=_LIBRARY)
def _backward_shapes(messages: list[Tensor], x: Tensor, states: list[Tensor], *how: Any) -> list[Tensor]:
    return [torch.empty_like(x), *(torch.empty_like(state) for state in states)]


for _name, _function in _FORWARD.items():
    _LIBRARY.define(f"{_name}(Tensor x, Tensor[] states, Tensor[] weights, {_HOW}) -> Tensor[]")
    _LIBRARY.impl(_name, _function, "CompositeExplicitAutograd")
    torch.library.register_fake(f"explainers_recurrent::{_name}", _shapes, lib=_LIBRARY)
    torch.library.register_autograd(
        f"explainers_recurrent::{_name}", _derivative(_name), setup_context=_keep, lib=_LIBRARY
    )

_OPS = {name: getattr(torch.ops.explainers_recurrent, name).default for name in _FORWARD}
FUNCTIONS: dict[Any, Callable[..., Any]] = {**{_OPS[name]: f for name, f in _FORWARD.items()}, BACKWARD: backward}


def weights_move(program: torch.export.ExportedProgram) -> bool:
    """Whether weights of a layer depend on an input: then its backward here, towards data and states, is not all."""
    moved = set(program.graph_signature.user_inputs)
    for node in program.graph.nodes:
        if any(other.name in moved for other in node.all_input_nodes):
            moved.add(node.name)
        if node.target in FUNCTIONS and any(weight.name in moved for weight in node.args[2]):
            return True
    return False


def as_one(kind: str) -> Callable[..., Any]:
    """The function of torch called ``kind`` as one operation; itself for packed sequences."""
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
