"""The command line as called by a person or a script, on a real local cloud, and requests in an
operator's usual states."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tenantry.aws.deployment import Deployment
from tenantry.command_line.main import tenantry
from tenantry.names import ids, s3_keys
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request

ENERGY = ids.workload_name("energy")

Call = Callable[..., Result]


def caller(deployment: Deployment | None) -> Call:
    """Calls ``tenantry`` with arguments. ``stdin`` answers its questions; ``status`` is the
    expected exit status.

    Without a deployment, it is for commands that must be refused before any call.
    """

    def run(*arguments: str, stdin: str | None = None, status: int = 0) -> Result:
        result = CliRunner().invoke(
            tenantry, arguments, input=stdin, obj=deployment, prog_name="tenantry"
        )
        assert result.exit_code == status, result.output
        return result

    return run


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Output is as wide as in a file, regardless of the terminal that runs the tests."""
    monkeypatch.delenv("COLUMNS", raising=False)


@pytest.fixture
def call(deployment: Deployment) -> Call:
    """See ``caller``."""
    return caller(deployment)


def document(result: Result) -> dict[str, Any]:
    """The only JSON document that a command wrote."""
    (line,) = result.stdout.splitlines()
    parsed: dict[str, Any] = json.loads(line)
    return parsed


@pytest.fixture
def queue(deployment: Deployment) -> RequestQueue:
    return RequestQueue(deployment, by="test")


def pending(
    queue: RequestQueue, tenant: str, content: str = "one", workload: ids.WorkloadName = ENERGY
) -> Request:
    who = ids.tenant_id(tenant)
    request = ids.request_id_of(workload, who, content)
    manifest = s3_keys.upload_manifest(workload, who, ids.upload_id(content))
    assert queue.accept(workload, who, request, manifest, "bridge", first=True)
    return again(queue, workload, who, request)


def again(
    queue: RequestQueue, workload: ids.WorkloadName, tenant: ids.ModelId, request: ids.RequestId
) -> Request:
    row = queue.get(workload, tenant, request)
    assert row is not None
    return row


def now_of(queue: RequestQueue, row: Request) -> Request:
    """The current row."""
    return again(queue, row.workload, row.tenant, row.request)


def claimed(queue: RequestQueue, tenant: str, pack: str = "p-1", **options: Any) -> Request:
    (row,) = queue.claim([pending(queue, tenant, **options)], ids.pack_id(pack))
    return row


def dead_lettered(
    queue: RequestQueue, tenant: str, reason: str = "the container ended with status 1"
) -> Request:
    return queue.fail(claimed(queue, tenant), reason, attempts=1)
