"""Sphinx directives that list what a module of methods or metrics makes public: ``.. methods:: gradient``.

Each public class is documented in the order of its definition, under the name that users import.
"""

from __future__ import annotations

import importlib
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective


class Family(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        package = importlib.import_module(f"explainers.{self.name}")
        module = importlib.import_module(f"{package.__name__}.{self.arguments[0]}")
        own = [name for name, kind in vars(module).items() if getattr(kind, "__module__", "") == module.__name__]
        public = [name for name in own if name in getattr(module, "__all__", package.__all__)]
        lines = [f".. autoclass:: {package.__name__}.{name}" for name in public if isinstance(vars(module)[name], type)]
        container = nodes.container()
        self.state.nested_parse(StringList(lines, module.__file__ or ""), 0, container)
        return container.children


def setup(app: Any) -> dict[str, bool]:
    app.add_directive("methods", Family)
    app.add_directive("metrics", Family)
    return {"parallel_read_safe": True}
