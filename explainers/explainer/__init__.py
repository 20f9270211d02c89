"""The Explainer: compiling a model and a method, binding the arguments of a call, and returning its results."""
