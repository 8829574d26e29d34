"""Calls in separate processes: after any effect of a file on its reader, the caller gets a refusal
and goes on."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from contracts.refused_data import RefusedDataError
from tenantry.uploads.bounded_calls import BoundedCalls, CallFailedError, Limits, bounded_calls

MODULE = "tests.tenantry.uploads.hostile"
LIMITS = Limits(memory_bytes=128 << 20, cpu_seconds=30, seconds=60, file_bytes=4 << 20)


@pytest.fixture(scope="module")
def calls() -> BoundedCalls:
    return bounded_calls(MODULE)


def make(
    calls: BoundedCalls,
    function: str,
    limits: Limits = LIMITS,
    *,
    alone: bool = False,
    **values: Any,
) -> Any:
    paths = {
        name: values.pop(name) for name in list(values) if isinstance(values[name], (Path, list))
    }
    return calls.call(MODULE, function, paths=paths, values=values, limits=limits, alone=alone)


def test_a_call_gives_what_the_function_returns_or_refuses(
    calls: BoundedCalls, tmp_path: Path
) -> None:
    (tmp_path / "a").write_text("hello")
    assert make(calls, "answer", files=[tmp_path / "a"], said="ü") == {
        "said": "ü",
        "files": ["hello"],
    }
    with pytest.raises(RefusedDataError) as refused:
        make(calls, "refuse")
    error = refused.value
    assert (error.reason, error.field, error.cure) == (
        "Row 3 has no timestamp.",
        "timestamp",
        "Give it one.",
    )
    assert error.code == "timestamp_missing"


def test_calls_are_made_however_long_the_name_of_the_temporary_folder_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / ("a" * 100) / ("b" * 100)
    folder.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    assert make(BoundedCalls((MODULE,)), "answer", files=[], said="x") == {"said": "x", "files": []}


@pytest.mark.parametrize(
    ("function", "limits", "code"),
    [
        ("eat_memory", LIMITS, "preparation_out_of_memory"),
        ("eat_memory_and_call_it_refused", LIMITS, "preparation_out_of_memory"),
        ("burn", replace(LIMITS, cpu_seconds=1), "preparation_timed_out"),
        ("hang", replace(LIMITS, seconds=0.5), "preparation_timed_out"),
        ("segfault", LIMITS, "preparation_crashed"),
        ("abort", LIMITS, "preparation_crashed"),
        ("exit_at_once", LIMITS, "preparation_crashed"),
        ("kill_itself", LIMITS, "preparation_crashed"),
        ("answer_without_end", LIMITS, "preparation_crashed"),
        ("fill_the_disk", LIMITS, "prepared_too_large"),
    ],
)
def test_a_call_that_takes_too_much_or_dies_is_a_refusal_with_a_code(
    calls: BoundedCalls, tmp_path: Path, function: str, limits: Limits, code: str
) -> None:
    values: dict[str, dict[str, Any]] = {
        "eat_memory": {"megabytes": 1 << 20},
        "fill_the_disk": {"folder": tmp_path},
    }
    arguments = values.get(function, {})
    with pytest.raises(RefusedDataError) as refused:
        make(calls, function, limits, **arguments)
    assert refused.value.code == code
    assert make(calls, "answer", files=[], said="the next one is served") == {
        "said": "the next one is served",
        "files": [],
    }


@pytest.mark.parametrize("how", ["exit", "segfault", "kill"])
def test_one_death_tells_nothing_of_the_files(
    calls: BoundedCalls, tmp_path: Path, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    assert make(calls, "die_once", alone=True, marker=tmp_path / "died", how=how) == "answered"
    assert "made once more" in caplog.text


def test_what_fits_is_not_refused_and_what_the_code_itself_takes_is_not_counted(
    calls: BoundedCalls,
) -> None:
    assert make(calls, "eat_memory", megabytes=64) == 64


def test_an_error_of_the_code_is_named_by_its_place_and_quotes_nothing(calls: BoundedCalls) -> None:
    with pytest.raises(CallFailedError, match=r"^KeyError at hostile\.py:\d+$"):
        make(calls, "fail", secret="the customer's name")
    with pytest.raises(CallFailedError, match="ModuleNotFoundError"):
        calls.call("tests.no.such", "prepare", paths={}, values={}, limits=LIMITS)


def test_nothing_that_a_call_started_goes_on_after_it(calls: BoundedCalls, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    assert make(calls, "leave_a_process", pid_file=pid_file, alone=True) == "done"
    deadline = time.monotonic() + 60
    while Path(f"/proc/{int(pid_file.read_text())}").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not Path(f"/proc/{int(pid_file.read_text())}").exists()


def test_a_worker_makes_several_calls_and_one_that_wants_to_be_alone_has_its_own(
    calls: BoundedCalls,
) -> None:
    shared = {make(calls, "process_number") for _ in range(5)}
    own = {make(calls, "process_number", alone=True) for _ in range(3)}
    assert (len(shared), len(own)) == (1, 3)
    assert not shared & own


def test_memory_that_earlier_calls_of_a_worker_hold_is_not_the_next_calls_fault(
    calls: BoundedCalls,
) -> None:
    assert [make(calls, "keep_memory", megabytes=70) for _ in range(3)] == [70] * 3


def test_arrow_takes_memory_of_the_system_as_its_own_allocator_fails_in_forked_processes(
    calls: BoundedCalls,
) -> None:
    assert make(calls, "memory_pool") == "system"


def test_a_call_has_no_credentials_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = {"PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "VIRTUAL_ENV", "HOME", "TMPDIR"}
    for name in (
        "AWS_SECRET_ACCESS_KEY",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        "DAGSTER_HOME",
        "DATABASE_PASSWORD",
    ):
        monkeypatch.setenv(name, "secret")
    others_calls = BoundedCalls([MODULE])  # its process starts now
    found = make(others_calls, "environment")
    others_calls.close()
    assert "secret" not in found.values()
    kept.add("ARROW_DEFAULT_MEMORY_POOL")
    others = {name for name in found if not name.startswith(("PYTHON", "FAKETIME"))} - kept
    assert all(name.endswith("_NUM_THREADS") or name.startswith("LD_") for name in others), others


def test_calls_go_on_after_somebody_killed_the_process_they_are_made_in(
    calls: BoundedCalls,
) -> None:
    with pytest.raises(CallFailedError, match="died twice"):
        make(calls, "kill_its_keeper")
    assert make(calls, "answer", files=[], said="again")["said"] == "again"


def test_what_is_idle_ends_and_what_takes_longer_does_not(tmp_path: Path) -> None:
    calls = BoundedCalls([MODULE], idle_seconds=0.2)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(make, calls, "wait_for", file=tmp_path / "go on")
        time.sleep(1)
        assert not waiting.done()
        (tmp_path / "go on").touch()
        assert waiting.result() == "gone on"
    server = calls._server
    assert server is not None
    server.process.wait(timeout=60)
    assert make(calls, "answer", files=[], said="anew")["said"] == "anew"
    calls.close()


def test_calls_of_several_threads_do_not_wait_for_one_that_takes_long(
    calls: BoundedCalls, tmp_path: Path
) -> None:
    with ThreadPoolExecutor(4) as pool:
        waiting = pool.submit(make, calls, "wait_for", file=tmp_path / "go on")
        said = list(
            pool.map(lambda n: make(calls, "answer", files=[], said=str(n))["said"], range(8))
        )
        assert said == [str(n) for n in range(8)]
        assert not waiting.done()
        (tmp_path / "go on").touch()
        assert waiting.result() == "gone on"
