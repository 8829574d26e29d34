"""Real-world files: stamps, encodings, types and formats of programs are read, or refused with
their type."""

import gzip
import io
import re
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from containers.forecast.consumption.preparation import RefusedDataError, prepare

AT = pd.date_range("2025-12-20", periods=28 * 24, freq="h")
VALUES = np.round(1 + np.random.default_rng(7).random(len(AT)), 3)
CHECKS = settings(
    deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def csv_of(stamps: list[str], header: str = "timestamp,consumption", row: str = "{},{}") -> str:
    return (
        header
        + "\n"
        + "\n".join(row.format(stamp, value) for stamp, value in zip(stamps, VALUES, strict=True))
        + "\n"
    )


UTC_STAMPS = [f"{at:%Y-%m-%dT%H:%M:%SZ}" for at in AT]
PLAIN = csv_of(UTC_STAMPS)


def fingerprint(
    folder: Path, *contents: bytes | str, names: str = "{}.csv", **parameters: str
) -> str:
    files = []
    for number, content in enumerate(contents):
        files.append(folder / names.format(number))
        files[-1].write_bytes(content.encode() if isinstance(content, str) else content)
    return prepare(files, folder / "out", parameters).fingerprint


def refusal(folder: Path, *contents: bytes | str, names: str = "{}.csv") -> RefusedDataError:
    with pytest.raises(RefusedDataError) as caught:
        fingerprint(folder, *contents, names=names)
    assert re.fullmatch(r".+\.", caught.value.reason)
    assert re.fullmatch(r".+\.", caught.value.cure)
    return caught.value


# ---- timestamps as text --------------------------------------------------------------------------

DATES = ["%Y-%m-%d", "%Y%m%d", "%G-W%V-%u", "%GW%V%u", "%Y-%j", "%Y%j", "%Y/%m/%d"]
TIMES = [
    "%H:%M",
    "%H:%M:%S",
    "%H%M",
    "%H%M%S",
    "%H",
    "%H:%M:%S.0000000",
    "%H:%M:%S,000",
    "%H:%M:%S.000000000000",
    "%H:%M,0",
]
ZONES = [
    "Z",
    "z",
    "+00",
    "+0000",
    "+00:00",
    " +00:00",
    " +0000",
    "-00:00",
    " UTC",
    "+00:00[Europe/London]",
    " +00:00 [UTC]",
    "\u221200:00",
]


@CHECKS
@given(
    date=st.sampled_from(DATES),
    mark=st.sampled_from(["T", "t", " ", "  ", "\u00a0"]),
    time=st.sampled_from(TIMES),
    zone=st.sampled_from(["", *ZONES]),
    around=st.sampled_from(["", " ", "\u00a0", "\t"]),
    day_end=st.booleans(),
)
def test_every_form_of_iso_8601_means_the_same(
    tmp_path: Path, date: str, mark: str, time: str, zone: str, around: str, day_end: bool
) -> None:
    stamps = [f"{at:{date}}{mark}{at:{time}}{zone}" for at in AT]
    if day_end:
        # Write midnight as the end of the previous day.
        night = AT - pd.Timedelta(days=1)
        stamps = [
            f"{before:{date}}{mark}{f'{at:{time}}'.replace('00', '24', 1)}{zone}"
            if at.hour == 0
            else stamp
            for at, before, stamp in zip(AT, night, stamps, strict=True)
        ]
    told = csv_of(
        [around + stamp + around for stamp in stamps], row='"{}",{}' if "," in time else "{},{}"
    )
    assert fingerprint(tmp_path, told) == fingerprint(tmp_path, PLAIN)


@pytest.mark.parametrize(
    "form",
    [
        "%d.%m.%Y %H:%M",
        "%d/%m/%Y %H:%M:%S",
        "%m/%d/%Y %I:%M %p",
        "%m/%d/%Y %H:%M",
        "%-m/%-d/%Y %-I:%M:%S %p",
        "%d-%m-%Y %H:%M",
        "%d-%b-%Y %H:%M",
        "%b %d %Y %I:%M %p",
        "%Y%m%d%H%M",
        "%Y%m%d%H%M%S",
        "%Y%m%d%H",
        "%s",
        "%s000",
        "%s.0",
    ],
)
def test_what_exports_write_is_read_where_the_file_leaves_no_doubt(
    tmp_path: Path, form: str
) -> None:
    assert fingerprint(tmp_path, csv_of([at.strftime(form) for at in AT])) == fingerprint(
        tmp_path, PLAIN
    )


def test_excels_midnight_without_a_time_is_midnight(tmp_path: Path) -> None:
    stamps = [f"{at:%d.%m.%Y}" if at.hour == 0 else f"{at:%d.%m.%Y %H:%M}" for at in AT]
    assert fingerprint(tmp_path, csv_of(stamps)) == fingerprint(tmp_path, PLAIN)


def test_an_offset_moves_the_instant(tmp_path: Path) -> None:
    for offset, hours in {"+01": 1, "+0530": 5.5, " -05:00": -5}.items():
        told = csv_of([f"{at + pd.Timedelta(hours=hours):%Y%m%dT%H%M}{offset}" for at in AT])
        assert fingerprint(tmp_path, told) == fingerprint(tmp_path, PLAIN)


@pytest.mark.parametrize(
    ("form", "code"),
    [
        ("%d/%m/%Y", "timestamp_day_or_month"),
        ("%m/%d/%Y %H:%M", "timestamp_day_or_month"),
        ("%d.%m.%Y", "timestamp_day_or_month"),
        ("%d.%m.%y %H:%M", "timestamp_unreadable"),
        ("%Y-%m-%d %H.%M", "timestamp_unreadable"),
        ("%Y-%m-%d %H:%M CET", "timestamp_unreadable"),
        ("45658.%H", "timestamp_unreadable"),
        ("%Y-%m", "timestamp_unreadable"),
        ("noon of %j", "timestamp_unreadable"),
        ("%Y-%m-%dT%H:%M+24:00", "timestamp_unreadable"),
        ("%Y-02-30T%H:%M", "timestamp_unreadable"),
        ("%Y-%m-%dT24:30", "timestamp_unreadable"),
        ("%Y-%m-%dT13:00 PM", "timestamp_unreadable"),
    ],
)
def test_a_stamp_that_could_mean_two_things_or_none_is_refused_with_the_form_that_is_wanted(
    tmp_path: Path, form: str, code: str
) -> None:
    stamps = [at.strftime(form) for at in pd.date_range("2026-01-01", periods=11 * 24, freq="h")]
    refused = refusal(tmp_path, csv_of((stamps * 3)[: len(AT)]))
    assert refused.code == code
    assert "2026-03-01T13:00:00Z" in refused.cure
    assert stamps[0] not in str(refused)


def test_a_file_that_changes_between_day_first_and_month_first_is_refused(tmp_path: Path) -> None:
    stamps = [
        f"{at:%d/%m/%Y %H:%M}" if number % 2 else f"{at:%m/%d/%Y %H:%M}"
        for number, at in enumerate(AT)
    ]
    assert refusal(tmp_path, csv_of(stamps)).code == "timestamp_day_or_month"


# ---- text ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
        b"\xfe\xff" + PLAIN.encode("utf-16-be"),
        PLAIN.encode("utf-16-le"),
        PLAIN.encode("utf-32"),
        PLAIN.replace("\n", "\r\n").encode(),
        PLAIN.replace("\n", "\r").encode(),
        b"\n" + PLAIN.encode(),
        b"sep=,\n" + PLAIN.encode(),
        PLAIN.replace("timestamp,", '"timestamp", ').encode(),
        PLAIN.replace("timestamp,consumption", " Timestamp ,\u00a0CONSUMPTION\u00a0").encode(),
        csv_of(UTC_STAMPS, row='"{}","{}"').encode(),
        csv_of(UTC_STAMPS, row="{}, {}").encode(),
        csv_of(UTC_STAMPS, row="{} ,\u00a0{}\u202f").encode(),
        csv_of(UTC_STAMPS, row='{}, "{}" ').encode(),
        csv_of(UTC_STAMPS, row="{},+{}").encode(),
        csv_of(UTC_STAMPS, row="\u00a0{},\u00a0{}").encode("latin-1"),
        csv_of(UTC_STAMPS, "timestamp,consumption,remark", "{},{},Zähler getauscht").encode(
            "latin-1"
        ),
        csv_of(UTC_STAMPS, "Straße,timestamp,consumption", "Ü,{},{}").encode("cp1252"),
        csv_of(UTC_STAMPS, "timestamp,consumption,remark,remark,", '{},{},"a, b\nc",,').encode(),
    ],
    ids=range(20),
)
def test_text_is_read_whatever_its_encoding_blanks_and_quotes(
    tmp_path: Path, content: bytes
) -> None:
    assert fingerprint(tmp_path, content) == fingerprint(tmp_path, PLAIN)


