"""The pictures of trained adapters, and the prompts that judge them. The serving engine itself
draws all tenants' pictures in one batch."""

import hashlib
import re
from collections.abc import Generator, Mapping, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from containers.diffusion.adapters.adapter import Adapter
from containers.diffusion.adapters.lora import LoraLayers
from containers.diffusion.base.pipeline import Base
from containers.diffusion.serving.engine import Engine, EngineSettings
from containers.diffusion.serving.request import Drawing
from containers.diffusion.training.settings import SUBJECT, Settings

Images = NDArray[np.uint8]
"""[n, height, width, 3], of 0 to 255."""

FEWEST_JUDGED: Final = 4
"""The least number of prompts that a model is judged by. If too few are not among its captions,
some captions follow them."""


def prompts_for(
    own: Sequence[str], captions: Sequence[str], subject: str, settings: Settings
) -> tuple[list[str], int]:
    """The prompts that judge a tenant's model, and how many of them are not among its captions.

    A tenant's own prompts come first, then the workload's. Those that are captions of its uploads
    say little: a model that repeats its uploads draws them well.
    """
    filled = [about(prompt, subject) for prompt in settings.prompts]
    wanted: dict[str, str] = {}
    for prompt in (*own, *filled):
        wanted.setdefault(prompt.casefold(), prompt)
    known = {caption.casefold() for caption in captions}
    unseen = [prompt for folded, prompt in wanted.items() if folded not in known][
        : settings.pictures
    ]
    seen = [prompt for folded, prompt in wanted.items() if folded in known]
    return unseen + seen[: max(0, FEWEST_JUDGED - len(unseen))], len(unseen)


def about(prompt: str, subject: str) -> str:
    """A prompt of the settings with the tenant's subject in place of ``{subject}``."""
    if subject[0].lower() in "aeiou":
        prompt = re.sub(rf"\ba {re.escape(SUBJECT)}", f"an {SUBJECT}", prompt)
    return prompt.replace(SUBJECT, subject)


def drawing_of(prompt: str, size: tuple[int, int], settings: Settings) -> Drawing:
    """One picture of a prompt; its seed depends only on the prompt, so that base and tenants'
    models begin with the same noise."""
    seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") ^ settings.seed
    return Drawing(prompt, None, seed, settings.drawing_steps, settings.guidance, *size)


class Trial:
    """Draws with adapters over ``layers``, whose slots it overwrites."""

    def __init__(self, base: Base, layers: LoraLayers, settings: Settings) -> None:
        """Draw ``settings.drawn_together`` pictures in a batch."""
        self._base = base
        self._layers = layers
        self._together = settings.drawn_together

    def draw(
        self, wanted: Mapping[Adapter, Sequence[Drawing]]
    ) -> Generator[tuple[int, int], None, dict[Adapter, Images | Exception]]:
        """The pictures of each adapter, or the error that prevented them.

        After each step it yields the numbers of finished and wanted pictures. The caller may close
        it between steps.
        """
        total = sum(len(drawings) for drawings in wanted.values())
        most = max((len(drawings) for drawings in wanted.values()), default=1)
        engine = Engine(
            self._base, self._layers, EngineSettings(self._together, max(1, total), most)
        )
        jobs = {
            adapter: engine.submit(adapter, drawings)
            for adapter, drawings in wanted.items()
            if drawings
        }
        while not all(job.answer.done() for job in jobs.values()):
            engine.turn()
            yield engine.counters.pictures, total
        drawn: dict[Adapter, Images | Exception] = {}
        for adapter, job in jobs.items():
            error = job.answer.exception()
            drawn[adapter] = (
                np.stack(job.answer.result()) if error is None else _as_exception(error)
            )
        return drawn


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(type(error).__name__)
