"""Attributions of output tokens to a prompt's tokens, against loops that run one output at a time without padding."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from explainers import methods
from explainers.errors import BaselineError, InputError, UnknownNameError, UnsupportedOperation
from explainers.text import TokenExplainer

transformers = pytest.importorskip("transformers")
V, CONTEXT = 29, 48
RANDOM = np.random.default_rng(0)
PROMPT, OUTPUT = RANDOM.integers(3, V, 7), RANDOM.integers(3, V, 4)


def gpt2(**more: Any) -> Any:
    sizes = {"n_embd": 16, "n_layer": 2, "n_head": 2, **more}
    return transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=V, n_positions=CONTEXT, bos_token_id=1, eos_token_id=2, **sizes)
    )


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=V, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=CONTEXT, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def sharp(make: Callable[[], Any], factor: float = 3.0) -> Any:
    """A random model whose attention is far from uniform."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(factor)
    return model


MODELS = {"gpt2": sharp(gpt2), "llama": sharp(llama)}


def score(model: Any, embedded: torch.Tensor, token: int) -> torch.Tensor:
    """log p of a token behind a sequence (1, L, D) of embeddings."""
    return model(inputs_embeds=embedded).logits[0, -1].log_softmax(-1)[token]


def score_of_ids(model: Any, ids: Any, token: int) -> float:
    with torch.no_grad():
        logits = model(torch.as_tensor(np.asarray(ids)[None])).logits
    return float(logits[0, -1].double().log_softmax(-1)[token])


def naive_table(contributions: Callable[[np.ndarray, int], np.ndarray], prompt: Any, output: Any) -> np.ndarray:
    """Row t: ``contributions`` of the tokens before output t, and zeros."""
    table = np.zeros((len(output), len(prompt) + len(output)))
    for t, token in enumerate(output):
        ids = np.concatenate([prompt, output[:t]])
        table[t, : len(ids)] = contributions(ids, int(token))
    return table


