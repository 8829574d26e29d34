"""LoRAs of other programs: read with diffusers' strength and drawn like diffusers' pictures, or
refused."""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DConditionModel
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from containers.diffusion.adapters.adapter import Adapter, UnusableAdapterError, read_adapter
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base, load_base
from containers.diffusion.serving.engine import Engine
from tests.containers.diffusion.conftest import (
    RANK,
    TARGETS,
    Weights,
    card,
    random_weights,
    write_model,
)
from tests.containers.diffusion.test_engine import drawing, drawn, engine_over, pictures_of, same

QUERY = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"
CONVOLUTION = "up_blocks.0.resnets.1.conv2"
LAYERS = (
    QUERY,
    QUERY.replace("to_q", "to_v"),
    OUT,
    OUT.replace("attn2", "attn1"),
    CONVOLUTION,
    "down_blocks.0.resnets.0.conv1",
)

Tensors = dict[str, Tensor]
Header = dict[str, Any]


# ---- how other programs write them ---------------------------------------------------------------


def named(weights: Weights, name: Callable[[str], tuple[str, str]]) -> Tensors:
    """The tensors under the names that ``name`` gives to a layer's A and B; a convolution's B is a
    1 × 1 convolution."""
    tensors = {}
    for layer, (a, b) in weights.items():
        tensors[name(layer)[0]] = a
        tensors[name(layer)[1]] = b if a.ndim == 2 else b[:, :, None, None].contiguous()
    return tensors


def peft(layer: str) -> tuple[str, str]:
    return f"unet.{layer}.lora_A.weight", f"unet.{layer}.lora_B.weight"


def diffusers(layer: str) -> tuple[str, str]:
    return f"unet.{layer}.lora.down.weight", f"unet.{layer}.lora.up.weight"


def processor(layer: str, between: str = ".processor") -> tuple[str, str]:
    parent, _, kind = layer.removesuffix(".0").rpartition(".")
    place = (
        f"unet.{parent}{between}.{kind}_lora" if kind.startswith("to_") else f"unet.{layer}.lora"
    )
    return f"{place}.down.weight", f"{place}.up.weight"


def old_diffusers(layer: str) -> tuple[str, str]:
    return processor(layer, "")


def kohya(layer: str) -> tuple[str, str]:
    place = f"lora_unet_{layer.replace('.', '_')}"
    return f"{place}.lora_down.weight", f"{place}.lora_up.weight"


def stability(layer: str) -> tuple[str, str]:
    """Kohya's names on Stability's UNet, for a base of two blocks with a resnet each."""
    places = {
        "down_blocks.0.": "input_blocks.1.",
        "down_blocks.1.": "input_blocks.3.",
        "mid_block.": "middle_block.",
        "up_blocks.0.resnets.0": "output_blocks.0.0",
        "up_blocks.0.attentions.0": "output_blocks.0.1",
        "up_blocks.0.resnets.1": "output_blocks.1.0",
        "up_blocks.0.attentions.1": "output_blocks.1.1",
        "up_blocks.1.resnets.0": "output_blocks.2.0",
        "up_blocks.1.resnets.1": "output_blocks.3.0",
        "middle_block.resnets.0": "middle_block.0",
        "middle_block.resnets.1": "middle_block.2",
        "middle_block.attentions.0": "middle_block.1",
        ".resnets.0.": ".0.",
        ".attentions.0.": ".1.",
        "conv1": "in_layers.2",
        "conv2": "out_layers.3",
    }
    for ours, theirs in places.items():
        layer = layer.replace(ours, theirs)
    return kohya(layer)


NAMINGS = {
    "peft": peft,
    "diffusers": diffusers,
    "processor": processor,
    "old diffusers": old_diffusers,
    "kohya": kohya,
}


def header(**told: Any) -> dict[str, str]:
    """The header as diffusers writes it; diffusers reads a file with a header only with
    ``target_modules``."""
    fields = {f"unet.{name}": value for name, value in {"target_modules": ["to_q"], **told}.items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(fields)}


@dataclass(frozen=True)
class Case:
    """A file: the rank of each layer in it, and the form of its strength."""

    naming: str
    ranks: Mapping[str, int]
    dtype: torch.dtype = torch.float32
    told: Header | None = None
    alphas: Mapping[str, float] = field(default_factory=dict)

    def write(self, folder: Path, layers: LoraLayers, base: Base) -> None:
        drawn_weights = random_weights(layers, 5)
        weights = {
            layer: (
                drawn_weights[layer][0][:rank].to(self.dtype),
                drawn_weights[layer][1][:, :rank].to(self.dtype),
            )
            for layer, rank in self.ranks.items()
        }
        tensors = named(
            {layer: (a.clone(), b.clone()) for layer, (a, b) in weights.items()},
            NAMINGS[self.naming],
        )
        for layer, alpha in self.alphas.items():
            tensors[kohya(layer)[0].replace("lora_down.weight", "alpha")] = torch.tensor(alpha)
        write_file(folder, tensors, header(**self.told) if self.told is not None else None, base)


