"""mmcv's synchronised batch norm in one process is torch's batch norm."""

import pytest
import torch
from torch import nn

from spectral_backbones import toolboxes  # noqa: F401

pytest.importorskip("mmcv")
from mmcv.ops import SyncBatchNorm


def test_one_process_is_batch_norm(monkeypatch):
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda *args: 1)
    torch.manual_seed(0)
    layer, reference = SyncBatchNorm(5), nn.BatchNorm2d(5)
    for module in (layer, reference):
        with torch.no_grad():
            module.weight.copy_(torch.linspace(0.5, 2, 5))
            module.bias.copy_(torch.linspace(-1, 1, 5))
    images = torch.randn(3, 5, 4, 6) * 2 + 1
    upstream = torch.randn(3, 5, 4, 6)
    results = []
    for module in (layer, reference):
        inputs = images.clone().requires_grad_()
        output = module(inputs)
        output.backward(upstream)
        results.append([output, inputs.grad, module.weight.grad, module.bias.grad])
        results[-1] += [module.running_mean, module.running_var]
    for ours, theirs in zip(*results):
        torch.testing.assert_close(ours, theirs)
