"""A graph and a method combined into one pure function of placeholders."""

from .walk import Forward, Placeholder, Program, evaluate

__all__ = ["Forward", "Placeholder", "Program", "evaluate"]
