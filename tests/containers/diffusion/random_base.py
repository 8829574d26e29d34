"""Tiny Stable Diffusion pipelines with random weights, SD 1.5's and SDXL's shape: the computation
is real, the output is noise."""

import json
from pathlib import Path
from typing import Any

import torch


def save_random_base(folder: Path, *, xl: bool = False, seed: int = 0) -> Path:
    """Save a random pipeline of 16 × 16 latents (32 × 32 pixels) into ``folder`` and return it."""
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )

    torch.manual_seed(seed)
    width, heads = 32, 4
    unet = UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=heads,
        norm_num_groups=8,
        cross_attention_dim=2 * width if xl else width,
        **_xl_conditioning(width) if xl else {},
    )
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=4,
        block_out_channels=(16, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=8,
        sample_size=32,
    )
    scheduler = DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    common: dict[str, Any] = {"vae": vae, "unet": unet, "scheduler": scheduler}
    if xl:
        pipeline: Any = StableDiffusionXLPipeline(
            text_encoder=_text_encoder(width, projection=False),
            text_encoder_2=_text_encoder(width, projection=True),
            tokenizer=_tokenizer(folder / "vocabulary"),
            tokenizer_2=_tokenizer(folder / "vocabulary"),
            **common,
        )
    else:
        pipeline = StableDiffusionPipeline(
            text_encoder=_text_encoder(width, projection=False),
            tokenizer=_tokenizer(folder / "vocabulary"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
            **common,
        )
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def _xl_conditioning(width: int) -> dict[str, Any]:
    return {
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 6 * 8 + width,
    }


def _text_encoder(width: int, *, projection: bool) -> Any:
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=600,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=24,
        projection_dim=width,
        bos_token_id=512,
        eos_token_id=513,
        pad_token_id=513,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


def _tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer without merges: every byte is a token."""
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(
        json.dumps({word: number for number, word in enumerate(words)})
    )
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    tokenizer.model_max_length = 24
    return tokenizer
