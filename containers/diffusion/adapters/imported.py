"""Adapters that were trained elsewhere, taken over as models of a customer.

This module judges what the file says of itself. It needs no torch, which Dagster's processes lack.
The server knows the base, and so judges its digest, the layers and the values when it loads the
adapter for the first request. The model serves nobody before that.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from containers.diffusion.adapters.card import MAX_CARD_BYTES, AdapterCard
from containers.diffusion.adapters.errors import UnusableAdapterError
from containers.diffusion.adapters.weights_file import (
    MAX_WEIGHT_BYTES,
    PEFT_CONFIG_FILE,
    WEIGHTS_FILE,
    read_header,
    read_weights,
)
from containers.runtime.archives.imported import ModelFormat, Owner, TakenOver
from containers.runtime.archives.imported import take_over as take_over_archive
from contracts.refused_data import RefusedDataError

METRICS: Final = frozenset({"personalisation", "meaning_kept"})

_BASE: Final = "TENANTRY_BASE"
_BYTES: Final[Mapping[str, int]] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
}


def take_over(
    archive: Path, destination: Path, owner: Mapping[str, str], environment: Mapping[str, str]
) -> TakenOver:
    """Check an archive of an adapter, and write it anew.

    Args:
        archive: the stranger's archive.
        destination: an empty folder.
        owner: the fields of `Owner`.
        environment: the endpoint's variables; `TENANTRY_BASE` is its base, if it is there.

    Raises `RefusedDataError`.
    """

    def described(_: Path, card: Mapping[str, Any]) -> dict[str, Any]:
        adapter = AdapterCard.from_json(card)
        base = environment.get(_BASE, adapter.base)
        if adapter.base != base:
            raise RefusedDataError(
                f"The adapter's card names another base than {base}, which the endpoint has.",
                "base",
                "Train it on that base, and name the base as the endpoint does.",
                "model_of_other_base",
            )
        return adapter.to_json()

    form = ModelFormat(
        family="diffusion",
        members={WEIGHTS_FILE: MAX_WEIGHT_BYTES, PEFT_CONFIG_FILE: MAX_CARD_BYTES},
        optional=frozenset({PEFT_CONFIG_FILE}),
        metrics=METRICS,
        described=described,
        load=_check_files,
    )
    return take_over_archive(archive, destination, Owner(**owner), form)


def _check_files(folder: Path) -> None:
    """Raise `UnusableAdapterError` unless the files are data in the formats of their names."""
    config = folder / PEFT_CONFIG_FILE
    if config.exists():
        try:
            told = json.loads(config.read_bytes())
        except (ValueError, RecursionError) as error:
            raise UnusableAdapterError(
                f"{PEFT_CONFIG_FILE} is not JSON", "adapter_metadata_not_json"
            ) from error
        if not isinstance(told, dict):
            raise UnusableAdapterError(
                f"{PEFT_CONFIG_FILE} is no JSON object", "adapter_metadata_not_json"
            )
    content = read_weights(folder)
    header = read_header(content)
    header.pop("__metadata__", None)
    # The tensors fill the file after its header, one after the other, as the format demands
    # (https://huggingface.co/docs/safetensors). Nothing else can hide in it.
    begin = 0
    for name, entry in header.items():
        begin = _end_of(name, entry, begin)
    length = int.from_bytes(content[:8], "little")
    if not header or begin != len(content) - 8 - length:
        raise UnusableAdapterError(
            f"{WEIGHTS_FILE} has other bytes than its tensors'", "adapter_not_safetensors"
        )


def _end_of(name: str, entry: Any, begin: int) -> int:
    """Where a tensor ends that has to begin at ``begin``."""
    match entry:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [int(first), int(end)]}:
            sizes = dtype in _BYTES and all(type(side) is int and side >= 0 for side in shape)
            if sizes and first == begin and end - first == math.prod(shape) * _BYTES[dtype]:
                return end
    raise UnusableAdapterError(
        f"{WEIGHTS_FILE}: {ascii(name)[:120]} is of another type or size than a tensor's",
        "adapter_not_safetensors",
    )
