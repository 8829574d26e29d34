"""The churn product of the demo: tenants with customers, some of whom leave, and one model that
scores the customers of each."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from demo.product import DemoTenant, Shown
from tenantry.models.registry import ModelVersion
from tenantry.names import ids

NAMES: Final = ("bakery-suite", "clinic-cloud", "gym-desk")
_CUSTOMERS: Final = 200
_MONTHS: Final = 10


def churn_tenants() -> list[DemoTenant]:
    """The tenants, each with a table of its customers' months."""
    from pyarrow import compute, parquet

    from containers.tabular.synthetic import TENANT, generate, uploaded

    table, tenants = generate(len(NAMES), _CUSTOMERS, _MONTHS, seed=7), []
    made = sorted(set(table[TENANT].to_pylist()))
    for name, number in zip(NAMES, made, strict=True):
        sink = io.BytesIO()
        parquet.write_table(uploaded(table.filter(compute.equal(table[TENANT], number))), sink)
        tenants.append(
            DemoTenant(
                tenant=ids.tenant_id(name),
                files={"customers.parquet": sink.getvalue()},
                parameters={},
                tier="pool",
                good=True,
            )
        )
    return tenants


def shown_of_churn() -> Shown:
    """The columns of the churn table: the shared model's score beside the base rate's, and the
    chance that it gives one customer."""

    def cells(model: ModelVersion, answer: Mapping[str, Any]) -> Sequence[str]:
        metrics = model.metrics
        scores = f"{metrics['logloss']:.3f} / {metrics['baseline_logloss']:.3f}"
        return scores, f"{answer['scores'][0]:.1%}"

    return Shown(("log loss / base rate", "one customer leaves"), cells)
