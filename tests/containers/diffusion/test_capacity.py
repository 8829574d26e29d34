"""Memory is counted correctly: as published, as measured, and as documented."""

from pathlib import Path

import pytest
import torch

from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.adapters.targets import TARGETS
from containers.diffusion.base.capacity import (
    PUBLISHED,
    configurations_of,
    main,
    memory_of,
    networks,
    parameters_of,
    usual_table,
)
from containers.diffusion.base.pipeline import TINY, load_base

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "gpu-serving.md"


@pytest.mark.parametrize(
    ("base", "counts"),
    [
        # The sizes of the weights' files on the hub, in numbers.
        ("sd15", {"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480}),
        (
            "sdxl",
            {
                "unet": 2_567_463_684,
                "vae": 83_653_863,
                "text_encoder": 123_060_480,
                "text_encoder_2": 694_659_840,
            },
        ),
    ],
)
def test_the_networks_of_well_known_bases_have_as_many_parameters_as_their_weights(
    base: str, counts: dict[str, int]
) -> None:
    assert {
        name: parameters_of(network) for name, network in networks(PUBLISHED[base]).items()
    } == counts


@pytest.mark.parametrize("targets", TARGETS)
def test_what_is_counted_is_what_a_loaded_base_takes(base_folder: Path, targets: str) -> None:
    counted = memory_of(networks(configurations_of(base_folder)), targets, 4, "bf16")
    base = load_base(str(base_folder), device="cpu", dtype="bf16")
    parts = [
        part for part in base.pipeline.components.values() if isinstance(part, torch.nn.Module)
    ]
    measured = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    assert counted.base == measured
    assert counted.slot == LoraLayers(base.unet, targets, 3, 4).bytes_per_slot


def test_the_document_has_the_table_that_the_command_prints() -> None:
    assert usual_table() in DOCUMENT.read_text()


def test_one_base_can_be_asked_for(base_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(base_folder), "--rank", "4"]) == 0
    assert f"| {base_folder} | bf16 | attention and convolutions | 4 |" in capsys.readouterr().out
    assert main([TINY, "--rank", "8"]) == 0
    assert "| tiny | bf16 |" in capsys.readouterr().out


def test_a_folder_that_is_no_base_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert "is no saved pipeline" in capsys.readouterr().err
