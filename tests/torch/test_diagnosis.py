"""Odd models: explained where nothing is wrong with them, else told the true cause and the user's line."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explainers import Explainer
from explainers.errors import ExplainersError, InputError, TraceError, UnsupportedOperation

X = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
WAVES = torch.randn(2, 64, generator=torch.Generator().manual_seed(2))
IMAGES = torch.randn(2, 1, 6, 6, generator=torch.Generator().manual_seed(3))


class Of(nn.Module):
    """A model that is one function, with two layers to use."""

    def __init__(self, function: Callable[[Of, Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 3)
        self.register_buffer("window", torch.hann_window(16))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def experts(self: Of, x: Tensor) -> Tensor:
    """Each sample by its own expert: rows are picked by what the gate says."""
    weight, which = self.b(x)[:, :2].softmax(1).max(1)
    out = torch.zeros(x.shape[0], 6)
    for k, expert in enumerate((self.a, torch.tanh)):
        rows = (which == k).nonzero()[:, 0]
        out[rows] = weight[rows, None] * expert(x[rows])
    return out


def spectrum(self: Of, x: Tensor) -> Tensor:
    z = torch.stft(x, 16, 8, window=self.window, return_complex=True)
    return (z.abs() ** 2 + 1e-3).log().mean(2)


def sampled(self: Of, x: Tensor) -> Tensor:
    theta = self.a(x.flatten(1)[:, :6]).reshape(-1, 2, 3)
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False).flatten(1)


GOOD = {
    "prototypes": (lambda self, x: -torch.cdist(x, self.a.weight), X),
    "manhattan": (lambda self, x: torch.cdist(x, self.a.weight, p=1.0), X),
    "experts": (experts, X),
    "spectrum": (spectrum, WAVES),
    "sampled": (sampled, IMAGES),
}


@pytest.mark.parametrize("name", GOOD)
def test_nothing_is_wrong_with_it(name: str) -> None:
    function, x = GOOD[name]
    model = Of(function).eval()
    leaf = x.clone().requires_grad_()
    model(leaf)[:, 1].sum().backward()
    explain = Explainer.compile(model, "gradient", inputs=x)
    np.testing.assert_allclose(explain(x, target=1), leaf.grad, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(explain(x[:1], target=1), leaf.grad[:1], rtol=1e-4, atol=1e-6)


BAD: dict[str, tuple[Callable[[Of, Tensor], Tensor], type[ExplainersError], str]] = {
    "len": (
        lambda self, x: self.a(x).reshape(len(x), 6), TraceError,
        r"len\(\) of a tensor.*test_diagnosis\.py:\d+ .*x\.shape\[0\]",
    ),
    "a number": (lambda self, x: self.a(x).reshape(3, 6), TraceError, "one batch size only"),
    "int of the size": (lambda self, x: self.a(x) / int(x.shape[0]), TraceError, "one batch size only"),
    "a loop over samples": (
        lambda self, x: torch.stack([self.a(row) for row in x]), TraceError, "one batch size only"
    ),
    "a branch": (lambda self, x: self.a(x) if x.sum() > 0 else x, TraceError, "control flow.*test_diagnosis"),
    "item": (lambda self, x: self.a(x) * x.max().item(), InputError, "samples of a batch see one another"),
    "another width": (lambda self, x: self.b(self.b(x)), TraceError, r"test_diagnosis\.py:\d+.*(mat1|shape)"),
    "an exception": (lambda self, x: {}["missing"], TraceError, "KeyError: 'missing'"),
    "no tensor": (lambda self, x: 3.0, TraceError, "returns no tensor"),
    "random numbers": (lambda self, x: self.a(x) + torch.randn_like(x), TraceError, "draws random numbers"),
    "numpy inside": (
        lambda self, x: torch.tensor(np.tanh(x.detach().numpy())), TraceError,
        r"test_diagnosis.*numpy\(\) is not supported",
    ),
    "integers out": (lambda self, x: self.a(x).argmax(1), InputError, "cannot be explained"),
    "sorted on the way": (lambda self, x: self.a(x).sort(1)[0], UnsupportedOperation, "sort"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_the_true_cause_is_told(name: str) -> None:
    """Always one of our errors, with the cause; DeepLIFT has no rule for a sort."""
    function, kind, words = BAD[name]
    with pytest.raises(kind, match=words) as caught:
        Explainer.compile(Of(function).eval(), "deeplift", inputs=X)(X, target=1)
    assert "please report" not in str(caught.value)
