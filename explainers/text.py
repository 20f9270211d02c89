"""Language models: how much each token of a prompt contributes to each token of the output.

:class:`TokenExplainer` explains log p(output_t | prompt, output_<t) for all output tokens of a prompt in one call.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from . import methods
from .backend import Backend, TokenModel, find
from .errors import BaselineError, InputError, UnknownNameError, UnsupportedOperation
from .explainer.api import Explainer
from .explainer.bind import to_numpy
from .methods import Method
from .methods.base import one_of
from .rules import GRADIENT
from .run.call import Stats
from .spec import Numpy, References, TensorSpec
from .words import Groups, resolve_groups, word_groups

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["TokenExplainer", "TokenExplanation", "word_groups"]

SHORTEST = 32  # tokens of the shortest sequence that engines with fixed lengths compile
FEWEST = 8  # outputs of the smallest set that is compiled


@dataclass(frozen=True, eq=False)
class TokenExplanation:
    """The attributions of T output tokens to the F features of a prompt, which are its tokens or its words.

    Attributes
    ----------
    attributions: (T, F), in nats: row t explains ``scores[t]``.
    to_output: (T, T), the attributions to earlier output tokens: entry (t, j) is 0 unless j < t.
    scores: (T,), log p(output_t | prompt, output_<t).
    tokens, output_tokens: what features and output tokens are called.
    prompt, output: ids, (P,) and (T,).
    standard_error: (T, F + T), for sampled methods, else None.
    method: the method's value.
    """

    attributions: Numpy
    to_output: Numpy
    scores: Numpy
    tokens: tuple[str, ...]
    output_tokens: tuple[str, ...]
    prompt: Numpy
    output: Numpy
    method: Method
    standard_error: Numpy | None = None

    @property
    def with_output(self) -> Numpy:
        """The attributions to the prompt and, behind it, to earlier output tokens: (T, F + T)."""
        return np.concatenate([self.attributions, self.to_output], axis=1)

    def plot(self, *, output: bool = True, allow_nonfinite: bool = False) -> Figure:
        """A heatmap with a row for each output token and a column for each token of the prompt: a matplotlib Figure.

        ``output``: also with columns for earlier output tokens. ``allow_nonfinite``: hatch what is not finite.

        Raises
        ------
        NonFiniteError. BackendMissing: no matplotlib.
        """
        from .plots import heatmap

        table = self.with_output[:, :-1] if output else self.attributions  # nothing follows the last output token
        columns = self.tokens + (self.output_tokens[:-1] if output else ())
        return heatmap.figure(
            table, columns, self.output_tokens, self.scores, title=self.method.name, split=len(self.tokens),
            allow_nonfinite=allow_nonfinite,
        )  # fmt: skip


class TokenExplainer:
    """Explains the tokens that a causal language model gives or would give. Made by :meth:`compile`.

    One trace explains sequences of any length; engines with fixed sizes compile a few lengths, to which sequences are
    padded at their end. A causal model does not see what follows a position, so that padding changes nothing.
    """

    def __init__(
        self, model: Any, method: Method, backend: Backend, tokens: TokenModel, tokenizer: Any, wrt: str | None,
        baseline: int | None, reduce: str, keep_output: bool, options: dict[str, Any],
    ) -> None:  # fmt: skip
        self.method = method
        self._model, self._backend, self._tokens, self._tokenizer = model, backend, tokens, tokenizer
        self._wrt, self._baseline, self._reduce, self._keep_output = wrt, baseline, reduce, keep_output
        self._options = options
        self._explainers: dict[tuple[int, int], Explainer] = {}
        self._lock = threading.RLock()

    @classmethod
    def compile(
        cls,
        model: Any,
        method: str | Method = "integrated_gradients",
        *,
        tokenizer: Any = None,
        baseline: int | None = None,
        wrt: str | None = None,
        reduce: str = "sum",
        keep_output: bool = False,
        backend: str | None = None,
        engine: str = "auto",
        device: Any = None,
        dtype: Any = None,
        batch_size: int | None = None,
        strict: bool = False,
    ) -> TokenExplainer:
        """An explainer of a causal language model, which is traced at its first use.

        Methods of gradients, DeepLIFT and LRP attribute the embeddings of tokens; methods that remove features
        (``feature_ablation``, Shapley values) replace tokens by the ``baseline`` token.

        Parameters
        ----------
        model: a torch.nn.Module from ids (N, L) to logits (N, L, V), or to an object or a dict with ``logits``, such
            as the causal models of Hugging Face. Methods that remove tokens also take a function from ids to logits.
        method: a name or a value of :mod:`explainers.methods`.
        tokenizer: for prompts and outputs that are strings, and for the names of tokens.
        baseline: the id of a token that stands for an absent one. By default, the embeddings' baseline is 0, and the
            token that replaces others is the tokenizer's or the model's mask, padding or end-of-text token.
        wrt: the path of the layer that embeds ids, where the model has no ``get_input_embeddings``.
        reduce: how a token's attributions over the embedding axis become one number: ``"sum"``, or ``"l2"``, their
            Euclidean norm, which is for gradients: their sum has little meaning.
        keep_output: leave earlier output tokens as they are, so that only the prompt moves to the baseline.
            Otherwise all tokens before the explained one do.
        backend, engine, device, dtype, batch_size, strict: as for :meth:`explainers.Explainer.compile`.

        Raises
        ------
        InputError: no causal language model, or none whose embedding layer is known. BaselineError: no baseline token
        is known. UnknownNameError, UnsupportedOperation, BackendMissing
        """
        value = methods.resolve(method)
        one_of("reduce", reduce, ("sum", "l2"))
        removes = value.rule_set is None
        if removes and (value.has_groups or not value.takes_groups):
            known = ", ".join(repr(name) for name, kind in methods.METHODS.items() if kind.takes_groups)
            raise UnsupportedOperation(
                f"{value.name!r} cannot remove the tokens or words of any text: take one of {known} without groups, "
                "and give groups= to explain"
            )
        found = find(model, backend)
        model = found.opened(model)
        if keep_output and not removes and value.baseline == "none":
            raise InputError(f"keep_output=True needs a method with a baseline; {value.name!r} has none")
        with found.neutral():
            tokens = found.token_model(model, derivative=value.rule_set is GRADIENT)
        if removes:
            wrt = None
            baseline = _absent_token(model, tokenizer) if baseline is None else baseline
        else:
            wrt = _embedding(tokens, wrt, value)
        if baseline is not None:
            baseline = int(_ids([baseline], tokens, "baseline")[0])
        options = {
            "backend": found.name, "engine": engine, "device": device, "dtype": dtype, "batch_size": batch_size,
            "strict": strict,
        }  # fmt: skip
        return cls(model, value, found, tokens, tokenizer, wrt, baseline, reduce, keep_output, options)

    # --- calling -----------------------------------------------------------------------------

    def explain(
        self,
        prompt: Any,
        output: Any = None,
        *,
        groups: Groups = None,
        max_new_tokens: int = 20,
        seed: int | None = None,
    ) -> TokenExplanation:
        """The attributions of each output token to the tokens before it.

        Parameters
        ----------
        prompt: ids (P,), or a string for the tokenizer.
        output: ids (T,), or a string; None: what the model generates, greedily.
        groups: ``"words"``, or a group's number for each token of the prompt, (P,), such as from
            :func:`word_groups`: the features are then the groups. Methods on embeddings add up the attributions of a
            group's tokens; methods that remove tokens remove a group as a whole.
        max_new_tokens: the most tokens to generate.
        seed: for sampled methods. Default 0.

        Raises
        ------
        InputError: no tokens, ids that the model does not have, more tokens than it takes, a string without a
        tokenizer, or no output from a model that does not generate. NonFiniteError
        """
        ids = self._read(prompt, "prompt", special=True)
        self._check_length(len(ids))
        if output is None:
            output = self._generated(ids, max_new_tokens)
        chosen = self._read(output, "output", special=False)
        self._check_length(len(ids) + len(chosen) - 1)
        names = [self._names(ids), self._names(chosen)]
        members, features = resolve_groups(groups, ids, names[0], self._tokenizer, prompt)
        removing = self._wrt is None
        table, errors, scores = (self._removed if removing else self._embedded)(ids, chosen, members, seed)
        count = len(features)
        return TokenExplanation(
            table[:, :count], np.tril(table[:, count:], -1), scores, features, tuple(names[1]), ids, chosen,
            self.method, errors,
        )  # fmt: skip

    def _embedded(
        self, ids: Numpy, chosen: Numpy, members: Numpy, seed: int | None
    ) -> tuple[Numpy, Numpy | None, Numpy]:
        """Attributions (T, F + T), no errors, and scores (T,), by the embeddings.

        Plain derivatives of all output tokens are taken of one sample. Other methods have a sample for each of them.
        """
        count = len(chosen)
        sequence = self._padded(np.concatenate([ids, chosen[:-1]]))
        places = np.arange(bucket(count, FEWEST) if self._each else count)
        positions, wanted = len(ids) - 1 + np.minimum(places, count - 1), chosen[np.minimum(places, count - 1)]
        shape = (1, -1) if self._each else (-1, 1)
        explainer = self._explainer(len(sequence), len(places) if self._each else 1)
        samples = 1 if self._each else count
        inputs = (np.repeat(sequence[None], samples, axis=0), positions.reshape(shape), wanted.reshape(shape))
        more: dict[str, Any] = {"seed": seed} if self.method.sampled else {}
        if self.method.baseline != "none":
            more["baseline"] = self._embedded_baseline(sequence, len(ids))
        found = explainer(*inputs, **more)
        found = (found[:, 0] if self._each else found)[:count]
        found = found if self._reduce == "sum" else np.linalg.norm(found, axis=-1)
        scores = np.asarray(explainer.predict(*inputs), np.float64).ravel()[:count]
        features = int(members.max()) + 1
        table = np.zeros((count, features + count), found.dtype)
        columns = np.concatenate([members, features + np.arange(count - 1)])
        np.add.at(table.T, columns, found.T[: len(columns)])
        return table, None, scores

    @property
    def _each(self) -> bool:
        """Whether one sample explains all output tokens."""
        return self.method.rule_set is GRADIENT and self.method.refines_to is None

    def _embedded_baseline(self, sequence: Numpy, prompt: int) -> Any:
        """The embeddings' baseline: a number, or an array (L, D)."""
        if self._baseline is None and not self._keep_output:
            return 0.0
        wanted = np.full(len(sequence), self._baseline or 0)
        embed = self._tokens.embed
        assert embed is not None
        assert self._wrt is not None
        table = embed(self._wrt, wanted) if self._baseline is not None else embed(self._wrt, wanted) * 0
        if self._keep_output:
            table[prompt:] = embed(self._wrt, sequence)[prompt:]
        return table

    def _removed(
        self, ids: Numpy, chosen: Numpy, members: Numpy, seed: int | None
    ) -> tuple[Numpy, Numpy | None, Numpy]:
        """Attributions, their errors, (T, F + T) each, and scores (T,), by removing tokens of one sample."""
        count, features, absent = len(chosen), int(members.max()) + 1, self._baseline
        assert absent is not None
        sequence = self._padded(np.concatenate([ids, chosen[:-1]]))
        used = features if self._keep_output else features + count - 1
        removable = np.arange(len(sequence)) < (len(ids) if self._keep_output else len(ids) + count - 1)
        feature = np.zeros(len(sequence), np.int64)  # what is not removable stays as it is with any feature
        feature[: len(ids)] = members
        if not self._keep_output:
            feature[len(ids) : len(ids) + count - 1] = features + np.arange(count - 1)
        positions = np.minimum(np.arange(bucket(count, FEWEST)), count - 1)
        explanation = self._explainer(len(sequence), len(positions)).explanation(
            sequence[None], len(ids) - 1 + positions[None], chosen[positions][None], target="all",
            baseline=References(np.where(removable, absent, sequence)[None, None], per_sample=True),
            groups=feature[None], seed=seed if self.method.sampled else None,
        )  # fmt: skip
        first = np.unique(feature, return_index=True)[1]

        def table(found: Any) -> Numpy:
            result = np.zeros((count, features + count))
            result[:, :used] = np.asarray(found)[:count, 0, first]
            return result

        errors = explanation.standard_error
        scores = np.asarray(explanation.outputs, np.float64)[0, :count]
        return table(explanation.attributions), None if errors is None else table(errors), scores

    # --- lengths -----------------------------------------------------------------------------

    @property
    def _any_length(self) -> bool:
        """Whether one trace serves sequences of every length."""
        engine = self._options["engine"]
        static = self._backend.engines[self._backend.default_engine if engine == "auto" else engine]
        return self._backend.takes_lengths and not static

    def _padded(self, sequence: Numpy) -> Numpy:
        """``sequence`` with ids behind it up to a length that can be run: the one place where lengths enter."""
        length = max(len(sequence), 2) if self._any_length else bucket(len(sequence), SHORTEST)
        if self._tokens.context is not None:
            length = min(length, self._tokens.context)
        return np.concatenate([sequence, np.zeros(length - len(sequence), sequence.dtype)])

    def _explainer(self, length: int, outputs: int) -> Explainer:
        """The explainer of sequences of ``length`` tokens, compiled at its first use."""
        key = 0 if self._any_length else length, outputs
        with self._lock:
            if key not in self._explainers:
                whole = TensorSpec((None, outputs), "int64", "positions")
                removes = self._wrt is None
                self._explainers[key] = Explainer.compile(
                    self._tokens.model, self.method, wrt=0 if removes else self._wrt,
                    inputs=(TensorSpec((None, key[0] or None), "int64", "ids"), whole, replace(whole, name="chosen")),
                    per_token=not removes and self._reduce == "sum", every_output=not removes and self._each,
                    **self._options,
                )  # fmt: skip
            return self._explainers[key]

    @property
    def stats(self) -> Stats:
        """The counts and times of all lengths together."""
        total = Stats()
        for explainer in list(self._explainers.values()):
            for field in fields(Stats):
                if not field.name.startswith("_"):
                    both = getattr(total, field.name), getattr(explainer.stats, field.name)
                    setattr(total, field.name, max(both) if field.name == "batch_size" else both[0] + both[1])
        return total

    def refresh(self) -> TokenExplainer:
        """Use the model's current weights. Does not retrace. Returns itself."""
        for explainer in self._explainers.values():
            explainer.refresh()
        return self

    # --- tokens ------------------------------------------------------------------------------

    def _read(self, given: Any, what: str, special: bool) -> Numpy:
        """Ids from ids or a string. ``special``: with the tokens that the tokenizer puts around a text."""
        if isinstance(given, str):
            if self._tokenizer is None:
                raise InputError(
                    f"the {what} is a string, {given[:40]!r}, and there is no tokenizer: compile with tokenizer=, or "
                    "give ids"
                )
            given = self._tokenizer(given, add_special_tokens=special)["input_ids"]
        return _ids(given, self._tokens, what)

    def _check_length(self, length: int) -> None:
        context = self._tokens.context
        if context is not None and length > context:
            raise InputError(
                f"prompt and output have {length} tokens without the last one; the model takes at most {context}. "
                "Shorten the prompt or explain fewer output tokens"
            )

    def _generated(self, ids: Numpy, max_new_tokens: int) -> Any:
        generate = self._tokens.generate
        if generate is None:
            raise InputError(
                f"no output given, and a {type(self._model).__name__} has no method generate: give output="
            )
        methods.base.at_least("max_new_tokens", max_new_tokens, 1)
        self._check_length(len(ids) + max_new_tokens - 1)
        with self._backend.neutral():
            return generate(ids, max_new_tokens)

    def _names(self, ids: Numpy) -> list[str]:
        """The tokens as text."""
        if self._tokenizer is None:
            return [str(number) for number in ids.tolist()]
        return [self._tokenizer.decode([number]) for number in ids.tolist()]

    def __repr__(self) -> str:
        return f"TokenExplainer({self.method}, {self._backend.name}, traced {self.stats.traces} times)"


