"""Models take what models take: flags, None, lists and dicts of tensors, any number of them; functions, wrappers."""

from __future__ import annotations

import functools
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from explainers import Explainer
from explainers.errors import InputError, TraceError, UnsupportedOperation

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
Y = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 3)

    def net(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


class Flags(Net):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: bool = True, mode: str = "sum") -> Tensor:
        y = self.net(x if mask is None else x * mask)
        y = y * 2 if scale else y
        return y if mode == "sum" else y * y


class Listed(Net):
    def forward(self, xs: list[Tensor]) -> Tensor:
        return self.net(xs[0]) + 2 * self.net(xs[1])


class Batched(Net):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["x"]) + 2 * self.net(batch["y"])


class Star(Net):
    def forward(self, *xs: Tensor) -> Tensor:
        return self.net(xs[0]) + 2 * self.net(xs[1])


class Named(Net):
    def forward(self, x: Tensor, **more: Tensor) -> Tensor:
        return self.net(x) + 2 * self.net(more["y"])


class Nested(Net):
    def forward(self, x: Tensor, more: dict[str, Any], twice: bool = False) -> Tensor:
        factor = 3 if more["thrice"] else 2
        return self.net(x) + factor * self.net(more["ys"][0])


def gradients(model: Any, call: Callable[[Any, Tensor, Tensor], Tensor], target: int = 1) -> list[Tensor]:
    """By autograd, of x and y."""
    x, y = X.clone().requires_grad_(), Y.clone().requires_grad_()
    call(model, x, y)[:, target].sum().backward()
    return [t.grad if t.grad is not None else torch.zeros_like(t) for t in (x, y)]


def equal(found: Any, wanted: Any) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "flags", [{}, {"mask": None}, {"scale": False}, {"scale": False, "mode": "square", "mask": None}], ids=str
)
def test_flags_are_fixed_by_the_first_call(flags: dict[str, Any]) -> None:
    model = Flags().eval()
    explain = Explainer.compile(model, "gradient")
    (wanted, _) = gradients(model, lambda m, x, y: m(x, **flags))
    found = explain(X, **flags, target=1)
    assert isinstance(found, Tensor)
    equal(found, wanted)
    equal(explain(X, target=1), wanted)  # they may be left out then
    assert explain.stats.traces == 1
    if "scale" in flags:
        with pytest.raises(InputError, match=r"scale=True, but this explainer was compiled for scale=False"):
            explain(X, scale=True, target=1)
    else:
        with pytest.raises(InputError, match=r"unknown inputs \['scale'\].*A flag is fixed when the model is traced"):
            explain(X, scale=True, target=1)


def test_flags_given_to_compile_and_kept_in_a_file() -> None:
    model = Flags().eval()
    explain = Explainer.compile(model, "deeplift", inputs={"x": X, "mask": None, "scale": False})
    file = io.BytesIO()
    explain.save(file)
    loaded = Explainer.load(file.getvalue())
    for each in (explain, loaded):
        equal(each(X, target=1), explain(x=X, scale=False, target=1)["x"])
        with pytest.raises(InputError, match="mask=True, but this explainer was compiled for mask=None"):
            each(X, mask=True, target=1)


def test_a_mask_is_an_input_where_one_is_given() -> None:
    model = Flags().eval()
    found = Explainer.compile(model, "gradient")(X, Y, target=1)
    for part, wanted in zip(found, gradients(model, lambda m, x, y: m(x, y)), strict=True):
        equal(part, wanted)


@pytest.mark.parametrize("method", ["gradient", "occlusion"])
def test_lists_dicts_and_any_number_of_tensors(method: str) -> None:
    """All of them are one function of x and y."""
    wanted = Explainer.compile(Star().eval(), method)(X, Y, target=1)
    if method == "gradient":
        for part, by_autograd in zip(wanted, gradients(Star().eval(), lambda m, x, y: m(x, y)), strict=True):
            equal(part, by_autograd)
    nested = {"ys": [Y], "thrice": False}
    for found in (
        Explainer.compile(Listed().eval(), method)([X, Y], target=1),
        tuple(Explainer.compile(Batched().eval(), method)({"x": X, "y": Y}, target=1).values()),
        tuple(Explainer.compile(Batched().eval(), method)({"y": Y, "x": X}, target=1).values())[::-1],
        tuple(Explainer.compile(Named().eval(), method)(x=X, y=Y, target=1).values()),
        tuple(Explainer.compile(Named().eval(), method)(y=Y, x=X, target=1).values())[::-1],
        Explainer.compile(Nested().eval(), method)(X, nested, target=1),
        Explainer.compile(Nested().eval(), method)(X, nested, False, target=1),
    ):
        assert len(found) == 2
        for part, right in zip(found, wanted, strict=True):
            equal(part, right)


