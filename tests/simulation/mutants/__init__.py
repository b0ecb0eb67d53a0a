"""Planted bugs: what the simulation is worth is how soon it finds them.

Each is a patch of the real code, as small as a mistake that somebody could make. A mutant that crashes is
none: what it breaks has to be a promise.
"""

from tests.simulation.mutants import course, deciding, fences, forgetting, gates, hands, healing, undoing
from tests.simulation.mutants.planting import MUTANTS, Mutant, Patch

__all__ = [
    "MUTANTS",
    "Mutant",
    "Patch",
    "course",
    "deciding",
    "fences",
    "forgetting",
    "gates",
    "hands",
    "healing",
    "undoing",
]
