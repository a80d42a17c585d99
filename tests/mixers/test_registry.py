"""Mixers by name, and the patterns of a trunk."""

import functools
from typing import Optional

import numpy as np
import pytest
import torch
from torch import nn

from spectral_backbones.backbones.mixers import (
    AFNO,
    Attention,
    FNet,
    SpectralGating,
    create_mixer,
    expand_mixers,
    list_mixers,
    mixer_options,
    register_mixer,
    registry,
)
from spectral_backbones.backbones.spectformer import SpectFormer

S, A = "spectral", "attention"
FFT = dict(type=S, method="fft")
WINDOW = dict(type="window", window_size=4)


class Mine(nn.Module):
    """A user's mixer."""

    def __init__(self, dim, grid_size, num_heads, device=None, dtype=None):
        super().__init__()
        self.given = (dim, grid_size, num_heads, device, dtype)

    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        (0, [A] * 6),
        (2, [S, S, A, A, A, A]),
        (6, [S] * 6),
        ("spectral", [S] * 6),
        ("attention", [A] * 6),
        ("spectral:4, attention", [S, S, S, S, A, A]),
        ("attention:4,spectral", [A, A, A, A, S, S]),
        ("spectral, attention, ...", [S, A] * 3),
        ("spectral:3, attention, ...", [S, S, S, A, S, S]),
        ("spectral:6", [S] * 6),
        ("spectral:6, attention", [S] * 6),
        ("spectral:1, afno:2, fnet:1, attention", [S, "afno", "afno", "fnet", A, A]),
        (" spectral : 2 ,attention ", [S, S, A, A, A, A]),
        ([S, A, S, A, S, A], [S, A] * 3),
        ((A, A, A, S, S, S), [A, A, A, S, S, S]),
        ([Mine, S, A, A, A, A], [Mine, S, A, A, A, A]),
        (Mine, [Mine] * 6),
        ("neighbourhood(kernel_size=9):4, spectral", [dict(type="neighbourhood", kernel_size=9)] * 4 + [S, S]),
        (" window ( window_size = 4 , relative_bias=false ) : 6", [dict(WINDOW, relative_bias=False)] * 6),
        ("spectral(method=fft), attention(qkv_bias=None), ...", [FFT, dict(type=A, qkv_bias=None)] * 3),
        ("spectral(method='fft'):1, attention()", [FFT, A, A, A, A, A]),
        ("self_guided(group_sizes=(4, 2)):6", [dict(type="self_guided", group_sizes=(4, 2))] * 6),
        (dict(WINDOW), [WINDOW] * 6),
        (["spectral:2", "window(window_size=4):3", "attention"], [S, S, WINDOW, WINDOW, WINDOW, A]),
        ([S, A, "..."], [S, A] * 3),
        (dict(type=A), [A] * 6),
        ([WINDOW, "window(window_size=4)", A, A, A, dict(type=Mine)], [WINDOW, WINDOW, A, A, A, Mine]),
    ],
)
def test_a_pattern_gives_a_mixer_for_each_block(pattern, expected):
    assert expand_mixers(pattern, 6) == expected


