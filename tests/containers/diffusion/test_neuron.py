"""The Inferentia2 variant without the compiler itself, which PyTorch's own tracing replaces."""

import json
import runpy
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from containers.diffusion.adapters.adapter import Adapter
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base, UnusableBaseError, load_base
from containers.diffusion.neuron.artifacts import CompiledCard
from containers.diffusion.neuron.compile import main
from containers.diffusion.neuron.serving import load_compiled, slots_of_samples
from containers.diffusion.serving.engine import SAME_PICTURE, Engine, EngineSettings, Pixels
from containers.diffusion.serving.predictor import DiffusionPredictor, ServingSettings
from containers.diffusion.serving.request import Drawing
from containers.runtime.serving.predictor import InvalidRequestError
from tests.containers.diffusion.conftest import RANK, TARGETS, card, random_weights

SAMPLES = 4

pytestmark = [
    # PyTorch's warnings about tracing.
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning"),
]


class StandInCompiler(ModuleType):
    """The used part of `torch_neuronx`: the signature follows its documentation, and the graph runs
    on this CPU.

    https://awsdocs-neuron.readthedocs-hosted.com/en/latest/frameworks/torch/torch-neuronx/api-reference-guide/inference/api-torch-neuronx-trace.html
    """

    compiled: ClassVar[list[tuple[str, list[str]]]] = []

    @classmethod
    def trace(
        cls,
        func: torch.nn.Module,
        example_inputs: Tensor | tuple[Tensor, ...],
        *_: Any,
        input_output_aliases: dict[Any, Any] | None = None,
        compiler_workdir: str | None = None,
        compiler_args: str | list[str] | None = None,
        partitioner_config: Any = None,
        inline_weights_to_neff: bool = True,
        cpu_backend: bool = False,
    ) -> Any:
        assert isinstance(compiler_args, list)
        cls.compiled.append((type(func).__name__, compiler_args))
        return torch.jit.trace(func, example_inputs, check_trace=False)  # type: ignore[no-untyped-call]


@pytest.fixture(scope="module")
def compiler(loaded_base: Base) -> Iterator[type[StandInCompiler]]:
    # Do this after the base is loaded, because diffusers' import asks for the installed version of
    # torch_neuronx.
    sys.modules["torch_neuronx"] = StandInCompiler("torch_neuronx")
    yield StandInCompiler
    del sys.modules["torch_neuronx"]


def compiled(folder: Path, target: Path) -> Path:
    """A copy of a saved base, compiled."""
    shutil.copytree(folder, target)
    assert (
        main([str(target), "--dtype", "fp32", "--rank", str(RANK), "--samples", str(SAMPLES)]) == 0
    )
    return target


