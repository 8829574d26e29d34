"""Adapters that were trained elsewhere: what the file itself tells is judged without torch, and the
server reads what goes on."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from containers.diffusion.adapters.adapter import read_adapter
from containers.diffusion.adapters.imported import take_over
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base
from containers.runtime.archives.archive import extract_archive
from contracts.refused_data import RefusedDataError
from tests.containers.diffusion.conftest import RANK, archived, card, random_weights, write_model

OWNER = {"workload": "portraits", "tenant": "acme", "version": "v7", "sha256": "1" * 64}
ELSEWHERE = {"format": 1, "family": "diffusion", "metrics": {"personalisation": 0.5, "loss": 0.1}}


@pytest.fixture
def folder(tmp_path: Path, loaded_base: Base, layers: LoraLayers) -> Path:
    told = card(loaded_base, prompts=("a star",))
    return write_model(tmp_path / "model", random_weights(layers, 1), told, **ELSEWHERE)


@pytest.fixture
def taken(folder: Path, tmp_path: Path) -> Callable[..., Any]:
    """Takes over the folder as it is now."""

    def take(**environment: str) -> Any:
        destination = tmp_path / "taken"
        destination.mkdir(exist_ok=True)
        return take_over(archived(folder), destination, OWNER, environment)

    return take


def test_the_server_reads_what_goes_on(
    taken: Callable[..., Any], tmp_path: Path, loaded_base: Base, layers: LoraLayers
) -> None:
    found = taken(TENANTRY_BASE=loaded_base.name)
    assert found.metrics == {"personalisation": 0.5}
    assert found.card["imported"] == {"sha256": "1" * 64}
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["archive.tar.gz"]
    kept = tmp_path / "kept"
    kept.mkdir()
    extract_archive(tmp_path / "taken" / "archive.tar.gz", kept)
    adapter = read_adapter(kept, layers.shapes(), loaded_base.digest, RANK, torch.float32)
    assert (adapter.version, adapter.card.prompts) == ("v7", ("a star",))


def rewritten(**fields: Any) -> Callable[[Path], object]:
    def rewrite(folder: Path) -> None:
        path = folder / "card.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return rewrite


def weights(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    def spoil(folder: Path) -> None:
        path = folder / "adapter.safetensors"
        path.write_bytes(change(path.read_bytes()))

    return spoil


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (weights(lambda _: pickle.dumps({"a": 1})), "model_unreadable"),
        (weights(lambda content: content[:-2]), "model_unreadable"),
        (weights(lambda content: content + b"#!/bin/sh"), "model_unreadable"),
        (weights(lambda content: content.replace(b'"F16"', b'"F8_"')), "model_unreadable"),
        (lambda f: (f / "adapter_config.json").write_bytes(b"[]"), "model_unreadable"),
        (lambda f: (f / "adapter.safetensors").unlink(), "archive_member_missing"),
        (lambda f: (f / "adapter.bin").write_bytes(pickle.dumps(1)), "archive_member_unknown"),
        (rewritten(rank="4"), "model_unreadable"),
        (rewritten(base="another"), "model_of_other_base"),
        (rewritten(family="forecast"), "model_of_other_family"),
    ],
)
def test_what_is_no_adapter_is_refused(
    spoil: Callable[[Path], object],
    code: str,
    folder: Path,
    taken: Callable[..., Any],
    loaded_base: Base,
) -> None:
    spoil(folder)
    with pytest.raises(RefusedDataError) as refused:
        taken(TENANTRY_BASE=loaded_base.name)
    assert refused.value.code == code


def test_it_needs_no_torch() -> None:
    program = (
        "import sys, containers.diffusion.adapters.imported as _; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
