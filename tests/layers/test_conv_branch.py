"""Convolutions beside attention, against torch's own in the same order."""

import pytest
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.layers import ConvBranch


@pytest.mark.parametrize("groups", [1, 2])
def test_convolutions_norms_and_activations_come_in_the_order_asked_for(groups):
    branch = ConvBranch((4, 6, 8), (2, 1), groups, norms=(True, False), last_act=True).eval()
    norm = branch[1]
    torch.nn.init.normal_(norm.weight)
    norm.running_mean.normal_()
    x = torch.randn(2, 5, 6, 4)
    expected = F.conv2d(x.permute(0, 3, 1, 2), branch[0].weight, branch[0].bias, 2, 1, groups=groups)
    expected = F.silu(F.batch_norm(expected, norm.running_mean, norm.running_var, norm.weight, norm.bias))
    expected = F.silu(F.conv2d(expected, branch[3].weight, branch[3].bias, 1, 1, groups=groups))
    torch.testing.assert_close(branch(x), expected.permute(0, 2, 3, 1))


def test_sides_are_rounded_up():
    branch = ConvBranch((4, 4, 4, 4), (2, 2, 1), 1, norms=(False, False, False), last_act=False)
    assert [tuple(branch(torch.randn(1, 1 + i, 8 - i, 4)).shape[1:3]) for i in range(8)] == [
        (-(-(1 + i) // 4), -(-(8 - i) // 4)) for i in range(8)
    ]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(norms=(True,)), r"one for each convolution, got \(12, 18, 24\), \(1, 1\) and \(True,\)"),
        (dict(strides=(1,)), r"one for each convolution, got .* \(1,\) and"),
        (dict(dims=(12, 18)), r"dims must be one more .* got \(12, 18\)"),
        (dict(groups=4), r"\(12, 18, 24\): one of 1, 2, 3, 6, got 4"),
        (dict(groups=0), "one of 1, 2, 3, 6, got 0"),
    ],
)
def test_what_cannot_work_is_refused_with_what_can(kwargs, message):
    good = dict(dims=(12, 18, 24), strides=(1, 1), groups=6, norms=(True, False), last_act=False)
    ConvBranch(**good)
    with pytest.raises(ValueError, match=message):
        ConvBranch(**{**good, **kwargs})
