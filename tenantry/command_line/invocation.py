"""The parts that all commands share: finding the cloud, writing results, wording errors, and the
exit status.

Modules of commands import nothing heavy at their top, so that help and a wrong option answer at
once: boto3, pydantic and rich are imported where they are used.
"""

from __future__ import annotations

import dataclasses
import functools
import getpass
import json
import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Concatenate, Final

import click
from click.shell_completion import CompletionItem

from tenantry.command_line import environment
from tenantry.names import ids
from tenantry.requests.rows import NotTheirTurnError, now
from tenantry.workloads.folder import folder_of_workloads

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table
    from rich.text import Text

    from tenantry.aws.deployment import Deployment
    from tenantry.workloads.schema import Workload, Workloads

NOT_DONE: Final = 1
UNREACHABLE: Final = 3
_WIDTH_OF_A_FILE: Final = 160  # columns, where the output is no terminal
_NARROWEST_PROSE: Final = 24  # columns
_COMPLETED: Final = 50  # ids a shell is given
_WORSE: Final = {
    "dead_lettered": "red",
    "failed": "yellow",
    "refused": "yellow",
    "Failed": "red",
    "Stopped": "yellow",
}


class NotDone(click.ClickException):
    """The command could not do its work; the message gives the reason and the cure. Exit status
    1."""

    exit_code = NOT_DONE


class Unreachable(click.ClickException):
    """The cloud, or Tenantry's stack on it, could not be reached or refused. Exit status 3."""

    exit_code = UNREACHABLE


class WorkloadParameter(click.ParamType["Workload"]):
    """A workload, by its name."""

    name = "workload"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> Workload:
        """The workload of that name."""
        from tenantry.workloads.schema import InvalidWorkloadError, Workload

        if isinstance(value, Workload):
            return value
        try:
            workloads = _read_workloads()
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

    def shell_complete(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        param: click.Parameter,  # noqa: ARG002 - click's signature
        incomplete: str,
    ) -> list[CompletionItem[Any]]:
        """The workloads whose names begin so."""
        return [
            CompletionItem(name) for name in _names_of_workloads() if name.startswith(incomplete)
        ]


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


class ModelParameter(CheckedId):
    """A tenant's id, or that of one of its models. A shell completes those that there are."""

    def shell_complete(
        self,
        ctx: click.Context,
        param: click.Parameter,  # noqa: ARG002 - click's signature
        incomplete: str,
    ) -> list[CompletionItem[Any]]:
        """The ids that begin so, if a cloud is reached; a completion reports no errors."""
        from botocore.exceptions import BotoCoreError, ClientError

        from tenantry.aws.deployment import Deployment
        from tenantry.errors import TenantryError
        from tenantry.models.registry import ModelRegistry

        try:
            find_cloud(local=bool(ctx.params.get("local")), file=ctx.params.get("file"), tell=False)
            connected = ctx.find_object(Deployment)
            registry = ModelRegistry(connected or Deployment.from_stack())
            found = {
                champion.tenant
                for name in _names_of_workloads()
                for champion in islice(
                    registry.each_champion(name, beginning=incomplete), _COMPLETED
                )
            }
        except (TenantryError, BotoCoreError, ClientError):
            return []
        return [CompletionItem(tenant) for tenant in sorted(found)[:_COMPLETED]]


WORKLOAD: Final = WorkloadParameter()
WORKLOAD_NAME: Final = CheckedId("workload", ids.workload_name)  # also one whose file is gone
TENANT: Final = CheckedId("tenant", ids.tenant_id)
MODEL: Final = ModelParameter("tenant", ids.model_id)
"""A tenant's default model (``acme``), or a named one (``acme.winter``)."""
PACK: Final = CheckedId("pack", ids.pack_id)
VERSION: Final = CheckedId("version", ids.version_name)
REQUEST: Final = CheckedId("request", ids.request_id)


@dataclasses.dataclass
class Invocation:
    """One call of a command: the cloud that it reaches, and the output of its results.

    ``connected`` is the stack, if a program that calls commands has it already. ``file`` is the
    file of the local cloud; None where this process's own variables decide.
    """

    as_json: bool = False
    connected: Deployment | None = None
    file: Path | None = None

    @cached_property
    def deployment(self) -> Deployment:
        """The stack."""
        from tenantry.aws.deployment import Deployment

        return self.connected or Deployment.from_stack()

    @cached_property
    def workloads(self) -> Workloads:
        """The workloads that the product offers, by name. Files that cannot be used are reported
        once."""
        from rich.text import Text

        found = _read_workloads()
        for fault in found.unreadable.values():
            self.aside.print(Text(f"Left out, as its file cannot be used: {fault}", style="red"))
        return found

    @cached_property
    def console(self) -> Console:
        """Where results are written."""
        return _console(sys.stdout)

    @cached_property
    def aside(self) -> Console:
        """The console for everything but results, so that results can be piped on."""
        return _console(sys.stderr)

    @property
    def operator(self) -> str:
        """The author of a change, for the histories."""
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

    def say(self, text: str) -> None:
        """Write a sentence. It is not wrapped, so that a name in it can be copied."""
        self.console.print(plain(text), soft_wrap=True)

    def table(
        self,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        prose: Collection[str] = (),
        fits: bool = False,
    ) -> Table:
        """A table of plain text.

        A cell is one line, so that a name in it can be copied. The columns named in ``prose`` are
        folded between words. A table that ``fits`` is never wider than the terminal: where there is
        too little room, it folds everything.
        """
        from rich.cells import cell_len
        from rich.table import Table
        from rich.text import Text

        cells = [
            [cell if isinstance(cell, Text) else Text(plain(cell)) for cell in row] for row in rows
        ]
        table = Table(box=None, pad_edge=False)
        for number, column in enumerate(columns):
            lengths = [row[number].cell_len for row in cells]
            if column in prose:
                words = [word for row in cells for word in row[number].plain.split()]
                lengths = [_NARROWEST_PROSE, *map(cell_len, words)]
            least = None if fits else max(cell_len(column), *lengths, 0)
            table.add_column(column, min_width=least, overflow="fold")
        for row in cells:
            table.add_row(*row)
        return table

    def show(self, *parts: Table | Text | str) -> None:
        """Write lines of text and tables. A table that does not fit is as wide as it must be: a
        terminal wraps its lines itself, and copies them whole."""
        from rich.table import Table

        for part in parts:
            if isinstance(part, Table):
                needed = self.console.measure(part).minimum
                if needed > self.console.width:
                    part.width = needed
                self.console.print(part, crop=False)
            else:
                self.console.print(part, soft_wrap=True)

    def progress(self, *, shown: bool = True) -> Progress:
        """Progress bars, beside the results."""
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

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


