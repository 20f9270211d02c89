"""From calls to results, in packages.

A call (:mod:`~.run.call`) becomes runs, each a generator of pieces of work: rows of samples
(:mod:`~.run.summed`), samples compared with references (:mod:`~.run.contrasted`, whose kept activations are in
:mod:`~.run.references`), forward passes only (:mod:`~.run.forward`), or samples from users' generators
(:mod:`~.run.perturbed`, by :mod:`~.run.workers`). :class:`Packages` executes pieces; a scheduler joins those of
many calls (:mod:`~.run.joining`).
"""

from .packages import Packages

__all__ = ["Packages"]
