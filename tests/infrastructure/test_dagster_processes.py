"""Requests to a busy Dagster are retried; requests to one that refuses or has ended are not."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from infrastructure.dagster_processes import DagsterProcesses, DagsterRefusedError
from infrastructure.local_cloud import start_process, stop_process

WORDS = {
    "unreachable": (
        200,
        {
            "errors": [
                {"message": "DagsterUserCodeUnreachableError: Could not reach user code server"}
            ]
        },
    ),
    "starting": (503, {}),
    "closes": (0, {}),
    "wrong": (400, {"errors": [{"message": "Cannot query field 'nothing' on type 'Query'."}]}),
    "answers": (200, {"data": {"version": "1"}}),
}


@pytest.fixture
def dagster(tmp_path: Path) -> Iterator[tuple[DagsterProcesses, list[str]]]:
    """A running process, and a webserver that gives a test's prepared answers in turn."""
    says: list[str] = []

    class Webserver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, document = WORDS[says.pop(0)]
            if status == 0:
                self.close_connection = True
                return
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        # http.server requires this name.
        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Webserver)
    thread = Thread(target=server.serve_forever)
    thread.start()
    log = tmp_path / "dagster.log"
    process = start_process(
        [sys.executable, "-c", "print('it says why'); input()"], log, dict(os.environ)
    )
    try:
        yield (
            DagsterProcesses(
                process, f"http://127.0.0.1:{server.server_address[1]}", tmp_path, log
            ),
            says,
        )
    finally:
        stop_process(process)
        server.shutdown()
        server.server_close()
        thread.join()


def test_one_that_is_busy_is_asked_again(dagster: tuple[DagsterProcesses, list[str]]) -> None:
    running, says = dagster
    running.process.wait(30)
    living = start_process(
        [sys.executable, "-c", "import time; time.sleep(60)"], running.log, dict(os.environ)
    )
    try:
        says += ["unreachable", "starting", "closes", "answers"]
        assert DagsterProcesses(living, running.url, running.home, running.log).graphql(
            "{ version }"
        ) == {"version": "1"}
        assert says == []
    finally:
        stop_process(living)


def test_one_that_refuses_or_has_ended_is_not(dagster: tuple[DagsterProcesses, list[str]]) -> None:
    running, says = dagster
    says += ["wrong", "starting"]
    with pytest.raises(DagsterRefusedError, match="Cannot query field"):
        running.graphql("{ nothing }")
    assert says == ["starting"]
    running.process.wait(30)
    with pytest.raises(DagsterRefusedError, match=r"ended with status 1(.|\n)*it says why"):
        running.graphql("{ version }")
