"""Repeated and late uploads in the queue."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from tenantry.names import ids
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import NotTheirTurnError, now
from tests.tenantry.requests.accepted_requests import (
    ACME,
    DEFAULT_TIER,
    NAME,
    OTHER_PACK,
    PACK,
    accepted,
    claimed,
)


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
            # A status of the story.
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
