"""The number of tenants' adapters trained in a minute: many in one batch, and one after another."""

import itertools
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.diffusion_base import QUICK_STEPS, Bench, adapter_card, drawn, median
from containers.diffusion.adapters.adapter import Adapter
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.adapters.targets import TARGETS
from containers.diffusion.base.pipeline import DTYPES, Base
from containers.diffusion.pictures.preparation import prepare
from containers.diffusion.serving.engine import Pixels
from containers.diffusion.tiny_base.drawing import SHAPES, draw_icon, tenant_style
from containers.diffusion.training.packed_steps import FIRST_SLOT, Examples, Lesson, PackedSteps
from containers.diffusion.training.trainer import DiffusionTrainer
from containers.runtime.training.packed_training import Task, Trained

Weights = Mapping[str, tuple[Tensor, Tensor]]

PICTURES: Final = 8
"""Pictures of a tenant."""

PEER_STEPS: Final = 8
"""Steps of the peer for each tenant; the first two are not counted."""


def training(bench: Bench) -> dict[str, Any]:
    """Sixteen tenants at one image a step, together and alone, with the same code and a job's
    default settings.

    The two take turns, each on its own base: some steps of all together, then all steps of one
    tenant alone, and so on. A plain loop of peft and diffusers for one tenant runs beside them. The
    time includes only training, without encoding and drawing of pictures.
    """
    tenants = bench.count(16, 4) if bench.size == "tiny" else bench.count(8, 2)
    settings = bench.training
    together_base, alone_base = bench.load(), bench.load()
    lessons = [_lesson(bench, together_base, number) for number in range(tenants)]
    nothing = together_base.unconditional()
    _warm_up(bench, alone_base, lessons[0])

    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    layers = LoraLayers(
        together_base.unet, settings.targets, tenants + FIRST_SLOT, settings.rank, torch.float32
    )
    pack = PackedSteps(together_base, layers, lessons, settings, nothing)
    running = pack.run()
    share = -(-settings.steps // tenants)
    together_seconds, alone_seconds = 0.0, []
    alone: list[Weights] = []
    losses = []
    peer_ms: list[float] = []
    for number, lesson in enumerate(lessons):
        together_seconds += _timed_steps(bench, running, share)
        own = LoraLayers(
            alone_base.unet, settings.targets, 1 + FIRST_SLOT, settings.rank, torch.float32
        )
        steps = PackedSteps(alone_base, own, [lesson], settings, nothing)
        alone_seconds.append(_timed_steps(bench, steps.run(), settings.steps + 1))
        alone.append(own.take(FIRST_SLOT))
        losses.append(steps.losses[-1][0])
        own.remove()
        peer_ms += _peer(bench, alone_base, lesson)
        print(
            f"training: tenant {number + 1} of {tenants}, {alone_seconds[-1]:.1f} s alone",
            flush=True,
        )
    together_seconds += _timed_steps(bench, running, settings.steps + 1)
    if pack.failures or len(pack.losses) != settings.steps:
        raise RuntimeError(f"the pack was not trained whole: {pack.failures}")
    together = [layers.take(FIRST_SLOT + number) for number in range(tenants)]
    layers.remove()

    together_ms = 1000 * together_seconds / (tenants * settings.steps)
    alone_ms = 1000 * sum(alone_seconds) / (tenants * settings.steps)
    figures = {
        "batched_training_speedup": round(alone_ms / together_ms, 2),
        "batched_tenants_per_minute": round(60 * tenants / together_seconds, 1),
        "one_by_one_tenants_per_minute": round(60 * tenants / sum(alone_seconds), 1),
        "batched_ms_per_tenant_step": round(together_ms, 2),
        "one_by_one_ms_per_step": round(alone_ms, 2),
        "peer_ms_per_step": median(peer_ms, 2),
        "batched_over_peer": round(median(peer_ms) / together_ms, 2),
        "trained_tenants": tenants,
        "training_steps": settings.steps,
        "images_per_step": settings.images_per_step,
        "training_rank": settings.rank,
        "training_targets": settings.targets,
        "largest_loss_difference": _rounded(
            max(abs(one - other) for one, other in zip(pack.losses[-1], losses, strict=True))
        ),
        **_weights_apart(together, alone),
        **_pictures_apart(bench, alone_base, together, alone),
    }
    if torch.device(bench.device).type == "cuda":
        figures["training_peak_gpu_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return figures


def job(bench: Bench) -> dict[str, Any]:
    """The same tenants through a whole training job's work, from prepared pictures to the files of
    a model.

    Besides training, the work includes the pictures that judge a model and the first pictures,
    several prompts in one batch even for a single tenant. Some of the tenants also run one after
    another, half of them before the pack and half after.
    """
    packed = bench.count(16, 2) if bench.size == "tiny" else bench.count(8, 2)
    some = bench.count(4, 2)
    tasks = [made_up_task(bench, number) for number in range(packed)]
    hyperparameters = {
        "base": bench.source,
        "device": bench.device,
        "dtype": bench.dtype,
        "resolution": str(bench.pixels),
        "tenants_together": str(packed),
        "steps": str(bench.training.steps),
        "warmup": str(bench.training.warmup),
    }
    if bench.size != "tiny":
        hyperparameters["steps"] = str(min(bench.training.steps, 40))
    if bench.quick:
        hyperparameters["drawing_steps"] = str(QUICK_STEPS)
    trainer = DiffusionTrainer()
    _timed_job(bench, trainer, tasks[:1], {**hyperparameters, "steps": "1", "drawing_steps": "1"})
    alone = [_timed_job(bench, trainer, [task], hyperparameters) for task in tasks[: some // 2]]
    seconds, models = _timed_job(bench, trainer, tasks, hyperparameters)
    alone += [
        _timed_job(bench, trainer, [task], hyperparameters) for task in tasks[some // 2 : some]
    ]
    seconds_alone = sum(each for each, _ in alone) / len(alone)
    return {
        "job_speedup": round(seconds_alone * packed / seconds, 2),
        "job_tenants_per_minute": round(60 * packed / seconds, 1),
        "job_one_by_one_tenants_per_minute": round(60 / seconds_alone, 1),
        "job_tenants": packed,
        "job_one_by_one_tenants": len(alone),
        "job_steps": int(hyperparameters["steps"]),
        "job_models": len(models),
        "job_refused": packed - len(models),
        "job_median_personalisation": median([model.metrics["personalisation"] for model in models])
        if models
        else None,
    }


def _timed_job(
    bench: Bench,
    trainer: DiffusionTrainer,
    tasks: Sequence[Task],
    hyperparameters: Mapping[str, str],
) -> tuple[float, list[Trained]]:
    """The job's seconds, and its models."""
    with tempfile.TemporaryDirectory(dir=bench.scratch) as workspace:
        began = time.perf_counter()
        models = [
            result
            for result in trainer.train(tasks, hyperparameters, Path(workspace))
            if isinstance(result, Trained)
        ]
        return time.perf_counter() - began, models


def made_up_task(bench: Bench, number: int) -> Task:
    """A made-up tenant's prepared upload."""
    tenant = f"tenant-{number:02}"
    uploaded, prepared = bench.scratch / "uploads" / tenant, bench.scratch / "prepared" / tenant
    uploaded.mkdir(parents=True)
    prepared.mkdir(parents=True)
    files = []
    for shape, icon in zip(_shapes(), _icons(bench, number), strict=True):
        files.append(uploaded / f"{shape}.png")
        Image.fromarray(icon).save(files[-1])
    prepare(files, prepared, {"subject": "icon", "prompts": ""})
    return Task(tenant, tenant, "v1", "bridge", prepared)


def _shapes() -> tuple[str, ...]:
    return SHAPES[:PICTURES]


def _icons(bench: Bench, number: int) -> Pixels:
    """A made-up tenant's pictures, one of each shape in its style, in the base's size (n, height,
    width, 3)."""
    style = tenant_style(number)
    return np.stack(
        [draw_icon(shape, style, seed, bench.pixels) for seed, shape in enumerate(_shapes())]
    )


def _lesson(bench: Bench, base: Base, number: int) -> Lesson:
    """The training data of a made-up tenant's adapter."""
    images = torch.from_numpy(_icons(bench, number)).permute(0, 3, 1, 2) / 127.5 - 1
    latents = torch.cat([base.to_latents(image[None]) for image in images])
    words = [base.encode([f"a {shape}"])[0] for shape in _shapes()]
    return Lesson(Examples(latents, words), seed=number)


def _warm_up(bench: Bench, base: Base, lesson: Lesson) -> None:
    layers = LoraLayers(
        base.unet, bench.training.targets, 1 + FIRST_SLOT, bench.training.rank, torch.float32
    )
    steps = PackedSteps(base, layers, [lesson], bench.training, base.unconditional()).run()
    _timed_steps(bench, steps, 2)
    steps.close()
    layers.remove()


def _timed_steps(bench: Bench, steps: Iterator[int], most: int) -> float:
    """Seconds of the next ``most`` steps, or of the remaining ones if fewer."""
    began = time.perf_counter()
    for _ in itertools.islice(steps, most):
        pass
    bench.synchronise()
    return time.perf_counter() - began


def _peer(bench: Bench, base: Base, lesson: Lesson) -> list[float]:
    """Milliseconds of a step of the loop of diffusers' ``train_dreambooth_lora.py``, over the same
    cached latents and words.

    It uses peft's adapters on the same layers with the same rank, one image a step, AdamW and
    clipping. It leaves the base unchanged.
    """
    from diffusers import DDPMScheduler
    from peft import LoraConfig

    settings = bench.training
    unet = base.unet
    targets = list(TARGETS[settings.targets])
    unet.add_adapter(LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=targets))
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.float()
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, fused=True)
    scheduler = DDPMScheduler.from_config(base.pipeline.scheduler.config)
    milliseconds = []
    for step in range(PEER_STEPS):
        began = time.perf_counter()
        chosen = step % len(lesson.own)
        latents = lesson.own.latents[chosen : chosen + 1]
        noise = torch.randn_like(latents)
        timesteps = torch.randint(0, len(base.alphas_cumprod), (1,), device=base.device)
        # diffusers' annotation accepts only floats.
        noisy = scheduler.add_noise(latents, noise, timesteps)  # type: ignore[arg-type,unused-ignore]
        predicted = base.predict(
            noisy, timesteps, [lesson.own.words[chosen]], (bench.pixels, bench.pixels)
        )
        velocity = base.predicts == "v_prediction"
        target = scheduler.get_velocity(latents, noise, timesteps) if velocity else noise  # type: ignore[arg-type,unused-ignore]
        loss = torch.nn.functional.mse_loss(predicted.float(), target.float())
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(trained, settings.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        bench.synchronise()
        milliseconds.append(1000 * (time.perf_counter() - began))
    unet.unload_lora()
    unet.requires_grad_(False)
    return milliseconds[2:]


def _weights_apart(together: Sequence[Weights], alone: Sequence[Weights]) -> dict[str, float]:
    """The distance between both ways' corrections B · A: the largest relative distance over tenants
    and layers."""
    apart = []
    for one, other in zip(together, alone, strict=True):
        products = [
            (pair[1] @ pair[0].flatten(1), other[name][1] @ other[name][0].flatten(1))
            for name, pair in one.items()
        ]
        distance = sum(float((left - right).square().sum()) for left, right in products) ** 0.5
        apart.append(
            distance / max(sum(float(right.square().sum()) for _, right in products) ** 0.5, 1e-12)
        )
    return {"largest_relative_difference_of_adapters": _rounded(max(apart))}


def _pictures_apart(
    bench: Bench, base: Base, together: Sequence[Weights], alone: Sequence[Weights]
) -> dict[str, float]:
    """The distance between both ways' pictures, in 255ths."""
    layers = LoraLayers(
        base.unet, bench.training.targets, bench.serving.slots + 1, bench.training.rank
    )
    engine = bench.engine(base, layers)
    card = adapter_card(base, bench.training)

    def pictures(trained: Sequence[Weights]) -> list[Pixels]:
        adapters = [
            Adapter(
                card,
                "",
                {
                    name: (a.to(DTYPES[bench.dtype]), b.to(DTYPES[bench.dtype]))
                    for name, (a, b) in each.items()
                },
            )
            for each in trained
        ]
        return drawn(
            engine, [(adapter, bench.drawing(number)) for number, adapter in enumerate(adapters)]
        )

    apart = np.abs(np.stack(pictures(together)).astype(int) - np.stack(pictures(alone)).astype(int))
    layers.remove()
    return {
        "trained_pictures_largest_difference_of_255": int(apart.max()),
        "trained_pictures_mean_difference_of_255": round(float(apart.mean()), 4),
    }


def _rounded(value: float) -> float:
    return float(f"{value:.3g}")
