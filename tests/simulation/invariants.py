"""Every promise that is looked at while a seed is lived through."""

from tests.simulation.approvals import APPROVALS
from tests.simulation.claims import CLAIMS
from tests.simulation.decisions import DECISIONS
from tests.simulation.undos import UNDOS

INVARIANTS = {**DECISIONS, **CLAIMS, **APPROVALS, **UNDOS}
"""After each event."""
