"""What the text encoders say of prompts, kept: tenants ask for the same words again, and adapters
do not change them."""

from collections import OrderedDict

from containers.diffusion.base.pipeline import Base, Conditioning


class PromptCache:
    """Conditionings by prompt, at most ``max_bytes`` of them; the least recently used make room.

    One thread uses it, the one that runs the base.
    """

    def __init__(self, base: Base, max_bytes: int) -> None:
        """Begin with none; 0 bytes keep none."""
        self._base = base
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str | None, Conditioning] = OrderedDict()
        self.bytes = 0
        self.hits = 0
        self.misses = 0

    def of(self, prompt: str | None) -> Conditioning:
        """The conditioning of ``prompt``; of None, of what guidance leads away from when nothing is
        named.

        Each prompt is encoded by itself, so that it means the same to the last bit whatever is
        encoded beside it.
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
