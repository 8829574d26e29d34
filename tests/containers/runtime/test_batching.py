"""The batcher as a state machine in virtual time, and the server that batches, over HTTP."""

import asyncio
import json
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from containers.runtime.serving.batching import Batcher
from tests.containers.runtime.serving import (
    Server,
    archive_model,
    folder_model,
    free_port,
    serving,
    start,
)

BATCHES = {"TENANTRY_MAX_BATCH": "4"}
MULTI = {"SAGEMAKER_MULTI_MODEL": "true"}


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose clock the test moves."""

    now = 0.0

    def time(self) -> float:
        return self.now


class RefusedError(Exception):
    """A question's own fault."""


class Batching(RuleBasedStateMachine):
    """Clients ask and disconnect, calls end well and badly, and time passes, in any order.

    A question is a number, in the order of arrival. Its answer is its negative.
    """

    @initialize(max_batch=st.integers(2, 5), max_wait=st.sampled_from([0.0, 1.0]))
    def begin(self, max_batch: int, max_wait: float) -> None:
        self.loop = VirtualLoop()
        self.max_batch, self.max_wait = max_batch, max_wait
        self.batcher = Batcher(self.call, max_batch, max_wait)
        self.clients: dict[int, asyncio.Task[int]] = {}
        self.arrivals: dict[int, float] = {}
        self.left: set[int] = set()
        self.called: list[int] = []
        self.in_call: list[int] = []
        self.end: asyncio.Future[Sequence[int | Exception]] | None = None
        self.refused: set[int] = set()
        self.poisoned: set[int] = set()

    async def call(self, questions: list[int]) -> Sequence[int | Exception]:
        assert self.end is None, "two calls at once"
        assert 1 <= len(questions) <= self.max_batch
        again = set(questions) <= set(self.called)
        assert again == bool(set(questions) & set(self.called))
        if again:
            assert len(questions) == 1, "a question of a failed call is asked again alone"
        else:
            assert all(number > max(self.called, default=-1) for number in questions)
            assert questions == sorted(questions)
            waited = self.loop.now - self.arrivals[questions[0]]
            assert len(questions) == self.max_batch or waited >= self.max_wait - 1e-6
            self.called += questions
        self.in_call, self.end = questions, self.loop.create_future()
        try:
            return await self.end
        finally:
            self.in_call, self.end = [], None

    def settle(self) -> None:
        """Let the loop do all that is ready."""
        for _ in range(10):
            self.loop.run_until_complete(asyncio.sleep(0))

    @rule()
    def ask(self) -> None:
        number = len(self.clients)
        self.clients[number] = self.loop.create_task(self.batcher.ask(number))
        self.arrivals[number] = self.loop.now
        self.settle()

    @rule(seconds=st.sampled_from([0.4, 1.0]))
    def wait(self, seconds: float) -> None:
        self.loop.now += seconds
        self.settle()

    @rule(data=st.data())
    def disconnect(self, data: st.DataObject) -> None:
        present = [
            number
            for number, task in self.clients.items()
            if not task.done() and number not in self.left
        ]
        if not present:
            return
        number = data.draw(st.sampled_from(present))
        self.clients[number].cancel()
        self.left.add(number)
        self.settle()
        assert self.clients[number].done() == (number not in self.called), (
            "only a running call keeps a question, because it uses the question's model"
        )

    @precondition(lambda self: self.end is not None)
    @rule(data=st.data(), fault=st.sampled_from(["none", "none", "raises", "too few"]))
    def end_call(self, data: st.DataObject, fault: str) -> None:
        assert self.end is not None
        asked, end = self.in_call, self.end
        refused = data.draw(st.sets(st.sampled_from(asked)))
        if fault == "raises":
            end.set_exception(RefusedError(asked))
        elif fault == "too few":
            end.set_result([-number for number in asked[1:]])
        else:
            self.refused |= refused
            end.set_result([RefusedError([one]) if one in refused else -one for one in asked])
        if fault != "none" and len(asked) == 1:
            self.poisoned |= set(asked)
        self.settle()

    @invariant()
    def none_waits_for_nothing(self) -> None:
        if not hasattr(self, "loop") or self.end is not None:
            return
        waiting = [
            number
            for number, task in self.clients.items()
            if not task.done() and number not in self.called
        ]
        assert len(waiting) < self.max_batch
        assert self.batcher.status()["waiting"] == len(waiting)
        for number in waiting:
            assert self.loop.now - self.arrivals[number] < self.max_wait

    @invariant()
    def answers_are_the_questions_own(self) -> None:
        for number, task in getattr(self, "clients", {}).items():
            if task.done() and number not in self.left:
                error = task.exception()
                if number in self.poisoned:
                    assert isinstance(error, RefusedError | RuntimeError)
                elif number in self.refused:
                    assert isinstance(error, RefusedError)
                    assert error.args[0] == [number]
                else:
                    assert error is None
                    assert task.result() == -number

    def teardown(self) -> None:
        if not hasattr(self, "loop"):
            return
        while not all(task.done() for task in self.clients.values()):
            self.loop.now += self.max_wait
            self.settle()
            if self.end is not None:
                self.end.set_result([-number for number in self.in_call])
                self.settle()
        self.answers_are_the_questions_own()
        for number, task in self.clients.items():
            assert task.cancelled() == (number in self.left)
        counted = self.batcher.status()
        assert counted["waiting"] == 0
        assert sum(counted["calls"].values()) >= len(self.called) / self.max_batch
        self.loop.close()