def test_cells_of_blanks_are_blank(tmp_path: Path) -> None:
    row = f"{UTC_STAMPS[3]},{VALUES[3]}\n"
    blanks = [PLAIN.replace(row, f"{UTC_STAMPS[3]},{blank}\n") for blank in ("", " \u00a0")]
    assert fingerprint(tmp_path, blanks[1]) == fingerprint(tmp_path, blanks[0])


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (PLAIN.replace(",", ";"), "separator_not_comma"),
        (PLAIN.replace(",", "\t"), "separator_not_comma"),
        (csv_of(UTC_STAMPS, row='{},"1 {}"'), "consumption_not_number"),
        (
            PLAIN.replace(".", ",").replace("Z,", 'Z,"').replace("\n20", '"\n20'),
            "consumption_not_number",
        ),
        (
            csv_of(UTC_STAMPS, "timestamp,consumption," + "," * 1000, "{},{}" + "," * 1001),
            "too_many_columns",
        ),
        ("x" * 70_000 + "," + PLAIN, "column_missing"),
        (csv_of(UTC_STAMPS, row="{},{}" + "0" * 300), "cell_too_long"),
        (PLAIN + "a,b,c\n", "row_torn"),
        ('timestamp,consumption\n"' + "a," * 2_000_000, "csv_unreadable"),
    ],
    ids=range(9),
)
def test_text_that_is_no_such_table_is_refused(tmp_path: Path, content: str, code: str) -> None:
    assert refusal(tmp_path, content).code == code


