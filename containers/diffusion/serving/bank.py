"""The adapters on the device, one for each slot. The bank fills a slot from host memory when a
tenant's picture begins."""

from collections import OrderedDict
from dataclasses import dataclass, field

from containers.diffusion.adapters.adapter import Adapter
from containers.diffusion.adapters.lora import BASE_SLOT, LoraLayers


@dataclass
class BankCounters:
    """Counts since the bank was made."""

    hits: int = 0
    misses: int = 0
    evictions: int = 0


@dataclass
class AdapterBank:
    """The slots of ``layers`` except the base's. A pinned adapter stays; the least recently used of
    the others makes room.

    One thread uses it, the one that runs the UNet.
    """

    layers: LoraLayers
    counters: BankCounters = field(default_factory=BankCounters)

    def __post_init__(self) -> None:
        # In order of last use, the least recent first.
        self._slots: OrderedDict[Adapter, int] = OrderedDict()
        self._pins: dict[Adapter, int] = {}
        self._free = [slot for slot in range(self.layers.slots - 1, -1, -1) if slot != BASE_SLOT]

    @property
    def used(self) -> int:
        """Slots that hold an adapter."""
        return len(self._slots)

    @property
    def pinned(self) -> int:
        """Slots that are in use."""
        return len(self._pins)

    def has_room(self, adapter: Adapter) -> bool:
        """Whether ``adapter`` can be pinned: it has a slot, or some slot is not pinned."""
        return adapter in self._slots or bool(self._free) or len(self._pins) < len(self._slots)

    def pin(self, adapter: Adapter) -> int:
        """The slot that holds ``adapter`` until it is unpinned; the bank fills it if necessary.

        Raises `RuntimeError` when there is no room.
        """
        slot = self._slots.get(adapter)
        if slot is None:
            slot = self._room()
            try:
                self.layers.put(slot, adapter.weights)
            except BaseException:
                self._free.append(slot)
                raise
            self._slots[adapter] = slot
            self.counters.misses += 1
        else:
            self.counters.hits += 1
        self._slots.move_to_end(adapter)
        self._pins[adapter] = self._pins.get(adapter, 0) + 1
        return slot

    def _room(self) -> int:
        if self._free:
            return self._free.pop()
        victim = next((adapter for adapter in self._slots if adapter not in self._pins), None)
        if victim is None:
            raise RuntimeError("every slot holds an adapter that is in use")
        self.counters.evictions += 1
        return self._slots.pop(victim)

    def unpin(self, adapter: Adapter) -> None:
        """End one use of ``adapter``."""
        self._pins[adapter] -= 1
        if not self._pins[adapter]:
            del self._pins[adapter]

    def forget(self, adapter: Adapter) -> None:
        """Wipe the adapter's slot, if it has one, so that the tenant's model leaves the device. The
        adapter must not be pinned."""
        if adapter in self._pins:
            raise RuntimeError("an adapter that is in use cannot be forgotten")
        slot = self._slots.pop(adapter, None)
        if slot is not None:
            self.layers.put(slot, {})
            self._free.append(slot)