TestBatching = Batching.TestCase
TestBatching.settings = settings(max_examples=60, stateful_step_count=40)


def test_when_the_first_leaves_the_wait_of_the_next_one_counts() -> None:
    machine = Batching()
    machine.begin(max_batch=3, max_wait=1.0)
    machine.ask()
    machine.wait(0.4)
    machine.ask()
    machine.clients[0].cancel()
    machine.left.add(0)
    machine.wait(0.8)
    assert machine.called == [], "the first one's time is over, not that of the second"
    machine.wait(0.2)
    assert machine.called == [1]
    machine.teardown()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    base = tmp_path_factory.mktemp("together")
    with serving(base, "serve-together", **BATCHES, **MULTI) as server:
        yield server


@pytest.fixture
def server(shared: Server, tmp_path: Path) -> Iterator[Server]:
    """The shared server with the models `a`, of 1, and `b`, of 2."""
    for name, mean in (("a", 1.0), ("b", 2.0)):
        assert shared.load(name, folder_model(tmp_path / name, mean))[0] == 200
    yield shared
    for name in ("a", "b"):
        shared.call("DELETE", f"/models/{name}")


def calls(server: Server) -> dict[str, int]:
    found: dict[str, int] = server.status()["batching"]["calls"]
    return found


def waiting(count: int) -> Any:
    return lambda status: status["batching"]["waiting"] == count


class Busy:
    """A server whose family works on a request until `go`, so that further ones gather."""

    def __init__(self, server: Server, threads: ThreadPoolExecutor, go: Path) -> None:
        before = calls(server)
        self._server, self._threads, self._go = server, threads, go
        self.answer = threads.submit(server.invoke, "a", {"wait_for": str(go)})
        server.until(lambda status: status["batching"]["calls"] != before)

    def ask(self, name: str, request: dict[str, Any]) -> Future[tuple[int, Any]]:
        """Send a request, and return when it waits."""
        before = self._server.status()["batching"]["waiting"]
        answer = self._threads.submit(self._server.invoke, name, request)
        self._server.until(waiting(before + 1))
        return answer

    def go(self) -> None:
        self._go.touch()
        assert self.answer.result() == (200, {"mean": 1.0, "batch": 1})


