"""The instants and dates that a file's rows mean: around clock changes, in any order, with and
without offsets."""

import io
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from pyarrow import parquet

from containers.forecast.consumption.preparation import Prepared, RefusedDataError, prepare
from containers.forecast.consumption.series import local_hours

CHECKS = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

AUTUMN_CHANGES = {
    "Europe/London": "2025-10-26",
    "Europe/Berlin": "2024-10-27",
    "America/New_York": "2025-11-02",
    "America/Havana": "2024-11-03",
    "Asia/Beirut": "2025-10-25",
    "Atlantic/Azores": "2025-10-26",
}


def written(folder: Path, name: str, stamps: list[str], values: NDArray[np.float64]) -> Path:
    path = folder / name
    path.write_text(
        "timestamp,consumption\n" + "\n".join(map("{},{:.3f}".format, stamps, values)) + "\n"
    )
    return path


def consumption(count: int) -> NDArray[np.float64]:
    return np.round(1 + np.random.default_rng(count).random(count), 3)


def series(folder: Path) -> tuple[list[str], NDArray[np.float64]]:
    frame = pd.read_csv(folder / "out" / "data.csv")
    return list(frame["timestamp"]), frame["consumption"].to_numpy()


# ---- the hour that the clock shows twice ---------------------------------------------------------


@CHECKS
@given(
    zone=st.sampled_from(sorted(AUTUMN_CHANGES)),
    minutes=st.sampled_from([5, 10, 15, 20, 30, 60]),
    order=st.sampled_from(["oldest first", "newest first", "days newest first", "by the clock"]),
    repeated=st.sampled_from(["once", "each row twice", "the file twice"]),
    cut=st.none() | st.integers(-30, 30),
    overlap=st.integers(0, 30),
    parquet_file=st.booleans(),
)
@example(
    zone="Europe/London",
    minutes=60,
    order="newest first",
    repeated="once",
    cut=None,
    overlap=0,
    parquet_file=False,
)
@example(
    zone="Europe/London",
    minutes=15,
    order="oldest first",
    repeated="once",
    cut=2,
    overlap=0,
    parquet_file=False,
)
def test_a_wall_clocks_rows_mean_the_same_instants_in_any_order(
    tmp_path: Path,
    zone: str,
    minutes: int,
    order: str,
    repeated: str,
    cut: int | None,
    overlap: int,
    parquet_file: bool,
) -> None:
    """A file without offsets gives by its order the same instants as one with offsets: whole, cut
    in two, or overlapping."""
    change = pd.Timestamp(AUTUMN_CHANGES[zone]).tz_localize(zone, ambiguous=True)
    at = pd.date_range(
        change - pd.Timedelta(days=28), periods=30 * 1440 // minutes, freq=f"{minutes}min"
    ).tz_convert("UTC")
    values = consumption(len(at))
    truth = prepare(
        [written(tmp_path, "truth.csv", [f"{t:%Y-%m-%dT%H:%M:%SZ}" for t in at], values)],
        tmp_path / "out",
        {"timezone": zone},
    )

    wall = at.tz_convert(zone).tz_localize(None)
    rows = np.arange(len(at))
    if order == "newest first":
        rows = rows[::-1]
    elif order == "days newest first":
        rows = np.concatenate(
            [rows[wall.date == day] for day in sorted(set(wall.date), reverse=True)]
        )
    elif order == "by the clock":
        rows = np.argsort(wall.to_numpy(), kind="stable")
    parts = [rows]
    if cut is not None and order in ("oldest first", "newest first"):
        # Cut near the change; the second file begins with the end of the first.
        middle = int(at.searchsorted((change + pd.Timedelta(hours=2)).tz_convert("UTC"))) + cut
        place = middle if order == "oldest first" else len(rows) - middle
        parts = [rows[:place], rows[max(0, place - overlap) :]]
    files = []
    for number, part in enumerate(parts):
        told = {
            "once": part,
            "each row twice": np.repeat(part, 2),
            "the file twice": np.tile(part, 2),
        }[repeated]
        if parquet_file:
            files.append(tmp_path / f"{number}.parquet")
            pd.DataFrame({"timestamp": wall[told], "consumption": values[told]}).to_parquet(
                files[-1], index=False
            )
        else:
            files.append(
                written(
                    tmp_path,
                    f"{number}.csv",
                    [f"{wall[row]:%Y-%m-%d %H:%M}" for row in told],
                    values[told],
                )
            )
    assert prepare(files, tmp_path / "out", {"timezone": zone}).fingerprint == truth.fingerprint