def _names_of_workloads() -> list[ids.WorkloadName]:
    """The names of the workloads' files. The files are not read, because completion has to be
    quick."""
    names = sorted(path.stem for path in folder_of_workloads().glob("*.yaml"))
    return [ids.WorkloadName(name) for name in names]


def _read_workloads() -> Workloads:
    from tenantry.workloads.schema import read_workloads

    return read_workloads()


def _console(stream: Any) -> Console:
    from rich.console import Console

    width = None if stream.isatty() or "COLUMNS" in os.environ else _WIDTH_OF_A_FILE
    return Console(file=stream, width=width, markup=False, highlight=False, emoji=False)


def _as_json(value: object) -> Any:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        from tenantry.models.registry import Champion

        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        # Scripts read a champion's endpoint beside its version.
        return fields | ({"endpoint": value.endpoint} if isinstance(value, Champion) else {})
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def plain(value: object) -> str:
    """A value as a table shows it, without control characters: text from outside may hold some, and
    a terminal would obey them."""
    if value is None:
        return "–"
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    return "".join(character if character.isprintable() else " " for character in str(value))


def coloured(status: str) -> Text:
    """A status, coloured if it is a problem."""
    from rich.text import Text

    return Text(status, style=_WORSE.get(status, ""))


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
    from botocore.exceptions import BotoCoreError, ClientError

    from tenantry.aws.deployment import DeploymentMissingError
    from tenantry.hosting.endpoints import EndpointFailedError
    from tenantry.models.registry import ChampionChangedError
    from tenantry.workloads.schema import InvalidWorkloadError

    try:
        yield
    except DeploymentMissingError as error:
        if environment.names_a_cloud(os.environ):
            raise Unreachable(str(error)) from error
        raise Unreachable(
            f"no local cloud runs in this folder or one above it; {environment.START}. "
            f"For a stack on AWS set AWS_PROFILE and AWS_REGION: {error}"
        ) from error
    except environment.NoLocalCloudError as error:
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


def find_cloud(*, local: bool, file: Path | None, tell: bool) -> Path | None:
    """Point this process at its cloud. Returns the file that names it; None if variables do.

    ``local`` goes first, then a file that is given. Without either, and without variables that name
    a cloud, the file in the nearest folder around this one counts.

    Args:
        local: use the local cloud, even if variables name another.
        file: the file that was given.
        tell: print which local cloud was found.

    Raises:
        NoLocalCloudError: it does not answer.
    """
    found: Path | None = environment.local_file() if local else file
    if found is None and not environment.names_a_cloud(os.environ):
        found = environment.find(Path.cwd())
        if found is not None and tell:
            click.echo(f"The local cloud of {found.parents[1]}", err=True)
    if found is None:
        environment.must_answer(os.environ)
    else:
        environment.use(found)
    return found


json_option: Final = click.option(
    "--json", "as_json", is_flag=True, help="Write one JSON document instead of tables."
)


def words_for_errors(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command words for its possible errors."""

    @functools.wraps(function)
    def run(*args: Any, **options: Any) -> None:
        with _errors_in_words():
            function(*args, **options)

    return run


def common_options(function: Callable[Concatenate[Invocation, ...], None]) -> Callable[..., None]:
    """Give a command ``--local``, ``--environment`` and ``--json``, and words for its possible
    errors."""

    @json_option
    @click.option(
        "--environment",
        "file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="TENANTRY_ENVIRONMENT",
        help="Read the variables that say where the cloud is from this file. [env: "
        "TENANTRY_ENVIRONMENT]",
    )
    @click.option(
        "--local",
        is_flag=True,
        help="Reach the local cloud that `make run` has up, not what the AWS variables name.",
    )
    @functools.wraps(function)
    def run(*args: Any, local: bool, file: Path | None, as_json: bool, **options: Any) -> None:
        with _errors_in_words():
            found = find_cloud(local=local, file=file, tell=True)
            from tenantry.aws.deployment import Deployment

            connected = click.get_current_context().find_object(Deployment)
            function(Invocation(as_json, connected, found), *args, **options)

    return run
