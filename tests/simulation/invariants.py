"""Every promise that is looked at while a seed is lived through."""

from tests.simulation.claims import CLAIMS
from tests.simulation.decisions import DECISIONS

INVARIANTS = {**DECISIONS, **CLAIMS}
"""After each event."""
