"""Fresh readings laid beside a prepared series, night after night."""

import json
import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from containers.forecast.consumption.preparation import Prepared, RefusedDataError, extend, prepare
from containers.forecast.consumption.prepared_files import UnusableSeriesError

LONDON = "Europe/London"
START = datetime(2025, 9, 1, tzinfo=UTC)
HOURS = 30 * 24
FILES = ("data.csv", "series.json", "readings.json")

Row = tuple[datetime, float | None]


def value(moment: datetime) -> float:
    """A reading with more digits than sums keep, other in every quarter of an hour."""
    number = int(moment.timestamp()) // 900
    return 1 + math.sin(number / 15.3) ** 2 + (number * 7919 % 101) / 333


def rows(first: datetime, count: int, step: timedelta = timedelta(hours=1)) -> list[Row]:
    return [(first + number * step, value(first + number * step)) for number in range(count)]


def written(path: Path, readings: Sequence[Row], clock: str | None = None) -> Path:
    """A file of readings, in UTC or without offsets on a clock."""
    lines = ["timestamp,consumption"]
    for moment, told in readings:
        stamp = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
        if clock is not None:
            stamp = f"{moment.astimezone(ZoneInfo(clock)):%Y-%m-%d %H:%M}"
        lines.append(f"{stamp},{'' if told is None else repr(told)}")
    path.write_text("\n".join([*lines, ""]))
    return path


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """Thirty days of hours until 1 October, prepared."""
    raw = written(tmp_path / "history.csv", rows(START, HOURS))
    prepare([raw], tmp_path / "base", {"timezone": LONDON, "country": "GB"})
    return tmp_path / "base"


def extended(base: Path, readings: Sequence[Row], **parameters: str) -> Prepared:
    raw = written(base.parent / "new.csv", readings)
    return extend(base, [raw], base.parent / "longer", parameters)


def refusal(base: Path, readings: Sequence[Row], now: datetime | None = None) -> RefusedDataError:
    raw = written(base.parent / "new.csv", readings)
    with pytest.raises(RefusedDataError) as caught:
        extend(base, [raw], base.parent / "longer", {}, now=now)
    assert caught.value.cure
    assert not (base.parent / "longer").exists()
    return caught.value


def grid(folder: Path) -> list[str]:
    return [line.split(",")[1] for line in (folder / "data.csv").read_text().splitlines()[1:]]


END = START + timedelta(hours=HOURS)
DAY = timedelta(days=1)


