"""The queue of requests, on a real table: every change is one conditional write, and a second
writer gets an error."""

from __future__ import annotations

import itertools
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from tenantry.aws.deployment import Deployment
from tenantry.names import ids, table_keys
from tenantry.requests.daily_uploads import count_upload
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import (
    IN_A_PACK,
    OPEN,
    NotTheirTurnError,
    Request,
    RequestKey,
    Status,
    key_of,
    now,
    request_of,
)
from tests.tenantry.requests.accepted_requests import (
    ACME,
    AT_ONCE,
    BOLT,
    NAME,
    OTHER_PACK,
    OUT_OF_A_PACK,
    PACK,
    STORY,
    accepted,
    claimed,
)


def test_a_row_of_an_earlier_release_keeps_its_meaning(queue: RequestQueue) -> None:
    row = accepted(queue, notify_owner=False)
    stored = queue.deployment.requests.get(key_of(row))
    assert stored is not None
    new_names = {"notify_owner", "postponements"}
    earlier = {name: value for name, value in stored.items() if name not in new_names}
    assert not request_of(stored).notify_owner
    assert not request_of(earlier | {"quiet": True}).notify_owner
    assert request_of(earlier | {"postponed": 3}).notify_owner
    assert request_of(earlier | {"postponed": 3}).postponements == 3


def test_a_request_goes_all_the_way_and_its_history_tells_it(queue: RequestQueue) -> None:
    row = accepted(queue)
    assert (row.status, row.attempt, row.first, row.pack, row.tier) == (
        "pending",
        1,
        True,
        None,
        "bridge",
    )
    assert row.version == ids.version_of(row.request, row.accepted)
    row = claimed(queue, row)
    assert row.pack == PACK
    row = queue.move(
        row,
        "training",
        why="its data are good",
        changes={"job": "job-1", "facts": {"training_data": "{}"}},
    )
    row = queue.move(row, "trained", why="version v1")
    assert [r.key for r in queue.in_packs(NAME)] == [row.key]
    row = queue.move(row, "registered", why="the tenant's first model")

    assert queue.get(NAME, ACME, row.request) == row
    assert (row.job, row.facts) == ("job-1", {"training_data": "{}"})
    assert [change["status"] for change in row.history] == [
        "pending",
        "claimed",
        "training",
        "trained",
        "registered",
    ]
    assert [change["why"] for change in row.history][::4] == [
        "uploaded",
        "the tenant's first model",
    ]
    assert queue.due(NAME) == queue.open(NAME) == queue.in_packs(NAME) == []


def test_a_change_whose_answer_was_lost_and_which_is_made_again_was_made(
    queue: RequestQueue,
) -> None:
    row = accepted(queue)
    lost: list[bool] = []

    def lose_the_first_answer(**_: object) -> Any:
        if lost:
            return None
        lost.append(True)
        return 0.0  # seconds until botocore makes the same call again

    events = queue.deployment.dynamodb.meta.events
    events.register("needs-retry.dynamodb.UpdateItem", lose_the_first_answer)
    try:
        (taken,) = queue.claim([row], PACK)
    finally:
        events.unregister("needs-retry.dynamodb.UpdateItem", lose_the_first_answer)
    assert lost
    assert (taken.status, taken.pack) == ("claimed", PACK)
    assert taken == queue.get(NAME, ACME, row.request)
    assert [change["status"] for change in taken.history] == ["pending", "claimed"]


def test_the_same_content_of_two_tenants_is_two_requests(queue: RequestQueue) -> None:
    first, second = accepted(queue), accepted(queue, BOLT)
    assert first.request != second.request
    assert queue.of_tenant(NAME, ACME) == [first]
    assert queue.get(NAME, BOLT, first.request) is None


def test_every_change_says_who_made_it_when_and_why(deployment: Deployment) -> None:
    row = accepted(RequestQueue(deployment, by="intake"))
    row = claimed(RequestQueue(deployment, by="sensor fine_tuning_launcher"), row)
    row = RequestQueue(deployment, by="operator ann").cancel(row, why="the customer left")
    assert [(change["by"], change["status"], change["why"]) for change in row.history] == [
        ("intake", "pending", "uploaded"),
        ("sensor fine_tuning_launcher", "claimed", f"pack {PACK}"),
        ("operator ann", "cancelled", "the customer left"),
    ]
    moments = [change["at"] for change in row.history]
    assert moments == sorted(moments)
    assert (row.pack, row.reason) == (None, "the customer left")


def test_what_a_list_gives_of_a_row_can_be_moved_like_the_row_itself(queue: RequestQueue) -> None:
    row = accepted(queue)
    (listed,) = queue.due(NAME)
    assert listed == replace(row, history=())
    taken = claimed(queue, listed)
    assert [change["status"] for change in taken.history] == ["pending", "claimed"]


def test_of_two_who_claim_a_request_one_gets_it(queue: RequestQueue) -> None:
    rows = [accepted(queue, ids.tenant_id(f"t{number}")) for number in range(6)]
    with ThreadPoolExecutor(2) as pool:
        taken = list(pool.map(lambda pack: queue.claim(rows, pack), [PACK, OTHER_PACK]))
    got = [{row.request for row in one} for one in taken]
    assert got[0] | got[1] == {row.request for row in rows}
    assert not got[0] & got[1]
    assert {row.pack for row in taken[0]} <= {PACK}
    assert {row.pack for row in taken[1]} <= {OTHER_PACK}


