"""The engine: it draws pictures of many tenants in one batch, each the same as alone, in fair
order. One tenant's errors do not affect another's pictures."""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline

from containers.diffusion.adapters.adapter import Adapter, write_adapter
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base, UnusableBaseError, load_base
from containers.diffusion.base.prompts import PromptCache
from containers.diffusion.base.sampler import Sampler
from containers.diffusion.serving.engine import SAME_PICTURE, Engine, EngineSettings, Job, Pixels
from containers.diffusion.serving.request import Drawing, PictureRequest
from containers.runtime.serving.serving_errors import (
    DeadlineExceededError,
    ServingError,
    TooManyRequestsError,
)
from tests.containers.diffusion.conftest import RANK, TARGETS, card, random_weights

Adapters = Callable[..., Adapter]


def drawing(
    prompt: str = "a star", seed: int = 0, steps: int = 4, guidance: float = 4.0, **more: Any
) -> Drawing:
    return Drawing(
        **{"negative_prompt": None, "width": 32, "height": 32, **more},
        prompt=prompt,
        seed=seed,
        steps=steps,
        guidance=guidance,
    )


def engine_over(base: Base, layers: LoraLayers, **settings: int) -> Engine:
    """An engine whose turns the test calls itself."""
    return Engine(base, layers, EngineSettings(**settings))


@pytest.fixture
def engine(loaded_base: Base, layers: LoraLayers) -> Engine:
    return engine_over(loaded_base, layers, places=8)


def turns_until(engine: Engine, *jobs: Job) -> int:
    """Take turns until the jobs are answered; returns their number."""
    for number in range(1000):
        if all(job.answer.done() for job in jobs):
            return number
        engine.turn()
    raise AssertionError("the jobs are never answered")


def drawn(engine: Engine, adapter: Adapter, *drawings: Drawing) -> list[Pixels]:
    job = engine.submit(adapter, drawings)
    turns_until(engine, job)
    return job.answer.result()


def same(one: Pixels, other: Pixels) -> bool:
    if one.shape != other.shape:
        return False
    most, share = SAME_PICTURE
    difference = np.abs(one.astype(int) - other.astype(int))
    return bool(difference.max() <= most and (difference > 0).mean() <= share)


def assert_at_rest(engine: Engine) -> None:
    """Check that nothing waits, nothing is in flight, and every slot is free."""
    engine.turn()
    status = engine.status()
    assert (status["in_flight"], status["waiting"]) == (0, 0)
    assert not engine.bank.pinned


@pytest.mark.parametrize("kind", ["sd", "xl"])
def test_pictures_are_those_of_diffusers_with_the_same_lora(
    kind: str, base_folder: Path, xl_folder: Path, tmp_path: Path
) -> None:
    folder = base_folder if kind == "sd" else xl_folder
    base = load_base(str(folder), device="cpu")
    layers = LoraLayers(base.unet, TARGETS, 2, RANK)
    # A file holds half precision.
    weights = {
        name: (a.half().float(), b.half().float())
        for name, (a, b) in random_weights(layers, 1).items()
    }
    write_adapter(tmp_path, weights)
    theirs = DiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    theirs.scheduler = DDIMScheduler.from_config(theirs.scheduler.config)
    theirs.set_progress_bar_config(disable=True)
    without = pictures_of(theirs, drawing())
    theirs.load_lora_weights(tmp_path, weight_name="adapter.safetensors")

    engine = engine_over(base, layers)
    adapter = Adapter(card(base), "v1", weights)
    for asked in (
        drawing("a red star", seed=3, steps=5, guidance=6.0),
        drawing(
            "a circle", seed=4, steps=7, guidance=3.0, negative_prompt="grey", width=24, height=40
        ),
        drawing("a heart", seed=5, steps=3, guidance=1.0),
    ):
        (ours,) = drawn(engine, adapter, asked)
        assert ours.shape == (asked.height, asked.width, 3)
        assert same(ours, pictures_of(theirs, asked)), asked
    assert not same(without, pictures_of(theirs, drawing()))


