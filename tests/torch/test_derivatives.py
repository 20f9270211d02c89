"""Gradients are the model's own: complex values, no_grad blocks, own backwards; in whatever mode the caller is."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from explainers import Explainer
from explainers.errors import InputError, UnsupportedOperation

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))


def autograd(model: nn.Module, x: Tensor, target: int = 1) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(model(leaf)[:, target].sum(), leaf)[0]


class Between(nn.Module):
    """A function between two dense layers."""

    def __init__(self, function: Any, width: int = 6) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.function = nn.Linear(6, 6), nn.Linear(width, 3), function

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


# --- complex values --------------------------------------------------------------------------


def fnet(h: Tensor) -> Tensor:
    """FNet's mixing (Lee-Thorp et al. 2021): the real part of a Fourier transform."""
    return torch.fft.fft(h).real + h


def filtered(h: Tensor) -> Tensor:
    """GFNet and Hyena: a product in the frequencies, learnt or long."""
    return torch.fft.irfft(torch.fft.rfft(h) * torch.linspace(0.5, 2, 4) * 1j, n=6)


def convolved(h: Tensor) -> Tensor:
    """A product of two spectra that both move."""
    return torch.fft.irfft(torch.fft.rfft(h) * torch.fft.rfft(torch.tanh(h)), n=6)


def rotary(h: Tensor) -> Tensor:
    """LLaMA's rotary positions as complex numbers."""
    turns = torch.polar(torch.ones(3), torch.arange(3.0))
    return torch.view_as_real(torch.view_as_complex(h.reshape(-1, 3, 2)) * turns).flatten(1)


def magnitude(h: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(h)
    return torch.cat([spectrum.abs(), torch.log1p(spectrum.real**2)[:, :2]], 1)


COMPLEX = [fnet, filtered, convolved, rotary, magnitude]


@pytest.mark.parametrize("engine", ["torchscript", "eager"])
@pytest.mark.parametrize("function", COMPLEX)
def test_complex_values_are_differentiable(function: Any, engine: str) -> None:
    model = Between(function).eval()
    explain = Explainer.compile(model, "gradient", inputs=X, engine=engine)
    torch.testing.assert_close(explain(X, target=1), autograd(model, X))


@pytest.mark.parametrize("function", COMPLEX)
def test_integrated_gradients_through_complex_values_are_complete(function: Any) -> None:
    found = Explainer.compile(Between(function).eval(), "integrated_gradients").explanation(X, target=1)
    assert abs(found.completeness_gap).max() <= 1e-2 * abs(found.outputs).max()


@pytest.mark.parametrize("method", ["deeplift", "lrp", "elrp"])
def test_other_rules_refuse_complex_values_by_name(method: str) -> None:
    with pytest.raises(UnsupportedOperation, match="complex numbers"):
        Explainer.compile(Between(fnet).eval(), method, inputs=X)


# --- what forward switches off ---------------------------------------------------------------


def gate_without_grad(h: Tensor) -> Tensor:
    with torch.no_grad():
        g = torch.sigmoid(h)
    return g * h


@torch.no_grad()
def decorated(h: Tensor) -> Tensor:
    return torch.tanh(h) * 2


def switched(h: Tensor) -> Tensor:
    with torch.set_grad_enabled(False):
        g, k = torch.sigmoid(h), torch.tanh(h)
    with torch.no_grad(), torch.enable_grad():
        g = g * h
    return g * h + k


STOPPED = [gate_without_grad, lambda h: decorated(h) + h, switched, lambda h: h.detach() * h]


@pytest.mark.parametrize("function", STOPPED)
def test_no_grad_counts_as_the_framework_counts_it(function: Any) -> None:
    model = Between(function).eval()
    torch.testing.assert_close(Explainer.compile(model, "gradient")(X, target=1), autograd(model, X))


@pytest.mark.parametrize("function", [decorated, lambda h: h.detach().exp(), lambda h: (h > 0).to(h.dtype)])
def test_a_derivative_that_is_stopped_everywhere_is_an_error(function: Any) -> None:
    with pytest.raises(InputError, match="no derivative leads"):
        Explainer.compile(Between(function).eval(), "gradient", inputs=X)


# --- own backwards ---------------------------------------------------------------------------


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Tensor:
        return -g


class StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, levels: int) -> Tensor:
        return (x * levels).round() / levels

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None]:
        return g, None


