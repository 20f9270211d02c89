"""From calls to results, in packages.

A call (:mod:`~.work.call`) becomes runs, each a generator of pieces of work: one row a sample
(:mod:`~.work.summed`), each sample beside references (:mod:`~.work.contrasted`, with their kept activations in
:mod:`~.work.references`), forward passes only (:mod:`~.work.forward`), or samples that users' generators make
(:mod:`~.work.perturbed` by :mod:`~.work.workers`). :class:`Packages` executes pieces, those of many calls joined
(:mod:`~.work.joining`) if a scheduler asks.
"""

from .packages import Packages

__all__ = ["Packages"]
