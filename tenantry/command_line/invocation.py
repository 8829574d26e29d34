"""What all commands share: where the cloud is, how results are written, what an error says and the
status it ends with."""

from __future__ import annotations

import dataclasses
import functools
import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Concatenate, Final

import click
from botocore.exceptions import BotoCoreError, ClientError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from tenantry.aws.deployment import Deployment, DeploymentMissingError
from tenantry.command_line import environment
from tenantry.hosting.endpoints import EndpointFailedError
from tenantry.models.registry import Champion, ChampionChangedError
from tenantry.names import ids
from tenantry.requests.rows import NotTheirTurnError, now
from tenantry.workloads.schema import InvalidWorkloadError, Workload, Workloads, read_workloads

NOT_DONE: Final = 1
UNREACHABLE: Final = 3
_WIDTH_OF_A_FILE: Final = 160  # columns, where the output is no terminal


class NotDone(click.ClickException):
    """What was asked for could not be done; the message says why and what helps. Exit status 1."""

    exit_code = NOT_DONE


class Unreachable(click.ClickException):
    """The cloud, or Tenantry's stack on it, could not be reached or refused. Exit status 3."""

    exit_code = UNREACHABLE


class WorkloadParameter(click.ParamType[Workload]):
    """A workload, by its name."""

    name = "workload"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Workload:
        """The workload of that name."""
        if isinstance(value, Workload):
            return value
        try:
            workloads = read_workloads()
            known = value in workloads
        except InvalidWorkloadError as error:
            raise NotDone(str(error)) from error
        if not known:
            self.fail(
                f"there is no workload {value!r}; there are: {', '.join(sorted(workloads))}",
                param,
                ctx,
            )
        return workloads[value]


class CheckedId(click.ParamType[str]):
    """An id that ``tenantry.names.ids`` checks."""

    def __init__(self, name: str, check: Callable[[object], str]) -> None:
        self.name = name
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The id, checked."""
        try:
            return self._check(value)
        except ids.InvalidIdError as error:
            self.fail(str(error), param, ctx)


WORKLOAD: Final = WorkloadParameter()
WORKLOAD_NAME: Final = CheckedId("workload", ids.workload_name)  # also one whose file is gone
TENANT: Final = CheckedId("tenant", ids.tenant_id)
PACK: Final = CheckedId("pack", ids.pack_id)
VERSION: Final = CheckedId("version", ids.version_name)
REQUEST: Final = CheckedId("request", ids.request_id)


@dataclasses.dataclass
class Invocation:
    """One call of a command: what it reaches, and how it says what it found.

    ``connected`` is the stack, of a program that has it already and calls commands.
    """

    as_json: bool = False
    connected: Deployment | None = None

    @cached_property
    def deployment(self) -> Deployment:
        """The stack."""
        return self.connected or Deployment.from_stack()

    @cached_property
    def workloads(self) -> Workloads:
        """What the product offers, by name. What cannot be used of it is said once."""
        found = read_workloads()
        for fault in found.unreadable.values():
            self.aside.print(Text(f"Left out, as its file cannot be used: {fault}", style="red"))
        return found

    @cached_property
    def console(self) -> Console:
        """Where results are written."""
        return _console(sys.stdout)

    @cached_property
    def aside(self) -> Console:
        """Where everything but results is written, so that those can be piped on."""
        return _console(sys.stderr)

    @property
    def operator(self) -> str:
        """Who makes a change, for the histories."""
        try:
            return f"operator {getpass.getuser()}"
        except (OSError, KeyError):  # a user id without a name, as in a container
            return f"operator {os.getuid()}"

    def chosen(self, workload: Workload | None) -> list[Workload]:
        """The workload that was named, or all."""
        return [workload] if workload is not None else list(self.workloads.values())

    def write_json(self, document: Any) -> None:
        """Write a result for a machine: one JSON document on a line of its own."""
        click.echo(json.dumps(document, default=_as_json, ensure_ascii=False))

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
        """A table of plain text."""
        table = Table(box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")  # a name that is cut off cannot be copied
        for row in rows:
            table.add_row(*(cell if isinstance(cell, Text) else plain(cell) for cell in row))
        return table

    def progress(self, *, shown: bool = True) -> Progress:
        """Progress bars, beside the results."""
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        return Progress(*columns, console=self.aside, refresh_per_second=4, disable=not shown)

    def confirm(self, question: str, *, yes: bool) -> None:
        """Ask before a change, unless ``--yes`` was given. Raises ``NotDone`` when the answer is
        no."""
        if yes:
            return
        try:
            agreed = click.confirm(question, err=True)
        except click.Abort as error:
            raise NotDone("nothing was changed; say --yes where nobody can be asked") from error
        if not agreed:
            raise NotDone("nothing was changed")


def _console(stream: Any) -> Console:
    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_A_FILE
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def _as_json(value: object) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        # Scripts read a champion's endpoint beside its version.
        return fields | ({"endpoint": value.endpoint} if isinstance(value, Champion) else {})
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def plain(value: object) -> str:
    """A value as a table shows it. What came from outside may hold control characters, which a
    terminal would obey."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return "".join(character if character.isprintable() else " " for character in str(value))


def duration(seconds: float | None) -> str:
    """A length of time for people: the two largest units."""
    if seconds is None:
        return "–"
    whole = max(0, round(seconds))
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min"
    if whole < 2 * 86_400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def age(moment: datetime | None) -> float | None:
    """Seconds since a moment."""
    return None if moment is None else (now() - moment).total_seconds()


@contextmanager
def _errors_in_words() -> Iterator[None]:
    try:
        yield
    except (environment.NoLocalCloudError, DeploymentMissingError) as error:
        raise Unreachable(str(error)) from error
    except (NotTheirTurnError, ChampionChangedError) as error:
        raise NotDone(f"{error}; look again with `tenantry tenant` and decide anew") from error
    except (EndpointFailedError, ids.InvalidIdError, InvalidWorkloadError) as error:
        raise NotDone(str(error)) from error
    except ClientError as error:
        code = error.response.get("Error", {}).get("Code", "")
        cure = "; your role needs the stack's OperatorPolicy" if "AccessDenied" in code else ""
        raise Unreachable(f"AWS refused: {error}{cure}") from error
    except BotoCoreError as error:
        raise Unreachable(
            f"AWS could not be reached: {error}; check AWS_ENDPOINT_URL, region and credentials"
        ) from error


def common_options(function: Callable[Concatenate[Invocation, ...], None]) -> Callable[..., None]:
    """Give a command ``--local``, ``--environment`` and ``--json``, and words for what can go
    wrong."""

    @click.option(
        "--json", "as_json", is_flag=True, help="Write one JSON document instead of tables."
    )
    @click.option(
        "--environment",
        "file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="TENANTRY_ENVIRONMENT",
        help="Read the variables that say where the cloud is from this file. [env: "
        "TENANTRY_ENVIRONMENT]",
    )
    @click.option("--local", is_flag=True, help="Reach the local cloud that `make run` has up.")
    @functools.wraps(function)
    def run(*args: Any, local: bool, file: Path | None, as_json: bool, **options: Any) -> None:
        with _errors_in_words():
            if local or file is not None:
                environment.use(environment.LOCAL_FILE if local else file or environment.LOCAL_FILE)
            else:
                environment.must_answer(os.environ)
            connected = click.get_current_context().find_object(Deployment)
            function(Invocation(as_json, connected), *args, **options)

    return run