def test_the_list_of_a_user_is_copied():
    pattern = [S, A]
    expand_mixers(pattern, 2).append(S)
    assert pattern == [S, A]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (-1, r"between 0 and 6, got -1"),
        (7, r"between 0 and 6, got 7"),
        (True, r"a number, a text or a sequence, got True"),
        (2.0, r"a number, a text or a sequence, got 2\.0"),
        (None, r"a number, a text or a sequence, got None"),
        (np.float64(2), r"a number, a text or a sequence"),
        (
            "spectrum",
            r"unknown mixer 'spectrum' \(did you mean 'spectral'\?\), expected one of afno, attention",
        ),
        ("conv:2, attention", r"unknown mixer 'conv', expected one of afno, attention, .* or a class"),
        ("", r"unknown mixer ''"),
        (":3", r"unknown mixer ''"),
        ("spectral:2,", r"unknown mixer ''"),
        ("spectral, attention", r"only the last name of the mixer pattern 'spectral, attention' may have no count"),
        ("spectral:0, attention", r"must be a positive number, got 'spectral:0'"),
        ("spectral:-1, attention", r"must be a positive number, got 'spectral:-1'"),
        ("spectral:x, attention", r"must be a positive number, got 'spectral:x'"),
        ("spectral:, attention", r"must be a positive number, got 'spectral:'"),
        ("spectral:²", r"must be a positive number, got 'spectral:²'"),
        ("spectral:2", r"'spectral:2' has 2 blocks, the trunk 6: give the last name no count .* or end with"),
        ("spectral:1, attention:1", r"has 2 blocks, the trunk 6"),
        ("spectral:7, ...", r"has 7 blocks, the trunk 6"),
        ("..., spectral", r"unknown mixer '...'"),
        ("spectral:7", r"'spectral:7' has 7 blocks, the trunk 6"),
        ("spectral:7, attention", r"has 7 blocks, the trunk 6"),
        ([S, A], r"each of the 6 blocks, got 2"),
        ([S] * 7, r"each of the 6 blocks, got 7"),
        ([S, "atention", A, A, A, A], r"unknown mixer 'atention' \(did you mean 'attention'\?\)"),
        ([S, 3, A, A, A, A], r"unknown mixer 3"),
        ("window(size=4)", r"mixer 'window' has no option 'size'.*, its options are window_size=7, relative_bias=True"),
        ("window(window_sise=4)", r"no option 'window_sise' \(did you mean 'window_size'\?\)"),
        (dict(WINDOW, dim=8), r"has no option 'dim'"),
        ("window(out_dim=8)", r"has no option 'out_dim'"),
        ("halo(stride=2):3, attention", r"mixer 'halo' has no option 'stride', its options are head_dim=None"),
        ("identity(rate=1)", r"no option 'rate', its options are none at all"),
        ("window(4)", r"cannot read 'window\(4\)': options are written as in"),
        ("window(window_size=4", r"cannot read 'window\(window_size=4'"),
        ("window(window_size=)", r"cannot read"),
        ("window(window_size=4)8", r"cannot read"),
        ("window(window_size=print())", r"cannot read"),
        ("windows(window_size=4)", r"unknown mixer 'windows' \(did you mean 'window'\?\)"),
        ("window(window_size=4):0", r"must be a positive number, got 'window\(window_size=4\):0'"),
        (dict(name="window"), r"a mixer's dict needs its name as `type`, got \{'name': 'window'\}"),
        (dict(type=3), r"unknown mixer 3"),
    ],
)
def test_a_wrong_pattern_is_refused_with_what_is_allowed(pattern, message):
    with pytest.raises(ValueError, match=message):
        expand_mixers(pattern, 6)


@pytest.mark.parametrize(
    ("name", "cls"), [("spectral", SpectralGating), ("attention", Attention), ("afno", AFNO), ("fnet", FNet)]
)
def test_a_name_gives_its_layer(name, cls):
    mixer = create_mixer(name, 16, (4, 6), num_heads=2, spectral_method="fft", dtype=torch.float64)
    assert type(mixer) is cls
    assert all(parameter.dtype == torch.float64 for parameter in mixer.parameters())
    assert getattr(mixer, "method", "fft") == "fft"
    assert getattr(mixer, "num_heads", 2) == 2
    assert getattr(mixer, "grid_size", (4, 6)) == (4, 6)
    assert create_mixer(name, 16, (4, 6), num_heads=2, device="meta").state_dict().keys() == mixer.state_dict().keys()


def test_dropout_reaches_attention():
    mixer = create_mixer("attention", 16, (4, 6), num_heads=2, attn_drop=0.1, proj_drop=0.2)
    assert (mixer.attn.attn_drop.p, mixer.proj_drop.p) == (0.1, 0.2)


def test_a_class_of_ones_own_is_called_with_what_a_mixer_needs():
    mixer = create_mixer(Mine, 16, (4, 6), num_heads=2, dtype=torch.float64)
    assert mixer.given == (16, (4, 6), 2, None, torch.float64)


def test_an_unknown_name_is_refused():
    with pytest.raises(
        ValueError, match=r"unknown mixer 'fft', expected one of afno, attention, .*spectral.* or a class"
    ):
        create_mixer("fft", 16, (4, 6), num_heads=2)


# Options ----------------------------------------------------------------------------------------------------------