def close(found: Any, wanted: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(found, wanted, rtol=0, atol=tolerance * abs(np.asarray(wanted)).max())


def gradient_of(model: Any, embedded: torch.Tensor, token: int) -> torch.Tensor:
    embedded = embedded.detach().requires_grad_()
    return torch.autograd.grad(score(model, embedded, token), embedded)[0]


def integrated(model: Any, steps: int, baseline: int | None = None, kept_from: int | None = None) -> Any:
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    table = model.get_input_embeddings()

    def contributions(ids: np.ndarray, token: int) -> np.ndarray:
        x = table(torch.tensor(ids)[None]).detach()
        b = torch.zeros_like(x) if baseline is None else table(torch.full((1, len(ids)), baseline)).detach()
        if kept_from is not None:
            b[:, kept_from:] = x[:, kept_from:]
        total = torch.zeros_like(x)
        for node, weight in zip(nodes, weights, strict=True):
            total += gradient_of(model, b + (node + 1) / 2 * (x - b), token) * weight / 2
        return ((x - b) * total).sum(-1)[0].numpy()

    return contributions


# --- against loops ---------------------------------------------------------------------------


@pytest.fixture(params=MODELS)
def model(request: Any) -> Any:
    return MODELS[request.param]


def test_gradients(model: Any) -> None:
    def contributions(ids: np.ndarray, token: int) -> np.ndarray:
        return gradient_of(model, model.get_input_embeddings()(torch.tensor(ids)[None]), token)[0].norm(dim=-1).numpy()

    found = TokenExplainer.compile(model, "gradient", reduce="l2").explain(PROMPT, OUTPUT)
    close(found.with_output, naive_table(contributions, PROMPT, OUTPUT))
    wanted = [score_of_ids(model, [*PROMPT, *OUTPUT[:t]], token) for t, token in enumerate(OUTPUT)]
    np.testing.assert_allclose(found.scores, wanted, rtol=1e-5)


@pytest.mark.parametrize("baseline", [None, 5])
@pytest.mark.parametrize("keep_output", [False, True])
def test_integrated_gradients(model: Any, baseline: int | None, keep_output: bool) -> None:
    explain = TokenExplainer.compile(
        model, methods.IntegratedGradients(6), baseline=baseline, keep_output=keep_output, batch_size=5
    )
    found = explain.explain(PROMPT, OUTPUT)
    kept_from = len(PROMPT) if keep_output else None
    close(found.with_output, naive_table(integrated(model, 6, baseline, kept_from), PROMPT, OUTPUT), 3e-5)
    assert (abs(found.to_output).max() == 0) == keep_output


@pytest.mark.parametrize("method", ["deeplift", "lrp"])
def test_attributions_add_up(model: Any, method: str) -> None:
    found = TokenExplainer.compile(model, method).explain(PROMPT, OUTPUT)
    assert np.isfinite(found.with_output).all()
    assert (np.triu(found.to_output) == 0).all()
    assert abs(found.with_output).max() > 0
    if method == "deeplift":
        embedding = model.get_input_embeddings()
        for t, token in enumerate(OUTPUT):
            x = embedding(torch.tensor([*PROMPT, *OUTPUT[:t]])[None])
            change = (score(model, x, token) - score(model, x * 0, token)).item()
            assert found.with_output[t].sum() == pytest.approx(change, rel=1e-3, abs=1e-4)


@pytest.mark.parametrize("keep_output", [False, True])
def test_ablation(model: Any, keep_output: bool) -> None:
    def contributions(ids: np.ndarray, token: int) -> np.ndarray:
        effects = np.zeros(len(ids))
        for place in range(len(PROMPT) if keep_output else len(ids)):
            without = ids.copy()
            without[place] = 4
            effects[place] = score_of_ids(model, ids, token) - score_of_ids(model, without, token)
        return effects

    explain = TokenExplainer.compile(model, "feature_ablation", baseline=4, keep_output=keep_output)
    close(explain.explain(PROMPT, OUTPUT).with_output, naive_table(contributions, PROMPT, OUTPUT))


def test_exact_shapley_values_of_words(model: Any) -> None:
    groups = np.array([3, 3, 1, 1, 1, 8, 3])
    members = [np.flatnonzero(groups == number) for number in (3, 1, 8)]

    def contributions(ids: np.ndarray, token: int) -> np.ndarray:
        values = {}
        for kept in itertools.product([False, True], repeat=3):
            replaced = ids.copy()
            for keep, places in zip(kept, members, strict=True):
                replaced[places] = replaced[places] if keep else 2
            values[kept] = score_of_ids(model, replaced, token)
        result = np.zeros(3)
        for order in itertools.permutations(range(3)):
            kept = [False] * 3
            for feature in order:
                before = values[tuple(kept)]
                kept[feature] = True
                result[feature] += (values[tuple(kept)] - before) / math.factorial(3)
        return result

    explain = TokenExplainer.compile(model, "exact_shapley", baseline=2, keep_output=True)
    found = explain.explain(PROMPT, OUTPUT, groups=groups)
    wanted = [contributions(np.concatenate([PROMPT, OUTPUT[:t]]), int(token)) for t, token in enumerate(OUTPUT)]
    close(found.attributions, wanted)
    assert found.tokens[1] == " ".join(str(number) for number in PROMPT[2:5])


def test_groups_of_embeddings_add_up(model: Any) -> None:
    explain = TokenExplainer.compile(model, methods.IntegratedGradients(4))
    alone, groups = explain.explain(PROMPT, OUTPUT), np.array([0, 0, 1, 1, 1, 2, 0])
    joined = explain.explain(PROMPT, OUTPUT, groups=groups)
    close(joined.attributions, np.stack([alone.attributions[:, groups == g].sum(1) for g in range(3)], axis=1))
    close(joined.to_output, alone.to_output)


def test_sampled_shapley_values_come_near_exact_ones(model: Any) -> None:
    exact = TokenExplainer.compile(model, "exact_shapley").explain(PROMPT, OUTPUT[:2])
    near = TokenExplainer.compile(model, methods.ShapleySampling(400)).explain(PROMPT, OUTPUT[:2], seed=3)
    assert near.standard_error is not None
    assert (abs(near.with_output - exact.with_output) < 5 * near.standard_error + 1e-6).all()
    assert 0 < near.standard_error.max() < 0.5 * abs(exact.with_output).max()


# --- lengths ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [methods.IntegratedGradients(3), "deeplift", "feature_ablation"])
def test_other_lengths_are_not_traced_again(model: Any, method: Any) -> None:
    explain = TokenExplainer.compile(model, method)
    explain.explain(PROMPT, OUTPUT)
    traces = explain.stats.traces
    for length, outputs in ((1, 1), (2, 7), (20, 3), (25, 8)):
        prompt, output = RANDOM.integers(3, V, length), RANDOM.integers(3, V, outputs)
        found = explain.explain(prompt, output)
        assert found.attributions.shape == (outputs, length)
        assert found.with_output.shape == (outputs, length + outputs)
    assert explain.stats.traces == traces
    explain.explain(RANDOM.integers(3, V, 40), OUTPUT)
    assert explain.stats.traces > traces


def test_padding_gets_nothing_and_changes_nothing(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from explainers import text

    for method in (methods.IntegratedGradients(3), "feature_ablation"):
        padded = TokenExplainer.compile(model, method, dtype="float64")
        wanted = padded.explain(PROMPT, OUTPUT)
        with monkeypatch.context() as patch:
            patch.setattr(text, "bucket", lambda count, least: count)
            exact = TokenExplainer.compile(model, method, dtype="float64")
            close(wanted.with_output, exact.explain(PROMPT, OUTPUT).with_output, 1e-10)
            assert {key[0] for key in exact._explainers} == {len(PROMPT) + len(OUTPUT) - 1}
    explain = TokenExplainer.compile(model, "input_x_gradient")
    explain.explain(PROMPT, OUTPUT)
    (explainer,) = explain._explainers.values()
    sequence = np.concatenate([PROMPT, np.zeros(32 - len(PROMPT), np.int64)])
    whole = explainer(sequence[None], np.array([[len(PROMPT) - 1]]), OUTPUT[:1, None])
    assert (whole[:, len(PROMPT) :] == 0).all()
    assert (whole[:, : len(PROMPT)] != 0).all()
