"""A request's whole history is kept, and its row stays small."""

from __future__ import annotations

import itertools
from functools import partial

from boto3.dynamodb.types import TypeSerializer
from botocore.exceptions import ClientError

from tenantry.names import ids, table_keys
from tenantry.requests.history import LONGEST_HISTORY
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import Request, now
from tests.tenantry.requests.accepted_requests import ACME, NAME, accepted


def full(queue: RequestQueue, tenant: ids.TenantId = ACME) -> Request:
    """A row just below DynamoDB's limit of 400 KB, from a release that did not limit histories."""
    row = accepted(queue, tenant)
    why = "z" * 300
    changes = [
        {
            "at": f"2026-01-01T{n // 3600:02}:{n // 60 % 60:02}:{n % 60:02}+00:00",
            "by": "intake",
            "status": "pending",
            "why": why,
        }
        for n in range(1200)
    ]
    serialize = TypeSerializer().serialize
    update = partial(
        queue.deployment.dynamodb.update_item,
        TableName=queue.deployment.requests_table,
        Key={
            "tenant": {"S": table_keys.table_partition(tenant, NAME)},
            "request": {"S": row.request},
        },
        UpdateExpression="SET #h = :h",
        ExpressionAttributeNames={"#h": "history"},
    )
    while True:
        try:
            update(ExpressionAttributeValues={":h": serialize(changes)})
        except ClientError:
            del changes[-8:]
        else:
            break
    for number in itertools.count():  # until the row is full
        changes.append({**changes[-1], "at": f"2026-01-02T00:00:{number:02}+00:00"})
        try:
            update(ExpressionAttributeValues={":h": serialize(changes)})
        except ClientError:
            break
    found = queue.get(NAME, tenant, row.request)
    assert found is not None
    assert len(found.history) > 900
    return found


def test_a_row_that_is_full_goes_on_and_keeps_all_its_history(queue: RequestQueue) -> None:
    before = full(queue)
    row = queue.cancel(before, why="the customer left")
    assert row.status == "cancelled"
    assert len(row.history) < 30
    assert queue.history_of(row) == [*before.history, row.history[-1]]
    assert [r.request for r in queue.of_tenant(NAME, ACME)] == [row.request], (
        "what moved out is no request"
    )
    assert queue.open(NAME) == []


def test_a_history_is_kept_whole_however_long_it_grows_and_its_row_stays_small(
    queue: RequestQueue,
) -> None:
    row, whys = accepted(queue), []
    for number in range(2 * LONGEST_HISTORY + 5):
        whys.append(f"for the {number}th time")
        row = queue.move(row, "pending", why=whys[-1])
        assert len(row.history) <= LONGEST_HISTORY + 1
    found = queue.get(NAME, ACME, row.request)
    assert found is not None
    assert found.moved_out > LONGEST_HISTORY
    assert [change["why"] for change in queue.history_of(found)] == ["uploaded", *whys]
    assert queue.history_of(found, since=now()) == list(found.history) or len(found.history) < len(
        whys
    )
