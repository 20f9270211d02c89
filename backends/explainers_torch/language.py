"""Causal language models as modules that return the log-probabilities of given tokens.

The modules hold the user's model, or a shallow copy of it over the same submodules: nothing is stored on the model.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any

import torch
from torch import Tensor, nn

from explainers.backend import TokenModel
from explainers.errors import InputError
from explainers.spec import Numpy

from .functions import FunctionModule
from .twin import in_inference

PREFIX = "model."  # of the paths of the model's layers in the modules below
PROBE = ((0, 1, 1), (1, 0, 1))  # ids that every vocabulary has


def token_model(model: Any, derivative: bool) -> TokenModel:
    """See :meth:`explainers.backend.Models.token_model`."""
    module = model if isinstance(model, nn.Module) else FunctionModule(model)
    logits = _probed(module)
    body, held = _with_picking_head(module, logits)
    head = _named(module, "get_output_embeddings")
    scores = TokenScores(body, held)
    if derivative and held is not None and held.is_linear:
        assert isinstance(head, nn.Linear)
        scores = LinearizedScores(body, held, head)
    vocabulary = int(logits.shape[-1])
    layers = {name: part for name, part in module.named_modules() if name}
    embeddings = [name for name, part in layers.items() if isinstance(part, nn.Embedding)]
    table = _named(module, "get_input_embeddings")
    if table is not None:
        embeddings = [name for name, part in layers.items() if part is table] or embeddings
    rows = layers[embeddings[0]] if len(embeddings) == 1 else None

    def embed(path: str, ids: Numpy) -> Numpy:
        with torch.no_grad():
            found = layers[path.removeprefix(PREFIX)](torch.from_numpy(ids).to(_place(module)))
        return found.float().cpu().numpy() if found.dtype is torch.bfloat16 else found.cpu().numpy()

    def generate(ids: Numpy, count: int) -> Numpy:
        return _generated(module, ids, count)

    return TokenModel(
        scores, vocabulary,
        layers=tuple(PREFIX + name for name in layers), embeddings=tuple(PREFIX + name for name in embeddings),
        prefix=PREFIX, embed=embed, generate=generate if hasattr(module, "generate") else None,
        rows=rows.num_embeddings if isinstance(rows, nn.Embedding) else None,
        context=getattr(getattr(module, "config", None), "max_position_embeddings", None),
    )  # fmt: skip


def _named(module: Any, method: str) -> nn.Module | None:
    """The layer that the model names by a method, as Hugging Face's models do."""
    found: nn.Module | None = getattr(module, method)() if hasattr(module, method) else None
    return found


def _generated(module: Any, ids: Numpy, count: int) -> Numpy:
    """The most probable tokens, one after the other, up to an end-of-text token."""
    prompt = torch.from_numpy(ids)[None].to(_place(module))
    padding = getattr(getattr(module, "generation_config", None), "pad_token_id", None)
    with torch.no_grad():
        twin: Any = in_inference(module)
        found = twin.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count, do_sample=False, num_beams=1,
            pad_token_id=0 if padding is None else padding,
        )  # fmt: skip
    return found[0, len(ids) :].cpu().numpy()


class Held:
    """What a model's head needs and leaves behind while the model runs. torch.export does not look into it.

    ``positions`` (N, T): whose logits are wanted. ``hidden`` (N, T, D): the head's input there. ``is_linear``: whether
    the model's logits are the head's output, and the head is a linear layer.
    """

    positions: Tensor | None = None
    hidden: Tensor | None = None
    is_linear = False

    def taken(self) -> Tensor | None:
        """``hidden``, which is no longer held, nor are the positions."""
        hidden, self.positions, self.hidden = self.hidden, None, None
        return hidden


class PickingHead(nn.Module):
    """The model's last layer, applied to the positions held only: hidden states (N, L, D) → logits (N, T, V)."""

    def __init__(self, head: nn.Module, held: Held) -> None:
        super().__init__()
        self.head = head
        self.held = held

    def forward(self, hidden: Tensor) -> Tensor:
        assert self.held.positions is not None
        self.held.hidden = _at(hidden, self.held.positions)
        return self.head(self.held.hidden)


class TokenScores(nn.Module):
    """ids, positions and chosen tokens, (N, L), (N, T), (N, T) → log p(chosen | ids up to the position), (N, T).

    ``held``: where the model's own head finds the positions; None if the model returns logits of all positions.
    """

    def __init__(self, model: nn.Module, held: Held | None) -> None:
        super().__init__()
        self.model = model
        self.held = held

    def forward(self, ids: Tensor, positions: Tensor, chosen: Tensor) -> Tensor:
        return _chosen(self.log_probabilities(ids, positions)[0], chosen)

    def log_probabilities(self, ids: Tensor, positions: Tensor) -> tuple[Tensor, Tensor | None]:
        """(N, T, V), and the head's input (N, T, D), if it is known."""
        if self.held is None:
            return _at(logits_of(self.model, ids), positions).log_softmax(-1), None
        self.held.positions = positions
        logits = logits_of(self.model, ids)
        return logits.log_softmax(-1), self.held.taken()


