"""Splits a file of many customers into one `{customer}/data.csv` for each: `python -m
containers.forecast.consumption.split --help`.

A SageMaker Processing job runs this step. SageMaker mounts the input at `/opt/ml/processing/input`,
and copies the files below `/opt/ml/processing/output` to S3. From there ShardedByS3Key distributes
the customers to training instances.
"""

import argparse
import re
import sys
from pathlib import Path
from typing import Final

from containers.runtime.errors import ContainerError

INPUT: Final = Path("/opt/ml/processing/input")
OUTPUT: Final = Path("/opt/ml/processing/output")
COLUMNS: Final = ("customer_id", "timestamp", "consumption")

_CUSTOMER = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class UnsplittableDataError(ContainerError, ValueError):
    """The raw file lacks the columns, or a customer's name cannot be a folder's name."""


def split(raw: Path, out: Path, customers: int | None = None) -> list[str]:
    """Write `{customer}/data.csv` below `out` for the first `customers` of the file `raw`; None
    means all.

    Rows keep their order and their cells; preparation later checks whether they form a series.
    Returns the customers written, sorted. Raises `UnsplittableDataError`.
    """
    import pyarrow as pa
    import pyarrow.compute as compute
    from pyarrow import csv, parquet

    try:
        if raw.suffix == ".parquet":
            table = parquet.read_table(raw)
        else:
            text = {column: pa.string() for column in COLUMNS}
            table = csv.read_csv(raw, convert_options=csv.ConvertOptions(column_types=text))
    except (pa.ArrowException, OSError) as error:
        raise UnsplittableDataError(f"{raw.name} cannot be read: {error}") from error
    lacking = [column for column in COLUMNS if column not in table.column_names]
    if lacking:
        raise UnsplittableDataError(
            f"{raw.name} has no column {lacking[0]}; it has: {', '.join(table.column_names[:10])}"
        )
    table = table.select(list(COLUMNS))
    stamps = table["timestamp"]
    if pa.types.is_timestamp(stamps.type):
        # Keep the type's zone as offsets, because it gives the local date of daily rows.
        zone = stamps.type.tz
        seconds = stamps.cast(pa.timestamp("s", tz=zone), safe=False)
        offset = "" if zone is None else "Z" if zone == "UTC" else "%z"
        table = table.set_column(
            1, "timestamp", compute.strftime(seconds, format=f"%Y-%m-%dT%H:%M:%S{offset}")
        )
    # Sorting only by customer keeps each customer's rows in their order, because sort_indices is
    # stable.
    named = table.set_column(0, "customer_id", table["customer_id"].cast(pa.string()))
    named = named.take(compute.sort_indices(named, sort_keys=[("customer_id", "ascending")]))
    runs = compute.run_end_encode(named["customer_id"].combine_chunks())
    written: list[str] = []
    begin = 0
    for customer, end in zip(runs.values.to_pylist(), runs.run_ends.to_pylist(), strict=True):
        if customers is not None and len(written) >= customers:
            break
        if customer is None or not _CUSTOMER.fullmatch(customer):
            raise UnsplittableDataError(
                f"row {begin + 1} of {raw.name}, sorted by customer_id, has an id that cannot name "
                f"a folder;"
                " ids are small letters, digits and hyphens, at most 63"
            )
        folder = out / customer
        folder.mkdir(parents=True, exist_ok=True)
        csv.write_csv(
            named.slice(begin, end - begin),
            folder / "data.csv",
            csv.WriteOptions(quoting_style="needed"),
        )
        written.append(customer)
        begin = end
    return written


def main(arguments: list[str] | None = None) -> int:
    """Split one file, or each file of the processing job's input folder."""
    parser = argparse.ArgumentParser(
        prog="python -m containers.forecast.consumption.split", description=__doc__
    )
    parser.add_argument(
        "raw",
        type=Path,
        nargs="?",
        default=INPUT,
        help=f"CSV or Parquet file, or a folder ({INPUT})",
    )
    parser.add_argument("--out", type=Path, default=OUTPUT, help=f"folder to write to ({OUTPUT})")
    parser.add_argument("--customers", type=int, help="the first so many customers only")
    options = parser.parse_args(arguments)
    if options.customers is not None and options.customers < 1:
        parser.error("--customers must be at least 1")
    files = (
        sorted(path for path in options.raw.iterdir() if path.suffix in (".csv", ".parquet"))
        if options.raw.is_dir()
        else [options.raw]
    )
    if len(files) != 1:
        parser.error(
            f"there must be one .csv or .parquet file at {options.raw}; there are {len(files)}"
        )
    try:
        written = split(files[0], options.out, options.customers)
    except UnsplittableDataError as error:
        parser.exit(1, f"{error}\n")
    sys.stdout.write(f"{len(written)} customers written below {options.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
