"""How the tests are handed out to processes, and how long an example may take: as long as a test."""

from __future__ import annotations

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

ALONE = "::test_every_command_does_what_the_document_says["
"""Long tests that share nothing with the rest of their file."""


# A machine that stands still for a moment is no finding.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


class FileScheduling(LoadFileScheduling):
    """A file is never split, as its tests may share a stack; documents are, as each is executed by itself."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if ALONE in nodeid else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> FileScheduling:
    """Hand the tests out by file, whatever `--dist` says."""
    return FileScheduling(config, log)
