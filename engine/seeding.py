"""Randomness as a function of where training stands, so that it survives a restart and does not know of workers.

A state-carrying generator would have to be saved and would tie the run to its number of workers and processes. Instead
each use derives its own seed from numbers that name it: (seed, epoch, index) for the augmentation of a sample,
(seed, iteration, rank) for what happens to a batch.
"""

import random

import numpy as np
import torch


def derive_seed(*numbers: int) -> int:
    """Mixes non-negative integers into one well spread 32-bit seed."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def seed_all(seed: int) -> None:
    """Seeds the global generators of Python, NumPy and torch, all of which timm's transforms and mixup draw from.

    Args:
        seed: 0 to 2**32 - 1, NumPy's limit.
    """
    random.seed(seed)
    np.random.seed(seed)
    # Not torch.manual_seed: before CUDA is in use it formats a stack trace, which takes longer than a small picture.
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)
