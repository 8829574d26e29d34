"""The demo's energy tenants: generated for any date, or a user's own unchanged file."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from containers.forecast.consumption import synthetic
from containers.forecast.consumption.preparation import prepare
from contracts.refused_data import RefusedDataError
from contracts.split_files import tenant_of_customer
from demo.energy import synthetic_tenants, tenants_of_file
from tenantry.names import ids

NOW = datetime.now(UTC)


@pytest.mark.parametrize("days", [-730, 0, 365, 3650], ids="{:+} days".format)
def test_made_up_readings_are_of_the_year_before_whatever_the_clock_says(
    tmp_path: Path, days: int
) -> None:
    clock = NOW + timedelta(days=days)
    tenants = synthetic_tenants(3, tmp_path, clock)
    assert [tenant.good for tenant in tenants] == [True, True, False]
    for tenant in tenants:
        raw = tmp_path / f"{tenant.tenant}.csv"
        raw.write_bytes(tenant.files["consumption.csv"])
        destination = tmp_path / "prepared" / tenant.tenant
        destination.mkdir(parents=True)
        if tenant.good:
            assert prepare([raw], destination, tenant.parameters, now=clock).rows == 365 * 24
            last = pd.Timestamp(pd.read_csv(raw).timestamp.iloc[-1])
            assert timedelta(0) < clock - last <= timedelta(hours=25)
        else:
            with pytest.raises(RefusedDataError):
                prepare([raw], destination, tenant.parameters, now=clock)


def test_the_command_makes_data_that_end_today(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    assert synthetic.main(["--out", str(raw), "--customers", "1"]) == 0
    stamps = pd.to_datetime(pd.read_csv(raw).timestamp)
    assert timedelta(0) < datetime.now(UTC) - stamps.iloc[-1] <= timedelta(hours=25)
    assert len(stamps) == 365 * 24


def own_file(folder: Path, customers: list[str], suffix: str = ".csv") -> Path:
    path = folder / f"own{suffix}"
    stamps = pd.date_range("2026-01-01", periods=3, freq="h", tz="UTC")
    frame = pd.DataFrame(
        [(i, stamp, 1.25) for i in customers for stamp in stamps],
        columns=["customer_id", "timestamp", "consumption"],
    )
    if suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_parquet(path, index=False)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_of_the_users_own_is_taken_as_it_is_with_all_its_customers(
    tmp_path: Path, suffix: str
) -> None:
    customers = [f"MAC{number:06}" for number in range(20)] + [
        "plain-7",
        "jane@example.org",
        "Zürich/1",
    ]
    tenants = tenants_of_file(own_file(tmp_path, customers, suffix), tmp_path)
    assert len(tenants) == 23
    assert all(tenant.good is None for tenant in tenants)
    called = {tenant.customer or tenant.tenant: tenant for tenant in tenants}
    assert set(called) == set(customers)
    assert called["plain-7"].customer == ""
    assert called["MAC000003"].tenant.startswith("mac000003-")
    assert "jane" not in called["jane@example.org"].tenant
    for tenant in tenants:
        rows = tenant.files["consumption.csv"].decode().splitlines()
        assert len(rows) == 4
        assert all(row.strip('"').endswith("1.25") for row in rows[1:])
    assert len(tenants_of_file(tmp_path / f"own{suffix}", tmp_path / "few", most=2)) == 2


@given(
    st.sets(st.text(st.characters(codec="utf-8"), min_size=1, max_size=80), min_size=1, max_size=8)
)
def test_any_customers_get_ids_of_their_own_that_a_tenant_may_have(customers: set[str]) -> None:
    named = {one: tenant_of_customer(one) for one in customers | {"A_1", "a-1", "a_1"}}
    assert len(set(named.values())) == len(named)
    assert all(ids.tenant_id(tenant) for tenant in named.values())
    assert named["a-1"] == "a-1"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"customer,timestamp,consumption\na,2026-01-01,1\n",
            "has no column customer_id. Its columns are customer, timestamp, consumption.",
        ),
        (b"customer_id,timestamp,consumption\n", "has no rows"),
        (b"", "cannot be read"),
        (b"\x89PNG\r\n\x1a\n\x00\x00", "cannot be read|has no column"),
        (
            b"customer_id,timestamp,consumption\na,2026-01-01T00:00Z,1\n,2026-01-01T01:00Z,1\n",
            "row 2: customer_id is empty",
        ),
        (b"customer_id,timestamp,consumption\na,1\n", "cannot be read"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_in_words(
    tmp_path: Path, content: bytes, words: str
) -> None:
    raw = tmp_path / "own.csv"
    raw.write_bytes(content)
    with pytest.raises(ValueError, match=words):
        tenants_of_file(raw, tmp_path)
    other = raw.rename(tmp_path / "own.parquet")
    with pytest.raises(ValueError, match="cannot be read"):
        tenants_of_file(other, tmp_path)
