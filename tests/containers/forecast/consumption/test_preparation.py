"""Uploads of all kinds: each is repaired or refused, without any other result."""

import io
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from containers.forecast.consumption.preparation import Prepared, RefusedDataError, prepare
from containers.forecast.consumption.series import read_series, weeks_of

START = datetime(2025, 1, 6, tzinfo=UTC)
HOURS = 28 * 24


def rows(
    count: int = HOURS, *, step: timedelta = timedelta(hours=1), suffix: str = "Z"
) -> list[str]:
    """`timestamp,consumption` lines with a daily shape."""
    return [
        f"{START + step * number:%Y-%m-%dT%H:%M:%S}{suffix},"
        f"{1.0 + (number % 24) / 10 + number % 7 / 100:.3f}"
        for number in range(count)
    ]


def written(folder: Path, lines: list[str], header: str = "timestamp,consumption") -> Path:
    path = folder / "consumption.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


def prepared(
    folder: Path, lines: list[str], header: str = "timestamp,consumption", **parameters: str
) -> Prepared:
    return prepare([written(folder, lines, header)], folder / "out", parameters)


def refusal(
    folder: Path, lines: list[str], header: str = "timestamp,consumption", **parameters: str
) -> RefusedDataError:
    with pytest.raises(RefusedDataError) as caught:
        prepared(folder, lines, header, **parameters)
    assert caught.value.cure
    return caught.value


def test_a_regular_file_comes_out_as_it_went_in(tmp_path: Path) -> None:
    result = prepared(tmp_path, rows(), country="GB", timezone="Europe/London")

    assert (result.rows, result.frequency, result.repairs) == (HOURS, "h", {})
    assert result.first == START
    assert result.last == START + timedelta(hours=HOURS - 1)
    lines = (tmp_path / "out" / "data.csv").read_text().splitlines()
    assert lines[:2] == ["timestamp,consumption", "2025-01-06T00:00:00Z,1.0"]
    assert len(lines) == HOURS + 1
    described = json.loads((tmp_path / "out" / "series.json").read_text())
    assert (described["timezone"], described["country"], described["unit"]) == (
        "Europe/London",
        "GB",
        "kWh",
    )


def test_equal_content_has_one_fingerprint_and_other_content_another(tmp_path: Path) -> None:
    first = prepared(tmp_path, rows())
    assert prepared(tmp_path, list(reversed(rows()))).fingerprint == first.fingerprint
    assert prepared(tmp_path, rows(HOURS + 1)).fingerprint != first.fingerprint


def test_parquet_and_several_files_give_what_csv_gives(tmp_path: Path) -> None:
    expected = prepared(tmp_path, rows())
    frame = pd.read_csv(written(tmp_path, rows()), parse_dates=["timestamp"])
    halves = []
    for number, part in enumerate((frame[:300], frame[300:])):
        path = tmp_path / f"{number}.parquet"
        part.to_parquet(path, index=False)
        halves.append(path)
    assert prepare(halves, tmp_path / "out", {}).fingerprint == expected.fingerprint


def test_a_wall_clock_is_taken_in_its_time_zone_through_both_changes(tmp_path: Path) -> None:
    instants = pd.date_range("2025-03-20", "2025-11-05", freq="h", tz="UTC", inclusive="left")
    wall = instants.tz_convert("Europe/London")
    values = 1 + np.arange(len(instants)) % 24 / 10
    naive = [f"{at:%Y-%m-%d %H:%M},{value}" for at, value in zip(wall, values, strict=True)]
    zoned = [f"{at.isoformat()},{value}" for at, value in zip(wall, values, strict=True)]

    told = prepared(tmp_path, naive, timezone="Europe/London")
    assert told.repairs == {}
    assert told.rows == len(instants)
    assert prepared(tmp_path, zoned, timezone="Europe/London").fingerprint == told.fingerprint
    # No reading on that clock can come from the hour that the clock skipped.
    assert (
        "never showed"
        in refusal(tmp_path, ["2025-03-30T01:00,1", *naive], timezone="Europe/London").reason
    )


def test_half_hours_are_summed_and_incomplete_hours_are_missing(tmp_path: Path) -> None:
    lines = rows(2 * HOURS, step=timedelta(minutes=30))
    del lines[101]
    result = prepared(tmp_path, lines)
    assert result.repairs == {"incomplete_hours": 1, "missing": 1}
    assert (tmp_path / "out" / "data.csv").read_text().splitlines()[
        1
    ] == "2025-01-06T00:00:00Z,2.11"


