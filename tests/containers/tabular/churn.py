"""Customers' rows in the forms that tenants upload, prepared as a job finds them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import compute, csv

from containers.runtime.training.packed_training import Refused, Task, Trained, Underway
from containers.tabular import synthetic
from containers.tabular.predictor import TabularPredictor
from containers.tabular.preparation import prepare
from containers.tabular.table import TABLE
from containers.tabular.trainer import TabularTrainer

FEATURES = [column.name for column in TABLE.features]
ROW = {
    "tenure_months": 14,
    "contract": "annual",
    "autopay": True,
    "monthly_charge": 240.0,
    "seats": 12,
    "seats_used": 9,
    "logins_30d": 31,
    "support_tickets_90d": 1,
    "late_payments_12m": 0,
    "nps": 8,
}
"""One row as a request has it."""


def table(*rows: dict[str, Any]) -> str:
    """CSV of rows like ``ROW``, of customer c1 in 2026-01, with the changes of each."""
    whole = {"customer": "c1", "period": "2026-01", **ROW, "churned": "no"}
    lines = [",".join(str(value) for value in (whole | row).values()) for row in rows]
    return "\n".join([",".join(whole), *lines, ""])


def prepared(folder: Path, *contents: str | bytes) -> dict[str, Any]:
    """What preparation tells of files with these contents."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder.parent / f"{folder.name}-{number}.csv" for number in range(len(contents))]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    return prepare(files, folder, {})


def prepared_tenants(root: Path, rows: pa.Table) -> list[str]:
    """Prepare synthetic rows below ``root``, as `{tenant}/v1`; returns the tenants."""
    tenants: list[str] = rows[synthetic.TENANT].unique().to_pylist()
    for tenant in tenants:
        own = rows.filter(compute.equal(rows[synthetic.TENANT], tenant))
        root.mkdir(parents=True, exist_ok=True)
        file = root.parent / f"{root.name}-{tenant}.csv"
        csv.write_csv(synthetic.uploaded(own), file)
        (root / tenant / "v1").mkdir(parents=True)
        prepare([file], root / tenant / "v1", {})
    return tenants


def trained(
    data: Path, workspace: Path, **hyperparameters: str
) -> tuple[Trained | Refused, list[Underway]]:
    """The result for one task with this folder of data, and the progress before."""
    workspace.mkdir(parents=True, exist_ok=True)
    task = Task("t-1", "acme", "v1", "pool", data)
    *progress, result = TabularTrainer().train(
        [task], {"rounds": "150", "threads": "1"} | hyperparameters, workspace
    )
    assert isinstance(result, Trained | Refused)
    assert all(isinstance(one, Underway) for one in progress)
    return result, [one for one in progress if isinstance(one, Underway)]


def requested(rows: pa.Table) -> list[dict[str, Any]]:
    """Rows as a request has them."""
    asked: list[dict[str, Any]] = rows.select(FEATURES).to_pylist()
    return asked


def scored(folder: Path, rows: Sequence[dict[str, Any]]) -> list[float]:
    """A served model's probabilities for many rows."""
    predictor = TabularPredictor()
    model = predictor.load(folder)
    told: list[float] = []
    for start in range(0, len(rows), 10_000):
        body = json.dumps({"rows": rows[start : start + 10_000]}).encode()
        told += json.loads(predictor.predict(model, body, "application/json", "").body)["scores"]
    return told
