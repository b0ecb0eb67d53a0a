"""Which traces are sent: what `OTEL_TRACES_SAMPLER` says, decided alike by every part, from the trace alone.

The same decisions as the samplers of the OpenTelemetry SDK, without the SDK: the decider asks at every ask.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping

from observability.ids import Context

SAMPLER = "OTEL_TRACES_SAMPLER"
ARGUMENT = "OTEL_TRACES_SAMPLER_ARG"
DEFAULT = "parentbased_always_on"
_LIMIT = 1 << 64

Sampler = Callable[[Context], bool]

_logger = logging.getLogger("handrail.traces")


def sampler(environ: Mapping[str, str] = os.environ) -> Sampler:
    """Return the sampler that the environment asks for.

    It is asked about where a run's trace goes on from: the client's span, or a trace of its own.
    """
    name = environ.get(SAMPLER, "").strip().lower() or DEFAULT
    own = name.removeprefix("parentbased_")
    roots: dict[str, Sampler] = {
        "always_on": lambda context: True,
        "always_off": lambda context: False,
        "traceidratio": _ratio(environ.get(ARGUMENT, "")) if own == "traceidratio" else lambda context: True,
    }
    if own not in roots:
        _logger.warning("%s=%s is no sampler that is known: every trace is sent", SAMPLER, name)
    root = roots.get(own, roots["always_on"])
    if name == own and own in roots:
        return root
    return lambda context: context.sampled if context.span_id else root(context)


def _ratio(text: str) -> Sampler:
    try:
        bound = round(float(text or 1) * _LIMIT)
    except (ValueError, OverflowError):
        _logger.warning("%s=%s is no number from 0 to 1: every trace is sent", ARGUMENT, text)
        bound = _LIMIT
    return lambda context: int(context.trace_id[16:], 16) < bound
