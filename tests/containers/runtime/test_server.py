"""The multi-model and single-model contracts, over HTTP with a server process."""

import http.client
import json
import signal
import socket
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from containers.runtime.serving.memory import memory_limit
from tests.containers.runtime.serving import (
    Server,
    archive_model,
    folder_model,
    free_port,
    serving,
    start,
)

MULTI = {"SAGEMAKER_MULTI_MODEL": "true"}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("shared"), **MULTI) as server:
        yield server


@pytest.fixture
def server(shared: Server) -> Server:
    """The shared server without models."""
    _, listed = shared.call("GET", "/models")
    for model in listed["models"]:
        assert shared.call("DELETE", f"/models/{quote(model['modelName'], safe='')}")[0] == 200
    return shared


def code(answer: tuple[int, Any]) -> tuple[int, str]:
    status, document = answer
    assert set(document) == {"error"}
    return status, document["error"]["code"]


@pytest.mark.parametrize("make", [folder_model, archive_model])
def test_a_model_is_loaded_invoked_and_unloaded(server: Server, tmp_path: Path, make: Any) -> None:
    url = make(tmp_path / "model", 2.0)
    assert code(server.invoke("m", {})) == (404, "NotFound")
    assert server.load("m", url) == (200, {})
    assert server.invoke("m", {"add": 1}) == (200, {"mean": 3.0})
    assert server.call("GET", "/models") == (
        200,
        {"models": [{"modelName": "m", "modelUrl": str(url)}]},
    )
    assert server.call("GET", "/models/m") == (200, {"modelName": "m", "modelUrl": str(url)})
    assert server.call("DELETE", "/models/m")[0] == 200
    assert code(server.invoke("m", {})) == (404, "NotFound")
    assert code(server.call("GET", "/models/m")) == (404, "NotFound")
    assert code(server.call("DELETE", "/models/m")) == (404, "NotFound")
    assert server.status()["memory"]["used_bytes"] == 0


def test_a_model_that_is_loaded_is_not_loaded_again(server: Server, tmp_path: Path) -> None:
    url = folder_model(tmp_path / "m")
    assert server.load("m", url)[0] == 200
    assert code(server.load("m", url)) == (409, "ModelAlreadyLoaded")


@pytest.mark.parametrize(
    "name",
    ["acme/v1.tar.gz", "/invoke", "a/invoke", "..", "../../etc", "ü%2F ?#", "%41", "x" * 1024],
)
def test_a_name_is_opaque_whatever_it_looks_like(server: Server, tmp_path: Path, name: str) -> None:
    assert server.load(name, folder_model(tmp_path / "m", 4.0))[0] == 200
    assert server.invoke(name, {}) == (200, {"mean": 4.0})
    assert code(server.invoke(name + "x", {}))[0] in (400, 404)


def test_a_name_with_a_slash_is_found_also_when_the_slash_is_not_escaped(
    server: Server, tmp_path: Path
) -> None:
    assert server.load("acme/v1.tar.gz", folder_model(tmp_path / "m", 4.0))[0] == 200
    assert server.call("POST", "/models/acme/v1.tar.gz/invoke", {}) == (200, {"mean": 4.0})


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"{", None),
        (b"[" * 100_000, None),
        ([], None),
        ({"url": "/x"}, "model_name"),
        ({"model_name": "", "url": "/x"}, "model_name"),
        ({"model_name": "x" * 1025, "url": "/x"}, "model_name"),
        ({"model_name": "a\nb", "url": "/x"}, "model_name"),
        ({"model_name": "a\0", "url": "/x"}, "model_name"),
        ({"model_name": 1, "url": "/x"}, "model_name"),
        ({"model_name": "m"}, "url"),
        ({"model_name": "m", "url": "relative"}, "url"),
        ({"model_name": "m", "url": "/x\0"}, "url"),
        ({"model_name": "m", "url": ["/x"]}, "url"),
    ],
)
def test_a_malformed_load_is_refused_with_its_field(
    server: Server, body: Any, field: str | None
) -> None:
    status, document = server.call("POST", "/models", body)
    assert (status, document["error"]["code"]) == (400, "InvalidRequest")
    assert document["error"].get("field") == field


