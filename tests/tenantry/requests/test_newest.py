"""The newer of two uploads, without a table."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tenantry.names import ids
from tenantry.requests.newest import (
    Moment,
    Upload,
    came_after,
    is_older,
    newest_of,
    newest_of_each_tenant,
    uploaded_after,
    uploaded_again_since,
    uploaded_before,
)
from tenantry.requests.rows import Request

START = datetime(2026, 3, 1, tzinfo=UTC)
# A small range of seconds makes uploads of one moment common.
seconds = st.integers(0, 5).map(lambda count: START + timedelta(seconds=count))
tenants = st.sampled_from(["acme", "globex", "initech"]).map(ids.tenant_id)


@st.composite
def rows(draw: st.DrawFn) -> list[Request]:
    """Requests of some tenants, each id once."""
    made = []
    for number in range(draw(st.integers(0, 8))):
        tenant, uploaded, first = draw(tenants), draw(seconds), draw(seconds)
        request = ids.request_id_of(ids.workload_name("energy"), tenant, str(number))
        made.append(
            Request(
                request=request,
                tenant=tenant,
                workload=ids.workload_name("energy"),
                status="pending",
                manifest_key="",
                version=ids.version_of(request, first) if draw(st.booleans()) else None,
                tier="bridge",
                accepted=draw(seconds),
                uploaded=max(uploaded, first),
                due=START,
                content=request,
            )
        )
    return made


@given(rows(), st.randoms(use_true_random=False))
def test_the_newest_is_the_same_in_whatever_order_rows_are_read(
    made: list[Request], shuffled: random.Random
) -> None:
    again = list(made)
    shuffled.shuffle(again)
    assert newest_of(again) == newest_of(made)
    assert dict.fromkeys(map(Upload.of, made)).keys() == set(map(Upload.of, made))
    newest, older = newest_of_each_tenant(again)
    assert {row.key for row in newest} == {
        row.key
        for tenant in {row.tenant for row in made}
        if (row := newest_of(r for r in made if r.tenant == tenant))
    }
    assert len(newest) + len(older) == len(made)
    for row, newer in older:
        assert newer in newest
        assert row.tenant == newer.tenant
        assert Upload.of(row) < Upload.of(newer)
        assert not came_after(row, newer)


@given(rows())
def test_uploads_have_one_order_and_nobody_is_newer_than_the_newest(made: list[Request]) -> None:
    ordered = sorted(made, key=Upload.of)
    assert all(Upload.of(one) < Upload.of(other) for one, other in pairwise(ordered))
    newest = newest_of(made)
    assert (newest is None) == (not made)
    assert newest is None or not any(came_after(row, newest) for row in made)


@given(rows(), seconds)
def test_before_after_and_at_exclude_each_other(made: list[Request], moment: datetime) -> None:
    for row in made:
        answers = [
            uploaded_before(row, moment),
            row.uploaded == moment,
            uploaded_after(row, moment),
        ]
        assert answers.count(True) == 1
        assert uploaded_before(row, moment) == (Moment.of_request(row) < Moment.at(moment))


@given(seconds, seconds)
def test_a_version_is_as_new_as_the_upload_it_was_made_of(one: datetime, other: datetime) -> None:
    first, second = ids.version_of("first", one), ids.version_of("second", other)
    assert Moment.of(first) == Moment.at(one)
    assert is_older(first, second) == (one < other)
    assert not (is_older(first, second) and is_older(second, first))


@given(rows())
def test_a_request_uploaded_again_is_newer_than_its_version(made: list[Request]) -> None:
    for row in made:
        if row.version is None:
            assert not uploaded_again_since(row)
        else:
            assert uploaded_again_since(row) == (Moment.of(row.version) < Moment.at(row.uploaded))
