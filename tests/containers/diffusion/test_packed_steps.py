"""One batch that trains several tenants, each as if it were alone."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base, load_base
from containers.diffusion.training.packed_steps import FIRST_SLOT, Examples, Lesson, PackedSteps
from containers.diffusion.training.settings import Settings, parse_settings

Weights = dict[str, tuple[Tensor, Tensor]]

SAME_ADAPTER = 1e-3
"""The largest relative difference between an adapter trained alone and in a pack, in the change of
weights. Adapters are written in half precision, whose rounding is 5e-4."""


def settings(**given: Any) -> Settings:
    texts = {"steps": "4", "warmup": "2", **{name: str(value) for name, value in given.items()}}
    return parse_settings(texts)


def lesson(base: Base, seed: int, prior: Examples | None = None) -> Lesson:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(4, base.channels, 16, 16, generator=generator).cumsum(-1) * 0.2
    return Lesson(
        Examples(
            latents.to(base.dtype), base.encode([f"thing {seed} {number}" for number in range(4)])
        ),
        seed,
        prior,
    )


def train(base: Base, lessons: Sequence[Lesson], chosen: Settings) -> PackedSteps:
    layers = LoraLayers(
        base.unet, chosen.targets, FIRST_SLOT + len(lessons), chosen.rank, torch.float32
    )
    try:
        steps = PackedSteps(base, layers, lessons, chosen, base.unconditional())
        for _ in steps.run():
            pass
        return steps
    finally:
        layers.remove()


def adapter(steps: PackedSteps, number: int, snapshot: int = -1) -> Weights:
    return steps.snapshots[snapshot][1][number]


def difference(one: Weights, other: Weights) -> float:
    """The difference between two adapters' changes of the weights, relative to the first's
    change."""
    pairs = [(b.double() @ a.double().flatten(1), other[name]) for name, (a, b) in one.items()]
    apart = sum(
        float((own - b.double() @ a.double().flatten(1)).square().sum()) for own, (a, b) in pairs
    )
    return float((apart / sum(float(own.square().sum()) for own, _ in pairs)) ** 0.5)


@pytest.mark.parametrize("images_per_step", [1, 2])
def test_a_tenant_gets_the_same_adapter_alone_and_at_any_place_of_a_pack(
    loaded_base: Base, images_per_step: int
) -> None:
    chosen = settings(images_per_step=images_per_step)
    lessons = [lesson(loaded_base, seed) for seed in (3, 1, 2)]
    pack = train(loaded_base, lessons, chosen)
    turned = train(loaded_base, lessons[::-1], chosen)
    for number in range(3):
        alone = train(loaded_base, [lessons[number]], chosen)
        assert difference(adapter(alone, 0), adapter(pack, number)) < SAME_ADAPTER
        assert difference(adapter(alone, 0), adapter(turned, 2 - number)) < SAME_ADAPTER
        assert [row[0] for row in alone.losses] == pytest.approx(
            [row[number] for row in pack.losses], rel=1e-4
        )
    assert difference(adapter(pack, 0), adapter(pack, 1)) > 0.5


def test_the_loss_falls_and_the_base_stays_as_it_was(loaded_base: Base) -> None:
    before = {name: value.clone() for name, value in loaded_base.unet.state_dict().items()}
    steps = train(
        loaded_base,
        [lesson(loaded_base, 1), lesson(loaded_base, 2)],
        settings(steps=24, learning_rate=2e-2),
    )
    for number in range(2):
        losses = [row[number] for row in steps.losses]
        assert sum(losses[-8:]) < 0.8 * sum(losses[:8])
    after = loaded_base.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_a_tenant_whose_numbers_are_none_fails_and_its_neighbours_do_not_notice(
    loaded_base: Base,
) -> None:
    good = [lesson(loaded_base, 1), lesson(loaded_base, 2)]
    spoilt = Lesson(
        Examples(torch.full_like(good[0].own.latents, float("nan")), good[0].own.words), 3
    )
    steps = train(loaded_base, [good[0], spoilt, good[1]], settings())
    assert list(steps.failures) == [1]
    assert "no finite number at step 1" in steps.failures[1]
    for number, place in enumerate((0, 2)):
        alone = train(loaded_base, [good[number]], settings())
        assert difference(adapter(alone, 0), adapter(steps, place)) < SAME_ADAPTER
    assert all(
        bool(torch.isfinite(each).all()) for pair in adapter(steps, 1).values() for each in pair
    )


def test_when_all_have_failed_no_more_steps_are_taken(loaded_base: Base) -> None:
    good = lesson(loaded_base, 1)
    spoilt = Lesson(Examples(torch.full_like(good.own.latents, float("inf")), good.own.words), 3)
    steps = train(loaded_base, [spoilt], settings(steps=50))
    assert (len(steps.losses), list(steps.failures), steps.snapshots) == (1, [0], [])


def test_one_tenants_large_gradient_is_clipped_by_itself(loaded_base: Base) -> None:
    calm = lesson(loaded_base, 1)
    wild = Lesson(Examples(lesson(loaded_base, 2).own.latents * 300, calm.own.words), 2)
    pack = train(loaded_base, [calm, wild], settings(clip=0.01))
    alone = train(loaded_base, [calm], settings(clip=0.01))
    assert difference(adapter(alone, 0), adapter(pack, 0)) < SAME_ADAPTER
    assert pack.failures == {}


def test_prior_preservation_keeps_what_the_adapter_would_unlearn(loaded_base: Base) -> None:
    own, prior = lesson(loaded_base, 1).own, lesson(loaded_base, 2).own
    # One tenant's pictures pull hard; the base's pictures of its class are quite different.
    pulling = Examples(own.latents * 4, own.words)

    def loss_of_prior(weight: float) -> float:
        chosen = settings(
            steps=16, learning_rate=3e-2, prior_preservation=weight, caption_dropout=0
        )
        steps = train(loaded_base, [Lesson(pulling, 1, prior if weight else None)], chosen)
        judged = train_nothing(loaded_base, prior, adapter(steps, 0), chosen)
        return sum(judged) / len(judged)

    assert loss_of_prior(3.0) < 0.9 * loss_of_prior(0.0)


def train_nothing(
    base: Base, examples: Examples, weights: Weights, chosen: Settings
) -> list[float]:
    """The losses of some examples under a constant adapter."""
    layers = LoraLayers(base.unet, chosen.targets, FIRST_SLOT + 1, chosen.rank, torch.float32)
    try:
        still = settings(steps=10, learning_rate=1e-8, warmup=0, caption_dropout=0)
        steps = PackedSteps(base, layers, [Lesson(examples, 9)], still, base.unconditional())
        layers.put(FIRST_SLOT, weights)
        for _ in steps.run():
            pass
        return [row[0] for row in steps.losses]
    finally:
        layers.remove()


def test_gradient_checkpointing_changes_nothing_but_memory(loaded_base: Base) -> None:
    lessons = [lesson(loaded_base, 1), lesson(loaded_base, 2)]
    plain = train(loaded_base, lessons, settings())
    saving = train(loaded_base, lessons, settings(gradient_checkpointing="true"))
    for number in range(2):
        assert difference(adapter(plain, number), adapter(saving, number)) < SAME_ADAPTER
    assert not any(
        getattr(module, "gradient_checkpointing", False) for module in loaded_base.unet.modules()
    )


def test_a_base_of_sdxls_shape_is_trained_the_same_way(xl_folder: Any) -> None:
    base = load_base(str(xl_folder), device="cpu")
    lessons = [lesson(base, 1), lesson(base, 2)]
    pack = train(base, lessons, settings())
    alone = train(base, lessons[1:], settings())
    assert difference(adapter(alone, 0), adapter(pack, 1)) < SAME_ADAPTER


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
def test_a_base_in_half_precision_trains_adapters_in_single(
    base_folder: Any, loaded_base: Base, dtype: str
) -> None:
    base = load_base(str(base_folder), device="cpu", dtype=dtype)
    half = train(base, [lesson(base, 1)], settings(steps=3))
    single = train(loaded_base, [lesson(loaded_base, 1)], settings(steps=3))
    assert half.failures == {}
    # Adam's first steps are equally long for a gradient near zero, whose sign then depends on
    # rounding.
    assert difference(adapter(single, 0), adapter(half, 0)) < 0.3


def test_snapshots_are_kept_on_the_way(loaded_base: Base) -> None:
    steps = train(loaded_base, [lesson(loaded_base, 1)], settings(steps=10, snapshots="[0.1, 0.5]"))
    assert [step for step, _ in steps.snapshots] == [1, 5, 10]
    assert difference(adapter(steps, 0, -1), adapter(steps, 0, -2)) > 0.05


def test_training_that_is_broken_off_leaves_the_base_alone(loaded_base: Base) -> None:
    layers = LoraLayers(loaded_base.unet, "attention", 2, 2, torch.float32)
    chosen = settings(targets="attention", rank=2, gradient_checkpointing="true")
    run = PackedSteps(
        loaded_base, layers, [lesson(loaded_base, 1)], chosen, loaded_base.unconditional()
    ).run()
    assert next(run) == 1
    run.close()
    assert not any(parameter.requires_grad for parameter in loaded_base.unet.parameters())
    layers.remove()
    assert not any(
        getattr(module, "gradient_checkpointing", False) for module in loaded_base.unet.modules()
    )
