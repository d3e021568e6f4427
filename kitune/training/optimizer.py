"""AdamW over flat buffers: master weights, gradients and moments each in one aligned piece of memory."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from kitune.config import TrainOptions
from kitune.model.heads import above_encoder
from kitune.model.kernels import Kernels
from kitune.model.memory import ALIGNMENT_BYTES, zeros

# What lies where the passes of an update write the gradients of matrices: what is left of an earlier one, the gradients so far,
# or nothing of use, because the only pass so far left them in low precision.
GradientState = Literal["empty", "whole", "low"]


@dataclass(frozen=True)
class Slot:
    """The place of one parameter in the flat buffers, in elements."""

    name: str
    begin: int
    shape: torch.Size

    def of(self, buffer: Tensor) -> Tensor:
        """This parameter's view of a flat buffer."""
        return buffer[self.begin : self.begin + self.shape.numel()].view(self.shape)


@dataclass(frozen=True)
class Group:
    """A part of the flat buffers whose parameters are updated alike.

    Attributes:
        place: its elements.
        decay: AdamW's: of matrices and embeddings, not of biases and norms.
        rate: the learning rate, as a multiple of the encoder's.
    """

    place: slice
    decay: float
    rate: float


def head_rate(options: TrainOptions) -> float:
    """The head's learning rate, as a multiple of the encoder's; that of a run without this option is 1."""
    return 1.0 if options.head_rate == "auto" else options.head_rate


