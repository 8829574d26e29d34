"""Portraits: many tenants' adapters on one base, beside a pipeline for each; `python -m
benchmarks.diffusion [--quick]`.

On a CPU with the embedded base, and on a GPU with one of Stable Diffusion 1.5's shape and random
weights:

    python -m benchmarks.diffusion
    python -m benchmarks.diffusion --device cuda --size sd15

The compared ways take turns within the run, so that a busy moment of the machine affects both.
Ratios are medians over rounds. Tenants' models have the default shape of training; where only speed
is measured, they hold random numbers. The last line is JSON with every figure. The server's
TENANTRY_ variables (docs/contracts.md, "Portraits") apply here too. `--quick` measures nothing; it
only shows that everything runs.
"""

import argparse
import gc
import json
import os
import platform
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import psutil
import torch

from benchmarks.diffusion_base import SIZES, Bench, make_bench
from benchmarks.diffusion_serving import cold, load, memory, mixed, switch
from benchmarks.diffusion_training import job, training

SECTIONS: Final[Mapping[str, Callable[[Bench], dict[str, Any]]]] = {
    "cold": cold,
    "switch": switch,
    "memory": memory,
    "mixed": mixed,
    "load": load,
    "training": training,
    "job": job,
}


def main() -> int:
    """Measure and print the report."""
    parser = argparse.ArgumentParser(description="Many tenants' adapters on one base.")
    parser.add_argument(
        "--quick", action="store_true", help="as little as shows that everything runs"
    )
    parser.add_argument(
        "--size",
        choices=SIZES,
        default="tiny",
        help="the base: the embedded one, or Stable Diffusion 1.5's shape",
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument(
        "--pixels", type=int, help="width and height of pictures; the base's own unless given"
    )
    parser.add_argument(
        "--threads",
        type=int,
        default=os.cpu_count(),
        help="of torch on the CPU; all cores unless given",
    )
    parser.add_argument("--only", nargs="+", choices=tuple(SECTIONS), help="measure these alone")
    arguments = parser.parse_args()
    # peft warns of a second adapter on a UNet although the first one has been removed.
    warnings.filterwarnings("ignore", module="peft")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="diffusion-") as scratch:
        bench = make_bench(
            arguments.size,
            arguments.device,
            arguments.pixels,
            arguments.threads,
            Path(scratch),
            quick=arguments.quick,
        )
        report = _about(bench)
        for name in arguments.only or SECTIONS:
            started = time.perf_counter()
            figures = SECTIONS[name](bench)
            gc.collect()
            print(f"{name}: {time.perf_counter() - started:.0f} s", json.dumps(figures), flush=True)
            report |= figures
    report["peak_rss_mib"] = _peak_rss_mib()
    report["seconds"] = round(time.perf_counter() - began)
    print(json.dumps(report))
    return 0


def _about(bench: Bench) -> dict[str, Any]:
    cuda = torch.device(bench.device).type == "cuda"
    return {
        "benchmark": "diffusion",
        "base": bench.size,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "dtype": bench.dtype,
        "pixels": bench.pixels,
        "threads": bench.threads,
        "cores": os.cpu_count(),
        "load_average": round(psutil.getloadavg()[0], 1),
        "quick": bench.quick,
        "python": platform.python_version(),
        "versions": {
            name: version(name) for name in ("torch", "diffusers", "peft", "transformers")
        },
    }


def _peak_rss_mib() -> float:
    """The peak memory of this process, without its children."""
    import resource

    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


if __name__ == "__main__":
    sys.exit(main())
