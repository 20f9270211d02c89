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
SMALL = sharp(lambda: gpt2(n_layer=1))


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


@pytest.mark.parametrize(("baseline", "keep_output"), [(None, False), (5, True)])
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
def test_other_lengths_are_not_traced_again(method: Any) -> None:
    explain = TokenExplainer.compile(SMALL, method)
    explain.explain(PROMPT, OUTPUT)
    traces = explain.stats.traces
    for length, outputs in ((1, 1), (2, 7), (20, 3), (25, 8)):
        prompt, output = RANDOM.integers(3, V, length), RANDOM.integers(3, V, outputs)
        found = explain.explain(prompt, output)
        assert found.attributions.shape == (outputs, length)
        assert found.with_output.shape == (outputs, length + outputs)
    explain.explain(RANDOM.integers(3, V, 40), OUTPUT)
    assert explain.stats.traces == traces


def test_padding_gets_nothing_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """As engines with fixed sizes pad."""
    for method in (methods.IntegratedGradients(3), "deeplift", "feature_ablation"):
        exact = TokenExplainer.compile(SMALL, method, dtype="float64")
        wanted = exact.explain(PROMPT, OUTPUT)
        with monkeypatch.context() as patch:
            patch.setattr(TokenExplainer, "_any_length", False)
            padded = TokenExplainer.compile(SMALL, method, dtype="float64")
            close(padded.explain(PROMPT, OUTPUT).with_output, wanted.with_output, 1e-10)
            assert {length for length, _ in padded._explainers} == {32}
    (explainer,) = padded._explainers.values()
    sequence = np.concatenate([PROMPT, np.zeros(32 - len(PROMPT), np.int64)])
    places, chosen = np.full((1, 8), len(PROMPT) - 1), np.full((1, 8), OUTPUT[0])
    whole = explainer(sequence[None], places, chosen, target="all", baseline=2)
    assert whole.shape == (8, 1, 32)
    assert (whole[..., len(PROMPT) :] == 0).all()
    assert (whole[..., : len(PROMPT)] != 0).all()


# --- known answers and trained models --------------------------------------------------------


