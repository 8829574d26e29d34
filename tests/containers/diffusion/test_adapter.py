"""An adapter's files: written and read back, exchanged with diffusers, and otherwise refused."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from containers.diffusion.adapters import weights_file
from containers.diffusion.adapters.adapter import (
    Adapter,
    AdapterCard,
    UnusableAdapterError,
    read_adapter,
    write_adapter,
)
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base
from tests.containers.diffusion.conftest import RANK, card, random_weights, write_model


@pytest.fixture
def folder(tmp_path: Path, loaded_base: Base, layers: LoraLayers) -> Path:
    """A good adapter's files."""
    return write_model(
        tmp_path / "model",
        random_weights(layers, 1),
        card(loaded_base, prompts=("a star", "a heart")),
    )


@pytest.fixture
def read(loaded_base: Base, layers: LoraLayers) -> Callable[[Path], Adapter]:
    def reading(folder: Path) -> Adapter:
        return read_adapter(folder, layers.shapes(), loaded_base.digest, RANK, torch.float32)

    return reading


def test_what_is_written_is_read_in_half_precision(
    folder: Path, layers: LoraLayers, read: Callable[[Path], Adapter]
) -> None:
    found = read(folder)
    for name, (a, b) in random_weights(layers, 1).items():
        assert torch.equal(found.weights[name][0], a.half().float())
        assert torch.equal(found.weights[name][1], b.half().float())
    assert (found.card.prompts, found.version) == (("a star", "a heart"), "v1")
    assert found.bytes == layers.bytes_per_slot
    assert found != read(folder)


def test_a_training_that_went_wrong_writes_nothing(tmp_path: Path, layers: LoraLayers) -> None:
    weights = random_weights(layers, 1)
    next(iter(weights.values()))[0][0] = 1e6
    with pytest.raises(
        UnusableAdapterError,
        match=r"not finite in half precision; train with a lower learning rate",
    ):
        write_adapter(tmp_path, weights)
    assert not list(tmp_path.iterdir())


def test_a_file_with_alphas_is_scaled_by_them(
    folder: Path, layers: LoraLayers, read: Callable[[Path], Adapter]
) -> None:
    plain = read(folder)
    layer = next(iter(layers.shapes()))
    tensors = load_file(folder / "adapter.safetensors")
    tensors[f"unet.{layer}.alpha"] = torch.tensor(2.0 * RANK)
    save_file(tensors, folder / "adapter.safetensors")
    scaled = read(folder)
    assert torch.equal(scaled.weights[layer][1], 2 * plain.weights[layer][1])


def test_a_part_of_the_layers_is_enough(
    folder: Path, layers: LoraLayers, read: Callable[[Path], Adapter]
) -> None:
    names = list(layers.shapes())[:2]
    weights = random_weights(layers, 3, rank=2)
    write_adapter(folder, {name: weights[name] for name in names})
    assert list(read(folder).weights) == names


