"""Functions from ids to logits as models of the log-probabilities of given tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from explainers.backend import TokenModel
from explainers.errors import InputError
from explainers.spec import Numpy

PROBE = np.array([[0, 1, 1], [1, 0, 1]])  # ids that every vocabulary has


def token_model(model: Any) -> TokenModel:
    """See :meth:`explainers.backend.Models.token_model`."""
    vocabulary = _probed(model)

    def scores(ids: Numpy, positions: Numpy, chosen: Numpy) -> Numpy:
        logits = np.asarray(model(ids))
        rows = np.take_along_axis(logits, positions[..., None], axis=1)
        rows = rows - rows.max(axis=-1, keepdims=True)
        wanted = np.take_along_axis(rows, chosen[..., None], axis=-1)[..., 0]
        log_probabilities: Numpy = wanted - np.log(np.exp(rows).sum(axis=-1))
        return log_probabilities

    return TokenModel(scores, vocabulary)


def _probed(model: Any) -> int:
    """V, from the logits of short sequences; checks that later tokens do not change earlier logits."""
    logits, shorter = np.asarray(model(PROBE)), np.asarray(model(PROBE[:, :2]))
    if logits.ndim != 3 or logits.shape[:2] != PROBE.shape or logits.dtype.kind != "f":
        raise InputError(
            f"a language model returns logits (N, L, V); for ids of shape {PROBE.shape} this one returns "
            f"{logits.dtype} of shape {logits.shape}"
        )
    if not np.allclose(shorter, logits[:, :2], rtol=0, atol=1e-3 * float(abs(logits).max()) + 1e-6):
        raise InputError(
            "the model is not causal: its logits at a position change with the tokens behind it. Only causal language "
            "models give the log-probability of each output token in one run"
        )
    return int(logits.shape[-1])
