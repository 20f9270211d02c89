"""Draw the README's picture, an image, a text and a DNA sequence: ``python examples/overview.py [--quick]``.

Three small networks are trained on data that come with Python and scikit-learn, or are made here: handwritten digits,
docstrings by topic, DNA with a motif. Each is explained by one compiled explainer. Writes ``out/overview.png``.
"""

from __future__ import annotations

import argparse
from collections import Counter
from io import BytesIO
from pathlib import Path
from typing import Any

import motifs
import numpy as np
import numpy.typing as npt
import text
import torch
from _models import load_digits, train_torch

from explainers import Explainer, Explanation, methods

Numpy = npt.NDArray[Any]
DOTS = 150  # to an inch
DIGITS = (3, 5, 8)
SENTENCE = "return an accurate floating point sum of values"


def of_digits(quick: bool) -> Explanation:
    """DeepLIFT of a residual network, for three digits that it was not trained on."""
    digits = load_digits()
    network, _ = train_torch(digits, epochs=4 if quick else 14)
    x = digits.test_images[:, None]
    rows = [int(np.flatnonzero(digits.test_labels == digit)[0]) for digit in DIGITS]
    explain = Explainer.compile(network, "deeplift", inputs=x[:1])
    return explain.explanation(x[rows], target=list(DIGITS))


def of_words(quick: bool) -> tuple[Explanation, list[str]]:
    """Integrated gradients of a classifier of docstrings, for one that it was not trained on; and the vocabulary."""
    documents, topics = text.texts()
    common = Counter(word for words in documents for word in words)
    vocabulary = ["", "…", *(word for word, count in common.most_common() if count > 1)]
    index = {word: place for place, word in enumerate(vocabulary)}
    ids = np.zeros((len(documents), text.LENGTH), np.int64)
    for row, words in zip(ids, documents, strict=True):
        row[: len(words)] = [index.get(word, 1) for word in words]
    (left_out,) = [i for i, words in enumerate(documents) if " ".join(words).startswith(SENTENCE)]
    others = np.arange(len(ids)) != left_out
    network = text.train(ids[others], topics[others], len(vocabulary), epochs=4 if quick else 30)
    explain = Explainer.compile(network, methods.IntegratedGradients(100), wrt="embed", per_token=True)
    return explain.explanation(ids[[left_out]], target=int(topics[left_out])), vocabulary


def of_sequence(quick: bool) -> Explanation:
    """DeepLIFT of a network that detects a motif, against letters that are all equally likely."""
    x, y, _ = motifs.sequences(2000, seed=0)
    network = motifs.train(x, y, epochs=3 if quick else 12)
    held_out, labels, starts = motifs.sequences(400, seed=1)
    with torch.no_grad():
        is_right = (network(torch.tensor(held_out))[:, 0].numpy() > 0.5) == labels
    row = np.flatnonzero((labels == 1) & is_right & (starts > 30) & (starts < 60))[:1]
    explain = Explainer.compile(network, "deeplift", baseline=np.full((4, motifs.LENGTH), 0.25, np.float32))
    return explain.explanation(sequence=held_out[row], target=0)


def pixels(picture: Any) -> Numpy:
    """A picture without its white border, (height, width, 4)."""
    from matplotlib.image import imread

    stream = BytesIO()
    picture.savefig(stream, dpi=DOTS, format="png")
    stream.seek(0)
    image = np.asarray(imread(stream))
    inked = image[..., :3].min(axis=-1) < 1
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def draw(panels: dict[str, Numpy], path: Path, width: float = 11.0) -> None:
    """The first panel on the left, the others on the right one below the other; each under its title."""
    from matplotlib.figure import Figure

    title, gap, share = 0.34, 0.3, 0.40  # inches, inches, and the left panel's share of the width
    (first, image), *right = panels.items()
    left_width, right_width = width * share, width * (1 - share) - gap
    heights = [right_width * panel.shape[0] / panel.shape[1] for _, panel in right]
    left_height = left_width * image.shape[0] / image.shape[1]
    height = max(left_height + title, sum(heights) + title * len(right) + gap * (len(right) - 1))
    figure = Figure((width, height), dpi=DOTS)

    def place(name: str, panel: Numpy, x: float, y: float, panel_width: float, panel_height: float) -> None:
        figure.text(x / width, 1 - (y + title / 2) / height, name, fontsize=12, weight="bold", va="center")
        box = (x / width, 1 - (y + title + panel_height) / height, panel_width / width, panel_height / height)
        axes = figure.add_axes(box)
        axes.imshow(panel, aspect="auto", interpolation="antialiased")
        axes.set_axis_off()

    place(first, image, 0, 0, left_width, left_height)
    top = 0.0
    for (name, panel), panel_height in zip(right, heights, strict=True):
        place(name, panel, left_width + gap, top, right_width, panel_height)
        top += title + panel_height + gap
    figure.savefig(path, dpi=DOTS, pad_inches=0.1, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    quick = parser.parse_args().quick
    words, vocabulary = of_words(quick)
    digits, sequence = of_digits(quick), of_sequence(quick)
    for explanation in (digits, sequence):
        assert explanation.largest_gap < 1e-2, "attributions add up to the change of the output"
    panels = {
        "Which pixels make it this digit?": pixels(digits.plot()),
        "Which words make it a text on numbers?": pixels(words.plot(names=vocabulary, classes=list(text.TOPICS))),
        "Which letters make it a binding site?": pixels(sequence.plot(channels="first")),
    }
    path = Path("out") / "overview.png"
    path.parent.mkdir(exist_ok=True)
    draw(panels, path)
    print(f"gaps: digits {digits.largest_gap:.1e}, words {words.largest_gap:.1e}, sequence {sequence.largest_gap:.1e}")
    print(f"picture: {path}")


if __name__ == "__main__":
    main()
