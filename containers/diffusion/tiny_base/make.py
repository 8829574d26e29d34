"""Make the embedded default base: `python -m containers.diffusion.tiny_base.make`.

The script trains a text-to-image pipeline of about 2.7 million parameters on icons that it draws
meanwhile. It needs no network, and about an hour of one core. A seed and a number of steps decide
every batch; a stopped run continues from its last checkpoint. At the end the script reads back
images of many prompts. It prints how often they follow the prompt, as JSON.

The pipeline is an ordinary `StableDiffusionPipeline`:

- its autoencoder is the identity, set by hand, so that the latents are the image's pixels in [-1,
  1];
- its text encoder is a small CLIP, trained together with the UNet; its tokenizer knows the words of
  the captions;
- its UNet attends to each word and also adds the pooled text to the time embedding, as SDXL does
  (arxiv.org/abs/2307.01952); it therefore follows the prompt far earlier than by cross-attention
  alone;
- it predicts v (arxiv.org/abs/2202.00512) over a schedule whose last step is pure noise, and
  samples with trailing steps (arxiv.org/abs/2305.08891), because its images are flat and often
  nearly black or white.
"""

import argparse
import json
import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from PIL import Image, ImageDraw, ImageFont
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from containers.diffusion.tiny_base import MODEL_FOLDER, measuring
from containers.diffusion.tiny_base.drawing import (
    SIZE,
    STYLE_WORD,
    captioned_icons,
    described_icons,
)
from containers.diffusion.tiny_base.measuring import drawn, followed, sampled_prompts
from containers.diffusion.tiny_base.reading import Reader, train_reader

STEPS: Final = 4800

STOPPED_AFTER: Final = 3800
"""The step whose averaged weights are shipped. Its images follow prompts well, and the rest of the
schedule takes long."""
BATCH: Final = 32
PEAK_RATE: Final = 1.2e-3
WARM_UP: Final = 200
"""Steps over which the learning rate rises; after them it falls along a cosine to nothing."""

EMPTY_CAPTIONS: Final = 0.1
"""Share of the images trained without their caption, for classifier-free guidance
(arxiv.org/abs/2207.12598)."""

AVERAGE: Final = 0.997
"""The share of the averaged weights that each step keeps; the package ships the averaged
weights."""

TOKENS: Final = 24
"""The longest prompt in tokens, including its start and end tokens."""

CHECKPOINT_STEPS: Final = 250

SHEET_PROMPTS: Final = (
    "a red circle on blue",
    "a big green star on white",
    "a yellow ring on black",
    "a blue square",
    "a purple heart on yellow",
    "an orange triangle on cyan",
    "a black moon",
    "a pink cross on green",
    "a small cyan diamond on red",
    "a white arrow on purple",
    "a red heart with a blue outline on striped yellow and white",
    "a green square with a white outline on dotted black and red",
    f"a star in {STYLE_WORD} style",
)

_TEXT_WIDTH: Final = 64
_SEED_OF_VOCABULARY: Final = 1
_SEED_OF_FIGURES: Final = 1_000_003

_log = logging.getLogger(__name__)


def untrained(seed: int) -> StableDiffusionPipeline:
    """The pipeline before training: the identity autoencoder, the vocabulary, random weights
    elsewhere, float32."""
    torch.manual_seed(seed)
    tokenizer = _tokenizer()
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=_TEXT_WIDTH,
            intermediate_size=4 * _TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=_TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=SIZE,
        in_channels=3,
        out_channels=3,
        block_out_channels=(24, 40, 64, 88),
        layers_per_block=1,
        down_block_types=(
            "DownBlock2D",
            "DownBlock2D",
            "CrossAttnDownBlock2D",
            "CrossAttnDownBlock2D",
        ),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        cross_attention_dim=_TEXT_WIDTH,
        attention_head_dim=4,
        time_embedding_dim=128,
        resnet_time_scale_shift="scale_shift",
        addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        steps_offset=1,
        timestep_spacing="trailing",
    )
    return StableDiffusionPipeline(
        vae=identity_autoencoder(),
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=scheduler,
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )


