"""A page in a browser on this machine can do nothing. The tests forge its requests header by
header."""

from __future__ import annotations

import http.client
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import Headers

from local_sagemaker.http.origins import KnownCallersOnly
from tests.local_sagemaker.conftest import Emulator


def status(emulator: Emulator, method: str, path: str, headers: dict[str, str]) -> int:
    """The status of a request with only these headers and `Content-Length`."""
    connection = http.client.HTTPConnection("127.0.0.1", emulator.port, timeout=10)
    connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
    for name, value in {**headers, "Content-Length": "0"}.items():
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    assert not [
        name for name, _ in answer.getheaders() if name.lower().startswith("access-control-")
    ]
    connection.close()
    return answer.status


FOREIGN: list[dict[str, str]] = [
    {"Host": "127.0.0.1:{port}", "Origin": "https://evil.example"},
    {"Host": "127.0.0.1:{port}", "Origin": "null"},
    {"Host": "127.0.0.1:{port}", "Origin": "http://127.0.0.1:3000"},
    {"Host": "127.0.0.1:{port}", "Origin": "http://localhost:{port}"},
    {"Host": "127.0.0.1:{port}", "Sec-Fetch-Site": "cross-site"},
    {"Host": "127.0.0.1:{port}", "Sec-Fetch-Site": "same-site"},
    {"Host": "evil.example:{port}"},
    {"Host": "evil.example"},
    {
        "Host": "evil.example:{port}",
        "Origin": "http://evil.example:{port}",
        "Sec-Fetch-Site": "same-origin",
    },
    {"Host": "127.0.0.1.evil.example:{port}"},
    {"Host": "localhost.evil.example:{port}"},
    {"Host": "169.254.169.254:{port}"},
    {"Host": "[::2]:{port}"},
    {"Host": "127.0.0.1:x"},
    {"Host": ""},
]


def filled(headers: dict[str, str], port: int) -> dict[str, str]:
    return {name: value.replace("{port}", str(port)) for name, value in headers.items()}


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_a_foreign_page_can_neither_reset_nor_read_nor_call(
    emulator: Emulator, sagemaker: Any, headers: dict[str, str]
) -> None:
    for method, path in (
        ("GET", "/_local/bill"),
        ("DELETE", "/_local/faults"),
        ("POST", "/"),
        ("POST", "/_local/reset"),
    ):
        assert status(emulator, method, path, filled(headers, emulator.port)) == 403


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1:{port}",
        "localhost:{port}",
        "LOCALHOST:{port}",
        "127.8.9.1:{port}",
        "[::1]:{port}",
        "127.0.0.1:1",
        "localhost",
    ],
)
def test_programs_that_name_a_loopback_address_are_answered(emulator: Emulator, host: str) -> None:
    assert status(emulator, "GET", "/_local/health", filled({"Host": host}, emulator.port)) == 200


def test_an_own_origin_may_call_the_services_but_not_the_control_calls(emulator: Emulator) -> None:
    own = filled({"Host": "127.0.0.1:{port}", "Origin": "http://127.0.0.1:{port}"}, emulator.port)
    assert status(emulator, "GET", "/_local/health", own) == 403
    assert status(emulator, "POST", "/", own) == 404  # no X-Amz-Target: answered by the service


async def nothing(*_: object) -> None:
    """An application that does nothing."""


@given(st.text(st.characters(codec="latin-1", exclude_characters="\r\n"), max_size=30))
def test_no_other_host_is_taken_for_this_machine(host: str) -> None:
    callers = KnownCallersOnly(nothing, ["cloud.test", "mapped.test:80"])
    refusal = callers._refusal(Headers({"host": host}), "/")
    name = host.lower().partition(":")[0]
    if refusal is None:
        assert name in ("localhost", "localhost.", "cloud.test", "mapped.test") or name.startswith(
            ("127.", "[")
        )


@pytest.mark.parametrize(
    ("host", "refused"),
    [
        ("cloud.test", False),
        ("cloud.test:1234", False),
        ("mapped.test:80", False),
        ("mapped.test:81", True),
        ("other.cloud.test", True),
        ("127.0.0.1:4570", False),
    ],
)
def test_further_names_are_allowed_by_the_command_line(host: str, refused: bool) -> None:
    callers = KnownCallersOnly(nothing, ["cloud.test", "mapped.test:80"])
    assert (callers._refusal(Headers({"host": host}), "/") is not None) == refused