class Scaled(torch.autograd.Function):
    """Two tensors in, two out, in the newer style, with a backward that looks at what was saved."""

    @staticmethod
    def forward(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return x * y, x + y

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, g: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        x, y = ctx.saved_tensors
        return 0.5 * g * y + k, 0.25 * g * x - k


OWN = [
    Reverse.apply,
    lambda h: StraightThrough.apply(h, 4),
    lambda h: sum(Scaled.apply(h, torch.tanh(h))),
    lambda h: Reverse.apply(StraightThrough.apply(h, 8)) * Reverse.apply(h),
]


@pytest.mark.parametrize("engine", ["torchscript", "eager"])
@pytest.mark.parametrize("function", OWN)
def test_own_backwards_are_the_users(function: Any, engine: str) -> None:
    model = Between(function).eval()
    explain = Explainer.compile(model, "gradient", inputs=X, engine=engine)
    torch.testing.assert_close(explain(X, target=1), autograd(model, X))
    torch.testing.assert_close(explain.predict(X), model(X).detach())


@pytest.mark.parametrize("method", ["deeplift", "lrp", "guided_backprop", "deconvnet", "zero"])
def test_other_rules_refuse_own_backwards_by_name(method: str) -> None:
    with pytest.raises(UnsupportedOperation, match=r"Reverse\.apply"):
        Explainer.compile(Between(Reverse.apply).eval(), method, inputs=X)


# --- ambient modes ---------------------------------------------------------------------------


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


MODES: dict[str, Any] = {
    "inference_mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "default dtype": lambda: default_dtype(torch.float64),
    "default device": lambda: torch.device("meta"),
}


FIRST = ("inference_mode", "autocast")


class Made(nn.Module):
    """Makes a tensor on its way."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 20), nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.relu(self.a(x + torch.zeros(6, device=x.device))))


WHEN = ("compile", "first call", "later call", "load")


@functools.cache
def plainly(method: str) -> Tensor:
    return Explainer.compile(Made().eval(), method, inputs=X)(X, target=1)


@pytest.mark.parametrize(
    ("method", "mode", "when"),
    [
        pytest.param(method, mode, when, marks=[] if method == "gradient" or mode in FIRST else [pytest.mark.slow])
        for method in ("gradient", "deeplift", "occlusion")
        for mode in MODES
        for when in WHEN
    ],
)
def test_results_do_not_depend_on_the_callers_mode(method: str, mode: str, when: str, tmp_path: Any) -> None:
    model, want = Made().eval(), plainly(method)
    ambient = dict.fromkeys(WHEN, contextlib.nullcontext)
    ambient[when] = MODES[mode]
    with ambient["compile"]():
        explain = Explainer.compile(model, method, **({"inputs": X} if when == "compile" else {}))
    with ambient["first call"]():
        torch.testing.assert_close(explain(X, target=1), want, rtol=0, atol=0)
    with ambient["later call"]():
        torch.testing.assert_close(explain(X, target=1), want, rtol=0, atol=0)
    if when == "load":
        explain.save(tmp_path / "a.explainer")
        with ambient["load"]():
            torch.testing.assert_close(Explainer.load(tmp_path / "a.explainer")(X, target=1), want, rtol=0, atol=0)
    torch.testing.assert_close(explain(X, target=1), want, rtol=0, atol=0)
    assert torch.is_grad_enabled()
    assert torch.get_default_dtype() is torch.float32
