"""The part of OpenTelemetry's collector that tests need: OTLP over HTTP on loopback.
https://opentelemetry.io/docs/specs/otlp/#otlphttp-request describes the protocol."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class ReceivedSpan:
    """A received span, with ids in hexadecimal digits; ``parent`` and ``links`` are spans' ids."""

    name: str
    service: str
    trace_id: str
    span_id: str
    parent: str
    links: tuple[str, ...]
    attributes: Mapping[str, str]
    failed: str | None
    events: int


@dataclass
class Collector:
    """A receiver of spans. ``environment`` makes a process send its spans here."""

    environment: Mapping[str, str]
    spans: list[ReceivedSpan] = field(default_factory=list)

    def named(self, name: str) -> ReceivedSpan:
        """The only span of a name."""
        (found,) = (span for span in self.spans if span.name == name)
        return found

    def take(self, body: bytes) -> None:
        """Keep the spans of a request."""
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            about = {each.key: each.value.string_value for each in resource.resource.attributes}
            self.spans += [
                ReceivedSpan(
                    name=span.name,
                    service=about["service.name"],
                    trace_id=span.trace_id.hex(),
                    span_id=span.span_id.hex(),
                    parent=span.parent_span_id.hex(),
                    links=tuple(link.span_id.hex() for link in span.links),
                    attributes={each.key: each.value.string_value for each in span.attributes},
                    failed=span.status.message if span.status.code == 2 else None,
                    events=len(span.events),
                )
                for scope in resource.scope_spans
                for span in scope.spans
            ]


@contextmanager
def collecting() -> Iterator[Collector]:
    """A collector on a free port."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.headers.get("Content-Encoding") == "gzip":
                body = gzip.decompress(body)
            if self.path == "/v1/traces":
                collector.take(body)
            self.send_response(200 if self.path == "/v1/traces" else 404)
            self.end_headers()

        def log_request(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        collector = Collector({"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint})
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector
        finally:
            server.shutdown()
            thread.join()
