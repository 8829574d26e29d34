"""The command that points a shell, and all that it starts, at the cloud that `tenantry` reaches."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from typing import Final

import click

from tenantry.command_line import environment
from tenantry.command_line.invocation import Invocation, Unreachable, common_options, plain

_OURS: Final = ("TENANTRY_STACK", "TENANTRY_WORKLOADS")
_TOLD: Final = re.compile(
    r"AWS_(PROFILE|DEFAULT_PROFILE|REGION|DEFAULT_REGION|ENDPOINT_URL(_[A-Z0-9_]+)?)"
)
"""The variables that locate an AWS account. None of them is a secret."""
_PASSWORD: Final = re.compile(r"//[^/@]*@")  # of a URL


@click.command()
@common_options
def env(invocation: Invocation) -> None:
    """Print the variables that point boto3, the AWS CLI and `tenantry` at the same cloud.

    For the local cloud of this folder they are all that a shell needs. For an AWS account they name
    profile, region and stack. Its credentials are never printed.

    \b
    Examples:
      tenantry env
      eval "$(tenantry env)" && aws s3 ls
    """
    from tenantry.aws.deployment import DEFAULT_STACK, STACK_VARIABLE

    if invocation.file is not None:
        variables = environment.read(invocation.file)
        where = f"of {invocation.file}"
    else:
        variables = dict(os.environ)
        where = "that this shell's variables name; credentials are not printed"
    local = environment.is_local(variables)
    if not local and not environment.names_a_cloud(variables):
        raise Unreachable(
            f"nothing says which cloud is meant: {environment.START}, or set AWS_PROFILE"
        )
    # The file of a local cloud holds only the variables that lead to it.
    of_a_file = local and invocation.file is not None
    told = variables if of_a_file else _without_secrets(variables)
    ours = {name: value for name, value in os.environ.items() if name in _OURS}
    told = {**told, **ours}
    stack = os.environ.get(STACK_VARIABLE, DEFAULT_STACK)
    if invocation.as_json:
        invocation.write_json({"format": 1, "local": local, "stack": stack, "variables": told})
        return
    kind = "The local cloud" if local else "The AWS account"
    # A shell runs this output, and a folder's name may hold the end of a line.
    click.echo(plain(f"# {kind} {where}. Stack: {stack}"))
    if of_a_file:
        click.echo(f"unset {' '.join(environment.ANOTHERS)}")
    for name, value in told.items():
        click.echo(f"export {name}={shlex.quote(value)}")


def _without_secrets(variables: Mapping[str, str]) -> dict[str, str]:
    return {
        name: _PASSWORD.sub("//", value)
        for name, value in variables.items()
        if _TOLD.fullmatch(name)
    }
