"""The order of tenants: packs keep to every limit, no tenant starves, and a flood costs its
neighbours no more than documented."""

from __future__ import annotations

import random
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from benchmarks.fairness import Arrival, p95, simulated_waits
from tenantry.names import ids
from tenantry.names.tiers import Tier
from tenantry.requests.newest import newest_of_each_tenant
from tenantry.requests.packing import plan_packs
from tenantry.requests.rows import Request
from tenantry.workloads.sections import Pack, Scheduling

NAME = ids.workload_name("energy")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
NO_HEAD_START = Scheduling(first_model_seconds=0)


def request(
    number: int,
    tenant: str,
    tier: Tier = "bridge",
    *,
    first: bool = False,
    waited: float = 0.0,
    group: str = "",
    pack: str | None = None,
) -> Request:
    at = NOW - timedelta(seconds=waited)
    return Request(
        ids.RequestId(f"{number:032x}"),
        ids.tenant_id(tenant),
        NAME,
        "pending",
        "k",
        ids.version_name("v1"),
        tier,
        accepted=at,
        uploaded=at,
        due=at,
        first=first,
        group=group,
        content=ids.RequestId(f"{number:032x}"),
        pack=ids.pack_id(pack) if pack else None,
    )


@st.composite
def due_requests(draw: st.DrawFn) -> list[Request]:
    tiers: dict[str, Tier] = {}
    rows = []
    for number in range(draw(st.integers(0, 40))):
        tenant = f"t{draw(st.integers(0, 25))}"
        tiers.setdefault(tenant, draw(st.sampled_from(["silo", "bridge", "bridge", "pool"])))
        rows.append(
            request(
                number,
                tenant,
                tiers[tenant],
                first=draw(st.booleans()),
                waited=draw(st.integers(0, 20)),
                group=draw(st.sampled_from(["", "", "big"])),
            )
        )
    return rows


LIMITS = st.builds(
    Pack, max_tenants=st.integers(1, 8), wait_seconds=st.integers(0, 15), max_at_once=st.just(2)
)


@given(
    uploads=due_requests(),
    busy=st.lists(st.sampled_from([f"t{n}" for n in range(26)]), max_size=5),
    limits=LIMITS,
    most=st.integers(0, 12),
    order=st.randoms(use_true_random=False),
)
def test_packs_keep_to_every_limit_however_the_requests_come(
    uploads: list[Request], busy: list[str], limits: Pack, most: int, order: random.Random
) -> None:
    due, older = newest_of_each_tenant(uploads)
    assert len(due) + len(older) == len(uploads)
    assert all(
        row.tenant == newer.tenant and row.uploaded <= newer.uploaded for row, newer in older
    )
    on_their_way = [
        request(100 + number, tenant, pack="p-busy") for number, tenant in enumerate(busy)
    ]
    packs = plan_packs(due, on_their_way, limits, NO_HEAD_START, NOW, max_packs=most)
    assert len(packs) <= most
    packed = [row for pack in packs for row in pack.requests]
    assert len({row.tenant for row in packed}) == len(packed)
    assert not {row.tenant for row in packed} & set(busy), "one request of a tenant at a time"
    assert {row.request for row in packed} <= {row.request for row in due}
    for pack in packs:
        assert {row.tier for row in pack.requests} == {pack.tier}
        assert len({row.group for row in pack.requests}) == 1
        assert 1 <= len(pack.requests) <= (1 if pack.tier == "silo" else limits.max_tenants)
        full = pack.tier == "silo" or len(pack.requests) == limits.max_tenants
        assert (
            full
            or max((NOW - row.due).total_seconds() for row in pack.requests) >= limits.wait_seconds
        )
    assert len({pack.pack for pack in packs}) == len(packs)
    if most >= len(due):
        left = [row for row in due if row not in packed and row.tenant not in busy]
        for (tier, _), count in Counter((row.tier, row.group) for row in left).items():
            assert tier != "silo"
            assert count < limits.max_tenants, (
                "nobody who may go next is kept waiting by a lack of company"
            )
        assert all((NOW - row.due).total_seconds() < limits.wait_seconds for row in left)
    shuffled = list(due)
    order.shuffle(shuffled)
    assert plan_packs(shuffled, on_their_way, limits, NO_HEAD_START, NOW, max_packs=most) == packs


def planned(
    rows: list[Request], max_tenants: int = 2, scheduling: Scheduling | None = None, **options: int
) -> list[str]:
    limits = Pack(max_tenants=max_tenants, wait_seconds=0, max_at_once=9)
    packs = plan_packs(
        rows, [], limits, scheduling or Scheduling(), NOW, max_packs=options.get("max_packs", 9)
    )
    return [" ".join(row.tenant for row in pack.requests) for pack in packs]


def test_a_tenants_first_model_has_a_head_start_and_no_more() -> None:
    rows = [
        request(1, "old", waited=550),
        request(2, "oldest", waited=700),
        request(3, "new", first=True, waited=1),
        request(4, "newer", first=True, waited=0),
    ]
    assert planned(rows) == ["oldest new", "newer old"]
    assert planned(rows, scheduling=NO_HEAD_START) == ["oldest old", "new newer"]
    assert planned(rows, max_packs=1) == ["oldest new"]


