"""Where Dagster keeps runs, events and ticks: SQLite below ``DAGSTER_HOME``, or PostgreSQL when one
variable names it.

``TENANTRY_DAGSTER_STORAGE=postgresql+psycopg2://user:password@host:5432/dagster``, for every
process of Dagster: webserver, daemon, code server and runs. ``dagster.yaml`` stays as it is
(docs/scaling.md). ``TENANTRY_DAGSTER_EVENT_LOG=stock`` takes Dagster's own event logs instead of
those that write in batches. Dagster's own are slower, but need no private API
(docs/private-dagster.md).
"""

import os
from pathlib import Path
from typing import Any, Final, Self, TypeVar

from dagster import DagsterInstance, StringSource
from dagster._config import UserConfigSchema
from dagster._core.storage.base_storage import DagsterStorage
from dagster._core.storage.event_log import SqliteEventLogStorage
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.runs import SqliteRunStorage
from dagster._core.storage.runs.base import RunStorage
from dagster._core.storage.schedules.base import ScheduleStorage
from dagster._core.storage.sqlite import create_db_conn_string
from dagster._serdes import ConfigurableClass, ConfigurableClassData
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from orchestration.private_dagster.sqlite_event_log import KeptEngineSqliteEventLogStorage
from orchestration.private_dagster.sqlite_schedule_storage import KeptEngineSqliteScheduleStorage

STORAGE_VARIABLE: Final = "TENANTRY_DAGSTER_STORAGE"
EVENT_LOG_VARIABLE: Final = "TENANTRY_DAGSTER_EVENT_LOG"
_DIALECT: Final = "postgresql+psycopg2"
_checked: Final[dict[Path, int]] = {}
"""The SQLite files whose schema this process has checked, and their inodes."""


class UnusableStorageError(ValueError):
    """The variable names no storage that Dagster can use; the message says what to write."""


class ChosenStorage(DagsterStorage[DagsterInstance], ConfigurableClass):
    """The storage of Dagster's instance, as ``TENANTRY_DAGSTER_STORAGE`` says; SQLite under
    ``base_dir`` without it."""

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        self._inst_data = inst_data
        self._events: EventLogStorage[DagsterInstance]
        self._runs: RunStorage[DagsterInstance]
        self._schedules: ScheduleStorage[DagsterInstance]
        url = os.environ.get(STORAGE_VARIABLE, "")
        stock = _stock_event_log()
        if url:
            # Importing them loads PostgreSQL's client library.
            from dagster_postgres.event_log import PostgresEventLogStorage
            from dagster_postgres.run_storage import PostgresRunStorage
            from dagster_postgres.schedule_storage import PostgresScheduleStorage

            from orchestration.private_dagster.postgres_event_log import (
                BatchedPostgresEventLogStorage,
            )

            _check(url)
            self._events = (
                PostgresEventLogStorage(url) if stock else BatchedPostgresEventLogStorage(url)
            )
            self._runs = PostgresRunStorage(url)
            self._schedules = PostgresScheduleStorage(url)
        else:
            Path(base_dir).mkdir(parents=True, exist_ok=True)
            # Both event logs keep their files in the same folder of the instance.
            self._events = (
                SqliteEventLogStorage(str(Path(base_dir) / "history" / "runs"))
                if stock
                else KeptEngineSqliteEventLogStorage(base_dir)
            )
            self._runs = _opened(SqliteRunStorage, Path(base_dir) / "history", "runs")
            self._schedules = _opened(
                KeptEngineSqliteScheduleStorage, Path(base_dir) / "schedules", "schedules"
            )
        super().__init__()  # type: ignore[no-untyped-call]

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        """The configuration it was made from."""
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        """``base_dir``: where SQLite's files lie."""
        return {"base_dir": StringSource}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Any) -> Self:
        """Made by Dagster from ``dagster.yaml``. Raises ``UnusableStorageError``."""
        return cls(inst_data=inst_data, **config_value)

    def register_instance(self, instance: DagsterInstance) -> None:
        """Tell all three which instance they serve."""
        super().register_instance(instance)
        for storage in (self._events, self._runs, self._schedules):
            if not storage.has_instance:
                storage.register_instance(instance)

    @property
    def event_log_storage(self) -> EventLogStorage[DagsterInstance]:
        """Events and partitions."""
        return self._events

    @property
    def run_storage(self) -> RunStorage[DagsterInstance]:
        """Runs."""
        return self._runs

    @property
    def schedule_storage(self) -> ScheduleStorage[DagsterInstance]:
        """Ticks and cursors of sensors and schedules."""
        return self._schedules

    def dispose(self) -> None:
        """Let go of connections."""
        for storage in (self._events, self._runs, self._schedules):
            storage.dispose()


_Storage = TypeVar("_Storage", SqliteRunStorage, KeptEngineSqliteScheduleStorage)


def _opened(kind: type[_Storage], folder: Path, name: str) -> _Storage:
    """The storage in ``folder/name.db``, made or migrated where that is due.

    Dagster makes an instance for each tick of a sensor. Each time its own ``from_local`` reads all
    of Alembic's revisions, which is most of an idle tick's CPU time. A file that this process has
    checked is not checked again, unless another file took its place.
    """
    file = folder / f"{name}.db"
    if file.exists() and _checked.get(file) == file.stat().st_ino:
        return kind(create_db_conn_string(str(folder), name))
    storage = kind.from_local(str(folder))
    _checked[file] = file.stat().st_ino
    return storage  # type: ignore[return-value]  # Dagster names its own class, and makes `kind`


def _stock_event_log() -> bool:
    chosen = os.environ.get(EVENT_LOG_VARIABLE, "")
    if chosen not in {"", "batched", "stock"}:
        raise UnusableStorageError(
            f"{EVENT_LOG_VARIABLE} is {chosen!r}; write stock for Dagster's own event log, or "
            f"batched, or leave it out"
        )
    return chosen == "stock"


def _check(url: str) -> None:
    example = f"{_DIALECT}://user:password@host:5432/dagster"
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise UnusableStorageError(
            f"{STORAGE_VARIABLE} is no URL; write {example}, or leave it out for SQLite"
        ) from error
    # A bare `postgresql://` is another driver than Dagster's with SQLAlchemy 2.1.
    if parsed.drivername != _DIALECT or not parsed.database:
        raise UnusableStorageError(
            f"{STORAGE_VARIABLE} begins with {parsed.drivername!r} and names the database "
            f"{parsed.database!r};"
            f" write {example}, or leave it out for SQLite"
        )
