"""Many tenants' low-rank adapters on one frozen UNet, a different one for each sample of a batch.

Every targeted layer holds stacks of A and B (Hu et al. 2021, https://arxiv.org/abs/2106.09685), one
slot for each tenant. The caller gives each sample of a batch a slot before the batch runs. The
layer then adds ``B[slot] · (A[slot] · x)`` to its own output. Training uses the same layers with
slots that require gradients, so serving computes exactly what training trained.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.nn.functional as F  # noqa: N812 - as PyTorch's own documentation names it
from torch import Tensor, nn

from containers.diffusion.adapters.targets import TARGETS

BASE_SLOT: Final = 0
"""The slot that changes nothing: the base alone draws a sample in it."""


class Routing:
    """Which slot each sample of the current batch uses; all layers of a UNet share it."""

    def __init__(self) -> None:
        """Begin with the base alone."""
        self.only: int | None = BASE_SLOT
        self.run: slice | None = None
        self.slots: Tensor | None = None

    def route(self, slots: Sequence[int], device: torch.device) -> None:
        """Give sample i of the next batches slot ``slots[i]``.

        Neighbouring samples of one slot are computed together, in equal shares: the greatest common
        divisor of the runs' lengths. Slots that follow one another in order (5, 5, 6, 6, 7, 7) are
        used in place, without a copy.
        """
        each = math.gcd(*(len(list(same)) for _, same in itertools.groupby(slots)))
        chosen = slots[::each]
        self.only, self.run, self.slots = None, None, None
        if len(set(chosen)) == 1:
            self.only = chosen[0]
        elif all(after == before + 1 for before, after in itertools.pairwise(chosen)):
            self.run = slice(chosen[0], chosen[-1] + 1)
        else:
            self.slots = torch.tensor(chosen, device=device)

    def chosen(self, stack: Tensor) -> Tensor:
        """The stack's slots that the batch uses, in its order: one for each equal share of
        neighbouring samples."""
        if self.run is not None:
            return stack[self.run]
        if self.slots is None:
            raise RuntimeError("no sample was given a slot; call Routing.route before the batch")
        return stack.index_select(0, self.slots)


class LoraLayer(nn.Module):
    """A frozen Linear or Conv2d with ``slots`` adapters of rank up to ``rank``; slot 0 is the base.

    ``down`` is (slots, rank, in) or (slots, rank, in, kh, kw), ``up`` is (slots, out, rank). Lower
    ranks are padded with zeros.
    """

    def __init__(
        self,
        layer: nn.Linear | nn.Conv2d,
        routing: Routing,
        slots: int,
        rank: int,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Wrap ``layer``; all slots begin at zero. They are stored in ``dtype``, by default the
        layer's own."""
        super().__init__()
        self.layer = layer
        self.routing = routing
        weight = layer.weight
        down = weight.new_zeros(slots, rank, *weight.shape[1:], dtype=dtype)
        up = weight.new_zeros(slots, weight.shape[0], rank, dtype=dtype)
        self.down = nn.Parameter(down, requires_grad=False)
        self.up = nn.Parameter(up, requires_grad=False)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """The layer's output plus each sample's own correction."""
        if self.routing.only == BASE_SLOT:
            plain: Tensor = self.layer(x, *args, **kwargs)
            return plain
        down, up = self._chosen(self.down, x.dtype), self._chosen(self.up, x.dtype)
        if self._merges(x, down.shape[0]):
            return self._merged(x, down, up)
        plain = self.layer(x, *args, **kwargs)
        if isinstance(self.layer, nn.Conv2d):
            return plain + self._convolved(x, self.layer, down, up)
        return plain + _projected(x, down, up)

    def _chosen(self, stack: Tensor, dtype: torch.dtype) -> Tensor:
        """The slots of a stack that the batch uses: one for all samples, or one for each equal
        share of them."""
        only = self.routing.only
        return (stack[only : only + 1] if only is not None else self.routing.chosen(stack)).to(
            dtype
        )

    def _merges(self, x: Tensor, count: int) -> bool:
        """Whether it is quicker to form ``W + B · A`` for each of ``count`` slots than to take
        every sample through A and B.

        It is quicker where a slot has at least as many positions as the layer has outputs, the
        number of rows of W. It is used only in single precision on a CPU:

        - in half precision the sum would lose most of an adapter's digits;
        - on a GPU, A and B cost little beside the layer itself, whose channels are many times the
          rank.

        In training it saves a quarter of a step of 16 tenants, although the gradient then passes
        through the gradient of W.
        """
        if x.dtype != torch.float32 or x.device.type != "cpu":
            return False
        positions = (
            x.shape[-2] * x.shape[-1]
            if isinstance(self.layer, nn.Conv2d)
            else x[0].numel() // x.shape[-1]
        )
        return positions * x.shape[0] >= count * self.up.shape[1]

    def _merged(self, x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        layer, count = self.layer, down.shape[0]
        bias: Tensor | None = layer.bias
        plain = layer.weight.flatten(1)
        weight = torch.baddbmm(plain.expand(count, *plain.shape), up, down.flatten(2))
        if isinstance(layer, nn.Conv2d):
            full = F.conv2d(
                _side_by_side(x, count),
                weight.reshape(-1, *layer.weight.shape[1:]),
                None if bias is None else bias.repeat(count),
                layer.stride,
                layer.padding,
                layer.dilation,
                count,
            )
            return _one_by_one(full, count)
        flat, weight = x.reshape(count, -1, x.shape[-1]), weight.transpose(1, 2)
        projected = torch.bmm(flat, weight) if bias is None else torch.baddbmm(bias, flat, weight)
        return projected.reshape(*x.shape[:-1], -1)

    def _convolved(self, x: Tensor, layer: nn.Conv2d, down: Tensor, up: Tensor) -> Tensor:
        count, rank = down.shape[:2]
        low = F.conv2d(
            _side_by_side(x, count),
            down.flatten(0, 1),
            None,
            layer.stride,
            layer.padding,
            layer.dilation,
            count,
        )
        each, (height, width) = low.shape[0], low.shape[-2:]
        # Put the samples of a slot side by side, so that each slot needs only one product.
        low = low.reshape(each, count, rank, -1).permute(1, 2, 0, 3).reshape(count, rank, -1)
        full = torch.bmm(up, low).reshape(count, -1, each, height, width)
        return full.transpose(1, 2).reshape(x.shape[0], -1, height, width)


def _projected(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    low = torch.bmm(x.reshape(down.shape[0], -1, x.shape[-1]), down.transpose(1, 2))
    return torch.bmm(low, up.transpose(1, 2)).reshape(*x.shape[:-1], -1)


def _side_by_side(x: Tensor, count: int) -> Tensor:
    """Samples of ``count`` slots as groups of channels, so that one grouped convolution gives each
    slot its own filters."""
    if count == 1:
        return x
    each = x.shape[0] // count
    return x.reshape(count, each, *x.shape[1:]).transpose(0, 1).reshape(each, -1, *x.shape[2:])


def _one_by_one(grouped: Tensor, count: int) -> Tensor:
    """The reverse of `_side_by_side`: the samples, from ``count`` groups of channels."""
    if count == 1:
        return grouped
    each, channels = grouped.shape[0], grouped.shape[1] // count
    return grouped.reshape(each, count, channels, *grouped.shape[2:]).transpose(0, 1).flatten(0, 1)


@dataclass(frozen=True)
class Shape:
    """The shapes an adapter of rank r has in one layer: A is (r, *down), B is (up, r)."""

    down: tuple[int, ...]
    up: int


class LoraLayers:
    """The adapted layers of a UNet. The constructor wraps them in place; ``remove`` restores the
    UNet."""

    def __init__(
        self, unet: nn.Module, targets: str, slots: int, rank: int, dtype: torch.dtype | None = None
    ) -> None:
        """Wrap every layer of ``unet`` whose name ends as the target set says.

        Args:
            unet: the base's UNet.
            targets: a name of ``TARGETS``.
            slots: how many adapters are held at once, including the base in slot 0.
            rank: the highest rank an adapter may have.
            dtype: the type of the stored adapters, by default the base's. Training stores them in
                fp32 beside any base, because half precision would lose small updates.
        """
        self.routing = Routing()
        self.targets = targets
        self.slots = slots
        self.rank = rank
        self.layers: dict[str, LoraLayer] = {}
        self._parents: dict[str, tuple[nn.Module, str]] = {}
        # By slot, the rank above which the slot is all zeros.
        self._ranks = [0] * slots
        endings = TARGETS[targets]
        for name, module in list(unet.named_modules()):
            if isinstance(module, nn.Linear | nn.Conv2d) and any(
                name.endswith(f".{end}") for end in endings
            ):
                parent_name, _, attribute = name.rpartition(".")
                parent = unet.get_submodule(parent_name)
                wrapped = LoraLayer(module, self.routing, slots, rank, dtype)
                setattr(parent, attribute, wrapped)
                self.layers[name] = wrapped
                self._parents[name] = (parent, attribute)
        if not self.layers:
            raise ValueError(f"the UNet has no layers whose names end in {', '.join(endings)}")

    def shapes(self) -> dict[str, Shape]:
        """The layers that an adapter may hold, by name, with their shapes."""
        return {
            name: Shape(tuple(layer.down.shape[2:]), layer.up.shape[1])
            for name, layer in self.layers.items()
        }

    @torch.no_grad()
    def put(self, slot: int, weights: Mapping[str, tuple[Tensor, Tensor]]) -> None:
        """Fill a slot with an adapter: A and B by layer, alpha/r already in B. Layers that the
        adapter lacks become zero."""
        if slot == BASE_SLOT:
            raise ValueError("slot 0 is the base's")
        before, self._ranks[slot] = (
            self._ranks[slot],
            max((a.shape[0] for a, _ in weights.values()), default=0),
        )
        for name, layer in self.layers.items():
            pair = weights.get(name)
            down, up = layer.down[slot], layer.up[slot]
            rank = 0
            if pair is not None:
                a, b = pair
                rank = a.shape[0]
                down[:rank].copy_(a)
                up[:, :rank].copy_(b)
            if rank < before:
                down[rank:before].zero_()
                up[:, rank:before].zero_()

    @torch.no_grad()
    def take(self, slot: int) -> dict[str, tuple[Tensor, Tensor]]:
        """A copy of a slot's adapter, on the CPU."""
        return {
            name: (layer.down[slot].detach().cpu().clone(), layer.up[slot].detach().cpu().clone())
            for name, layer in self.layers.items()
        }

    @torch.no_grad()
    def initialise(self, slot: int, generator: torch.Generator) -> None:
        """A fresh adapter: A drawn as PyTorch draws a layer's weights (Kaiming uniform, a = √5, as
        in peft), B zero.

        ``generator`` is on the CPU: the same seed gives the same adapter on any device and beside
        any neighbours.
        """
        self._ranks[slot] = self.rank
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
        return sum(
            parameter[0].numel() * parameter.element_size() for parameter in self.parameters()
        )

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
