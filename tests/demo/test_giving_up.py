"""A demo that cannot continue gives the reason and keeps its UI open. Meanwhile no second demo can
start in its folder."""

from __future__ import annotations

import re
import signal
import urllib.request
from pathlib import Path

import pytest

from demo.only_one import AlreadyRunsError, only_one
from tests.demo.running import HAPPENS_WITHIN, RunningDemo
from tests.infrastructure.test_local_cloud import listeners

# Two days of two customers, too few for a model; the second customer's readings are not numbers.
TOO_LITTLE = "customer_id,timestamp,consumption\n" + "".join(
    f"{customer},2026-01-0{day}T{hour:02}:00:00Z,{reading}\n"
    for customer, reading in (("Flat 1 / Jane", "1.5"), ("MAC_002", "out"))
    for day in (1, 2)
    for hour in range(24)
)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_demo_without_a_model_tells_each_reason_and_keeps_its_ui_and_its_folder(
    tmp_path: Path,
) -> None:
    data = tmp_path / "my data.csv"
    data.write_text(TOO_LITTLE)
    demo = RunningDemo(tmp_path, "--data", str(data))
    others: list[RunningDemo] = []
    try:
        demo.wait(
            lambda: "The UI stays open" in demo.said() or demo.process.poll() is not None,
            "giving up",
        )
        said = demo.said()
        assert "no energy model was made" in said
        assert re.search(r"mac-002-[0-9a-f]{16}: its request is refused", said)
        # customers' names must not leave the user's own file
        assert "Jane" not in said.partition("no energy model was made")[2]
        with urllib.request.urlopen(
            f"http://127.0.0.1:{demo.port}/server_info", timeout=60
        ) as answer:
            assert answer.status == 200
        heard = listeners(demo.processes())
        assert demo.port in {port for _, port in heard}
        assert {address for address, _ in heard} <= {"127.0.0.1", "::1"}

        before = {path: path.stat().st_mtime_ns for path in demo.folder.glob("*") if path.is_file()}
        others.append(RunningDemo(tmp_path, "--tenants", "1"))
        assert others[0].process.wait(HAPPENS_WITHIN) == 1
        expected = (
            f"Tenantry already runs here (pid {demo.process.pid}, UI http://127.0.0.1:{demo.port})"
        )
        assert expected in " ".join(others[0].said().split())
        assert {
            path: path.stat().st_mtime_ns for path in demo.folder.glob("*") if path.is_file()
        } == before

        demo.process.send_signal(signal.SIGTERM)
        assert demo.process.wait(HAPPENS_WITHIN) == 1
        assert demo.processes() == {}
    finally:
        for each in (demo, *others):
            each.end()


def test_a_lock_goes_with_its_process_however_it_ends(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "lock"
    with only_one(lock) as ui_is_at:
        ui_is_at("http://127.0.0.1:3000")
        with (
            pytest.raises(AlreadyRunsError, match=r"\(pid \d+, UI http://127\.0\.0\.1:3000\)"),
            only_one(lock),
        ):
            pytest.fail("it was given away twice")
    demo = RunningDemo(tmp_path, "--tenants", "1")
    try:
        demo.wait(lambda: "pid" in _text(demo.folder / "lock"), "the lock")
        with (
            pytest.raises(AlreadyRunsError, match=f"pid {demo.process.pid}"),
            only_one(demo.folder / "lock"),
        ):
            pytest.fail("it was given away twice")
        demo.process.kill()
        demo.process.wait()
        with only_one(demo.folder / "lock"):
            pass
    finally:
        demo.end()


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""