class LinearizedScores(TokenScores):
    """The same values and derivatives, with the derivative of a linear head written out.

    ∂log p_c/∂h = W_c − Σ_v p_v·W_v, for the head's weights W (V, D) and its input h. It is computed once for all
    outputs of a row. Otherwise the reverse walk of each output would pass the logits of all positions.
    """

    def __init__(self, model: nn.Module, held: Held, head: nn.Linear) -> None:
        super().__init__(model, held)
        self.head = head

    def forward(self, ids: Tensor, positions: Tensor, chosen: Tensor) -> Tensor:
        scores, hidden = self.log_probabilities(ids, positions)
        assert hidden is not None
        scores, weight = scores.detach(), self.head.weight
        slope = weight[chosen] - scores.exp() @ weight
        moved = (slope.detach() * (hidden - hidden.detach())).sum(-1)  # 0, with the derivative
        return _chosen(scores, chosen) + moved


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    """The logits (N, L, V), whichever form the model returns them in."""
    output = model(ids, use_cache=False) if _takes_cache(model) else model(ids)
    if isinstance(output, Tensor):
        return output
    found = getattr(output, "logits", None)
    if found is None and isinstance(output, dict):
        found = output.get("logits")
    if found is None and isinstance(output, (tuple, list)):
        found = output[0]
    if not isinstance(found, Tensor):
        raise InputError(f"a language model returns logits (N, L, V); this one returns {type(output).__name__}")
    return found


def _takes_cache(model: nn.Module) -> bool:
    return "use_cache" in inspect.signature(model.forward).parameters


def _chosen(scores: Tensor, chosen: Tensor) -> Tensor:
    """The entries of (N, T, V) for the ids chosen (N, T)."""
    return scores.gather(-1, chosen.unsqueeze(-1)).squeeze(-1)


def _at(array: Tensor, positions: Tensor) -> Tensor:
    """The entries of (N, L, D) at positions (N, T): (N, T, D)."""
    return array.gather(1, positions.unsqueeze(-1).expand(-1, -1, array.shape[-1]))


def _probed(module: nn.Module) -> Tensor:
    """The logits of short sequences, in inference mode; checks that later tokens do not change earlier logits."""
    ids = torch.tensor(PROBE, device=_place(module))
    twin = in_inference(module)
    with torch.no_grad():
        logits, shorter = logits_of(twin, ids), logits_of(twin, ids[:, :2])
    if logits.ndim != 3 or logits.shape[:2] != ids.shape or not logits.dtype.is_floating_point:
        raise InputError(
            f"a language model returns logits (N, L, V); for ids of shape {tuple(ids.shape)} this one returns "
            f"{logits.dtype} of shape {tuple(logits.shape)}"
        )
    if not _alike(shorter, logits[:, :2]):
        raise InputError(
            "the model is not causal: its logits at a position change with the tokens behind it. Only causal language "
            "models give the log-probability of each output token in one run"
        )
    return logits


def _alike(found: Tensor, wanted: Tensor) -> bool:
    """Whether the two are the same but for rounding, which may differ with the shapes of an operation's operands."""
    share = max(1e-3, 8 * torch.finfo(wanted.dtype).eps)
    scale = float(wanted.abs().max())
    return found.shape == wanted.shape and torch.allclose(found, wanted, rtol=0, atol=share * scale + 1e-6)


def _place(module: nn.Module) -> torch.device | None:
    return next((tensor.device for tensor in (*module.parameters(), *module.buffers())), None)


def _with_picking_head(module: nn.Module, logits: Tensor) -> tuple[nn.Module, Held | None]:
    """The model with a head that computes the wanted logits only, if it has such a head; else the model itself.

    The head must be a submodule whose result is, up to elementwise operations, the logits: that is checked on a probe.
    """
    head = _named(module, "get_output_embeddings")
    paths = [name for name, part in module.named_modules() if part is head and name]
    if head is None or len(paths) != 1:
        return module, None
    held = Held()
    copied = _replaced(module, paths[0].split("."), PickingHead(head, held))
    ids = torch.tensor(PROBE, device=_place(module))
    held.positions = torch.tensor([[2, 1], [0, 2]], device=ids.device)
    try:
        with torch.no_grad():
            picked = logits_of(in_inference(copied), ids)
    except (RuntimeError, IndexError, ValueError):  # the model does more with all positions' logits
        return module, None
    wanted, hidden = _at(logits, held.positions), held.taken()
    if hidden is None or not _alike(picked, wanted):
        return module, None
    with torch.no_grad():
        held.is_linear = isinstance(head, nn.Linear) and _alike(picked, in_inference(head)(hidden))
    return copied, held


def _replaced(module: nn.Module, path: list[str], part: nn.Module) -> nn.Module:
    """A shallow copy of the module with the submodule at ``path`` replaced; all others are shared."""
    copied = copy.copy(module)
    copied.__dict__["_modules"] = dict(module._modules)
    name, *rest = path
    inner = module._modules[name]
    assert inner is not None
    copied._modules[name] = _replaced(inner, rest, part) if rest else part
    return copied