@pytest.mark.parametrize(
    ("was", "to"), [(was, to) for was in STORY for to in STORY if to not in STORY[was]]
)
def test_a_change_that_is_not_in_the_story_is_refused_before_anything_is_asked(
    was: Status, to: Status
) -> None:
    request = ids.RequestId("0" * 32)
    row = Request(
        request, ACME, NAME, was, "k", None, "bridge", now(), now(), now(), content=request
    )
    no_cloud: Any = None  # no call may happen
    with pytest.raises(NotTheirTurnError, match=f"is {was}; it cannot become {to}"):
        RequestQueue(no_cloud).move(row, to, why="")


def test_a_row_that_moved_on_is_no_longer_its_readers_to_move(queue: RequestQueue) -> None:
    row = accepted(queue)
    taken = claimed(queue, row)
    with pytest.raises(NotTheirTurnError, match="no longer pending"):
        queue.move(row, "claimed", why="", changes={"pack": OTHER_PACK})
    assert queue.try_move(row, "claimed", why="", changes={"pack": OTHER_PACK}) is None
    assert queue.get(NAME, ACME, row.request) == taken


def test_a_row_that_went_round_is_no_longer_its_first_readers_to_move(queue: RequestQueue) -> None:
    """The row is pending again after a failed try. A process with the earlier row must neither skip
    its wait nor undo its history."""
    row = accepted(queue)
    queue.fail(claimed(queue, row), "a spot was interrupted", attempts=3, first_retry=AT_ONCE)
    (waiting,) = queue.wake(NAME)
    assert waiting.status == row.status == "pending"
    assert queue.claim([row], OTHER_PACK) == []
    assert queue.get(NAME, ACME, row.request) == waiting


def test_what_is_done_cannot_be_cancelled(queue: RequestQueue) -> None:
    row = queue.move(
        queue.move(claimed(queue, accepted(queue)), "trained", why=""), "registered", why=""
    )
    with pytest.raises(NotTheirTurnError, match="is registered"):
        queue.cancel(row, why="too late")


def test_counts_tell_how_many_are_open_or_wait_for_an_operator(queue: RequestQueue) -> None:
    for number in range(3):
        accepted(queue, ids.tenant_id(f"t{number}"))
    queue.fail(claimed(queue, accepted(queue)), "no good", attempts=1)
    claimed(queue, accepted(queue, BOLT))
    assert {status: count for status, count in queue.counts(NAME).items() if count} == {
        "pending": 3,
        "claimed": 1,
        "dead_lettered": 1,
    }
    assert [row.tenant for row in queue.with_status(NAME, "dead_lettered")] == [ACME]
    with pytest.raises(ValueError, match="registered are not listed"):
        queue.with_status(NAME, "registered")


def test_a_code_is_of_the_reason_it_came_with(queue: RequestQueue) -> None:
    row = queue.fail(
        claimed(queue, accepted(queue)),
        "it is lost",
        attempts=2,
        first_retry=AT_ONCE,
        code="run_died",
    )
    assert (row.reason_code, row.history[-1]["code"]) == ("run_died", "run_died")
    (row,) = queue.wake(NAME)
    row = queue.fail(claimed(queue, row), "it is lost again", attempts=3)
    assert (row.status, row.reason, row.reason_code) == ("failed", "it is lost again", None)
    row = queue.cancel(row, why="a mistake")
    row = queue.retry(row, why="it was none")
    assert (row.reason, row.reason_code) == (None, None)


def test_a_row_that_cannot_be_read_hides_no_other(queue: RequestQueue) -> None:
    broken, good = accepted(queue, BOLT), accepted(queue)
    queue.deployment.dynamodb.update_item(
        TableName=queue.deployment.requests_table,
        Key={
            "tenant": {"S": table_keys.table_partition(BOLT, NAME)},
            "request": {"S": broken.request},
        },
        UpdateExpression="SET #a = :a",
        ExpressionAttributeNames={"#a": "accepted"},
        ExpressionAttributeValues={":a": {"S": "yesterday"}},
    )
    assert [row.request for row in queue.due(NAME)] == [good.request]
    assert [row.request for row in queue.get_many([broken.key, good.key], NAME)] == [good.request]


def test_uploads_are_counted_once_each_by_their_day(queue: RequestQueue) -> None:
    day = now().replace(hour=12)
    count = partial(count_upload, queue.deployment, NAME, ACME, most=3)
    uploads = [ids.upload_id(f"u{number}") for number in range(5)]
    assert [count(uploads[n], day) for n in (0, 1, 1, 0, 2)] == [1, 2, 2, 2, 3]
    assert [count(uploads[n], day) for n in (3, 2, 4)] == [None, 3, None]
    assert count(uploads[3], day + timedelta(days=1)) == 1
    assert count(uploads[4], day) == 1, (
        "an event that comes a day late is not held against the new day"
    )
    assert queue.of_tenant(NAME, ACME) == []


