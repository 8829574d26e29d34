"""Requests for the launcher, its ticks, and the app's notices."""

from __future__ import annotations

import json
from datetime import datetime

from dagster import DagsterInstance

from orchestration.launcher import PACK_TAG, runs_to_request
from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request
from tenantry.workloads.schema import Workload

ENERGY = ids.workload_name("energy")


def ask(
    queue: RequestQueue,
    tenant: str,
    content: str = "one",
    *,
    first: bool = True,
    uploaded: datetime | None = None,
    nth: int = 1,
) -> Request:
    who = ids.tenant_id(tenant)
    request = ids.request_id_of(ENERGY, who, content)
    assert queue.accept(
        ENERGY, who, request, "k", "bridge", first=first, uploaded=uploaded, nth=nth
    )
    row = queue.get(ENERGY, who, request)
    assert row is not None
    return row


def tick(instance: DagsterInstance, queue: RequestQueue, workload: Workload) -> list[str]:
    """The packs that get a run now."""
    return [
        run.tags[PACK_TAG]
        for run in runs_to_request(instance, queue, workload, lost_run_seconds=60)
    ]


def notices(queue: RequestQueue) -> list[dict[str, str]]:
    """The app's notices."""
    received = queue.deployment.sqs.receive_message(
        QueueUrl=queue.deployment.notices_queue_url, MaxNumberOfMessages=10
    )
    return [json.loads(message["Body"]) for message in received.get("Messages", [])]


def again(queue: RequestQueue, row: Request) -> Request:
    found = queue.get(ENERGY, row.tenant, row.request)
    assert found is not None
    return found
