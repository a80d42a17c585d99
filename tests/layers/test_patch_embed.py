"""Stems and mergings: sizes, padding and refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from spectral_backbones.backbones.layers import (
    ConvStem,
    OverlapMerging,
    OverlapPatchEmbed,
    PatchEmbed,
    PatchMerging,
    check_image_size,
    pad_to_multiple,
    token_grid,
)

SIZES = [(16, 16), (17, 31), (15, 33), (1, 1), (5, 40)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("patch_size", [1, 2, 4, 16])
@pytest.mark.parametrize("stem", [PatchEmbed, ConvStem])
def test_a_stem_gives_a_token_for_every_patch_sides_rounded_up(stem, patch_size, size):
    embed = stem(patch_size=patch_size, in_chans=3, embed_dim=16).eval()
    grid = (-(-size[0] // patch_size), -(-size[1] // patch_size))
    assert embed(torch.randn(2, 3, *size)).shape == (2, *grid, 16)
    assert token_grid(*size, patch_size) == grid


@pytest.mark.parametrize("size", [(8, 8), (7, 8), (8, 5), (9, 11)])
def test_a_patch_is_projected_with_zeros_where_the_image_ends(size):
    embed = PatchEmbed(patch_size=4, in_chans=3, embed_dim=5).double()
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    tokens = embed(x)
    weight, bias = embed.proj.weight.flatten(1), embed.proj.bias
    for i in range(tokens.shape[1]):
        for j in range(tokens.shape[2]):
            patch = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
            cut = x[:, :, 4 * i : 4 * i + 4, 4 * j : 4 * j + 4]
            patch[:, :, : cut.shape[2], : cut.shape[3]] = cut
            torch.testing.assert_close(tokens[:, i, j], patch.flatten(1) @ weight.T + bias)


def test_a_patch_embedding_has_a_norm_if_asked():
    x = torch.randn(1, 3, 8, 8)
    plain = PatchEmbed(4, 3, 6)
    normed = PatchEmbed(4, 3, 6, norm_layer=nn.LayerNorm)
    normed.proj.load_state_dict(plain.proj.state_dict())
    torch.testing.assert_close(normed(x), F.layer_norm(plain(x), (6,)))


def test_a_convolutional_stem_doubles_channels_to_its_width():
    stem = ConvStem(patch_size=16, in_chans=3, embed_dim=64)
    convs = [layer for layer in stem.conv if isinstance(layer, nn.Conv2d)]
    assert [conv.out_channels for conv in convs] == [8, 16, 32, 64]
    assert all(conv.stride == (2, 2) and conv.bias is None for conv in convs)
    assert sum(isinstance(layer, nn.BatchNorm2d) for layer in stem.conv) == 4
    assert stem.proj.kernel_size == (1, 1)


def test_the_activation_of_a_convolutional_stem_is_the_users():
    stem = ConvStem(patch_size=4, embed_dim=8, act_layer=nn.SiLU)
    assert sum(isinstance(layer, nn.SiLU) for layer in stem.conv) == 2


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 1), (1, 6)])
def test_overlapping_patches_are_a_3x3_convolution_of_stride_2_and_a_norm(size):
    embed = OverlapPatchEmbed(4, 6)
    x = torch.randn(2, 4, *size)
    expected = F.conv2d(x, embed.proj.weight, embed.proj.bias, stride=2, padding=1)
    expected = F.layer_norm(expected.permute(0, 2, 3, 1), (6,), eps=1e-5)
    assert expected.shape[1:3] == token_grid(*size, 2)
    torch.testing.assert_close(embed(x), expected)


def test_overlap_merging_is_the_same_between_maps():
    merging, embed = OverlapMerging(4, 6), OverlapPatchEmbed(4, 6)
    embed.load_state_dict(merging.state_dict())
    x = torch.randn(2, 7, 5, 4)
    torch.testing.assert_close(merging(x), embed(x.permute(0, 3, 1, 2)))


@pytest.mark.parametrize("grid", [(4, 4), (5, 4), (4, 7), (3, 3), (1, 1)])
def test_patch_merging_joins_2x2_tokens_with_zeros_behind_odd_maps(grid):
    merging = PatchMerging(3, 5).double()
    x = torch.randn(2, *grid, 3, dtype=torch.float64)
    height, width = token_grid(*grid, 2)
    padded = torch.zeros(2, 2 * height, 2 * width, 3, dtype=torch.float64)
    padded[:, : grid[0], : grid[1]] = x
    expected = merging.proj.bias.expand(2, height, width, 5).clone()
    for i in range(2):
        for j in range(2):
            expected += padded[:, i::2, j::2] @ merging.proj.weight[:, :, i, j].T
    torch.testing.assert_close(merging(x), expected)


@pytest.mark.parametrize("embed", [PatchEmbed(4, 3, 8), ConvStem(4, 3, 8), OverlapPatchEmbed(3, 8)])
def test_images_channels_last_give_the_same(embed):
    embed.eval()
    x = torch.randn(2, 3, 9, 8)
    torch.testing.assert_close(embed(x.to(memory_format=torch.channels_last)), embed(x))


def test_padding_adds_nothing_where_the_multiple_fits():
    x = torch.randn(1, 3, 8, 12)
    assert pad_to_multiple(x, 4) is x


def test_padding_is_zero_at_the_bottom_and_the_right():
    x = torch.randn(1, 3, 6, 9)
    padded = pad_to_multiple(x, 4)
    assert padded.shape == (1, 3, 8, 12)
    assert torch.equal(padded[:, :, :6, :9], x)
    assert not padded[:, :, 6:].any() and not padded[:, :, :, 9:].any()


@pytest.mark.parametrize("size", [(15, 16), (16, 15)])
def test_an_image_below_the_least_size_is_refused_with_both_sizes(size):
    with pytest.raises(ValueError, match=f"{size[0]}x{size[1]} pixels is too small, the least size is 16x16"):
        check_image_size(torch.empty(1, 3, *size), 16)


def test_an_image_of_the_least_size_passes():
    x = torch.empty(1, 3, 16, 16)
    assert check_image_size(x, 16) is x


@pytest.mark.parametrize("patch_size", [0, -4, 3, 12])
def test_a_convolutional_stem_refuses_strides_that_are_not_powers_of_two(patch_size):
    with pytest.raises(ValueError, match=f"must be a power of two, got {patch_size}"):
        ConvStem(patch_size=patch_size)


def test_a_convolutional_stem_refuses_channels_that_cannot_be_halved():
    with pytest.raises(ValueError, match="embed_dim must be a multiple of 8 for 4 convolutions, got 12"):
        ConvStem(patch_size=16, embed_dim=12)


@pytest.mark.parametrize("patch_size", [0, -4])
def test_a_patch_without_pixels_is_refused(patch_size):
    with pytest.raises(ValueError, match=f"at least 1 pixel, got {patch_size}"):
        PatchEmbed(patch_size=patch_size)