# ---- what a file is ------------------------------------------------------------------------------


def zipped(*names: str) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name in names:
            archive.writestr(name, PLAIN)
    return packed.getvalue()


def in_parquet(table: "pa.Table", **options: object) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, **options)
    return sink.getvalue()


TYPED = pa.table({"timestamp": pa.array(AT, pa.timestamp("us", tz="UTC")), "consumption": VALUES})


@pytest.mark.parametrize(
    ("content", "words", "code"),
    [
        (gzip.compress(PLAIN.encode()), "is gzip", "file_compressed"),
        (b"BZh91AY&SY\x01\x02", "is bzip2", "file_compressed"),
        (zipped("consumption.csv"), "is a ZIP archive", "file_compressed"),
        (
            zipped("[Content_Types].xml", "xl/workbook.xml"),
            r"is an Excel file \(.xlsx\)",
            "file_spreadsheet",
        ),
        (
            b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(512),
            r"is an Excel file \(.xls\)",
            "file_spreadsheet",
        ),
        (b"%PDF-1.7\n", "is a PDF", "file_document"),
        (b"\n<!DOCTYPE html><html>", "is a web page", "file_document"),
        (b"<table><tr><td>timestamp", "is a web page", "file_document"),
        (b'<?xml version="1.0"?>', "is XML", "file_document"),
        (b'[{"timestamp": "2025"}]', "is JSON", "file_document"),
        (b'\xef\xbb\xbf{\n "data": []}', "is JSON", "file_document"),
        (b"SQLite format 3\0", "is an SQLite database", "file_other_table"),
        (b"ARROW1\0\0", "is an Arrow", "file_other_table"),
        (b"PARE" + bytes(20), "is an encrypted Parquet", "file_encrypted"),
    ],
    ids=range(14),
)
@pytest.mark.parametrize("names", ["{}.csv", "{}.parquet"])
def test_a_file_is_told_what_it_is_whatever_its_name(
    tmp_path: Path, content: bytes, words: str, code: str, names: str
) -> None:
    refused = refusal(tmp_path, content, names=names)
    assert re.search(words, refused.reason)
    assert refused.code == code


