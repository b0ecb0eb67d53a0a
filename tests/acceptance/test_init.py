"""`handrail init`: what it writes works as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from handrail.cli.init import create


def test_its_own_tests_pass(tmp_path: Path) -> None:
    create(tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stdout
