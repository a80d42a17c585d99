"""Attention to another number of channels, against its formula."""

import pytest
import torch

from spectral_backbones.backbones.mixers import TokenAttention


def test_values_are_the_shortcut():
    layer = TokenAttention(6, 8, 2, dtype=torch.float64)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    q, k, v = layer.qkv(x).flatten(1, 2).unflatten(2, (3, 2, 4)).permute(2, 0, 3, 1, 4)
    out = (q @ k.transpose(-2, -1) / 2).softmax(-1) @ v
    merged = [part.transpose(1, 2).flatten(2).unflatten(1, (3, 5)) for part in (v, out)]
    torch.testing.assert_close(layer(x), merged[0] + layer.proj(merged[1]))


def test_heads_have_to_divide_the_new_channels():
    with pytest.raises(ValueError, match="divisor of the 8 channels, got 3"):
        TokenAttention(9, 8, 3)
