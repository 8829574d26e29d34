"""The models that the shapes serve, and the request that each is asked."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tenantry.workloads.hosting import Hosting
from tenantry.workloads.schema import Workload, read_workloads
from tenantry.workloads.sections import Cache

LOADED: Final = 32
"""The models that a multi-model instance has memory for."""
STEPS: Final = 4
"""Steps of a picture; the server's default is 12."""
_FILES: Final = 4
"""Archives with numbers of their own. More tenants than that share them, and each has its own
copy in memory."""


@dataclass(frozen=True)
class Product:
    """A workload and archives of its models. `model_bytes` is the memory of one."""

    name: str
    archives: Sequence[bytes]
    model_bytes: int
    request: Mapping[str, Any]

    def archive(self, number: int) -> bytes:
        """The archive of a tenant's version."""
        return self.archives[number % len(self.archives)]

    def workload(self, **shapes: str) -> Workload:
        """The shipped workload with these shapes, on the instances that `energy` has. Every
        request reaches the endpoint."""
        shipped, energy = read_workloads()[self.name], read_workloads()["energy"].serving
        serving = shipped.serving.model_copy(
            update={
                "instance_type": energy.instance_type,
                "usd_per_hour": energy.usd_per_hour,
                "ami_version": None,
                "smoke_request": self.request,
                "cache": Cache(enabled=False),
                "asynchronous": None,
                "environment": {
                    **shipped.serving.environment,
                    "TENANTRY_MODEL_MEMORY_BYTES": str(LOADED * self.model_bytes),
                    "TENANTRY_TORCH_THREADS": "1",
                },
            }
        )
        hosting = Hosting.model_validate(shapes)
        # Nobody has trained these models, so they have no score.
        quality = shipped.quality.model_copy(update={"required": None})
        changes = {"serving": serving, "hosting": hosting, "quality": quality}
        return shipped.model_copy(update=changes)


def portraits(scratch: Path) -> Product:
    """LoRA adapters of training's default shape on the tiny base."""
    from benchmarks.diffusion_base import make_bench, read_tenant, write_tenants
    from containers.diffusion.serving.predictor import DiffusionPredictor

    bench = make_bench("tiny", "cpu", None, 1, scratch, quick=False)
    base = bench.load()
    layers = bench.layers(base)
    files = write_tenants(bench, base, layers, _FILES)
    size = DiffusionPredictor().size(read_tenant(bench, base, layers.shapes(), files[0]))
    request = {"prompt": "a big star", "seed": 7, "steps": STEPS}
    return Product("portraits", [file.read_bytes() for file in files], size, request)


def energy(scratch: Path) -> Product:
    """Forecast models of full size."""
    from benchmarks.serving import REQUEST, write_models
    from containers.forecast.serving.predictor import ForecastPredictor

    folders = [scratch / "models" / name for name in write_models(scratch / "models", _FILES)]
    predictor = ForecastPredictor()
    size = predictor.size(predictor.load(folders[0]))
    return Product("energy", [_packed(folder) for folder in folders], size, json.loads(REQUEST))


def _packed(folder: Path) -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w:gz") as tar:
        for file in sorted(folder.iterdir()):
            tar.add(file, arcname=file.name)
    return sink.getvalue()


PRODUCTS: Final[Mapping[str, Callable[[Path], Product]]] = {
    "portraits": portraits,
    "energy": energy,
}
