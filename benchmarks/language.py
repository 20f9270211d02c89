"""Integrated gradients of a language model's output tokens: one call, and Captum's LLMGradientAttribution.

    python -m benchmarks.language --prompt 64 --outputs 32 --steps 16

A random GPT-2 whose vocabulary has about the same share of the work as in GPT-2 small. Both move the prompt's
embeddings from those of the padding token, leave earlier output tokens as they are, and take the same Gauss–Legendre
steps. Rounds are interleaved; ratios are medians of the rounds.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from explainers import methods
from explainers.text import TokenExplainer

from .timing import machine, median, ratio, rounds


class Numbers:
    """A tokenizer for texts of ids, as Captum needs one."""

    def encode(self, text: str, return_tensors: str | None = None, **_: Any) -> Any:
        ids = [int(word) for word in text.split()]
        return torch.tensor([ids]) if return_tensors else ids

    def decode(self, ids: Any, **_: Any) -> str:
        return " ".join(str(int(number)) for number in np.ravel(ids))

    def convert_ids_to_tokens(self, ids: Any) -> list[str]:
        return [str(int(number)) for number in np.ravel(ids)]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        return int(tokens) if isinstance(tokens, str) else [int(token) for token in tokens]

    def __call__(self, text: str, return_offsets_mapping: bool = False, **_: Any) -> dict[str, Any]:
        words, offsets, end = text.split(), [], 0
        for word in words:
            offsets.append((end, end + len(word)))
            end += len(word) + 1
        return {"input_ids": [int(word) for word in words], "offset_mapping": offsets}


def model_of(args: argparse.Namespace) -> Any:
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=args.vocabulary, n_positions=1024, n_embd=args.width, n_layer=args.layers, n_head=args.width // 32,
        bos_token_id=0, eos_token_id=0, pad_token_id=0,
    )  # fmt: skip
    return GPT2LMHeadModel(config).eval()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.language", description=__doc__.partition("\n")[0])
    parser.add_argument("--prompt", type=int, default=64)
    parser.add_argument("--outputs", type=int, default=32)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--width", type=int, default=192)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--vocabulary", type=int, default=6000)
    parser.add_argument("--seconds", type=float, default=10.0)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    model = model_of(args)
    random = np.random.default_rng(0)
    prompt, output = (random.integers(1, args.vocabulary, count) for count in (args.prompt, args.outputs))
    print(f"{machine()}; torch {torch.__version__}, {torch.get_num_threads()} threads")
    print(
        f"{args.prompt} prompt tokens, {args.outputs} outputs, {args.steps} steps; {model.num_parameters():,} weights"
    )
    candidates = {"explainers": of_ours(model, prompt, output, args.steps)}
    candidates["captum"] = of_captum(model, prompt, output, args.steps)
    ours, theirs = (np.asarray(run()) for run in candidates.values())
    print(f"largest difference: {abs(ours - theirs).max() / abs(theirs).max():.1e} of the largest attribution")
    times = rounds(candidates, args.seconds, least_rounds=3, warm=0.0)
    for name, found in times.items():
        middle, low, high = ratio(times["explainers"], found)
        print(f"{name:12} {median(found):8.3f} s   explainers / it {middle:.2f} ({low:.2f}–{high:.2f})")


def of_ours(model: Any, prompt: np.ndarray, output: np.ndarray, steps: int) -> Callable[[], Any]:
    explain = TokenExplainer.compile(model, methods.IntegratedGradients(steps), baseline=0, keep_output=True)
    return lambda: explain.explain(prompt, output).attributions


def of_captum(model: Any, prompt: np.ndarray, output: np.ndarray, steps: int) -> Callable[[], Any]:
    from captum.attr import LayerIntegratedGradients, LLMGradientAttribution, TextTokenInput

    tokenizer = Numbers()
    attribution = LLMGradientAttribution(LayerIntegratedGradients(model, model.transformer.wte), tokenizer)
    given = TextTokenInput(tokenizer.decode(prompt), tokenizer, baselines=0)
    target = torch.tensor(output)

    def run() -> Any:
        found = attribution.attribute(
            given, target=target, n_steps=steps, baselines=torch.zeros(1, len(prompt), dtype=int)
        )
        return found.token_attr.numpy()

    return run


if __name__ == "__main__":
    main()
