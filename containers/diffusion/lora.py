"""Many tenants' low-rank adapters on one frozen UNet, a different one for each sample of a batch.

Every targeted layer holds stacks of A and B (Hu et al. 2021, https://arxiv.org/abs/2106.09685), one slot a tenant. Before a
batch is run, each of its samples is given its slot; the layer then adds ``B[slot] · (A[slot] · x)`` to what it computes anyway.
Training uses the same layers with slots that require gradients, so what was trained is what is served.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - as PyTorch's own documentation names it
from torch import Tensor, nn

TARGETS: Final[Mapping[str, tuple[str, ...]]] = {
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "attention+convolutions": ("to_q", "to_k", "to_v", "to_out.0", "conv1", "conv2"),
}
"""Names of target sets, and how the names of the layers in them end."""

BASE_SLOT: Final = 0
"""The slot that changes nothing: a sample in it is drawn by the base alone."""


class Routing:
    """Which slot each sample of the batch in hand uses; shared by all layers of a UNet."""

    def __init__(self) -> None:
        """Begin with the base alone."""
        self.slots: Tensor | None = None
        self.only: int | None = BASE_SLOT

    def route(self, slots: Sequence[int], device: torch.device) -> None:
        """Give sample i of the next batches slot ``slots[i]``."""
        first = slots[0]
        if all(slot == first for slot in slots):
            self.only, self.slots = first, None
        else:
            self.only, self.slots = None, torch.tensor(slots, device=device)


class LoraLayer(nn.Module):
    """A frozen Linear or Conv2d with ``slots`` adapters of rank up to ``rank``; slot 0 is the base.

    ``down`` is (slots, rank, in) or (slots, rank, in, kh, kw), ``up`` is (slots, out, rank). Lower ranks are padded with zeros.
    """

    def __init__(self, layer: nn.Linear | nn.Conv2d, routing: Routing, slots: int, rank: int) -> None:
        """Wrap ``layer``; all slots begin at zero."""
        super().__init__()
        self.layer = layer
        self.routing = routing
        weight = layer.weight
        self.down = nn.Parameter(weight.new_zeros(slots, rank, *weight.shape[1:]), requires_grad=False)
        self.up = nn.Parameter(weight.new_zeros(slots, weight.shape[0], rank), requires_grad=False)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """What the layer computes, plus each sample's own correction."""
        plain: Tensor = self.layer(x, *args, **kwargs)
        only, slots = self.routing.only, self.routing.slots
        if only == BASE_SLOT and not self.down.requires_grad:
            return plain
        if isinstance(self.layer, nn.Conv2d):
            return plain + self._convolved(x, only, slots)
        return plain + self._projected(x, only, slots)

    def _projected(self, x: Tensor, only: int | None, slots: Tensor | None) -> Tensor:
        if only is not None:
            return F.linear(F.linear(x, self.down[only]), self.up[only])
        down, up = self.down.index_select(0, _known(slots)), self.up.index_select(0, _known(slots))
        flat = x.reshape(x.shape[0], -1, x.shape[-1])
        low = torch.bmm(flat, down.transpose(1, 2))
        return torch.bmm(low, up.transpose(1, 2)).reshape(*x.shape[:-1], -1)

    def _convolved(self, x: Tensor, only: int | None, slots: Tensor | None) -> Tensor:
        layer = self.layer
        assert isinstance(layer, nn.Conv2d)  # noqa: S101 - told apart in forward
        if only is not None:
            low = F.conv2d(x, self.down[only], None, layer.stride, layer.padding, layer.dilation)
            return F.conv2d(low, self.up[only][:, :, None, None])
        down, up = self.down.index_select(0, _known(slots)), self.up.index_select(0, _known(slots))
        n, rank = down.shape[:2]
        # One group a sample: each sample meets its own filters in one convolution.
        low = F.conv2d(
            x.reshape(1, -1, *x.shape[2:]), down.flatten(0, 1), None, layer.stride, layer.padding, layer.dilation, n
        )
        height, width = low.shape[-2:]
        return torch.bmm(up, low.reshape(n, rank, -1)).reshape(n, -1, height, width)


def _known(slots: Tensor | None) -> Tensor:
    if slots is None:
        raise RuntimeError("no sample was given a slot; call Routing.route before the batch")
    return slots


