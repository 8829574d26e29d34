"""The energy product of the demo: its tenants' data, made up or from a file of the user's own, a
file for each tenant."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from containers.forecast.consumption.split import COLUMNS, UnsplittableDataError, split
from containers.forecast.consumption.synthetic import generate, last_midnight
from demo.product import DemoTenant, Shown
from tenantry.models.registry import ModelVersion
from tenantry.names import ids, tiers
from tenantry.workloads.schema import Workload

SPOILED_LINE: Final = 101
_SYNTHETIC_DAYS: Final = 365
_PLAIN: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


def synthetic_tenants(count: int, scratch: Path, now: datetime | None = None) -> list[DemoTenant]:
    """Tenants with a year of made-up readings that ends as today began; the last one's file is
    spoiled on purpose.

    Args:
        count: how many, the spoiled one included.
        scratch: a folder for the raw file and its parts.
        now: the present, if not this machine's.
    """
    end = last_midnight(now)
    frame = generate(count, end - timedelta(days=_SYNTHETIC_DAYS), end, seed=7)
    frame["customer_id"] = frame["customer_id"].map("customer-{:03d}".format)
    raw = scratch / "raw.parquet"
    frame.to_parquet(raw)
    tenants = []
    for number, customer in enumerate(split(raw, scratch / "customers")):
        content = _file_of(customer, scratch)
        good = number < count - 1 or count == 1
        tenants.append(
            DemoTenant(
                tenant=ids.tenant_id(customer),
                files={"consumption.csv": content if good else _spoiled(content)},
                parameters={"timezone": "Europe/London", "country": "GB"},
                tier=_tier(number),
                good=good,
            )
        )
    return tenants


def tenants_of_file(data: Path, scratch: Path, most: int | None = None) -> list[DemoTenant]:
    """Tenants from a user's own file, with its rows unchanged. It is not known beforehand which of
    them get a model.

    A customer whose id cannot be a tenant's gets one that is made from it; ``DemoTenant.customer``
    is the id in the file.

    Args:
        data: a CSV or Parquet file with columns customer_id, timestamp, consumption.
        scratch: a folder for the file with the tenants' ids, and its parts.
        most: how many customers, the first ones by id; all when none.

    Raises:
        ValueError: the file cannot be used; the message says why.
    """
    table = _read(data)
    tenants = tenant_ids(set(table["customer_id"].to_pylist()))
    import pyarrow as pa
    from pyarrow import parquet

    mapped = pa.array(
        [tenants[customer] for customer in table["customer_id"].to_pylist()], pa.string()
    )
    scratch.mkdir(parents=True, exist_ok=True)
    raw = scratch / "raw.parquet"
    parquet.write_table(table.set_column(0, "customer_id", mapped), raw)
    called = {tenant: customer for customer, tenant in tenants.items()}
    try:
        customers = split(raw, scratch / "customers", most)
    except UnsplittableDataError as error:
        raise ValueError(f"{data.name} cannot be split by customer: {error}") from error
    if most is not None and len(customers) < most:
        raise ValueError(
            f"{data.name} has {len(customers)} customers; TENANTS={most} asks for more. Leave "
            f"TENANTS out for all."
        )
    return [
        DemoTenant(
            tenant=ids.tenant_id(customer),
            files={"consumption.csv": _file_of(customer, scratch)},
            parameters={},
            tier="bridge",
            good=None,
            customer=called[customer] if called[customer] != customer else "",
        )
        for customer in customers
    ]


def tenant_ids(customers: set[str]) -> dict[str, str]:
    """A tenant's id for each customer's: the same where that is valid, else its form in small
    letters, else a digest.

    The digest keeps names and addresses out of ids, which travel to logs. The same customers get
    the same ids each time.
    """
    tenants = {customer: customer for customer in customers if _PLAIN.fullmatch(customer)}
    taken = set(tenants)
    for customer in sorted(customers - taken):
        wanted = customer.lower().replace("_", "-")
        if not _PLAIN.fullmatch(wanted) or wanted in taken:
            wanted = f"customer-{hashlib.sha256(customer.encode()).hexdigest()[:16]}"
        taken.add(wanted)
        tenants[customer] = wanted
    return tenants


def _read(data: Path) -> Any:
    """The file's three columns as a pyarrow table, ids as text. Raises ``ValueError``."""
    import pyarrow as pa
    from pyarrow import csv, parquet

    try:
        if data.suffix.lower() == ".parquet":
            table = parquet.read_table(data)
        else:
            text = {column: pa.string() for column in COLUMNS}
            options = csv.ConvertOptions(column_types=text, strings_can_be_null=False)
            table = csv.read_csv(data, convert_options=options)
        lacking = [column for column in COLUMNS if column not in table.column_names]
        if lacking:
            raise ValueError(
                f"{data.name} has no column {', '.join(lacking)}. "
                f"Its columns are {', '.join(table.column_names[:10])}. Rename them."
            )
        table = table.select(list(COLUMNS))
        customers = table["customer_id"].cast(pa.string())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{data.name} cannot be read as CSV or Parquet: {error}") from error
    if table.num_rows == 0:
        raise ValueError(f"{data.name} has no rows")
    for row, customer in enumerate(customers.to_pylist(), start=1):
        if customer is None or not customer.strip():
            raise ValueError(
                f"{data.name}, row {row}: customer_id is empty; each row needs its customer"
            )
    return table.set_column(0, "customer_id", customers)


def shown_of(workload: Workload) -> Shown:
    """The columns of the energy table: the chosen model, its score beside the naive one's, the
    first hours of its forecast."""

    def cells(model: ModelVersion, answer: Mapping[str, Any]) -> Sequence[str]:
        quality = workload.quality
        score, baseline = model.metrics[quality.metric], model.metrics[quality.baseline or ""]
        hours = " ".join(f"{value:.3g}" for value in answer["mean"][:3])
        return str(model.card.get("model", "")), f"{score:.2f} / {baseline:.2f}", hours

    return Shown(("model", "score / naive", "first forecast, kWh"), cells)


def _file_of(customer: str, scratch: Path) -> bytes:
    return (scratch / "customers" / customer / "data.csv").read_bytes()


def _tier(number: int) -> tiers.Tier:
    """In the small demo one tenant pays for machines of its own, and two take part in the pool; the
    rest is bridge."""
    return "silo" if number == 1 else "pool" if number in {2, 3} else "bridge"


def _spoiled(content: bytes) -> bytes:
    """The file with a word where a reading should be."""
    lines = content.split(b"\n")
    at = min(SPOILED_LINE, len(lines) - 2)
    before, _, _ = lines[at].rpartition(b",")
    lines[at] = before + b",broken meter"
    return b"\n".join(lines)
