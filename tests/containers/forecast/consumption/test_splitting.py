"""The raw file of all customers: generated and split."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from containers.forecast.consumption import split as splitting
from containers.forecast.consumption import synthetic
from containers.forecast.consumption.preparation import prepare
from containers.forecast.consumption.split import split
from containers.forecast.consumption.synthetic import generate
from contracts.refused_data import RefusedDataError

START, END = datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 3, 1, tzinfo=UTC)


def test_synthetic_data_have_the_articles_columns_and_bounds() -> None:
    frame = generate(3, START, END)
    assert list(frame.columns) == ["customer_id", "timestamp", "consumption"]
    assert sorted(frame.customer_id.unique()) == [0, 1, 2]
    assert len(frame) == 3 * 59 * 24
    assert frame.consumption.between(0, 1000).all()
    assert frame.timestamp.min() == pd.Timestamp(START)


def test_a_seed_gives_the_same_customers_however_many_there_are() -> None:
    few, many = generate(2, START, END, seed=1), generate(3, START, END, seed=1)
    pd.testing.assert_frame_equal(few, many[many.customer_id < 2])
    assert not few.consumption.equals(generate(2, START, END, seed=2).consumption)
    with pytest.raises(ValueError, match="after start"):
        generate(2, END, START)


def test_the_wave_of_the_year_has_the_length_of_a_year_and_days_follow_the_local_clock() -> None:
    frame = generate(
        8, datetime(2023, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), "D", seed=4
    )
    for _, customer in frame.groupby("customer_id"):
        values = customer.consumption.to_numpy() / customer.consumption.mean() - 1
        strength = np.abs(np.fft.rfft(values))
        # In three years of days, the third frequency is once a year. It is the strongest one below
        # once a month.
        assert np.argmax(strength[1:36]) + 1 == 3
    hourly = generate(
        1, datetime(2025, 3, 1, tzinfo=UTC), datetime(2025, 5, 1, tzinfo=UTC), country=None
    )
    hourly["day"] = hourly.timestamp.dt.tz_convert("Europe/London").dt.normalize()
    before = (
        hourly[hourly.timestamp < "2025-03-30"].groupby(hourly.timestamp.dt.hour).consumption.mean()
    )
    after = (
        hourly[hourly.timestamp >= "2025-03-31"]
        .groupby(hourly.timestamp.dt.hour)
        .consumption.mean()
    )
    assert int(np.argmin(after.to_numpy())) == (int(np.argmin(before.to_numpy())) - 1) % 24


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_file_of_many_customers_becomes_one_csv_each(tmp_path: Path, suffix: str) -> None:
    raw = tmp_path / f"raw{suffix}"
    arguments = [
        "--out",
        str(raw),
        "--customers",
        "11",
        "--start",
        "2025-01-01",
        "--end",
        "2025-03-01",
    ]
    assert synthetic.main(arguments) == 0
    assert splitting.main([str(raw), "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out").glob("*/data.csv"))) == 11
    prepared = prepare([tmp_path / "out" / "10" / "data.csv"], tmp_path / "prepared", {})
    frame = generate(11, START, END)
    assert prepared.rows == 59 * 24
    assert prepared.facts["total_kwh"] == pytest.approx(
        frame[frame.customer_id == 10].consumption.sum(), abs=0.1
    )
    assert split(raw, tmp_path / "some", most=2) == ["0", "1"]


def test_files_that_cannot_be_split_are_refused(tmp_path: Path) -> None:
    raw = tmp_path / "raw.csv"
    for content, words in (
        ("customer_id,timestamp\n1,2025-01-01\n", "no column consumption"),
        ("customer_id,timestamp,consumption\na,2025-01-01,1\n ,2025-01-01,1\n", "row 2"),
        ("customer_id,timestamp,consumption\n1,2\n", "cannot be read"),
    ):
        raw.write_text(content)
        with pytest.raises(RefusedDataError, match=words):
            split(raw, tmp_path / "out")
    assert not (tmp_path / "x").exists()
    assert splitting.main([str(tmp_path / "absent.csv"), "--out", str(tmp_path / "out")]) == 1


def test_daily_rows_of_a_zone_keep_their_dates_when_they_are_split(tmp_path: Path) -> None:
    at = pd.date_range("2025-03-01", periods=90, freq="D", tz="Europe/Berlin")
    frame = pd.DataFrame(
        {"customer_id": "a", "timestamp": at, "consumption": np.arange(90) % 7 + 1.0}
    )
    frame.to_parquet(tmp_path / "raw.parquet", index=False)
    split(tmp_path / "raw.parquet", tmp_path / "out")
    prepared = prepare([tmp_path / "out" / "a" / "data.csv"], tmp_path / "prepared", {})
    assert (prepared.rows, prepared.repairs) == (90, {})
    assert f"{prepared.first:%Y-%m-%d}" == "2025-03-01"
