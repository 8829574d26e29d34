"""A model that was trained elsewhere: a stranger's archive becomes one of ours.

Nothing in the archive is trusted. Its members are extracted within limits. The family reads them
with the code that its server loads models with. Only the members of the family's format are
archived anew, beside a card of our own, so that nothing else of the stranger's bytes goes on.
"""

import json
import math
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from containers.runtime.archives.archive import (
    ArchiveLimits,
    RefusedArchiveError,
    extract_archive,
    write_archive,
)
from containers.runtime.errors import ContainerError
from contracts.documents import to_bytes
from contracts.limits import CARD_BYTES, FORMAT
from contracts.refused_data import RefusedDataError

CARD: Final = "card.json"
ARCHIVE: Final = "archive.tar.gz"
"""The name of the archive that is written."""
_MEMBERS: Final = 32  # with folders, and members that no format has: the first of these is named


@dataclass(frozen=True)
class ModelFormat:
    """What a family's archives hold.

    ``members`` are the files beside the card, each with its most bytes; ``optional`` ones may be
    absent. ``metrics`` are the names that are taken from the card; others are left out.
    ``described`` gives the fields of our own card, from the folder and the stranger's card.
    ``load`` reads the folder as the server does. Both raise ``ContainerError``, with the fault as
    its message, or ``RefusedDataError``.
    """

    family: str
    members: Mapping[str, int]
    optional: frozenset[str]
    metrics: frozenset[str]
    described: Callable[[Path, Mapping[str, Any]], Mapping[str, Any]]
    load: Callable[[Path], object]


@dataclass(frozen=True)
class Owner:
    """Whose version the model becomes, and the digest of the archive as it was uploaded."""

    workload: str
    tenant: str
    version: str
    sha256: str
    trace_id: str = ""


@dataclass(frozen=True)
class TakenOver:
    """A model as it goes on: its metrics, and its card without the fields that every card has."""

    metrics: Mapping[str, float]
    card: Mapping[str, Any]


def take_over(archive: Path, destination: Path, owner: Owner, form: ModelFormat) -> TakenOver:
    """Check a stranger's archive, and write ``destination``/``ARCHIVE`` from it.

    The same archive, owner and format give the same bytes.

    Raises:
        RefusedDataError: it is no archive of this family, or belongs to another tenant or workload.
    """
    folder = Path(tempfile.mkdtemp(prefix="imported-", dir=destination))
    try:
        limits = ArchiveLimits(sum(form.members.values()) + CARD_BYTES, _MEMBERS)
        try:
            extract_archive(archive, folder, limits)
        except RefusedArchiveError as error:
            raise RefusedDataError(
                f"The archive is refused: {error}.",
                "archive",
                f"Make it anew, as a gzipped tar of plain files: {_named(form)}.",
                "archive_unusable",
            ) from error
        _check_members(folder, form)
        said = _card(folder)
        _check_owner(said, owner, form)
        metrics = _metrics(said, form)
        try:
            described = form.described(folder, said)
            card = {**described, "imported": {"sha256": owner.sha256}}
            _write_card(folder, card, owner, form, metrics)
            form.load(folder)
        except ContainerError as error:
            raise RefusedDataError(
                f"The archive holds no model of the family {form.family}: {error}.",
                "archive",
                "Export it anew in the format that the contracts describe.",
                "model_unreadable",
            ) from error
        write_archive(folder, destination / ARCHIVE)
        return TakenOver(metrics, card)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _named(form: ModelFormat) -> str:
    return ", ".join([CARD, *sorted(form.members)])


def _check_members(folder: Path, form: ModelFormat) -> None:
    """Refuse any file that the format does not have, such as a pickle, and the lack of one."""
    allowed = {**form.members, CARD: CARD_BYTES}
    found = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if not path.is_dir()
    }
    for name, size in found.items():
        if name not in allowed:
            raise RefusedDataError(
                f"The archive holds {ascii(name)[:80]}, which no model of this family has.",
                "archive",
                f"Leave only these in it, none of which runs code: {_named(form)}.",
                "archive_member_unknown",
            )
        if size > allowed[name]:
            raise RefusedDataError(
                f"{name} has more than {allowed[name]} bytes.",
                name,
                "Export a smaller model.",
                "archive_member_too_large",
            )
    for name in (CARD, *sorted(form.members)):
        if name not in found and name not in form.optional:
            raise RefusedDataError(
                f"The archive holds no {name}.",
                name,
                "Put it at the top of the archive, in no folder.",
                "archive_member_missing",
            )


def _card(folder: Path) -> dict[str, Any]:
    """The stranger's card."""
    try:
        said = json.loads((folder / CARD).read_bytes())
        # JSON can hold half a surrogate pair, which can neither be kept nor sent.
        json.dumps(said, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError) as error:
        raise _malformed("is not JSON in UTF-8") from error
    if not isinstance(said, dict):
        raise _malformed("is no JSON object")
    if type(said.get("format")) is not int or said["format"] != FORMAT:
        raise _malformed(f"has another format than {FORMAT}")
    return said


def _malformed(fault: str) -> RefusedDataError:
    return RefusedDataError(
        f"{CARD} {fault}.",
        CARD,
        "Write it as the contracts describe an archive's card.",
        "card_malformed",
    )


def _check_owner(said: Mapping[str, Any], owner: Owner, form: ModelFormat) -> None:
    """Refuse a model that says it is another family's, workload's or tenant's."""
    if said.get("family") != form.family:
        raise RefusedDataError(
            f"{CARD} does not say that the model is of the family {form.family}.",
            CARD,
            "Import a model of that family, whose card names it.",
            "model_of_other_family",
        )
    if said.get("workload", owner.workload) != owner.workload:
        raise RefusedDataError(
            f"{CARD} says that the model is another workload's than {owner.workload}.",
            CARD,
            "Import it for the workload that it was made for.",
            "model_of_other_workload",
        )
    if said.get("tenant", owner.tenant) != owner.tenant:
        raise RefusedDataError(
            f"{CARD} says that the model is another tenant's.",
            CARD,
            "Import it for the tenant that it was made for.",
            "model_of_other_tenant",
        )


def _metrics(said: Mapping[str, Any], form: ModelFormat) -> dict[str, float]:
    """The metrics that the family knows, as finite numbers."""
    told = said.get("metrics", {})
    if not isinstance(told, dict):
        raise _malformed("has metrics that are no JSON object")
    metrics = {name: told[name] for name in sorted(form.metrics) if name in told}
    for name, value in metrics.items():
        # A whole number may be too large for a float.
        if type(value) not in (int, float) or not abs(value) < 1e15 or not math.isfinite(value):
            raise _malformed(f"has metrics.{name} that is no number below 1e15")
    return {name: float(value) for name, value in metrics.items()}


def _write_card(
    folder: Path,
    card: Mapping[str, Any],
    owner: Owner,
    form: ModelFormat,
    metrics: Mapping[str, float],
) -> None:
    """Put our own card in the place of the stranger's."""
    whole = {
        **card,
        "format": FORMAT,
        "family": form.family,
        "workload": owner.workload,
        "tenant": owner.tenant,
        "version": owner.version,
        **({"trace_id": owner.trace_id} if owner.trace_id else {}),
        "metrics": dict(metrics),
    }
    content = to_bytes(whole)
    if len(content) > CARD_BYTES:
        raise _malformed(f"would have more than {CARD_BYTES} bytes with what is added")
    (folder / CARD).write_bytes(content)