def test_options_of_a_pattern_reach_the_layer_before_those_of_the_trunk():
    mixer = create_mixer("window(window_size=4, attn_drop=0.3)", 16, (4, 6), num_heads=2, attn_drop=0.1, proj_drop=0.2)
    assert (mixer.window_size, mixer.attn.attn_drop.p, mixer.proj_drop.p) == (4, 0.3, 0.2)
    assert create_mixer("spectral(method=matmul)", 16, (4, 6), 2, spectral_method="fft").method == "matmul"
    assert create_mixer("window", 16, (4, 6), 2, window_size=3).window_size == 3
    assert create_mixer(dict(type="fnet", method="fft"), 16, (4, 6), 2, attn_drop=0.1).method == "fft"


def test_words_that_begin_with_a_digit_need_no_quotation_marks_and_numbers_stay_numbers():
    assert create_mixer("hyena_nd(directions=4dirp, order=3)", 16, (4, 6), 2).directions == "4dirp"
    assert create_mixer("hyena_nd(directions='4dir')", 16, (4, 6), 2).directions == "4dir"
    for text, value in (("1e-1", 0.1), ("2.5E-01", 0.25), ("0x0", 0), ("0.0_1", 0.01)):
        assert create_mixer(f"attention(proj_drop={text})", 16, (4, 6), 2).proj_drop.p == value


@pytest.mark.parametrize(
    ("mixer", "options", "message"),
    [
        ("window", dict(size=4), "no option 'size'"),
        ("window(window_size=0)", {}, "window_size must be at least 1, got 0"),
        ("window(window_size=small)", {}, "mixer 'window' cannot work with window_size='small': "),
        ("ponet(segment=7)", {}, "a segment is its height and width in tokens, at least 1 each, got 7"),
        ("ponet(segment=(1.5, 2))", {}, r"at least 1 each, got \(1\.5, 2\)"),
        ("combiner_fixed(segment=wide)", {}, "at least 1 each, got 'wide'"),
        ("routing(decay=2)", {}, "decay must be between 0 and 1, got 2"),
        ("coda(noise=-1)", {}, "noise must be at least 0, got -1"),
        ("afno(num_blocks=3)", {}, "num_blocks must be a divisor of the 16 channels"),
    ],
)
def test_a_wrong_option_is_refused(mixer, options, message):
    with pytest.raises(ValueError, match=message):
        create_mixer(mixer, 16, (4, 6), num_heads=2, **options)


def test_options_and_their_defaults_are_told():
    assert mixer_options("neighbourhood") == {
        "kernel_size": 7, "qkv_bias": True, "attn_drop": 0.0, "proj_drop": 0.0, "block_size": 7,
    }  # fmt: skip
    shifted = mixer_options("shifted_window")  # through **kwargs to the class that it extends
    assert shifted.keys() == {*mixer_options("window"), "shift_size"}
    assert mixer_options("identity") == {}
    assert "stride" not in mixer_options("halo")


# A user's own -----------------------------------------------------------------------------------------------------


@pytest.fixture
def names():
    before = dict(registry._mixers)
    yield
    registry._mixers.clear()
    registry._mixers.update(before)


def test_a_users_mixer_gets_a_name_for_patterns(names):
    @register_mixer("shift", paper="arXiv:1711.08141")
    class Shift(nn.Module):
        def __init__(self, dim, step=1, attn_drop=0.5):
            super().__init__()
            self.step, self.attn_drop = step, attn_drop

        def forward(self, x):
            return x.roll(self.step, 2)

    assert "shift" in list_mixers()
    model = SpectFormer(
        img_size=16, patch_size=4, embed_dim=16, depth=3, num_heads=2, mixers="shift(step=2):2, attention"
    )
    assert [getattr(block.mixer, "step", None) for block in model.blocks] == [2, 2, None]
    assert model.blocks[0].mixer.attn_drop == 0.0  # the trunk's
    assert model(torch.randn(1, 3, 16, 16)).shape == (1, 1000)
    with pytest.raises(ValueError, match=r"mixer 'shift' has no option 'steps' .*step=1"):
        create_mixer("shift(steps=2)", 16, (4, 4), 2)


