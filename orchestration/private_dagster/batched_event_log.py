"""Dagster's event logs, with many events written in one transaction.

Dagster writes asset events one by one, each with its own connections and commits. It batches only
materialisations and observations, and only on PostgreSQL. A pack reports nine events a tenant:
three planned, three materialisations, three checks.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, cast

from dagster import AssetCheckEvaluation, DagsterEventType
from dagster._core.events import ASSET_CHECK_EVENTS, ASSET_EVENTS
from dagster._core.events.log import EventLogEntry
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus
from dagster._core.storage.event_log.schema import (
    AssetCheckExecutionsTable,
    SqlEventLogStorageTable,
)
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from sqlalchemy import Connection, select

_BATCHED = {
    DagsterEventType.ASSET_MATERIALIZATION_PLANNED,
    DagsterEventType.ASSET_MATERIALIZATION,
    DagsterEventType.ASSET_OBSERVATION,
    DagsterEventType.ASSET_CHECK_EVALUATION,
}
_ROWS_AT_ONCE = 500  # of one statement; Dagster's own default for a batch


class BatchedEventLogStorage(SqlEventLogStorage):
    """The code for batches that the SQLite and the PostgreSQL event log share."""

    batches_every_asset_event: ClassVar = True
    """Tells writers that a batch may hold checks, and any mixture of assets and kinds of event."""

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events in their order. A batch with an event that is no asset event is stored one
        by one."""
        if all(event.dagster_event_type in _BATCHED for event in events):
            for start in range(0, len(events), _ROWS_AT_ONCE):
                self._store_asset_events(events[start : start + _ROWS_AT_ONCE])
        else:
            for event in events:
                self.store_event(event)

    @abstractmethod
    def _store_asset_events(self, events: Sequence[EventLogEntry]) -> None:
        """Store asset events, a statement's worth at most, in as few transactions as the database
        takes."""

    def _rows(self, events: Iterable[EventLogEntry]) -> list[dict[str, Any]]:
        """The events' rows, each serialised once, for every table it goes to."""
        return [self._event_to_row(event) for event in events]

    def _insert(self, connection: Connection, rows: Sequence[dict[str, Any]]) -> list[int]:
        """Insert rows. Returns their ids, in the rows' order."""
        statement = SqlEventLogStorageTable.insert().returning(
            SqlEventLogStorageTable.c.id, sort_by_parameter_order=True
        )
        return [int(row[0]) for row in connection.execute(statement, rows)]

    def _index(
        self,
        connection: Connection,
        events: Sequence[EventLogEntry],
        rows: Sequence[dict[str, Any]],
    ) -> None:
        """Insert events, and bring the tables of assets, tags and checks up to date with them."""
        ids = self._insert(connection, rows)
        of_assets = [
            (e, i) for e, i in zip(events, ids, strict=True) if e.dagster_event_type in ASSET_EVENTS
        ]
        if of_assets:
            self._store_asset_event_tags(connection, *zip(*of_assets, strict=True))
        # An asset's row shows its latest event of each kind.
        latest = {
            (event.get_dagster_event().asset_key, event.dagster_event_type): (event, i)
            for event, i in of_assets
        }
        for event, event_id in latest.values():
            self._store_asset_event(connection, event, event_id)
        checks = [
            (event, event_id, str(row["event"]))
            for event, event_id, row in zip(events, ids, rows, strict=True)
            if event.dagster_event_type in ASSET_CHECK_EVENTS
        ]
        if checks:
            self._store_checks(connection, checks)

    def _store_checks(
        self, connection: Connection, checks: Sequence[tuple[EventLogEntry, int, str]]
    ) -> None:
        table = AssetCheckExecutionsTable
        partitions = sorted({str(_evaluation(event).partition) for event, _, _ in checks})
        found = connection.execute(
            select(table.c.asset_key, table.c.check_name, table.c.run_id, table.c.partition).where(
                table.c.run_id.in_({event.run_id for event, _, _ in checks}),
                table.c.partition.in_(partitions),
            )
        )
        known = {tuple(row) for row in found}
        rows = {}
        for event, event_id, serialized in checks:
            evaluation = _evaluation(event)
            names = (
                evaluation.asset_key.to_string(),
                evaluation.check_name,
                event.run_id,
                evaluation.partition,
            )
            status = (
                AssetCheckExecutionRecordStatus.SUCCEEDED
                if evaluation.passed
                else AssetCheckExecutionRecordStatus.FAILED
            )
            target = evaluation.target_materialization_data
            values = {
                "execution_status": status.value,
                "evaluation_event": serialized,
                "evaluation_event_timestamp": self._event_insert_timestamp(event),  # type: ignore[no-untyped-call]
                "evaluation_event_storage_id": event_id,
                "materialization_event_storage_id": target.storage_id if target else None,
            }
            if names in known or evaluation.partition is None:
                self._replace_check(connection, names, values)
            else:
                rows[names] = (
                    dict(
                        zip(("asset_key", "check_name", "run_id", "partition"), names, strict=True)
                    )
                    | values
                )
        if rows:
            connection.execute(table.insert(), list(rows.values()))

    def _replace_check(
        self,
        connection: Connection,
        names: tuple[str, str, str, str | None],
        values: dict[str, object],
    ) -> None:
        """Replace the row that the same run planned or evaluated before."""
        table = AssetCheckExecutionsTable
        asset_key, check_name, run_id, partition = names
        same = (
            table.c.asset_key == asset_key,
            table.c.check_name == check_name,
            table.c.run_id == run_id,
        )
        here = table.c.partition.is_(None) if partition is None else table.c.partition == partition
        if connection.execute(table.update().where(*same, here).values(values)).rowcount == 0:
            whole = (
                dict(zip(("asset_key", "check_name", "run_id", "partition"), names, strict=True))
                | values
            )
            connection.execute(table.insert().values(whole))


def _evaluation(event: EventLogEntry) -> AssetCheckEvaluation:
    return cast("AssetCheckEvaluation", event.get_dagster_event().event_specific_data)
