"""In the place of training: the archives of members whose models were trained elsewhere are
checked and kept. A fault in one archive does not stop its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tenantry.models.registry import ModelVersion
from tenantry.onboarding.member import Member
from tenantry.onboarding.pack import PackAtWork
from tenantry.shown.asset_metadata import imported_metadata
from tenantry.uploads.imported_model import keep_imported_model
from tenantry.uploads.manifests import RefusedUploadError


def take_over(
    at_work: PackAtWork, members: Sequence[Member], go_on: Callable[[Member], None]
) -> None:
    """Take members from their archives to models. ``go_on`` is called with each that has one."""
    for member, future in at_work.side_by_side(_kept, members):
        try:
            member.model = future.result()
        except RefusedUploadError as error:
            at_work.fail(
                member,
                "fine_tuned_artifact",
                str(error),
                retryable=False,
                tell="upload_refused",
                code=error.code,
            )
        except Exception as error:  # noqa: BLE001 - any error is this tenant's alone
            at_work.fail(
                member,
                "fine_tuned_artifact",
                f"importing it failed: {type(error).__name__}: {error}",
                code="import_failed",
            )
        else:
            _go_on(at_work, member, member.model, go_on)


def report_imported(at_work: PackAtWork, member: Member, model: ModelVersion) -> None:
    """Report a model that was trained elsewhere as its tenant's artifact."""
    metadata = imported_metadata(at_work.deployment, at_work.workload, member.request, model)
    at_work.report.materialized("fine_tuned_artifact", member.tenant, metadata, model.sha256)
    verdict = at_work.workload.quality.verdict(model.metrics)
    if verdict is not None:
        good, found = verdict
        at_work.report.checked(
            "fine_tuned_artifact", "better_than_baseline", member.tenant, found, passed=good
        )


def _kept(at_work: PackAtWork, member: Member) -> ModelVersion:
    """The version that a member's archive becomes, once the archive is kept and the registry has
    it."""
    request = member.request
    with at_work.span("import", member):
        imported = keep_imported_model(
            at_work.deployment, at_work.workload, request, member.version
        )
        model = ModelVersion(
            tenant=member.tenant,
            workload=request.workload,
            version=member.version,
            tier=at_work.tier,
            archive=imported.archive,
            size=imported.size,
            sha256=imported.sha256,
            request=request.request,
            job="",
            metrics=dict(imported.metrics),
            card=dict(imported.card),
            traceparent=request.traceparent,
        )
        at_work.registry.add(model)
    return model


def _go_on(
    at_work: PackAtWork, member: Member, model: ModelVersion, go_on: Callable[[Member], None]
) -> None:
    member.archive_checked = True
    if (
        member.owed
        and member.request.status == "claimed"
        and not at_work.move(member, "trained", why=f"version {member.version}, made elsewhere")
    ):
        return
    member.left_training = True
    report_imported(at_work, member, model)
    go_on(member)
