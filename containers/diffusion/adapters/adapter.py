"""A tenant's model as files: ``adapter.safetensors`` with a LoRA's weights under diffusers' own
names, and a small card.

This module reads any file that diffusers' ``load_lora_weights`` reads for these layers, with the
same strength. diffusers in turn reads the files written here. ``lora_file`` reads names and header.
Nothing in the files is trusted: names, shapes, types and sizes are checked against the base before
a tensor is made.
"""

import itertools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn

import torch
from safetensors import SafetensorError, deserialize
from safetensors.torch import save
from torch import Tensor

from containers.diffusion.adapters.card import MAX_CARD_BYTES, AdapterCard, read_card
from containers.diffusion.adapters.errors import UnusableAdapterError
from containers.diffusion.adapters.lora import Shape
from containers.diffusion.adapters.lora_file import (
    METADATA,
    PEFT,
    UNET,
    LoraFile,
    metadata_of,
    peft_config,
    read_names,
)
from containers.diffusion.adapters.weights_file import (
    PEFT_CONFIG_FILE,
    WEIGHTS_FILE,
    read_header,
    read_weights,
)

__all__ = ["Adapter", "AdapterCard", "UnusableAdapterError", "read_adapter", "write_adapter"]

LARGEST_WEIGHT: Final = 1e4
"""No trained low-rank weight comes near this limit. A weight beyond it soon overflows in half
precision."""

_DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_ALPHA_DTYPES: Final[Mapping[str, torch.dtype]] = {
    **_DTYPES,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
}
"""Types that a layer's alpha may have; some programs write a whole number."""


@dataclass(frozen=True, eq=False)
class Adapter:
    """An adapter in host memory: its card and, by layer, A (rank, …) and B (out, rank) with
    alpha/rank in B.

    Two adapters are equal only when they are the same object: each load of a model counts as its
    own model.
    """

    card: AdapterCard
    version: str
    weights: Mapping[str, tuple[Tensor, Tensor]]

    @property
    def bytes(self) -> int:
        """Memory the weights take."""
        return sum(
            a.numel() * a.element_size() + b.numel() * b.element_size()
            for a, b in self.weights.values()
        )


def write_adapter(folder: Path, weights: Mapping[str, tuple[Tensor, Tensor]]) -> int:
    """Write a LoRA's weights in half precision into ``folder``; returns that file's bytes. PEFT's
    ``adapter_config.json`` lies beside them.

    Names are diffusers' (``unet.{layer}.lora_A.weight``). B contains alpha. Where ranks differ, the
    header gives each layer's rank as its alpha. Raises `UnusableAdapterError` when a weight is not
    finite in half precision, because the training then went wrong.
    """
    tensors: dict[str, Tensor] = {}
    for layer, (a, b) in weights.items():
        tensors[f"{UNET}{layer}.lora_A.weight"] = a.to(torch.float16).contiguous()
        # A convolution's B is a 1 × 1 convolution to diffusers.
        shaped = b if a.ndim == 2 else b[:, :, None, None]
        tensors[f"{UNET}{layer}.lora_B.weight"] = shaped.to(torch.float16).contiguous()
    for name, tensor in tensors.items():
        if not bool(torch.isfinite(tensor).all()):
            raise UnusableAdapterError(
                f"{name} is not finite in half precision; train with a lower learning rate",
                "adapter_not_finite",
            )
    ranks = {layer: a.shape[0] for layer, (a, _) in weights.items()}
    content = save(tensors, metadata_of(ranks))
    (folder / WEIGHTS_FILE).write_bytes(content)
    (folder / PEFT_CONFIG_FILE).write_text(json.dumps(peft_config(ranks), sort_keys=True))
    return len(content)


def read_adapter(
    folder: Path, shapes: Mapping[str, Shape], base_digest: str, max_rank: int, dtype: torch.dtype
) -> Adapter:
    """Read an adapter's files.

    Args:
        folder: where ``adapter.safetensors`` and ``card.json`` lie.
        shapes: the layers it may change, from ``LoraLayers.shapes``.
        base_digest: the base that is loaded.
        max_rank: the highest rank that fits.
        dtype: the type of the returned weights.

    Raises:
        UnusableAdapterError: anything is missing, malformed, too large, not finite, or meant for
            another base.
    """
    document = read_card(folder)
    card = AdapterCard.from_json(document)
    if card.base_digest != base_digest:
        raise UnusableAdapterError(
            f"it was made for base {card.base!r} with weights {card.base_digest[:12]}…; this "
            f"server has weights"
            f" {base_digest[:12]}…: train it again on this base",
            "adapter_base_differs",
        )
    content = read_weights(folder)
    header = read_header(content)
    metadata = header.pop("__metadata__", None)
    if any(name.startswith(PEFT) for name in header) and not (
        isinstance(metadata, dict) and METADATA in metadata
    ):
        metadata = {METADATA: _peft_config(folder)}
    try:
        file = read_names(header, metadata, shapes)
        ranks = _checked_ranks(file, header, shapes, max_rank)
        entries = dict(deserialize(content))
        weights = _weights_of(file, entries, ranks, dtype)
    except SafetensorError as error:
        raise UnusableAdapterError(
            f"{WEIGHTS_FILE} is no safetensors file: {error}", "adapter_not_safetensors"
        ) from error
    except UnusableAdapterError as error:
        raise UnusableAdapterError(f"{WEIGHTS_FILE}: {error}", error.code) from error
    return Adapter(card, str(document.get("version", ""))[:100], weights)