def pictures_of(pipeline: Any, asked: Drawing) -> Pixels:
    """The picture of a diffusers pipeline."""
    images = pipeline(
        asked.prompt,
        negative_prompt=asked.negative_prompt,
        num_inference_steps=asked.steps,
        guidance_scale=asked.guidance,
        width=asked.width,
        height=asked.height,
        generator=torch.Generator().manual_seed(asked.seed),
        output_type="np",
    ).images
    pixels: Pixels = (images[0] * 255).round().astype(np.uint8)
    return pixels


@pytest.mark.parametrize("steps", [1, 7, 50])
@pytest.mark.parametrize(
    "scheduler",
    [
        {
            "prediction_type": "epsilon",
            "steps_offset": 1,
            "set_alpha_to_one": False,
            "clip_sample": False,
        },
        {"prediction_type": "epsilon", "clip_sample": True, "clip_sample_range": 0.7},
        {"prediction_type": "v_prediction", "clip_sample": False},
        {
            "prediction_type": "v_prediction",
            "rescale_betas_zero_snr": True,
            "timestep_spacing": "trailing",
            "clip_sample": True,
        },
    ],
    ids=["epsilon", "epsilon clipped", "v", "v from pure noise"],
)
def test_a_step_is_the_schedulers_step_for_every_sample(
    base_folder: Path, scheduler: dict[str, Any], steps: int
) -> None:
    base = load_base(str(base_folder), device="cpu")
    base.pipeline.scheduler = DDIMScheduler(**scheduler)
    reference: Any = DDIMScheduler(**scheduler)
    reference.set_timesteps(steps)
    sampler = Sampler(base)
    schedule = sampler.schedule(steps)
    assert list(schedule.timesteps) == reference.timesteps.tolist()
    latents, prediction = torch.randn(
        2, steps, 4, 3, 3, generator=torch.Generator().manual_seed(1)
    ).unbind()
    # Take all steps of the schedule at once, with each sample at its own step.
    moved = sampler.step(latents, prediction, schedule.steps)
    for number, timestep in enumerate(reference.timesteps):
        expected = reference.step(prediction[number], timestep, latents[number]).prev_sample
        torch.testing.assert_close(moved[number], expected, rtol=1e-4, atol=1e-4)


def test_an_autoencoder_that_overflows_in_half_precision_is_kept_in_single(
    xl_folder: Path, base_folder: Path
) -> None:
    xl = load_base(str(xl_folder), device="cpu", dtype="fp16")
    assert (xl.unet.dtype, xl.pipeline.vae.dtype) == (torch.float16, torch.float32)
    assert xl.to_images(torch.zeros(1, 4, 4, 4, dtype=torch.float16)).shape == (1, 8, 8, 3)
    assert (
        load_base(str(base_folder), device="cpu", dtype="fp16").pipeline.vae.dtype == torch.float16
    )


def test_a_base_that_cannot_be_sampled_is_refused(base_folder: Path) -> None:
    base = load_base(str(base_folder), device="cpu")
    base.pipeline.scheduler = DDIMScheduler(prediction_type="sample")
    with pytest.raises(
        UnusableBaseError, match="predicts 'sample'; epsilon or v_prediction is needed"
    ):
        Sampler(base)
    base = load_base(str(base_folder), device="cpu")
    base.pipeline.scheduler = DDIMScheduler(
        rescale_betas_zero_snr=True, timestep_spacing="trailing"
    )
    with pytest.raises(
        UnusableBaseError, match="predicts noise at a step where there is nothing else"
    ):
        Sampler(base).schedule(5)