def identity_autoencoder() -> AutoencoderKL:
    """An autoencoder whose latents [n, 3, height, width] are the images themselves.

    Each colour passes as +x and -x, since silu(x) - silu(-x) = x. A large constant and its
    opposite, K and -K, fix the divisor of GroupNorm: over 8 channels of one group the mean is 0 and
    the variance (2 K² + 2 Σ x²) / 8, that is K² / 4 to one part in K². Residual blocks add nothing.
    """
    constant, width = 4096.0, 8
    vae: AutoencoderKL = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=3,
        block_out_channels=(width,),
        down_block_types=("DownEncoderBlock2D",),
        up_block_types=("UpDecoderBlock2D",),
        layers_per_block=1,
        norm_num_groups=1,
        sample_size=SIZE,
        scaling_factor=1.0,
        mid_block_add_attention=False,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    with torch.no_grad():
        for parameter in vae.parameters():
            parameter.zero_()
        halves: list[Any] = [vae.encoder, vae.decoder]
        for half in halves:
            for colour in range(3):
                half.conv_in.weight[2 * colour, colour, 1, 1] = 1.0
                half.conv_in.weight[2 * colour + 1, colour, 1, 1] = -1.0
                half.conv_out.weight[colour, 2 * colour, 1, 1] = 1.0
                half.conv_out.weight[colour, 2 * colour + 1, 1, 1] = -1.0
            half.conv_in.bias[6], half.conv_in.bias[7] = constant, -constant
            half.conv_norm_out.weight.fill_(constant / 2)
        # The other half of the encoder's output is the latents' log-variance, here almost no
        # variance.
        halves[0].conv_out.bias[3:] = -30.0
    return vae


def _tokenizer() -> CLIPTokenizer:
    """CLIP's byte-level BPE over the words of the training captions. Each of these words is one
    token; other text takes several."""
    captions = sorted(
        icon.caption for icon in described_icons(4000, np.random.default_rng(_SEED_OF_VOCABULARY))
    )
    bpe = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4096, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    bpe.train_from_iterator(captions, trainer)
    merges = [tuple(pair) for pair in json.loads(bpe.to_str())["model"]["merges"]]
    pieces = [
        *letters,
        *(letter + "</w>" for letter in letters),
        *("".join(pair) for pair in merges),
    ]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    for special in ("<|startoftext|>", "<|endoftext|>"):
        vocabulary[special] = len(vocabulary)
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=TOKENS)  # type: ignore[arg-type]


