"""``tenantry upload --split``: one file of many customers, an upload for each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from contracts.refused_data import RefusedDataError
from tenantry.command_line.invocation import Invocation, NotDone
from tenantry.names import ids

if TYPE_CHECKING:
    from contracts.split_files import SplitTenant
    from tenantry.uploads.splitting import SplitFile
    from tenantry.workloads.schema import Workload

_AT_ONCE: Final = 8
_MAX_TOLD: Final = 10


def upload_split(
    invocation: Invocation,
    workload: Workload,
    file: Path,
    customers: str,
    parameters: Mapping[str, str | int | float | bool],
    *,
    dry_run: bool,
) -> None:
    """Split ``file`` by its column ``customers``, and upload each customer's rows.

    Raises:
        NotDone: the file cannot be split, or some uploads could not be made.
    """
    from tenantry.uploads.splitting import upload_once

    with _split(invocation, workload, file, customers) as parts:
        if dry_run:
            _tell_tenants(invocation, workload, parts.tenants)
            return

        def upload(one: SplitTenant) -> tuple[ids.UploadId, bool]:
            tenant = ids.tenant_id(one.tenant)
            content = parts.read(tenant, workload.upload.max_bytes)
            return upload_once(invocation.deployment, workload, tenant, content, parameters)

        told, failed = _each(invocation, parts.tenants, upload)
    made = sum(1 for row in told if row["new"])
    if invocation.as_json:
        invocation.write_json({"format": 1, "workload": workload.name, "tenants": told})
    else:
        invocation.say(
            f"{made:,} uploads are made; {len(told) - made - len(failed):,} were there before. "
            f"`tenantry tenants --workload {workload.name}` tells what becomes of them"
        )
    if failed:
        some = "; ".join(f"{tenant}: {why}" for tenant, why in list(failed.items())[:_MAX_TOLD])
        raise NotDone(f"{len(failed):,} of {len(told):,} tenants got no upload: {some}")


@contextmanager
def _split(
    invocation: Invocation, workload: Workload, file: Path, customers: str
) -> Iterator[SplitFile]:
    """The file, split here or by a job."""
    from tenantry.uploads.bounded_calls import CallFailedError
    from tenantry.uploads.splitting import SUFFIXES, SplitFailedError, split_by_job, split_here

    split = workload.upload.split
    if split is None:
        raise NotDone(
            f"{workload.name} splits no files: its file has no section upload.split; upload each "
            f"tenant's own files"
        )
    if file.suffix.lower() not in SUFFIXES:
        raise NotDone(f"{file.name} must end in {' or '.join(SUFFIXES)}")
    with ExitStack() as parts:
        try:
            with invocation.aside.status(f"splitting {file.name}") as status:
                if file.stat().st_size <= split.max_bytes_here:
                    found = parts.enter_context(split_here(workload, split, file, customers))
                else:
                    invocation.aside.print(
                        f"{file.name} has more than {split.max_megabytes_here:g} MB: a processing "
                        f"job splits it on {split.instance_type} at {split.usd_per_hour:g} USD an "
                        f"hour"
                    )
                    found = split_by_job(
                        invocation.deployment, workload, split, file, customers, status.update
                    )
        except (RefusedDataError, SplitFailedError) as error:
            raise NotDone(str(error)) from error
        except CallFailedError as error:
            raise NotDone(f"{split.module} failed: {error}") from error
        yield found


def _each(
    invocation: Invocation, tenants: list[SplitTenant], upload: Any
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """What became of each tenant, and why some got no upload."""
    from tenantry.aws.objects import ObjectTooLargeError

    told, failed = dict[str, dict[str, Any]](), dict[str, str]()
    with (
        invocation.progress(shown=not invocation.as_json) as progress,
        ThreadPoolExecutor(_AT_ONCE) as pool,
    ):
        bar = progress.add_task("uploaded", total=len(tenants))
        asked = {pool.submit(upload, one): one for one in tenants}
        try:
            for done in as_completed(asked):
                one = asked[done]
                row = _row(one) | {"upload": None, "new": False, "reason": None}
                try:
                    row["upload"], row["new"] = done.result()
                except (ObjectTooLargeError, ids.InvalidIdError) as error:
                    row["reason"] = failed[one.tenant] = str(error)
                told[one.tenant] = row
                progress.advance(bar)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [told[one.tenant] for one in tenants], dict(sorted(failed.items()))


def _tell_tenants(invocation: Invocation, workload: Workload, tenants: list[SplitTenant]) -> None:
    rows = [_row(one) for one in tenants]
    if invocation.as_json:
        invocation.write_json({"format": 1, "workload": workload.name, "tenants": rows})
        return
    invocation.show(
        invocation.table(
            ("tenant", "customer", "rows"),
            [(one.tenant, one.customer, f"{one.rows:,}") for one in tenants],
        )
    )
    invocation.say(f"{len(rows):,} tenants; nothing was uploaded")


def _row(one: SplitTenant) -> dict[str, Any]:
    return {"tenant": one.tenant, "customer": one.customer, "rows": one.rows}
