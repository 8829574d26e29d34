"""The local cloud's processes: they are found through the environment, can be emptied, and end
afterwards."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import boto3
import psutil
import pytest

from infrastructure.local_cloud import (
    LocalCloud,
    LocalCloudError,
    free_port,
    start_process,
    stop_process,
    wait_until_healthy,
)

ROOT = Path(__file__).resolve().parents[2]


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(pid: int, within: float = 30.0) -> bool:
    deadline = time.monotonic() + within
    while alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not alive(pid)


def listeners(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Addresses and ports on which processes listen; an ended process has none."""
    found = set()
    for pid in pids:
        connections: list[Any] = []
        with suppress(psutil.NoSuchProcess):
            connections = psutil.Process(pid).net_connections(kind="inet")
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN or (
                connection.type == socket.SOCK_DGRAM and connection.laddr
            ):
                found.add((connection.laddr.ip, connection.laddr.port))
    return found


def test_any_sdk_finds_every_service_through_the_environment(local_cloud: LocalCloud) -> None:
    assert os.environ["AWS_ENDPOINT_URL"] == local_cloud.ministack_url
    assert boto3.client("sts").get_caller_identity()["Account"] == "123456789012"
    assert boto3.client("sagemaker").meta.endpoint_url == local_cloud.sagemaker_url
    assert boto3.client("sagemaker-runtime").meta.endpoint_url == local_cloud.sagemaker_url
    assert boto3.client("s3").meta.region_name == "eu-west-1"


@pytest.mark.parametrize(
    ("header", "value", "status"),
    [
        ("Origin", "https://example.com", 403),
        ("Origin", "null", 403),
        ("Origin", "http://localhost.example.com", 403),
        ("Host", "example.com:80", 403),
        ("Origin", "http://localhost:5173", 200),
        ("Host", "tenantry.s3.localhost", 200),
    ],
)
def test_a_web_page_of_another_machine_is_refused(
    local_cloud: LocalCloud, header: str, value: str, status: int
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", local_cloud.ministack_port, timeout=60)
    reset = status == 403
    connection.request(
        "POST" if reset else "GET",
        "/_ministack/reset" if reset else "/_ministack/health",
        headers={header: value},
    )
    assert connection.getresponse().status == status
    connection.close()


def test_emptied_it_holds_nothing_and_goes_on(local_cloud: LocalCloud) -> None:
    s3 = boto3.client("s3")
    s3.create_bucket(
        Bucket="anything", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"}
    )
    before = {name: process.pid for name, process in local_cloud.processes.items()}
    local_cloud.reset()
    assert s3.list_buckets()["Buckets"] == []
    assert {name: process.pid for name, process in local_cloud.processes.items()} == before


def test_a_process_that_ends_at_once_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "logs/process.log"
    process = start_process(
        [sys.executable, "-c", "raise SystemExit('no such disk')"], log, dict(os.environ)
    )
    with pytest.raises(LocalCloudError, match="no such disk"):
        wait_until_healthy(f"http://127.0.0.1:{free_port()}/", process, log)
    stop_process(process)


def test_a_process_that_never_answers_is_not_waited_for_for_ever(tmp_path: Path) -> None:
    log = tmp_path / "process.log"
    process = start_process(
        [sys.executable, "-c", "import time; time.sleep(600)"], log, dict(os.environ)
    )
    with pytest.raises(LocalCloudError, match="nothing moved for 0 s"):
        wait_until_healthy(f"http://127.0.0.1:{free_port()}/", process, log, silence=0.4)
    stop_process(process)
    assert process.returncode == -signal.SIGTERM


# Each works longer than the limit of silence before it answers: in itself, in a child, or into its
# log.
WORKING = """
import http.server, subprocess, sys, time
how, port = sys.argv[1], int(sys.argv[2])
busy = "import time\\nend = time.monotonic() + 3\\nwhile time.monotonic() < end: pass"
if how == "itself": exec(busy)
elif how == "a child": subprocess.run([sys.executable, "-c", busy])
else:
    for _ in range(30): print("still loading", flush=True); time.sleep(0.1)
class Answers(http.server.BaseHTTPRequestHandler):
    def do_GET(self): self.send_response(200); self.end_headers()
http.server.HTTPServer(("127.0.0.1", port), Answers).serve_forever()
"""


@pytest.mark.parametrize("how", ["itself", "a child", "its log"])
def test_a_process_that_starts_slowly_is_waited_for_as_long_as_it_moves(
    tmp_path: Path, how: str
) -> None:
    log, port = tmp_path / "process.log", free_port()
    began = time.monotonic()
    process = start_process([sys.executable, "-c", WORKING, how, str(port)], log, dict(os.environ))
    try:
        wait_until_healthy(f"http://127.0.0.1:{port}/", process, log, silence=1.0)
        assert time.monotonic() - began > 2
    finally:
        stop_process(process)


def test_nothing_of_it_listens_where_another_machine_could_reach_it(
    local_cloud: LocalCloud,
) -> None:
    roots = [psutil.Process(process.pid) for process in local_cloud.processes.values()]
    tree = [process for root in roots for process in (root, *root.children(recursive=True))]
    # It binds its ports one after the other; an answer here means that all are bound.
    ready = f"{local_cloud.ministack_url}/_ministack/ready"
    with urllib.request.urlopen(ready, timeout=30) as answer:  # noqa: S310
        assert answer.status == 200
    heard = listeners(process.pid for process in tree)
    assert {local_cloud.ministack_port, local_cloud.sagemaker_port} <= {port for _, port in heard}
    assert {address for address, _ in heard} <= {"127.0.0.1", "::1"}


STUBBORN = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


def test_a_process_that_will_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    log = tmp_path / "process.log"
    process = start_process([sys.executable, "-c", STUBBORN], log, dict(os.environ))
    while not log.read_text().strip():
        time.sleep(0.02)
    child = int(log.read_text())
    stop_process(process, grace=0.2)
    assert process.returncode == -signal.SIGKILL
    assert gone(child)


PARENT = """
import sys
from pathlib import Path
from infrastructure.local_cloud import running
with running(Path(sys.argv[1]), Path("containers")) as cloud:
    print(*(process.pid for process in cloud.processes.values()), flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL], ids=lambda end: end.name)
def test_whatever_ends_its_owner_the_cloud_is_gone_too(tmp_path: Path, end: signal.Signals) -> None:
    command = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as owner:
        assert owner.stdout is not None
        children = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(children) == 2
        assert all(alive(pid) for pid in children)
        owner.send_signal(end)
        owner.wait(60)
    assert all(gone(pid) for pid in children)