@pytest.mark.parametrize("minutes", [15, 60])
def test_where_rows_are_in_no_order_both_hours_have_the_mean(tmp_path: Path, minutes: int) -> None:
    at = pd.date_range("2025-10-05", "2025-11-05", freq=f"{minutes}min", tz="UTC", inclusive="left")
    wall, values = at.tz_convert("Europe/London"), consumption(len(at))
    order = np.random.default_rng(1).permutation(len(at))
    told = prepare(
        [
            written(
                tmp_path, "a.csv", [f"{wall[row]:%Y-%m-%d %H:%M}" for row in order], values[order]
            )
        ],
        tmp_path / "out",
        {"timezone": "Europe/London"},
    )
    assert told.repairs["averaged_clock_changes"] == 1
    assert "averaged_conflicts" not in told.repairs
    stamps, hours = series(tmp_path)
    expected = values.reshape(-1, 60 // minutes).sum(axis=1)
    first = stamps.index("2025-10-26T00:00:00Z")
    expected[first : first + 2] = expected[first : first + 2].mean()
    assert hours == pytest.approx(expected)


def test_a_blank_row_of_the_hour_that_the_clock_skips_is_left_out_and_a_reading_there_refused(
    tmp_path: Path,
) -> None:
    wall = pd.date_range("2025-03-10", "2025-04-10", freq="h", inclusive="left")
    stamps = [f"{at:%Y-%m-%d %H:%M}" for at in wall]
    path, values = tmp_path / "a.csv", consumption(len(wall))
    lines = [f"{stamp},{value}" for stamp, value in zip(stamps, values, strict=True)]
    skipped = stamps.index("2025-03-30 01:00")
    path.write_text("\n".join(["timestamp,consumption", *lines]) + "\n")
    with pytest.raises(RefusedDataError, match=f"row {skipped + 1}: the clock") as refused:
        prepare([path], tmp_path / "out", {"timezone": "Europe/London"})
    assert refused.value.code == "timestamp_skipped"
    lines[skipped] = stamps[skipped] + ","
    path.write_text("\n".join(["timestamp,consumption", *lines]) + "\n")
    result = prepare([path], tmp_path / "out", {"timezone": "Europe/London"})
    assert (result.rows, result.repairs) == (len(wall) - 1, {})


def test_rows_that_mark_the_end_of_their_interval_by_its_last_second_are_of_it(
    tmp_path: Path,
) -> None:
    at = pd.date_range("2025-03-01", periods=24 * 30, freq="h")
    values = consumption(len(at))
    for form in ("%Y-%m-%dT%H:59:59Z", "%Y-%m-%dT%H:59Z"):
        prepare(
            [written(tmp_path, "a.csv", [f"{t:{form}}" for t in at], values)], tmp_path / "out", {}
        )
        stamps, hours = series(tmp_path)
        assert stamps[0] == "2025-03-01T00:00:00Z"
        assert hours == pytest.approx(values)


def test_the_zone_of_a_parquet_type_is_the_customers_unless_the_parameters_name_one(
    tmp_path: Path,
) -> None:
    at = pd.date_range("2025-03-01", periods=24 * 40, freq="h", tz="Europe/Berlin")
    pd.DataFrame({"timestamp": at, "consumption": consumption(len(at))}).to_parquet(
        tmp_path / "a.parquet", index=False
    )

    def zone(**parameters: str) -> str:
        return str(
            prepare([tmp_path / "a.parquet"], tmp_path / "out", parameters).facts["timezone"]
        )

    assert (zone(), zone(timezone="UTC"), zone(timezone="Europe/London")) == (
        "Europe/Berlin",
        "Europe/Berlin",
        "Europe/London",
    )


# ---- the date of a daily row ---------------------------------------------------------------------

DAYS = pd.date_range("2025-01-01", "2026-02-01", freq="D", inclusive="left")
PEAKS = np.where(DAYS.day_of_week == 6, 30.0, 10.0) + np.round(np.arange(len(DAYS)) % 5 / 10, 1)


def midnights(zone: str) -> pd.DatetimeIndex:
    """The beginnings of local days; where a clock skips midnight, the day begins later."""
    return DAYS.tz_localize(
        zone, nonexistent="shift_forward", ambiguous=np.ones(len(DAYS), dtype=bool)
    )


def labelled_as_written(folder: Path, result: Prepared) -> bool:
    stamps, values = series(folder)
    assert (result.frequency, result.repairs) == ("D", {})
    return (
        stamps == [f"{day:%Y-%m-%dT00:00:00Z}" for day in DAYS]
        and values.tolist() == PEAKS.tolist()
    )


ZONES = [
    "Europe/Berlin",
    "Europe/London",
    "America/New_York",
    "Asia/Kolkata",
    "Pacific/Auckland",
    "Asia/Beirut",
    "UTC",
]


@CHECKS
@given(
    zone=st.sampled_from(ZONES),
    form=st.sampled_from(
        [
            "offset",
            "offset without colon",
            "standard time",
            "23:59",
            "23:59:59",
            "24:00",
            "date",
            "naive",
            "naive 23:59:59",
            "naive 24:00",
            "midnights of UTC",
            "date32",
            "date64",
            "timestamp",
            "timestamp of the zone",
        ]
    ),
    given_zone=st.booleans(),
    newest_first=st.booleans(),
)
@example(zone="Europe/Berlin", form="offset", given_zone=False, newest_first=False)
@example(zone="Europe/Berlin", form="24:00", given_zone=True, newest_first=False)
def test_daily_rows_keep_the_dates_that_the_file_tells(
    tmp_path: Path, zone: str, form: str, given_zone: bool, newest_first: bool
) -> None:
    at = midnights(zone)
    fixed = at[0].isoformat()[-6:]
    offsets = [t.isoformat()[-6:] for t in at]
    typed: dict[str, pa.Array] = {
        "date32": pa.array(DAYS.date, pa.date32()),
        "date64": pa.array(DAYS.date, pa.date64()),
        "timestamp": pa.array(DAYS, pa.timestamp("ns")),
        "timestamp of the zone": pa.array(at.tz_convert(None), pa.timestamp("ms")).cast(
            pa.timestamp("ms", tz=zone)
        ),
    }
    texts = {
        "offset": [t.isoformat() for t in at],
        "offset without colon": [f"{t:%Y-%m-%d %H:%M:%S%z}" for t in at],
        "standard time": [f"{day:%Y-%m-%d}T00:00:00{fixed}" for day in DAYS],
        "23:59": [
            f"{day:%Y-%m-%d}T23:59{offset}" for day, offset in zip(DAYS, offsets, strict=True)
        ],
        "23:59:59": [
            f"{day:%Y-%m-%d}T23:59:59.999{offset}"
            for day, offset in zip(DAYS, offsets, strict=True)
        ],
        "24:00": [
            f"{day:%Y-%m-%d}T24:00{offset}" for day, offset in zip(DAYS, offsets, strict=True)
        ],
        "date": [f"{day:%Y-%m-%d}" for day in DAYS],
        "naive": [f"{day:%Y-%m-%d %H:%M}" for day in DAYS],
        "naive 23:59:59": [f"{day:%Y-%m-%d} 23:59:59" for day in DAYS],
        "naive 24:00": [f"{day:%Y-%m-%d} 24:00:00" for day in DAYS],
        "midnights of UTC": [f"{day:%Y-%m-%d}T00:00:00Z" for day in DAYS],
    }
    order = slice(None, None, -1 if newest_first else 1)
    if form in typed:
        path = tmp_path / "a.parquet"
        table = pa.table({"timestamp": typed[form], "consumption": PEAKS})
        parquet.write_table(table.take(pa.array(np.arange(len(DAYS))[order])), path)
    else:
        path = written(tmp_path, "a.csv", texts[form][order], PEAKS[order])
    result = prepare([path], tmp_path / "out", {"timezone": zone if given_zone else "UTC"})
    if newest_first:
        assert result.repairs.pop("sorted_rows") == len(DAYS) - 1  # type: ignore[attr-defined]
    assert labelled_as_written(tmp_path, result)


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "Europe/London", "America/New_York", "Asia/Kolkata"]
)
def test_local_midnights_in_utc_have_their_dates_by_the_parameter_and_none_without(
    tmp_path: Path, zone: str
) -> None:
    stamps = [f"{t:%Y-%m-%dT%H:%M:%SZ}" for t in midnights(zone).tz_convert("UTC")]
    path = written(tmp_path, "a.csv", stamps, PEAKS)
    assert labelled_as_written(tmp_path, prepare([path], tmp_path / "out", {"timezone": zone}))
    with pytest.raises(RefusedDataError, match="Set the parameter timezone") as refused:
        prepare([path], tmp_path / "out", {"timezone": "UTC"})
    assert refused.value.code == "daily_timezone_unknown"


