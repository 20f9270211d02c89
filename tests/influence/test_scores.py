"""Influences in blocks: in memory, on disk, on dask; what is saved; bad input; the model stays as it is."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from explainers.errors import ArtifactError, InputError, NonFiniteError, TargetError, UnknownNameError
from explainers.influence import EKFAC, ConjugateGradient, Influence

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((300, 6)).astype(np.float32), RNG.integers(0, 3, 300)
TESTS = X[:50], Y[:50]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 3)).eval()


@pytest.fixture(scope="module")
def fitted() -> Any:
    return Influence.compile(network(), inputs=X[:2]).fit((X, Y))


def test_every_grid_gives_the_same(fitted: Any) -> None:
    whole = fitted(TESTS)
    assert whole.shape == (50, 300)
    for chunks in ((7, 33), (50, 1), (1, 300), (500, 5000)):
        np.testing.assert_allclose(fitted.lazy(TESTS, chunks=chunks).compute(), whole, atol=1e-5 * abs(whole).max())
    np.testing.assert_allclose(fitted.from_factors(fitted.factors(TESTS)), whole, atol=1e-5 * abs(whole).max())
    largest = fitted.lazy(TESTS, chunks=(20, 70)).top(4)
    np.testing.assert_array_equal(largest.indices, np.argsort(-whole, axis=1)[:, :4])
    lowest = fitted.lazy(TESTS, chunks=(20, 70)).top(4, lowest=True)
    np.testing.assert_allclose(lowest.scores, np.sort(whole, axis=1)[:, :4], rtol=1e-4)
    for bad in ((0, 5), (5,), "auto", (2.5, 3)):
        with pytest.raises(InputError, match="chunks must be two numbers"):
            fitted.lazy(TESTS, chunks=bad)
    with pytest.raises(InputError, match="k must be from 1 to 300"):
        fitted.lazy(TESTS).top(0)


def test_forms_of_samples(fitted: Any) -> None:
    whole = fitted(TESTS)
    inputs, target = fitted.influence.signature.names[0], "target"
    forms = [
        (torch.from_numpy(TESTS[0]), torch.from_numpy(TESTS[1])), [TESTS[0].tolist(), TESTS[1].tolist()],
        {inputs: TESTS[0], target: TESTS[1]}, ({inputs: TESTS[0]}, TESTS[1]), (TESTS[0], TESTS[1].astype(np.int32)),
        torch.utils.data.TensorDataset(torch.from_numpy(TESTS[0]), torch.from_numpy(TESTS[1])),
    ]  # fmt: skip
    for form in forms:
        form = (np.float32(form[0]), form[1]) if isinstance(form, list) else form
        np.testing.assert_array_equal(fitted(form), whole)


def test_bad_samples(fitted: Any) -> None:
    spoilt = TESTS[0].copy()
    spoilt[7, 2] = np.nan
    cases: list[tuple[Any, type[Exception], str]] = [
        (iter([TESTS]), InputError, "cannot be read at any place and again"),
        (torch.utils.data.DataLoader([(X[0], Y[0])]), InputError, "what it loads from"),
        ((X[:3],), InputError, "1 array given"), (X, InputError, "without targets"),
        ((X[:3], Y[:2]), InputError, "different numbers of samples"),
        ((X[0], Y[0]), InputError, "batch axis is missing"),
        ((X[:3, :4], Y[:3]), InputError, "has shape"), ((X[:3], Y[:3] + 3), TargetError, "is not among the 3"),
        ((X[:3], Y[:3] * 1.0), TargetError, "needs classes, as integers"), ((X[:0], Y[:0]), InputError, "no samples"),
        ((spoilt, TESTS[1]), NonFiniteError, "sample 7"),
    ]  # fmt: skip
    for source, kind, text in cases:
        with pytest.raises(kind, match=text):
            fitted(source)


def test_bad_models() -> None:
    model = network()
    with pytest.raises(UnknownNameError, match="cross_entropy"):
        Influence.compile(model, "crossentropy", inputs=X[:2])
    with pytest.raises(UnknownNameError, match="weight"):
        Influence.compile(model, inputs=X[:2], wrt="0.weigth")
    with pytest.raises(InputError, match="do not average over samples"):
        Influence.compile(model, lambda f, y: ((f - y) ** 2).mean(), inputs=X[:2], targets=np.zeros((2, 3), np.float32))
    with pytest.raises(InputError, match="needs targets="):
        Influence.compile(model, lambda f, y: ((f - y) ** 2).sum(1), inputs=X[:2])
    with pytest.raises(InputError, match="does not declare its inputs"):
        Influence.compile(model)
    with pytest.raises(InputError, match="take 'binary_cross_entropy'"):
        Influence.compile(nn.Linear(6, 1), inputs=X[:2])
    with pytest.raises(InputError, match="pads them"):
        Influence.compile(model, inputs=X[:2], engine="inductor")


def test_saved(fitted: Any, tmp_path: Path) -> None:
    file = tmp_path / "fitted.safetensors"
    for method in (EKFAC(), ConjugateGradient(draws=1)):
        own = Influence.compile(network(), method=method, inputs=X[:2])
        made = own.fit((X, Y))
        made.save(file)
        np.testing.assert_array_equal(own.load(file, (X, Y))(TESTS), made(TESTS))
    with pytest.raises(InputError, match="give load\\(\\) train="):
        own.load(file)((X[:2], Y[:2]), (X, Y))
    with pytest.raises(ArtifactError, match="not of this influence: its method"):
        fitted.influence.load(file)
    with pytest.raises(ArtifactError, match="300 samples"):
        own.load(file, (X[:5], Y[:5]))
    fitted.save(file)
    other = network()
    with torch.no_grad():
        other[0].bias.add_(1)
    with pytest.raises(ArtifactError, match="hash of all weights"):
        Influence.compile(other, inputs=X[:2]).load(file)
    with pytest.raises(ArtifactError, match="cannot be read"):
        fitted.influence.load(tmp_path / "none.safetensors")


def test_the_model_is_untouched_and_later_training_changes_nothing(fitted: Any) -> None:
    model = network().train()
    before = {name: (p.clone(), p.requires_grad, p.grad) for name, p in model.named_parameters()}
    own = Influence.compile(model, inputs=X[:2]).fit((X, Y))
    first = own(TESTS)
    assert model.training
    for name, p in model.named_parameters():
        value, grad, derivative = before[name]
        assert torch.equal(p, value)
        assert (p.requires_grad, p.grad) == (grad, derivative)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1.0)
    np.testing.assert_array_equal(own(TESTS), first)
    np.testing.assert_array_equal(fitted(TESTS), first)  # in evaluation mode, as other explanations


def test_threads(fitted: Any) -> None:
    whole, found = fitted(TESTS), {}

    def run(place: int) -> None:
        found[place] = fitted(TESTS)

    threads = [threading.Thread(target=run, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for result in found.values():
        np.testing.assert_array_equal(result, whole)
    assert len(found) == 4


def test_dask(fitted: Any) -> None:
    pytest.importorskip("dask")
    lazy = fitted.lazy(TESTS, chunks=(20, 130)).to_dask()
    assert lazy.chunks == ((20, 20, 10), (130, 130, 40))
    whole = fitted(TESTS)
    np.testing.assert_allclose(lazy.compute(), whole, atol=1e-5 * abs(whole).max())


SCRIPT = """
import sys, time
import numpy as np, torch
from explainers.influence import Influence
from tests.influence.test_scores import X, Y, network
from explainers.influence import scores
kept = scores.Store.keep
def slow(self):
    kept(self)
    print(self.done, flush=True)
    time.sleep(float(sys.argv[2]))