@dataclass(frozen=True)
class Shape:
    """The shapes an adapter of rank r has in one layer: A is (r, *down), B is (up, r)."""

    down: tuple[int, ...]
    up: int


class LoraLayers:
    """The adapted layers of a UNet. Making it wraps them in place; ``remove`` puts the UNet back as it was."""

    def __init__(self, unet: nn.Module, targets: str, slots: int, rank: int) -> None:
        """Wrap every layer of ``unet`` whose name ends as the target set says.

        Args:
            unet: the base's UNet.
            targets: a name of ``TARGETS``.
            slots: adapters held at once, the base in slot 0 included.
            rank: the highest rank an adapter may have.
        """
        self.routing = Routing()
        self.targets = targets
        self.slots = slots
        self.rank = rank
        self.layers: dict[str, LoraLayer] = {}
        self._parents: dict[str, tuple[nn.Module, str]] = {}
        endings = TARGETS[targets]
        for name, module in list(unet.named_modules()):
            if isinstance(module, nn.Linear | nn.Conv2d) and any(name.endswith(f".{end}") for end in endings):
                parent_name, _, attribute = name.rpartition(".")
                parent = unet.get_submodule(parent_name)
                wrapped = LoraLayer(module, self.routing, slots, rank)
                setattr(parent, attribute, wrapped)
                self.layers[name] = wrapped
                self._parents[name] = (parent, attribute)
        if not self.layers:
            raise ValueError(f"the UNet has no layers whose names end in {', '.join(endings)}")

    def shapes(self) -> dict[str, Shape]:
        """What an adapter may hold: its layers by name."""
        return {name: Shape(tuple(layer.down.shape[2:]), layer.up.shape[1]) for name, layer in self.layers.items()}

    @torch.no_grad()
    def put(self, slot: int, weights: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Fill a slot with an adapter: A and B by layer, alpha/r already in B; layers it lacks are zero."""
        if slot == BASE_SLOT:
            raise ValueError("slot 0 is the base's")
        for name, layer in self.layers.items():
            pair = weights.get(name)
            down, up = layer.down[slot], layer.up[slot]
            if pair is None:
                up.zero_()
                down.zero_()
                continue
            a, b = pair
            rank = a.shape[0]
            down[:rank].copy_(a)
            up[:, :rank].copy_(b)
            if rank < self.rank:
                down[rank:].zero_()
                up[:, rank:].zero_()

    @torch.no_grad()
    def take(self, slot: int) -> dict[str, tuple[Tensor, Tensor]]:
        """A copy of what a slot holds, on the CPU."""
        return {
            name: (layer.down[slot].detach().cpu().clone(), layer.up[slot].detach().cpu().clone())
            for name, layer in self.layers.items()
        }

    @torch.no_grad()
    def initialise(self, slot: int, generator: torch.Generator) -> None:
        """A fresh adapter: A drawn as PyTorch draws a layer's weights (Kaiming uniform, a = √5, as in peft), B zero.

        ``generator`` is on the CPU: the same seed gives the same adapter on any device and beside any neighbours.
        """
        for layer in self.layers.values():
            shape = layer.down.shape[1:]
            bound = 1.0 / float(torch.tensor(shape[1:]).prod()) ** 0.5
            drawn = (torch.rand(shape, generator=generator) * 2 - 1) * bound
            layer.down[slot].copy_(drawn)
            layer.up[slot].zero_()

    def parameters(self) -> Iterator[nn.Parameter]:
        """All stacks, A and B of each layer in turn."""
        for layer in self.layers.values():
            yield layer.down
            yield layer.up

    @property
    def bytes_per_slot(self) -> int:
        """Memory a slot takes on the device."""
        return sum(parameter[0].numel() * parameter.element_size() for parameter in self.parameters())

    @contextmanager
    def trainable(self) -> Iterator[None]:
        """Within the block the stacks require gradients."""
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        try:
            yield
        finally:
            for parameter in self.parameters():
                parameter.requires_grad_(False)
                parameter.grad = None

    def remove(self) -> None:
        """Put the UNet's own layers back."""
        for name, (parent, attribute) in self._parents.items():
            setattr(parent, attribute, self.layers[name].layer)
        self.layers.clear()
        self._parents.clear()
