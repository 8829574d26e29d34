"""The tenants' own newest data, as a batch's requests carry them."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from tenantry.aws import objects
from tenantry.models.registry import Champion
from tenantry.names import ids, s3_keys
from tenantry.uploads.current_data import CurrentData, current_data_of
from tenantry.workloads.batches import Batch, Inference
from tenantry.workloads.schema import Workload

if TYPE_CHECKING:
    from tenantry.aws.deployment import Deployment

_LOG = logging.getLogger(__name__)
_AT_ONCE: Final = 8

FreshData = Mapping[ids.ModelId, Any]
"""For each model whose request carries data of its tenant, that document."""


def takes_data(section: Inference, champion: Champion) -> bool:
    """Whether a version takes its tenant's data in requests; its card says it where the workload
    names an entry."""
    return section.card is None or bool(champion.card.get(section.card))


def fresh_data(
    deployment: Deployment, workload: Workload, batch: Batch, champions: Sequence[Champion]
) -> tuple[FreshData, Mapping[ids.ModelId, str]]:
    """The newest data of the champions' tenants, where these are others than a champion was made
    from; with ``input: all`` also where they are the same. None for a batch that is asked without
    them, and for a version that takes none.

    Returns:
        The documents, and for each model whose document cannot be used, the reason: it is gone, too
        large, or no JSON. A model without a document has neither.
    """
    section = workload.inference
    if section is None or batch.input == "request" or not champions:
        return {}, {}
    file = ids.file_name(section.file)
    name = ids.workload_name(workload.name)
    current = current_data_of(deployment, name, [one.tenant for one in champions])
    carried = {
        one.tenant: found
        for one in champions
        if (found := current.get(one.tenant)) is not None
        and (batch.input == "all" or found.data.version != one.version)
        and file in found.data.files
        and takes_data(section, one)
    }
    unusable: dict[ids.ModelId, str] = {}

    def read(model: ids.ModelId, found: CurrentData) -> Any:
        key = s3_keys.training_data_file(name, model, found.data.version, file)
        try:
            content = objects.read_bytes(
                deployment.s3, deployment.data_bucket, key, section.max_bytes
            )
            return json.loads(content)
        except objects.ObjectMissingError:
            reason = "is gone"
        except objects.ObjectTooLargeError:
            reason = f"is larger than inference.max_kilobytes, {section.max_kilobytes}"
        except ValueError:
            reason = "is no JSON"
        unusable[model] = f"its {file} {reason}"
        _LOG.warning("the data of %s are not used: %s", model, unusable[model])
        return None

    deployment.s3  # noqa: B018 - made once here rather than by each thread
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        documents = pool.map(lambda one: read(*one), carried.items())
        fresh = {
            model: document
            for model, document in zip(carried, documents, strict=True)
            if document is not None
        }
    return fresh, unusable
