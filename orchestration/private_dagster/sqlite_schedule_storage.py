"""Dagster's SQLite storage of ticks, with its engine kept and its schema read once.

Dagster's own class makes an engine for each statement, and reads the names of all tables up to
three times a tick: that is most of an idle daemon's work.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from dagster._core.storage.schedules import SqliteScheduleStorage
from dagster._serdes import ConfigurableClassData
from sqlalchemy import Connection, NullPool, create_engine


class KeptEngineSqliteScheduleStorage(SqliteScheduleStorage):
    """Ticks and cursors of sensors and schedules, where Dagster's own has them.

    A table or index that was found is not looked up again: no release removes any.
    """

    def __init__(self, conn_string: str, inst_data: ConfigurableClassData | None = None) -> None:
        # Connections are not kept: a process that is forked must not share one.
        self._engine = create_engine(conn_string, poolclass=NullPool)
        self._has_instigators = False
        self._built = set[str]()
        super().__init__(conn_string, inst_data)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """A connection with a transaction of its own."""
        with self._engine.connect() as connection, connection.begin():
            yield connection

    def has_instigators_table(self) -> bool:
        """Whether the table ``instigators`` is there."""
        return self._has_instigators or super().has_instigators_table()

    def _has_instigators_table(self, conn: Connection) -> bool:
        if not self._has_instigators:
            self._has_instigators = super()._has_instigators_table(conn)
        return self._has_instigators

    def has_built_index(self, migration_name: str) -> bool:
        """Whether a migration of the data was made."""
        if migration_name not in self._built and super().has_built_index(migration_name):
            self._built.add(migration_name)
        return migration_name in self._built
