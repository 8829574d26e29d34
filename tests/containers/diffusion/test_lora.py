"""Adapters on the layers of a UNet: each sample gets its own, with the same result as adding it to
the weights."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base
from tests.containers.diffusion.conftest import RANK, TARGETS, Weights, random_weights

SLOTS = 6
# Sums are rounded in another order; the outputs are about 1 in size.
TOLERANCE = 2e-4


@pytest.fixture
def filled(layers: LoraLayers) -> dict[int, Weights]:
    """Adapters in slots 1 to 6, by slot; the base in slot 0."""
    weights = {slot: random_weights(layers, slot) for slot in range(1, SLOTS + 1)}
    for slot, content in weights.items():
        layers.put(slot, content)
    return weights


def samples(base: Base, count: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    side = base.default_size // base.scale
    latents = torch.randn(count, base.channels, side, side, generator=generator)
    states = torch.randn(count, 24, base.unet.config.cross_attention_dim, generator=generator)
    return latents, torch.arange(count) * 50 + 1, states


def drawn(base: Base, layers: LoraLayers, slots: Sequence[int]) -> Tensor:
    """The UNet's output for samples of these slots; sample i has the same input for any slot and
    neighbours."""
    latents, timesteps, states = samples(base, len(slots))
    layers.routing.route(slots, base.device)
    output: Tensor = base.unet(latents, timesteps, states, return_dict=False)[0]
    return output


def drawn_with_added_weights(
    base: Base, layers: LoraLayers, weights: Weights | None, count: int
) -> Tensor:
    """The output when the layers themselves hold W + B · A, without any of our code."""
    before = {name: layer.layer.weight.clone() for name, layer in layers.layers.items()}
    for name, (a, b) in (weights or {}).items():
        weight = layers.layers[name].layer.weight
        weight += (b @ a.flatten(1)).reshape(weight.shape)
    try:
        return drawn(base, layers, [0] * count)
    finally:
        for name, layer in layers.layers.items():
            layer.layer.weight.copy_(before[name])


@pytest.mark.parametrize(
    "slots",
    [
        [3, 3, 3, 3],
        [0, 0, 0, 0],
        [1, 2, 3, 4],
        [2, 2, 3, 3],
        [5, 5, 1, 1, 3, 3],
        [1, 5, 2, 2],
        [0, 4, 0, 6],
        [6, 5, 4, 3],
        [1, 1, 1, 0],
        [2],
    ],
    ids=str,
)
@pytest.mark.parametrize("for_training", [False, True])
def test_each_sample_is_drawn_with_the_weights_of_its_own_slot(
    loaded_base: Base,
    layers: LoraLayers,
    filled: dict[int, Weights],
    slots: list[int],
    for_training: bool,
) -> None:
    with torch.no_grad():
        expected = {
            slot: drawn_with_added_weights(loaded_base, layers, filled.get(slot), len(slots))
            for slot in set(slots)
        }
    # Training takes samples through A and B; drawing may add them to the weights.
    with torch.set_grad_enabled(for_training):
        output = drawn(loaded_base, layers, slots).detach()
    for sample, slot in enumerate(slots):
        difference = (output[sample] - expected[slot][sample]).abs().max()
        assert difference < TOLERANCE, (sample, slot)
    # The outputs differ enough for the test to notice another sample's weights.
    for one, other in itertools.combinations(set(slots), 2):
        assert (expected[one] - expected[other]).abs().amax((1, 2, 3)).min() > 100 * TOLERANCE


@torch.no_grad()
def test_a_slot_holds_nothing_of_the_adapter_before(loaded_base: Base, layers: LoraLayers) -> None:
    layers.put(1, random_weights(layers, 1))
    small = random_weights(layers, 2, rank=RANK - 2)
    only = dict(itertools.islice(small.items(), 3))
    layers.put(1, only)
    taken = layers.take(1)
    for name, (a, b) in taken.items():
        if name in only:
            assert torch.equal(a[: RANK - 2], only[name][0])
            assert torch.equal(b[:, : RANK - 2], only[name][1])
            assert not a[RANK - 2 :].any()
            assert not b[:, RANK - 2 :].any()
        else:
            assert not a.any()
            assert not b.any()
    layers.put(1, {})
    assert torch.equal(drawn(loaded_base, layers, [1, 1]), drawn(loaded_base, layers, [0, 0]))


@torch.no_grad()
def test_without_its_adapters_the_base_is_as_it_was(loaded_base: Base) -> None:
    latents, timesteps, states = samples(loaded_base, 2)
    before = loaded_base.unet(latents, timesteps, states, return_dict=False)[0]
    names = [name for name, _ in loaded_base.unet.named_parameters()]
    layers = LoraLayers(loaded_base.unet, "attention", 3, RANK)
    layers.put(1, random_weights(layers, 1))
    assert not torch.equal(drawn(loaded_base, layers, [1, 1]), before)
    layers.remove()
    assert [name for name, _ in loaded_base.unet.named_parameters()] == names
    assert torch.equal(loaded_base.unet(latents, timesteps, states, return_dict=False)[0], before)


def test_what_cannot_be_adapted_is_refused(loaded_base: Base, layers: LoraLayers) -> None:
    with pytest.raises(ValueError, match="slot 0 is the base's"):
        layers.put(0, {})
    with pytest.raises(ValueError, match="no layers whose names end in to_q"):
        LoraLayers(torch.nn.Sequential(torch.nn.Linear(2, 2)), TARGETS, 2, RANK)
    layers.routing.only = None
    with pytest.raises(RuntimeError, match="no sample was given a slot"):
        loaded_base.unet(*samples(loaded_base, 1), return_dict=False)


def test_the_bytes_of_a_slot_are_those_of_its_numbers(layers: LoraLayers) -> None:
    weights = random_weights(layers, 1)
    assert layers.bytes_per_slot == 4 * sum(a.numel() + b.numel() for a, b in weights.values())
