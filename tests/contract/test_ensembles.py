"""Ensembles: equal to a loop of separate explainers, one by one and together; isolation; states; losses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from explainers import Ensemble, Explainer
from explainers.errors import ArtifactError, InputError, TargetError, UnsupportedOperation
from explainers.explainer import ensembles

MEMBERS = 3


def convolutional() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 3, 2),
        nn.GroupNorm(1, 3), nn.GELU(), nn.Flatten(), nn.Linear(12, 4), nn.PReLU(4), nn.Linear(4, 3),
    )  # fmt: skip
    model[1].running_mean.normal_()
    model[1].running_var.uniform_(0.5, 2.0)
    return model.eval()


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(10, 8), nn.Parameter(torch.randn(5, 8))
        self.encoder = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
        self.head = nn.Linear(8, 3)

    def forward(self, ids: Any) -> Any:
        return self.head(self.encoder(self.embed(ids) + self.place).mean(1))


class Sequence(nn.Module):
    """Normed tokens with a weight that is made of others."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.dense = nn.LayerNorm(4), nn.utils.parametrizations.weight_norm(nn.Linear(4, 6))
        self.conv, self.head, self.scale = nn.Conv1d(6, 3, 2), nn.Linear(3, 3), nn.Parameter(torch.randn(6))

    def forward(self, x: Any) -> Any:
        x = torch.tanh(self.dense(self.norm(x)) * self.scale)
        return self.head(self.conv(x.transpose(1, 2)).amax(-1))


def dense() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).eval()


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "dense": (dense, lambda: torch.randn(4, 6)),
    "convolutional": (convolutional, lambda: torch.randn(4, 2, 6, 6)),
    "sequence": (lambda: Sequence().eval(), lambda: torch.randn(4, 5, 4)),
}
METHODS = (
    "gradient", "integrated_gradients", "deeplift", "occlusion",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("smoothgrad", "gradient_shap", "shapley_sampling")),
)  # fmt: skip


def trained(name: str) -> tuple[list[nn.Module], Any]:
    torch.manual_seed(0)
    make, inputs = MODELS[name]
    return [make() for _ in range(MEMBERS)], inputs()


@pytest.fixture(params=[True, False], ids=["together", "one by one"])
def together(request: Any, monkeypatch: pytest.MonkeyPatch) -> bool:
    def chosen(one: Callable[[], Any], other: Callable[[], Any]) -> bool:
        try:
            one()
        except Exception as error:  # it would be taken one by one without a word
            raise AssertionError("all members at once do not run") from error
        return bool(request.param)

    monkeypatch.setattr(ensembles, "_faster", chosen)
    return bool(request.param)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", MODELS)
def test_equals_a_loop(name: str, method: str, together: bool) -> None:
    models, x = trained(name)
    alone = [Explainer.compile(model, method, inputs=x) for model in models]
    ensemble = Explainer.compile(models, method, inputs=x)
    given = {"target": [0, 2, 1, 1]} | ({"seed": 5} if alone[0].method.sampled else {})
    wanted = np.stack([explain(x, **given).numpy() for explain in alone])
    found = ensemble(x, **given)
    assert isinstance(found, torch.Tensor)
    np.testing.assert_allclose(found.numpy(), wanted, atol=2e-6 * abs(wanted).max(), rtol=1e-5)
    assert ensemble.stats.model_traces == 1
    first = ensemble(x[:1], **(given | {"target": 0})).numpy()[:, 0]
    np.testing.assert_allclose(first, wanted[:, 0], atol=2e-6 * abs(wanted).max(), rtol=1e-5)