def test_daily_rows_are_labelled_by_local_date(tmp_path: Path) -> None:
    local = pd.date_range("2025-01-01", periods=120, freq="D", tz="Europe/Berlin")
    lines = [f"{at.isoformat()},{5 + number % 7}" for number, at in enumerate(local)]
    result = prepared(tmp_path, lines, timezone="Europe/Berlin")
    assert (result.frequency, result.rows, result.repairs) == ("D", 120, {})
    assert result.first == datetime(2025, 1, 1, tzinfo=UTC)


def test_rows_out_of_order_are_sorted_and_repeats_merged_or_averaged(tmp_path: Path) -> None:
    lines = rows()
    swapped = [lines[1], lines[0], *lines[2:], lines[5], "2025-01-06T09:00:00Z,3.1"]
    result = prepared(tmp_path, swapped)
    assert result.repairs == {"sorted_rows": 2, "merged_duplicates": 1, "averaged_conflicts": 1}
    nine = (tmp_path / "out" / "data.csv").read_text().splitlines()[10]
    assert float(nine.split(",")[1]) == pytest.approx((3.1 + float(lines[9].split(",")[1])) / 2)


def test_conflicting_repeats_beyond_one_percent_are_refused(tmp_path: Path) -> None:
    again = [line.split(",")[0] + ",99" for line in rows()[:7]]
    reason = refusal(tmp_path, rows() + again).reason
    assert "7 timestamps have two different values" in reason
    assert prepared(tmp_path, rows() + again[:6]).repairs["averaged_conflicts"] == 6


def test_gaps_stay_missing_up_to_thirty_percent(tmp_path: Path) -> None:
    lines = rows(1000)
    some, many = [*lines[:400], *lines[650:]], [*lines[:400], *lines[720:]]
    result = prepared(tmp_path, some)
    assert (result.rows, result.repairs, result.facts["longest_gap"]) == (
        1000,
        {"missing": 250},
        250,
    )
    assert "32% of the readings are missing" in refusal(tmp_path, many).reason
    blank = [
        line.split(",")[0] + "," if number % 5 == 3 else line for number, line in enumerate(lines)
    ]
    assert prepared(tmp_path, blank).repairs == {"missing": 200}


