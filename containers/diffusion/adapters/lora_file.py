"""The meaning of the names and the header in a LoRA's safetensors file, as diffusers'
``load_lora_weights`` (0.42) reads them.

diffusers does not read the files itself, because its loader changes the UNet that all tenants share
and skips names that it does not know. Sources: ``diffusers/loaders`` (``peft.py``,
``lora_conversion_utils.py``), ``diffusers/utils`` (``state_dict_utils.py``, ``peft_utils.py``), and
``peft/tuners/lora``. Namings, with ``…`` for a layer's place:

- ``unet.….to_q.lora_A.weight`` and ``lora_B``: PEFT's, with or without ``unet.`` and
  ``base_model.model.`` before it;
- ``unet.….to_q.lora.down.weight`` and ``up`` (or ``lora_linear_layer.down``): what diffusers'
  ``save_lora_weights`` writes;
- ``unet.….processor.to_q_lora.down.weight`` and ``up``: attention processors of older diffusers;
- ``lora_unet_…_to_q.lora_down.weight``, ``lora_up`` and ``alpha``: Kohya's, by diffusers' or by
  Stability's names of blocks.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, cast

from containers.diffusion.adapters.errors import UnusableAdapterError
from containers.diffusion.adapters.lora import Shape

METADATA: Final = "lora_adapter_metadata"
"""Entry of a safetensors header in which diffusers keeps PEFT's ``LoraConfig`` as JSON, each field
behind ``unet.``."""

UNET: Final = "unet."
PEFT: Final = "base_model.model."
"""The prefix of names in PEFT's own files."""

MAX_PATTERNS: Final = 1024
MAX_PATTERN_CHARACTERS: Final = 300

_KOHYA: Final = "lora_unet_"
_DEFAULT_RANK: Final = 8
_DEFAULT_ALPHA: Final = 8
"""The defaults of PEFT's ``LoraConfig``, for metadata that name neither."""

Part = Literal["A", "B", "alpha"]

_PREFIX: Final = re.compile(r"(?:base_model\.model\.)?(?:unet\.)?(?:base_model\.model\.)?")
_ENDING_FORMS: Final[tuple[tuple[str, str, Part], ...]] = (
    (r"\.lora_A\.weight", "", "A"),
    (r"\.lora_B\.weight", "", "B"),
    (r"\.(?:lora|lora_linear_layer)\.down\.weight", "", "A"),
    (r"\.(?:lora|lora_linear_layer)\.up\.weight", "", "B"),
    (r"\.to_(?P<which>[qkv])_lora\.down\.weight", ".to_{which}", "A"),
    (r"\.to_(?P<which>[qkv])_lora\.up\.weight", ".to_{which}", "B"),
    (r"\.to_out_lora\.down\.weight", ".to_out.0", "A"),
    (r"\.to_out_lora\.up\.weight", ".to_out.0", "B"),
    (r"\.alpha", "", "alpha"),
)
"""How names end, the part of the ending that belongs to the layer's name, and the tensor's kind."""
_ENDINGS: Final = tuple(
    (re.compile(rf"(?P<layer>[a-z0-9_.]{{1,200}}?){ending}"), layer, part)
    for ending, layer, part in _ENDING_FORMS
)
_KOHYA_PARTS: Final[Mapping[str, Part]] = {
    "lora_down.weight": "A",
    "lora_up.weight": "B",
    "alpha": "alpha",
}
_TEXT_ENCODER: Final = re.compile(
    r"text_encoder|text_model|lora_te|te[12]?_|base_model\.model\.text_"
)
_OTHER_METHODS: Final = (
    ("lora_magnitude_vector", "DoRA", "adapter_dora"),
    ("dora_scale", "DoRA", "adapter_dora"),
    ("hada_", "LoHa", "adapter_loha"),
    ("lokr_", "LoKr", "adapter_lokr"),
    ("oft_", "OFT", "adapter_oft"),
    ("lora_mid", "Tucker decomposition", "adapter_tucker"),
    (".bias", "a bias", "adapter_bias"),
    (".diff", "whole weights", "adapter_whole_weights"),
)

