"""Spans of a trace that stored rows carry, because the processes that work on it may run days
apart.

Its form is W3C's ``traceparent`` (https://www.w3.org/TR/trace-context/): the trace's id, 32
hexadecimal digits, and the preceding span. Rows carry it whether or not spans are on.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from contracts.logs import log_fields
from contracts.trace_context import trace_id_of
from tenantry.errors import TenantryError

_TRACER: Final = trace.get_tracer("tenantry")
_W3C: Final = TraceContextTextMapPropagator()
_HEADER: Final = "traceparent"


def continued(header: object) -> str:
    """A ``traceparent`` that another program wrote, or an empty string if it is not valid by W3C's
    rules. An unreadable trace is no reason to refuse the document that carries it."""
    carrier = {_HEADER: header} if isinstance(header, str) else {}
    given = trace.get_current_span(_W3C.extract(carrier, Context()))
    return _traceparent(given.get_span_context())


@contextmanager
def span(
    name: str,
    traceparent: str = "",
    *,
    in_callers: bool = False,
    began: int | None = None,
    **known: str | None,
) -> Iterator[str]:
    """A span around the block, and its fields in the lines that are logged there.

    Args:
        name: of the work.
        traceparent: the trace it is part of; empty for the caller's, or a new one.
        in_callers: whether the caller's trace, if there is one, goes before ``traceparent``. The
            span then links to ``traceparent``.
        began: when it began, in nanoseconds since 1970; now, if it is not given.
        known: fields of ``contracts.logs.FIELDS``.

    Yields:
        The ``traceparent`` for what follows from it.
    """
    callers = trace.get_current_span().get_span_context()
    in_callers = in_callers and callers.is_valid
    if isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        # No provider records spans. OpenTelemetry's own way to do nothing takes twice as long.
        own = "" if in_callers else traceparent
        carried = own or _traceparent(callers) or _new_traceparent()
        with log_fields(trace_id=trace_id_of(carried), **known):
            yield carried
        return
    context, links = None, []
    if traceparent:
        given = _W3C.extract({_HEADER: traceparent}, Context())
        if in_callers:
            links = [trace.Link(trace.get_current_span(given).get_span_context())]
        else:
            context = given
    attributes: Any = {f"tenantry.{name}": value for name, value in known.items() if value}
    with _TRACER.start_as_current_span(
        name,
        context=context,
        links=links,
        attributes=attributes,
        start_time=began,
        # An error's message may quote a tenant's data, so the span gets its code or its class.
        record_exception=False,
        set_status_on_exception=False,
    ) as current:
        carried = _traceparent(current.get_span_context()) or _new_traceparent()
        span_id = carried.split("-")[2] if current.is_recording() else None
        with log_fields(trace_id=trace_id_of(carried), span_id=span_id, **known):
            try:
                yield carried
            except Exception as error:
                kind = type(error).__name__
                mark_failed(
                    getattr(error, "code", kind) if isinstance(error, TenantryError) else kind
                )
                raise


def mark_failed(code: str) -> None:
    """Mark the span around the caller as failed; ``code`` names the kind of failure."""
    trace.get_current_span().set_status(trace.StatusCode.ERROR, code)


def _new_traceparent() -> str:
    """The first ``traceparent`` of a new trace; its last part says that it is sampled."""
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"


def _traceparent(of: trace.SpanContext) -> str:
    if not of.is_valid:
        return ""
    return f"00-{of.trace_id:032x}-{of.span_id:016x}-{of.trace_flags:02x}"
