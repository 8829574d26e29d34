"""The energy product of the demo: its tenants' data, split from one raw file as the product would; one tenant's file is spoiled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from containers.forecast.split import split
from containers.forecast.synthetic import generate
from demo.product import DemoTenant, Shown
from resources import keys
from resources.model_registry import ModelVersion
from workloads.schema import Workload

SPOILED_LINE: Final = 101
_SYNTHETIC_START: Final = datetime(2025, 10, 1, tzinfo=UTC)
_SYNTHETIC_END: Final = datetime(2026, 10, 1, tzinfo=UTC)


def energy_tenants(count: int, scratch: Path, data: Path | None) -> list[DemoTenant]:
    """Make the tenants: from ``data``, or from synthetic data; the last one's file is spoiled on purpose.

    Args:
        count: how many, the spoiled one included.
        scratch: a folder for the raw file and its parts.
        data: a CSV or Parquet file with columns customer_id, timestamp, consumption.

    Raises:
        ValueError: ``data`` has fewer customers.
    """
    raw = data
    if raw is None:
        raw = scratch / "raw.parquet"
        frame = generate(count, _SYNTHETIC_START, _SYNTHETIC_END, seed=7)
        frame["customer_id"] = frame["customer_id"].map("customer-{:03d}".format)
        frame.to_parquet(raw)
    customers = split(raw, scratch / "customers", count)
    if len(customers) < count:
        raise ValueError(f"{raw.name} has {len(customers)} customers; TENANTS={count} asks for more")
    tenants = []
    for number, customer in enumerate(customers):
        content = (scratch / "customers" / customer / "data.csv").read_bytes()
        good = number < count - 1 or count == 1
        tenants.append(
            DemoTenant(
                tenant=keys.tenant_id(customer.lower().replace("_", "-")),
                files={"consumption.csv": content if good else _spoiled(content)},
                parameters={"timezone": "Europe/London", "country": "GB"},
                tier=_tier(number, synthetic=data is None),
                good=good,
            )
        )
    return tenants


def shown_of(workload: Workload) -> Shown:
    """What the energy table shows: the chosen model, its score beside the naive one's, the first hours of its forecast."""

    def cells(model: ModelVersion, answer: Mapping[str, Any]) -> Sequence[str]:
        quality = workload.quality
        score, baseline = model.metrics[quality.metric], model.metrics[quality.baseline or ""]
        hours = " ".join(f"{value:.3g}" for value in answer["mean"][:3])
        return str(model.card.get("model", "")), f"{score:.2f} / {baseline:.2f}", hours

    return Shown(("model", "score / naive", "first forecast, kWh"), cells)


def _tier(number: int, *, synthetic: bool) -> keys.Tier:
    """In the small demo one tenant pays for machines of its own, and two take part in the pool; the rest is bridge."""
    if synthetic and number == 1:
        return "silo"
    if synthetic and number in {2, 3}:
        return "pool"
    return "bridge"


def _spoiled(content: bytes) -> bytes:
    """The file with a word where a reading should be."""
    lines = content.split(b"\n")
    at = min(SPOILED_LINE, len(lines) - 2)
    before, _, _ = lines[at].rpartition(b",")
    lines[at] = before + b",broken meter"
    return b"\n".join(lines)
