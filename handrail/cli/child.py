"""One process of a stack, as the supervisor starts it: `-m handrail.cli.child _child NAME PROJECT DATA`.

It is no command, since all of the commands would have to be imported at every start of every process.
"""

from __future__ import annotations

import sys
from pathlib import Path


def main() -> None:
    """Run the process that the arguments name, until SIGTERM; tell an error as every command does."""
    import uvloop

    from handrail.stack.children import child

    name, project, data = sys.argv[2:]
    try:
        uvloop.run(child(name, Path(project), Path(data)))
    except Exception as error:
        from handrail.cli.exits import debugging, explain
        from handrail.cli.output import tell

        trouble = explain(error)
        if trouble is None or debugging():
            raise
        tell(trouble, as_json=False)
        sys.exit(trouble.code)


if __name__ == "__main__":
    main()
