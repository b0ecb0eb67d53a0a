"""The pure core: state, decisions, conformance; no broker, no clock, no randomness."""
