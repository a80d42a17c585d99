"""Attention on CUDA goes the ways that were measured to be faster, and their answers and gradients are the same."""

import pytest
import torch

from spectral_backbones.backbones.layers import measured_attention
from spectral_backbones.backbones.layers.measured_attention import Ways, measured_block, measured_way
from spectral_backbones.backbones.mixers import (
    HaloAttention,
    NeighbourhoodAttention,
    WindowAttention,
    attention,
    halo,
    neighbourhood,
)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Card(torch.Tensor):
    """Says that it is on a GPU."""

    @property
    def device(self):
        return torch.device("cuda", 0)


@pytest.fixture
def card(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    return monkeypatch


def queries(*shape, dtype=torch.bfloat16):
    return torch.empty(*shape, dtype=dtype).as_subclass(Card)


def test_a_way_is_taken_only_where_it_was_measured(card):
    ways = Ways(6, inference="efficient", training="places", compiled_inference="efficient")
    card.setattr(measured_attention, "MEASURED", {(9, 0): {(7, 11, 8): ways}})
    q, k = queries(3, 2, 7, 8), queries(3, 2, 11, 8)
    assert measured_way(q, k) == "places"
    with torch.no_grad():
        assert measured_way(q, k) == "efficient"
    for other in (q[:1], q[:, :, :6], q[..., :6], queries(3, 2, 7, 8, dtype=torch.float32), torch.empty(3, 2, 7, 8)):
        assert measured_way(other, k) == ""
    assert measured_way(q, k[:, :, :9]) == ""
    with card.context() as patch:
        patch.setattr(measured_attention, "is_recording", lambda: True)
        assert measured_way(q, k) == ""
    card.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert measured_way(q, k) == ""


def test_windows_and_halos_of_published_models_are_among_what_was_measured(card):
    windows, halos = queries(128 * 64, 3, 49, 32), queries(128 * 4 * 64, 64, 16)
    with torch.no_grad():
        assert measured_way(windows, windows) == "efficient"
        assert measured_way(halos, queries(len(halos), 196, 16)) == ""
    assert measured_way(windows, windows) == ""
    assert measured_way(halos, queries(len(halos), 196, 16)) == "places"


@pytest.mark.parametrize("compiled", [False, True])
def test_windows_by_another_kernel_are_the_same_in_one_graph(compiled, monkeypatch):
    torch.manual_seed(0)
    layer = WindowAttention(16, 2, window_size=3, attn_drop=0.1).to(DEVICE).eval().requires_grad_(False)
    torch.nn.init.normal_(layer.relative_position_bias)
    x = torch.randn(2, 6, 7, 16, device=DEVICE)
    expected = layer(x)
    asked = []
    monkeypatch.setattr(attention, "measured_way", lambda q, k: asked.append(q.shape) or "efficient")
    function = torch.compile(layer, backend="aot_eager", fullgraph=True) if compiled else layer
    torch.testing.assert_close(function(x), expected, rtol=1e-4, atol=1e-5)
    assert asked or compiled
    layer.attn.fused_attn = False  # weights that are stored go on as before
    asked.clear()
    torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-5)
    assert not asked


@pytest.mark.parametrize("geometry", [{}, dict(stride=2), dict(value_dim=96), dict(halo_size=0, mask_padding=False)])
@pytest.mark.parametrize("size", [(4, 8), (5, 7)])
def test_halos_with_places_as_channels_have_the_same_answers_and_gradients(geometry, size, monkeypatch):
    torch.manual_seed(0)
    options = dict(num_heads=2, block_size=4, halo_size=1, mask_padding=True)
    layer = HaloAttention(8, **{**options, **geometry}).to(DEVICE, torch.float64)
    x = torch.randn(2, *size, 8, device=DEVICE, dtype=torch.float64, requires_grad=True)
    leaves = (x, *layer.parameters())
    found = []
    for way in ("", "places"):
        monkeypatch.setattr(halo, "measured_way", lambda q, k, way=way: way)
        y = layer(x)
        found.append((y, *torch.autograd.grad(y.square().sum(), leaves)))
    for ours, expected in zip(*found):
        torch.testing.assert_close(ours, expected)


@torch.no_grad()
def test_larger_blocks_of_neighbourhoods_are_taken_only_where_they_were_measured(card):
    q = queries(128, 8, 14, 14, 32)
    assert measured_block(q, 7, default=7) == 14
    others = (q[:64], q[:, :, :13], q[..., :16], queries(128, 8, 14, 14, 32, dtype=torch.float32))
    assert [measured_block(other, 7, default=7) for other in others] == [7] * 4
    assert measured_block(q, 5, default=7) == 7
    with torch.enable_grad():
        assert measured_block(q, 7, default=7) == 7


def test_neighbourhoods_in_measured_blocks_are_the_same_unless_a_user_chose_blocks(monkeypatch):
    torch.manual_seed(0)
    default, chosen = (NeighbourhoodAttention(8, 2, **options).to(DEVICE) for options in ({}, dict(block_size=5)))
    chosen.load_state_dict(default.state_dict())
    x = torch.randn(2, 9, 14, 8, device=DEVICE)
    expected = default(x)
    monkeypatch.setattr(neighbourhood, "measured_block", lambda *args: 14)
    sizes = []
    attend = NeighbourhoodAttention._attend
    monkeypatch.setattr(NeighbourhoodAttention, "_attend", lambda *args: (sizes.append(args[-1]), attend(*args))[1])
    for layer in (default, chosen):
        torch.testing.assert_close(layer(x), expected)
    assert sizes == [14, 5]


CHOSEN = {
    "windows": lambda: (WindowAttention(96, 3), (56, 56)),
    "shifted windows": lambda: (WindowAttention(96, 3, shift_size=4), (56, 56)),
    "neighbourhoods": lambda: (NeighbourhoodAttention(64, 2), (56, 56)),
    "small map": lambda: (NeighbourhoodAttention(256, 8), (14, 14)),
    "halos": lambda: (HaloAttention(64, 4), (64, 64)),
}


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a CUDA device")
@pytest.mark.parametrize("name", CHOSEN)
def test_what_is_chosen_on_this_card_agrees_with_float32(name):
    torch.manual_seed(0)
    layer, size = CHOSEN[name]()
    layer = layer.cuda()
    x = torch.randn(128, *size, layer.proj.in_features if name != "halos" else layer.q.in_features, device="cuda")
    for train in (False, True):
        with torch.set_grad_enabled(train):
            with torch.autocast("cuda", torch.bfloat16):
                half = layer(x).detach()
            exact = torch.cat([layer(part).detach() for part in x.split(8)])
        assert (half.float() - exact).norm() < 0.02 * exact.norm()