def test_requests_that_come_during_a_call_share_the_next_one(
    server: Server, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(10) as threads:
        busy = Busy(server, threads, tmp_path / "go")
        names = ["a", "b", "b", "a", "b"]
        answers = [busy.ask(name, {"add": number}) for number, name in enumerate(names)]
        busy.go()
        assert [answer.result() for answer in answers] == [
            (200, {"mean": (1 if name == "a" else 2) + number, "batch": 4 if number < 4 else 1})
            for number, name in enumerate(names)
        ]
    assert server.status()["in_use"] == 0


def test_a_lone_request_of_an_idle_family_waits_for_nobody(server: Server) -> None:
    before = calls(server).get("1", 0)
    assert server.invoke("a", {}) == (200, {"mean": 1.0, "batch": 1})
    assert calls(server)["1"] == before + 1


def test_a_requests_fault_is_its_own(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(10) as threads:
        busy = Busy(server, threads, tmp_path / "go")
        bad = busy.ask("a", {"add": "x"})
        good = busy.ask("b", {})
        none = busy.ask("b", {"misbehave": "nothing"})
        busy.go()
        assert bad.result()[1]["error"]["field"] == "add"
        assert good.result() == (200, {"mean": 2.0, "batch": 3})
        assert none.result()[0] == 500


def test_when_a_call_fails_its_requests_are_asked_again_alone(
    server: Server, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(10) as threads:
        busy = Busy(server, threads, tmp_path / "go")
        first = busy.ask("b", {})
        bad = busy.ask("b", {"misbehave": "raise"})
        last = busy.ask("a", {"add": 1})
        busy.go()
        assert first.result() == last.result() == (200, {"mean": 2.0, "batch": 1})
        status, document = bad.result()
        assert (status, document["error"]["code"]) == (500, "InternalError")
        assert "secret" not in json.dumps(document)


def test_a_client_that_disconnects_leaves_the_batch(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(10) as threads:
        busy = Busy(server, threads, tmp_path / "go")
        with socket.create_connection(("127.0.0.1", server.port), timeout=20) as impatient:
            request = b"POST /models/b/invoke HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"
            impatient.sendall(request)
            server.until(waiting(1))
        server.until(waiting(0))
        patient = busy.ask("b", {})
        busy.go()
        assert patient.result() == (200, {"mean": 2.0, "batch": 1})
    server.until(lambda status: status["in_use"] == 0)


def test_a_model_is_not_unloaded_while_its_request_waits(server: Server, tmp_path: Path) -> None:
    with ThreadPoolExecutor(10) as threads:
        busy = Busy(server, threads, tmp_path / "go")
        answer = busy.ask("b", {})
        unload = threads.submit(server.call, "DELETE", "/models/b")
        server.until(lambda status: status["models"] == 1)
        assert not unload.done()
        busy.go()
        assert answer.result() == (200, {"mean": 2.0, "batch": 1})
        assert unload.result()[0] == 200


def test_a_lone_request_waits_for_company_where_that_is_set(tmp_path: Path) -> None:
    folder_model(tmp_path / "model", 5.0)
    with serving(tmp_path, "serve-together", TENANTRY_MAX_WAIT_MS="300", **BATCHES) as server:
        began = time.monotonic()
        assert server.call("POST", "/invocations", {}) == (200, {"mean": 5.0, "batch": 1})
        assert time.monotonic() - began > 0.29
        assert server.status()["batching"]["max_wait_ms"] == 300


def test_the_records_of_a_batch_transform_share_calls(tmp_path: Path) -> None:
    for number in range(3):
        archive_model(tmp_path / "model" / f"tenant-{number}" / "v1.tar.gz", float(number))
    records = [
        {"model": f"tenant-{number % 3}/v1.tar.gz", "request": {"add": number}}
        for number in range(10)
    ]
    body = b"".join(json.dumps(one).encode() + b"\n" for one in records)
    with serving(tmp_path, "serve-together", SAGEMAKER_BATCH="true", **BATCHES) as server:
        status, _ = server.call("POST", "/invocations", body)
        assert status == 200
        before = calls(server)
        status, answer = server.call("POST", "/invocations", body)
        answers = [json.loads(line) for line in answer.splitlines()]
        assert [one["mean"] for one in answers] == [number % 3 + number for number in range(10)]
        # All are in memory now, so they come at once.
        assert [one["batch"] for one in answers] == [4] * 8 + [2] * 2
        assert calls(server)["4"] >= before.get("4", 0) + 2
        parameters = server.call("GET", "/execution-parameters")[1]
        assert parameters["MaxConcurrentTransforms"] == 8
        bad = body + json.dumps({**records[0], "request": {"add": "x"}}).encode()
        status, document = server.call("POST", "/invocations", bad)
        assert (status, document["error"]["message"][:10]) == (400, "record 10:")


def test_no_more_transforms_are_asked_for_than_their_bodies_may_have(tmp_path: Path) -> None:
    folder_model(tmp_path / "model")
    surroundings = {"SAGEMAKER_BATCH": "true", "TENANTRY_MAX_BATCH": "64"}
    with serving(tmp_path, "serve-together", **surroundings) as server:
        parameters = server.call("GET", "/execution-parameters")[1]
        assert parameters["MaxConcurrentTransforms"] * parameters["MaxPayloadInMB"] == 96


@pytest.mark.parametrize(
    ("kind", "family"),
    [("serve", "not"), ("serve-batching", "by itself"), ("serve-together", "predict_batch")],
)
def test_without_the_setting_each_request_is_answered_by_itself(
    tmp_path: Path, kind: str, family: str
) -> None:
    folder_model(tmp_path / "model", 5.0)
    with serving(tmp_path, kind) as server:
        assert server.call("POST", "/invocations", {})[1]["mean"] == 5.0
        assert server.status()["batching"] == {"family": family, "max_batch": 1}


@pytest.mark.parametrize(
    ("kind", "environment", "reason"),
    [
        ("serve", {}, "takes no batches: its predictor has no predict_batch"),
        ("serve-batching", {}, "'tiny' batches the requests in flight by itself"),
        (
            "serve-together",
            {"TENANTRY_MAX_BATCH": "0"},
            "TENANTRY_MAX_BATCH must be a whole number from 1 to 1024",
        ),
        (
            "serve-together",
            {"TENANTRY_MAX_BATCH": "1025"},
            "TENANTRY_MAX_BATCH must be a whole number from 1 to 1024",
        ),
        (
            "serve-together",
            {"TENANTRY_MAX_WAIT_MS": "2.5"},
            "TENANTRY_MAX_WAIT_MS must be a whole number from 0 to 1000",
        ),
        (
            "serve-together",
            {"TENANTRY_MAX_BATCH": "1", "TENANTRY_MAX_WAIT_MS": "5"},
            "TENANTRY_MAX_WAIT_MS is 5, and there are no batches to wait for",
        ),
    ],
)
def test_batches_that_cannot_be_end_the_server_with_the_reason(
    tmp_path: Path, kind: str, environment: dict[str, str], reason: str
) -> None:
    folder_model(tmp_path / "model")
    with start(tmp_path, free_port(), kind, **{**BATCHES, **environment}) as process:
        output = process.communicate(timeout=20)[0]
    assert process.returncode == 1
    assert reason in output
