"""The compiler's output beside a base: the graphs, and a card that says what they were compiled
for."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, Literal, get_args

from containers.diffusion.adapters.targets import TARGETS
from containers.diffusion.base.pipeline import DTYPES, UnusableBaseError

FOLDER: Final = "neuron"
"""The subfolder of the base's folder that holds the compiled graphs, so that they travel with the
base."""
CARD: Final = "compiled.json"
UNET: Final = "unet.pt"
DECODER: Final = "decoder.pt"
TEXT_ENCODERS: Final = ("text_encoder", "text_encoder_2")
MAX_CARD_BYTES: Final = 16 * 1024

Compiler = Literal["neuron", "torchscript"]


@dataclass(frozen=True)
class CompiledCard:
    """The shapes and types that the graphs were compiled for; the graphs accept no others."""

    compiler: Compiler
    """``torchscript`` records the graphs instead of compiling them, for machines without Neuron's
    compiler."""
    base_digest: str
    targets: str
    rank: int
    samples: int
    """Samples in one call of the UNet; a guided picture takes two."""
    size: int
    """Pixels a side."""
    dtype: str

    def write(self, folder: Path) -> None:
        """Write the card into the folder of the graphs."""
        (folder / CARD).write_text(json.dumps({"format": 1, **asdict(self)}, indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> "CompiledCard":
        """Read the card of a base's folder. Raises `UnusableBaseError`, which says how to make a
        card or names the faulty field."""
        path = folder / FOLDER / CARD
        try:
            if path.stat().st_size > MAX_CARD_BYTES:
                raise UnusableBaseError(f"{FOLDER}/{CARD} is larger than {MAX_CARD_BYTES} bytes")
            document: Any = json.loads(path.read_bytes())
        except OSError as error:
            raise UnusableBaseError(
                f"the base has no {FOLDER}/{CARD}; compile it with python -m "
                f"containers.diffusion.neuron.compile"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UnusableBaseError(
                f"{FOLDER}/{CARD} is not JSON; compile the base again"
            ) from error
        if not isinstance(document, dict) or document.get("format") != 1:
            raise UnusableBaseError(f"{FOLDER}/{CARD} is not of format 1; compile the base again")
        values: dict[str, Any] = {field.name: document.get(field.name) for field in fields(cls)}
        for name, value in values.items():
            if not _is_valid(name, value):
                raise UnusableBaseError(
                    f"{FOLDER}/{CARD}: {name!r} cannot be {str(value)[:60]!r}; compile the base "
                    f"again"
                )
        return cls(**values)


def _is_valid(name: str, value: object) -> bool:
    match name:
        case "compiler":
            return value in get_args(Compiler)
        case "targets":
            return value in TARGETS
        case "dtype":
            return value in DTYPES
        case "base_digest":
            return isinstance(value, str)
        case _:
            return type(value) is int and 1 <= value <= 65536