def _weights_of(
    file: LoraFile,
    entries: Mapping[str, Mapping[str, Any]],
    ranks: Mapping[str, int],
    dtype: torch.dtype,
) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B by layer, as parts of one tensor. One operation then converts and checks them all,
    because loading may take only milliseconds."""
    alphas: dict[str, float] = {}
    kept = []
    for name, place in file.places.items():
        entry = entries[name]
        if place.part == "alpha":
            alphas[place.layer] = float(
                torch.frombuffer(bytearray(entry["data"]), dtype=_ALPHA_DTYPES[entry["dtype"]])[0]
            )
        else:
            kept.append(((place.layer, place.part), entry))
    kept.sort(key=lambda entry: entry[1]["dtype"])
    buffers = [
        torch.frombuffer(
            bytearray().join(entry["data"] for _, entry in alike), dtype=_DTYPES[kind]
        ).to(dtype)
        for kind, alike in itertools.groupby(kept, key=lambda entry: entry[1]["dtype"])
    ]
    whole = torch.cat(buffers) if len(buffers) > 1 else buffers[0]
    shapes = [entry["shape"] for _, entry in kept]
    flat = torch.split(whole, [math.prod(shape) for shape in shapes])
    tensors = {
        place: (part, shape) for (place, _), part, shape in zip(kept, flat, shapes, strict=True)
    }
    scales = file.scales(ranks, alphas)
    weights: dict[str, tuple[Tensor, Tensor]] = {}
    for layer, rank in ranks.items():
        a, shape = tensors[layer, "A"]
        b = tensors[layer, "B"][0].view(-1, rank)
        if scales[layer] != 1:
            b *= scales[layer]
        weights[layer] = (a.view(shape), b)
    # A comparison with NaN is false, so this one test finds NaN, infinities and absurd numbers.
    if not float(whole.abs().max()) <= LARGEST_WEIGHT:
        _refuse_values(weights)
    return weights


def _peft_config(folder: Path) -> str | None:
    path = folder / PEFT_CONFIG_FILE
    try:
        if path.stat().st_size > MAX_CARD_BYTES:
            raise UnusableAdapterError(
                f"{PEFT_CONFIG_FILE} is larger than {MAX_CARD_BYTES} bytes",
                "adapter_config_too_large",
            )
        return path.read_text(errors="replace")
    except OSError:
        return None


def _checked_ranks(
    file: LoraFile, header: Mapping[str, Any], shapes: Mapping[str, Shape], max_rank: int
) -> dict[str, int]:
    """The rank of each layer, from the header, checked against the base."""
    parts: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, place in file.places.items():
        entry, allowed = header[key], _ALPHA_DTYPES if place.part == "alpha" else _DTYPES
        if not isinstance(entry, dict) or entry.get("dtype") not in allowed:
            raise UnusableAdapterError(
                f"{key} must be of type {', '.join(sorted(_DTYPES))}", "adapter_dtype"
            )
        shape = entry.get("shape")
        if not isinstance(shape, list) or not all(
            type(side) is int and side >= 0 for side in shape
        ):
            raise UnusableAdapterError(f"{key} has no shape", "adapter_shape")
        parts.setdefault(place.layer, {})[place.part] = tuple(shape)
    if not parts:
        raise UnusableAdapterError("it holds no weights", "adapter_empty")
    return {layer: _rank(layer, found, shapes[layer], max_rank) for layer, found in parts.items()}


def _rank(layer: str, found: Mapping[str, tuple[int, ...]], shape: Shape, max_rank: int) -> int:
    a, b = found.get("A"), found.get("B")
    if a is None or b is None:
        raise UnusableAdapterError(
            f"{layer} lacks its lora_{'A' if a is None else 'B'}.weight", "adapter_half_layer"
        )
    rank = a[0] if a else 0
    if not 1 <= rank <= max_rank:
        raise UnusableAdapterError(
            f"{layer} has rank {rank}; this server takes 1 to {max_rank}", "adapter_rank"
        )
    allowed = (
        {(shape.up, rank), (shape.up, rank, 1, 1)} if len(shape.down) == 3 else {(shape.up, rank)}
    )
    if a[1:] != shape.down or b not in allowed:
        raise UnusableAdapterError(
            f"{layer} has shapes {a} and {b}; this base needs {(rank, *shape.down)} and "
            f"{(shape.up, rank)}",
            "adapter_shape",
        )
    if found.get("alpha", ()) not in {(), (1,)}:
        raise UnusableAdapterError(f"{layer}.alpha must be one number", "adapter_alpha_shape")
    return rank


def _refuse_values(weights: Mapping[str, tuple[Tensor, Tensor]]) -> NoReturn:
    layer = next(
        layer
        for layer, pair in weights.items()
        if not all(float(tensor.abs().max()) <= LARGEST_WEIGHT for tensor in pair)
    )
    raise UnusableAdapterError(
        f"{layer} holds a weight that is no number or beyond {LARGEST_WEIGHT:g}",
        "adapter_not_finite",
    )