def write_file(folder: Path, tensors: Tensors, metadata: dict[str, str] | None, base: Base) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        folder / "adapter.safetensors",
        metadata,
    )
    (folder / "card.json").write_text(json.dumps(card(base).to_json()))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    naming = draw(st.sampled_from(sorted(NAMINGS)))
    chosen = draw(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=4, unique=True))
    ranks = {layer: draw(st.integers(1, RANK)) for layer in chosen}
    dtype = draw(st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
    alpha = st.sampled_from([0.5, 1, 2, 3, 8])
    if naming == "kohya" and draw(st.booleans()):
        return Case(
            naming,
            ranks,
            dtype,
            None,
            {layer: draw(alpha) for layer in draw(st.sets(st.sampled_from(chosen)))},
        )
    if draw(st.booleans()):
        return Case(naming, ranks, dtype)
    usual = draw(st.sampled_from(sorted(ranks.values())))
    other_ranks = {f"^{layer}": rank for layer, rank in ranks.items() if rank != usual}
    patterns = st.sampled_from(
        ["to_q", "attn1.to_q", "to_out.0", "to_out", "conv[0-9]+", "to_(q|v)", f"unet.{QUERY}", OUT]
    )
    told: Header = {
        "r": usual,
        "rank_pattern": other_ranks,
        "alpha_pattern": draw(st.dictionaries(patterns, alpha, max_size=3)),
        "use_rslora": draw(st.booleans()),
        "lora_dropout": 0.1,
    }
    if draw(st.booleans()):
        told["lora_alpha"] = draw(alpha)
    return Case(naming, ranks, dtype, told)


# ---- held against diffusers ----------------------------------------------------------------------


def pipeline_of(folder: Path) -> Any:
    pipeline = DiffusionPipeline.from_pretrained(folder, safety_checker=None, local_files_only=True)
    pipeline.scheduler = DDIMScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def theirs(base_folder: Path) -> Any:
    return pipeline_of(base_folder)


@pytest.fixture(scope="module")
def ours(loaded_base: Base) -> Iterator[Engine]:
    layers = LoraLayers(loaded_base.unet, TARGETS, 9, RANK)
    yield engine_over(loaded_base, layers)
    layers.remove()


def read(folder: Path, base: Base, layers: LoraLayers) -> Adapter:
    return read_adapter(folder, layers.shapes(), base.digest, RANK, torch.float32)


def assert_as_in_diffusers(folder: Path, base: Base, engine: Engine, pipeline: Any) -> None:
    """Check that every layer's change of weights is the same, and a picture as well."""
    asked = drawing("a red star", seed=3, steps=2)
    adapter = read(folder, base, engine.bank.layers)
    with warnings.catch_warnings():
        # PEFT warns of names in the header that match no layer.
        warnings.simplefilter("ignore")
        pipeline.load_lora_weights(folder, weight_name="adapter.safetensors")
    try:
        changes = {
            name: module.get_delta_weight("default_0")
            for name, module in pipeline.unet.named_modules()
            if hasattr(module, "get_delta_weight")
        }
        # diffusers loads adapters in training mode, in which a header's dropout adds noise.
        pipeline.unet.eval()
        expected = pictures_of(pipeline, asked)
    finally:
        pipeline.unload_lora_weights()
    assert set(changes) == set(adapter.weights)
    for layer, (a, b) in adapter.weights.items():
        torch.testing.assert_close(
            (b @ a.flatten(1)).view(changes[layer].shape), changes[layer], rtol=1e-4, atol=1e-5
        )
    assert same(drawn(engine, adapter, asked)[0], expected)


EVERY = dict.fromkeys(LAYERS, 2)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(case=cases())
@example(Case("diffusers", EVERY, told={"r": 2, "lora_alpha": 2}))
@example(Case("peft", EVERY, told={"r": 2, "lora_alpha": 4}))
@example(
    Case(
        "processor",
        EVERY,
        told={"r": 2, "lora_alpha": 0, "alpha_pattern": {"to_q": 4}, "use_rslora": True},
    )
)
@example(Case("kohya", EVERY, alphas={QUERY: 1, OUT: 4, CONVOLUTION: 8}))
@example(Case("kohya", {QUERY: 4, OUT: 1, CONVOLUTION: 2}, torch.bfloat16, alphas={CONVOLUTION: 8}))
def test_a_lora_changes_weights_and_pictures_as_in_diffusers(
    tmp_path: Path, loaded_base: Base, ours: Engine, theirs: Any, case: Case
) -> None:
    case.write(tmp_path, ours.bank.layers, loaded_base)
    assert_as_in_diffusers(tmp_path, loaded_base, ours, theirs)


def test_a_lora_of_stabilitys_names_is_as_in_diffusers(xl_folder: Path, tmp_path: Path) -> None:
    base = load_base(str(xl_folder), device="cpu")
    layers = LoraLayers(base.unet, TARGETS, 2, RANK)
    tensors = named(random_weights(layers, 1), stability)
    alphas = {
        name.replace("lora_down.weight", "alpha"): torch.tensor(2)
        for name in tensors
        if "lora_down" in name
    }
    write_file(tmp_path, tensors | alphas, None, base)
    assert_as_in_diffusers(tmp_path, base, engine_over(base, layers), pipeline_of(xl_folder))


@pytest.mark.parametrize("ranks", [{}, {QUERY: 1, CONVOLUTION: 2}])
def test_peft_makes_the_same_layers_of_the_config_beside_the_weights(
    base_folder: Path, loaded_base: Base, ours: Engine, tmp_path: Path, ranks: dict[str, int]
) -> None:
    layers = ours.bank.layers
    weights = random_weights(layers, seed=5)
    for layer, rank in ranks.items():
        weights[layer] = random_weights(layers, seed=6, rank=rank)[layer]
    write_model(tmp_path, weights, card(loaded_base))
    config = LoraConfig.from_pretrained(str(tmp_path))
    unet = UNet2DConditionModel.from_pretrained(base_folder, subfolder="unet")
    peft_model = inject_adapter_in_model(config, unet)
    tensors = load_file(tmp_path / "adapter.safetensors")
    state = {name.removeprefix("unet."): tensor for name, tensor in tensors.items()}
    set_peft_model_state_dict(peft_model, state)
    changes = {
        name: module.get_delta_weight("default")
        for name, module in peft_model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert set(changes) == set(weights)
    for layer, (a, b) in read(tmp_path, loaded_base, layers).weights.items():
        change = (b @ a.flatten(1)).view(changes[layer].shape)
        torch.testing.assert_close(change, changes[layer], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "ranks", [(4, 4, 4, 2, 3, 4), (3, 3, 3, 3, 3, 3)], ids=["several ranks", "one rank"]
)
def test_what_training_writes_has_the_same_strength_in_diffusers(
    tmp_path: Path, loaded_base: Base, ours: Engine, theirs: Any, ranks: tuple[int, ...]
) -> None:
    drawn_weights = random_weights(ours.bank.layers, 5)
    mixed = {
        layer: (drawn_weights[layer][0][:rank], drawn_weights[layer][1][:, :rank])
        for layer, rank in zip(LAYERS, ranks, strict=True)
    }
    write_model(tmp_path, mixed, card(loaded_base))
    told = theirs.lora_state_dict(
        tmp_path, weight_name="adapter.safetensors", return_lora_metadata=True
    )[2]
    assert (told is None) == (len(set(ranks)) == 1)
    assert told is None or (told["unet.r"], told["unet.lora_alpha"]) == (4, 4)
    assert_as_in_diffusers(tmp_path, loaded_base, ours, theirs)


# ---- namings that diffusers reads by other doors -------------------------------------------------


@pytest.mark.parametrize(
    ("before", "ends"),
    [
        ("", ("lora_A.weight", "lora_B.weight")),
        ("base_model.model.", ("lora_A.weight", "lora_B.weight")),
        ("base_model.model.unet.", ("lora_A.weight", "lora_B.weight")),
        ("unet.base_model.model.", ("lora_A.weight", "lora_B.weight")),
        ("", ("lora.down.weight", "lora.up.weight")),
        ("unet.", ("lora_linear_layer.down.weight", "lora_linear_layer.up.weight")),
    ],
)
def test_a_unets_own_files_are_taken_too(
    tmp_path: Path, loaded_base: Base, ours: Engine, before: str, ends: tuple[str, str]
) -> None:
    weights = {layer: random_weights(ours.bank.layers, 5)[layer] for layer in (QUERY, CONVOLUTION)}
    tensors = named(
        weights, lambda layer: (f"{before}{layer}.{ends[0]}", f"{before}{layer}.{ends[1]}")
    )
    # Such files give their strength without a prefix, like their names.
    told = {"lora_adapter_metadata": json.dumps({"r": RANK, "lora_alpha": 2 * RANK})}
    prefixed = before.startswith("unet.")
    write_file(
        tmp_path, tensors, header(r=RANK, lora_alpha=2 * RANK) if prefixed else told, loaded_base
    )
    found = read(tmp_path, loaded_base, ours.bank.layers).weights
    assert set(found) == set(weights)
    for layer, (a, b) in weights.items():
        assert torch.equal(found[layer][0], a)
        assert torch.equal(found[layer][1], 2 * b)


def test_pefts_own_files_tell_their_alpha_beside_the_weights(
    tmp_path: Path, loaded_base: Base, ours: Engine
) -> None:
    tensors = tensors_of(
        lambda layer: (
            f"base_model.model.{layer}.lora_A.weight",
            f"base_model.model.{layer}.lora_B.weight",
        )
    )
    write_file(tmp_path, tensors, None, loaded_base)
    layers = ours.bank.layers
    assert torch.equal(read(tmp_path, loaded_base, layers).weights[QUERY][1], torch.ones(64, 2))
    (tmp_path / "adapter_config.json").write_text(
        json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6})
    )
    assert torch.equal(
        read(tmp_path, loaded_base, layers).weights[QUERY][1], torch.full((64, 2), 3.0)
    )
    (tmp_path / "adapter_config.json").write_text(" " * 70_000)
    with pytest.raises(UnusableAdapterError) as refused:
        read(tmp_path, loaded_base, layers)
    assert refused.value.code == "adapter_config_too_large"