def test_a_days_readings_make_the_series_a_day_longer(base: Path) -> None:
    result = extended(base, rows(END, 24))
    assert (result.rows, result.repairs) == (HOURS + 24, {})
    assert result.last == END + timedelta(hours=23)
    assert (result.facts["new_readings"], result.facts["known_readings"]) == (24, 0)
    whole = written(base.parent / "whole.csv", rows(START, HOURS + 24))
    at_once = prepare([whole], base.parent / "at-once", {"timezone": LONDON, "country": "GB"})
    assert result.fingerprint == at_once.fingerprint
    for name in FILES:
        longer = (base.parent / "longer" / name).read_bytes()
        assert longer == (base.parent / "at-once" / name).read_bytes()


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_daily_files_give_one_series_in_any_order_and_however_often(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("order")
    zone = data.draw(st.sampled_from([LONDON, "Asia/Kolkata", "America/New_York", "UTC"]))
    change = data.draw(
        st.sampled_from([datetime(2025, 10, 26), datetime(2025, 3, 30), datetime(2025, 11, 2)])  # noqa: DTZ001
    )
    minutes = data.draw(st.sampled_from([15, 30, 60]))
    offsets = data.draw(st.booleans())
    step, clock = timedelta(minutes=minutes), ZoneInfo(zone)
    midnights = [
        (change + number * DAY).replace(tzinfo=clock).astimezone(UTC) for number in range(-20, 4)
    ]
    # The history has the interval of the days, so that its hours begin where theirs do.
    first, until = midnights[0], midnights[18]
    history = rows(first, (until - first) // step, step)
    prepare(
        [written(folder / "history.csv", history, None if offsets else zone)],
        folder / "base",
        {"timezone": zone},
    )
    days = []
    for number, (begin, end) in enumerate(pairwise(midnights[18:])):
        readings = rows(begin, (end - begin) // step, step)
        days.append(written(folder / f"{number}.csv", readings, None if offsets else zone))
    extend(folder / "base", days, folder / "at-once", {})
    order = data.draw(st.permutations(range(len(days))))
    again = data.draw(st.lists(st.sampled_from(range(len(days))), max_size=3))
    before = folder / "base"
    for turn, number in enumerate([*order, *again]):
        try:
            extend(before, [days[number]], folder / f"turn-{turn}", {})
        except RefusedDataError as refused:
            assert refused.code == "period_closed"  # noqa: PT017 - a repetition, which changes nothing
            continue
        before = folder / f"turn-{turn}"
    for name in (*FILES, "incomplete.json"):
        paths = [where / name for where in (before, folder / "at-once") if (where / name).is_file()]
        assert len({path.read_bytes() for path in paths}) == 1 or not paths
        assert len(paths) in (0, 2)
    assert "" not in grid(before)


def test_a_known_reading_stays_whatever_a_later_file_says(base: Path) -> None:
    other = [(moment, 0.5) for moment, _ in rows(END - DAY, 48)]
    result = extended(base, other)
    assert grid(base.parent / "longer")[:HOURS] == grid(base)
    assert set(grid(base.parent / "longer")[HOURS:]) == {"0.5"}
    assert (result.facts["new_readings"], result.facts["known_readings"]) == (24, 24)


def test_a_gap_stays_missing_until_its_readings_come_late(base: Path) -> None:
    result = extended(base, rows(END + DAY, 24))
    assert result.repairs == {"missing": 24}
    assert grid(base.parent / "longer")[HOURS : HOURS + 24] == [""] * 24
    readings = json.loads((base.parent / "longer" / "readings.json").read_text())
    assert readings["values"][-48:-24] == [None] * 24
    late = written(base.parent / "late.csv", [*rows(END, 20), *rows(END - DAY, 2)])
    filled = extend(base.parent / "longer", [late], base.parent / "filled", {})
    assert filled.repairs == {"sorted_rows": 1, "missing": 4}


def test_a_few_late_hours_are_enough(base: Path) -> None:
    extended(base, [*rows(END, 3), *rows(END + timedelta(hours=9), 15)])
    for hours in ((4, 7), (3, 5, 6, 8)):
        readings = [(END + timedelta(hours=hour), 1.5) for hour in hours]
        raw = written(base.parent / "late.csv", readings)
        extend(base.parent / "longer", [raw], base.parent / "longer", {})
    assert "" not in grid(base.parent / "longer")


@pytest.mark.parametrize("told", [[0.0] * 24, [1.25] * 24, [0.1, 0.2, 0.4, 0.9, 1.5, 1.9]])
def test_a_day_may_stand_still_or_rise_throughout(base: Path, told: list[float]) -> None:
    readings = [(END + timedelta(hours=hour), one) for hour, one in enumerate(told)]
    assert extended(base, readings).facts["new_readings"] == len(told)


def test_readings_from_before_the_series_are_left_out(base: Path) -> None:
    result = extended(base, [*rows(START - DAY, 24), *rows(END, 24)])
    assert (result.first, result.rows) == (START, HOURS + 24)
    assert result.facts["known_readings"] == 24
    assert refusal_of_nothing_new(base, rows(START - DAY, 24))


def refusal_of_nothing_new(base: Path, readings: Sequence[Row]) -> bool:
    raw = written(base.parent / "new.csv", readings)
    with pytest.raises(RefusedDataError) as caught:
        extend(base, [raw], base.parent / "nothing", {})
    return caught.value.code == "period_closed"


def test_a_file_with_nothing_new_is_refused_with_the_end_of_the_series(base: Path) -> None:
    refused = refusal(base, rows(END - DAY, 24))
    assert refused.code == "period_closed"
    assert "2025-10-01T00:00:00Z" in str(refused)
    assert "training data" in refused.cure


KWH = 1.5
REFUSED: dict[str, tuple[list[Row], str]] = {
    "two months ahead": (rows(END + 60 * DAY, 24), "gap_too_large"),
    "daily totals": ([(END + number * DAY, 30.0) for number in range(3)], "frequency_differs"),
    "a day's total": ([(END, 30.0)], "one_timestamp"),
    "half past": (rows(END + timedelta(minutes=30), 24), "phase_differs"),
    "Wh": ([(moment, told * 1000) for moment, told in rows(END, 24) if told], "consumption_level"),
    "a meter's totals": (
        [(END + timedelta(hours=hour), 5000 + KWH * hour) for hour in range(24)],
        "meter_totals",
    ),
    "a spike": ([*rows(END, 23), (END + timedelta(hours=23), 9000.0)], "consumption_spike"),
    "negative": ([*rows(END, 23), (END + timedelta(hours=23), -1.0)], "consumption_negative"),
    "blank": ([(END, None), (END + timedelta(hours=1), None)], "all_blank"),
    "two values": (
        [*rows(END, 24), *((moment, 9.0) for moment, _ in rows(END, 24))],
        "conflicting_rows",
    ),
    "seven hours apart": (
        [(END + timedelta(minutes=95 * n), 1.0) for n in range(9)],
        "interval_unknown",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_readings_that_do_not_continue_the_series_are_refused(base: Path, kind: str) -> None:
    readings, code = REFUSED[kind]
    assert refusal(base, readings).code == code


def test_readings_from_the_future_are_refused(base: Path) -> None:
    assert refusal(base, rows(END + 2 * DAY, 24), now=END).code == "timestamp_in_future"


@pytest.mark.parametrize(
    ("given", "clock", "hour"),
    [({}, LONDON, 0), ({"timezone": "UTC"}, LONDON, 0), ({"timezone": "Europe/Paris"}, LONDON, -1)],
)
def test_times_without_offset_are_of_the_series_clock_unless_told_otherwise(
    base: Path, given: dict[str, str], clock: str, hour: int
) -> None:
    # London is still in summer time: its wall clock is an hour ahead of UTC, that of Paris two.
    readings = rows(END, 24)
    raw = written(base.parent / "new.csv", readings, clock)
    result = extend(base, [raw], base.parent / "longer", given)
    assert result.last == END + timedelta(hours=23 + hour)
    described = json.loads((base.parent / "longer" / "series.json").read_text())
    assert (described["timezone"], described["country"]) == (LONDON, "GB")


@pytest.mark.parametrize("given", [{"timezone": "Mars/Crater"}, {"country": "Atlantis"}])
def test_parameters_are_checked_as_at_training(base: Path, given: dict[str, str]) -> None:
    raw = written(base.parent / "new.csv", rows(END, 24))
    with pytest.raises(RefusedDataError) as caught:
        extend(base, [raw], base.parent / "longer", given)
    assert caught.value.code == f"{next(iter(given))}_unknown"


def days(first: int, count: int) -> list[str]:
    return [
        f"{START + number * DAY:%Y-%m-%d},{20 + number % 7}.5"
        for number in range(first, first + count)
    ]


def test_a_daily_series_takes_a_day_at_a_time_and_no_hours(tmp_path: Path) -> None:
    raw = tmp_path / "new.csv"
    header = "timestamp,consumption"
    raw.write_text("\n".join([header, *days(0, 60), ""]))
    prepare([raw], tmp_path / "0", {"timezone": LONDON})
    for night, wanted in enumerate(([62], [60], [61, 63, 66])):
        raw.write_text("\n".join([header, *(line for day in wanted for line in days(day, 1)), ""]))
        extend(tmp_path / str(night), [raw], tmp_path / str(night + 1), {})
    assert grid(tmp_path / "3")[60:] == ["24.5", "25.5", "26.5", "20.5", "", "", "23.5"]
    readings = json.loads((tmp_path / "3" / "readings.json").read_text())
    assert (readings["frequency"], readings["start"]) == ("D", "2025-09-01T00:00:00Z")
    hours = written(tmp_path / "hours.csv", rows(START + 67 * DAY, 24))
    with pytest.raises(RefusedDataError) as caught:
        extend(tmp_path / "3", [hours], tmp_path / "4", {})
    assert caught.value.code == "frequency_differs"


def test_readings_are_the_latest_weeks_with_few_digits(tmp_path: Path) -> None:
    raw = written(tmp_path / "raw.csv", rows(datetime(2025, 1, 1, tzinfo=UTC), 220 * 24))
    prepare([raw], tmp_path / "0", {})
    text = (tmp_path / "0" / "readings.json").read_text()
    readings: dict[str, Any] = json.loads(text)
    assert len(readings["values"]) == 24 * (26 * 7 + 1)
    assert readings["start"] == "2025-02-07T00:00:00Z"
    last = datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=220 * 24 - 1)
    assert readings["values"][-1] == float(f"{value(last):.5g}")
    assert len(text) < 40_000


def test_only_a_prepared_series_can_be_continued(base: Path) -> None:
    (base / "readings.json").unlink()  # an earlier release wrote none
    assert extended(base, rows(END, 24)).rows == HOURS + 24
    (base / "series.json").write_text("{}")
    with pytest.raises(UnusableSeriesError):
        extended(base, rows(END, 24))