_READ: Final = frozenset(
    {
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "peft_type",
        "bias",
        "init_lora_weights",
        "use_dora",
    }
)
_WITHOUT_EFFECT: Final = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
    }
    | {
        "fan_in_fan_out",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
    }
    | {
        "lora_ga_config",
        "megatron_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
    }
    | {"runtime_config", "target_modules", "task_type"}
)
"""Fields of ``LoraConfig`` that change training, or which layers are adapted (the weights
themselves say that)."""
_INITIAL_WEIGHTS: Final = (None, True, False, "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base unchanged; PiSSA, OLoRA and others correct a changed base."""

_PATTERN: Final = re.compile(
    r"\^?(?:[A-Za-z0-9_-]|\.[*+]?|\\\.|\\d[*+]?|\[0-9\][*+]?|\((?:\?:)?[A-Za-z0-9_]+(?:\|[A-Za-z0-9_]+)*\))+\$?"
)
"""The regular expressions that are tried on layers' names. They have at most one repetition and one
choice, so that matching cannot take long."""


@dataclass(frozen=True)
class Place:
    """A tensor's role: A (rank, …), B (out, rank) or alpha of a layer of the UNet."""

    layer: str
    part: Part


@dataclass(frozen=True)
class Config:
    """The strength in PEFT's ``LoraConfig``: alpha / rank, or alpha / √rank with rsLoRA. A pattern
    may replace a layer's alpha."""

    rank: int
    alpha: float
    ranks: Mapping[str, float] = field(default_factory=dict)
    alphas: Mapping[str, float] = field(default_factory=dict)
    rslora: bool = False

    def scale(self, layer: str, rank: int) -> float:
        """The factor of B · A in ``layer``. Raises `UnusableAdapterError` when the header gives the
        layer a different rank."""
        told = _matched(self.ranks, layer, self.rank)
        if told != rank:
            raise UnusableAdapterError(
                f"the header's {METADATA} tell rank {told:g} for {layer}, whose weights have rank "
                f"{rank}",
                "adapter_rank_differs",
            )
        return _matched(self.alphas, layer, self.alpha) / (math.sqrt(rank) if self.rslora else rank)


@dataclass(frozen=True)
class LoraFile:
    """Every tensor's place, in file order, and the strength that the header gives."""

    places: Mapping[str, Place]
    kohya: bool
    config: Config | None

    def scales(self, ranks: Mapping[str, int], alphas: Mapping[str, float]) -> dict[str, float]:
        """The factor of B · A for each layer; ``alphas`` holds the alphas that have a tensor of
        their own.

        Raises `UnusableAdapterError` when the header gives strengths as well, or different ranks.
        """
        if self.config is not None:
            if alphas:
                raise UnusableAdapterError(
                    f"alpha is told twice, in the header's {METADATA} and beside the weights",
                    "adapter_alpha_twice",
                )
            return {layer: self.config.scale(layer, rank) for layer, rank in ranks.items()}
        if not alphas:
            return dict.fromkeys(ranks, 1.0)
        if not self.kohya:
            return {
                layer: alphas[layer] / rank if layer in alphas else 1.0
                for layer, rank in ranks.items()
            }
        # diffusers gives every layer the most frequent alpha, and of equally frequent ones the
        # first. Only convolutions keep their own alpha, because the names that diffusers records
        # for attention match no layer.
        ordered = [
            place.layer
            for place in self.places.values()
            if place.part == "A" and place.layer in alphas
        ]
        usual = Counter(alphas[layer] for layer in ordered).most_common(1)[0][0]
        own = {
            layer: alpha for layer, alpha in alphas.items() if not _kind(layer).startswith("to_")
        }
        return {layer: own.get(layer, usual) / rank for layer, rank in ranks.items()}


def read_names(keys: Iterable[str], metadata: object, shapes: Mapping[str, Shape]) -> LoraFile:
    """The role of each tensor of a file, by its name, for a UNet with the adapted layers
    ``shapes``.

    Args:
        keys: the tensors' names, in file order.
        metadata: the header's ``__metadata__``, which is untrusted.
        shapes: the layers that the file may name, from ``LoraLayers.shapes``.

    Raises:
        UnusableAdapterError: a name is unknown or means no adapted layer, two names mean the same
            layer, or the header's settings cannot be applied. No tensor is skipped.
    """
    names = list(keys)
    for name in names:
        _refuse_other_methods(name)
    kohya = any(name.startswith(_KOHYA) for name in names)
    if kohya and not all(name.startswith(_KOHYA) for name in names):
        raise UnusableAdapterError(
            "it mixes Kohya's names with others; export it again in one naming",
            "adapter_namings_mixed",
        )
    aliases = _kohya_names(shapes) if kohya else {}
    places: dict[str, Place] = {}
    for name in names:
        place = _kohya_place(name, aliases) if kohya else _place(name)
        if place is None:
            raise UnusableAdapterError(
                f"{_shown(name)} is no adapted layer of this base, and no naming that is known",
                "adapter_key_unknown",
            )
        if place.layer not in shapes:
            endings = ", ".join(sorted({_kind(layer) for layer in shapes}))
            raise UnusableAdapterError(
                f"{_shown(name)} is no adapted layer of this base; adapted are its {endings}",
                "adapter_layer_unknown",
            )
        places[name] = place
    twice = next((place for place, count in Counter(places.values()).items() if count > 1), None)
    if twice is not None:
        raise UnusableAdapterError(
            f"two names mean {twice.layer}'s {twice.part}", "adapter_layer_twice"
        )
    prefixed = kohya or any(name.startswith(UNET) for name in names)
    return LoraFile(places, kohya, _config(metadata, prefixed))


def peft_config(ranks: Mapping[str, int]) -> dict[str, Any]:
    """The fields of ``peft.LoraConfig`` (0.21) for weights whose B contains alpha. Each layer's
    alpha is its rank, which gives a factor of 1."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    others = {f"^{layer}": rank for layer, rank in ranks.items() if rank != usual}
    return {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
    }


def metadata_of(ranks: Mapping[str, int]) -> dict[str, str] | None:
    """The header's ``__metadata__`` for weights whose B contains alpha, so that diffusers gives
    them a factor of 1.

    None where all layers have one rank, because diffusers then takes the rank as the missing alpha.
    """
    if len(set(ranks.values())) == 1:
        return None
    told = {f"{UNET}{name}": value for name, value in peft_config(ranks).items()}
    # Write only one entry, because safetensors writes several in an order that changes from file to
    # file.
    return {METADATA: json.dumps(told, sort_keys=True, separators=(",", ":"))}


def _kind(layer: str) -> str:
    """A layer's kind without its place: ``to_q``, ``to_out``, ``conv1``."""
    return layer.removesuffix(".0").rpartition(".")[2]


def _shown(text: object) -> str:
    return ascii(text)[:120]


def _refuse_other_methods(name: str) -> None:
    if _TEXT_ENCODER.match(name):
        raise UnusableAdapterError(
            f"{_shown(name)} adapts a text encoder, and only the UNet is adapted here; export the "
            f"UNet's part alone",
            "adapter_of_text_encoder",
        )
    for part, method, code in _OTHER_METHODS:
        if part in name:
            raise UnusableAdapterError(
                f"{_shown(name)} is of {method}, which is not applied here; export a plain LoRA",
                code,
            )


def _place(name: str) -> Place | None:
    bare = name[cast(re.Match[str], _PREFIX.match(name)).end() :].replace(".processor.", ".")
    for pattern, layer, part in _ENDINGS:
        match = pattern.fullmatch(bare)
        if match is not None:
            return Place(match["layer"] + layer.format_map(match.groupdict()), part)
    return None


def _kohya_place(name: str, aliases: Mapping[str, str]) -> Place | None:
    stem, _, rest = name.partition(".")
    part = _KOHYA_PARTS.get(rest)
    return None if part is None else Place(aliases.get(stem, stem), part)


def _kohya_names(shapes: Mapping[str, Shape]) -> dict[str, str]:
    """Layers by Kohya's names for them: diffusers' names, and those of Stability's own UNet."""
    names: dict[str, str] = {}
    numbers = [
        re.match(r"down_blocks\.\d+\.(?:resnets|attentions)\.(\d+)\.", layer) for layer in shapes
    ]
    # Places in a down block: its resnets, each with its attention if any, and one that halves the
    # size.
    each = 2 + max((int(match[1]) for match in numbers if match is not None), default=0)
    for layer in shapes:
        for alias in (layer, _stability_name(layer, each)):
            for short in (
                alias,
                alias.replace("conv1", "in_layers.2").replace("conv2", "out_layers.3"),
            ):
                names[_KOHYA + short.replace(".", "_")] = layer
    return names


def _stability_name(layer: str, each: int) -> str:
    """A layer's place in the blocks of Stability's UNet, where ``each`` blocks make one of
    diffusers'."""
    match = re.match(
        r"(?P<block>down_blocks\.|up_blocks\.|mid_block)(?P<n>\d*)\.(?P<kind>\w+)\.(?P<i>\d+)\.",
        layer,
    )
    if match is None or match["kind"] not in ("resnets", "attentions"):
        return layer
    attention, inner, rest = match["kind"] == "attentions", int(match["i"]), layer[match.end() :]
    if match["block"] == "mid_block":
        return f"middle_block.{1 if attention else 2 * inner}.{rest}"
    number = int(match["n"]) * each + inner
    if match["block"] == "down_blocks.":
        return f"input_blocks.{number + 1}.{int(attention)}.{rest}"
    return f"output_blocks.{number}.{int(attention)}.{rest}"


def _config(metadata: object, prefixed: bool) -> Config | None:
    """The strength that the header gives, or None; ``prefixed`` says whether names begin with
    ``unet.``."""
    raw = metadata.get(METADATA) if isinstance(metadata, dict) else None
    if not raw:
        return None
    try:
        document = json.loads(raw)
    except (TypeError, ValueError, RecursionError) as error:
        raise UnusableAdapterError(
            f"the header's {METADATA} are not JSON", "adapter_metadata_not_json"
        ) from error
    if document is None:
        return None
    if not isinstance(document, dict):
        raise UnusableAdapterError(
            f"the header's {METADATA} are no JSON object", "adapter_metadata_not_json"
        )
    told = {
        name.removeprefix(UNET): value for name, value in document.items() if name.startswith(UNET)
    }
    if not told and not prefixed:
        told = document
    if not told:
        raise UnusableAdapterError(
            f"the header's {METADATA} say nothing of the UNet; save it again with diffusers' "
            f"save_lora_weights",
            "adapter_metadata_of_others",
        )
    _refuse_other_settings(told)
    rslora = told.get("use_rslora")
    return Config(
        rank=_whole(told.get("r", _DEFAULT_RANK), "r"),
        alpha=_number(told.get("lora_alpha", _DEFAULT_ALPHA), "lora_alpha"),
        ranks={
            name: _whole(value, "rank_pattern")
            for name, value in _patterns(told, "rank_pattern").items()
        },
        alphas={
            name: _number(value, "alpha_pattern")
            for name, value in _patterns(told, "alpha_pattern").items()
        },
        rslora=bool(rslora),
    )


def _refuse_other_settings(told: Mapping[str, Any]) -> None:
    """Refuse settings that change the layers in a way that the server does not support."""
    if told.get("use_dora"):
        raise UnusableAdapterError(
            f"the header's {METADATA} say DoRA, which is not applied here; export a plain LoRA",
            "adapter_dora",
        )
    kind = told.get("peft_type")
    wrong = [
        *(name for name, value in told.items() if name not in _READ | _WITHOUT_EFFECT and value),
        *(
            ["peft_type"]
            if kind is not None and str(kind).upper() not in ("LORA", "PEFTTYPE.LORA")
            else []
        ),
        *(["bias"] if told.get("bias") not in (None, "none") else []),
        *(["init_lora_weights"] if told.get("init_lora_weights") not in _INITIAL_WEIGHTS else []),
    ]
    if wrong:
        raise UnusableAdapterError(
            f"the header's {METADATA} set {_shown(wrong[0])} to what is not applied here; export a "
            f"plain LoRA",
            "adapter_setting_unsupported",
        )


def _whole(value: object, name: str) -> int:
    if type(value) is not int or not 1 <= value <= 100_000:
        raise UnusableAdapterError(
            f"the header's {METADATA}: {name} must be whole numbers from 1",
            "adapter_metadata_number",
        )
    return value


def _number(value: object, name: str) -> float:
    # A whole number may be too large for a float; NaN lies within no bounds.
    if type(value) not in (int, float) or not -1e6 <= cast(float, value) <= 1e6:
        raise UnusableAdapterError(
            f"the header's {METADATA}: {name} must be numbers of at most a million",
            "adapter_metadata_number",
        )
    return float(cast(float, value))


def _patterns(told: Mapping[str, Any], name: str) -> Mapping[str, object]:
    patterns = told.get(name) or {}
    if not isinstance(patterns, dict) or len(patterns) > MAX_PATTERNS:
        raise UnusableAdapterError(
            f"the header's {METADATA}: {name} must be an object of at most {MAX_PATTERNS} numbers",
            "adapter_metadata_patterns",
        )
    for pattern in patterns:
        choices, repetitions = pattern.count("("), pattern.count("*") + pattern.count("+")
        known = len(pattern) <= MAX_PATTERN_CHARACTERS and _PATTERN.fullmatch(pattern) is not None
        if not known or choices > 1 or repetitions > 1:
            raise UnusableAdapterError(
                f"the header's {METADATA}: {name} has {_shown(pattern)}; write layers' names, with "
                f"one choice"
                " in brackets and one repetition at most",
                "adapter_pattern_unsupported",
            )
    return patterns


def _matched(patterns: Mapping[str, float], layer: str, otherwise: float) -> float:
    """The number of the first pattern that is ``layer`` or its end
    (peft.utils.other.get_pattern_key), else the other."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return otherwise