# ---- what is refused -----------------------------------------------------------------------------


def tensors_of(name: Callable[[str], tuple[str, str]], *layers: str) -> Tensors:
    a, b = torch.ones(2, 64), torch.ones(64, 2)
    return named(dict.fromkeys(layers or (QUERY,), (a, b)), name)


KOHYA_QUERY = f"lora_unet_{QUERY.replace('.', '_')}"
LORA = {"r": 2, "lora_alpha": 4}

REFUSED: dict[str, tuple[str, Callable[[], tuple[Tensors, dict[str, str] | None]]]] = {
    "DoRA of PEFT": (
        "adapter_dora",
        lambda: (tensors_of(peft) | {f"unet.{QUERY}.lora_magnitude_vector": torch.ones(64)}, None),
    ),
    "DoRA of Kohya": (
        "adapter_dora",
        lambda: (tensors_of(kohya) | {f"{KOHYA_QUERY}.dora_scale": torch.ones(64)}, None),
    ),
    "DoRA by the header": (
        "adapter_dora",
        lambda: (tensors_of(peft), header(**LORA, use_dora=True)),
    ),
    "LoHa": ("adapter_loha", lambda: ({f"{KOHYA_QUERY}.hada_w1_a": torch.ones(64, 2)}, None)),
    "LoKr": ("adapter_lokr", lambda: ({f"{KOHYA_QUERY}.lokr_w1": torch.ones(8, 8)}, None)),
    "LoKr of PEFT": ("adapter_lokr", lambda: ({f"unet.{QUERY}.lokr_w2_a": torch.ones(8, 8)}, None)),
    "Tucker": (
        "adapter_tucker",
        lambda: (tensors_of(kohya) | {f"{KOHYA_QUERY}.lora_mid.weight": torch.ones(2)}, None),
    ),
    "bias": (
        "adapter_bias",
        lambda: (tensors_of(peft) | {f"unet.{QUERY}.lora_B.bias": torch.ones(64)}, None),
    ),
    "whole weights": (
        "adapter_whole_weights",
        lambda: ({f"{KOHYA_QUERY}.diff": torch.ones(64, 64)}, None),
    ),
    "text encoder": (
        "adapter_of_text_encoder",
        lambda: (
            tensors_of(peft) | {"text_encoder.x.lora_linear_layer.up.weight": torch.ones(2)},
            None,
        ),
    ),
    "text encoder of Kohya": (
        "adapter_of_text_encoder",
        lambda: (tensors_of(kohya) | {"lora_te1_text_model_x.lora_up.weight": torch.ones(2)}, None),
    ),
    "layer that is not adapted": (
        "adapter_layer_unknown",
        lambda: (tensors_of(peft, "conv_in"), None),
    ),
    "layer of Kohya that is not adapted": (
        "adapter_layer_unknown",
        lambda: (tensors_of(kohya, QUERY.replace("attn1.to_q", "ff.net.0.proj")), None),
    ),
    "unknown naming": (
        "adapter_key_unknown",
        lambda: ({f"unet.{QUERY}.lora_A.default.weight": torch.ones(2, 64)}, None),
    ),
    "alpha of no layer": (
        "adapter_layer_unknown",
        lambda: (tensors_of(peft) | {f"unet.{QUERY}.lora.alpha": torch.tensor(2)}, None),
    ),
    "two namings": (
        "adapter_namings_mixed",
        lambda: (tensors_of(peft) | tensors_of(kohya, OUT), None),
    ),
    "a layer twice": (
        "adapter_layer_twice",
        lambda: (tensors_of(peft) | tensors_of(diffusers), None),
    ),
    "alpha told twice": (
        "adapter_alpha_twice",
        lambda: (tensors_of(kohya) | {f"{KOHYA_QUERY}.alpha": torch.tensor(2)}, header(**LORA)),
    ),
    "another rank": ("adapter_rank_differs", lambda: (tensors_of(peft), header(r=3, lora_alpha=4))),
    "no rank": ("adapter_rank_differs", lambda: (tensors_of(peft), header(lora_alpha=4))),
    "header of the text encoder": (
        "adapter_metadata_of_others",
        lambda: (tensors_of(peft), {"lora_adapter_metadata": '{"text_encoder.r": 2}'}),
    ),
    "header that is no JSON": (
        "adapter_metadata_not_json",
        lambda: (tensors_of(peft), {"lora_adapter_metadata": "[" * 100_000}),
    ),
    "header that is a list": (
        "adapter_metadata_not_json",
        lambda: (tensors_of(peft), {"lora_adapter_metadata": "[1]"}),
    ),
    "alpha that is a word": (
        "adapter_metadata_number",
        lambda: (tensors_of(peft), header(r=2, lora_alpha="4")),
    ),
    "alpha that is no number": (
        "adapter_metadata_number",
        lambda: (tensors_of(peft), header(r=2, lora_alpha=float("nan"))),
    ),
    "endless alpha": (
        "adapter_metadata_number",
        lambda: (tensors_of(peft), header(r=2, lora_alpha=10**400)),
    ),
    "patterns in a list": (
        "adapter_metadata_patterns",
        lambda: (tensors_of(peft), header(**LORA, rank_pattern=["to_q"])),
    ),
    "too many patterns": (
        "adapter_metadata_patterns",
        lambda: (tensors_of(peft), header(**LORA, alpha_pattern={f"x{n}": 1 for n in range(2000)})),
    ),
    "a pattern that never ends": (
        "adapter_pattern_unsupported",
        lambda: (tensors_of(peft), header(**LORA, alpha_pattern={"(a|a)(a|a)*x": 1})),
    ),
    "a broken pattern": (
        "adapter_pattern_unsupported",
        lambda: (tensors_of(peft), header(**LORA, alpha_pattern={"(": 1})),
    ),
    "weights that begin as PiSSA": (
        "adapter_setting_unsupported",
        lambda: (tensors_of(peft), header(**LORA, init_lora_weights="pissa_niter_4")),
    ),
    "another method": (
        "adapter_setting_unsupported",
        lambda: (tensors_of(peft), header(**LORA, peft_type="BOFT")),
    ),
    "a setting of tomorrow": (
        "adapter_setting_unsupported",
        lambda: (tensors_of(peft), header(**LORA, use_twist=True)),
    ),
    "biases by the header": (
        "adapter_setting_unsupported",
        lambda: (tensors_of(peft), header(**LORA, lora_bias=True)),
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_followed_is_refused_by_name(
    tmp_path: Path, loaded_base: Base, ours: Engine, kind: str
) -> None:
    code, content = REFUSED[kind]
    write_file(tmp_path, *content(), loaded_base)
    with pytest.raises(UnusableAdapterError) as refused:
        read(tmp_path, loaded_base, ours.bank.layers)
    assert refused.value.code == code
    assert len(str(refused.value)) < 400


def test_settings_of_training_are_no_reason_to_refuse(
    tmp_path: Path, loaded_base: Base, ours: Engine
) -> None:
    from peft import LoraConfig

    config = LoraConfig(
        r=2, lora_alpha=4, init_lora_weights="gaussian", target_modules=["to_q"], lora_dropout=0.1
    )
    told = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in config.to_dict().items()
    }
    write_file(tmp_path, tensors_of(peft), header(**told), loaded_base)
    assert torch.equal(
        read(tmp_path, loaded_base, ours.bank.layers).weights[QUERY][1], torch.full((64, 2), 2.0)
    )
