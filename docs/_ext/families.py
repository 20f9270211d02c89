"""A Sphinx directive that lists what a module of methods makes public: ``.. methods:: gradient``.

Each class of the module's ``__all__`` is documented in the order of its definition, under the name that users import.
"""

from __future__ import annotations

import importlib
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

PACKAGE = "explainers.methods"


class Methods(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(f"{PACKAGE}.{self.arguments[0]}")
        public = [name for name in vars(module) if name in module.__all__ and isinstance(getattr(module, name), type)]
        lines = [f".. autoclass:: {PACKAGE}.{name}" for name in public]
        container = nodes.container()
        self.state.nested_parse(StringList(lines, module.__file__ or ""), 0, container)
        return container.children


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("methods", Methods)
    return {"parallel_read_safe": True}
