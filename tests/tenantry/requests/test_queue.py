"""The queue of requests, on a real table: every change is one conditional write, and whoever comes
second is told."""

from __future__ import annotations

import itertools
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from boto3.dynamodb.types import TypeSerializer
from botocore.exceptions import ClientError
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
from tenantry.names import ids, table_keys, tiers
from tenantry.requests.daily_uploads import count_upload
from tenantry.requests.history import LONGEST_HISTORY
from tenantry.requests.queue import FIRST_RETRY, LONGEST_PAUSE, MAX_POSTPONEMENTS, RequestQueue
from tenantry.requests.rows import IN_A_PACK, OPEN, NotTheirTurnError, Request, Status, now

NAME, ACME, BOLT = ids.workload_name("energy"), ids.tenant_id("acme"), ids.tenant_id("bolt")
DEFAULT_TIER: tiers.Tier = "bridge"
PACK, OTHER_PACK = ids.pack_id("p-1"), ids.pack_id("p-2")
# The story of a request, as the module tells it.
OUT_OF_A_PACK = {"pending", "failed", "refused", "cancelled", "dead_lettered"}
STORY: dict[str, set[str]] = {
    "pending": {"claimed", "pending", "refused", "superseded", "cancelled", "dead_lettered"},
    "claimed": {"training", "trained", *OUT_OF_A_PACK},
    "training": {"trained", *OUT_OF_A_PACK},
    "trained": {"registered", *OUT_OF_A_PACK},
    "failed": {"pending", "superseded", "cancelled"},
    "registered": set(),
    "refused": {"pending"},
    "superseded": {"pending"},
    "cancelled": {"pending"},
    "dead_lettered": {"pending"},
}
AT_ONCE = timedelta(0)


@pytest.fixture
def queue(deployment: Deployment) -> RequestQueue:
    return RequestQueue(deployment)


def accepted(
    queue: RequestQueue, tenant: ids.TenantId = ACME, content: str = "one", **options: Any
) -> Request:
    request = ids.request_id_of(NAME, tenant, content)
    assert queue.accept(
        NAME,
        tenant,
        request,
        f"uploads/{tenant}/energy/u/manifest.json",
        "bridge",
        first=True,
        **options,
    )
    row = queue.get(NAME, tenant, request)
    assert row is not None
    return row


def claimed(queue: RequestQueue, row: Request, pack: ids.PackId = PACK) -> Request:
    (taken,) = queue.claim([row], pack)
    return taken


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


def test_a_repeated_event_is_nothing_new_whatever_became_of_the_request(
    queue: RequestQueue,
) -> None:
    row = accepted(queue)
    again = (NAME, ACME, row.request, "uploads/acme/energy/u2/manifest.json", DEFAULT_TIER)
    assert not queue.accept(*again, first=False)
    assert queue.get(NAME, ACME, row.request) == row
    done = queue.fail(claimed(queue, row), "broken", attempts=1)
    assert not queue.accept(*again, first=False)
    assert queue.get(NAME, ACME, row.request) == done


def test_the_same_content_of_two_tenants_is_two_requests(queue: RequestQueue) -> None:
    first, second = accepted(queue), accepted(queue, BOLT)
    assert first.request != second.request
    assert queue.of_tenant(NAME, ACME) == [first]
    assert queue.get(NAME, BOLT, first.request) is None


def test_a_newer_upload_supersedes_one_nobody_claimed_and_leaves_a_claimed_one_alone(
    queue: RequestQueue,
) -> None:
    first, second = accepted(queue, content="one"), accepted(queue, content="two")
    left = queue.supersede(first, second)
    assert left is not None
    assert left.status == "superseded"
    assert second.request in left.history[-1]["why"]
    with pytest.raises(NotTheirTurnError):
        queue.move(first, "claimed", why="too late", changes={"pack": PACK})
    taken = claimed(queue, second)
    third = accepted(queue, content="three")
    assert queue.supersede(second, third) is None
    assert queue.supersede(taken, third) is None
    assert queue.get(NAME, ACME, taken.request) == taken


