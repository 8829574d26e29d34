"""What makes a tenant's model smaller, or its drawing quicker: `python -m benchmarks.smaller_models
[--quick] [--threads N] [--only …]`.

All of it uses the project's own containers and the embedded base, on the CPU.

- `adapters`: archives of made-up adapters of several ranks and number types, and loading them as
  the model server does, from the archive into a slot.
- `quality`: the scores of the same tenants' adapters, trained at several ranks.
- `eight_bits`: trained adapters whose weights were rounded to 8 bits, a scale for each row.
- `base`: the memory of the base and the time of a picture, by number type and by steps.
- `compiled`: the base's network by torch.compile, beside the same network as it is.
- `forecast`: the archive and the loading of an energy model.

Compared ways take turns within the run. Figures are medians. The last line is JSON with all
figures. `--quick` measures nothing; it only shows that everything runs.
"""

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.diffusion_base import (
    Bench,
    adapter_card,
    alternated,
    drawn,
    make_bench,
    median,
    read_tenant,
)
from benchmarks.diffusion_training import made_up_task
from benchmarks.serving import write_models
from containers.diffusion.adapters.adapter import Adapter, write_adapter
from containers.diffusion.adapters.lora import Shape
from containers.diffusion.adapters.targets import TARGETS
from containers.diffusion.adapters.weights_file import WEIGHTS_FILE
from containers.diffusion.base.pipeline import Base
from containers.diffusion.training.trainer import DiffusionTrainer
from containers.forecast.serving.predictor import ForecastPredictor
from containers.runtime.archives.archive import extract_archive, write_archive
from containers.runtime.training.packed_training import Trained

RANKS: Final = (1, 3, 8)
STEPS: Final = (8, 4, 2, 1)
UP_DEVIATION: Final = 0.05


def adapters(bench: Bench) -> dict[str, Any]:
    """Archives and loads of adapters with random numbers, which no archive makes smaller."""
    base = bench.load()
    layers = bench.layers(base)
    bank, shapes = bench.engine(base, layers).bank, layers.shapes()
    kinds = [f"{targets} {rank} fp16" for targets in TARGETS for rank in RANKS]
    kinds.append(f"{bench.training.targets} {bench.training.rank} fp32")
    archives = {
        kind: [_archive(bench, base, shapes, kind, number) for number in range(bench.count(8, 1))]
        for kind in kinds
    }

    def load(archive: Path) -> float:
        began = time.perf_counter()
        read = read_tenant(bench, base, shapes, archive)
        bank.pin(read)
        ended = time.perf_counter()
        bank.unpin(read)
        return 1000 * (ended - began)

    times: dict[str, list[float]] = {name: [] for name in archives}
    for number, order in enumerate(alternated(list(archives), bench.count(40, 1))):
        for name in order:
            times[name].append(load(archives[name][number % len(archives[name])]))
    return {
        name: {"bytes": archives[name][0].stat().st_size, "load_ms": median(times[name], 2)}
        for name in archives
    }


def _archive(bench: Bench, base: Base, shapes: Mapping[str, Shape], kind: str, number: int) -> Path:
    targets, rank, dtype = kind.split()
    settings = replace(bench.training, targets=targets, rank=int(rank))
    generator = torch.Generator().manual_seed(number)
    weights = {}
    for name, shape in shapes.items():
        if name.endswith(TARGETS[targets]):
            bound = math.prod(shape.down) ** -0.5
            down = (torch.rand(int(rank), *shape.down, generator=generator) * 2 - 1) * bound
            up = torch.randn(shape.up, int(rank), generator=generator) * UP_DEVIATION
            weights[name] = (down, up)
    folder = bench.scratch / "kinds" / kind.replace(" ", "-") / str(number)
    folder.mkdir(parents=True)
    write_adapter(folder, weights)
    if dtype == "fp32":  # other programs' adapters may have it; training here writes fp16
        tensors = load_file(folder / WEIGHTS_FILE)
        noise = torch.Generator().manual_seed(number)
        full = {name: _with_low_bits(tensor, noise) for name, tensor in tensors.items()}
        save_file(full, folder / WEIGHTS_FILE)
    card = {**adapter_card(base, settings).to_json(), "version": "v1"}
    archive = folder.with_suffix(".tar.gz")
    write_archive(folder, archive, {"card.json": json.dumps(card).encode()})
    return archive


