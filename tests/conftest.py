"""What every test starts from."""

import functools
import gc
import os
import sys
from types import SimpleNamespace

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


def pytest_collection_finish():
    """Spare the runs of the tests what takes a good part of their time and depends on nothing that they do."""
    gc.collect()
    gc.freeze()  # what was imported until here stays
    gc.set_threshold(20_000, 20, 20)  # graphs and configs are many small objects, few of them garbage
    if "mmengine" in sys.modules:
        _spare_mmengine()


def _spare_mmengine():
    """Leave out what mmengine does with each data set, log, checkpoint and `mmdet::`, a tenth of a short run and more.
    Runs in processes of their own do it.
    """
    from mmengine.config import utils
    from mmengine.dataset import base_dataset
    from yapf.yapflib import yapf_api

    base_dataset.gc = SimpleNamespace(collect=lambda: 0)  # it looks for garbage among all that was imported
    yapf_api.FormatCode = lambda text, **kwargs: (text, False)  # how a config is laid out
    utils.load = functools.cache(utils.load)  # a toolbox's description of each of its models


def pytest_terminal_summary(terminalreporter):
    """How much of the documents ran, see test_documents.py."""
    calls = [one for kind in terminalreporter.stats.values() for one in kind if getattr(one, "when", None) == "call"]
    found = [value for one in calls for key, value in one.user_properties if key == "python_blocks"]
    if found:
        left_out = [where for _, left in found for where in left]
        terminalreporter.section("Python blocks of the documents")
        terminalreporter.line(f"{sum(ran for ran, _ in found)} ran, {len(left_out)} were left out")
        for where in left_out:
            terminalreporter.line(f"  {where}")
