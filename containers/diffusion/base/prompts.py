"""A cache of the text encoders' output: tenants repeat prompts, and adapters do not change the
encoders."""

from collections import OrderedDict

from containers.diffusion.base.pipeline import Base, Conditioning


class PromptCache:
    """Conditionings by prompt, at most ``max_bytes`` of them; the least recently used make room.

    One thread uses it, the one that runs the base.
    """

    def __init__(self, base: Base, max_bytes: int) -> None:
        """Begin empty; with 0 bytes the cache stays empty."""
        self._base = base
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str | None, Conditioning] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def of(self, prompt: str | None) -> Conditioning:
        """The conditioning of ``prompt``; for None, the one that guidance leads away from by
        default.

        Each prompt is encoded alone, so that its result is the same to the last bit in any company.
        """
        kept = self._kept.get(prompt)
        if kept is not None:
            self.hits += 1
            self._kept.move_to_end(prompt)
            return kept
        self.misses += 1
        made = self._base.unconditional() if prompt is None else self._base.encode([prompt])[0]
        if made.bytes <= self._max_bytes:
            self._kept[prompt] = made
            self.bytes += made.bytes
            while self.bytes > self._max_bytes:
                self.bytes -= self._kept.popitem(last=False)[1].bytes
        return made
