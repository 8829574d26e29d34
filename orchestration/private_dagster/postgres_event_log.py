"""Dagster's PostgreSQL event log, with its asset events written in batches."""

from collections.abc import Sequence

from dagster._core.events.log import EventLogEntry
from dagster_postgres.event_log import PostgresEventLogStorage

from orchestration.private_dagster.batched_event_log import BatchedEventLogStorage


class BatchedPostgresEventLogStorage(BatchedEventLogStorage, PostgresEventLogStorage):
    """The event log in PostgreSQL; any batch costs one connection and one transaction."""

    def _store_asset_events(self, events: Sequence[EventLogEntry]) -> None:
        with self.index_transaction() as connection:
            self._index(connection, events, self._rows(events))