def test_a_picture_is_the_same_alone_and_beside_any_others(
    engine: Engine, adapter: Adapters
) -> None:
    tenants = [adapter(seed) for seed in range(4)]
    # The tenant, the turn and the drawing of each request, with different seeds, numbers of steps,
    # guidance, words and sizes.
    asked: list[tuple[int, int, Drawing]] = [
        (0, 0, drawing("a star", 1, steps=9)),
        (0, 1, drawing("a star", 1, steps=9)),
        (0, 2, drawing("a heart", 2, steps=5, guidance=0.0)),
        (1, 0, drawing("a star", 3, steps=6, guidance=9.0)),
        (2, 3, drawing("a ring", 4, steps=4, guidance=2.0, negative_prompt="a star")),
        (2, 3, drawing("a moon", 5, steps=7, width=40, height=24)),
        (3, 1, drawing("a moon", 5, steps=7, width=40, height=24)),
        (3, 2, drawing("a cross", 6, steps=3, guidance=1.0)),
        (6, 0, drawing("a cross", 7, steps=2)),
    ]
    alone = [drawn(engine, tenants[tenant], what)[0] for _, tenant, what in asked]
    assert not any(same(alone[one], alone[other]) for one in range(9) for other in range(one))
    jobs: list[Job] = []
    before = engine.status()
    for turn in range(7):
        jobs += [
            engine.submit(tenants[tenant], [what]) for when, tenant, what in asked if when == turn
        ]
        engine.turn()
    turns_until(engine, *jobs)
    for picture, job, (_, _, what) in zip(alone, jobs, asked, strict=True):
        assert same(picture, job.answer.result()[0]), what
    after = engine.status()
    assert after["picture_steps"] - before["picture_steps"] == sum(
        what.steps for _, _, what in asked
    )
    # They were drawn together, not one after another.
    assert after["steps"] - before["steps"] < 25
    assert_at_rest(engine)


def test_several_pictures_of_a_request_are_those_of_its_seeds(
    engine: Engine, adapter: Adapters
) -> None:
    tenant = adapter(1)
    together = drawn(engine, tenant, *(drawing(seed=seed) for seed in range(11)))
    for seed in (0, 7, 10):
        assert same(together[seed], drawn(engine, tenant, drawing(seed=seed))[0])
    assert_at_rest(engine)


def test_a_request_joins_at_the_next_step_and_leaves_at_its_own_end(
    engine: Engine, adapter: Adapters
) -> None:
    slow = engine.submit(adapter(1), [drawing(steps=30)])
    for _ in range(3):
        engine.turn()
    quick = engine.submit(adapter(2), [drawing(steps=5)])
    assert turns_until(engine, quick) == 5
    assert not slow.answer.done()
    assert turns_until(engine, slow) == 22


def test_sizes_take_turns(engine: Engine, adapter: Adapters) -> None:
    small = engine.submit(adapter(1), [drawing(steps=5, width=16, height=16)] * 3)
    large = engine.submit(adapter(2), [drawing(steps=5)])
    assert turns_until(engine, small, large) == 10
    steps = engine.status()["steps"]
    assert steps == 10


def test_a_burst_does_not_hold_up_others(
    loaded_base: Base, layers: LoraLayers, adapter: Adapters
) -> None:
    engine = engine_over(loaded_base, layers, places=4)
    bursts = [engine.submit(adapter(1), [drawing(seed=seed)] * 8) for seed in range(5)]
    for _ in range(6):
        engine.turn()
    singles = [engine.submit(adapter(seed), [drawing(seed=seed)]) for seed in (2, 3)]
    # The current generation, and its own.
    assert turns_until(engine, *singles) <= 4 + 4
    assert sum(len(job.pictures) for job in bursts) < 16
    for job in bursts:
        engine.call_off(job)
    assert_at_rest(engine)


def test_more_than_may_wait_is_turned_away(
    loaded_base: Base, layers: LoraLayers, adapter: Adapters
) -> None:
    engine = engine_over(loaded_base, layers, places=1, waiting=6, waiting_of_tenant=4)
    patient = engine.submit(adapter(1), [drawing(steps=1)] * 3)
    with pytest.raises(
        TooManyRequestsError,
        match=r"3 pictures of this model are waiting and 2 more would be over 4; try",
    ):
        engine.submit(patient.adapter, [drawing()] * 2)
    other = engine.submit(adapter(2), [drawing(steps=1)] * 3)
    with pytest.raises(
        TooManyRequestsError,
        match=r"6 pictures of all models are waiting and 1 more would be over 6",
    ) as full:
        engine.submit(adapter(3), [drawing()])
    assert full.value.headers() == [(b"retry-after", b"%d" % full.value.retry_after_seconds)]
    assert engine.status()["turned_away"] == 2
    turns_until(engine, patient, other)
    assert len(drawn(engine, patient.adapter, *[drawing(steps=1)] * 4)) == 4
    assert_at_rest(engine)