def rewritten(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(folder / "adapter.safetensors")
    change(tensors)
    save_file(tensors, folder / "adapter.safetensors")


def with_header(folder: Path, header: bytes, length: int | None = None, rest: bytes = b"") -> None:
    content = struct.pack("<Q", len(header) if length is None else length) + header + rest
    (folder / "adapter.safetensors").write_bytes(content)


LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
A, B = f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight"


class Exploit:
    def __reduce__(self) -> tuple[Any, ...]:
        raise AssertionError("a pickle was read")


def pickled(folder: Path) -> None:
    (folder / "adapter.safetensors").unlink()
    # Once as torch.save writes it, and once as a pickle under the expected name.
    torch.save({A: torch.zeros(1)}, folder / "pytorch_lora_weights.bin")


def pickled_under_the_name(folder: Path) -> None:
    (folder / "adapter.safetensors").write_bytes(pickle.dumps({"weights": [1.0] * 100}))


def header_of(**entries: Any) -> bytes:
    return json.dumps(
        {A: {"dtype": "F32", "shape": [2, 64], "data_offsets": [0, 512], **entries}}
    ).encode()


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "pickle": (pickled, r"is not there; found .*pytorch_lora_weights\.bin.*never from pickles"),
    "pickle under the name": (pickled_under_the_name, "no safetensors file"),
    "nothing": (lambda folder: (folder / "adapter.safetensors").unlink(), "is not there"),
    "empty": (
        lambda folder: (folder / "adapter.safetensors").write_bytes(b""),
        "no safetensors file",
    ),
    "cut": (
        lambda folder: (folder / "adapter.safetensors").write_bytes(
            (folder / "adapter.safetensors").read_bytes()[:-100]
        ),
        "no safetensors file",
    ),
    "endless header": (lambda folder: with_header(folder, b"{}", 2**63), "its header would have"),
    "header beyond the file": (
        lambda folder: with_header(folder, b"{}", 3),
        "its header would have",
    ),
    "header of noise": (lambda folder: with_header(folder, b"\xff" * 64), "its header is not JSON"),
    "deep header": (lambda folder: with_header(folder, b"[" * 100_000), "its header is not JSON"),
    "header that is a list": (
        lambda folder: with_header(folder, b"[1, 2]"),
        "its header is no object",
    ),
    "no tensors": (lambda folder: with_header(folder, b"{}"), "holds no weights"),
    "tensor beyond the file": (
        lambda folder: rewritten_header(folder, {"data_offsets": [0, 2**40]}),
        "no safetensors file",
    ),
    "tensor that is a word": (
        lambda folder: with_header(folder, json.dumps({A: "x"}).encode()),
        "must be of type",
    ),
    "negative side": (
        lambda folder: with_header(folder, header_of(shape=[-1, 64])),
        "has no shape",
    ),
    "sides that are words": (
        lambda folder: with_header(folder, header_of(shape=["2", 64])),
        "has no shape",
    ),
    "another type": (
        lambda folder: with_header(folder, header_of(dtype="F64")),
        "must be of type BF16, F16, F32",
    ),
    "another layer": (
        lambda folder: rewritten(
            folder, lambda t: t.update({"unet.mid_block.lora_A.weight": torch.zeros(1)})
        ),
        "is no adapted layer of this base",
    ),
    "another model's file": (
        lambda folder: rewritten(
            folder, lambda t: t.update({"transformer.x.lora_A.weight": torch.zeros(1)})
        ),
        "is no adapted layer of this base",
    ),
    "half a layer": (
        lambda folder: rewritten(folder, lambda t: t.pop(B)),
        rf"{LAYER} lacks its lora_B\.weight",
    ),
    "too high a rank": (
        lambda folder: rewritten(
            folder, lambda t: t.update({A: torch.zeros(5, 64), B: torch.zeros(64, 5)})
        ),
        "has rank 5; this server takes 1 to 4",
    ),
    "no rank": (
        lambda folder: rewritten(
            folder, lambda t: t.update({A: torch.zeros(0, 64), B: torch.zeros(64, 0)})
        ),
        "has rank 0",
    ),
    "another width": (
        lambda folder: rewritten(folder, lambda t: t.update({A: torch.zeros(4, 63)})),
        r"has shapes \(4, 63\) and \(64, 4\); this base needs \(4, 64\) and \(64, 4\)",
    ),
    "ranks that differ": (
        lambda folder: rewritten(folder, lambda t: t.update({B: torch.zeros(64, 3)})),
        "has shapes",
    ),
    "alpha of several numbers": (
        lambda folder: rewritten(
            folder, lambda t: t.update({f"unet.{LAYER}.alpha": torch.zeros(2)})
        ),
        "must be one number",
    ),
    "not a number": (
        lambda folder: rewritten(folder, lambda t: t.update({A: torch.full((4, 64), torch.nan)})),
        f"{LAYER} holds a weight that is no number",
    ),
    "one infinity": (
        lambda folder: rewritten(folder, lambda t: t[B].view(-1)[-1:].fill_(torch.inf)),
        f"{LAYER} holds a weight that is no number",
    ),
    "absurd weight": (
        lambda folder: rewritten(folder, lambda t: t[B].view(-1)[:1].fill_(6e4)),
        f"{LAYER} holds a weight that is no number or beyond 10000",
    ),
    "absurd alpha": (
        lambda folder: rewritten(
            folder, lambda t: t.update({f"unet.{LAYER}.alpha": torch.tensor(torch.nan)})
        ),
        f"{LAYER} holds a weight that is no number",
    ),
    "no card": (lambda folder: (folder / "card.json").unlink(), r"card\.json is not there"),
    "card that is no JSON": (
        lambda folder: (folder / "card.json").write_text("{"),
        r"card\.json is not JSON",
    ),
    "deep card": (
        lambda folder: (folder / "card.json").write_text("[" * 50_000),
        r"card\.json is not JSON",
    ),
    "card that is a list": (
        lambda folder: (folder / "card.json").write_text("[]"),
        r"card\.json must be a JSON object",
    ),
    "large card": (
        lambda folder: (folder / "card.json").write_text(" " * 70_000),
        r"card\.json is larger than",
    ),
    "another base": (
        lambda folder: recarded(folder, base="other/base", base_digest="f" * 64),
        (
            r"it was made for base 'other/base' with weights ffffffffffff…; .*"
            r"train it again on this base"
        ),
    ),
    "no base": (lambda folder: recarded(folder, base_digest=None), "'base_digest' must be a text"),
    "unknown targets": (
        lambda folder: recarded(folder, targets="everything"),
        "'targets' is 'everything'; known are",
    ),
    "rank that is a word": (
        lambda folder: recarded(folder, rank="4"),
        "'rank' must be a whole number",
    ),
    "prompts that are a word": (
        lambda folder: recarded(folder, prompts="a star"),
        "'prompts' must be a list",
    ),
    "blank prompt": (
        lambda folder: recarded(folder, prompts=[" "]),
        "each of 'prompts' must be a text",
    ),
    "prompt that is no text": (
        lambda folder: recarded(folder, prompts=["\ud800"]),
        r"card\.json is not JSON",
    ),
}