@pytest.mark.parametrize(
    ("lines", "header", "field", "code", "words"),
    [
        ([], "timestamp,consumption", "consumption.csv", "no_rows", "no rows"),
        (rows(), "time,consumption", "timestamp", "column_missing", "has no column timestamp"),
        (rows(), "timestamp,kwh", "consumption", "column_missing", "has no column consumption"),
        (
            [line + "," for line in rows()],
            "timestamp,consumption,consumption",
            "consumption",
            "column_twice",
            "two columns",
        ),
        (
            ["not;a;table"],
            "timestamp;consumption",
            "consumption.csv",
            "separator_not_comma",
            "by commas",
        ),
        (
            [*rows(), "1,2,3,4"],
            "timestamp,consumption",
            "consumption.csv",
            "row_torn",
            "row 673 has 4 cells; the header has 2",
        ),
        (
            [*rows()[:5], "yesterday,1", *rows()[6:]],
            "timestamp,consumption",
            "timestamp",
            "timestamp_unreadable",
            "row 6: ",
        ),
        (
            [*rows()[:5], ",1", *rows()[6:]],
            "timestamp,consumption",
            "timestamp",
            "timestamp_missing",
            "row 6 has no timestamp",
        ),
        (
            [*rows()[:5], *rows(suffix="")[5:]],
            "timestamp,consumption",
            "timestamp",
            "timestamp_offsets_mixed",
            "row 6: ",
        ),
        (
            [*rows(suffix="")[:5], *rows()[5:]],
            "timestamp,consumption",
            "timestamp",
            "timestamp_offsets_mixed",
            "has a UTC offset",
        ),
        (
            [*rows()[:9], "2025-01-06T09:00:00Z,much"],
            "timestamp,consumption",
            "consumption",
            "consumption_not_number",
            "row 10: ",
        ),
        (
            [*rows()[:9], "2025-01-06T09:00:00Z,nan"],
            "timestamp,consumption",
            "consumption",
            "consumption_not_finite",
            "row 10: ",
        ),
        (
            [*rows()[:9], "2025-01-06T09:00:00Z,inf"],
            "timestamp,consumption",
            "consumption",
            "consumption_not_finite",
            "row 10",
        ),
        (
            [*rows()[:9], "2025-01-06T09:00:00Z,-0.1"],
            "timestamp,consumption",
            "consumption",
            "consumption_negative",
            "row 10: ",
        ),
        (
            [*rows()[:9], "2025-01-06T09:00:00Z,2e7"],
            "timestamp,consumption",
            "consumption",
            "consumption_too_large",
            "1e+07 kWh",
        ),
        (
            [*rows()[:-1], "2025-02-02T23:00:00Z,90000"],
            "timestamp,consumption",
            "consumption",
            "consumption_spike",
            "1000 times",
        ),
        (
            rows(3 * 24 - 1),
            "timestamp,consumption",
            "timestamp",
            "history_too_short",
            "spans 3.0 days; at least 3",
        ),
        (
            rows(2, step=timedelta(days=1)),
            "timestamp,consumption",
            "timestamp",
            "history_too_short",
            "at least 3",
        ),
        (rows(1), "timestamp,consumption", "timestamp", "one_timestamp", "one timestamp"),
        (
            rows(400, step=timedelta(hours=3)),
            "timestamp,consumption",
            "timestamp",
            "interval_unknown",
            "3 hours apart",
        ),
        (
            [line.replace(":00:00Z", ":07:00Z") if "T05" in line else line for line in rows()],
            "timestamp,consumption",
            "timestamp",
            "off_grid",
            "off the grid of 60 minutes",
        ),
        (
            [
                line
                for number, line in enumerate(rows(2 * HOURS, step=timedelta(minutes=20)))
                if number % 3
            ],
            "timestamp,consumption",
            "timestamp",
            "no_whole_hour",
            "No hour",
        ),
        (
            [line.split(",")[0] + ",2" for line in rows()],
            "timestamp,consumption",
            "consumption",
            "consumption_constant",
            "the same in every row",
        ),
        (
            [line.split(",")[0] + "," for line in rows()],
            "timestamp,consumption",
            "consumption",
            "all_blank",
            "cell is blank",
        ),
        (
            ["2125" + line[4:] for line in rows()],
            "timestamp,consumption",
            "timestamp",
            "timestamp_in_future",
            "in the future",
        ),
        (
            ["1970" + line[4:] for line in rows()],
            "timestamp,consumption",
            "timestamp",
            "timestamp_before_1990",
            "before 1990",
        ),
        (
            [f"{line},{'ab'[number % 2]}" for number, line in enumerate(rows())],
            "timestamp,consumption,customer_id",
            "customer_id",
            "several_customers",
            "2 customers",
        ),
    ],
)
def test_bad_rows_are_refused_by_place_and_reason(
    tmp_path: Path, lines: list[str], header: str, field: str, code: str, words: str
) -> None:
    refused = refusal(tmp_path, lines, header)
    assert words in refused.reason
    assert (refused.field, refused.code) == (field, code)


@pytest.mark.parametrize(
    ("parameters", "field", "code"),
    [
        ({"timezone": "Mars/Olympus"}, "timezone", "timezone_unknown"),
        ({"timezone": "../etc/passwd"}, "timezone", "timezone_unknown"),
        ({"timezone": "Europe"}, "timezone", "timezone_unknown"),
        ({"country": "XX"}, "country", "country_unknown"),
        ({"country": "Great Britain"}, "country", "country_unknown"),
    ],
)
def test_bad_parameters_are_refused_by_name(
    tmp_path: Path, parameters: dict[str, str], field: str, code: str
) -> None:
    refused = refusal(tmp_path, rows(), **parameters)
    assert (refused.field, refused.code) == (field, code)
    assert not any(value in refused.reason for value in parameters.values())


def test_files_that_are_none_empty_binary_or_too_large_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "consumption.csv"

    def code_of(content: bytes, files: list[Path] | None = None) -> str:
        path.write_bytes(content)
        with pytest.raises(RefusedDataError) as caught:
            prepare([path] if files is None else files, tmp_path / "out", {})
        return caught.value.code

    assert code_of(b"") == "file_empty"
    assert code_of(b" \n") == "file_empty"
    assert code_of(b"\xff\xfe\x00t") == "column_missing"
    assert code_of(b"\x01\x02\x03\x04\x05\x00\x00") == "file_not_text"
    assert code_of(b"PAR1 and no more") == "parquet_unreadable"
    assert code_of(b"timestamp,consumption\n\xff,1\n") == "timestamp_unreadable"
    assert code_of(b"", [tmp_path / "absent.csv"]) == "file_unreadable"
    assert code_of(b"", []) == "no_file"
    assert (
        code_of(b"timestamp,consumption\n" + b"2025-01-01T00:00:00Z,1\n" * 400_001)
        == "too_many_rows"
    )
    with path.open("wb") as file:
        file.truncate((32 << 20) + 1)
    with pytest.raises(RefusedDataError, match="at most 33,554,432") as caught:
        prepare([path], tmp_path / "out", {})
    assert caught.value.code == "file_too_large"