scores.Store.keep = slow
fitted = Influence.compile(network(), inputs=X[:2]).fit((X, Y))
fitted.lazy((X, Y), chunks=(10, 90)).to_zarr(sys.argv[1])
"""


def test_killed_and_resumed(fitted: Any, tmp_path: Path) -> None:
    zarr = pytest.importorskip("zarr")
    whole, killed = tmp_path / "whole.zarr", tmp_path / "killed.zarr"
    fitted.lazy((X, Y), chunks=(10, 90)).to_zarr(whole)
    run = subprocess.Popen([sys.executable, "-c", SCRIPT, str(killed), "0.2"], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    while int(run.stdout.readline()) < 40:
        time.sleep(0.01)
    run.send_signal(signal.SIGKILL)
    run.wait()
    run.stdout.close()
    assert not killed.exists()
    with pytest.raises(InputError, match="part of another run"):
        fitted.replace(damping=1.0).lazy((X, Y), chunks=(10, 90)).to_zarr(killed)
    fitted.lazy((X, Y), chunks=(10, 90)).to_zarr(killed)
    parts = [{f.relative_to(p): f.read_bytes() for f in p.rglob("c/*/*")} for p in (whole, killed)]
    assert len(parts[0]) >= 30
    assert parts[0] == parts[1]
    np.testing.assert_allclose(
        zarr.open_group(str(killed), mode="r")["influence"][:], fitted((X, Y)), rtol=1e-3, atol=1e-3
    )
    with pytest.raises(InputError, match="exists"):
        fitted.lazy((X, Y), chunks=(10, 90)).to_zarr(killed)
    with pytest.raises(InputError, match="must be called"):
        fitted.lazy((X, Y)).to_zarr(tmp_path / "scores.npy")


def test_mislabelled_samples_have_a_large_influence_on_themselves() -> None:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    x, y = (x[:800] / 16).astype(np.float32), y[:800].copy()
    wrong = RNG.permutation(800)[:40]
    y[wrong] = (y[wrong] + RNG.integers(1, 10, 40)) % 10
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2, weight_decay=1e-3)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(torch.from_numpy(x)), torch.from_numpy(y)).backward()
        optimizer.step()
    scores = Influence.compile(model.eval(), inputs=x[:2]).fit((x, y)).self_influence()
    suspects = np.argsort(-scores)[:80]
    assert np.isin(wrong, suspects).mean() >= 0.8
