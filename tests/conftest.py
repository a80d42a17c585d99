"""What every test starts from."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist already has a process for each core

import pytest
import torch

import backbones  # noqa: F401

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
