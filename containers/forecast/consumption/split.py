"""Splits a file of many customers into one `{tenant}/data.csv` for each: `python -m
containers.forecast.consumption.split --help`.

`tenantry upload --split` has it done in a process with limits, or by a SageMaker Processing job,
which runs `process`. SageMaker mounts the job's input at `/opt/ml/processing/input`, and copies the
files below `/opt/ml/processing/output` to S3.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from contracts.refused_data import RefusedDataError
from contracts.split_files import (
    CUSTOMERS,
    DATA_FILE,
    MAX_TENANTS,
    TENANTS_FILE,
    SplitTenant,
    document,
    tenant_of_customer,
)
from contracts.variables import SPLIT_CUSTOMERS

if TYPE_CHECKING:
    import pyarrow as pa

SUFFIXES: Final = (".csv", ".parquet")
_STAMP, _VALUE = "timestamp", "consumption"
PRELOADED: Final = ("pyarrow.csv", "pyarrow.parquet", "pyarrow.compute")


def split(
    file: Path, destination: Path, customers: str = CUSTOMERS, most: int | None = None
) -> list[str]:
    """Write `{tenant}/data.csv` and `tenants.json` below `destination`.

    Rows keep their order and their cells; preparation later checks whether they form a series. A
    customer whose id cannot be a tenant's gets one that is made from it.

    Args:
        file: CSV or Parquet with the columns timestamp and consumption, and one of customers.
        destination: a folder.
        customers: the name of the column of customers.
        most: write only so many tenants, the first ones by id; None means all.

    Returns:
        The tenants written, sorted.

    Raises:
        RefusedDataError: the file cannot be split; the message quotes no cell.
    """
    import pyarrow as pa
    from pyarrow import compute, csv

    table = _read(file, customers)
    unique = compute.unique(table[CUSTOMERS]).to_pylist()
    if len(unique) > MAX_TENANTS:
        _refuse(file, f"has {len(unique):,} customers", f"Split at most {MAX_TENANTS:,} at once.")
    tenants = {customer: tenant_of_customer(customer) for customer in unique}
    places = compute.index_in(table[CUSTOMERS], pa.array(unique, pa.string()))
    called = pa.array([tenants[customer] for customer in unique], pa.string())
    table = table.set_column(0, CUSTOMERS, compute.take(called, places))
    known = {tenant: customer for customer, tenant in tenants.items()}
    written: list[SplitTenant] = []
    for tenant, rows in _runs(table):
        if most is not None and len(written) >= most:
            break
        folder = destination / tenant
        folder.mkdir(parents=True, exist_ok=True)
        csv.write_csv(rows, folder / DATA_FILE, csv.WriteOptions(quoting_style="needed"))
        written.append(SplitTenant(tenant, known[tenant], rows.num_rows))
    (destination / TENANTS_FILE).write_text(json.dumps(document(written)))
    return [one.tenant for one in written]


def _read(file: Path, customers: str) -> "pa.Table":
    """The file's three columns, the customers first, and as text."""
    import pyarrow as pa
    from pyarrow import compute, csv, parquet

    wanted = [customers, _STAMP, _VALUE]
    try:
        if file.suffix.lower() == ".parquet":
            table = parquet.read_table(file)
        else:
            text = dict.fromkeys(wanted, pa.string())
            options = csv.ConvertOptions(column_types=text, strings_can_be_null=False)
            table = csv.read_csv(file, convert_options=options)
        lacking = [column for column in wanted if column not in table.column_names]
        if lacking:
            _refuse(
                file,
                f"has no column {', '.join(lacking)}. Its columns are "
                f"{', '.join(name[:40] for name in table.column_names[:10])}",
                "Rename them.",
            )
        table = table.select(wanted)
        named = table[customers].cast(pa.string())
    except (pa.ArrowException, OSError, UnicodeDecodeError, KeyError) as error:
        raise RefusedDataError(
            f"{file.name} cannot be read as CSV or Parquet.",
            "files",
            "Write it anew as CSV with a header, or as Parquet.",
            "unsplittable",
        ) from error
    if table.num_rows == 0:
        _refuse(file, "has no rows", "Upload one with rows.")
    table = table.set_column(0, CUSTOMERS, named)
    blank = compute.fill_null(compute.equal(compute.utf8_trim_whitespace(named), ""), True)
    if (row := compute.index(blank, True).as_py()) >= 0:
        raise RefusedDataError(
            f"{file.name}, row {row + 1}: {customers} is empty.",
            customers,
            "Each row needs its customer.",
            "unsplittable",
        )
    stamps = table[_STAMP]
    if pa.types.is_timestamp(stamps.type):
        # Keep the type's zone as offsets, because it gives the local date of daily rows.
        zone = stamps.type.tz
        seconds = stamps.cast(pa.timestamp("s", tz=zone), safe=False)
        offset = "" if zone is None else "Z" if zone == "UTC" else "%z"
        table = table.set_column(
            1, _STAMP, compute.strftime(seconds, format=f"%Y-%m-%dT%H:%M:%S{offset}")
        )
    return table


def _runs(table: "pa.Table") -> Iterator[tuple[str, Any]]:
    """Each tenant with its rows, by its id."""
    from pyarrow import compute

    # Sorting only by customer keeps each customer's rows in their order, because sort_indices is
    # stable.
    table = table.take(compute.sort_indices(table, sort_keys=[(CUSTOMERS, "ascending")]))
    runs = compute.run_end_encode(table[CUSTOMERS].combine_chunks())
    begin = 0
    for tenant, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        yield tenant, table.slice(begin, end - begin)
        begin = end


def _refuse(file: Path, fault: str, cure: str) -> NoReturn:
    raise RefusedDataError(f"{file.name} {fault}.", "files", cure, "unsplittable")


def main(arguments: list[str] | None = None) -> int:
    """`run` from a terminal: a refusal is one line there. Returns the exit status."""
    try:
        run(arguments)
    except RefusedDataError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def run(arguments: list[str] | None = None) -> None:
    """Split one file, or the file of the processing job's input folder. Raises
    `RefusedDataError`."""
    base = Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
    source, destination = base / "processing/input", base / "processing/output"
    parser = argparse.ArgumentParser(
        prog="python -m containers.forecast.consumption.split", description=__doc__
    )
    parser.add_argument(
        "raw", type=Path, nargs="?", default=source, help=f"the file, or its folder ({source})"
    )
    parser.add_argument(
        "--out", type=Path, default=destination, help=f"folder to write to ({destination})"
    )
    parser.add_argument(
        "--customers",
        metavar="COLUMN",
        default=os.environ.get(SPLIT_CUSTOMERS, CUSTOMERS),
        help=f"the column of customers ({CUSTOMERS})",
    )
    parser.add_argument("--most", type=int, help="the first so many tenants only")
    options = parser.parse_args(arguments)
    if options.most is not None and options.most < 1:
        parser.error("--most must be at least 1")
    files = (
        sorted(path for path in options.raw.rglob("*") if path.suffix in SUFFIXES)
        if options.raw.is_dir()
        else [options.raw]
    )
    if len(files) != 1:
        parser.error(
            f"there must be one .csv or .parquet file at {options.raw}; there are {len(files)}"
        )
    written = split(files[0], options.out, options.customers, options.most)
    sys.stdout.write(f"{len(written)} customers written below {options.out}\n")


if __name__ == "__main__":
    sys.exit(main())
