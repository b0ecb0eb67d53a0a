"""Fuzzing: real inputs made wrong, by a seed. `make fuzz` runs it for longer than CI does."""
