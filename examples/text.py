"""Explain words: ``python examples/text.py [--quick]``.

Which topic does a docstring of the standard library belong to? The texts are docstrings that ship with Python, from
modules on networks, files, numbers and syntax trees, so nothing is downloaded. An embedding and a small convolutional
network learn the topic. Integrated gradients with respect to the embedding, summed for each token, show which words
decide. Prints a marked sentence for each topic, and writes ``out/text.png`` and ``out/text.html``.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from explainers import Explainer, methods, plots

Numpy = npt.NDArray[Any]
TOPICS = {
    "network": "socket ssl http.client http.server smtplib ftplib imaplib poplib urllib.request socketserver asyncio",
    "files": "os shutil pathlib tarfile zipfile tempfile gzip io fileinput filecmp glob",
    "numbers": "math cmath decimal fractions random statistics numbers colorsys",
    "code": "ast dis inspect tokenize symtable code codeop pdb traceback importlib.util compileall",
}
LENGTH = 40
WORD = re.compile(r"[a-z][a-z_']+|[^\w\s]")


def texts() -> tuple[list[list[str]], Numpy]:
    """The first words of each docstring, and its topic."""
    topic_of: dict[str, int] = {}
    for topic, modules in enumerate(TOPICS.values()):
        for name in modules.split():
            for text in docstrings(importlib.import_module(name)):
                topic_of.setdefault(" ".join(WORD.findall(text.lower())[:LENGTH]), topic)
    topic_of_long = {text: topic for text, topic in topic_of.items() if text.count(" ") >= 7}
    return [text.split() for text in topic_of_long], np.array(list(topic_of_long.values()))


def docstrings(module: Any) -> list[str]:
    """The docstrings of the functions and classes that the module defines, and of their methods."""
    texts = []
    for thing in vars(module).values():
        if (getattr(thing, "__module__", None) or "").partition(".")[0].strip("_") == module.__name__.partition(".")[0]:
            members = vars(thing).values() if inspect.isclass(thing) else ()
            texts += [text for item in (thing, *members) if isinstance(text := getattr(item, "__doc__", None), str)]
    return texts


class Classifier(torch.nn.Module):
    """A convolution over three words, and the maximum of each filter over all positions."""

    def __init__(self, words: int) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(words, 32, padding_idx=0)
        self.scan = torch.nn.Conv1d(32, 64, 3, padding=1)
        self.head = torch.nn.Linear(64, len(TOPICS))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.dropout(self.embed(ids), 0.3, self.training)
        x = torch.relu(self.scan(x.transpose(1, 2))).amax(dim=2)
        return self.head(torch.nn.functional.dropout(x, 0.3, self.training))


def train(ids: Numpy, topics: Numpy, words: int, epochs: int) -> Classifier:
    torch.manual_seed(0)
    network = Classifier(words)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-2)
    weight = torch.tensor(len(topics) / np.bincount(topics), dtype=torch.float32)
    for _ in range(epochs):
        for batch in torch.randperm(len(ids)).split(32):
            optimizer.zero_grad()
            outputs = network(torch.tensor(ids[batch]))
            torch.nn.functional.cross_entropy(outputs, torch.tensor(topics[batch]), weight).backward()
            optimizer.step()
    return network.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    quick = parser.parse_args().quick
    documents, topics = texts()
    common = Counter(word for words in documents for word in words)
    vocabulary = ["", "…", *(word for word, count in common.most_common() if count > 1)]
    index = {word: place for place, word in enumerate(vocabulary)}
    ids = np.zeros((len(documents), LENGTH), np.int64)
    for row, words in zip(ids, documents, strict=True):
        row[: len(words)] = [index.get(word, 1) for word in words]
    held_out = np.random.default_rng(0).random(len(ids)) < 0.2
    network = train(ids[~held_out], topics[~held_out], len(vocabulary), epochs=10 if quick else 30)
    with torch.no_grad():
        is_right = network(torch.tensor(ids[held_out])).numpy().argmax(axis=1) == topics[held_out]
    print(f"{len(documents)} docstrings, {len(vocabulary)} words; held-out accuracy {is_right.mean():.1%}")

    places = np.flatnonzero(held_out)[is_right]
    chosen_rows = [places[topics[places] == topic][1] for topic in range(len(TOPICS))]
    explain = Explainer.compile(network, methods.IntegratedGradients(100), wrt="embed", per_token=True)
    explanation = explain.explanation(ids[chosen_rows], target=topics[chosen_rows].tolist())
    assert explanation.largest_gap < 0.05, "integrated gradients add up to the change of the output"
    view: dict[str, Any] = {"names": vocabulary, "classes": list(TOPICS)}
    folder = Path("out")
    folder.mkdir(exist_ok=True)
    path = folder / "text.png"
    explanation.plot(**view).savefig(path)
    explanation.to_html(folder / "text.html", **view)
    for topic, sentence in zip(TOPICS, plots.tokens_text(explanation, colour=False, **view), strict=True):
        print(f"{topic}: {sentence.strip()}")
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
