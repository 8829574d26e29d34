"""The commands that upload for a tenant, as the product's app does."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import click

from contracts.split_files import CUSTOMERS
from tenantry.command_line.invocation import MODEL, WORKLOAD, Invocation, NotDone, common_options
from tenantry.command_line.splitting import upload_split
from tenantry.names import ids, s3_keys
from tenantry.names.purposes import Purpose
from tenantry.requests.rows import OPEN, Request

if TYPE_CHECKING:
    from tenantry.workloads.schema import Workload
    from tenantry.workloads.sections import Parameter

_STAGES: Final = ("uploaded", "pending", "claimed", "training", "trained", "registered")
_LANES: Final[tuple[Purpose, ...]] = ("training", "inference")
_LOOK_SECONDS: Final = 1.0


def _following_options(command: Callable[..., None]) -> Callable[..., None]:
    """``--wait`` and ``--timeout``."""
    waits = click.option(
        "--wait", is_flag=True, help="Follow it until its model serves, or it is refused."
    )
    timeout = click.option(
        "--timeout",
        type=click.FloatRange(min=0),
        default=3600.0,
        show_default=True,
        help="Seconds --wait waits.",
    )
    return waits(timeout(command))


@click.command()
@click.argument("tenant", type=MODEL, metavar="[TENANT[.MODEL]]", required=False)
@click.argument("files", type=click.Path(exists=True, dir_okay=False, path_type=Path), nargs=-1)
@click.option("--workload", type=WORKLOAD, required=True, help="For which a model is made.")
@click.option(
    "--parameter",
    "parameters",
    multiple=True,
    metavar="NAME=VALUE",
    help="Of the upload; may be repeated.",
)
@click.option(
    "--for-inference", is_flag=True, help="New data for the next predictions; no model is made."
)
@click.option(
    "--split",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="One file of many customers; each becomes a tenant with an upload of its own.",
)
@click.option(
    "--customers",
    metavar="COLUMN",
    default=CUSTOMERS,
    show_default=True,
    help="With --split: the column that names each row's customer.",
)
@click.option("--dry-run", is_flag=True, help="With --split: list the tenants, and upload nothing.")
@_following_options
@common_options
def upload(
    invocation: Invocation,
    tenant: ids.ModelId | None,
    files: tuple[Path, ...],
    workload: Workload,
    parameters: tuple[str, ...],
    for_inference: bool,
    split: Path | None,
    customers: str,
    dry_run: bool,
    wait: bool,
    timeout: float,
) -> None:
    """Upload FILES for TENANT, as the product's app does; a model is made from them without further
    steps.

    With --split one FILE of many customers becomes an upload for each. A customer's id becomes the
    tenant's; a name or an address becomes a digest. The same file makes nothing twice.

    With --for-inference no model is made: the data are appended to the tenant's, and the next batch
    predicts from them.

    \b
    Examples:
      tenantry upload acme consumption.csv --workload energy --parameter timezone=Europe/London
      --wait
      tenantry upload acme monday.csv --workload energy --for-inference
      tenantry upload --split raw.parquet --workload energy
    """
    from tenantry.serving.client import TenantClient

    values = dict(_parameter(text, workload.upload.parameters) for text in parameters)
    if split is not None:
        if tenant is not None or for_inference or wait:
            raise click.UsageError(
                "--split makes the tenants' uploads itself: leave TENANT, FILES, --for-inference "
                "and --wait out"
            )
        upload_split(invocation, workload, split, customers, values, dry_run=dry_run)
        return
    if dry_run or customers != CUSTOMERS:
        raise click.UsageError("--dry-run and --customers go with --split")
    if tenant is None or not files:
        raise click.UsageError("name TENANT and its FILES, or one file with --split")
    together = sum(file.stat().st_size for file in files)
    if together > workload.upload.max_bytes:
        raise NotDone(
            f"the files have {together:,} bytes together; {workload.name} takes at most "
            f"{workload.upload.max_megabytes:g} MB"
        )
    if len({file.name for file in files}) != len(files):
        raise NotDone("two of the files have one name; an upload has no folders, rename one")
    with (
        TenantClient.of_model(invocation.deployment, workload, tenant) as client,
        invocation.aside.status(f"{together:,} bytes"),
    ):
        purpose: Literal["training", "inference"] = "inference" if for_inference else "training"
        contents = {file.name: file.read_bytes() for file in files}
        made = client.upload(contents, values, purpose=purpose)
    _tell(invocation, workload, tenant, made, wait=wait, timeout=timeout)


@click.command("import")
@click.argument("tenant", type=MODEL, metavar="TENANT[.MODEL]")
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--workload", type=WORKLOAD, required=True, help="Whose model it is.")
@click.option("--sha256", metavar="DIGEST", help="The archive's digest, to be verified.")
@_following_options
@common_options
def import_model(
    invocation: Invocation,
    tenant: ids.ModelId,
    archive: Path,
    workload: Workload,
    sha256: str | None,
    wait: bool,
    timeout: float,
) -> None:
    """Hand in ARCHIVE, a model that was trained elsewhere, for TENANT. It is checked, and compared
    with the present one.

    \b
    Example:
      tenantry import acme model.tar.gz --workload energy --wait
    """
    from tenantry.serving.client import ArchiveDigestError, TenantClient

    if workload.imports is None:
        raise NotDone(
            f"{workload.name} takes no models that were trained elsewhere; `tenantry upload` makes "
            f"one from data"
        )
    size = archive.stat().st_size
    if size > workload.imports.max_bytes:
        raise NotDone(
            f"the archive has {size:,} bytes; {workload.name} takes at most "
            f"{workload.imports.max_megabytes:g} MB"
        )
    with (
        TenantClient.of_model(invocation.deployment, workload, tenant) as client,
        invocation.aside.status(f"{size:,} bytes"),
    ):
        try:
            made = client.import_model(archive.read_bytes(), sha256=sha256)
        except ArchiveDigestError as error:
            raise NotDone(str(error)) from error
    _tell(invocation, workload, tenant, made, wait=wait, timeout=timeout)


def _tell(
    invocation: Invocation,
    workload: Workload,
    tenant: ids.ModelId,
    made: ids.UploadId,
    *,
    wait: bool,
    timeout: float,
) -> None:
    """Say what was uploaded, and with ``wait`` what becomes of it. Raises ``NotDone`` when nothing
    comes of it."""
    if not wait:
        if invocation.as_json:
            invocation.write_json({"format": 1, "upload": made, "request": None})
        else:
            invocation.say(
                f"upload {made} is complete; `tenantry tenant {tenant}` tells what becomes of it"
            )
        return
    row = _follow(invocation, workload, tenant, made, timeout)
    if invocation.as_json:
        invocation.write_json(
            {
                "format": 1,
                "upload": made,
                "request": row.request,
                "status": row.status,
                "version": row.version,
            }
        )
    if row.status not in {"registered", "appended"}:
        raise NotDone(
            f"request {row.request} is {row.status}: {row.reason or 'see `tenantry tenant`'}"
        )
    if not invocation.as_json:
        invocation.say(f"request {row.request} is {row.status} as version {row.version}")


def _parameter(
    text: str, declared: Mapping[str, Parameter]
) -> tuple[str, str | int | float | bool]:
    """A parameter of the upload, of the type that the workload gives it."""
    name, equals, value = text.partition("=")
    known = declared.get(name)
    if not equals or known is None:
        raise click.BadParameter(
            f"{text!r} is not NAME=VALUE; the names are: {', '.join(declared) or 'none'}"
        )
    try:
        parsed: str | int | float | bool
        match known.type:
            case "string":
                parsed = value
            case "integer":
                parsed = int(value)
            case "number":
                parsed = float(value)
            case "boolean":
                parsed = {"true": True, "false": False}[value.lower()]
    except (ValueError, KeyError) as error:
        raise click.BadParameter(
            f"{name} must be a {known.type}, which {value!r} is not"
        ) from error
    return name, parsed


def _follow(
    invocation: Invocation,
    workload: Workload,
    tenant: ids.ModelId,
    made: ids.UploadId,
    timeout: float,
) -> Request:
    """The upload's request once it is no longer open. Raises ``NotDone`` when that takes too
    long."""
    from tenantry.requests.queue import RequestQueue

    queue, name = RequestQueue(invocation.deployment), ids.workload_name(workload.name)
    manifest, deadline = s3_keys.upload_manifest(name, tenant, made), time.monotonic() + timeout
    request: ids.RequestId | None = None  # a later upload of the same content may become the row's
    stands = "is not taken in; the same content as an earlier upload makes no new request"
    with invocation.progress() as progress:
        bar = progress.add_task("uploaded", total=len(_STAGES) - 1)
        while True:
            rows = [
                r
                for purpose in _LANES
                for r in queue.of_tenant(name, tenant, purpose)
                if r.manifest_key == manifest or r.request == request
            ]
            if rows:
                row = rows[0]
                request = row.request
                stands = f"is {row.status}"
                if row.status not in OPEN:
                    if row.status in {"registered", "appended"}:
                        progress.update(bar, description=row.status, completed=len(_STAGES) - 1)
                    return row
                stage = _STAGES.index(row.status) if row.status in _STAGES else 0
                progress.update(bar, description=row.status, completed=stage)
            if time.monotonic() >= deadline:
                raise NotDone(
                    f"after {timeout:g} s upload {made} {stands}; `tenantry tenant {tenant}` tells "
                    f"how it goes on"
                )
            time.sleep(_LOOK_SECONDS)
