"""``tenantry pipeline``: a workload's training in SageMaker's console."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

import click

from tenantry.command_line.invocation import (
    PACK,
    WORKLOAD,
    Invocation,
    NotDone,
    coloured,
    common_options,
)
from tenantry.names import ids

if TYPE_CHECKING:
    from tenantry.training.pipelines import Execution
    from tenantry.workloads.schema import Workload

_LOOK_SECONDS: Final = 2.0
_OVER: Final = frozenset({"Succeeded", "Failed", "Stopped"})


@click.command()
@click.argument("workload", type=WORKLOAD)
@click.option("--create", is_flag=True, help="Create the pipeline, or update the one there is.")
@click.option("--start", type=PACK, metavar="PACK", help="Start it for a pack.")
@click.option("--wait", is_flag=True, help="With --start: follow it to its end.")
@click.option("--show", is_flag=True, help="Show the steps of its newest execution.")
@common_options
def pipeline(
    invocation: Invocation,
    workload: Workload,
    create: bool,
    start: ids.PackId | None,
    wait: bool,
    show: bool,
) -> None:
    """Print the training of WORKLOAD as the definition of a SageMaker Pipeline.

    It trains a pack that Tenantry wrote down, with the request of Tenantry's own jobs. Models are
    registered by Tenantry, not by the pipeline.

    \b
    Examples:
      tenantry pipeline energy > energy-pipeline.json
      tenantry pipeline energy --create --start p-0123456789abcdef --wait
    """
    from tenantry.training.jobs import written_pack
    from tenantry.training.pipelines import (
        describe_execution,
        newest_execution,
        pipeline_definition,
        pipeline_name,
        put_pipeline,
        start_pipeline,
    )

    if wait and start is None:
        raise click.UsageError("--wait goes with --start")
    if show and (create or start is not None):
        raise click.UsageError("--show goes alone")
    deployment = invocation.deployment
    name = pipeline_name(deployment, workload)
    if show:
        execution = newest_execution(deployment, workload)
        if execution is None:
            raise NotDone(f"pipeline {name} has no execution; `tenantry pipeline --create --start`")
        _tell(invocation, name, execution)
        return
    definition = pipeline_definition(deployment, workload)
    if not create and start is None:
        text = json.dumps(definition) if invocation.as_json else json.dumps(definition, indent=2)
        click.echo(text)
        return
    pack = None if start is None else written_pack(deployment, workload, start)
    if start is not None and pack is None:
        raise NotDone(f"{workload.name} has no pack {start}; `tenantry jobs` names the newest")
    said = workload.training.data_distribution
    if pack is not None and pack.distribution != said:
        raise NotDone(
            f"pack {start} was written down as {pack.distribution}, and {workload.name}.yaml says "
            f"training.data_distribution: {said}; Tenantry's own run trains it"
        )
    if create:
        new = put_pipeline(deployment, workload, json.dumps(definition))
        invocation.aside.print(f"pipeline {name} is {'created' if new else 'updated'}")
    if start is None or pack is None:
        if invocation.as_json:
            invocation.write_json({"format": 1, "pipeline": name, "execution": None})
        return
    arn = start_pipeline(deployment, workload, start, pack.instances)
    execution = describe_execution(deployment, arn)
    with invocation.aside.status(f"pipeline {name}"):
        while wait and execution.status not in _OVER:
            time.sleep(_LOOK_SECONDS)
            execution = describe_execution(deployment, arn)
    _tell(invocation, name, execution)
    if wait and execution.status != "Succeeded":
        why = next((step.reason for step in execution.steps if step.reason), "see its steps")
        raise NotDone(f"the execution is {execution.status}: {why}")


def _tell(invocation: Invocation, name: str, execution: Execution) -> None:
    if invocation.as_json:
        invocation.write_json({"format": 1, "pipeline": name, "execution": execution})
        return
    invocation.say(f"{execution.arn} is {execution.status}")
    invocation.show(
        invocation.table(
            ("step", "status", "job", "began", "ended", "why"),
            [
                (step.name, coloured(step.status), step.job, step.started, step.ended, step.reason)
                for step in execution.steps
            ],
            prose=("why",),
        )
    )
