"""Handrail's benchmarks: `python -m bench --help`. Not part of the package, which imports nothing of it."""
