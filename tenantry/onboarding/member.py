"""The members of a pack: the requests that the launcher put into it, or those of a run that a
person started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tenantry.names import ids
from tenantry.requests.newest import newest_of
from tenantry.requests.queue import RequestQueue
from tenantry.requests.rows import DATA_GROUP, IN_A_PACK, SHARED_GROUP, Request
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.models.registry import ModelVersion
    from tenantry.training.shared_model import TenantData
    from tenantry.uploads.training_data import TrainingData


@dataclass(eq=False)
class Member:
    """A tenant's part of a pack, and how far it has come.

    ``request`` is the row as it was last read or moved; ``version`` is the one its model has or
    will have. ``owed`` tells whether the queue waits for it: then its row is moved along. A person
    who materialises an asset by hand makes a new version and leaves the queue alone. ``data`` and
    ``model`` are there once they are made; ``of_all`` are the data of all tenants, of a shared
    model's; ``archive_checked`` tells that the model's archive has just
    been found to match its training's promise. ``evaluating`` tells that a processing job is
    evaluating its champion on ``data``. ``left_training`` tells that training has
    nothing more to do for it: it is trained, failed, put off, or no longer this pack's. ``failure``
    is why it did not get as far as it should. ``refused`` tells that its owner alone can mend that.
    """

    request: Request
    version: ids.Version
    owed: bool
    data: TrainingData | None = None
    of_all: Sequence[TenantData] = ()
    model: ModelVersion | None = None
    archive_checked: bool = False
    evaluating: bool = False
    left_training: bool = False
    failure: str | None = None
    refused: bool = False

    @property
    def tenant(self) -> ids.ModelId:
        """The tenant it is for."""
        return self.request.tenant

    @property
    def imported(self) -> bool:
        """Whether its upload is a model that was trained elsewhere: it has no training data, and
        needs no training."""
        return self.request.purpose == "import"

    @property
    def appends(self) -> bool:
        """Whether its upload is data for the next predictions, or for a shared model, and makes no
        model by itself."""
        return self.request.purpose == "inference" or self.request.group == DATA_GROUP

    @property
    def shared(self) -> bool:
        """Whether it is nobody's: a model of all tenants' data."""
        return self.request.group == SHARED_GROUP

    @property
    def was_tried(self) -> bool:
        """Whether an earlier try may have come as far as a model, and failed after that: at its
        endpoint, or because its run died."""
        request = self.request
        return self.owed and (
            request.status == "trained" or request.attempt > 1 or request.postponements > 0
        )


def owed_members(requests: Sequence[Request], pack: ids.PackId) -> list[Member]:
    """The requests of a pack that are still to be worked on."""
    return [
        Member(request, request.version, owed=True)
        for request in requests
        if request.pack == pack and request.status in IN_A_PACK and request.version is not None
    ]


def members_by_hand(
    queue: RequestQueue, workload: Workload, tenants: Sequence[ids.ModelId], run: str
) -> Iterator[tuple[ids.ModelId, Member | None]]:
    """The members of a run that a person started: each tenant's latest usable upload, to become a
    version of its own.

    Yields:
        The tenant, and its member; None when nothing usable was ever uploaded.
    """
    name = ids.workload_name(workload.name)
    for tenant in tenants:
        latest = newest_of(
            request
            for request in queue.of_tenant(name, tenant)
            if request.version is not None and request.status != "refused"
        )
        if latest is None:
            yield tenant, None
        else:
            version = ids.version_of(f"{latest.request}{run}", latest.uploaded)
            yield tenant, Member(latest, version, owed=False)
