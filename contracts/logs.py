"""How every process of both sides writes its logs: as plain text, or as a JSON object a line."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar, Token
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Final, TextIO

from contracts.errors import ContractError

FORMAT_VARIABLE: Final = "TENANTRY_LOG_FORMAT"
"""``json`` for JSON lines; ``text``, or nothing, for plain text."""
FIELDS: Final = ("workload", "tenant", "request", "pack", "run", "trace_id", "span_id")
"""The fields of a line, where they are known, beside its time, level, logger and message."""

_known: ContextVar[Mapping[str, str]] = ContextVar("known", default=MappingProxyType({}))


class UnknownLogFormatError(ContractError, ValueError):
    """``TENANTRY_LOG_FORMAT`` names no format; the message says which there are."""


def logs_are_json() -> bool:
    """Whether the environment asks for JSON lines. Raises ``UnknownLogFormatError``."""
    chosen = os.environ.get(FORMAT_VARIABLE) or "text"
    if chosen not in {"text", "json"}:
        raise UnknownLogFormatError(
            f"{FORMAT_VARIABLE} is {chosen[:40]!r}; set it to json or to text, or unset it"
        )
    return chosen == "json"


def log_environment() -> dict[str, str]:
    """The variables that make a container write its logs as this process does. Raises
    ``UnknownLogFormatError``."""
    return {FORMAT_VARIABLE: "json"} if logs_are_json() else {}


def add_log_fields(**known: str | None) -> Token[Mapping[str, str]]:
    """Lines logged by this thread or task have these fields (``FIELDS``) from now on. Returns the
    token that restores the previous fields."""
    return _known.set({**_known.get(), **{name: value for name, value in known.items() if value}})


@contextmanager
def log_fields(**known: str | None) -> Iterator[None]:
    """Lines logged within the block, by this thread or task, have these fields (``FIELDS``) beside
    those of blocks around it."""
    before = add_log_fields(**known)
    try:
        yield
    finally:
        _known.reset(before)


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON. A field may also be an attribute of the record
    (``extra={"tenant": …}``), which goes before ``log_fields``."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        moment = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": moment.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        known = _known.get()
        for name in FIELDS:
            if value := getattr(record, name, None) or known.get(name):
                line[name] = str(value)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def write_logs(stream: TextIO, level: int, plain: str) -> None:
    """Write this process's logs to ``stream``, unless logging was set up before.

    Args:
        stream: the destination.
        level: the least level that is written.
        plain: the form of a line of plain text, as ``logging.Formatter`` takes it.

    Raises:
        UnknownLogFormatError: the environment asks for another format than there are.
    """
    as_json = logs_are_json()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if as_json else logging.Formatter(plain))
    logging.basicConfig(level=level, handlers=[handler])
    logging.captureWarnings(as_json)
