"""Operations of users' own libraries: what is known of them, and what `register_operation` says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from explainers import Explainer, methods
from explainers.errors import InputError, UnknownNameError, UnsupportedOperation
from explainers.graph import Role
from explainers_torch import register_operation
from explainers_torch.trace import OWN_LIBRARIES


def library(
    name: str, run: Callable[[torch.Tensor], torch.Tensor], derivative: Callable[[torch.Tensor], torch.Tensor]
) -> torch.library.CustomOpDef:
    """An elementwise operation with its derivative, and nothing else known of it."""

    def f(x: torch.Tensor) -> torch.Tensor:
        return run(x).clone()

    made = torch.library.custom_op(f"mine::{name}", f, mutates_args=(), schema="(Tensor x) -> Tensor")
    made.register_fake(torch.empty_like)
    made.register_autograd(
        lambda ctx, m: m * derivative(ctx.saved_tensors[0]),
        setup_context=lambda ctx, inputs, output: ctx.save_for_backward(inputs[0]),
    )
    return made


WAVE = library("wave", torch.sin, torch.cos)
RELU = library("relu", lambda x: -x.clamp(max=0), lambda x: -(x < 0).to(x.dtype))  # of the same name as torch's
HALF = library("half_it", lambda x: x / 2, lambda x: torch.full_like(x, 0.5))


class Net(torch.nn.Module):
    def __init__(self, operation: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.operation = operation
        self.first, self.last = torch.nn.Linear(5, 7), torch.nn.Linear(7, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.operation(self.first(x)))


X = torch.randn(4, 5, generator=torch.Generator().manual_seed(1))


def test_an_operation_of_the_same_name_is_not_torchs() -> None:
    """`mine::relu` is no ReLU: nothing but its derivative is known."""
    with pytest.raises(UnsupportedOperation, match=r"mine\.relu"):
        Explainer.compile(Net(RELU), "deeplift", inputs=X)
    wanted = X.clone().requires_grad_()
    Net(RELU)(wanted)[:, 1].sum().backward()
    for method in ("gradient", "guided_backprop"):  # guided backprop bends torch's only
        found = Explainer.compile(Net(RELU), method, inputs=X)(X, target=1)
        torch.testing.assert_close(found, wanted.grad)


def test_what_is_registered_has_the_rules_of_its_role() -> None:
    for operation, role, function, plain in (
        (WAVE, Role.UNIVARIATE, "", torch.sin),
        (HALF, "linear", "scale", lambda x: x / 2),
    ):
        with pytest.raises(UnsupportedOperation):
            Explainer.compile(Net(operation), "deeplift", inputs=X)
        register_operation(operation, role, function)
        register_operation(operation._qualname, role, function)  # once more says nothing new
        for method in ("deeplift", methods.DeepLift(rule="revealcancel"), "lrp", "elrp", "integrated_gradients"):
            found = Explainer.compile(Net(operation), method, inputs=X)
            known = Explainer.compile(Net(plain), method, inputs=X)
            options = {} if method in ("lrp", "elrp") else {"baseline": 0.1}
            torch.testing.assert_close(found(X, target=2, **options), known(X, target=2, **options))
        assert "unsupported" not in {row.exactness for row in found.coverage}


def test_what_says_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="has the role 'univariate' already"):
        register_operation("aten::relu", "univariate")
    with pytest.raises(InputError, match="has the role 'linear' already"):
        register_operation(torch.ops.aten.add.Tensor, "linear")
    with pytest.raises(InputError, match="library::name"):
        register_operation("relu", "univariate")
    with pytest.raises(InputError, match="cannot be registered with the role 'input'"):
        register_operation("mine::other", Role.INPUT)
    with pytest.raises(UnknownNameError, match="unknown role 'bent'"):
        register_operation("mine::other", "bent")
    with pytest.raises(InputError, match="a copy, a scale or neither"):
        register_operation("mine::other", "linear", "dense")
    with pytest.raises(InputError, match="tells linear operations apart"):
        register_operation("mine::other", "univariate", "scale")
    register_operation("mine::another", "linear")
    with pytest.raises(InputError, match="registered as 'linear' before"):
        register_operation("mine::another", "gather")


def test_the_librarys_own_operations_keep_their_names() -> None:
    assert {"aten", "explainers_recurrent"} <= set(OWN_LIBRARIES)
    net = torch.nn.GRU(5, 6, batch_first=True)
    explain = Explainer.compile(net, "saliency", inputs=torch.randn(2, 3, 5), output="0")
    assert Role.COMPOSITE.value in {row.role for row in explain.coverage}
    assert np.isfinite(explain(torch.randn(2, 3, 5), target=(0, 1)).numpy()).all()
