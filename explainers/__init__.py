"""Compile an explanation once, call it for ever."""
