"""The minds (planner, executor, verifier), and where they live."""
