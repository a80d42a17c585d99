"""What every test starts from."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # pytest-xdist already has a process for each core

import pytest
import torch

from spectral_backbones import backbones  # noqa: F401

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def pytest_collection_modifyitems(items):
    """The longest tests first, so that no process is left with one when the others have nothing more to do."""
    items.sort(key=lambda item: item.path.name != "test_timm_suite.py")