def test_csv_and_parquet_are_read_under_each_others_names(tmp_path: Path) -> None:
    assert fingerprint(tmp_path, PLAIN, names="{}.parquet") == fingerprint(tmp_path, PLAIN)
    assert fingerprint(tmp_path, in_parquet(TYPED), names="{}.csv") == fingerprint(tmp_path, PLAIN)


# ---- Arrow's types -------------------------------------------------------------------------------

_TEXTS: dict[str, Callable[[pa.Array], pa.Array]] = {
    "string": lambda text: text,
    "large": lambda text: text.cast(pa.large_string()),
    "view": lambda text: text.cast(pa.string_view()),
    "binary": lambda text: text.cast(pa.binary()),
    "categorical": lambda text: text.dictionary_encode(),
    "small categorical": lambda text: text.dictionary_encode().cast(
        pa.dictionary(pa.int16(), pa.large_string())
    ),
}
THOUSANDTHS = (VALUES * 1000).round().astype(np.int64)


@CHECKS
@given(
    stamps=st.sampled_from(["s", "ms", "us", "ns", "naive", "int96", "epoch", "epoch ms", *_TEXTS]),
    numbers=st.sampled_from(
        ["double", "decimal", "wide decimal", "decimal as integer", "categorical numbers", *_TEXTS]
    ),
    version=st.sampled_from(["1.0", "2.0"]),
    compression=st.sampled_from(["none", "snappy", "zstd", "gzip"]),
    dictionaries=st.booleans(),
    groups=st.sampled_from([50, 10_000]),
    named=st.sampled_from([("timestamp", "consumption"), ("Timestamp ", " Consumption")]),
)
def test_parquet_is_read_whatever_types_hold_its_text_and_numbers(
    tmp_path: Path,
    stamps: str,
    numbers: str,
    version: str,
    compression: str,
    dictionaries: bool,
    groups: int,
    named: tuple[str, str],
) -> None:
    options: dict[str, object] = {"store_decimal_as_integer": numbers == "decimal as integer"}
    if stamps in _TEXTS:
        column = _TEXTS[stamps](pa.array(UTC_STAMPS))
    elif stamps.startswith("epoch"):
        column = pa.array(
            AT.astype("datetime64[ms]" if "ms" in stamps else "datetime64[s]").astype(np.int64)
        )
    else:
        unit = stamps if stamps in ("s", "ms", "us", "ns") else "ns"
        column = pa.array(
            AT, pa.timestamp(unit, tz=None if stamps in ("naive", "int96") else "UTC")
        )
        options["use_deprecated_int96_timestamps"] = stamps == "int96"
    if numbers in _TEXTS:
        values = _TEXTS[numbers](pa.array([str(value) for value in VALUES]))
    elif "decimal" in numbers:
        values = pa.array(VALUES).cast(pa.decimal128(38 if "wide" in numbers else 9, 3), safe=False)
    else:
        values = (
            pa.array(VALUES).dictionary_encode() if "categorical" in numbers else pa.array(VALUES)
        )
    content = in_parquet(
        pa.table([column, values], names=list(named)),
        data_page_version=version,
        compression=compression,
        use_dictionary=dictionaries,
        row_group_size=groups,
        **options,
    )
    assert fingerprint(tmp_path, content, names="{}.parquet") == fingerprint(tmp_path, PLAIN)


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.decimal32(5, 1)], ids=str
)
def test_small_numbers_are_numbers(tmp_path: Path, kind: "pa.DataType") -> None:
    whole = np.random.default_rng(3).integers(1, 50, len(AT)).astype(np.float64)
    column = (
        pa.array(whole.astype(np.float16)) if kind == pa.float16() else pa.array(whole).cast(kind)
    )
    typed, plain = (
        in_parquet(TYPED.set_column(1, "consumption", values))
        for values in (column, pa.array(whole))
    )
    assert fingerprint(tmp_path, typed) == fingerprint(tmp_path, plain)