class FlatAdamW:
    """A network's trainable parameters in flat buffers, and AdamW over them.

    The network computes in `dtype` on views of `working`; gradients gather in fp32, and the update acts on `master`, which is
    `working` itself where `dtype` is fp32. Two more floats behind the gradients carry the loss and the wish to end, so that
    one sum over the processes is enough for an update.

    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2, as `torch.optim.AdamW` (fused).
    """

    def __init__(
        self,
        network: nn.Module,
        options: TrainOptions,
        *,
        dtype: torch.dtype,
        device: torch.device,
        kernels: Kernels | None = None,
    ) -> None:
        """
        Args:
            dtype: what the network computes in.
            kernels: make the update in one pass over memory; None: torch's, in several.
        """
        self._options, self._kernels = options, kernels
        self._handed_over = slice(0, 0)  # see hand_over
        self._low_gradient: Tensor | None = None
        self._gradient_is: GradientState = "whole"
        self.frozen: dict[str, Tensor] = {}  # parameters that are not trained, by name, as they came
        kinds: dict[tuple[bool, float], list[tuple[str, nn.Parameter]]] = {}
        for name, parameter in network.named_parameters():
            if parameter.requires_grad:
                rate = head_rate(options) if above_encoder(network, name) else 1.0
                kinds.setdefault((parameter.ndim > 1, rate), []).append((name, parameter))
        self.slots: list[Slot] = []
        self.groups: list[Group] = []
        step = ALIGNMENT_BYTES // 2  # elements; a multiple of the alignment in 2-byte types and in fp32
        size = 0
        for (decays, rate), members in kinds.items():
            begin = size
            for name, parameter in members:
                self.slots.append(Slot(name, size, parameter.shape))
                size += -(-parameter.numel() // step) * step
            self.groups.append(Group(slice(begin, size), options.weight_decay if decays else 0.0, rate))
        self.master = zeros(size, torch.float32, device)
        self.working = self.master if dtype == torch.float32 else zeros(size, dtype, device)
        self.exchanged = zeros(size + 2, torch.float32, device)
        self.gradient, self.loss, self.end_requests = (
            self.exchanged[:size],
            self.exchanged[size],
            self.exchanged[size + 1],
        )
        self.moments = (zeros(size, torch.float32, device), zeros(size, torch.float32, device))
        self.parameters = [parameter for members in kinds.values() for _, parameter in members]
        self._slot_of = {id(parameter): slot for slot, parameter in zip(self.slots, self.parameters, strict=True)}
        with torch.no_grad():
            for slot, parameter in zip(self.slots, self.parameters, strict=True):
                slot.of(self.master).copy_(parameter)
        self._step_counts = [torch.zeros((), device=device) for _ in self.groups]
        self._adamw = self._build(options)
        self._adopt(network, dtype, device)

    def _build(self, options: TrainOptions) -> torch.optim.AdamW:
        """torch's fused AdamW over one flat piece a group, with the moments in our own buffers."""
        flats = [nn.Parameter(self.master[group.place]) for group in self.groups]
        for group, flat in zip(self.groups, flats, strict=True):
            flat.grad = self.gradient[group.place]
        adamw = torch.optim.AdamW(
            [{"params": [flat], "weight_decay": group.decay} for group, flat in zip(self.groups, flats, strict=True)],
            betas=(options.beta1, options.beta2),
            eps=options.epsilon,
            fused=True,
        )
        for group, flat, count in zip(self.groups, flats, self._step_counts, strict=True):
            adamw.state[flat] = {
                "step": count,
                "exp_avg": self.moments[0][group.place],
                "exp_avg_sq": self.moments[1][group.place],
            }
        return adamw

    def _adopt(self, network: nn.Module, dtype: torch.dtype, device: torch.device) -> None:
        """Let the network's parameters be views of the buffers, and its other tensors follow to `device`."""
        for slot, parameter in zip(self.slots, self.parameters, strict=True):
            parameter.data = slot.of(self.working)
            if dtype != torch.float32:
                parameter.grad_dtype = torch.float32
            parameter.grad = slot.of(self.gradient)
        for buffer in network.buffers():
            buffer.data = buffer.data.to(device)
        for name, parameter in network.named_parameters():
            if not parameter.requires_grad:
                self.frozen[name] = parameter.detach().clone()
                parameter.data = parameter.data.to(device, dtype)
        self.refresh_working()

    def refresh_working(self) -> None:
        """Round the master weights to the precision that the network computes in."""
        if self.working is not self.master:
            self.working.copy_(self.master)

    def hand_over(self, parameters: Sequence[nn.Parameter]) -> None:
        """From now on the first pass of an update writes the gradients of these matrices, which lie side by side; nothing
        zeroes them before."""
        slots = [self._slot_of[id(parameter)] for parameter in parameters]
        begin, end = slots[0].begin, slots[-1].begin + slots[-1].shape.numel()
        inside = [slot for slot in self.slots if begin <= slot.begin < end]
        assert len(inside) == len(slots)
        self._handed_over = slice(begin, end)

    def low_gradient_of(self, parameter: nn.Parameter) -> Tensor | None:
        """Where the only pass of an update leaves the gradient of `parameter`; None where that is in fp32 anyway."""
        if self.working is self.master:
            return None
        if self._low_gradient is None:  # pages that nobody writes to take no memory
            self._low_gradient = zeros(len(self.master), self.working.dtype, self.master.device)
        return self._slot_of[id(parameter)].of(self._low_gradient)

    def zero_gradient(self) -> None:
        """Begin an update. In place, because autograd adds to these very views."""
        self.exchanged[: self._handed_over.start].zero_()
        self.exchanged[self._handed_over.stop :].zero_()
        self._gradient_is = "empty"

    def begin_pass(self) -> bool:
        """A backward begins; whether it is the first of its update, and writes what it has been handed over."""
        if self._gradient_is != "empty":
            self.gather_gradient()
            return False
        self._gradient_is = "whole" if self._low_gradient is None else "low"
        return True

    def gather_gradient(self) -> None:
        """Have all gradients in `gradient`: before processes exchange them, and before a second pass adds to them."""
        mine = self._handed_over
        if self._gradient_is == "empty":  # this process had no rows
            self.gradient[mine].zero_()
        elif self._gradient_is == "low" and self._low_gradient is not None:
            self.gradient[mine].copy_(self._low_gradient[mine])
        self._gradient_is = "whole"

    @property
    def step_count(self) -> int:
        """Updates so far, for AdamW's bias correction."""
        return int(self._step_counts[0])

    def restore(self, weights: dict[str, Tensor], moments: dict[str, Tensor], step_count: int) -> None:
        """Take over saved weights by name, flat moments and the count of updates."""
        self.load_weights(weights)
        self.moments[0].copy_(moments["exp_avg"])
        self.moments[1].copy_(moments["exp_avg_sq"])
        for count in self._step_counts:
            count.fill_(step_count)

    def load_weights(self, weights: dict[str, Tensor]) -> None:
        """Take over saved weights by name."""
        for slot in self.slots:
            slot.of(self.master).copy_(weights[slot.name])
        self.refresh_working()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Name and fp32 master weight of each trainable parameter."""
        for slot in self.slots:
            yield slot.name, slot.of(self.master)

    def master_of(self, parameter: nn.Parameter) -> Tensor:
        """The fp32 master weights of one of the network's parameters."""
        return self._slot_of[id(parameter)].of(self.master)

    def gradient_norm(self) -> float:
        """The norm of all gradients together."""
        if self._gradient_is == "empty":
            self.gather_gradient()
        if self._kernels is None:
            return float(torch.linalg.vector_norm(self.gradient))
        pieces = [piece for _, _, piece in self._pieces()]
        return math.sqrt(sum(self._kernels.call("sum_of_squares", piece.dtype, len(piece), piece) for piece in pieces))

    def _pieces(self) -> Iterator[tuple[Group, slice, Tensor]]:
        """Each group, cut where the gradient lies elsewhere: group, place, gradient."""
        low = self._low_gradient if self._gradient_is == "low" else None
        mine = slice(0, 0) if low is None else self._handed_over
        for group in self.groups:
            begin, end = group.place.start, group.place.stop
            first, last = (min(max(cut, begin), end) for cut in (mine.start, mine.stop))
            before, inside, behind = slice(begin, first), slice(first, last), slice(last, end)
            for place, gradient in ((before, self.gradient), (inside, low), (behind, self.gradient)):
                if gradient is not None and place.stop > place.start:
                    yield group, place, gradient[place]

    def step(self, learning_rate: float, *, scale: float = 1.0) -> None:
        """One update of the master weights, and of the working ones after them, by the gradients times `scale`."""
        if self._kernels is not None:
            self._step_by_kernel(self._kernels, learning_rate, scale)
            return
        if scale != 1.0:
            self.gradient.mul_(scale)
        for group, of_torch in zip(self.groups, self._adamw.param_groups, strict=True):
            of_torch["lr"] = learning_rate * group.rate
        self._adamw.step()
        self.refresh_working()

    def step_without_effect(self) -> None:
        """A step for the clock: without gradients and moments, at a rate of 0, every weight stays as it is to the last bit."""
        assert self.step_count == 0
        self.zero_gradient()
        self.gather_gradient()  # what the network has been handed over is zeroed here alone
        self.step(0.0)
        for count in self._step_counts:
            count.zero_()

    def _step_by_kernel(self, kernels: Kernels, learning_rate: float, scale: float) -> None:
        """The same update in one pass: gradient, moments and weights are read once, and the rounded weights written beside."""
        options = self._options
        for count in self._step_counts:
            count += 1
        corrections = (1 - options.beta1**self.step_count, 1 - options.beta2**self.step_count)
        for group, place, gradient in self._pieces():
            name = "adamw" if gradient.dtype == torch.float32 else "adamw_of_low"
            kernels.call(
                name, self.working.dtype, len(gradient), self.master[place], gradient, self.moments[0][place],
                self.moments[1][place], None if self.working is self.master else self.working[place], scale,
                learning_rate * group.rate, group.decay, options.beta1, options.beta2, options.epsilon, *corrections,
            )  # fmt: skip