@pytest.fixture(scope="module")
def compiled_folder(
    compiler: object, base_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return compiled(base_folder, tmp_path_factory.mktemp("compiled") / "base")


@pytest.fixture(scope="module")
def compiled_xl_folder(
    compiler: object, xl_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    return compiled(xl_folder, tmp_path_factory.mktemp("compiled-xl") / "base")


def settings(folder: Path, **variables: str) -> ServingSettings:
    given = {
        "TENANTRY_BASE": str(folder),
        "TENANTRY_RANK": str(RANK),
        "TENANTRY_SLOTS": "3",
        **variables,
    }
    return ServingSettings.of_environment(given)


def drawn(base: Base, layers: LoraLayers, weights: Sequence[Any]) -> list[Pixels]:
    """Pictures of two tenants in shared batches, with more samples than a graph takes and different
    steps and guidances."""
    engine = Engine(base, layers, EngineSettings(places=8))
    acme, borealis = (
        Adapter(card(base), f"v{number}", each) for number, each in enumerate(weights)
    )
    jobs = [
        engine.submit(
            acme, [Drawing("a red circle", None, seed, 3, 2.5, 32, 32) for seed in (1, 2)]
        ),
        engine.submit(borealis, [Drawing("a red circle", None, 1, 2, 1.0, 32, 32)]),
        engine.submit(borealis, [Drawing("a star", "blue", 3, 3, 5.0, 32, 32)]),
    ]
    while not all(job.answer.done() for job in jobs):
        engine.turn()
    return [picture for job in jobs for picture in job.answer.result()]


@pytest.mark.parametrize("kind", ["base", pytest.param("xl", marks=pytest.mark.slow)])
def test_compiled_graphs_draw_what_the_base_draws_for_adapters_they_were_not_compiled_with(
    kind: str, request: pytest.FixtureRequest
) -> None:
    folder = request.getfixturevalue("compiled_folder" if kind == "base" else "compiled_xl_folder")
    eager = load_base(str(folder), device="cpu")
    eager_layers = LoraLayers(eager.unet, TARGETS, 4, RANK)
    weights = [random_weights(eager_layers, seed) for seed in (1, 2)]
    base, layers = load_compiled(settings(folder))
    pictures = drawn(base, layers, weights)
    most, share = SAME_PICTURE
    for picture, expected in zip(pictures, drawn(eager, eager_layers, weights), strict=True):
        difference = np.abs(picture.astype(int) - expected.astype(int))
        assert difference.max() <= most
        assert (difference > 0).mean() <= share
    assert np.abs(pictures[0].astype(int) - pictures[2].astype(int)).mean() > 1, (
        "each tenant has its own adapter"
    )


def test_the_compiler_is_asked_for_each_network_with_its_arguments(
    compiler: type[StandInCompiler], compiled_folder: Path
) -> None:
    assert {
        ("TextStates", ()),
        ("PictureOfLatents", ("--model-type=unet-inference",)),
        ("AdaptedUnet", ("--model-type=unet-inference",)),
    } == {(name, tuple(arguments)) for name, arguments in compiler.compiled}
    found = CompiledCard.read(compiled_folder)
    assert (found.compiler, found.samples, found.size, found.rank) == ("neuron", SAMPLES, 32, RANK)


def test_the_server_draws_compiled_pictures_of_one_size(
    compiled_folder: Path, tmp_path: Path
) -> None:
    predictor = DiffusionPredictor(lambda: settings(compiled_folder), load=load_compiled)
    predictor.start()
    try:
        adapter = Adapter(card(load_base(str(compiled_folder), device="cpu")), "v1", {})
        call = predictor.predict(
            adapter, b'{"prompt": "a star", "width": 16}', "application/json", ""
        )
        with pytest.raises(InvalidRequestError, match="width must be a whole number from 32 to 32"):
            call.send(None)
    finally:
        predictor.close()


def test_an_adapter_leaves_its_row_when_it_is_forgotten(compiled_folder: Path) -> None:
    base, layers = load_compiled(settings(compiled_folder))
    unet = base.unet
    layers.put(2, random_weights(layers, 5))
    assert unet.rows[2].abs().sum() > 0
    assert unet.rows[[0, 1, 3]].abs().sum() == 0
    layers.put(2, {})
    assert unet.rows.abs().sum() == 0


@pytest.mark.parametrize(
    "slots", [[3, 3, 3], [1, 2, 3], [2, 2, 3, 3], [3, 1, 2], [0], [0, 0, 1, 1], [5, 5, 1, 1, 5, 5]]
)
def test_each_sample_finds_the_slot_it_was_given(slots: list[int], loaded_base: Base) -> None:
    layers = LoraLayers(loaded_base.unet, TARGETS, 6, RANK)
    layers.routing.route(slots, torch.device("cpu"))
    layers.remove()
    assert slots_of_samples(layers.routing, len(slots)).tolist() == slots


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"TENANTRY_RANK": "8"}, "TENANTRY_RANK is 8, and the base was compiled for 4"),
        ({"TENANTRY_LORA_TARGETS": "attention"}, "TENANTRY_LORA_TARGETS is 'attention'"),
        (
            {"TENANTRY_DTYPE": "bf16"},
            "TENANTRY_DTYPE is 'bf16', and the base was compiled for 'fp32'",
        ),
    ],
)
def test_settings_that_graphs_were_not_compiled_for_are_refused(
    compiled_folder: Path, variables: dict[str, str], words: str
) -> None:
    with pytest.raises(UnusableBaseError, match=words):
        load_compiled(settings(compiled_folder, **variables))


def test_a_base_that_is_not_compiled_says_how_it_gets_so(base_folder: Path) -> None:
    with pytest.raises(
        UnusableBaseError, match=r"python -m containers\.diffusion\.neuron\.compile"
    ):
        load_compiled(settings(base_folder))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"base_digest": "0" * 64}, "compiled from other weights"),
        ({"samples": 0}, "'samples' cannot be '0'"),
        ({"compiler": "gcc"}, "'compiler' cannot be 'gcc'"),
        ({"format": 2}, "not of format 1"),
    ],
)
def test_graphs_of_another_base_and_cards_that_make_no_sense_are_refused(
    compiled_folder: Path, tmp_path: Path, changed: dict[str, Any], words: str
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(compiled_folder, folder)
    path = folder / "neuron" / "compiled.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changed}))
    with pytest.raises(UnusableBaseError, match=words):
        load_compiled(settings(folder))


def test_a_graph_that_was_cut_is_refused(compiled_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "base"
    shutil.copytree(compiled_folder, folder)
    graph = folder / "neuron" / "unet.pt"
    graph.write_bytes(graph.read_bytes()[:1000])
    with pytest.raises(
        UnusableBaseError, match=r"unet\.pt cannot be loaded; compile the base again"
    ):
        load_compiled(settings(folder))


def test_without_the_neuron_sdk_neither_side_works_and_both_say_so(
    base_folder: Path,
    compiled_folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # makes the import fail, as if it were not installed
    monkeypatch.setitem(sys.modules, "torch_neuronx", None)
    assert main([str(base_folder)]) == 1
    assert "torch_neuronx is not installed" in capsys.readouterr().err
    with pytest.raises(UnusableBaseError, match="torch_neuronx is not installed"):
        load_compiled(settings(compiled_folder))


def test_a_size_the_base_cannot_draw_is_refused(
    base_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(base_folder), "--size", "33"]) == 1
    assert "not a multiple of 4 pixels" in capsys.readouterr().err


def test_the_entry_point_can_be_started() -> None:
    assert "load_compiled" in runpy.run_path(
        "containers/diffusion/neuron/serve", run_name="imported"
    )
