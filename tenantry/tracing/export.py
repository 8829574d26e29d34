"""Where spans go: to an OpenTelemetry collector, if OpenTelemetry's own variables name one."""

from __future__ import annotations

import os
from typing import Final

from opentelemetry import trace

from tenantry.errors import TenantryError

EXPORTER: Final = "OTEL_TRACES_EXPORTER"
ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")


class TracingUnavailableError(TenantryError, RuntimeError):
    """Spans were asked for but cannot be sent from here; the message has the cure."""


def export_spans() -> None:
    """Send this process's spans where OpenTelemetry's variables say, by OTLP over HTTP. Without
    them nothing is sent, and nothing is imported. A tracer provider that the process has set up
    before stays.

    https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/ has them. An
    app that uses OpenTelemetry manages its own spans, and need not call this.

    Raises:
        TracingUnavailableError: the variable names another exporter, or the packages are missing.
    """
    given = any(os.environ.get(name) for name in ENDPOINTS)
    wanted = os.environ.get(EXPORTER) or ("otlp" if given else "none")
    if wanted == "none":
        return
    if wanted != "otlp":
        raise TracingUnavailableError(
            f"{EXPORTER} is {wanted[:40]!r}; set it to otlp or to none, or unset it"
        )
    if not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider):
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ModuleNotFoundError as error:
        raise TracingUnavailableError(
            f"spans need {error.name}, which is not installed; install tenantry with its extra "
            f"tracing, as in `pip install 'tenantry[tracing]'`, or set {EXPORTER} to none"
        ) from error
    named = {} if os.environ.get("OTEL_SERVICE_NAME") else {"service.name": "tenantry"}
    provider = TracerProvider(resource=Resource.create(named))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)  # which sends the rest when the process ends
