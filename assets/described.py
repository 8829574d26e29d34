"""An asset's definition as Dagster shows it: its description with figures and columns, icons, tags,
and the code and documents behind it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final, TypedDict

from dagster import CodeReferencesMetadataValue, LocalFileCodeReference, TableColumn, TableSchema

from tenantry.shown.figures import as_markdown_table, figures_of
from tenantry.shown.fleet_view import COLUMNS as FLEET_COLUMNS
from tenantry.workloads.code import container_file, module_file
from tenantry.workloads.folder import workload_file
from tenantry.workloads.schema import Workload
from tenantry.workloads.shown_assets import Column, WorkloadAsset

_DOCUMENTS: Final = Path(__file__).resolve().parents[1] / "docs"
_KINDS: Final[Mapping[WorkloadAsset, tuple[str, ...]]] = {
    "uploads": ("s3",),
    "training_data": ("s3",),
    "fine_tuned_artifact": ("sagemaker",),
    "endpoint_registration": ("sagemaker", "dynamodb"),
    "batch_predictions": ("sagemaker", "s3"),
    "serving_endpoint": ("sagemaker",),
    "asynchronous_endpoint": ("sagemaker",),
    "endpoint_capacity": ("sagemaker",),
    "asynchronous_capacity": ("sagemaker",),
    "prewarmed_models": ("sagemaker",),
    "fleet": ("dynamodb",),
}
_DOCUMENT_OF: Final[Mapping[WorkloadAsset, str]] = {
    "uploads": "for-the-app.md",
    "training_data": "refusals.md",
    "fine_tuned_artifact": "champion-and-challenger.md",
    "endpoint_registration": "champion-and-challenger.md",
    "batch_predictions": "your-first-hour.md",
    "serving_endpoint": "scaling.md",
    "asynchronous_endpoint": "gpu-serving.md",
    "endpoint_capacity": "capacity.md",
    "asynchronous_capacity": "capacity.md",
    "prewarmed_models": "capacity.md",
    "fleet": "operating.md",
}
_COLUMNS: Final[Mapping[WorkloadAsset, Mapping[str, Column]]] = {"fleet": FLEET_COLUMNS}


class Described(TypedDict):
    """Arguments that ``AssetSpec`` and ``@asset`` have in common."""

    group_name: str
    owners: list[str]
    kinds: set[str]
    tags: dict[str, str]
    description: str
    metadata: dict[str, Any]


def described(workload: Workload, asset: WorkloadAsset, what: str) -> Described:
    """The parts of an asset's definition that people see.

    Args:
        workload: whose asset it is; ``assets`` in its file describes its own code's entries.
        asset: which one.
        what: its description, in a sentence that follows the workload's title.
    """
    shown = workload.assets.get(asset)
    figures = as_markdown_table(figures_of(workload, asset))
    columns = {**_COLUMNS.get(asset, {}), **(shown.columns if shown is not None else {})}
    metadata: dict[str, Any] = {
        "dagster/code_references": CodeReferencesMetadataValue(
            code_references=list(_code_behind(workload, asset))
        )
    }
    if columns:
        metadata["dagster/column_schema"] = TableSchema(
            columns=[
                TableColumn(name, type=column.type, description=column.description or None)
                for name, column in columns.items()
            ]
        )
    return {
        "group_name": workload.name,
        "owners": list(workload.owners),
        "kinds": set(shown.kinds if shown is not None and shown.kinds else _KINDS[asset]),
        "tags": {"tenantry/workload": workload.name, "tenantry/tier": workload.tier},
        "description": f"{workload.title}: {what}" + (f"\n\n{figures}" if figures else ""),
        "metadata": metadata,
    }


def _code_behind(workload: Workload, asset: WorkloadAsset) -> Iterator[LocalFileCodeReference]:
    """The files behind an asset; those that people change come first."""
    container, served_by = workload.container, workload.serving_container
    behind: Mapping[WorkloadAsset, Path | None] = {
        "training_data": module_file(workload.preparation),
        "fine_tuned_artifact": container_file(container, "train"),
        "endpoint_registration": container_file(served_by, "serve"),
        "batch_predictions": container_file(served_by, "serve"),
    }
    files = (workload_file(workload.name), behind.get(asset), _DOCUMENTS / _DOCUMENT_OF[asset])
    for path in files:
        if path is not None and path.is_file():  # an installed package has no documents
            label = f"{path.parent.name}/{path.name}"  # the UI says: Open … in editor
            yield LocalFileCodeReference(file_path=str(path), label=label)
