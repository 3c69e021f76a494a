"""The model shared out over the processes (`training.fsdp`), by torch's `fully_shard` ("FSDP2").

Each process holds its part of every weight, of its gradient and of its moments. Weights are gathered for the time of a
computation, layer by layer, and gradients are added up and shared out again.

The CNN stays whole on every process, as do scalars and buffers (the dictionary, batch norm): its weights lie channels
last, which `fully_shard` does not take, and what fills the memory is its activations. Its gradients are averaged here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from soho.training.connected_loss import ConnectedLoss
from soho.training.processes import share_buffers
from soho.training.protocols import Batch
from soho.training.replication import ReplicatedModel
from soho.training.tensor_parts import cut, gathered, is_moment, is_split, local_part, part_of, shared_like


class ShardedModel(ReplicatedModel):
    """A model of which every process holds a part; the verbs of `ReplicatedModel`, the same numbers.

    Layers whose class the model names in `_no_split_modules`, as transformers has it, are gathered one by one and let
    go again; everything else is gathered for the whole of a micro-batch. Under autocast the copies of their weights in
    bfloat16 stay from the forward to the backward pass.

    Args:
        model: an `nn.Module` that is a `TrainableModel`, whole, on its device; the main process's weights count. Its
            parameters become `DTensor`s, and only the verbs here may run it.
        accelerator: from `make_accelerator`, of at least two processes.
    """

    def __init__(self, model: Any, accelerator: Accelerator) -> None:
        self.model = model
        self.accelerator = accelerator
        for parameter in model.parameters():
            dist.broadcast(parameter.data, src=0)
        share_buffers(model, accelerator)
        backbone = set(model.visual_backbone().parameters())
        whole = {name: one for name, one in model.named_parameters() if one in backbone or one.ndim == 0}
        self._whole = set(whole)
        self._lent = _hollow_copy(model, set(whole.values()))
        self._root: Any = ConnectedLoss(model, self._whole)
        mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
        layer_classes = set(getattr(model, "_no_split_modules", None) or ())
        kept = set(whole.values())
        # A CNN of transformers names its own layers too; nothing of them is shared out. Inner modules come first.
        for layer in reversed(list(model.modules())):
            if type(layer).__name__ in layer_classes and not set(layer.parameters()) <= kept:
                layer.register_forward_hook(self._root.note)  # before torch's own hook, which lets the weights go
                fully_shard(layer, mesh=mesh, ignored_params=kept)
        fully_shard(self._root, mesh=mesh, ignored_params=kept)
        # What optimizers and clipping work on: this process's parts as plain tensors in the same memory, so that fused
        # kernels take them and scalars may stand beside them.
        self._parts = {name: part_of(parameter) for name, parameter in model.named_parameters()}
        self._names = {parameter: name for name, parameter in model.named_parameters()}
        self._used: set[str] = set()

    def held(self, parameter: nn.Parameter) -> nn.Parameter:
        """Return this process's part of a parameter, a plain tensor in the same memory."""
        return self._parts[self._names[parameter]]

    def forward_backward(
        self, batch: Mapping[str, Tensor], denominators: Batch, exchange: bool
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Add the gradients of a micro-batch; see `ReplicatedModel.forward_backward`.

        Weights are gathered in every micro-batch. Until the exchange the gradients of a step lie whole.
        """
        self._root.set_requires_gradient_sync(exchange)
        with self.accelerator.autocast():
            loss, measured = self._root(batch, denominators)
        self._used |= self._root.used
        # Reduce-scatter averages too. In float32, as Accelerate's own wrapper returns it.
        self.accelerator.backward(loss.float() * self.accelerator.num_processes)
        return loss.detach(), measured

    def finish_gradients(self) -> None:
        """Average what is not sharded, and take zeros away from parameters that no process used.

        An optimizer leaves a parameter without gradient alone, but decays one with a gradient of zeros.
        """
        named = dict(self.model.named_parameters())
        used = torch.tensor(
            [name in self._used if is_split(one) else one.grad is not None for name, one in named.items()],
            dtype=torch.int32,
            device=self.accelerator.device,
        )
        dist.all_reduce(used, dist.ReduceOp.MAX)
        self._used = set()
        averaged: list[Tensor] = []
        for (name, parameter), anywhere in zip(named.items(), used.tolist()):
            part = self._parts[name]
            if not anywhere:
                parameter.grad = part.grad = None
            elif is_split(parameter):
                part.data = local_part(parameter.detach())  # torch may have laid it elsewhere since
                part.grad = local_part(cast(Tensor, parameter.grad))
            else:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                averaged.append(parameter.grad)
        if averaged:
            means = self.accelerator.reduce(torch.cat([gradient.flatten() for gradient in averaged]), "mean")
            for gradient, mean in zip(averaged, means.split([gradient.numel() for gradient in averaged])):
                gradient.copy_(mean.view_as(gradient))

    def clip_gradients(self, clip_norm: float | None) -> Tensor:
        """Scale all gradients together so that their global L2 norm is at most `clip_norm`; return the norm before."""
        squares = []
        for whole in (False, True):
            gradients = [part.grad for name, part in self._parts.items() if (name in self._whole) == whole]
            norm = nn.utils.get_total_norm([one for one in gradients if one is not None])
            squares.append(norm.to(self.accelerator.device).square())
        dist.all_reduce(squares[0])  # what is whole is the same on all processes
        norm = (squares[0] + squares[1]).sqrt()
        if clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parts.values(), clip_norm, norm)
        return norm

    def clear_gradients(self) -> None:
        """Forget the gradients of a step."""
        super().clear_gradients()
        for part in self._parts.values():
            part.grad = None

    def state_dict(self) -> dict[str, Any] | None:
        """Gather weights and buffers on the main process; every process calls it, the others get None."""
        kept: dict[int, Tensor] = {}  # a tied weight stays one tensor
        state = self.model.state_dict(keep_vars=True)
        for value in state.values():
            if id(value) not in kept:
                kept[id(value)] = self._keep_on_main(gathered(value.detach()))
        return {name: kept[id(value)] for name, value in state.items()} if self._is_main else None

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take this process's part out of a whole model's weights; buffers as they are."""
        now = self.model.state_dict(keep_vars=True)
        parts = {
            name: shared_like(now[name], cut(now[name], value)) if name in now else value
            for name, value in state.items()
        }
        self.model.load_state_dict(parts)

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any] | None:
        """Gather an optimizer's state on the main process; every process calls it, the others get None."""
        state: dict[str, Any] = optimizer.state_dict()
        parameters = self._parameters_of(optimizer)
        moments: dict[int, dict[str, Any]] = {}
        for index, values in state["state"].items():
            parameter, part = parameters[index]
            moments[index] = {
                key: self._keep_on_main(gathered(shared_like(parameter, value))) if is_moment(value, part) else value
                for key, value in values.items()
            }
        return {**state, "state": moments} if self._is_main else None

    def load_optimizer_state(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
        """Take this process's part out of an optimizer's whole state."""
        parameters = self._parameters_of(optimizer)
        moments: dict[int, dict[str, Any]] = {}
        for index, values in state["state"].items():
            parameter, _ = parameters[index]
            moments[index] = {
                key: cut(parameter, value) if is_moment(value, parameter) else value for key, value in values.items()
            }
        optimizer.load_state_dict({**state, "state": moments})

    @contextmanager
    def whole_model(self) -> Iterator[Any]:
        """Lend an ordinary model with all weights; they are gathered on entering and let go on leaving.

        Evaluation calls parts of a model directly, copies them, and not equally often on all processes: a sharded
        model can do none of this. Attributes that are neither weights nor buffers are those of the start: the features
        that a frozen CNN has computed in training are not known to it.
        """
        lent = dict(self._lent.named_parameters())
        split = {name: one for name, one in self.model.named_parameters() if is_split(one)}
        for module, original in zip(self._lent.modules(), self.model.modules()):
            module._buffers = original._buffers
        for name, parameter in split.items():
            lent[name].data = gathered(parameter.detach())
        try:
            yield self._lent
        finally:
            for name, parameter in split.items():
                lent[name].data = local_part(parameter.detach()).new_empty(0)

    @property
    def _is_main(self) -> bool:
        return bool(self.accelerator.is_main_process)

    def _keep_on_main(self, value: Tensor) -> Tensor:
        return value.cpu() if self._is_main else value.new_empty(0)

    def _parameters_of(self, optimizer: torch.optim.Optimizer) -> list[tuple[nn.Parameter, Tensor]]:
        """Return parameters and their parts in the order in which an optimizer's state counts them."""
        names = {id(part): name for name, part in self._parts.items()}
        named = dict(self.model.named_parameters())
        return [(named[names[id(part)]], part) for group in optimizer.param_groups for part in group["params"]]


def _hollow_copy(model: nn.Module, whole: set[nn.Parameter]) -> Any:
    """Copy a model without its weights: those in `whole` and the buffers are shared with it, the others empty."""
    memory: dict[int, Any] = {id(buffer): buffer for buffer in model.buffers()}
    for parameter in model.parameters():
        memory[id(parameter)] = (
            parameter if parameter in whole else nn.Parameter(parameter.detach().new_empty(0), requires_grad=False)
        )
    return copy.deepcopy(model, memory)
