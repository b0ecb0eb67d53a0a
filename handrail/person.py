"""Who somebody is: to the operating system, and to servers, by what their environment says."""

from __future__ import annotations

import getpass
import os

DATA_DIR = ".handrail"
"""In a project, its data directory, unless another is named."""
TOKEN_FILE = "token"
"""In a data directory, the token of its owner. A secret."""
TOKEN_ENV = "HANDRAIL_TOKEN"
TOKEN_FILE_ENV = "HANDRAIL_TOKEN_FILE"
CA_ENV = "HANDRAIL_TLS_CA"
CERTIFICATE_ENV = "HANDRAIL_TLS_CERTIFICATE"
KEY_ENV = "HANDRAIL_TLS_KEY"


def whoami() -> str:
    """Return the operating system's name for whoever runs this; one with a number where it has none."""
    try:
        name = getpass.getuser()
    except (ImportError, KeyError, OSError):
        name = ""
    # A name from the environment may hold bytes that are no text.
    name = name.encode(errors="replace").decode().strip()
    return name or f"uid-{os.getuid()}"
