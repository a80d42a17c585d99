"""Training with parameters, gradients and optimiser state split over the processes (torch's `fully_shard`).

mmengine's wrapper is the older FullyShardedDataParallel, which its Runner cannot save. Here each process holds a part
of every tensor as a DTensor, and checkpoints hold whole tensors: a run may go on with any number of processes.
"""

from typing import Any, Dict

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor


def shard(model: nn.Module) -> nn.Module:
    """Splits a model in place; each block is gathered when its turn comes, the rest with the whole model."""
    for name, module in model.named_modules():
        if name.rpartition(".")[2] in ("blocks", "stages"):
            for block in module.children():
                if not any(isinstance(inner, FSDPModule) for inner in block.modules()):
                    fully_shard(block)
    return fully_shard(model)


def gather(state: Any) -> Any:
    """Makes whole tensors on the CPU out of a nested state; every process must call it."""
    if isinstance(state, dict):
        return {key: gather(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(gather(value) for value in state)
    if isinstance(state, DTensor):
        state = state.full_tensor()
    return state.cpu() if isinstance(state, Tensor) else state


def split_like(whole: Tensor, part: Tensor) -> Tensor:
    """Splits a whole tensor as another one is split, if that one is."""
    if not isinstance(part, DTensor):
        return whole
    return distribute_tensor(whole.to(part.device), part.device_mesh, part.placements)


def split_weights(weights: Dict[str, Tensor], model: nn.Module) -> Dict[str, Tensor]:
    """Splits the weights of a checkpoint as those of a model are."""
    own = model.state_dict()
    return {key: split_like(value, own[key]) if key in own else value for key, value in weights.items()}


def split_optimizer(optimizer: torch.optim.Optimizer) -> None:
    """Splits, in place, the state that an optimiser has loaded from a checkpoint."""
    for parameter, state in optimizer.state.items():
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                state[key] = split_like(value, parameter)
