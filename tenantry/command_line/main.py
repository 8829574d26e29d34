"""``tenantry``: watch and steer the fleet from a terminal or a script."""

from __future__ import annotations

import logging
import signal
import sys
from typing import Any, Final

import click

from contracts.logs import UnknownLogFormatError, write_logs
from tenantry.command_line.asking import ask, predictions
from tenantry.command_line.basing import base
from tenantry.command_line.changing import (
    capacity,
    prewarm,
    redrive,
    remove_unused,
    retrain,
    rollback,
    tier,
    wind_down,
)
from tenantry.command_line.claiming import drain, pause, resume
from tenantry.command_line.invocation import NotDone
from tenantry.command_line.looking import endpoints, jobs, requests, shadow, status, tenant, tenants
from tenantry.command_line.making import new_workload
from tenantry.command_line.owed import cancel, retry
from tenantry.command_line.pipelines import pipeline
from tenantry.command_line.pointing import env
from tenantry.command_line.querying import query
from tenantry.command_line.trying import trial
from tenantry.command_line.tuning import tune_batching
from tenantry.command_line.uploading import import_model, upload
from tenantry.tracing.export import TracingUnavailableError, export_spans

_LISTED: Final = {
    "Look": (status, tenants, tenant, requests, jobs, endpoints, shadow, query),
    "Do what the product's app does": (upload, import_model, ask, predictions),
    "Change what is owed and what serves": (
        retry,
        cancel,
        pause,
        resume,
        drain,
        rollback,
        trial,
        tier,
        capacity,
        prewarm,
        remove_unused,
        retrain,
        redrive,
        wind_down,
    ),
    "Set up": (env, new_workload, base, tune_batching, pipeline),
}
"""The commands as the help lists them."""


class _Commands(click.Group):
    """A group whose help lists its commands by subject, each with its whole first sentence."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The commands, in the order of the help."""
        return list(self.commands)

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002 - click's signature
        formatter: click.HelpFormatter,
    ) -> None:
        """Write the commands."""
        longest = max(map(len, self.commands))
        for subject, commands in _LISTED.items():
            with formatter.section(subject):
                formatter.write_dl(
                    [
                        (str(one.name).ljust(longest), one.get_short_help_str(sys.maxsize))
                        for one in commands
                    ]
                )


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="tenantry")
def tenantry() -> None:
    """Watch and steer Tenantry's queue, training jobs, endpoints and tenants.

    The commands reach AWS as any AWS tool does (AWS_PROFILE, AWS_REGION), and the stack that
    TENANTRY_STACK names (`tenantry` if it is not set). Where no variable names an AWS account, they
    reach the local cloud that `make run` has up, from any folder of the project.

    \b
    Exit status:
      0    it was done
      1    it could not be done: the message says why
      2    the command line itself is wrong
      3    AWS, the local cloud or the stack cannot be reached, or refused
      130  interrupted

    \b
    Examples:
      tenantry status --watch
      tenantry tenant acme --json
    """


for listed in _LISTED.values():
    for command in listed:
        tenantry.add_command(command)


def _interrupt(_signal: int, _frame: Any) -> None:
    raise KeyboardInterrupt


def _follow_the_environment() -> None:
    try:
        write_logs(sys.stderr, logging.WARNING, "%(message)s")
        export_spans()
    except (UnknownLogFormatError, TracingUnavailableError) as error:
        raise NotDone(str(error)) from error


def main() -> None:
    """The installed script."""
    # A process that a shell starts in its background ignores SIGINT unless it says otherwise.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        _follow_the_environment()
        tenantry(prog_name="tenantry", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        raise SystemExit(error.exit_code) from error
    except (click.Abort, KeyboardInterrupt):
        click.echo("Interrupted.", err=True)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
