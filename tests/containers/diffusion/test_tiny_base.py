"""The embedded base: drawings are repeatable and readable, and the shipped model follows its
prompts."""

import itertools
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from safetensors.torch import load_file

from containers.diffusion.tiny_base import MODEL_FOLDER, make
from containers.diffusion.tiny_base.drawing import (
    COLOURS,
    SHAPES,
    captioned_icons,
    draw_icon,
    tenant_style,
)
from containers.diffusion.tiny_base.measuring import Prompt, drawn, followed, sampled_prompts
from containers.diffusion.tiny_base.reading import Reader, colours, nearest_name

LARGEST_FOLDER = 6_000_000


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base() -> StableDiffusionPipeline:
    pipeline = StableDiffusionPipeline.from_pretrained(
        MODEL_FOLDER, use_safetensors=True, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    assert isinstance(pipeline, StableDiffusionPipeline)
    return pipeline


@pytest.fixture(scope="module")
def reader() -> Reader:
    return Reader.load()


def test_a_seed_decides_an_icon() -> None:
    style = tenant_style(3)
    icon = draw_icon("star", style, seed=11)
    assert icon.shape == (32, 32, 3)
    assert icon.dtype == np.uint8
    assert np.array_equal(icon, draw_icon("star", style, seed=11))
    assert not np.array_equal(icon, draw_icon("star", style, seed=12))


def test_an_icon_has_the_same_look_at_another_size() -> None:
    small = draw_icon("heart", tenant_style(8), seed=1).astype(float)
    large = draw_icon("heart", tenant_style(8), seed=1, size=128).astype(float)
    assert np.abs(large.reshape(32, 4, 32, 4, 3).mean((1, 3)) - small).mean() < 2


def test_a_shape_that_nobody_can_draw_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no such shape: 'teapot'; there are circle, square"):
        draw_icon("teapot", tenant_style(0), seed=0)


def test_training_icons_repeat_for_a_seed() -> None:
    one, other = (captioned_icons(50, np.random.default_rng((7, 3))) for _ in range(2))
    assert np.array_equal(one.images, other.images)
    assert one.captions == other.captions
    assert one.captions != captioned_icons(50, np.random.default_rng((7, 4))).captions


def test_tenants_have_styles_of_their_own() -> None:
    styles = [tenant_style(number) for number in range(200)]
    assert len(set(styles)) == len(styles)
    for one, other in itertools.pairwise(styles):
        assert math.dist(one.fill, other.fill) > 60
        assert one.pattern != other.pattern
    for style in styles:
        assert style.outline is not None
        assert math.dist(style.fill, style.background) > 60
        assert math.dist(style.fill, style.outline) > 60


def test_the_reader_reads_fresh_drawings(reader: Reader) -> None:
    icons = captioned_icons(600, np.random.default_rng(20_261_124))
    assert reader.accuracy(icons) >= 0.98
    plain = [
        number
        for number, style in enumerate(icons.styles)
        if style.outline is None and style.pattern == "plain"
    ]
    assert len(plain) > 300
    expected = [
        (nearest_name(icons.styles[n].fill), nearest_name(icons.styles[n].background))
        for n in plain
    ]
    assert (
        np.mean([colours(icons.images[n]) == pair for n, pair in zip(plain, expected, strict=True)])
        >= 0.98
    )


def test_the_reader_reads_tenants_styles(reader: Reader) -> None:
    icons = [(shape, number) for number in range(30) for shape in SHAPES]
    images = np.stack(
        [draw_icon(shape, tenant_style(number), seed) for seed, (shape, number) in enumerate(icons)]
    )
    assert (
        np.mean(
            [read == shape for read, (shape, _) in zip(reader.shapes(images), icons, strict=True)]
        )
        >= 0.98
    )


def test_the_reader_sees_no_shape_in_noise_or_an_empty_image(reader: Reader) -> None:
    noise = np.random.default_rng(5).integers(0, 256, (40, 32, 32, 3), np.uint8)
    readings = reader.shapes(noise)
    assert readings.count(None) >= 36
    empty = np.stack([np.full((32, 32, 3), colour, np.uint8) for colour in COLOURS.values()])
    assert reader.shapes(empty).count(None) >= 9


def test_the_shipped_base_follows_prompts(base: StableDiffusionPipeline, reader: Reader) -> None:
    share = followed(base, reader, sampled_prompts(60, seed=77), seed=500)
    assert share.colour >= 0.9
    assert share.background >= 0.9
    assert share.shape >= 0.8


def test_the_reading_tells_a_wrong_prompt(base: StableDiffusionPipeline, reader: Reader) -> None:
    prompts = [Prompt("ring", "red", "white"), Prompt("star", "blue", "yellow")]
    images = drawn(base, [prompt.text for prompt in reversed(prompts)], seed=1)
    for prompt, reading in zip(prompts, reader.read(images), strict=True):
        assert prompt.shape != reading.shape
        assert prompt.colour != reading.foreground
        assert prompt.background != reading.background


def test_the_shipped_folder_is_small_and_holds_data_only(base: StableDiffusionPipeline) -> None:
    files = [file for file in MODEL_FOLDER.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} == {".json", ".safetensors"}
    assert sum(file.stat().st_size for file in files) <= LARGEST_FOLDER
    assert base.components["safety_checker"] is None
    card = json.loads((MODEL_FOLDER / "card.json").read_text(encoding="utf-8"))
    assert (card["training_steps"], card["batch"]) == (make.STEPS, make.BATCH)
    assert card["followed"]["colour"] >= 0.9
    assert card["followed"]["shape"] >= 0.8
    assert card["reader_accuracy"] >= 0.98


def test_latents_are_the_pixels(base: StableDiffusionPipeline) -> None:
    images = torch.rand((2, 3, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    vae = base.components["vae"]
    with torch.inference_mode():
        latents = vae.encode(images).latent_dist.mode() * vae.config.scaling_factor
        assert torch.allclose(latents, images, atol=1e-5)
        assert torch.allclose(
            vae.decode(images / vae.config.scaling_factor).sample, images, atol=1e-5
        )


def test_every_word_of_a_caption_is_one_token_and_other_text_is_readable_too(
    base: StableDiffusionPipeline,
) -> None:
    tokenizer = base.components["tokenizer"]
    for caption in captioned_icons(200, np.random.default_rng(9)).captions:
        assert len(tokenizer(caption).input_ids) == len(caption.split()) + 2
    assert tokenizer.unk_token_id not in tokenizer("zebras, 7 ü").input_ids[1:-1]


@pytest.mark.slow
def test_a_stopped_training_goes_on_as_if_it_had_not_stopped(tmp_path: Path) -> None:
    whole = make.untrained(seed=4)
    make.train(whole, steps=4, seed=4, folder=tmp_path / "whole", batch=4)
    make.train(make.untrained(seed=4), steps=4, seed=4, folder=tmp_path / "parts", batch=4, until=2)
    make.train(make.untrained(seed=4), steps=4, seed=4, folder=tmp_path / "parts", batch=4)
    for part in ("unet/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        one, other = (load_file(tmp_path / run / "model" / part) for run in ("whole", "parts"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ValueError, match=r"belongs to a run of 4 steps with seed 4: delete it"):
        make.train(make.untrained(seed=5), steps=4, seed=5, folder=tmp_path / "whole", batch=4)