def test_a_version_is_named_after_when_its_upload_came_not_after_when_its_event_did(
    queue: RequestQueue,
) -> None:
    moment = now() - timedelta(days=2)
    row = accepted(queue, uploaded=moment)
    assert (row.uploaded, row.version) == (moment, ids.version_of(row.request, moment))
    assert row.accepted > moment


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
    no_cloud: Any = None  # nothing is to be called
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
    """Pending again after a failed try: whoever read it before must neither skip its wait nor undo
    its history."""
    row = accepted(queue)
    queue.fail(claimed(queue, row), "a spot was interrupted", attempts=3, first_retry=AT_ONCE)
    (waiting,) = queue.wake(NAME)
    assert waiting.status == row.status == "pending"
    assert queue.claim([row], OTHER_PACK) == []
    assert queue.get(NAME, ACME, row.request) == waiting


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


@pytest.mark.parametrize(
    "ended", ["refused", "superseded", "cancelled", "dead_lettered", "registered", "claimed"]
)
def test_the_same_uploaded_again_later_gets_another_chance_where_it_had_come_to_nothing(
    queue: RequestQueue, ended: str
) -> None:
    at = now() - timedelta(hours=1)
    row = accepted(queue, uploaded=at)
    match ended:
        case "refused" | "dead_lettered":
            row = queue.fail(
                claimed(queue, row), "no", attempts=1, retryable=ended == "dead_lettered"
            )
        case "superseded":
            queue.supersede(row, accepted(queue, content="newer"))
        case "cancelled":
            row = queue.cancel(row, why="")
        case "registered":
            row = queue.move(
                queue.move(claimed(queue, row), "trained", why=""), "registered", why=""
            )
        case _:
            row = claimed(queue, row)
    later = (NAME, ACME, row.request, "uploads/acme/energy/u2/manifest.json", DEFAULT_TIER)
    assert not queue.accept(*later, first=False, uploaded=at), (
        "a repeated event of the same moment is nothing new"
    )
    new = queue.accept(*later, first=False, uploaded=at + timedelta(minutes=9))
    found = queue.get(NAME, ACME, row.request)
    assert found is not None
    assert new == (ended != "registered")
    assert not queue.accept(*later, first=False, uploaded=at + timedelta(minutes=9)), (
        "nor is one of the later upload"
    )
    if ended in {"registered", "claimed"}:
        assert found == replace(row, uploaded=at + timedelta(minutes=9)), (
            "it is known how late it was still wanted"
        )
        assert len(queue.due(NAME)) == (ended == "claimed"), (
            "the earlier upload may yet be found to lack a file"
        )
    else:
        assert (found.status, found.manifest_key, found.uploaded) == (
            "pending",
            later[3],
            at + timedelta(minutes=9),
        )
        assert (found.version != row.version, found.history[-1]["why"]) == (True, "uploaded again")


def test_what_waits_is_made_from_the_latest_upload_of_its_content(queue: RequestQueue) -> None:
    at = now() - timedelta(hours=1)
    row = accepted(queue, uploaded=at)
    assert not queue.accept(
        NAME, ACME, row.request, "k2", DEFAULT_TIER, first=True, uploaded=at + timedelta(minutes=1)
    )
    (found,) = queue.due(NAME)
    assert (found.request, found.manifest_key) == (row.request, "k2"), "the first may lack a file"


def test_what_a_refused_upload_superseded_is_made_though_something_older_was_uploaded_again(
    queue: RequestQueue,
) -> None:
    at = now() - timedelta(hours=1)
    minutes = [at + timedelta(minutes=n) for n in range(4)]
    for content, moment in (("a", minutes[0]), ("b", minutes[1])):
        made = queue.move(
            claimed(queue, accepted(queue, content=content, uploaded=moment)), "trained", why=""
        )
        queue.move(made, "registered", why="")
    between = accepted(queue, content="c", uploaded=minutes[2])
    request = ids.request_id_of(NAME, ACME, "a")
    assert queue.accept(NAME, ACME, request, "k4", DEFAULT_TIER, first=False, uploaded=minutes[3])
    (last,) = (row for row in queue.due(NAME) if row.content == request)
    assert queue.supersede(between, last)
    refused = queue.fail(claimed(queue, last), "a file is missing", attempts=3, retryable=False)
    back = queue.bring_back_superseded(refused)
    assert back is not None
    assert back.request == between.request


