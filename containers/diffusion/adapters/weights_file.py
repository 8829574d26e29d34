"""The files of an adapter beside its card, as bytes: their names, sizes and header."""

import json
import struct
from pathlib import Path
from typing import Any, Final

from containers.diffusion.adapters.errors import UnusableAdapterError

WEIGHTS_FILE: Final = "adapter.safetensors"
PEFT_CONFIG_FILE: Final = "adapter_config.json"
"""Where PEFT's ``save_pretrained`` writes layers, ranks and alpha; diffusers writes them in the
header."""

MAX_WEIGHT_BYTES: Final = 256 * 1024 * 1024
MAX_HEADER_BYTES: Final = 4 * 1024 * 1024


def read_weights(folder: Path) -> bytes:
    """The weights' file of a model's folder. Raises `UnusableAdapterError`."""
    path = folder / WEIGHTS_FILE
    try:
        if path.stat().st_size > MAX_WEIGHT_BYTES:
            raise UnusableAdapterError(
                f"{WEIGHTS_FILE} is larger than {MAX_WEIGHT_BYTES} bytes", "adapter_too_large"
            )
        return path.read_bytes()
    except OSError as error:
        others = sorted(entry.name for entry in folder.iterdir())[:5] if folder.is_dir() else []
        raise UnusableAdapterError(
            f"{WEIGHTS_FILE} is not there; found "
            f"{', '.join(ascii(name) for name in others) or 'nothing'}."
            " Weights are read from safetensors alone, never from pickles",
            "adapter_weights_missing",
        ) from error


def read_header(content: bytes) -> dict[str, Any]:
    """The file's header (https://huggingface.co/docs/safetensors), with the tensors in file order.

    Raises `UnusableAdapterError`.
    """
    if len(content) < 8:
        raise _no_safetensors("")
    (length,) = struct.unpack("<Q", content[:8])
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise _no_safetensors(f": its header would have {length} bytes")
    try:
        header = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError) as error:
        raise _no_safetensors(": its header is not JSON") from error
    if not isinstance(header, dict):
        raise _no_safetensors(": its header is no object")
    return dict(sorted(header.items(), key=lambda entry: _offset(entry[1])))


def _offset(entry: object) -> int:
    """Where a tensor begins; -1 for an entry without a position, which a later check refuses."""
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return offsets[0] if isinstance(offsets, list) and offsets and type(offsets[0]) is int else -1


def _no_safetensors(why: str) -> UnusableAdapterError:
    return UnusableAdapterError(
        f"{WEIGHTS_FILE} is no safetensors file{why}", "adapter_not_safetensors"
    )
