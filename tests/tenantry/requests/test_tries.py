"""Tries of a request: the events that count, the wait before the next, and the last one."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tenantry.names import ids
from tenantry.requests.queue import FIRST_RETRY, LONGEST_PAUSE, MAX_POSTPONEMENTS, RequestQueue
from tenantry.requests.rows import NotTheirTurnError, now
from tests.tenantry.requests.accepted_requests import (
    ACME,
    AT_ONCE,
    BOLT,
    NAME,
    OTHER_PACK,
    accepted,
    claimed,
)


def test_a_failed_request_waits_twice_as_long_each_time_and_is_given_up_when_its_tries_are_spent(
    queue: RequestQueue,
) -> None:
    row, waits = accepted(queue), []
    for attempt in (1, 2, 3):
        before = now()
        row = queue.fail(claimed(queue, row), f"failure {attempt}", attempts=4)
        assert (row.status, row.attempt, row.pack, row.job) == ("failed", attempt + 1, None, None)
        assert row.reason == f"failure {attempt}"
        waits.append(row.due - before)
        assert queue.wake(NAME) == queue.due(NAME) == []
        row = queue.move(row, "pending", why="its time has come")
    assert FIRST_RETRY <= waits[0] < 2 * FIRST_RETRY <= waits[1] < 4 * FIRST_RETRY <= waits[2]
    row = queue.fail(claimed(queue, row), "failure 4", attempts=4)
    assert (row.status, row.attempt, row.reason) == ("dead_lettered", 4, "failure 4")
    assert queue.open(NAME) == []


def test_a_failure_that_no_other_try_can_help_refuses_the_request(queue: RequestQueue) -> None:
    row = queue.fail(claimed(queue, accepted(queue)), "x" * 5000, attempts=3, retryable=False)
    assert (row.status, row.attempt, row.reason) == ("refused", 1, "x" * 1000)
    with pytest.raises(NotTheirTurnError):
        queue.fail(row, "again", attempts=3)


def test_a_failed_request_is_pending_again_when_its_next_try_has_come(queue: RequestQueue) -> None:
    soon = queue.fail(claimed(queue, accepted(queue)), "lost", attempts=3, first_retry=AT_ONCE)
    later = queue.fail(claimed(queue, accepted(queue, BOLT)), "lost", attempts=3)
    assert [row.request for row in queue.wake(NAME)] == [soon.request]
    assert [(row.request, row.attempt) for row in queue.due(NAME)] == [(soon.request, 2)]
    assert queue.with_status(NAME, "failed") == [replace(later, history=())]
    assert queue.wake(NAME) == []


def test_a_try_after_a_useless_archive_makes_another_version_and_any_other_the_same(
    queue: RequestQueue,
) -> None:
    row = accepted(queue)
    same = queue.fail(claimed(queue, row), "its run was lost", attempts=5, first_retry=AT_ONCE)
    assert same.version == row.version
    (again,) = queue.wake(NAME)
    other = queue.fail(
        claimed(queue, again), "its endpoint refused it", attempts=5, new_version=True
    )
    assert other.version is not None
    assert other.version != row.version
    assert ids.version_name(other.version) == other.version


@pytest.mark.parametrize("ended", ["dead_lettered", "refused", "cancelled", "failed"])
def test_an_operator_sends_back_what_is_out_of_the_queue_with_all_its_tries(
    queue: RequestQueue, ended: str
) -> None:
    taken = claimed(queue, accepted(queue))
    match ended:
        case "cancelled":
            row = queue.cancel(taken, why="by mistake")
        case "refused":
            row = queue.fail(taken, "no good", attempts=3, retryable=False)
        case _:
            row = queue.fail(taken, "no good", attempts=1 if ended == "dead_lettered" else 3)
    assert row.status == ended
    back = queue.retry(row, why="the container is mended")
    assert (back.status, back.attempt, back.pack, back.reason) == ("pending", 1, None, None)
    assert back.version != row.version
    assert [r.request for r in queue.due(NAME)] == [row.request]
    with pytest.raises(NotTheirTurnError):
        queue.retry(row, why="twice")
    with pytest.raises(NotTheirTurnError, match="is pending; there is nothing to retry"):
        queue.retry(back, why="again")


def test_no_version_has_the_name_of_another_that_an_endpoint_may_have_loaded(
    queue: RequestQueue,
) -> None:
    row = accepted(queue)
    names = [row.version]
    for _ in range(2):
        row = queue.fail(claimed(queue, row), "its archive is broken", attempts=2, new_version=True)
        names.append(row.version)
        row = queue.move(row, "pending", why="")
        row = queue.retry(queue.cancel(row, why=""), why="once more")
        names.append(row.version)
    assert len(set(names)) == 5


def test_two_who_fail_a_request_count_one_try(queue: RequestQueue) -> None:
    taken = claimed(queue, accepted(queue))
    assert queue.fail(taken, "lost", attempts=3).attempt == 2
    with pytest.raises(NotTheirTurnError):
        queue.fail(taken, "lost", attempts=3)


def test_postponing_counts_no_try_and_finds_the_row_though_it_moved(queue: RequestQueue) -> None:
    taken = claimed(queue, accepted(queue))
    queue.move(taken, "training", why="")
    before = now()
    queue.postpone(taken, "no capacity")
    (row,) = queue.of_tenant(NAME, ACME)
    assert (row.status, row.attempt, row.pack) == ("pending", 1, None)
    assert row.due >= before + FIRST_RETRY
    queue.postpone(taken, "again")
    assert queue.get(NAME, ACME, row.request) == row


def test_postponing_waits_longer_each_time_and_not_for_ever(queue: RequestQueue) -> None:
    row = accepted(queue)
    waits = []
    for _ in range(MAX_POSTPONEMENTS):
        before = now()
        queue.postpone(row, "no capacity")
        (row,) = queue.of_tenant(NAME, ACME)
        waits.append(row.due - before)
    assert FIRST_RETRY <= waits[0] < waits[1] < waits[-1] < LONGEST_PAUSE + timedelta(seconds=60)
    assert (row.status, row.attempt) == ("pending", 1)
    until = now() + timedelta(days=1)
    queue.postpone(row, "its quota of the day is used up", until=until)
    (row,) = queue.of_tenant(NAME, ACME)
    assert (row.status, row.due) == ("dead_lettered", row.due), "put off too often"
    assert "put off 100 times" in (row.reason or "")


def test_waiting_for_a_known_moment_is_not_counted(queue: RequestQueue) -> None:
    row, until = accepted(queue), now() + timedelta(hours=3)
    queue.postpone(row, "its quota of the day is used up", until=until)
    (row,) = queue.of_tenant(NAME, ACME)
    assert (row.status, row.due, row.postponements) == ("pending", until, 0)


def test_postponing_leaves_a_request_alone_that_another_pack_has_taken_since(
    queue: RequestQueue,
) -> None:
    mine = claimed(queue, accepted(queue))
    queue.fail(mine, "its run was lost", attempts=3, first_retry=AT_ONCE)
    theirs = claimed(queue, queue.wake(NAME)[0], OTHER_PACK)
    queue.postpone(mine, "no capacity")
    assert queue.get(NAME, ACME, mine.request) == theirs
