"""The trace that a document carries, as W3C's Trace Context writes it."""

from __future__ import annotations

import re
from typing import Final

TRACE_ID: Final = re.compile(r"[0-9a-f]{32}")
_TRACEPARENT: Final = re.compile(rf"00-({TRACE_ID.pattern})-[0-9a-f]{{16}}-[0-9a-f]{{2}}")
"""``traceparent`` of version 00: the trace's id, the span before, and flags.
https://www.w3.org/TR/trace-context/#traceparent-header-field-values"""


def trace_id_of(traceparent: str) -> str:
    """The trace's id, 32 hexadecimal digits; empty if the text is no ``traceparent``."""
    found = _TRACEPARENT.fullmatch(traceparent)
    return found[1] if found else ""