def test_daily_rows_that_share_a_date_or_leave_one_out_are_refused(tmp_path: Path) -> None:
    """The rows are at half past eleven at night in winter and half past midnight in summer. On this
    clock, dates are missing and doubled."""
    stamps = [
        f"{t:%Y-%m-%dT%H:%M:%S%z}"
        for t in (DAYS + pd.Timedelta(hours=22, minutes=30))
        .tz_localize("UTC")
        .tz_convert("Europe/Berlin")
    ]
    with pytest.raises(RefusedDataError, match="one date twice") as refused:
        prepare([written(tmp_path, "a.csv", stamps, PEAKS)], tmp_path / "out", {})
    assert refused.value.code == "daily_dates_unclear"


def test_a_daily_reading_within_the_day_is_of_its_date(tmp_path: Path) -> None:
    at = (DAYS + pd.Timedelta(hours=6)).tz_localize("Europe/Berlin")
    result = prepare(
        [written(tmp_path, "a.csv", [t.isoformat() for t in at], PEAKS)], tmp_path / "out", {}
    )
    assert labelled_as_written(tmp_path, result)
    assert result.first == datetime(2025, 1, 1, tzinfo=UTC)
    assert (
        io.BytesIO((tmp_path / "out" / "data.csv").read_bytes()).readline()
        == b"timestamp,consumption\n"
    )


@CHECKS
@given(
    zone=st.sampled_from([*AUTUMN_CHANGES, "Australia/Lord_Howe", "Africa/Casablanca", "UTC"]),
    day=st.integers(0, 400),
    count=st.integers(0, 24 * 300),
)
def test_hours_of_a_wall_clock_are_those_that_pandas_tells(zone: str, day: int, count: int) -> None:
    start = int(datetime(2024, 9, 1, 5, 30, tzinfo=UTC).timestamp()) + day * 86_400
    instants = pd.to_datetime(start + 3600 * np.arange(count), unit="s", utc=True)
    wall = instants.tz_convert(zone).tz_localize(None).to_numpy().astype("datetime64[s]")
    told = local_hours(zone, start, count)
    assert np.array_equal(told, wall.astype(np.int64) // 3600)