def bucket(count: int, least: int) -> int:
    """The smallest number ≥ ``count`` of the form 2ᵏ·least or 3·2ᵏ·least/2, so that at most half is added."""
    size = least
    while size < count:
        if size * 3 // 2 >= count:
            return size * 3 // 2
        size *= 2
    return size


def _ids(given: Any, tokens: TokenModel, what: str) -> Numpy:
    """Ids as integers (n,), checked against the model's tables."""
    array = np.asarray(given) if isinstance(given, (list, tuple)) else to_numpy(given, f"the {what}")
    if array.ndim == 2 and len(array) == 1:
        array = array[0]
    if array.size == 0:
        raise InputError(f"the {what} is empty: it needs at least one token")
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise InputError(f"the {what} must be ids of one sequence, (n,) integers; got {array.dtype} of {array.shape}")
    size = min(tokens.vocabulary, tokens.rows or tokens.vocabulary)
    wrong_places = np.flatnonzero((array < 0) | (array >= size))
    if len(wrong_places):
        place = int(wrong_places[0])
        raise InputError(f"the {what} has the id {array[place]} at {place}; the model's ids are 0 … {size - 1}")
    return array.astype(np.int64)


def _embedding(tokens: TokenModel, wrt: str | None, method: Method) -> str:
    """The path of the layer that embeds ids, within the model that is traced."""
    if wrt is not None:
        path = tokens.prefix + wrt
        if path not in tokens.layers:
            known = [layer.removeprefix(tokens.prefix) for layer in tokens.embeddings or tokens.layers]
            raise UnknownNameError.among("layer", wrt, known)
        return path
    if len(tokens.embeddings) != 1:
        found = ", ".join(repr(path.removeprefix(tokens.prefix)) for path in tokens.embeddings)
        raise InputError(
            f"method {method.name!r} attributes the embeddings of tokens, and "
            + (f"several layers may embed ids: {found}; say which with wrt=" if found else "the model has no embedding "
               "layer: give the path of the layer that embeds ids with wrt=, or take a method that removes tokens, "
               "such as 'feature_ablation'")
        )  # fmt: skip
    return tokens.embeddings[0]


def _absent_token(model: Any, tokenizer: Any) -> int:
    """The id that replaces removed tokens."""
    for holder in (tokenizer, getattr(model, "config", None)):
        for name in ("mask_token_id", "pad_token_id", "eos_token_id"):
            number = getattr(holder, name, None)
            if isinstance(number, Sequence) and not isinstance(number, str) and number:
                number = number[0]
            if isinstance(number, (int, np.integer)):
                return int(number)
    raise BaselineError(
        "removed tokens are replaced by another, and neither a tokenizer nor the model's config names a mask, padding "
        "or end-of-text token: give the id of one with baseline="
    )
