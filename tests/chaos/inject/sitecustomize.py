"""Python imports this at the start of every process that has this directory on its path."""

import os

if "CHAOS_DIR" in os.environ:
    import chaos_hooks

    chaos_hooks.install()