@pytest.mark.parametrize("encoding", ["DELTA_LENGTH_BYTE_ARRAY", "PLAIN"])
def test_strings_without_dictionaries_are_read(tmp_path: Path, encoding: str) -> None:
    text = pa.table({"timestamp": UTC_STAMPS, "consumption": [str(value) for value in VALUES]})
    content = in_parquet(
        text, use_dictionary=False, column_encoding=dict.fromkeys(text.column_names, encoding)
    )
    assert fingerprint(tmp_path, content) == fingerprint(tmp_path, PLAIN)


def test_missing_readings_are_missing_in_every_type(tmp_path: Path) -> None:
    blank = PLAIN.replace(f"{UTC_STAMPS[5]},{VALUES[5]}\n", f"{UTC_STAMPS[5]},\n")
    column = [None if number == 5 else value for number, value in enumerate(VALUES)]
    for values in (
        pa.array(column),
        pa.array(column).dictionary_encode(),
        pa.array(column, pa.float64()).cast(pa.decimal128(20, 3), safe=False),
    ):
        assert fingerprint(
            tmp_path, in_parquet(TYPED.set_column(1, "consumption", values))
        ) == fingerprint(tmp_path, blank)


# ---- customers -----------------------------------------------------------------------------------


def of_customer(customer: "pa.Array", half: int) -> bytes:
    rows = slice(0, 300) if half == 0 else slice(300, None)
    return in_parquet(TYPED[rows].append_column("customer_id", customer[rows]))


ONE = [
    pa.array([42] * len(AT)),
    pa.array([42.0] * len(AT)),
    pa.array(["42"] * len(AT)),
    pa.array(["42 "] * len(AT)),
    pa.array([42] * len(AT), pa.int8()).dictionary_encode(),
    pa.array([42] * len(AT)).cast(pa.decimal128(21, 1)),
    pa.array(["42"] * len(AT)).dictionary_encode(),
    pa.array(["42.0"] * len(AT)),
    pa.array([42.0, float("nan")] * (len(AT) // 2)),
    pa.array([None] * len(AT), pa.string()),
]


@pytest.mark.parametrize("left", range(len(ONE)))
def test_a_customer_is_one_however_the_number_is_written(tmp_path: Path, left: int) -> None:
    expected = fingerprint(tmp_path, PLAIN)
    for right in range(left, len(ONE)):
        assert (
            fingerprint(tmp_path, of_customer(ONE[left], 0), of_customer(ONE[right], 1)) == expected
        )


@pytest.mark.parametrize("other", ["00042", "42.5", "42a", "4.2e1", "-42", "420"])
def test_ids_that_are_no_such_number_are_others_and_none_is_told(
    tmp_path: Path, other: str
) -> None:
    refused = refusal(tmp_path, of_customer(ONE[0], 0), of_customer(pa.array([other] * len(AT)), 1))
    assert refused.code == "several_customers"
    assert "42" not in str(refused)
    assert other not in str(refused)
