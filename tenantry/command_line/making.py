"""The command that writes the first file of a new workload."""

from __future__ import annotations

from typing import Final

import click

from tenantry.command_line.invocation import (
    WORKLOAD_NAME,
    Invocation,
    NotDone,
    json_option,
    words_for_errors,
)
from tenantry.names import ids
from tenantry.workloads.folder import folder_of_workloads
from tenantry.workloads.skeleton import USUAL_CONTAINER, NoSkeletonError, skeleton

_SCHEMA: Final = "# yaml-language-server: $schema=./workload.schema.json"


@click.command("new-workload")
@click.argument("name", type=WORKLOAD_NAME)
@click.option(
    "--container",
    default=USUAL_CONTAINER,
    show_default=True,
    help="The folder below containers/ that trains and serves it.",
)
@json_option
@words_for_errors
def new_workload(name: ids.WorkloadName, container: str, as_json: bool) -> None:
    """Write a file to begin a workload NAME from, which runs as it is.

    The file goes to the folder `workloads/`, or to the one that TENANTRY_WORKLOADS names. No cloud
    is needed.

    \b
    Example:
      tenantry new-workload water
      tenantry new-workload footfall --container example
    """
    from tenantry.workloads.schema import read_workload

    invocation = Invocation(as_json)
    folder = folder_of_workloads()
    path = folder / f"{name}.yaml"
    if not folder.is_dir():
        raise NotDone(
            f"there is no folder {folder}; run this in a checkout, or have TENANTRY_WORKLOADS name "
            f"the folder of your workloads"
        )
    try:
        text = skeleton(name, container)
    except NoSkeletonError as error:
        raise NotDone(str(error)) from error
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(f"{_SCHEMA}\n{text}")
    except FileExistsError as error:
        raise NotDone(f"{path} is there already; choose another name, or change it") from error
    except OSError as error:
        raise NotDone(f"{path} cannot be written: {error.strerror}") from error
    workload = read_workload(path)
    if invocation.as_json:
        invocation.write_json({"format": 1, "workload": workload.name, "file": str(path)})
        return
    invocation.say(f"written: {path}")
    invocation.say(
        f"Next: change it to what you offer. Start `make run` anew, or have Dagster load its "
        f"definitions again. Then `tenantry upload TENANT FILES --workload {name} --wait` makes a "
        f"first model."
    )
