"""Residual blocks: what is added to what."""

import pytest
import torch
from timm.layers import Mlp
from torch import nn

from spectral_backbones.backbones.layers import Block, ClassTokenCell, DepthwiseMlp, NormalCell, SerialBlock, chunk
from spectral_backbones.backbones.mixers import Attention, SpectralGating


def block_of(cls, mixer=None, mlp=None, **kwargs):
    block = cls(
        mixer=mixer or Attention(8, 2),
        mlp=mlp or Mlp(8, 16),
        norm1=nn.LayerNorm(8),
        norm2=nn.LayerNorm(8),
        dim=8,
        **kwargs,
    )
    for name, parameter in block.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter)
    return block


def test_a_block_has_two_residuals():
    block = block_of(Block)
    x = torch.randn(2, 3, 4, 8)
    y = x + block.mixer(block.norm1(x))
    torch.testing.assert_close(block(x), y + block.mlp(block.norm2(y)))


def test_a_serial_block_has_one_residual_around_both():
    block = block_of(SerialBlock)
    x = torch.randn(2, 3, 4, 8)
    torch.testing.assert_close(block(x), x + block.mlp(block.norm2(block.mixer(block.norm1(x)))))


def test_layer_scale_multiplies_each_branch():
    block = block_of(Block, init_values=1e-2)
    nn.init.normal_(block.ls1.gamma)
    nn.init.normal_(block.ls2.gamma)
    x = torch.randn(2, 3, 4, 8)
    y = x + block.ls1.gamma * block.mixer(block.norm1(x))
    torch.testing.assert_close(block(x), y + block.ls2.gamma * block.mlp(block.norm2(y)))


def test_layer_scale_of_a_cell_leaves_its_branch_alone():
    cell = block_of(NormalCell, branch=nn.Linear(8, 8), init_values=1e-2)
    nn.init.normal_(cell.ls1.gamma)
    nn.init.normal_(cell.ls2.gamma)
    x = torch.randn(2, 3, 4, 8)
    y = x + cell.ls1.gamma * cell.mixer(cell.norm1(x)) + cell.branch(x)
    torch.testing.assert_close(cell(x), y + cell.ls2.gamma * cell.mlp(cell.norm2(y)))


def test_layer_scale_of_a_cell_reaches_its_class_token():
    cell = block_of(ClassTokenCell, branch=nn.Linear(8, 8), init_values=1e-2)
    nn.init.normal_(cell.ls1.gamma)
    nn.init.normal_(cell.ls2.gamma)
    x = torch.randn(2, 1 + 12, 8)
    branch = torch.cat([torch.zeros(2, 1, 8), cell.branch(x[:, 1:])], dim=1)
    y = x + cell.ls1.gamma * cell.mixer(cell.norm1(x)) + branch
    torch.testing.assert_close(cell((x, (3, 4)))[0], y + cell.ls2.gamma * cell.mlp(cell.norm2(y)))


def test_the_serial_layer_scale_follows_the_mlp():
    block = block_of(SerialBlock, init_values=1e-2)
    nn.init.normal_(block.ls.gamma)
    x = torch.randn(2, 3, 4, 8)
    expected = x + block.ls.gamma * block.mlp(block.norm2(block.mixer(block.norm1(x))))
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize("cls", [Block, SerialBlock])
def test_layer_scale_starts_at_its_value_or_is_not_there(cls):
    scales = [p for name, p in block_of(cls, init_values=1e-3).named_parameters() if ".gamma" in name]
    assert len(scales) == (2 if cls is Block else 1)
    assert all(torch.equal(scale, torch.full((8,), 1e-3)) for scale in scales)
    assert not any(".gamma" in name for name, _ in block_of(cls).named_parameters())


@pytest.mark.parametrize("cls", [Block, SerialBlock])
def test_stochastic_depth_drops_each_image_on_its_own_and_only_in_training(cls):
    block = block_of(cls, drop_path=0.5)
    x = torch.randn(64, 2, 2, 8)
    kept = (block.train()(x) == x).flatten(1).all(1)  # no branch added
    assert 0 < kept.sum() < 64
    assert not (block.eval()(x) == x).flatten(1).all(1).any()


@pytest.mark.parametrize("cls", [Block, SerialBlock])
@pytest.mark.parametrize(
    "mixer", [lambda: Attention(8, 2), lambda: SpectralGating(8, (4, 4))], ids=["attention", "gate"]
)
def test_inference_by_a_few_images_gives_the_same(cls, mixer, monkeypatch):
    monkeypatch.setattr(chunk, "CHUNK_BYTES", 2 * 16 * 16 * 4)  # two images of 4x4 tokens, hidden width 16
    seen = []
    mlp = DepthwiseMlp(8, 16)
    block = block_of(cls, mixer(), mlp).eval()
    monkeypatch.setattr(mlp, "forward", lambda x, forward=mlp.forward: seen.append(len(x)) or forward(x))
    x = torch.randn(5, 4, 4, 8)
    expected = block(x).detach()
    assert seen == [5]
    with torch.no_grad():
        torch.testing.assert_close(block(x), expected)
    assert seen == [5, 2, 2, 1]


@pytest.mark.parametrize("cls", [Block, SerialBlock])
def test_a_scripted_block_computes_the_same(cls):
    block = block_of(cls, SpectralGating(8, (4, 4)), init_values=0.1).eval()
    x = torch.randn(3, 4, 5, 8)
    scripted = torch.jit.script(block)
    with torch.no_grad():
        torch.testing.assert_close(scripted(x), block(x))
