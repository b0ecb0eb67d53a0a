"""The one composition root: puts the parts of a stack together. Only the command line imports it."""

from __future__ import annotations

from handrail.stack.children import child
from handrail.stack.cluster import up
from handrail.stack.inline import Stack, embedded
from handrail.stack.parts import build_agent

__all__ = ["Stack", "build_agent", "child", "embedded", "up"]
