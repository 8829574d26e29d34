"""The first stage: each member's upload becomes checked training data, several at a time. A fault
in one tenant's files does not stop its neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tenantry.names import sagemaker_names
from tenantry.onboarding.drift import check_drift
from tenantry.onboarding.member import Member
from tenantry.onboarding.pack import PackAtWork
from tenantry.shown.asset_metadata import training_data_metadata
from tenantry.training.shared_model import data_of_all, joined
from tenantry.uploads import manifests
from tenantry.uploads.current_data import current_data, note_base
from tenantry.uploads.training_data import TrainingData, make_training_data


def prepare(at_work: PackAtWork, members: Sequence[Member]) -> list[Member]:
    """Prepare each member's data, and check served models for drift with them. Members with good
    data go on; their rows move to ``training`` if training follows."""
    good = list(_made(at_work, members))
    ready = [member for member in good if _note_training_data(at_work, member)]
    fresh = [
        (member.request, member.data)
        for member in ready
        if member.data is not None and not member.shared
    ]
    going_on = check_drift(at_work.deployment, at_work.workload, fresh, at_work.report)
    for member in ready:
        member.evaluating = member.tenant in going_on
    return ready


def prepared_before(at_work: PackAtWork, members: Sequence[Member]) -> Iterator[Member]:
    """The members whose data an earlier run prepared; the others fail."""
    for member in members:
        text = member.request.facts.get("training_data")
        if text:
            member.data = TrainingData.from_json(text)
            yield member
        else:
            at_work.fail(
                member,
                "fine_tuned_artifact",
                "its training data were never prepared; materialise training_data with it",
            )


def report_data_again(at_work: PackAtWork, member: Member) -> None:
    """Report data that an earlier try prepared: this run has announced them, and the earlier one
    may have died before it reported them."""
    text = member.request.facts.get("training_data")
    if text:
        member.data = TrainingData.from_json(text)
        if "training_data" in at_work.stages:
            _report_data(at_work, member, member.data)


def _made(at_work: PackAtWork, members: Sequence[Member]) -> Iterator[Member]:
    for member, future in at_work.side_by_side(prepared, members):
        try:
            member.data = future.result()
        except manifests.RefusedUploadError as error:
            refuse(at_work, member, error)
        except Exception as error:  # noqa: BLE001 - any error is this tenant's alone
            at_work.fail(
                member,
                "training_data",
                f"preparing it failed: {type(error).__name__}: {error}",
                code="preparation_failed",
            )
        else:
            report_prepared(at_work, member, member.data)
            yield member


def report_prepared(at_work: PackAtWork, member: Member, data: TrainingData) -> None:
    """Report data that a member's upload was prepared to, and what had to be repaired in it."""
    repairs = dict(data.repairs)
    at_work.report.checked("training_data", "data_quality", member.tenant, repairs, passed=True)
    _report_data(at_work, member, data)


def prepared(at_work: PackAtWork, member: Member) -> TrainingData:
    """The data of a member's upload, and what was appended to them since; of a shared model, those
    of all tenants."""
    deployment, request = at_work.deployment, member.request
    with at_work.span("prepare", member):
        if member.shared:
            member.of_all = data_of_all(deployment, request.workload)
            return joined(request, member.of_all)
        known = current_data(deployment, request.workload, request.tenant)
        if known is not None and known.extended and known.base == request.manifest_key:
            return known.data
        data = make_training_data(deployment, at_work.workload, request)
        note_base(deployment, request, data)
        return data


def refuse(at_work: PackAtWork, member: Member, error: manifests.RefusedUploadError) -> None:
    """End a member whose upload cannot be used, and tell its owner why."""
    facts = {"reason": str(error), "code": error.code}
    at_work.report.checked("training_data", "data_quality", member.tenant, facts, passed=False)
    at_work.fail(
        member, "training_data", str(error), retryable=False, tell="upload_refused", code=error.code
    )


def _note_training_data(at_work: PackAtWork, member: Member) -> bool:
    """Move a member's row along to training, with its data. False when the row is no longer this
    pack's, as after a cancellation."""
    if (
        not member.owed
        or member.data is None
        or member.request.status != "claimed"
        or "fine_tuned_artifact" not in at_work.stages
    ):
        return True
    job = sagemaker_names.training_job_name(
        at_work.deployment.prefix, member.request.workload, at_work.pack
    )
    changes = {
        "facts": {"training_data": member.data.to_json()},
        "job": job,
        "hyperparameters": dict(at_work.workload.training.hyperparameters),
    }
    return at_work.move(member, "training", why=f"its data are good; job {job}", changes=changes)


def _report_data(at_work: PackAtWork, member: Member, data: TrainingData) -> None:
    metadata = training_data_metadata(at_work.deployment, member.request, data)
    at_work.report.materialized("training_data", member.tenant, metadata, data.fingerprint)
