"""Hyperparameters of a diffusion training job."""

import sys

import pytest

from containers.diffusion.training.settings import (
    ICON_PROMPTS,
    SCENE_PROMPTS,
    InvalidHyperparameterError,
    Settings,
    parse_settings,
)


def test_without_any_the_embedded_base_is_trained_on_with_its_defaults() -> None:
    assert parse_settings({}) == Settings()
    assert Settings().prompts == ICON_PROMPTS


def test_another_base_has_other_defaults_and_what_is_given_goes_first() -> None:
    settings = parse_settings({"base": "stable-diffusion-v1-5/stable-diffusion-v1-5", "rank": "32"})
    assert (settings.learning_rate, settings.guidance, settings.prompts) == (
        1e-4,
        7.5,
        SCENE_PROMPTS,
    )
    assert settings.rank == 32


def test_a_job_on_a_gpu_can_be_told() -> None:
    settings = parse_settings(
        {
            "base": "s3://models/sdxl",
            "device": "cuda:0",
            "dtype": "bf16",
            "targets": "attention",
            "rank": "64",
            "steps": "1200",
            "learning_rate": "5e-5",
            "images_per_step": "2",
            "resolution": "1024",
            "crop": "tenant",
            "prior_preservation": "1.0",
            "prior_images": "100",
            "class_prompt": "a photo of a {subject}",
            "gradient_checkpointing": "true",
            "tenants_together": "4",
            "snapshots": "[0.5]",
            "warmup": "100",
            "prompts": '["a {subject} on a beach", "a  {subject}\\nin the snow"]',
            "batch_size": "8",
            "sagemaker_program": "train",
        }
    )
    assert (settings.device, settings.dtype, settings.resolution, settings.crop) == (
        "cuda:0",
        "bf16",
        1024,
        "tenant",
    )
    assert (settings.prior_preservation, settings.gradient_checkpointing) == (1.0, True)
    assert settings.prompts == ("a {subject} on a beach", "a {subject} in the snow")
    assert settings.snapshots == (0.5, 1.0)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("rnak", "4", "'rnak' is unknown; there are base, device"),
        ("base", "", "'base' must name a base"),
        ("device", "tpu", "'device' is 'tpu'; it must be cpu, cuda"),
        ("dtype", "int8", "'dtype' is 'int8'; it must be one of fp32, fp16, bf16"),
        ("targets", "everything", "'targets' is 'everything'; it must be one of attention, "),
        ("rank", "0", "'rank' is '0'; it must be a whole number from 1 to 256"),
        ("rank", "4.0", "'rank' is '4.0'"),
        ("rank", "٤", "'rank'"),
        ("steps", "1e3", "'steps' is '1e3'; it must be a whole number"),
        ("learning_rate", "nan", "'learning_rate' is 'nan'; it must be a number from 1e-08 to 1"),
        ("learning_rate", "-1", "'learning_rate' is '-1'"),
        ("learning_rate", "fast", "'learning_rate' is 'fast'"),
        ("caption_dropout", "1.5", "'caption_dropout'"),
        ("crop", "round", "'crop' is 'round'; it must be one of square, tenant"),
        ("gradient_checkpointing", "True", "it must be one of false, true"),
        ("optimizer", "sgd", "it must be one of adamw, adamw8bit"),
        ("prompts", "a star", "'prompts' is 'a star'; it must be a JSON list"),
        ("prompts", '["a star"]', "it must be a JSON list of 2 to 16 texts"),
        ("prompts", '["a star", 7]', "'prompts': a text in it is no text"),
        ("class_prompt", " ", "'class_prompt': a text in it is empty"),
        (
            "snapshots",
            "[0, 0.5]",
            "'snapshots' is '[0, 0.5]'; it must be a JSON list of at most 8 shares",
        ),
        ("snapshots", "[true]", "'snapshots'"),
        ("snapshots", "[" * 2000, "'snapshots'"),
    ],
)
def test_what_cannot_be_is_refused_by_name(name: str, value: str, reason: str) -> None:
    with pytest.raises(InvalidHyperparameterError) as refusal:
        parse_settings({name: value})
    assert reason in str(refusal.value)


def test_an_optimizer_that_is_not_installed_is_refused_with_the_cure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as where it is not installed
    with pytest.raises(
        InvalidHyperparameterError,
        match=r"bitsandbytes is not installed in this container; install it, or",
    ):
        parse_settings({"optimizer": "adamw8bit"})
