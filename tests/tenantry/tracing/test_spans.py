"""Spans of a trace: the trace that they belong to, their record of failures, and their
destination."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
from opentelemetry import trace

from tenantry.tracing.export import TracingUnavailableError, export_spans
from tenantry.tracing.spans import continued, mark_failed, span
from tests.tenantry.tracing.collector import collecting

ROOT: Final = Path(__file__).resolve().parents[3]
UPLOADS: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
APPS: Final = trace.SpanContext(
    0xAF7651916CD43DD8448EB211C80319C, 0xB7AD6B7169203331, is_remote=False
)


def test_without_an_exporter_a_trace_is_carried_as_it_is() -> None:
    with span("prepare", UPLOADS, tenant="acme") as carried:
        assert carried == UPLOADS
        mark_failed("preparation_failed")
    with span("upload") as begun, span("upload") as another:
        assert continued(begun) == begun
        assert begun != another


def test_the_callers_trace_goes_first_where_that_is_asked_for() -> None:
    apps = f"00-{APPS.trace_id:032x}-{APPS.span_id:016x}-00"
    with trace.use_span(trace.NonRecordingSpan(APPS)):
        with span("upload") as carried:
            assert carried == apps
        with span("predict", UPLOADS, in_callers=True) as carried:
            assert carried == apps
        with span("batch", UPLOADS) as carried:
            assert carried == UPLOADS
    with span("predict", UPLOADS, in_callers=True) as carried:
        assert carried == UPLOADS


@pytest.mark.parametrize(
    "header",
    [
        *(None, 7, "", "garbage", "x" * 2000),
        *(UPLOADS[:-1], f"{UPLOADS}-more", f"ff{UPLOADS[2:]}", UPLOADS.replace("4bf9", "4bg9")),
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
    ],
)
def test_what_is_no_trace_begins_none(header: object) -> None:
    assert continued(header) == ""


def test_a_trace_of_a_later_version_of_the_standard_is_taken_up() -> None:
    assert continued(f"01{UPLOADS[2:]}-more") == UPLOADS


def run_python(program: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    return subprocess.run(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=False,
    )


EXPORTING: Final = f"""
from opentelemetry import trace
from tenantry.tracing.export import export_spans
from tenantry.tracing.spans import mark_failed, span
from tenantry.uploads.manifests import RefusedUploadError

export_spans()
export_spans()
with trace.get_tracer("app").start_as_current_span("checkout"):
    with span("predict", "{UPLOADS}", in_callers=True, tenant="acme", workload="energy", run=None):
        pass
try:
    with span("prepare", "{UPLOADS}", began=1_700_000_000_000_000_000):
        raise ValueError("Zoe Miller, 42 kWh")
except ValueError:
    pass
try:
    with span("intake", "{UPLOADS}"):
        raise RefusedUploadError("Zoe Miller's file is empty", "file_empty")
except RefusedUploadError:
    pass
with span("train", "{UPLOADS}"):
    mark_failed("training_failed")
"""


def test_spans_reach_a_collector_and_tell_no_tenants_data() -> None:
    with collecting() as collector:
        done = run_python(EXPORTING, **collector.environment, OTEL_SERVICE_NAME="nightly")
    assert (done.returncode, done.stderr) == (0, "")
    checkout, predict = collector.named("checkout"), collector.named("predict")
    assert (predict.trace_id, predict.parent) == (checkout.trace_id, checkout.span_id)
    assert predict.links == ("00f067aa0ba902b7",)
    assert predict.attributes == {"tenantry.tenant": "acme", "tenantry.workload": "energy"}
    assert predict.service == "nightly"
    codes = {"prepare": "ValueError", "intake": "file_empty", "train": "training_failed"}
    for name, code in codes.items():
        failed = collector.named(name)
        assert failed.trace_id == "4bf92f3577b34da6a3ce929d0e0e4736"
        assert (failed.failed, failed.events) == (code, 0)


NOTHING_LEAVES: Final = """
import sys
import orchestration.definitions
from tenantry.tracing.spans import span

with span("upload"):
    print(sorted(name for name in sys.modules if name.startswith("opentelemetry.sdk")))
    print(sorted(name for name in sys.modules if name.startswith("opentelemetry.exporter")))
"""


def test_where_no_variable_asks_for_it_nothing_is_exported_or_imported() -> None:
    done = run_python(NOTHING_LEAVES)
    assert (done.returncode, done.stdout) == (0, "[]\n[]\n"), done.stderr


def test_an_exporter_that_is_not_there_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cure = "OTEL_TRACES_EXPORTER is 'zipkin'; set it to otlp or to none, or unset it"
    program = "import sys; sys.argv[1:] = ['status']; from tenantry.command_line.main import main;"
    command = run_python(f"{program} main()", OTEL_TRACES_EXPORTER="zipkin")
    assert (command.returncode, command.stderr) == (1, f"Error: {cure}\n")

    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "otlp")
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace.export", None)
    with pytest.raises(TracingUnavailableError, match=r"pip install 'tenantry\[tracing\]'"):
        export_spans()
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "none")
    export_spans()
