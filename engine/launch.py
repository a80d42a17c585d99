"""Joining the processes that torchrun has started."""

import os

import torch
import torch.distributed


def join_torchrun() -> str:
    """Joins torchrun's process group where there is one: NCCL with GPUs, Gloo without.

    Returns:
        mmengine's name of the launcher, "pytorch", or "none" in a process of its own.
    """
    if not {"RANK", "WORLD_SIZE", "LOCAL_RANK"} <= os.environ.keys():
        return "none"
    # As OMP_NUM_THREADS, which torchrun sets; mmengine would do the same with a warning.
    os.environ.setdefault("MKL_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return "pytorch"