class Bag(nn.Module):
    """Logits are the sum of the rows of a table for the tokens so far: causal, without any attention."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(V, V)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.table(ids).cumsum(1)


def test_removing_a_token_from_a_bag() -> None:
    torch.manual_seed(0)
    model, absent = Bag(), 2
    table = model.table.weight.detach().double().numpy()
    found = TokenExplainer.compile(model, "feature_ablation", baseline=absent).explain(PROMPT, OUTPUT)

    def log_p(logits: np.ndarray, token: int) -> float:
        return float(logits[token] - np.log(np.exp(logits).sum()))

    for t, token in enumerate(OUTPUT):
        ids = [*PROMPT, *OUTPUT[:t]]
        logits = table[ids].sum(0)
        wanted = [log_p(logits, token) - log_p(logits - table[i] + table[absent], token) for i in ids]
        close(found.with_output[t, : len(ids)], wanted)


@pytest.fixture(scope="module")
def copying() -> Any:
    """A GPT-2 trained to repeat the token of three places before."""
    torch.manual_seed(0)
    model = gpt2(n_embd=32, n_layer=1, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0).train()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(300):
        ids = torch.randint(2, V, (32, 16))  # with the token that will stand for absent ones
        logits = model(ids).logits[:, 2:]
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, :-2].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.1
    return model


@pytest.mark.parametrize(
    "method", [methods.IntegratedGradients(24), "deeplift", "lrp", "feature_ablation", methods.ShapleySampling(20)]
)
def test_a_copying_model_looks_at_what_it_copies(copying: Any, method: Any) -> None:
    prompt = np.random.default_rng(5).permutation(np.arange(3, V))[:10]
    explain = TokenExplainer.compile(copying, method, baseline=None if method == "lrp" else 2)
    assert copying.training
    found = explain.explain(prompt, max_new_tokens=3)
    assert copying.training
    assert found.output.tolist() == prompt[7:].tolist()
    assert found.with_output.argmax(axis=1).tolist() == [7, 8, 9]
    if method == "feature_ablation":
        assert (np.sort(abs(found.with_output), axis=1)[:, -2] < 0.5 * found.with_output.max(axis=1)).all()


# --- forms of models -------------------------------------------------------------------------


class Softcapped(nn.Module):
    """A model with a head that its logits are not simply the output of."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.cap = 2.0

    def get_input_embeddings(self) -> nn.Module:
        return self.inner.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        return self.inner.get_output_embeddings()

    def forward(self, input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.inner(input_ids).logits
        return {"logits": self.cap * torch.tanh(logits / self.cap) + self.late(logits)}

    def late(self, logits: torch.Tensor) -> Any:
        return 0.0


class Cumulated(Softcapped):
    """Its logits mix positions behind the head, so that the head cannot be applied to some positions only."""

    def late(self, logits: torch.Tensor) -> torch.Tensor:
        return logits.cumsum(1) / 8


@pytest.mark.parametrize("wrap", [Softcapped, Cumulated])
@pytest.mark.parametrize("method", ["input_x_gradient", "feature_ablation"])
def test_heads_with_something_behind(wrap: Any, method: str) -> None:
    model = wrap(MODELS["llama"])
    found = TokenExplainer.compile(model, method, baseline=None if method != "feature_ablation" else 2)
    result = found.explain(PROMPT, OUTPUT)
    ids = torch.tensor([*PROMPT, *OUTPUT])[None]
    scores = model(ids)["logits"].log_softmax(-1)[0, len(PROMPT) - 1 : -1].gather(1, torch.tensor(OUTPUT)[:, None])
    np.testing.assert_allclose(result.scores, scores[:, 0].detach(), rtol=1e-4)
    if method == "input_x_gradient":
        table = model.get_input_embeddings()
        embedded: list[torch.Tensor] = []
        handle = table.register_forward_hook(lambda module, given, out: embedded.append(out.requires_grad_()) or out)
        logits = model(ids[:, :-1])["logits"]
        handle.remove()
        goal = logits[0, -1].log_softmax(-1)[OUTPUT[-1]]
        (slope,) = torch.autograd.grad(goal, embedded[0])
        close(result.with_output[-1, :-1], (slope * embedded[0]).sum(-1)[0].detach())


def test_functions_of_numpy_and_of_torch() -> None:
    table = np.random.default_rng(0).normal(size=(V, V)).astype("float32")
    bag = Bag()
    with torch.no_grad():
        bag.table.weight.copy_(torch.from_numpy(table))

    def function(ids: np.ndarray) -> np.ndarray:
        return np.asarray(table[ids].cumsum(axis=1))

    wanted = TokenExplainer.compile(bag, "feature_ablation", baseline=0).explain(PROMPT, OUTPUT)
    of_numpy = TokenExplainer.compile(function, "feature_ablation", baseline=0).explain(PROMPT, OUTPUT)
    close(of_numpy.with_output, wanted.with_output)
    of_torch = TokenExplainer.compile(lambda ids: bag(ids), "feature_ablation", baseline=0, backend="torch")
    close(of_torch.explain(PROMPT, OUTPUT).with_output, wanted.with_output)
    with pytest.raises(InputError, match="no embedding layer"):
        TokenExplainer.compile(function, "gradient")


def test_the_model_is_untouched_and_refreshed() -> None:
    model = sharp(gpt2).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = [id(part) for part in model.modules()]
    explain = TokenExplainer.compile(model, "input_x_gradient")
    first = explain.explain(PROMPT, OUTPUT).attributions
    assert model.training
    assert [id(part) for part in model.modules()] == parts
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        model.transformer.ln_f.weight.mul_(2)
    second = explain.refresh().explain(PROMPT, OUTPUT).attributions
    close(second, TokenExplainer.compile(model, "input_x_gradient").explain(PROMPT, OUTPUT).attributions)
    assert abs(second - first).max() > 1e-3


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prompt", "output", "message"),
    [
        ([3, V], [4], f"the prompt has the id {V} at 1; the model's ids are 0 … {V - 1}"),
        ([3, 4], [5, -1], "the output has the id -1 at 1"),
        ([], [4], "the prompt is empty"),
        ([3], [], "the output is empty"),
        ([3.5], [4], "must be ids of one sequence"),
        ([[3, 4], [5, 6]], [4], "must be ids of one sequence"),
        ("the cat", [4], "the prompt is a string, 'the cat', and there is no tokenizer"),
        ([3], "sat", "the output is a string"),
        ([3] * CONTEXT, [4, 5], f"have {CONTEXT + 1} tokens without the last one; the model takes at most {CONTEXT}"),
        ([3] * (CONTEXT + 1), None, f"takes at most {CONTEXT}"),
    ],
)
def test_what_cannot_be_explained(prompt: Any, output: Any, message: str) -> None:
    explain = TokenExplainer.compile(SMALL, "input_x_gradient")
    with pytest.raises(InputError, match=message):
        explain.explain(prompt, output)