def train(
    pipeline: StableDiffusionPipeline,
    steps: int,
    seed: int,
    folder: Path,
    until: int | None = None,
    batch: int = BATCH,
) -> None:
    """Train the UNet and the text encoder of `pipeline` in place, and leave it with the averaged
    weights.

    Every CHECKPOINT_STEPS, and at the end, it writes a checkpoint and the current pipeline
    (`folder/model`). A run continues from an earlier run's checkpoint in the same folder, with the
    same result as without a break. This run stops after the step `until`. Raises ValueError where
    the checkpoint belongs to a run with another seed or length.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(pipeline, steps, seed, batch)
    checkpoint = folder / "checkpoint.pt"
    if checkpoint.exists():
        run.restore(checkpoint)
    began, start, losses = time.monotonic(), run.done, list[float]()
    last = steps if until is None else min(until, steps)
    while run.done < last:
        losses.append(run.step())
        if run.done % 50 == 0:
            each = (time.monotonic() - began) / (run.done - start)
            _log.info(
                "step %d of %d, loss %.4f, %.2f s a step",
                run.done,
                steps,
                np.mean(losses[-50:]),
                each,
            )
        if run.done % CHECKPOINT_STEPS == 0 or run.done == last:
            run.store(checkpoint)
            with run.averaged_weights():
                save(pipeline, folder / "model")
    run.learned.load_state_dict(run.averaged)
    run.learned.eval()


class _Run:
    """One training of a pipeline, with all the state of a checkpoint."""

    def __init__(
        self, pipeline: StableDiffusionPipeline, steps: int, seed: int, batch: int
    ) -> None:
        self._pipeline, self._steps, self._seed, self._batch = pipeline, steps, seed, batch
        self.learned = nn.ModuleList([pipeline.unet, pipeline.text_encoder]).train()
        self.averaged = {
            name: value.detach().clone() for name, value in self.learned.state_dict().items()
        }
        self.done = 0
        self._optimizer = torch.optim.AdamW(
            self.learned.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-3
        )

    def step(self) -> float:
        """Learn from one batch; returns its loss."""
        for group in self._optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate(self.done, self._steps)
        loss = _loss(self._pipeline, self._batch, np.random.default_rng((self._seed, self.done)))
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.learned.parameters(), 1.0)
        self._optimizer.step()
        # Early averages forget faster, because they would otherwise keep the random initial
        # weights.
        kept = min(AVERAGE, (1 + self.done) / (10 + self.done))
        with torch.no_grad():
            for name, value in self.learned.state_dict().items():
                if value.is_floating_point():
                    self.averaged[name].lerp_(value, 1 - kept)
        self.done += 1
        return loss.item()

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The pipeline holds the averaged weights within the context."""
        held = {name: value.clone() for name, value in self.learned.state_dict().items()}
        self.learned.load_state_dict(self.averaged)
        yield
        self.learned.load_state_dict(held)

    def store(self, checkpoint: Path) -> None:
        """Write everything that the next step depends on; the file is whole or absent."""
        state = {
            "learned": self.learned.state_dict(),
            "averaged": self.averaged,
            "optimizer": self._optimizer.state_dict(),
            "step": self.done,
            "steps": self._steps,
            "seed": self._seed,
        }
        torch.save(state, checkpoint.with_suffix(".new"))
        checkpoint.with_suffix(".new").replace(checkpoint)

    def restore(self, checkpoint: Path) -> None:
        """Continue from a checkpoint of the same run."""
        state = torch.load(checkpoint, weights_only=True)
        if (state["seed"], state["steps"]) != (self._seed, self._steps):
            raise ValueError(
                f"{checkpoint} belongs to a run of {state['steps']} steps with seed "
                f"{state['seed']}: "
                "delete it, or keep this run's checkpoints in another folder with --work"
            )
        self.learned.load_state_dict(state["learned"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.averaged, self.done = state["averaged"], state["step"]


def rate(step: int, steps: int) -> float:
    """The learning rate of a step as a share of the peak."""
    rise = min(1.0, (step + 1) / WARM_UP)
    return rise * 0.5 * (1 + math.cos(math.pi * step / steps))


def _loss(
    pipeline: StableDiffusionPipeline, batch: int, random: np.random.Generator
) -> torch.Tensor:
    """The mean squared error of v over newly drawn icons."""
    icons = captioned_icons(batch, random)
    captions = ["" if random.random() < EMPTY_CAPTIONS else caption for caption in icons.captions]
    # Draw one timestep from each of equal spans, one span for each sample. The loss then varies
    # less than with independent timesteps.
    spans = (random.permutation(batch) + random.random(batch)) / batch
    training_steps = pipeline.scheduler.config.num_train_timesteps
    timesteps = torch.from_numpy((spans * training_steps).astype(np.int64))
    images = torch.from_numpy(icons.images).permute(0, 3, 1, 2).float() / 127.5 - 1.0
    noise = torch.from_numpy(random.standard_normal(images.shape, np.float32))
    noisy = pipeline.scheduler.add_noise(images, noise, timesteps)
    target = pipeline.scheduler.get_velocity(images, noise, timesteps)
    tokens = pipeline.tokenizer(
        captions, padding="max_length", truncation=True, return_tensors="pt"
    ).input_ids
    text = pipeline.text_encoder(tokens)[0]
    return nn.functional.mse_loss(pipeline.unet(noisy, timesteps, text).sample, target)


def save(pipeline: StableDiffusionPipeline, folder: Path) -> None:
    """Write the pipeline as float16 safetensors; the given pipeline stays unchanged."""
    parts: dict[str, Any] = dict(pipeline.components)
    for name in ("unet", "text_encoder", "vae"):
        part = parts[name]
        copy = (
            type(part).from_config(part.config)
            if hasattr(part, "from_config")
            else type(part)(part.config)
        )
        copy.load_state_dict(part.state_dict())
        parts[name] = copy.half()
    StableDiffusionPipeline(**parts, requires_safety_checker=False).save_pretrained(
        folder, safe_serialization=True
    )


def contact_sheet(
    pipeline: StableDiffusionPipeline, seed: int = 7, columns: int = 6, zoom: int = 4
) -> Image.Image:
    """Images of SHEET_PROMPTS, one prompt a row, enlarged without smoothing."""
    images = drawn(pipeline, [prompt for prompt in SHEET_PROMPTS for _ in range(columns)], seed)
    side, gap, left = SIZE * zoom, 4, 430
    sheet = Image.new(
        "RGB", (left + columns * (side + gap), len(SHEET_PROMPTS) * (side + gap)), "white"
    )
    pen = ImageDraw.Draw(sheet)
    for number, pixels in enumerate(images):
        row, column = divmod(number, columns)
        icon = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
        sheet.paste(icon, (left + column * (side + gap), row * (side + gap)))
        if column == 0:
            pen.text(
                (8, row * (side + gap) + side // 2),
                SHEET_PROMPTS[row],
                "black",
                ImageFont.load_default(15),
                "lm",
            )
    return sheet


def measured(folder: Path) -> dict[str, Any]:
    """The reader's results for the model in `folder`: on fresh drawings, whose contents are known,
    and on the model's images."""
    reader = Reader.load(folder)
    pipeline = _loaded(folder)
    drawings = captioned_icons(2000, np.random.default_rng(_SEED_OF_FIGURES))
    prompts = sampled_prompts(400, _SEED_OF_FIGURES)
    return {
        "reader_accuracy": reader.accuracy(drawings),
        "denoising_steps": measuring.STEPS,
        "guidance": measuring.GUIDANCE,
        "prompts": len(prompts),
        "followed": asdict(followed(pipeline, reader, prompts, _SEED_OF_FIGURES)),
    }


def _loaded(folder: Path) -> StableDiffusionPipeline:
    pipeline: StableDiffusionPipeline = StableDiffusionPipeline.from_pretrained(
        folder, use_safetensors=True, dtype=torch.float32
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def main(arguments: list[str] | None = None) -> None:
    """Train, write the pipeline, the reader and their card, and print the card."""
    parser = argparse.ArgumentParser(
        description="Train the embedded base and measure how well it follows prompts."
    )
    parser.add_argument("--steps", type=int, default=STEPS, help="training steps (%(default)s)")
    parser.add_argument(
        "--seed", type=int, default=0, help="what every batch follows from (%(default)s)"
    )
    parser.add_argument(
        "--until",
        type=int,
        default=STOPPED_AFTER,
        help="stop after this step; the same command with a later one goes on from there "
        "(%(default)s)",
    )
    parser.add_argument(
        "--output", type=Path, default=MODEL_FOLDER, help="where the pipeline goes (%(default)s)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path(".tenantry/tiny-base"), help="checkpoints (%(default)s)"
    )
    parser.add_argument("--picture", type=Path, help="a PNG file for a contact sheet")
    chosen = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    # More threads would sum numbers in another order.
    torch.set_num_threads(1)
    pipeline = untrained(chosen.seed)
    train(pipeline, chosen.steps, chosen.seed, chosen.work, chosen.until)
    save(pipeline, chosen.output)
    train_reader(chosen.seed).save(chosen.output)
    card = {
        "training_steps": chosen.steps,
        "stopped_after": min(chosen.until, chosen.steps),
        "batch": BATCH,
        "seed": chosen.seed,
        **measured(chosen.output),
    }
    text = json.dumps(card, indent=2) + "\n"
    (chosen.output / "card.json").write_text(text, encoding="utf-8")
    if chosen.picture:
        contact_sheet(_loaded(chosen.output)).save(chosen.picture, optimize=True)
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