def _with_low_bits(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """The numbers in fp32, with the low bits that training in fp32 gives them: else they would be
    zeros, which gzip takes away."""
    return tensor.float() * (1 + 2e-4 * torch.rand(tensor.shape, generator=generator))


def _trained(bench: Bench, rank: int, folder: Path) -> Sequence[Trained]:
    tasks = [made_up_task(replace(bench, scratch=folder), n) for n in range(bench.count(8, 2))]
    hyperparameters = {"base": bench.source, "device": bench.device, "rank": str(rank)}
    if bench.quick:
        hyperparameters |= {"steps": "2", "warmup": "1", "drawing_steps": "2"}
    (folder / "work").mkdir()
    done = DiffusionTrainer().train(tasks, hyperparameters, folder / "work")
    return [result for result in done if isinstance(result, Trained)]


def quality(bench: Bench) -> dict[str, Any]:
    """The scores of the same tenants' models, by rank."""
    found: dict[str, Any] = {}
    for rank in RANKS:
        with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
            began = time.perf_counter()
            models = _trained(bench, rank, Path(folder))
            scores = [model.metrics["personalisation"] for model in models]
            found[str(rank)] = {
                "models": len(models),
                "personalisation": median(scores) if scores else None,
                "job_s": round(time.perf_counter() - began, 1),
            }
    return found


def eight_bits(bench: Bench) -> dict[str, Any]:
    """Trained adapters as they are, and rounded to 8 bits."""
    base = bench.load()
    layers = bench.layers(base)
    engine, shapes = bench.engine(base, layers), layers.shapes()
    nobody = Adapter(adapter_card(base, bench.training), "", {})
    rounded_off: list[float] = []
    own: list[float] = []
    sizes: dict[str, list[int]] = {"fp16": [], "int8": []}
    with tempfile.TemporaryDirectory(dir=bench.scratch) as folder:
        for number, model in enumerate(_trained(bench, bench.training.rank, Path(folder))):
            card = {**model.card, "version": "v1"}
            extra = {"card.json": json.dumps(card).encode()}
            archive = Path(folder) / f"{number}.tar.gz"
            write_archive(model.folder, archive, extra)
            sizes["fp16"].append(archive.stat().st_size)
            adapter = read_tenant(bench, base, shapes, archive)
            tensors: dict[str, Tensor] = {}
            for name, tensor in load_file(model.folder / WEIGHTS_FILE).items():
                tensors |= {f"{name}.{part}": each for part, each in _rounded(tensor).items()}
            save_file(tensors, model.folder / WEIGHTS_FILE)
            small = Path(folder) / f"{number}-int8.tar.gz"
            write_archive(model.folder, small, extra)
            sizes["int8"].append(small.stat().st_size)
            weights = {
                layer: (_restored(a), _restored(b)) for layer, (a, b) in adapter.weights.items()
            }
            rounded = Adapter(adapter.card, adapter.version, weights)
            drawings = [bench.drawing(seed) for seed in range(bench.count(8, 1))]
            pictures = {
                each: np.stack(drawn(engine, [(each, drawing) for drawing in drawings])).astype(int)
                for each in (adapter, rounded, nobody)
            }
            rounded_off.append(float(np.abs(pictures[rounded] - pictures[adapter]).mean()))
            own.append(float(np.abs(pictures[nobody] - pictures[adapter]).mean()))
    return {
        "models": len(own),
        "bytes": {kind: round(float(np.mean(values))) for kind, values in sizes.items() if values},
        "mean_difference_of_255": median(rounded_off) if own else None,
        "of_the_base_itself": median(own) if own else None,
    }


def _rounded(tensor: Tensor) -> dict[str, Tensor]:
    rows = tensor.float().reshape(tensor.shape[0], -1)
    scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / 127
    return {"int8": (rows / scale).round().to(torch.int8), "scale": scale.half()}


def _restored(tensor: Tensor) -> Tensor:
    stored = _rounded(tensor)
    return (stored["int8"].float() * stored["scale"].float()).reshape(tensor.shape).to(tensor.dtype)


def base(bench: Bench) -> dict[str, Any]:
    """The base in three number types, and pictures of several steps."""
    found: dict[str, Any] = {}
    engines: dict[str, Any] = {}
    nobody: dict[str, Adapter] = {}
    for dtype in ("fp32", "bf16", "fp16"):
        each = replace(bench, dtype=dtype)
        began = time.perf_counter()
        loaded = each.load()
        seconds = time.perf_counter() - began
        modules = [m for m in loaded.pipeline.components.values() if isinstance(m, torch.nn.Module)]
        numbers = [p for module in modules for p in module.parameters()]
        memory = sum(p.numel() * p.element_size() for p in numbers)
        found[dtype] = {"bytes": memory, "load_s": round(seconds, 2)}
        engines[dtype] = each.engine(loaded, each.layers(loaded))
        nobody[dtype] = Adapter(adapter_card(loaded, bench.training), "", {})
    ways: dict[str, tuple[str, int]] = {dtype: (dtype, bench.serving.steps) for dtype in engines}
    ways |= {f"steps {steps}": ("fp32", steps) for steps in STEPS}
    times: dict[str, list[float]] = {name: [] for name in ways}
    pictures: dict[str, Any] = {}
    for order in alternated(list(ways), bench.count(9, 1)):
        for name in order:
            dtype, steps = ways[name]
            drawing = replace(bench.drawing(0), steps=steps)
            began = time.perf_counter()
            (pictures[name],) = drawn(engines[dtype], [(nobody[dtype], drawing)])
            times[name].append(1000 * (time.perf_counter() - began))
    whole = pictures["fp32"].astype(int)
    for name in ways:
        place = found.setdefault(name, {})
        place["picture_ms"] = median(times[name], 1)
        place["mean_difference_of_255"] = round(float(np.abs(pictures[name] - whole).mean()), 2)
    return found


def compiled(bench: Bench) -> dict[str, Any]:
    """The base's network as it is and compiled, for one sample."""
    loaded = bench.load()
    side = bench.pixels // loaded.scale
    noise = torch.randn(1, loaded.channels, side, side, generator=torch.Generator().manual_seed(0))
    words = loaded.encode(["a star"])[0].states[None]
    compiled_unet: Any = torch.compile(loaded.unet)

    def call(unet: Any) -> Tensor:
        with torch.inference_mode():
            result: Tensor = unet(noise, 500, encoder_hidden_states=words).sample
            return result

    began = time.perf_counter()
    difference = float((call(compiled_unet) - call(loaded.unet)).abs().max())
    compiling = time.perf_counter() - began
    times: dict[str, list[float]] = {"plain": [], "compiled": []}
    for order in alternated(list(times), bench.count(60, 2)):
        for name in order:
            began = time.perf_counter()
            call(compiled_unet if name == "compiled" else loaded.unet)
            times[name].append(1000 * (time.perf_counter() - began))
    return {
        "compile_s": round(compiling, 1),
        **{f"{name}_ms": median(values, 2) for name, values in times.items()},
        "largest_difference": round(difference, 6),
    }


def forecast(bench: Bench) -> dict[str, Any]:
    """An energy model of full size: its archive, and loading it."""
    predictor = ForecastPredictor()
    folder = bench.scratch / "forecast"
    archives, files = [], []
    for name in write_models(folder, bench.count(8, 1)):
        model = folder / name
        (model / "model-settings.json").unlink()  # another server's
        archives.append(folder / f"{name}.tar.gz")
        write_archive(model, archives[-1])
        files.append(sum(file.stat().st_size for file in model.iterdir()))
    times = []
    for number in range(bench.count(200, 1)):
        with tempfile.TemporaryDirectory(dir=bench.scratch) as extracted:
            began = time.perf_counter()
            extract_archive(archives[number % len(archives)], Path(extracted))
            predictor.load(Path(extracted))
            times.append(1000 * (time.perf_counter() - began))
    return {
        "bytes": round(float(np.mean([archive.stat().st_size for archive in archives]))),
        "bytes_of_files": round(float(np.mean(files))),
        "load_ms": median(times, 2),
    }


SECTIONS: Final[Mapping[str, Callable[[Bench], dict[str, Any]]]] = {
    "adapters": adapters,
    "quality": quality,
    "eight_bits": eight_bits,
    "base": base,
    "compiled": compiled,
    "forecast": forecast,
}


def main() -> int:
    """Measure and print the report."""
    parser = argparse.ArgumentParser(description="What makes models smaller.")
    parser.add_argument("--quick", action="store_true", help="only show that everything runs")
    parser.add_argument("--threads", type=int, default=1, help="of torch (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), help="measure these alone")
    arguments = parser.parse_args()
    figures: dict[str, Any] = {"benchmark": "smaller_models", "threads": arguments.threads}
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="smaller-models-") as scratch:
        bench = make_bench(
            "tiny", "cpu", None, arguments.threads, Path(scratch), quick=arguments.quick
        )
        for name in arguments.only or SECTIONS:
            figures[name] = SECTIONS[name](bench)
            print(f"{name}: {json.dumps(figures[name])}", flush=True)
    figures["seconds"] = round(time.perf_counter() - began)
    print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