def test_nested_arguments_are_checked_at_each_call() -> None:
    explain = Explainer.compile(Nested().eval(), "gradient")
    explain(X, {"ys": [Y], "thrice": True}, target=1)
    assert explain.stats.traces == 1
    for part, right in zip(
        explain(X, Y, target=1), explain(X, {"ys": [Y], "thrice": True}, target=1), strict=True
    ):  # the arrays alone, in their order
        equal(part, right)
    for bad, words in (
        ({"ys": [Y, Y], "thrice": True}, r"more.ys is a list of \[0, 1\]; the model was traced with a list of \[0\]"),
        ({"ys": [Y], "thrice": False}, "more.thrice=False, but this explainer was compiled for more.thrice=True"),
        ({"ys": [Y]}, r"more is a dict of \['ys'\]; the model was traced with a dict of \['ys', 'thrice'\]"),
        ((Y, Y), r"more is a tuple of \[0, 1\]; the model was traced with a dict"),
    ):
        with pytest.raises(InputError, match=words):
            explain(X, bad, target=1)
    for lacking in ((), (X,)):
        with pytest.raises(InputError, match=r"no value for|no inputs given"):
            explain(*lacking, target=1)
    baseline = {"x": X, "more.ys.0": Y}
    other = Explainer.compile(Nested().eval(), "deeplift")(X, {"ys": [Y], "thrice": True}, target=1, baseline=baseline)
    assert all(float(part.abs().max()) == 0 for part in other)


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda net: torch.compile(net, backend="eager")])
def test_wrappers(wrap: Any) -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    (wanted, _) = gradients(net, lambda m, x, y: m(x))
    explain = Explainer.compile(wrap(net), "gradient")
    equal(explain(X, target=1), wanted)
    with torch.no_grad():
        net[0].weight.mul_(2)
    equal(explain.refresh()(X, target=1), gradients(net, lambda m, x, y: m(x))[0])


def test_a_decoder_with_its_cache() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(
        vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2, bos_token_id=1, eos_token_id=2
    )
    model, ids = transformers.GPT2LMHeadModel(config).eval(), torch.randint(3, 50, (2, 7))
    found = [
        Explainer.compile(model, "gradient", wrt="transformer.wte", output="logits")(ids, **flags, target=(6, 5))
        for flags in ({}, {"use_cache": False})
    ]
    embedded = model.transformer.wte(ids).detach().requires_grad_()
    model(inputs_embeds=embedded).logits[:, 6, 5].sum().backward()
    for each in found:
        equal(each, embedded.grad)


def decoder(name: str) -> Any:
    """As ``from_config`` gives it: its output holds a cache of keys and values."""
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2}
    if name == "GPT2":
        config = transformers.GPT2Config(n_positions=16, n_embd=16, n_layer=2, n_head=2, **sizes)
    else:
        config = transformers.LlamaConfig(
            hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            max_position_embeddings=16, **sizes,
        )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config)
        for parameter in model.parameters():
            parameter.data.mul_(3)  # far from uniform
    assert config.use_cache
    return model


@pytest.mark.parametrize("engine", ["auto", "eager"])
@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_decoders_as_they_come(name: str, engine: str) -> None:
    """Token by token: the change of a logit when the token becomes another, traced and called."""
    model, ids = decoder(name), torch.randint(3, 50, (2, 6), generator=torch.Generator().manual_seed(1))
    explain = Explainer.compile(model, "occlusion", output="logits", engine=engine)
    got = explain(input_ids=ids, target=(5, 7), baseline=0)["input_ids"]
    model.eval()
    want = torch.empty(got.shape)
    with torch.no_grad():
        whole = model(input_ids=ids).logits[:, 5, 7]
        for place in range(6):
            changed = ids.clone()
            changed[:, place] = 0
            want[:, place] = whole - model(input_ids=changed).logits[:, 5, 7]
    assert float(want.abs().max()) > 0.1
    np.testing.assert_allclose(got, want, atol=1e-5 * float(whole.abs().max()) + 1e-5)
    fixed = Explainer.compile(model, "occlusion", output="logits", engine=engine)
    flagged = fixed(input_ids=ids, use_cache=False, target=(5, 7), baseline=0)
    np.testing.assert_allclose(flagged["input_ids"] if isinstance(flagged, dict) else flagged, got, atol=1e-5)


class LoRA(nn.Module):
    """A layer with a trained update of low rank, which takes any arguments, as adapters do."""

    def __init__(self, layer: nn.Linear, rank: int = 2) -> None:
        super().__init__()
        self.layer, self.scale = layer, 2.0
        self.down = nn.ParameterDict({"default": nn.Parameter(torch.randn(rank, layer.in_features))})
        self.up = nn.ParameterDict({"default": nn.Parameter(torch.randn(layer.out_features, rank))})
        self.active = ["default"]

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        result = self.layer(x, *args, **kwargs)
        for name in self.active:
            result = result + self.scale * (x.to(self.down[name].dtype) @ self.down[name].T) @ self.up[name].T
        return result


