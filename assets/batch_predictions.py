"""``batch_predictions``: the predictions of tenants' champions for a day, in a batch transform."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from dagster import (
    AssetExecutionContext,
    AssetObservation,
    AssetsDefinition,
    BackfillPolicy,
    Config,
    MaterializeResult,
    MetadataValue,
    OpExecutionContext,
    PartitionsDefinition,
    TableColumn,
    TableRecord,
    TableSchema,
    asset,
)
from pydantic import Field

from assets.described import described
from assets.failed_tenants import raise_for
from orchestration.private_dagster.chosen_partitions import RunReport, asset_key, plan
from resources.tenantry_resource import TenantryResource
from tenantry.batch.periods import Period
from tenantry.batch.predictions import predict
from tenantry.batch.queries import QueryFailedError, summary_of
from tenantry.batch.result_tables import TableWritten
from tenantry.names import ids
from tenantry.workloads.schema import Workload


class BatchConfig(Config):
    """What to predict: which batch, and which day."""

    batch: str = Field("", description="The batch's name in the YAML; empty for the first.")
    day: str = Field("", description="The date, YYYY-MM-DD; empty for today (UTC).")


def batch_predictions_asset(
    workload: Workload, tenants: PartitionsDefinition[str]
) -> AssetsDefinition:
    """``batch_predictions`` for tenants that a person chooses; the schedule's job predicts for
    all."""

    @asset(
        key=asset_key(workload.name, "batch_predictions"),
        deps=[asset_key(workload.name, "endpoint_registration")],
        partitions_def=tenants,
        output_required=False,
        backfill_policy=BackfillPolicy.single_run(),
        **described(
            workload,
            "batch_predictions",
            f"a period's prediction, made by the tenant's champion in a batch transform. Batches: "
            f"{', '.join(batch.name for batch in workload.batches)}.",
        ),
    )
    def batch_predictions(
        context: AssetExecutionContext, config: BatchConfig, tenantry: TenantryResource
    ) -> Iterator[MaterializeResult[Any]]:
        chosen = [ids.model_id(key) for key in context.op_execution_context.partition_keys]
        predict_day(context.op_execution_context, config, tenantry, workload, chosen)
        yield from ()

    return batch_predictions


def predict_day(
    context: OpExecutionContext,
    config: BatchConfig,
    tenantry: TenantryResource,
    workload: Workload,
    tenants: Sequence[ids.ModelId] | None,
) -> None:
    """Predict a day in a Dagster run, for tenants, or for all with a model (None). Raises
    ``Failure`` if some failed."""
    period = Period(
        workload.batch_named(config.batch),
        date.fromisoformat(config.day) if config.day else datetime.now(UTC).date(),
    )
    with RunReport(context, workload.name) as report:
        failures = predict(
            tenantry.deployment,
            workload,
            tenants,
            period,
            context.run.run_id,
            report,
            poll=tenantry.settings.poll_seconds,
            starting=lambda served: plan(
                context, [asset_key(workload.name, "batch_predictions")], served
            ),
            tabled=lambda table: _observe_table(
                context, workload, table, _summary(context, tenantry, period, table)
            ),
        )
    raise_for(failures)


def _summary(
    context: OpExecutionContext, tenantry: TenantryResource, period: Period, table: TableWritten
) -> dict[str, Any]:
    """What Athena answers to the batch's summary, as metadata; empty without one. If it fails, the
    run's log alone says why."""
    try:
        answer = summary_of(tenantry.deployment, period, table.name)
    except (QueryFailedError, ClientError, BotoCoreError) as error:
        context.log.warning(f"the summary of {table.name} has no answer: {error}")
        return {}
    if answer is None:
        return {}
    rows = [
        TableRecord({name: "" if cell is None else cell for name, cell in answer.named(row)})
        for row in answer.rows
    ]
    columns = TableSchema([TableColumn(name) for name in answer.columns])
    return {
        "day": period.day.isoformat(),
        "summary": MetadataValue.table(rows, columns),
        "summary_complete": answer.complete,
    }


def _observe_table(
    context: OpExecutionContext, workload: Workload, table: TableWritten, summary: Mapping[str, Any]
) -> None:
    """Show on the asset which table the run wrote, its columns, the rows of this run, and the
    answer to the batch's summary."""
    columns = [TableColumn(name, kind) for name, kind in table.columns.items()]
    context.log_event(
        AssetObservation(
            asset_key(workload.name, "batch_predictions"),
            metadata={
                "dagster/table_name": table.name,
                "dagster/column_schema": TableSchema(columns),
                "dagster/row_count": table.rows,
                **summary,
            },
        )
    )
