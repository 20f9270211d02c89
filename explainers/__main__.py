"""``python -m explainers``: the command line."""

from .cli import main

main()
