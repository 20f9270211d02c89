"""The file of an explainer, and files written whole or not at all."""
