"""What every test starts from."""

import functools
import gc
import os
import sys

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
    """Spare the runs of the tests what takes half of their time and depends on nothing that they do."""
    gc.collect()
    gc.freeze()  # mmengine collects garbage with every data set that it opens, among all that was imported until here
    if "mmengine" in sys.modules:
        _spare_configs()


def _spare_configs():
    """Leave out what mmengine does with the text of a config at each log, checkpoint and `mmdet::` of a run, a third of
    its time here: how yapf lays it out, and all pages of a toolbox's table of models. Runs in processes of their own
    do it.
    """
    from mmengine.config import utils
    from yapf.yapflib import yapf_api

    yapf_api.FormatCode = lambda text, **kwargs: (text, False)
    utils.load = functools.cache(utils.load)  # metafile.yml of each model


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
