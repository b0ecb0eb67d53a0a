"""Fuzzing: real inputs made wrong, by a seed. `make fuzz` runs it for longer than CI does."""

from tests.fuzz import files, logs

CAMPAIGNS = (*files.CAMPAIGNS, *logs.CAMPAIGNS)