def test_tokens_and_layers(together: bool) -> None:
    torch.manual_seed(0)
    models, ids = [Attention().eval() for _ in range(MEMBERS)], torch.randint(0, 10, (4, 5))
    for method in ("gradient", "integrated_gradients"):
        alone = [Explainer.compile(model, method, inputs=ids, wrt="embed") for model in models]
        ensemble = Explainer.compile(models, method, inputs=ids, wrt="embed")
        wanted = np.stack([explain(ids, target=1).numpy() for explain in alone])
        np.testing.assert_allclose(ensemble(ids, target=1).numpy(), wanted, atol=2e-6 * abs(wanted).max())


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "deeplift", "occlusion"])
def test_keras(method: str, together: bool) -> None:
    keras = pytest.importorskip("keras")

    def make(seed: int) -> Any:
        keras.utils.set_random_seed(seed)
        L = keras.layers
        layers = [
            L.Conv2D(4, 3, padding="same"), L.BatchNormalization(), L.Activation("gelu"), L.Conv2D(3, 2),
            L.LayerNormalization(), L.Flatten(), L.Dense(3),
        ]  # fmt: skip
        model = keras.Sequential([keras.Input((6, 6, 2)), *layers])
        random = np.random.default_rng(seed)
        moved = [w + abs(random.normal(size=w.shape)) for w in model.layers[1].get_weights()]
        model.layers[1].set_weights(moved)
        return model

    models = [make(seed) for seed in range(MEMBERS)]
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype(np.float32)
    wanted = np.stack([Explainer.compile(model, method)(x, target=[0, 2, 1, 1]) for model in models])
    ensemble = Explainer.compile(models, method)
    np.testing.assert_allclose(ensemble(x, target=[0, 2, 1, 1]), wanted, atol=5e-6 * abs(wanted).max())
    states = Explainer.compile(Ensemble(models[0], [model.get_weights() for model in models]), method)
    np.testing.assert_allclose(states(x, target=[0, 2, 1, 1]), wanted, atol=5e-6 * abs(wanted).max())
    np.testing.assert_allclose(ensemble.predict(x), np.stack([model(x).numpy() for model in models]), atol=1e-5)


def test_states_methods_and_refresh() -> None:
    models, x = trained("dense")
    state = Ensemble(models[0], [model.state_dict() for model in models])
    gradient, occlusion = Explainer.compile(state, ["gradient", "occlusion"], inputs=x)
    assert len(gradient) == MEMBERS
    wanted = []
    for method in ("gradient", "occlusion"):
        alone = [Explainer.compile(model, method, inputs=x) for model in models]
        wanted.append(np.stack([explain(x, target=0).numpy() for explain in alone]))
    for ensemble, own in zip((gradient, occlusion), wanted, strict=True):
        np.testing.assert_allclose(ensemble(x, target=0).numpy(), own, atol=1e-6)
    before = {name: weight.clone() for name, weight in models[0].state_dict().items()}
    for name, weight in models[0].state_dict().items():
        assert torch.equal(weight, before[name])
    with torch.no_grad():
        models[1][0].weight.zero_()
    changed = gradient.refresh()(x, target=0).numpy()
    assert abs(changed[1]).max() == 0
    np.testing.assert_allclose(changed[[0, 2]], wanted[0][[0, 2]], atol=1e-6)


def test_explanation() -> None:
    models, x = trained("convolutional")
    found = Explainer.compile(models, "deeplift", inputs=x).explanation(x.numpy(), target=0)
    assert found.attributions.shape == (MEMBERS, 4, 2, 6, 6)
    np.testing.assert_allclose(found.mean, found.attributions.mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.spread, found.attributions.std(0, ddof=1), rtol=1e-4, atol=1e-6)
    wanted = np.stack([model(x).detach().numpy() for model in models])
    np.testing.assert_allclose(found.outputs, wanted, atol=1e-5)
    share = (np.sign(found.attributions) == np.sign(found.mean)).mean(0)
    np.testing.assert_allclose(found.agreement, share, atol=1e-6)
    assert [len(member.attributions) for member in found.members] == [4] * MEMBERS


def test_losses_and_topk() -> None:
    models, x = trained("dense")
    y = np.array([0, 2, 1, 1])
    ensemble = Explainer.compile(models, "gradient", inputs=x)
    outputs = [model(x) for model in models]
    wanted = [nn.functional.cross_entropy(f, torch.from_numpy(y)).item() for f in outputs]
    np.testing.assert_allclose(ensemble.losses(x, y), wanted, rtol=1e-5)
    np.testing.assert_allclose(ensemble.losses(x.numpy(), y), wanted, rtol=1e-5)
    top = ensemble.topk(x, y, (1, 2))
    for row, k in zip(top, (1, 2), strict=True):
        hits = [(f.topk(k).indices == torch.from_numpy(y)[:, None]).any(1).double().mean().item() for f in outputs]
        np.testing.assert_allclose(row, hits)
    assert ensemble.topk(x, y, 1).shape == (MEMBERS,)
    np.testing.assert_array_equal(ensemble.topk(x, y), top[:1])
    with pytest.raises(TargetError, match="classes are 0 … 2; one is 7"):
        ensemble.topk(x, [0, 7, 1, 1])
    with pytest.raises(InputError, match="k must be"):
        ensemble.topk(x, y, True)
    with pytest.raises(ArtifactError, match="no file form"):
        ensemble.save("file")
    moving = x.clone().requires_grad_(True)
    (derivative,) = torch.autograd.grad(ensemble.losses(moving, y).sum(), moving)
    plain = x.clone().requires_grad_(True)
    total = sum(nn.functional.cross_entropy(model(plain), torch.from_numpy(y)) for model in models)
    (own,) = torch.autograd.grad(total, plain)
    np.testing.assert_allclose(derivative.numpy(), own.numpy(), atol=1e-6)
    with pytest.raises(TargetError, match="one class for each sample"):
        ensemble.topk(x, y[:2])
    with pytest.raises(InputError, match="k must be from 1 to 3"):
        ensemble.topk(x, y, 5)


