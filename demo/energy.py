"""The energy product of the demo: its tenants' data, made up or from a file of the user's own, a
file for each tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from containers.forecast.consumption.split import split
from containers.forecast.consumption.synthetic import generate, last_midnight
from contracts.refused_data import RefusedDataError
from contracts.split_files import DATA_FILE, TENANTS_FILE, parse
from demo.product import DemoTenant, Shown
from tenantry.models.registry import ModelVersion
from tenantry.names import ids, tiers
from tenantry.workloads.schema import Workload

SPOILED_LINE: Final = 101
_SYNTHETIC_DAYS: Final = 365


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
    folder = scratch / "customers"
    try:
        split(data, folder, most=most)
    except RefusedDataError as error:
        raise ValueError(str(error)) from error
    customers = parse((folder / TENANTS_FILE).read_bytes())
    if most is not None and len(customers) < most:
        raise ValueError(
            f"{data.name} has {len(customers)} customers; TENANTS={most} asks for more. Leave "
            f"TENANTS out for all."
        )
    return [
        DemoTenant(
            tenant=ids.tenant_id(one.tenant),
            files={"consumption.csv": _file_of(one.tenant, scratch)},
            parameters={},
            tier="bridge",
            good=None,
            customer=one.customer if one.customer != one.tenant else "",
        )
        for one in customers
    ]


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
    return (scratch / "customers" / customer / DATA_FILE).read_bytes()


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