def test_only_the_newest_of_a_tenants_uploads_is_made_whatever_the_order_of_their_events() -> None:
    late_event = request(1, "acme", waited=90)
    newest = request(2, "acme", waited=10)
    rows, older = newest_of_each_tenant([newest, request(3, "bolt"), late_event])
    assert {row.request for row in rows} == {newest.request, request(3, "bolt").request}
    assert older == [(late_event, newest)]


def test_requests_that_must_not_share_a_pack_do_not() -> None:
    rows = [request(n, f"t{n}", group="a" if n % 2 else "b", waited=n) for n in range(6)]
    assert planned(rows, max_tenants=9) == ["t5 t3 t1", "t4 t2 t0"]


def test_a_request_that_comes_back_is_in_another_pack() -> None:
    limits = Pack(max_tenants=9, wait_seconds=0, max_at_once=2)
    packs = [
        plan_packs(
            [request(1, "acme", waited=waited)], [], limits, NO_HEAD_START, NOW, max_packs=9
        )[0].pack
        for waited in (5, 5, 1)
    ]
    assert packs[0] == packs[1] != packs[2]


def test_between_tiers_the_next_pack_goes_where_fewest_are_on_their_way_for_the_weight() -> None:
    rows = [request(n, f"silo{n}", "silo", waited=100 + n) for n in range(9)]
    rows += [request(20 + n, f"bridge{n}", "bridge", waited=n) for n in range(9)]
    assert planned(rows, max_packs=4) == ["silo8", "bridge8 bridge7", "silo7", "bridge6 bridge5"]
    heavier = Scheduling(tier_weights={"silo": 3})
    assert planned(rows, max_packs=5, scheduling=heavier) == [
        "silo8",
        "bridge8 bridge7",
        "silo7",
        "silo6",
        "silo5",
    ]
    on_their_way = [request(50 + n, f"running{n}", "silo", pack=f"p-{n}") for n in range(3)]
    limits = Pack(max_tenants=2, wait_seconds=0, max_at_once=9)
    packs = plan_packs(rows, on_their_way, limits, Scheduling(), NOW, max_packs=3)
    assert [pack.tier for pack in packs] == ["bridge", "bridge", "bridge"]
    with pytest.raises(ValidationError, match="never be served"):
        Scheduling(tier_weights={"silo": 0})


# ---- in the long run -----------------------------------------------------------------------------

JOB_SECONDS, TENANT_SECONDS, TICK = 60.0, 1.0, 5.0
FLOODER = ids.tenant_id("flooder")


@st.composite
def crowds(draw: st.DrawFn) -> list[Arrival]:
    """Quiet tenants, each with one request, over ten minutes."""
    count = draw(st.integers(1, 40))
    return [
        Arrival(ids.tenant_id(f"q{n}"), draw(st.integers(0, 600)), first=draw(st.booleans()))
        for n in range(count)
    ]


@settings(max_examples=60)
@given(quiet=crowds(), often=st.integers(1, 10), slots=st.integers(1, 4), size=st.integers(4, 60))
def test_a_flood_costs_a_quiet_tenant_at_most_one_job_more(
    quiet: list[Arrival], often: int, slots: int, size: int
) -> None:
    """The bound in docs/concepts.md: one tenant's uploads take one seat of one pack at a time."""
    limits = Pack(max_tenants=size, wait_seconds=5, max_at_once=slots)
    flood = [Arrival(FLOODER, n / often) for n in range(1000)]
    options = {"job_seconds": JOB_SECONDS, "tenant_seconds": TENANT_SECONDS, "tick": TICK}
    alone = simulated_waits(quiet, limits, Scheduling(), **options)
    beside = simulated_waits([*quiet, *flood], limits, Scheduling(), **options)
    job = JOB_SECONDS + TENANT_SECONDS * size
    # packs that the quiet tenants need; the flooder may be in each
    rounds = -(-len(quiet) // size)
    for key, wait in alone.items():
        assert beside[key] <= wait + rounds * (TENANT_SECONDS + TICK) + job + TICK


def test_over_a_day_the_quiet_hardly_notice_a_flood() -> None:
    moments = random.Random(7)
    quiet = [
        Arrival(ids.tenant_id(f"q{n}"), moments.uniform(0, 7200), first=n % 3 == 0)
        for n in range(300)
    ]
    flood = [Arrival(FLOODER, 600 + n) for n in range(1000)]
    limits = Pack(max_tenants=20, wait_seconds=5, max_at_once=3)
    options = {"job_seconds": JOB_SECONDS, "tenant_seconds": TENANT_SECONDS, "tick": TICK}
    alone = simulated_waits(quiet, limits, Scheduling(), **options)
    beside = simulated_waits([*quiet, *flood], limits, Scheduling(), **options)
    with_flood = [wait for (tenant, _), wait in beside.items() if tenant != FLOODER]
    assert p95(with_flood) <= 1.5 * p95(list(alone.values()))


def test_nobody_starves_while_first_models_keep_coming() -> None:
    """First models fill all seats for ever. A tenant that waits longer than their head start goes
    before them."""
    limits = Pack(max_tenants=2, wait_seconds=0, max_at_once=1)
    crowd = [Arrival(ids.tenant_id(f"n{n}"), 30.0 * n, first=True) for n in range(400)]
    waits = simulated_waits(
        [Arrival(ids.tenant_id("old"), 100.0), *crowd],
        limits,
        Scheduling(first_model_seconds=600),
        job_seconds=55,
        tenant_seconds=1,
        tick=TICK,
    )
    assert waits[ids.tenant_id("old"), 100.0] <= 600 + 5 * 60
