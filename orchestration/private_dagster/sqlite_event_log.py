"""Dagster's SQLite event log, with its engines kept and its asset events written in batches.

Dagster's own class makes a new SQLAlchemy engine for every event, up to three a materialisation,
and with each one compiles the same statements again: a third to half of an event's CPU time.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Self

from dagster._core.events.log import EventLogEntry
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, Engine, NullPool, create_engine, event

from orchestration.private_dagster.batched_event_log import BatchedEventLogStorage

_MAX_ENGINES = 64  # one a run that is read or written; the oldest goes first


def _do_not_wait_for_the_disk(connection: sqlite3.Connection, _record: object) -> None:
    """With a write-ahead log, NORMAL loses no consistency; a power cut may cost the last events,
    which the queue outlives (https://www.sqlite.org/pragma.html#pragma_synchronous)."""
    connection.execute("PRAGMA synchronous=NORMAL")


class KeptEngineSqliteEventLogStorage(BatchedEventLogStorage, SqliteEventLogStorage):
    """The event log under ``{base_dir}/history/runs``, as Dagster's own is below
    ``DAGSTER_HOME``."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._engines: dict[str, Engine] = {}
        self._tables: set[str] = set()
        super().__init__(str(Path(base_dir) / "history" / "runs"), inst_data)

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        """Made by Dagster from ``dagster.yaml``."""
        return cls(inst_data=inst_data, **config_value)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock:
            engine = self._engines.get(shard)
            if engine is None:
                if len(self._engines) >= _MAX_ENGINES:
                    self._engines.pop(next(iter(self._engines))).dispose()
                # Connections are not kept: another process may delete a run's file.
                engine = self._engines[shard] = create_engine(
                    self.conn_string_for_shard(shard),
                    poolclass=NullPool,
                    connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS},
                )
                event.listen(engine, "connect", _do_not_wait_for_the_disk)
            if shard not in self._initialized_dbs:
                self._initdb(engine)
                self._initialized_dbs.add(shard)
        with engine.connect() as connection, connection.begin():
            yield connection

    def has_table(self, table_name: str) -> bool:
        """Whether the index has a table. A table that was found is not looked up again, because
        Dagster asks for every event with tags."""
        if table_name not in self._tables and super().has_table(table_name):
            self._tables.add(table_name)
        return table_name in self._tables

    def _store_asset_events(self, events: Sequence[EventLogEntry]) -> None:
        rows = self._rows(events)
        # The runs' own files are committed after the index, so that nothing is left of a failed
        # batch when it is written again.
        with ExitStack() as open_runs:
            for run_id, of_run in groupby(sorted(rows, key=_run_id), key=_run_id):
                connection = open_runs.enter_context(self.run_connection(run_id))
                connection.execute(SqlEventLogStorageTable.insert(), list(of_run))
            with self.index_transaction() as connection:
                self._index(connection, events, rows)


def _run_id(row: dict[str, Any]) -> str:
    return str(row["run_id"])
