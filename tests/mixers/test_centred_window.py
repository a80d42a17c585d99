"""Attention within windows of a map in the middle of zeros, against that of the larger map."""

import pytest
import torch

from spectral_backbones.backbones.mixers import CentredWindowAttention, WindowAttention


@pytest.mark.parametrize("size", [(3, 6), (4, 5), (1, 1), (7, 2), (8, 10)])
def test_centred_windows_are_those_of_a_map_with_zeros_on_all_sides(size):
    layer = CentredWindowAttention(4, 2, window_size=3, relative_bias=False, out_dim=6)
    torch.nn.init.normal_(layer.qkv.bias)  # what zeros become
    x = torch.randn(2, *size, 4)
    padded = [-(-side // 3) * 3 for side in size]
    before = [(after - side) // 2 for after, side in zip(padded, size)]
    inside = (slice(None), *(slice(start, start + side) for start, side in zip(before, size)))
    zeros = torch.zeros(2, *padded, 4)
    zeros[inside] = x
    plain = WindowAttention(4, 2, window_size=3, relative_bias=False, out_dim=6)
    plain.load_state_dict(layer.state_dict())
    torch.testing.assert_close(layer(x), plain(zeros)[inside])


def test_heads_have_to_divide_the_new_channels():
    with pytest.raises(ValueError, match="divisor of the 8 channels, got 3"):
        CentredWindowAttention(9, 3, out_dim=8)
