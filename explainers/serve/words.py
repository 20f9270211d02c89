"""Rewrite the library's messages for clients of the server: fields of the JSON body instead of Python arguments."""

from __future__ import annotations

import re
from collections.abc import Callable

Replacement = str | Callable[[re.Match[str]], str]


def _shape(match: re.Match[str]) -> str:
    """A shape as JSON writes it: ``(3,)`` is ``[3]``."""
    return f"[{match[1].rstrip(',').replace(chr(39), '')}]"


def _target(match: re.Match[str]) -> str:
    index = f"a list of {match[1]} integers" if match[1] else "an integer"
    return (
        f'Set "target" to {index} (the same for all), a list of {match[2]} of them (one per instance), a mask of shape '
        f'{match[3]} or {match[4]}, or "max".'
    )


# (pattern, replacement); the library's messages address Python users
PHRASES: tuple[tuple[str, Replacement], ...] = (
    (r" ?Clean it, or pass allow_nonfinite=True[^.;]*\.", ""),
    (r"Give (?:an int|a tuple of (\d+) ints) \(the same for all\), a list of (\d+) of them \(one per sample\), "
     r"a mask of shape (\(.*?\)) or (\(.*?\)), or 'max'\.", _target),
    (r"The output is one number for each of (\d+) samples: leave target out\.",
     r'The output is one number for each of \1 instances: leave "target" out.'),
    (r"target='all'", '"target": "all"'),
    (r"Say which: References\(array\) for the set, or References\(array\[:, None\], per_sample=True\), or a function "
     r"of the batch that returns it, for one each\.",
     'Say which: {"references": […]} for the set, or {"references": [[…], …], "per_sample": true} for one each.'),
    (r"give References\(array\[:, None\], per_sample=True\)", 'give {"references": [[…], …], "per_sample": true}'),
    (r"\bReferences\b(?!\()", '{"references": […]}'),
    (r"\bshape \(\)", "shape []"),
    (r"\(([\d'NB]+(?:, ?[\d'NB]*)+)\)", _shape),
    (r"\b(baseline|target|groups|tolerance|max_evaluations|max_steps|seed)=(?=\W|$)", r'"\1"'),
    (r"\b(tolerance|max_evaluations|max_steps)=([\w.+-]*\w)", r'"\1": \2'),
    (r"\bsample (\d+) of\b", r"instance \1 of"),
    (r"\b(for|each of|of|with|in) (\d+) samples\b", r"\1 \2 instances"),
    (r"\((\d+) samples\)", r"(\1 instances)"),
    (r"\b(one|baseline|set|target) (per|for each|for) sample\b", r"\1 \2 instance"),
    (r"\bone sample \[", "one instance ["),
)  # fmt: skip


def for_client(text: str) -> str:
    """A message of the library in the words of a request.

    >>> for_client("target='all' needs a forward-only method")
    '"target": "all" needs a forward-only method'
    """
    for pattern, words in PHRASES:
        text = re.sub(pattern, words, text)
    return text.strip()