@pytest.mark.parametrize("stage", ["pending", "failed", "claimed", "trained", "registered"])
@pytest.mark.parametrize("between", ["pending", "registered"])
def test_whoever_comes_back_to_what_was_uploaded_before_gets_that(
    queue: RequestQueue, stage: str, between: str
) -> None:
    at = now() - timedelta(hours=1)
    first = accepted(queue, uploaded=at)
    if stage == "failed":
        first = queue.fail(claimed(queue, first), "no", attempts=3)
    elif stage != "pending":
        first = claimed(queue, first)
        for status in ("trained", "registered")[
            : ("claimed", "trained", "registered").index(stage)
        ]:
            # A status, as the story has it.
            first = queue.move(first, status, why="")  # type: ignore[arg-type]
    other = accepted(queue, content="other", uploaded=at + timedelta(minutes=1))
    if between == "registered":
        queue.move(
            queue.move(claimed(queue, other, OTHER_PACK), "trained", why=""), "registered", why=""
        )

    key, last = "uploads/acme/energy/u3/manifest.json", at + timedelta(minutes=2)
    new = queue.accept(NAME, ACME, first.request, key, DEFAULT_TIER, first=False, uploaded=last)
    rows = queue.of_tenant(NAME, ACME)
    newest = max(rows, key=lambda row: (row.uploaded, row.accepted))
    assert (newest.content, newest.uploaded) == (first.request, last)
    on_its_way = stage in {"claimed", "trained", "registered"}
    assert new == on_its_way, "what nobody has begun is the same request, only newer"
    assert (newest.request != first.request, len(rows)) == (on_its_way, 2 + on_its_way)
    assert newest.status == ("failed" if stage == "failed" else "pending")
    assert queue.supersede(first, other) is None, (
        "whoever read it before has not seen that it is the newest now"
    )
    for moment in (at, last):
        assert not queue.accept(
            NAME, ACME, first.request, key, DEFAULT_TIER, first=False, uploaded=moment
        )
    assert queue.of_tenant(NAME, ACME) == rows, "repeated events are nothing new"
    if newest.status == "failed":
        newest = queue.move(newest, "pending", why="")
    made = claimed(queue, newest, ids.pack_id("p-3"))
    assert ids.upload_moment(made.version or ids.Version("")) == ids.moment_of(last)


def test_an_upload_that_was_noted_and_not_yet_acted_upon_is_when_its_event_comes_again(
    queue: RequestQueue,
) -> None:
    at = now() - timedelta(hours=1)
    first = accepted(queue, uploaded=at)
    first = queue.move(queue.move(claimed(queue, first), "trained", why=""), "registered", why="")
    accepted(queue, content="other", uploaded=at + timedelta(minutes=1))
    last = at + timedelta(minutes=2)

    def die(**_: object) -> None:
        raise ConnectionError("the process was killed here")

    again = (NAME, ACME, first.request, "k3", DEFAULT_TIER)
    puts = queue.deployment.dynamodb.meta.events
    noted = False

    def die_after_the_note(**_: object) -> None:
        nonlocal noted
        noted = True
        puts.register_first("before-call.dynamodb.Query", die)

    puts.register("after-call.dynamodb.UpdateItem", die_after_the_note)
    with pytest.raises(ConnectionError):
        queue.accept(*again, first=False, uploaded=last)
    puts.unregister("after-call.dynamodb.UpdateItem", die_after_the_note)
    puts.unregister("before-call.dynamodb.Query", die)
    assert noted
    assert len(queue.of_tenant(NAME, ACME)) == 2
    assert queue.accept(*again, first=False, uploaded=last)
    assert not queue.accept(*again, first=False, uploaded=last)
    assert len(queue.of_tenant(NAME, ACME)) == 3


def test_what_came_in_the_same_second_counts_as_something_else_in_between(
    queue: RequestQueue,
) -> None:
    at = (now() - timedelta(hours=1)).replace(microsecond=0)
    first, other = accepted(queue, uploaded=at), accepted(queue, content="other", uploaded=at)
    for row, pack in ((first, PACK), (other, OTHER_PACK)):
        queue.move(queue.move(claimed(queue, row, pack), "trained", why=""), "registered", why="")
    last = at + timedelta(minutes=1)
    assert queue.accept(NAME, ACME, first.request, "k3", DEFAULT_TIER, first=False, uploaded=last)


def test_the_same_again_is_nothing_new_after_the_tenant_came_back_to_it(
    queue: RequestQueue,
) -> None:
    at = now() - timedelta(hours=1)
    contents = ["one", "other", "one", "one"]
    for minute, content in enumerate(contents):
        request = ids.request_id_of(NAME, ACME, content)
        moment = at + timedelta(minutes=minute)
        new = queue.accept(
            NAME, ACME, request, f"u{minute}", DEFAULT_TIER, first=False, uploaded=moment
        )
        assert new == (minute < 3)
        for row in queue.due(NAME):
            queue.move(queue.move(claimed(queue, row), "trained", why=""), "registered", why="")
    assert [row.content == row.request for row in queue.of_tenant(NAME, ACME)] == [
        True,
        True,
        False,
    ]


