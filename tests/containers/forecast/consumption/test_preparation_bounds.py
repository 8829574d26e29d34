"""The bounds of expanded files: a small file that expands without limit is refused by name, before
it exhausts memory."""

import io
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from containers.forecast.consumption.preparation import RefusedDataError, prepare
from containers.runtime.tables import parquet_file
from containers.runtime.tables.parquet_pages import MalformedPagesError, pages

ROWS = 9_000
MEMORY = 512 << 20
"""Bytes that reading one file may use besides Python and its libraries."""

_LIMITED = f"""
import pathlib, resource, sys, tempfile
import pandas, pyarrow, pyarrow.compute, pyarrow.csv, pyarrow.parquet, numpy, holidays
from containers.forecast.consumption.preparation import RefusedDataError, prepare
taken = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {MEMORY}, taken + {MEMORY}))
for name in sys.argv[1:]:
    try:
        prepare([pathlib.Path(name)], pathlib.Path(tempfile.mkdtemp()), {{}})
        print("read")
    except RefusedDataError as refused:
        print(refused.code)
"""


def codes(*files: Path) -> list[str]:
    """The outcomes of files in a process with little memory."""
    done = subprocess.run(
        [sys.executable, "-c", _LIMITED, *map(str, files)],
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
        env={
            **os.environ,
            "ARROW_DEFAULT_MEMORY_POOL": "system",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


def columns(**changed: object) -> "pa.Table":
    at = np.arange(ROWS) * 3600 + 1_735_689_600
    return pa.table(
        {
            "timestamp": pa.array(at, pa.timestamp("s", tz="UTC")),
            "consumption": np.random.default_rng(1).random(ROWS),
            **changed,
        }
    )


def stored(folder: Path, name: str, table: "pa.Table", **options: object) -> Path:
    path = folder / f"{name}.parquet"
    parquet.write_table(table, path, compression="zstd", **{"write_statistics": False, **options})
    return path


def test_a_small_file_that_expands_without_end_is_refused_in_little_memory(tmp_path: Path) -> None:
    long = "x" * (2 << 20)
    stamps = [f"{np.datetime64(int(at), 's')}Z" for at in np.arange(ROWS) * 3600 + 1_735_689_600]
    one = pa.DictionaryArray.from_arrays(np.zeros(ROWS, np.int32), pa.array([long]))
    bombs: dict[str, tuple[pa.Table, dict[str, Any]]] = {
        "customer": (columns(customer_id=one), {}),
        "timestamp": (columns(timestamp=one), {}),
        "consumption": (columns(consumption=one), {}),
        "binary": (columns(customer_id=one.cast(pa.dictionary(pa.int32(), pa.binary()))), {}),
        "fixed": (columns(customer_id=pa.array([b"x" * 64] * ROWS, pa.binary(64))), {}),
        "differences": (
            columns(customer_id=pa.array([long[:100_000]] * 300 + [""] * (ROWS - 300))),
            {
                "use_dictionary": False,
                "column_encoding": {"customer_id": "DELTA_BYTE_ARRAY"},
                "data_page_size": 1 << 30,
            },
        ),
        "page": (
            columns(customer_id=pa.array([long * 49, *[""] * (ROWS - 1)])),
            {"use_dictionary": False},
        ),
        "groups": (columns(remark=["x"] * ROWS), {"row_group_size": 1}),
        "nested": (columns(customer_id=pa.array([[long]] * 3 + [[]] * (ROWS - 3))), {}),
        "unread": (columns(remark=one), {}),
        "plain": (columns(timestamp=stamps, customer_id=pa.array(["acme"] * ROWS)), {}),
    }
    files = [stored(tmp_path, name, table, **options) for name, (table, options) in bombs.items()]
    assert max(file.stat().st_size for file in files) < 8 << 20
    assert dict(zip(bombs, codes(*files), strict=True)) == {
        "customer": "cell_too_long",
        "timestamp": "cell_too_long",
        "consumption": "cell_too_long",
        "binary": "cell_too_long",
        "fixed": "parquet_encoding",
        "differences": "parquet_encoding",
        "page": "expands_too_far",
        "groups": "too_many_row_groups",
        "nested": "column_nested",
        "unread": "read",
        "plain": "read",
    }


def test_csv_that_is_all_separators_lines_or_one_cell_is_refused_in_little_memory(
    tmp_path: Path,
) -> None:
    most = 32 << 20
    head = b"timestamp,consumption\n"
    contents = [
        head + b",\n" * (most // 2 - 20),
        b"," * (most - 1),
        b"timestamp,consumption" + b"\n" * (most - 30),
        head + b'"' + b"a" * (most - 100),
        head + b"a" * (most - 100),
        "\ufefftimestamp,consumption\n".encode("utf-16-le") + b"a\0" * (most // 2 - 100),
        head + ("\U0001f4c8" * (most // 4 - 100)).encode(),
    ]
    files = []
    for number, content in enumerate(contents):
        files.append(tmp_path / f"{number}.csv")
        files[-1].write_bytes(content)
    assert codes(*files) == ["too_many_rows", "column_missing", "no_rows", *["csv_unreadable"] * 4]


def test_what_pages_expand_to_is_read_off_their_headers_not_the_footer() -> None:
    """The format's own library gives the same sizes for its own files, with both versions of
    pages."""
    table = columns(customer_id=pa.array([f"customer {number % 700}" for number in range(ROWS)]))
    for version in ("1.0", "2.0"):
        sink = io.BytesIO()
        parquet.write_table(
            table,
            sink,
            data_page_version=version,
            compression="zstd",
            row_group_size=4_000,
            data_page_size=5_000,
        )
        content, metadata = sink.getvalue(), parquet.read_metadata(io.BytesIO(sink.getvalue()))
        for group in range(metadata.num_row_groups):
            for place in range(3):
                chunk = metadata.row_group(group).column(place)
                start = chunk.dictionary_page_offset or chunk.data_page_offset
                found = list(pages(content, start, chunk.total_compressed_size, chunk.num_values))
                assert sum(page.values for page in found if not page.dictionary) == chunk.num_values
                # The footer counts the headers too.
                assert (
                    0
                    <= chunk.total_uncompressed_size - sum(page.size for page in found)
                    < 100 * len(found)
                )


@given(content=st.binary(max_size=80), values=st.integers(0, 50))
def test_bytes_that_are_no_pages_are_called_so(content: bytes, values: int) -> None:
    try:
        assert sum(1 for _ in pages(content, 0, len(content), values)) <= len(content)
    except MalformedPagesError:
        return


@pytest.mark.parametrize("what", ["MAX_EXPANDED_BYTES", "MAX_PAGES", "MAX_FOOTER_BYTES"])
def test_each_bound_holds_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    path = stored(tmp_path, "a", columns(), row_group_size=100)
    prepare([path], tmp_path / "out", {})
    monkeypatch.setattr(parquet_file, what, 100)
    with pytest.raises(RefusedDataError) as refused:
        prepare([path], tmp_path / "out", {})
    assert refused.value.code == (
        "parquet_unreadable" if what == "MAX_FOOTER_BYTES" else "expands_too_far"
    )
    assert re.search(r"a\.parquet", refused.value.reason)


def test_a_footer_that_promises_fewer_rows_than_it_brings_does_not_bring_more(
    tmp_path: Path,
) -> None:
    path = stored(tmp_path, "a", pa.concat_tables([columns()] * 45))
    honest, promised = 45 * ROWS, 44 * ROWS
    content = path.read_bytes()
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") :]
    lying = footer.replace(varint(2 * honest), varint(2 * promised), 1)
    path.write_bytes(content[: -len(footer)] + lying)
    assert parquet.read_metadata(path).num_rows == promised
    with pytest.raises(RefusedDataError) as refused:
        prepare([path], tmp_path / "out", {})
    assert refused.value.code == "too_many_rows"


def footer_of(depth: int) -> bytes:
    """A file without rows, whose third column is nested this deeply. It is written by hand, because
    libraries themselves crash on it."""

    def element(name: bytes, number_type: int | None, children: int | None) -> bytes:
        said = b"" if number_type is None else b"\x15" + varint(2 * number_type)
        said += (
            (b"\x35" if number_type is None else b"\x25")
            + varint(2)
            + b"\x18"
            + varint(len(name))
            + name
        )
        return said + (b"" if children is None else b"\x15" + varint(2 * children)) + b"\0"

    elements = [
        element(b"schema", None, 3),
        element(b"timestamp", 2, None),
        element(b"consumption", 5, None),
    ]
    elements += [element(b"g", None, 1)] * depth + [element(b"x", 2, None)]
    listed = b"\xfc" + varint(len(elements)) + b"".join(elements)
    footer = b"\x15\x02\x19" + listed + b"\x16\x00\x19\x0c\x00"
    return b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1"


def test_a_schema_that_is_nested_without_end_is_refused_before_it_is_followed(
    tmp_path: Path,
) -> None:
    depths = {
        5: "no_rows",
        40: "column_nested",
        15_000: "column_nested",
        300_000: "parquet_unreadable",
    }
    for depth in depths:
        (tmp_path / f"{depth}.parquet").write_bytes(footer_of(depth))
    assert codes(*(tmp_path / f"{depth}.parquet" for depth in depths)) == list(depths.values())


def varint(number: int) -> bytes:
    """A number in Thrift's compact protocol, with seven bits a byte."""
    return bytes([number & 127 | 128]) + varint(number >> 7) if number > 127 else bytes([number])