def rewritten_header(folder: Path, entry: dict[str, Any]) -> None:
    with_header(folder, header_of(shape=[4, 64], **entry), rest=bytes(1024))
    content = (folder / "adapter.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header[B] = {"dtype": "F32", "shape": [64, 4], "data_offsets": [0, 1024]}
    with_header(folder, json.dumps(header).encode(), rest=bytes(1024))


def recarded(folder: Path, **fields: Any) -> None:
    document = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps({**document, **fields}))


CODES = {
    "pickle": "adapter_weights_missing",
    "nothing": "adapter_weights_missing",
    "no tensors": "adapter_empty",
    "tensor that is a word": "adapter_dtype",
    "negative side": "adapter_shape",
    "sides that are words": "adapter_shape",
    "another type": "adapter_dtype",
    "another layer": "adapter_layer_unknown",
    "another model's file": "adapter_layer_unknown",
    "half a layer": "adapter_half_layer",
    "too high a rank": "adapter_rank",
    "no rank": "adapter_rank",
    "another width": "adapter_shape",
    "ranks that differ": "adapter_shape",
    "alpha of several numbers": "adapter_alpha_shape",
    "not a number": "adapter_not_finite",
    "one infinity": "adapter_not_finite",
    "absurd weight": "adapter_not_finite",
    "absurd alpha": "adapter_not_finite",
    "no card": "adapter_card_missing",
    "card that is no JSON": "adapter_card_not_json",
    "deep card": "adapter_card_not_json",
    "card that is a list": "adapter_card_not_json",
    "large card": "adapter_card_too_large",
    "another base": "adapter_base_differs",
    "no base": "adapter_card_malformed",
    "unknown targets": "adapter_card_malformed",
    "rank that is a word": "adapter_card_malformed",
    "prompts that are a word": "adapter_card_malformed",
    "blank prompt": "adapter_card_malformed",
    "prompt that is no text": "adapter_card_not_json",
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_anything_else_is_refused_with_the_reason(
    folder: Path, read: Callable[[Path], Adapter], kind: str
) -> None:
    spoil, reason = HOSTILE[kind]
    spoil(folder)
    with pytest.raises(UnusableAdapterError, match=reason) as refused:
        read(folder)
    assert refused.value.code == CODES.get(kind, "adapter_not_safetensors")
    assert len(str(refused.value)) < 500


def test_a_file_that_is_too_large_is_not_read(
    folder: Path, read: Callable[[Path], Adapter], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights_file, "MAX_WEIGHT_BYTES", 1000)
    with pytest.raises(
        UnusableAdapterError, match=r"adapter\.safetensors is larger than 1000 bytes"
    ):
        read(folder)


def test_a_card_says_the_same_after_it_was_written(loaded_base: Base) -> None:
    written = card(loaded_base, subject="an icon", prompts=("a star",))
    assert AdapterCard.from_json(json.loads(json.dumps(written.to_json()))) == written