def test_due_lists_the_longest_waiting_first_and_no_more_than_asked_of_this_workload(
    queue: RequestQueue,
) -> None:
    rows = [accepted(queue, ids.tenant_id(f"t{number}")) for number in range(4)]
    other = ids.workload_name("portraits")
    assert queue.accept(other, ACME, ids.request_id_of(other, ACME, "x"), "k", "pool", first=True)
    assert [row.request for row in queue.due(NAME)] == [row.request for row in rows]
    assert [row.request for row in queue.due(NAME, most=2)] == [row.request for row in rows[:2]]


def test_many_requests_are_read_at_once_however_many(queue: RequestQueue) -> None:
    with ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(lambda n: accepted(queue, ids.tenant_id(f"t{n}")), range(120)))
    missing = RequestKey(ids.tenant_id("nobody"), ids.RequestId("0" * 32))
    found = queue.get_many([*(row.key for row in rows), missing, rows[0].key], NAME)
    assert sorted(row.tenant for row in found) == sorted(row.tenant for row in rows)
    assert queue.get_many([], NAME) == []


class Movers(RuleBasedStateMachine):
    """Any holder of any outdated row may try any change."""

    rows = Bundle("rows")

    def __init__(self, deployment: Deployment) -> None:
        super().__init__()
        self.queue = RequestQueue(deployment)
        self.tenant = ids.tenant_id(f"t-{uuid.uuid4().hex}")
        self.last: dict[ids.RequestId, Request] = {}

    @rule(target=rows, content=st.sampled_from("abc"))
    def upload(self, content: str) -> Any:
        request = ids.request_id_of(NAME, self.tenant, content)
        new = self.queue.accept(NAME, self.tenant, request, "k", "bridge", first=False)
        assert new == (request not in self.last)
        row = self.queue.get(NAME, self.tenant, request)
        return row if row is not None else multiple()

    @rule(
        target=rows,
        row=rows,
        to=st.sampled_from(sorted(STORY)),
        pack=st.sampled_from([PACK, OTHER_PACK]),
    )
    def move(self, row: Request, to: Status, pack: ids.PackId) -> Any:
        # A process that sends a row back gives it a new moment, which distinguishes it from the
        # earlier row.
        leaves = {"pack": None, "due": now().isoformat()} if to in OUT_OF_A_PACK else None
        moved = self.queue.try_move(
            row, to, why="", changes={"pack": pack} if to == "claimed" else leaves
        )
        return self.seen(row, moved)

    @rule(target=rows, row=rows, retryable=st.booleans())
    def fail(self, row: Request, retryable: bool) -> Any:
        try:
            return self.seen(
                row,
                self.queue.fail(
                    row, "failed", attempts=2, retryable=retryable, first_retry=AT_ONCE
                ),
            )
        except NotTheirTurnError:
            return multiple()

    @rule(target=rows, row=rows, back=st.booleans())
    def operate(self, row: Request, back: bool) -> Any:
        try:
            return self.seen(
                row, self.queue.retry(row, why="") if back else self.queue.cancel(row, why="")
            )
        except NotTheirTurnError:
            return multiple()

    @rule()
    def wake(self) -> None:
        self.queue.wake(NAME)

    @rule(row=rows, newer=rows)
    def supersede(self, row: Request, newer: Request) -> None:
        if row.request != newer.request:
            self.queue.supersede(row, newer)

    @rule(row=rows)
    def postpone(self, row: Request) -> None:
        self.queue.postpone(row, "later")

    @rule(row=consumes(rows))
    def forget(self, row: Request) -> None:
        """Forget a row, so that young rows are drawn more often."""

    def seen(self, row: Request, moved: Request | None) -> Any:
        if moved is None:
            return multiple()
        # Only a holder of the current row may move it.
        assert row == self.last[row.request]
        return moved

    @invariant()
    def every_row_is_somewhere_in_the_story(self) -> None:
        for row in self.queue.of_tenant(NAME, self.tenant):
            before = self.last.get(row.request)
            said = [change["status"] for change in row.history]
            assert said[0] == "pending"
            assert said[-1] == row.status
            assert all(later in STORY[earlier] for earlier, later in itertools.pairwise(said))
            assert (row.pack is None) or row.status in {*IN_A_PACK, "registered"}
            assert row.status not in IN_A_PACK or row.pack is not None
            assert row.attempt <= 2
            if before is not None:
                assert list(row.history[: len(before.history)]) == list(before.history)
                assert row.accepted == before.accepted
            self.last[row.request] = row

    def teardown(self) -> None:
        listed = {row.request for row in self.queue.open(NAME) if row.tenant == self.tenant}
        assert listed == {request for request, row in self.last.items() if row.status in OPEN}


def test_no_sequence_of_changes_leads_out_of_the_story(deployment: Deployment) -> None:
    quick = settings(
        max_examples=10,
        stateful_step_count=12,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    machine = partial(Movers, deployment)
    # Any factory of machines is acceptable.
    run_state_machine_as_test(machine, settings=quick)  # type: ignore[arg-type]
