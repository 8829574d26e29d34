"""The command that finds the best batch of a workload's serving container: tune-batching."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from contracts.limits import BATCH_WAIT_MS
from tenantry.command_line.asking import JsonObject
from tenantry.command_line.invocation import TENANT, WORKLOAD, Invocation, NotDone, common_options
from tenantry.names import ids

if TYPE_CHECKING:
    from tenantry.models.registry import Champion
    from tenantry.tuning.batches import Measured, Trial
    from tenantry.workloads.batching import Batching
    from tenantry.workloads.schema import Workload


@click.command("tune-batching")
@click.argument("workload", type=WORKLOAD)
@click.option("--tenant", type=TENANT, help="Measure with this tenant's model, not the first one.")
@click.option(
    "--request",
    type=JsonObject(),
    help="What is asked, as a JSON object; the file's serving.smoke_request if not given.",
)
@click.option(
    "--clients",
    type=click.IntRange(4, 2048),
    default=32,
    show_default=True,
    help="How many ask at the same time. Batches of at most half as many are measured, because one "
    "half gathers while the other is answered.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 600),
    default=5.0,
    show_default=True,
    help="How long each size is measured.",
)
@click.option(
    "--max-wait-ms",
    type=click.IntRange(0, BATCH_WAIT_MS),
    help="The wait to measure with, and to write; the file's if not given, else 0.",
)
@click.option("--dry-run", is_flag=True, help="Measure and print, and leave the file as it is.")
@common_options
def tune_batching(
    invocation: Invocation,
    workload: Workload,
    tenant: ids.TenantId | None,
    request: dict[str, Any] | None,
    clients: int,
    seconds: float,
    max_wait_ms: int | None,
    dry_run: bool,
) -> None:
    """Find the batch with which the container of WORKLOAD answers most requests, and write it into
    the workload's file.

    The container runs as a process on this machine, with a champion's archive. Its batch is raised,
    1, 2, 4 and so on, until throughput falls twice. An instance's processors decide too, so run
    this on a machine like it.

    \b
    Examples:
      tenantry tune-batching energy --dry-run
      tenantry tune-batching energy --tenant acme --request '{"period": 7}' --clients 32
    """
    from tenantry.tuning.batches import TakesNoBatchesError, Trial, best_of, until_it_falls
    from tenantry.tuning.batches import sizes as sizes_for
    from tenantry.tuning.container import ContainerFailedError

    now = workload.serving.batching
    wait = max_wait_ms if max_wait_ms is not None else now.max_wait_ms if now else 0
    _check_that_batches_can_be(workload)
    champion = _champion(invocation, workload, tenant)
    with _archive(invocation, champion) as archive:
        trial = Trial(
            workload.serving_container,
            workload.serving.environment,
            archive,
            workload.serving.smoke_request if request is None else request,
            clients,
            seconds,
            wait,
        )
        sizes = sizes_for(clients)
        measured: list[Measured] = []
        try:
            with invocation.progress() as progress:
                task = progress.add_task(f"{workload.name}: batches of 1", total=len(sizes))
                for one in until_it_falls(sizes, trial.measure):
                    measured.append(one)
                    progress.update(
                        task,
                        advance=1,
                        description=f"{workload.name}: batches of {2 * one.max_batch}",
                    )
                progress.update(task, total=len(measured), description=workload.name)
        except TakesNoBatchesError as error:
            raise NotDone(str(error)) from error
        except ContainerFailedError as error:
            ended = f"batches of {sizes[len(measured)]} cannot be measured: {error}"
            if len(measured) < 2:
                raise NotDone(ended) from error
            invocation.aside.print(ended)
    _report(invocation, workload, champion, trial, measured, best_of(measured), dry_run=dry_run)


def _check_that_batches_can_be(workload: Workload) -> None:
    """Refuse before minutes of measuring what the file would be refused with."""
    from tenantry.workloads.batching import Batching, takes_no_batches
    from tenantry.workloads.hosting_rules import hosting_fault

    if fault := takes_no_batches(workload.serving_container):
        raise NotDone(f"{workload.name} takes no batches: {fault}")
    serving = workload.serving.model_copy(update={"batching": Batching(max_batch=2)})
    if fault := hosting_fault(workload.model_copy(update={"serving": serving})):
        raise NotDone(f"{workload.name} cannot have batches: {fault}")


def _champion(invocation: Invocation, workload: Workload, tenant: ids.TenantId | None) -> Champion:
    from tenantry.models.registry import ModelRegistry

    registry, name = ModelRegistry(invocation.deployment), ids.workload_name(workload.name)
    if tenant is not None:
        found = registry.champion(tenant, name)
        whose = f"{tenant} has no {name} model yet"
    else:
        found = next(registry.each_champion(name), None)
        whose = f"no tenant has a model of {name} yet"
    if found is None:
        raise NotDone(f"{whose}; `tenantry upload TENANT FILES --workload {name}` makes one")
    return found


@contextmanager
def _archive(invocation: Invocation, champion: Champion) -> Iterator[Path]:
    """The champion's archive, in a file for the length of a ``with`` block."""
    from tenantry.aws.objects import exists
    from tenantry.models.artifacts import placed_key
    from tenantry.names import s3_keys
    from tenantry.names.tiers import machines_of

    deployment, name = invocation.deployment, champion.workload
    kept = s3_keys.artifact(name, champion.tenant, champion.version)
    machines = machines_of(champion.tier, champion.tenant)
    # A version from before archives were kept lies under its endpoint's prefix alone.
    placed = placed_key(deployment, name, champion.tenant, champion.version, machines)
    bucket = deployment.data_bucket
    key = next((one for one in (kept, placed) if exists(deployment.s3, bucket, one)), None)
    if key is None:
        raise NotDone(f"the archive of {champion.tenant} is gone; name another with --tenant")
    with tempfile.TemporaryDirectory(prefix="tenantry-tuning-") as folder:
        path = Path(folder) / "model.tar.gz"
        deployment.s3.download_file(bucket, key, str(path))
        yield path


