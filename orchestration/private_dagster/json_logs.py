"""Logs of a code location and of its runs as JSON lines, where the environment asks for them."""

from __future__ import annotations

import copy
import logging
import sys
from typing import Any

from dagster import _loggers

from contracts.logs import JsonFormatter, logs_are_json, write_logs


class _RunFormatter(JsonFormatter):
    """Formats a record of a run's log. Its text begins with the run's job and id, which are fields
    here."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        told: Any = getattr(record, "dagster_meta", None) or {}
        plain = copy.copy(record)
        plain.msg, plain.args = told.get("orig_message") or record.getMessage(), None
        plain.__dict__["run"] = told.get("run_id")
        return super().format(plain)


def write_dagsters_logs() -> None:
    """Write this process's logs as JSON lines to the standard error, if the environment says so.
    Otherwise Dagster's own format stays.

    They include the runs' own logs: Dagster has no setting for a run's console.

    Raises:
        contracts.logs.UnknownLogFormatError: the environment asks for another format than there
            are.
    """
    if not logs_are_json():
        return
    write_logs(sys.stderr, logging.WARNING, "%(message)s")
    logging.getLogger("dagster").handlers.clear()  # its records reach the handler above
    # Dagster makes a run's console by this name.
    _loggers.create_console_logger = _console_logger  # type: ignore[attr-defined]


def _console_logger(name: str, level: str | int) -> logging.Logger:
    logger = logging.getLoggerClass()(name, level)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_RunFormatter())
    logger.addHandler(handler)
    return logger
