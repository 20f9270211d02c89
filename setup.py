"""The package's page on an index: the README, with links that lead somewhere from there.

Links in the README are relative, so that they work in a clone and on the repository's site, at any version. On an
index nothing lies beside the page. There they lead to this version's files at the address ``Source`` of
``project_urls`` in setup.cfg; without that address, links become plain text and pictures their descriptions. All else
is in setup.cfg.
"""

from __future__ import annotations

import configparser
import re
from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\((?!https?:|#)([^)\s]+)\)")


def page(readme: str, address: str, version: str) -> str:
    """The README for an index. ``address``: of the repository, or "" if it has none."""

    def link(match: re.Match[str]) -> str:
        picture, text, path = match.groups()
        if not address:
            return f"*{' '.join(text.split())}*" if picture else text
        kind = "raw" if picture else "blob"
        return f"{picture}[{text}]({address.rstrip('/')}/{kind}/v{version}/{path})"

    return LINK.sub(link, readme)


def source_address() -> str:
    """The address ``Source`` of ``project_urls``, or ""."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(HERE / "setup.cfg", encoding="utf-8")
    lines = settings.get("metadata", "project_urls", fallback="").splitlines()
    addresses = {name.strip(): value.strip() for name, _, value in (line.partition("=") for line in lines)}
    return addresses.get("Source", "")


def version() -> str:
    """``explainers.__version__``, read without importing the package, which needs its dependencies."""
    match = re.search(r'^__version__ = "(.+)"$', (HERE / "explainers" / "__init__.py").read_text("utf-8"), re.MULTILINE)
    assert match is not None, "explainers/__init__.py has no __version__"
    return match[1]


if __name__ == "__main__":
    text = (HERE / "README.md").read_text("utf-8")
    setup(version=version(), long_description=page(text, source_address(), version()))