def test_when_the_newest_upload_is_refused_the_one_it_superseded_is_made_after_all(
    queue: RequestQueue,
) -> None:
    at = now() - timedelta(hours=1)
    rows = [accepted(queue, content=str(n), uploaded=at + timedelta(minutes=n)) for n in range(3)]
    for row in rows[:2]:
        queue.supersede(row, rows[2])
    refused = queue.fail(claimed(queue, rows[2]), "spoiled", attempts=3, retryable=False)
    back = queue.bring_back_superseded(refused)
    assert back is not None
    assert (back.request, back.status) == (rows[1].request, "pending")
    assert queue.bring_back_superseded(refused) is None, "one of them is enough"


def test_a_tenant_with_a_model_of_a_later_upload_gets_none_of_an_earlier_one_back(
    queue: RequestQueue,
) -> None:
    at = now() - timedelta(hours=1)
    old, served, spoiled = [
        accepted(queue, content=str(n), uploaded=at + timedelta(minutes=n)) for n in range(3)
    ]
    queue.supersede(old, served)
    queue.move(queue.move(claimed(queue, served), "trained", why=""), "registered", why="")
    refused = queue.fail(claimed(queue, spoiled), "spoiled", attempts=3, retryable=False)
    assert queue.bring_back_superseded(refused) is None


def test_what_was_refused_at_the_door_needs_another_upload_rather_than_a_retry(
    queue: RequestQueue,
) -> None:
    queue.refuse_at_the_door(
        NAME,
        ACME,
        ids.request_id_of(NAME, ACME, "x"),
        "k",
        "it is no manifest",
        "manifest_unreadable",
    )
    (row,) = queue.of_tenant(NAME, ACME)
    with pytest.raises(NotTheirTurnError, match=r"it is no manifest.*upload again"):
        queue.retry(row, why="perhaps")


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
    assert (row.status, row.due, row.postponed) == ("pending", until, 0)


def test_postponing_leaves_a_request_alone_that_another_pack_has_taken_since(
    queue: RequestQueue,
) -> None:
    mine = claimed(queue, accepted(queue))
    queue.fail(mine, "its run was lost", attempts=3, first_retry=AT_ONCE)
    theirs = claimed(queue, queue.wake(NAME)[0], OTHER_PACK)
    queue.postpone(mine, "no capacity")
    assert queue.get(NAME, ACME, mine.request) == theirs


def test_an_upload_refused_at_the_door_is_kept_once_with_its_reason_and_owed_to_nobody(
    queue: RequestQueue,
) -> None:
    request = ids.request_id_of(NAME, ACME, "refused")
    assert queue.refuse_at_the_door(NAME, ACME, request, "k", "y" * 3000, "too_long")
    assert not queue.refuse_at_the_door(NAME, ACME, request, "k", "another", "another_code")
    (row,) = queue.of_tenant(NAME, ACME)
    assert (row.status, row.version, row.reason, row.reason_code) == (
        "refused",
        None,
        "y" * 1000,
        "too_long",
    )
    assert row.history[0]["code"] == "too_long"
    assert queue.open(NAME) == []


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


def full(queue: RequestQueue, tenant: ids.TenantId = ACME) -> Request:
    """A row that has all but reached the 400 KB that DynamoDB takes, as a release that did not
    bound histories left it."""
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
    for number in itertools.count():  # to the brim
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
    missing = (ids.tenant_id("nobody"), ids.RequestId("0" * 32))
    found = queue.get_many([*(row.key for row in rows), missing, rows[0].key], NAME)
    assert sorted(row.tenant for row in found) == sorted(row.tenant for row in rows)
    assert queue.get_many([], NAME) == []


class Movers(RuleBasedStateMachine):
    """Whoever holds whatever outdated row may try whatever change."""

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
        # Whoever sends a row back gives it another moment, by which it is told from what it was
        # before.
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
        """So that young rows are drawn more often."""

    def seen(self, row: Request, moved: Request | None) -> Any:
        if moved is None:
            return multiple()
        # Only who held the row as it was may have moved it.
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
    # Any maker of machines will do.
    run_state_machine_as_test(machine, settings=quick)  # type: ignore[arg-type]