@pytest.mark.parametrize(
    ("column", "values", "code"),
    [
        ("timestamp", range(HOURS), "timestamp_number"),
        ("timestamp", [True] * HOURS, "timestamp_type"),
        ("consumption", [True] * HOURS, "consumption_type"),
        ("consumption", [[1.0]] * HOURS, "column_nested"),
        ("timestamp", [{"at": 1}] * HOURS, "column_nested"),
    ],
)
def test_mistyped_parquet_columns_are_refused(
    tmp_path: Path, column: str, values: Sequence[object], code: str
) -> None:
    frame = pd.read_csv(written(tmp_path, rows()), parse_dates=["timestamp"])
    frame[column] = pd.Series(list(values))
    path = tmp_path / "consumption.parquet"
    frame.to_parquet(path, index=False)
    with pytest.raises(RefusedDataError) as caught:
        prepare([path], tmp_path / "out", {})
    assert (caught.value.field, caught.value.code) == (column, code)


_VALID_PARQUET = io.BytesIO()
pd.DataFrame(
    {
        "timestamp": pd.date_range("2025-01-01", periods=800, freq="h"),
        "consumption": np.arange(800.0),
    }
).to_parquet(_VALID_PARQUET)

_CELLS = st.one_of(
    st.sampled_from(
        [
            "",
            "1",
            "-1",
            "nan",
            "1e999",
            "2025-03-30T01:30",
            "2025-01-01",
            "2025-01-01T00:00Z",
            '"',
            ",",
            "\0",
        ]
    ),
    st.text(max_size=12),
)


@settings(
    deadline=None, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    content=st.one_of(
        st.binary(max_size=200),
        st.lists(st.lists(_CELLS, min_size=1, max_size=3), max_size=8).map(
            lambda table: (
                "timestamp,consumption\n" + "\n".join(",".join(line) for line in table)
            ).encode("utf-8", "surrogatepass")
        ),
        st.tuples(
            st.integers(0, len(_VALID_PARQUET.getvalue()) - 1), st.binary(min_size=1, max_size=6)
        ).map(
            lambda damage: (
                _VALID_PARQUET.getvalue()[: damage[0]]
                + damage[1]
                + _VALID_PARQUET.getvalue()[damage[0] + len(damage[1]) :]
            )
        ),
    ),
    timezone=st.sampled_from(["UTC", "Europe/London", "Asia/Kolkata"]),
)
@example(content=("timestamp,consumption\n" + "\n".join(rows())).encode(), timezone="UTC")
def test_any_bytes_are_prepared_or_refused(tmp_path: Path, content: bytes, timezone: str) -> None:
    path = tmp_path / "consumption.csv"
    path.write_bytes(content)
    result: Prepared | RefusedDataError
    try:
        result = prepare([path], tmp_path / "out", {"timezone": timezone})
    except RefusedDataError as refused:
        result = refused
    if isinstance(result, RefusedDataError):
        # All three must be present.
        assert result.reason and result.field and result.cure  # noqa: PT018
    else:
        assert result.rows == len(read_series(tmp_path / "out", {}, tmp_path).values)


def test_weeks_of_a_clock_change_stay_aligned_to_the_local_clock(tmp_path: Path) -> None:
    instants = pd.date_range("2025-02-03", "2025-04-14", freq="h", tz="UTC", inclusive="left")
    local_hour = instants.tz_convert("Europe/London").hour
    lines = [f"{at.isoformat()},{1 + hour}" for at, hour in zip(instants, local_hour, strict=True)]
    prepared(tmp_path, lines, timezone="Europe/London")
    weeks = weeks_of(read_series(tmp_path / "out", {}, tmp_path))
    known = np.isfinite(weeks.values)
    # Every week has the same hour on both sides of the change; only the skipped hour is missing.
    assert np.nanmax(np.nanmax(weeks.values, axis=0) - np.nanmin(weeks.values, axis=0)) == 0
    assert (~known[1:]).sum() == 1