def _report(
    invocation: Invocation,
    workload: Workload,
    champion: Champion,
    trial: Trial,
    measured: list[Measured],
    best: Measured,
    *,
    dry_run: bool,
) -> None:
    from tenantry.workloads.batching import Batching
    from tenantry.workloads.folder import workload_file

    batching = (
        Batching(max_batch=best.max_batch, max_wait_ms=trial.max_wait_ms)
        if best.max_batch > 1
        else None
    )
    if not invocation.as_json:
        invocation.say(
            f"{workload.name}, {champion.tenant}, version {champion.version}: {trial.clients} "
            f"clients on this machine, {trial.seconds:g} s for each size"
        )
        invocation.show(invocation.table(*_table(measured, best)))
    path = workload_file(workload.name)
    changed = False if dry_run else _written(path, batching)
    if invocation.as_json:
        invocation.write_json(
            {
                "format": 1,
                "workload": workload.name,
                "tenant": champion.tenant,
                "version": champion.version,
                "clients": trial.clients,
                "seconds": trial.seconds,
                "measured": [_document(one) for one in measured],
                "best": None if batching is None else batching.model_dump(),
                "file": str(path),
                "changed": changed,
            }
        )
        return
    for sentence in _sentences(
        batching,
        workload.serving.batching,
        path,
        changed=changed,
        at_the_end=best is measured[-1],
        dry_run=dry_run,
    ):
        invocation.say(sentence)


def _written(path: Path, batching: Batching | None) -> bool:
    """Whether the file had to be changed. Raises ``NotDone`` with what to write."""
    from tenantry.workloads.edits import NotEditedError, batching_line, set_batching

    try:
        return set_batching(path, batching)
    except NotEditedError as error:
        cure = (
            "remove batching from its section serving"
            if batching is None
            else f"write below serving: {batching_line(batching)}"
        )
        raise NotDone(f"{error}; {cure}") from error


def _sentences(
    best: Batching | None,
    now: Batching | None,
    path: Path,
    *,
    changed: bool,
    at_the_end: bool,
    dry_run: bool,
) -> Iterator[str]:
    from tenantry.workloads.edits import batching_line

    if best is None:
        yield "No batch answers more requests than none."
    elif at_the_end:
        yield "The largest batch that was measured is the best; more --clients fill larger ones."
    if changed:
        said = "batching was removed" if best is None else f"written: {batching_line(best)}"
        yield f"{path}: {said}"
        yield "Next: have Dagster load its definitions again, which updates the endpoints."
    elif best == now:
        yield f"{path} says so already."
    elif dry_run:
        said = "without batching" if best is None else batching_line(best)
        yield f"The best for serving in {path}: {said}"


def _table(measured: list[Measured], best: Measured) -> tuple[list[str], list[list[object]]]:
    columns = ["batch", "in a call", "requests/s", "p50 ms", "p95 ms", ""]
    rows: list[list[object]] = [
        [
            one.max_batch if one.max_batch > 1 else "1 (off)",
            f"{one.mean_batch:.1f}",
            f"{one.load.per_second:.1f}",
            f"{one.load.p50_ms:.1f}",
            f"{one.load.p95_ms:.1f}",
            "best" if one is best else "",
        ]
        for one in measured
    ]
    return columns, rows


def _document(one: Measured) -> Mapping[str, object]:
    return {
        "max_batch": one.max_batch,
        "mean_batch": round(one.mean_batch, 2),
        "requests_per_second": round(one.load.per_second, 1),
        "p50_ms": round(one.load.p50_ms, 2),
        "p95_ms": round(one.load.p95_ms, 2),
    }