def request_for(*drawings: Drawing, seconds: float = 30.0) -> PictureRequest:
    return PictureRequest(drawings, "json", seconds)


@pytest.mark.parametrize("turns", [0, 2], ids=["waiting", "in flight"])
@pytest.mark.parametrize("leaves", ["its time is over", "its client goes"])
def test_who_leaves_early_leaves_nothing_behind(
    engine: Engine, adapter: Adapters, turns: int, leaves: str
) -> None:
    async def scenario() -> None:
        neighbour = engine.submit(adapter(1), [drawing(steps=6)])
        seconds = 0.05 if leaves == "its time is over" else 30.0
        late = asyncio.create_task(
            engine.draw(adapter(2), request_for(*[drawing(steps=20)] * 9, seconds=seconds))
        )
        await asyncio.sleep(0)
        for _ in range(turns):
            engine.turn()
        assert engine.status()["in_flight"] == (8 if turns else 0)
        if leaves == "its client goes":
            late.cancel()
            with pytest.raises(asyncio.CancelledError):
                await late
        else:
            with pytest.raises(
                DeadlineExceededError, match=r"0 of 9 pictures were ready in 0\.05 s; ask for fewer"
            ) as error:
                await late
            assert error.value.field == "timeout_seconds"
        turns_until(engine, neighbour)
        assert engine.status()["called_off"] == 9
        assert engine.status()["picture_steps"] == 6 + turns * 7
        assert_at_rest(engine)

    asyncio.run(scenario())


def test_tenants_share_slots_that_are_fewer_than_they_are(
    loaded_base: Base, adapter: Adapters, layers: LoraLayers
) -> None:
    layers.slots = 3
    engine = engine_over(loaded_base, layers, places=3)
    tenants = [adapter(seed) for seed in range(5)]
    alone = [drawn(engine, tenant, drawing(seed=5))[0] for tenant in tenants]
    jobs = [engine.submit(tenant, [drawing(seed=5, steps=4)]) for tenant in tenants]
    while not all(job.answer.done() for job in jobs):
        engine.turn()
        assert engine.bank.pinned <= 2
        assert engine.bank.used <= 2
    for picture, job in zip(alone, jobs, strict=True):
        assert same(picture, job.answer.result()[0])
    assert engine.status()["slots"] | {"hits": 0} == {
        "used": 2,
        "of": 2,
        "hits": 0,
        "misses": 10,
        "evictions": 8,
    }
    assert_at_rest(engine)


def test_hundreds_of_tenants_take_no_more_than_the_slots(
    engine: Engine, adapter: Adapters, loaded_base: Base
) -> None:
    weights = adapter(1).weights
    smallest = drawing(steps=1, guidance=0.0, width=8, height=8)
    alone = drawn(engine, Adapter(card(loaded_base), "v1", weights), smallest)[0]
    for _ in range(40):
        jobs = [
            engine.submit(Adapter(card(loaded_base), "v1", weights), [smallest]) for _ in range(8)
        ]
        turns_until(engine, *jobs)
        assert all(same(alone, job.answer.result()[0]) for job in jobs)
    status = engine.status()
    assert status["slots"] == {"used": 8, "of": 8, "hits": 0, "misses": 321, "evictions": 313}
    assert status["prompts"]["misses"] == 1
    assert_at_rest(engine)