def test_a_function_and_a_partial_are_mixers_too(names):
    register_mixer("narrow")(functools.partial(Attention, num_heads=4, attn_drop=0.3))
    mixer = create_mixer("narrow", 16, (4, 4), num_heads=2, attn_drop=0.1, proj_drop=0.2)
    assert (mixer.num_heads, mixer.attn.attn_drop.p, mixer.proj_drop.p) == (4, 0.3, 0.2)
    assert mixer_options("narrow").keys() == {"qkv_bias", "proj_drop"}
    own = create_mixer(lambda dim, num_heads: Attention(dim, num_heads), 16, (4, 4), num_heads=2, attn_drop=0.1)
    assert (own.num_heads, own.attn.attn_drop.p) == (2, 0.0)
    assert create_mixer(lambda **given: Mine(**given), 16, (4, 4), num_heads=2).given == (16, (4, 4), 2, None, None)


@pytest.mark.parametrize(
    ("name", "factory", "message"),
    [
        ("spectral", Mine, "there is a mixer 'spectral' already, .*SpectralGating"),
        ("my mixer", Mine, "must be a word of letters, digits and underscores, got 'my mixer'"),
        ("a:3", Mine, "must be a word"),
        (
            "needy",
            lambda dim, groups: None,
            "the constructor of mixer 'needy' needs 'groups': trunks give dim, grid_si",
        ),
    ],
)
def test_what_cannot_be_a_mixer_is_refused_a_name(name, factory, message, names):
    with pytest.raises(ValueError, match=message):
        register_mixer(name)(factory)


# What mixers hand on ----------------------------------------------------------------------------------------------


class Giver(nn.Module):
    """Hands on the mean of its input; `gives` and `takes` are set for each test."""

    gives = takes = None

    def __init__(self, dim):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.is_wanted = True
        self.seen = []

    def forward(self, x, handed: Optional[torch.Tensor] = None):
        self.seen.append(None if handed is None else handed.detach())
        return x * self.weight, x.mean(3)


def kind(gives=None, takes=None, **attributes):
    return type("Kind", (Giver,), dict(gives=gives, takes=takes, **attributes))


def trunk(*mixers, **kwargs):
    torch.manual_seed(0)
    arguments = dict(img_size=16, patch_size=4, embed_dim=16, depth=len(mixers), num_heads=2, num_classes=3)
    return SpectFormer(**arguments, mixers=list(mixers), **kwargs)


def test_what_a_mixer_gives_reaches_the_next_that_takes_it_and_no_other():
    model = trunk(kind("a"), kind("a", "a"), kind("b", "a"), kind(None, "a"), "attention", kind(None, "b")).eval()
    model(torch.randn(1, 3, 16, 16))
    mixers = [block.mixer for block in model.blocks]
    assert [mixer.seen[0] is not None for mixer in mixers if isinstance(mixer, Giver)] == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert [mixer.is_wanted for mixer in mixers[:3]] == [True, True, False]


def test_checkpointing_and_taps_carry_what_is_handed_on():
    x = torch.randn(2, 3, 16, 20)
    model = trunk("hybrid_scale(reduction=2)", "self_guided(group_sizes=(2, 1))", "attention", "spectral")
    model(x).sum().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    model.set_grad_checkpointing()
    model(x).sum().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    features, taps = model.eval().forward_intermediates(x)
    torch.testing.assert_close(features, model.forward_features(x))
    early = model.forward_intermediates(x, indices=[0, 1], stop_early=True, intermediates_only=True)
    torch.testing.assert_close(early, taps[:2])


@torch.no_grad()
def test_blocks_that_are_compiled_each_by_itself_hand_on_too():
    model = trunk("hybrid_scale(reduction=2)", "self_guided(group_sizes=(2, 1))", "attention").eval()
    x = torch.randn(1, 3, 16, 16)
    expected = model(x)
    for i, block in enumerate(model.blocks):
        model.blocks[i] = torch.compile(block, backend="eager", dynamic=False)
    torch.testing.assert_close(model(x), expected)


def test_a_mixer_that_needs_what_nobody_gives_is_refused():
    with pytest.raises(ValueError, match=r"SelfGuidedAttention needs the significance .* but it is the first"):
        trunk("self_guided", "attention")
    with pytest.raises(ValueError, match=r"needs the significance of the mixer before it.* it follows SpectralGating"):
        trunk("hybrid_scale", "spectral", "self_guided")