def test_the_whole_context_can_be_explained() -> None:
    explain = TokenExplainer.compile(MODELS["gpt2"], "input_x_gradient")
    assert explain.explain([3] * CONTEXT, [4]).attributions.shape == (1, CONTEXT)


def test_groups_that_do_not_fit() -> None:
    explain = TokenExplainer.compile(SMALL, "input_x_gradient")
    with pytest.raises(InputError, match="each of the 7 tokens"):
        explain.explain(PROMPT, OUTPUT, groups=[0, 1])
    with pytest.raises(InputError, match="needs a tokenizer"):
        explain.explain(PROMPT, OUTPUT, groups="words")
    with pytest.raises(InputError, match="must be 'words'"):
        explain.explain(PROMPT, OUTPUT, groups="letters")


def test_models_that_cannot_be_explained() -> None:
    class NoTable(nn.Module):
        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(ids.clamp(max=4), 5).float().cumsum(1)

    class TwoTables(Bag):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Embedding(CONTEXT, V)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return super().forward(ids) + self.places(torch.arange(ids.shape[1]))

    with pytest.raises(InputError, match="no embedding layer"):
        TokenExplainer.compile(NoTable(), "gradient")
    with pytest.raises(InputError, match=r"several layers may embed ids: 'table', 'places'; say which with wrt="):
        TokenExplainer.compile(TwoTables(), "gradient")
    assert TokenExplainer.compile(TwoTables(), "input_x_gradient", wrt="table").explain(PROMPT, OUTPUT)
    with pytest.raises(UnknownNameError, match="tabel"):
        TokenExplainer.compile(TwoTables(), "gradient", wrt="tabel")
    with pytest.raises(BaselineError, match="baseline="):
        TokenExplainer.compile(Bag(), "feature_ablation")
    with pytest.raises(InputError, match="not causal"):
        TokenExplainer.compile(
            lambda ids: ids[..., None].sum(1, keepdims=True) + np.zeros((1, ids.shape[1], 5)), "lime"
        )
    with pytest.raises(InputError, match="logits"):
        TokenExplainer.compile(nn.Sequential(nn.Embedding(V, 3), nn.Flatten()), "gradient")
    with pytest.raises(InputError, match="no method generate"):
        TokenExplainer.compile(Bag(), "input_x_gradient").explain(PROMPT)
    with pytest.raises(InputError, match="keep_output"):
        TokenExplainer.compile(Bag(), "gradient", keep_output=True)
    for method in (methods.Perturbation(lambda x: x, lambda x: x), "occlusion", methods.Lime(groups=[0, 0, 1])):
        with pytest.raises(UnsupportedOperation, match="cannot remove the tokens or words of any text"):
            TokenExplainer.compile(Bag(), method, baseline=0)
