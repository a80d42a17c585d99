"""Active rotated filters against a loop over entries."""

import pytest
import torch

from spectral_backbones import toolboxes  # noqa: F401

pytest.importorskip("mmcv")
from mmcv.ops import active_rotated_filter


def test_entries_move_to_where_their_index_says():
    torch.manual_seed(0)
    outputs, inputs, orientations, kernel, rotations = 3, 2, 2, 3, 4
    filters = torch.randn(outputs, inputs, orientations, kernel, kernel, dtype=torch.float64, requires_grad=True)
    entries = orientations * kernel * kernel
    index = torch.stack([torch.randperm(entries) for _ in range(rotations)], 1)  # (entries, rotations)
    expected = torch.zeros(outputs, rotations, inputs, entries, dtype=torch.float64)
    for entry in range(entries):
        for rotation in range(rotations):
            expected[:, rotation, :, index[entry, rotation]] = filters.detach().flatten(2)[..., entry]
    indices = (index + 1).int().view(orientations, kernel, kernel, rotations)
    output = active_rotated_filter(filters, indices)
    expected = expected.view(outputs * rotations, inputs * orientations, kernel, kernel)
    torch.testing.assert_close(output, expected)
    torch.autograd.gradcheck(active_rotated_filter, (filters, indices), fast_mode=True)