def bad_models(folder: Path) -> dict[str, Path]:
    """Model URLs that must be refused, by their fault."""
    whole = archive_model(folder / "whole.tar.gz", 1.0, filler=list(range(2000))).read_bytes()
    (folder / "truncated.tar.gz").write_bytes(whole[: len(whole) // 2])
    (folder / "noise.tar.gz").write_bytes(b"not an archive")
    (folder / "secret").write_text('{"mean": 1}')
    with tarfile.open(folder / "outside.tar.gz", "w:gz") as tar:
        tar.add(folder / "secret", "../model.json")
    with tarfile.open(folder / "link.tar.gz", "w:gz") as tar:
        member = tarfile.TarInfo("model.json")
        member.type, member.linkname = tarfile.SYMTYPE, str(folder / "secret")
        tar.addfile(member)
    (folder / "linked").mkdir()
    (folder / "linked" / "model.json").symlink_to(folder / "secret")
    return {
        **{
            name: folder / f"{name}.tar.gz"
            for name in ("truncated", "noise", "outside", "link", "missing")
        },
        "linked": folder / "linked",
        # The wrong type is intended.
        "malformed": folder_model(folder / "malformed", "no number"),  # type: ignore[arg-type]
        "raises": folder_model(folder / "raises", misbehave="raise"),
    }


def test_a_refused_model_says_why_and_harms_no_other(server: Server, tmp_path: Path) -> None:
    server.load("good", folder_model(tmp_path / "good", 7.0))
    before = server.status()
    for name, url in bad_models(tmp_path).items():
        status, document = server.load(name, url)
        assert (status, document["error"]["code"]) == (400, "InvalidModel"), name
        assert len(document["error"]["message"]) > 20
        assert "secret content" not in document["error"]["message"]
        assert code(server.invoke(name, {})) == (404, "NotFound")
        assert server.invoke("good", {}) == (200, {"mean": 7.0})
    after = server.status()
    assert (after["models"], after["memory"]) == (before["models"], before["memory"])
    assert after["load_failures"] == before["load_failures"] + 8


def test_a_request_that_cannot_be_answered_names_its_field(server: Server, tmp_path: Path) -> None:
    server.load("m", folder_model(tmp_path / "m"))
    assert server.invoke("m", {"add": "x"}) == (
        400,
        {"error": {"code": "InvalidRequest", "message": "'add' must be a number", "field": "add"}},
    )
    assert code(server.invoke("m", b"{")) == (400, "InvalidRequest")


def test_a_family_that_raises_is_answered_for_without_its_content(tmp_path: Path) -> None:
    with serving(tmp_path, **MULTI) as server:
        server.load("m", folder_model(tmp_path / "m"))
        status, document = server.invoke("m", {"misbehave": "raise"})
        assert (status, document["error"]["code"]) == (500, "InternalError")
        assert server.invoke("m", {}) == (200, {"mean": 1.0})
        server.process.terminate()
        output = server.process.communicate(timeout=20)[0]
    assert "request_failed RuntimeError" in output
    assert "secret" not in json.dumps(document) + output.replace(
        'RuntimeError("secret content of a request")', ""
    )


def test_a_body_that_is_too_large_is_refused_and_the_largest_is_not(
    server: Server, tmp_path: Path
) -> None:
    server.load("m", folder_model(tmp_path / "m"))
    limit = 6 * 1024 * 1024
    assert server.invoke("m", b'{"add": 1}'.ljust(limit)) == (200, {"mean": 2.0})
    assert code(server.invoke("m", b'{"add": 1}'.ljust(limit + 1))) == (413, "PayloadTooLarge")
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            b"POST /models/m/invoke HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        for _ in range(limit // 0x10000 + 1):
            connection.sendall(chunk)
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_unknown_paths_and_methods_are_told_apart(server: Server) -> None:
    assert code(server.call("GET", "/nothing")) == (404, "NotFound")
    assert code(server.call("POST", "/invocations", {})) == (404, "NotFound")
    assert code(server.call("PUT", "/models", {})) == (405, "MethodNotAllowed")
    assert code(server.call("PATCH", "/models/m", {})) == (405, "MethodNotAllowed")
    assert code(server.call("GET", "/models/%FF")) == (400, "InvalidRequest")
    assert code(server.call("GET", "/models?next_page_token=%25%25")) == (400, "InvalidRequest")
    assert server.call("GET", "/execution-parameters")[1]["MaxPayloadInMB"] == 6


def test_models_are_listed_page_by_page(server: Server, tmp_path: Path) -> None:
    url = folder_model(tmp_path / "m")
    names = {f"tenant-{number}/v1.tar.gz" for number in range(120)}
    for name in names:
        assert server.load(name, url)[0] == 200
    _, first = server.call("GET", "/models")
    _, second = server.call("GET", f"/models?next_page_token={first['nextPageToken']}")
    assert "nextPageToken" not in second
    assert {model["modelName"] for page in (first, second) for model in page["models"]} == names


def test_without_memory_a_load_is_answered_507_until_something_is_unloaded(tmp_path: Path) -> None:
    with serving(tmp_path, TENANTRY_MODEL_MEMORY_BYTES="1000", **MULTI) as server:
        half = folder_model(tmp_path / "half", size=500)
        assert server.load("a", half)[0] == server.load("b", half)[0] == 200
        assert code(server.load("c", half)) == (507, "InsufficientMemory")
        assert server.invoke("a", {})[0] == 200
        assert server.call("DELETE", "/models/a")[0] == 200
        assert server.load("c", half)[0] == 200
        assert code(server.load("huge", folder_model(tmp_path / "huge", size=1001))) == (
            507,
            "InsufficientMemory",
        )


def test_with_eviction_the_least_recently_used_model_makes_room(tmp_path: Path) -> None:
    with serving(
        tmp_path, TENANTRY_MODEL_MEMORY_BYTES="1000", TENANTRY_EVICT="lru", **MULTI
    ) as server:
        half = folder_model(tmp_path / "half", size=500)
        for name in ("a", "b"):
            server.load(name, half)
        server.invoke("a", {})
        assert server.load("c", half)[0] == 200
        assert [server.invoke(name, {})[0] for name in ("a", "b", "c")] == [200, 404, 200]
        assert code(server.load("huge", folder_model(tmp_path / "huge", size=1001))) == (
            507,
            "InsufficientMemory",
        )
        assert server.status()["models"] == 2


def test_a_model_asked_for_from_several_sides_is_loaded_once_while_others_are_served(
    server: Server, tmp_path: Path
) -> None:
    go = tmp_path / "go"
    slow = folder_model(tmp_path / "slow", wait_for=str(go))
    server.load("other", folder_model(tmp_path / "other"))
    loads = server.status()["loads"]
    with ThreadPoolExecutor(5) as threads:
        answers = [threads.submit(server.load, "slow", slow) for _ in range(5)]
        server.until(lambda status: status["loading"] == 1)
        assert server.call("GET", "/ping")[0] == 200
        assert server.invoke("other", {})[0] == 200
        go.touch()
        assert sorted(answer.result()[0] for answer in answers) == [200, 409, 409, 409, 409]
    assert server.status()["loads"] == loads + 1


def test_unloading_waits_for_the_request_in_flight(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with serving(tmp_path, "serve-threaded", **MULTI) as server, ThreadPoolExecutor(2) as threads:
        server.load("m", folder_model(tmp_path / "m"))
        request = threads.submit(server.invoke, "m", {"wait_for": str(go)})
        server.until(lambda status: status["in_use"] == 1)
        unload = threads.submit(server.call, "DELETE", "/models/m")
        server.until(lambda status: status["models"] == 0)
        assert server.status()["memory"]["used_bytes"] == 1000
        assert not unload.done()
        go.touch()
        assert request.result() == (200, {"mean": 1.0})
        assert unload.result()[0] == 200
        assert server.status()["memory"]["used_bytes"] == 0


def test_sigterm_finishes_the_requests_in_flight_and_leaves(tmp_path: Path) -> None:
    go = tmp_path / "go"
    with serving(tmp_path, "serve-threaded", **MULTI) as server, ThreadPoolExecutor(1) as threads:
        server.load("m", folder_model(tmp_path / "m"))
        request = threads.submit(server.invoke, "m", {"wait_for": str(go)})
        server.until(lambda status: status["in_use"] == 1)
        server.process.send_signal(signal.SIGTERM)
        while True:
            try:
                server.call("GET", "/ping")
            except OSError:
                break
        go.touch()
        assert request.result() == (200, {"mean": 1.0})
        assert server.process.wait(20) == 0


def test_a_family_may_batch_the_requests_in_flight_itself(tmp_path: Path) -> None:
    with serving(tmp_path, "serve-batching", **MULTI) as server, ThreadPoolExecutor(3) as threads:
        for name, mean in (("a", 1.0), ("b", 2.0)):
            server.load(name, folder_model(tmp_path / name, mean))
        answers = [threads.submit(server.invoke, name, {"together": 3}) for name in ("a", "b", "b")]
        assert [answer.result() for answer in answers] == [
            (200, {"mean": mean, "batch": 3}) for mean in (1.0, 2.0, 2.0)
        ]


def test_a_batching_family_turns_away_what_is_too_much_and_calls_off_what_nobody_waits_for(
    tmp_path: Path,
) -> None:
    with serving(tmp_path, "serve-batching", **MULTI) as server, ThreadPoolExecutor(3) as threads:
        server.load("m", folder_model(tmp_path / "m"))
        assert server.status()["tiny"] == {"started": True, "waiting": 0, "called_off": 0}
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as impatient:
            body = b'{"together": 9}'
            impatient.sendall(
                b"POST /models/m/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                % len(body)
                + body
            )
            patient = [threads.submit(server.invoke, "m", {"together": 9}) for _ in range(2)]
            server.until(lambda status: status["tiny"]["waiting"] == 3)
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
            connection.request("POST", "/models/m/invoke", "{}")
            refused = connection.getresponse()
            assert (refused.status, refused.headers["Retry-After"]) == (429, "7")
            assert json.loads(refused.read())["error"]["code"] == "TooManyRequests"
            connection.close()
        server.until(lambda status: status["tiny"]["called_off"] == 1)
        assert server.invoke("m", {"together": 3}) == (200, {"mean": 1.0, "batch": 3})
        assert [answer.result()[0] for answer in patient] == [200, 200]
        server.process.terminate()
        assert "tiny closed" in server.process.communicate(timeout=20)[0]


def test_a_family_whose_settings_are_wrong_ends_the_server_with_the_reason(tmp_path: Path) -> None:
    with start(tmp_path, free_port(), "serve-batching", TINY_WORD="huge", **MULTI) as process:
        output = process.communicate(timeout=20)[0]
    assert process.returncode == 1
    assert "TINY_WORD must be 'tiny'" in output


def test_a_single_model_answers_invocations(tmp_path: Path) -> None:
    folder_model(tmp_path / "model", 5.0)
    with serving(tmp_path) as server:
        assert server.call("POST", "/invocations", {"add": 1}) == (200, {"mean": 6.0})
        assert code(server.call("POST", "/invocations", {"add": "x"})) == (400, "InvalidRequest")
        assert code(server.call("GET", "/invocations")) == (405, "MethodNotAllowed")
        assert code(server.call("GET", "/models")) == (404, "NotFound")
        server.process.terminate()
        assert server.process.wait(20) == 0


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({}, "there is no folder at"),
        (
            {"TENANTRY_MODEL_MEMORY_BYTES": "much"},
            "TENANTRY_MODEL_MEMORY_BYTES must be a whole number",
        ),
        ({"TENANTRY_EVICT": "fifo"}, "TENANTRY_EVICT must be"),
        ({"SAGEMAKER_BIND_TO_PORT": "70000"}, "SAGEMAKER_BIND_TO_PORT must be a whole number"),
    ],
)
def test_a_server_that_cannot_serve_says_why_and_ends(
    tmp_path: Path, environment: dict[str, str], reason: str
) -> None:
    with start(
        tmp_path, free_port(), **{"SAGEMAKER_BIND_TO_PORT": str(free_port()), **environment}
    ) as process:
        output = process.communicate(timeout=20)[0]
    assert process.returncode == 1
    assert reason in output


def test_a_port_that_is_taken_ends_the_server(server: Server, tmp_path: Path) -> None:
    with start(tmp_path, server.port, **MULTI) as process:
        output = process.communicate(timeout=20)[0]
    assert process.returncode == 1
    assert "address already in use" in output


def test_the_memory_limit_is_the_containers_where_it_has_one(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemFree: 1 kB\nMemTotal: 2048 kB\n")
    limit = tmp_path / "memory.max"
    assert memory_limit((limit,), meminfo) == 2048 * 1024
    for text, expected in (
        ("max\n", 2048 * 1024),
        ("1000000\n", 1_000_000),
        ("9223372036854771712", 2048 * 1024),
    ):
        limit.write_text(text)
        assert memory_limit((limit,), meminfo) == expected