def test_members_do_not_see_one_another(together: bool) -> None:
    models, x = trained("convolutional")
    ensemble = Explainer.compile(models, "integrated_gradients", inputs=x)
    first = ensemble(x, target=0).numpy()
    with torch.no_grad():
        for weight in models[1].parameters():
            weight.mul_(100.0)
    second = ensemble.refresh()(x, target=0).numpy()
    np.testing.assert_array_equal(first[[0, 2]], second[[0, 2]])
    assert abs(second[1] - first[1]).max() > 1


def test_each_member_has_its_own_largest_output(together: bool) -> None:
    models, x = trained("dense")
    assert len({tuple(model(x).argmax(1).tolist()) for model in models}) > 1
    for method in ("gradient", "integrated_gradients", "feature_ablation"):
        wanted = [Explainer.compile(model, method, inputs=x)(x, target="max").numpy() for model in models]
        found = Explainer.compile(models, method, inputs=x)(x, target="max").numpy()
        np.testing.assert_allclose(found, np.stack(wanted), atol=1e-6)


class Coupled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.head(x - x.mean(0))


def test_samples_that_interact_do_so_within_a_member(together: bool) -> None:
    torch.manual_seed(0)
    models, x = [Coupled() for _ in range(MEMBERS)], torch.randn(4, 6)
    wanted = [Explainer.compile(m, "gradient", inputs=x, interacting=True)(x, target=0).numpy() for m in models]
    found = Explainer.compile(models, "gradient", inputs=x, interacting=True)(x, target=0).numpy()
    np.testing.assert_allclose(found, np.stack(wanted), atol=1e-6)


def test_training_changes_nothing_before_a_refresh(together: bool) -> None:
    models, x = trained("dense")
    ensemble = Explainer.compile(models, "gradient", inputs=x)
    first, outputs = ensemble(x, target=0).numpy(), ensemble.predict(x).numpy()
    with torch.no_grad():
        models[1][0].weight.mul_(2.0)
    np.testing.assert_array_equal(ensemble(x, target=0).numpy(), first)
    np.testing.assert_array_equal(ensemble.predict(x).numpy(), outputs)
    assert abs(ensemble.refresh()(x, target=0).numpy() - first).max() > 0.01


def test_bad_ensembles() -> None:
    models, x = trained("dense")
    with pytest.raises(InputError, match="list of models is empty"):
        Explainer.compile([], "gradient")
    with pytest.raises(InputError, match="is one model"):
        Explainer.compile([models, models], "gradient")
    with pytest.raises(InputError, match="needs states"):
        Explainer.compile(Ensemble(models[0], []), "gradient", inputs=x)
    with pytest.raises(InputError, match="member 1 of 0 … 1: the models are not of one architecture"):
        Explainer.compile([models[0], nn.Linear(6, 3)], "gradient", inputs=x)
    relu = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(InputError, match="not of one architecture"):
        Explainer.compile([models[0], relu], "gradient", inputs=x)
    wide = {name: weight[:1] for name, weight in models[0].state_dict().items()}
    with pytest.raises(InputError, match="member 0 of 0 … 0: weight '0\\.weight' has shape"):
        Explainer.compile(Ensemble(models[0], [wide]), "gradient", inputs=x)
    with pytest.raises(InputError, match="lacks the weights"):
        Explainer.compile(Ensemble(models[0], [{"0.weight": models[0][0].weight}]), "gradient", inputs=x)
    with pytest.raises(InputError, match="does not declare its inputs"):
        Explainer.compile(models, "gradient")
    with pytest.raises(UnsupportedOperation, match="traced torch or Keras model"):
        Explainer.compile([lambda x: x.sum(1), lambda x: x.sum(1)], "feature_ablation", inputs=x.numpy())

    with pytest.raises(InputError, match="see one another"):
        Explainer.compile([Coupled(), Coupled()], "gradient", inputs=x)