def test_an_unloaded_model_leaves_the_device_and_its_neighbours_alone(
    engine: Engine, adapter: Adapters, layers: LoraLayers
) -> None:
    gone, stays = adapter(1), adapter(2)
    alone = drawn(engine, stays, drawing(steps=6))[0]
    jobs = [engine.submit(gone, [drawing(steps=6)] * 9), engine.submit(stays, [drawing(steps=6)])]
    for _ in range(2):
        engine.turn()
    (slot,) = [
        slot
        for slot in range(1, 9)
        if torch.equal(
            layers.take(slot)[name := next(iter(layers.shapes()))][0], gone.weights[name][0]
        )
    ]
    engine.forget(gone)
    engine.turn()
    with pytest.raises(
        ServingError, match="the model was unloaded before the picture was finished"
    ):
        jobs[0].answer.result(0)
    assert not any(tensor.any() for pair in layers.take(slot).values() for tensor in pair)
    turns_until(engine, jobs[1])
    assert same(alone, jobs[1].answer.result()[0])
    assert engine.status()["slots"]["used"] == 1
    assert_at_rest(engine)


def test_a_model_that_overflows_fails_alone(engine: Engine, adapter: Adapters) -> None:
    good, broken = adapter(1), adapter(2, scale=float("nan"))
    alone = drawn(engine, good, drawing())[0]
    jobs = [engine.submit(broken, [drawing()] * 2), engine.submit(good, [drawing()])]
    turns_until(engine, *jobs)
    with pytest.raises(ServingError, match="the model's numbers leave the range"):
        jobs[0].answer.result()
    assert same(alone, jobs[1].answer.result()[0])
    assert_at_rest(engine)


def test_when_the_base_raises_only_those_in_the_call_are_answered_with_it(
    engine: Engine, adapter: Adapters, caplog: pytest.LogCaptureFixture
) -> None:
    alone = drawn(engine, adapter(1), drawing())[0]
    good = engine.submit(adapter(1), [drawing()])
    # The UNet cannot process empty latents. More pictures of the job wait behind.
    impossible = engine.submit(adapter(2), [drawing("secret words", width=0)] * 10)
    turns_until(engine, good, impossible)
    with pytest.raises(ServingError, match="the picture could not be drawn: RuntimeError"):
        impossible.answer.result()
    assert same(alone, good.answer.result()[0])
    assert "draw_failed" in caplog.text
    assert "secret" not in caplog.text
    assert_at_rest(engine)


def test_the_engines_thread_draws_until_it_is_closed(engine: Engine, adapter: Adapters) -> None:
    tenant = adapter(1)
    alone = drawn(engine, tenant, drawing())[0]
    engine.start()

    async def both() -> Sequence[list[Pixels]]:
        return await asyncio.gather(
            *(engine.draw(tenant, request_for(drawing())) for _ in range(3))
        )

    assert all(same(alone, picture) for (picture,) in asyncio.run(both()))
    endless = engine.submit(tenant, [drawing(steps=1000)] * 9)
    engine.close()
    with pytest.raises(ServingError, match="the server stopped before the picture was finished"):
        endless.answer.result(0)
    with pytest.raises(ServingError, match="the server is stopping"):
        engine.submit(tenant, [drawing()])


def test_an_engine_whose_base_cannot_be_used_does_not_start(
    loaded_base: Base, layers: LoraLayers
) -> None:
    mistaken = Base("mistaken", "", loaded_base.pipeline, loaded_base.device, torch.float64)
    engine = engine_over(mistaken, layers)
    with pytest.raises(RuntimeError, match="type"):
        engine.start()
    engine.close()


def test_prompts_are_encoded_once_while_there_is_room(loaded_base: Base) -> None:
    (one,) = loaded_base.encode(["a star"])
    cache = PromptCache(loaded_base, 2 * one.bytes)
    assert torch.equal(cache.of("a star").states, one.states)
    assert torch.equal(cache.of(None).states, loaded_base.encode([""])[0].states)
    assert cache.of("a star") is cache.of("a star")
    assert (cache.hits, cache.misses, cache.bytes) == (2, 2, 2 * one.bytes)
    cache.of("a heart")
    assert (cache.hits, cache.misses, cache.bytes) == (2, 3, 2 * one.bytes)
    cache.of("a star")
    cache.of(None)
    assert (cache.hits, cache.misses) == (3, 4)
    nothing = PromptCache(loaded_base, 0)
    assert torch.equal(nothing.of("a star").states, nothing.of("a star").states)
    assert (nothing.hits, nothing.bytes) == (0, 0)
