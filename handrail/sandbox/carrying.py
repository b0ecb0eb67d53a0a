"""Inside a sandbox: one call carried out, and what came of it as an answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from handrail.calling import InvalidArguments, InvalidOutput, ToolThreads, invoke
from handrail.sandbox.child import MAX_MESSAGE_CHARS
from handrail.tool import Tool, ToolError


def carry_out(call: Mapping[str, Any], tools: Mapping[str, Tool]) -> dict[str, Any]:
    """Call the tool and say what it returned or raised."""
    threads = ToolThreads(1)
    tool, arguments, timeout_s = tools[call["tool"]], call["arguments"], call["timeout_s"]
    try:
        key, secrets = call["key"], call["secrets"]
        calling = invoke(tool, arguments, key=key, timeout_s=timeout_s, threads=threads, secrets=secrets)
        return {"output": asyncio.run(calling)}
    except InvalidArguments as error:
        return {"failed": "arguments", "message": _bounded(error)}
    except InvalidOutput as error:
        return {"failed": "output", "message": _bounded(error)}
    except TimeoutError as error:
        return {"failed": "time", "message": _bounded(error)}
    except ToolError as error:
        said = {"code": str(error.code), "transient": error.transient, "in_doubt": error.in_doubt}
        return {"failed": "tool", "message": _bounded(error), **said}
    # The supervision point of a call: whatever the tool raises is told to whoever called.
    except Exception as error:  # noqa: BLE001
        return {"failed": "raised", "message": _bounded(error), "kind": type(error).__name__}


def _bounded(error: BaseException) -> str:
    return str(error)[:MAX_MESSAGE_CHARS]