class Adapted(nn.Module):
    """A wrapper that hands everything on."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = model

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.base_model(*args, **kwargs)


@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_adapters_of_low_rank(engine: str) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        plain = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
        model = Adapted(nn.Sequential(LoRA(plain[0]), nn.Tanh(), LoRA(plain[2])))
    removed = Explainer.compile(model, "feature_ablation", engine=engine)(X, target=1)
    with torch.no_grad():
        changed = [model(X * (torch.arange(6) != place))[:, 1] for place in range(6)]
        want = torch.stack([model(X)[:, 1] - each for each in changed], 1)
    np.testing.assert_allclose(removed, want, atol=1e-5)
    equal(Explainer.compile(model, "gradient", engine=engine)(X, target=1), gradients(model, lambda m, x, y: m(x))[0])


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")  # of transformers, in peft
@pytest.mark.parametrize("engine", ["auto", "eager"])
def test_a_model_of_peft(engine: str) -> None:
    peft = pytest.importorskip("peft")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        settings = peft.LoraConfig(
            task_type="CAUSAL_LM", r=2, lora_alpha=8, target_modules=["c_attn"], init_lora_weights=False,
            fan_in_fan_out=True,
        )  # fmt: skip
        model = peft.get_peft_model(decoder("GPT2"), settings)
    ids = torch.randint(3, 50, (2, 6), generator=torch.Generator().manual_seed(1))
    got = Explainer.compile(model, "occlusion", output="logits", engine=engine)(
        input_ids=ids, target=(5, 7), baseline=0
    )["input_ids"]
    model.eval()
    with torch.no_grad():
        whole, last = model(input_ids=ids).logits[:, 5, 7], ids.clone()
        last[:, 2] = 0
        want = whole - model(input_ids=last).logits[:, 5, 7]
    assert float(want.abs().max()) > 0.01
    np.testing.assert_allclose(got[:, 2], want, atol=1e-4)


# --- functions of tensors --------------------------------------------------------------------

NET = nn.Sequential(nn.Linear(6, 5), nn.Dropout(0.5), nn.Tanh(), nn.Linear(5, 3)).train()


def through_another(x: Tensor) -> Tensor:
    return NET(x).softmax(-1)


def default(x: Tensor, net: nn.Module = NET) -> Tensor:
    return net(x).softmax(-1)


def by_keyword(x: Tensor, *, net: nn.Module = NET) -> Tensor:
    return net(x).softmax(-1)


def closure(net: nn.Module) -> Callable[[Tensor], Tensor]:
    return lambda x: net(x).softmax(-1)


FUNCTIONS = {
    "lambda": lambda x: NET(x).softmax(-1),
    "through another": lambda x: through_another(x),
    "default": default,
    "default by keyword": by_keyword,
    "closure": closure(NET),
    "partial": functools.partial(lambda head, x: head(NET(x)), nn.Softmax(-1)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_explained_as_its_modules_in_inference(name: str) -> None:
    explain = Explainer.compile(FUNCTIONS[name], "gradient", inputs=X)
    wanted = gradients(nn.Sequential(NET, nn.Softmax(-1)).eval(), lambda m, x, y: m(x))[0]
    NET.train()
    equal(explain(X, target=1), wanted)
    assert NET.training
    assert NET[1].training
    equal(Explainer.compile(FUNCTIONS[name], "gradient", backend="torch")(X, target=1), wanted)


def test_a_functions_weights_are_the_modules_own() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()
    explain = Explainer.compile(closure(net), "gradient", inputs=X)
    assert [path for path in explain.graph.scopes() if path == "net.0"]
    with torch.no_grad():
        net[0].weight.mul_(2)
    softened = nn.Sequential(net, nn.Softmax(-1))
    equal(explain.refresh()(X, target=1), gradients(softened, lambda m, x, y: m(x))[0])


def test_a_function_without_a_module() -> None:
    weight = torch.randn(6, 3)
    found = Explainer.compile(lambda x: torch.tanh(x @ weight), "gradient", inputs=X)(X, target=1)
    equal(found, (1 - torch.tanh(X @ weight)[:, 1:2] ** 2) * weight[:, 1])


def test_what_is_no_function_of_tensors() -> None:
    with pytest.raises(InputError, match=r"a builtins\.int is not a torch model"):
        Explainer.compile(3, "gradient", backend="torch")
    with pytest.raises(UnsupportedOperation, match="for a function of tensors say so with backend='torch'"):
        Explainer.compile(closure(NET), "gradient")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scripted = torch.jit.script(nn.Linear(6, 3))
    with pytest.raises(TraceError, match=r"is TorchScript(.|\n)*'exact_shapley' needs only outputs: engine='eager'"):
        Explainer.compile(scripted, "exact_shapley", inputs=X)
    found = Explainer.compile(lambda x: scripted(x), "exact_shapley")(X, target=1)
    equal(found, X * scripted.weight[1].detach())
