"""The cost counter against counts by hand, torch's own counter and the published figures."""

import csv
import json
import math
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from spectral_backbones.backbones.flop_handles import einsum_macs, fft_flops
from spectral_backbones.backbones.flops import count
from spectral_backbones.backbones.mixers.afno import AFNO
from spectral_backbones.backbones.mixers.fnet import FNet
from spectral_backbones.backbones.mixers.spectral import SpectralGating
from spectral_backbones.tools import flops as flops_tool


class Lambda(nn.Module):
    """A function of one batch of images as a model."""

    def __init__(self, function, *modules):
        super().__init__()
        self.function = function
        self.inner = nn.ModuleList(modules)

    def forward(self, x):
        return self.function(x, *self.inner)


def operators(function, input_size, *modules):
    """FLOPs by operator of a function, nothing left uncounted."""
    cost = count(Lambda(function, *modules), input_size, convention="all")
    assert not cost.uncounted
    return dict(cost.by_operator)


def log2(n):
    return math.log2(n)


# One image x of (C, H, W) each. The figures are written out as a reader would count them.
HAND_COUNTS = {
    "convolution with groups, stride and bias": (
        nn.Conv2d(6, 4, 3, stride=2, padding=1, groups=2),
        (6, 8, 10),
        {"conv": 2 * (4 * 4 * 5) * (3 * 3 * 3), "bias": 4 * 4 * 5},
    ),
    "convolution padded to the same size": (
        nn.Conv2d(6, 4, (3, 5), padding="same", bias=False),
        (6, 8, 10),
        {"conv": 2 * (4 * 8 * 10) * (6 * 3 * 5)},
    ),
    "transposed convolution": (
        nn.ConvTranspose2d(6, 4, 2, stride=2, bias=False),
        (6, 8, 10),
        {"conv": 2 * (6 * 8 * 10) * (4 * 2 * 2)},
    ),
    "linear": (nn.Linear(10, 7), (3, 8, 10), {"linear": 2 * (3 * 8) * 10 * 7, "bias": 3 * 8 * 7}),
    "product whose left operand is broadcast": (
        lambda x: torch.ones(5, 8) @ x,
        (3, 8, 10),
        {"matmul": 2 * 3 * (5 * 8 * 10)},
    ),
    "product with a vector": (lambda x: x @ torch.ones(10), (3, 8, 10), {"matmul": 2 * (3 * 8) * 10}),
    "complex product of matrices": (
        lambda x: torch.complex(x, x) @ torch.ones(10, 7, dtype=torch.complex64),
        (3, 8, 10),
        {"matmul": 8 * (3 * 8) * 10 * 7},
    ),
    "einsum, a contraction": (
        lambda x: torch.einsum("bchw,dc->bdhw", x, torch.ones(4, 3)),
        (3, 8, 10),
        {"einsum": 2 * (8 * 10) * 3 * 4},
    ),
    "einsum, no sum": (
        lambda x: torch.einsum("bchw,c->bchw", x, torch.ones(3)),
        (3, 8, 10),
        {"elementwise": 3 * 8 * 10},
    ),
    "real FFT there": (
        lambda x: torch.fft.rfft2(x, norm="ortho"),
        (3, 7, 10),
        {"fft": round(3 * 2.5 * 70 * log2(70))},
    ),
    "real FFT there and back, other axes, odd width": (
        lambda x: torch.fft.irfft2(torch.fft.rfft2(x, dim=(1, 2)), s=(6, 7), dim=(1, 2)),
        (6, 7, 5),
        {"fft": 2 * round(5 * 2.5 * 42 * log2(42))},
    ),
    "complex FFT of a complex signal": (
        lambda x: torch.fft.fft2(torch.complex(x, x)),
        (3, 8, 10),
        {"fft": round(3 * 5 * 80 * log2(80))},
    ),
    "FFT along one axis, cut to a length": (
        lambda x: torch.fft.rfft(x, n=8, dim=-1),
        (3, 8, 10),
        {"fft": round(24 * 2.5 * 8 * log2(8))},
    ),
    "FFT over all axes": (
        lambda x: torch.fft.rfftn(x),
        (3, 8, 10),
        {"fft": round(2.5 * 240 * log2(240))},
    ),
    "product of complex numbers": (
        lambda x: torch.complex(x, x) * torch.complex(x, x)[:, :1],
        (3, 8, 10),
        {"complex product": 6 * 240},
    ),
    "complex numbers times real ones": (lambda x: torch.complex(x, x) * x, (3, 8, 10), {"elementwise": 2 * 240}),
    "attention": (
        lambda x: F.scaled_dot_product_attention(x, x, x),
        (3, 8, 10),
        {"attention": 2 * 3 * (8 * 8) * (10 + 10), "softmax": 5 * 3 * 8 * 8, "elementwise": 3 * 8 * 8},
    ),
    "attention to another length with a mask and other values": (
        lambda x: F.scaled_dot_product_attention(
            x, torch.ones(1, 3, 5, 10), torch.ones(1, 3, 5, 6), attn_mask=torch.zeros(8, 5)
        ),
        (3, 8, 10),
        {"attention": 2 * 3 * (8 * 5) * (10 + 6), "softmax": 5 * 3 * 8 * 5, "elementwise": 2 * 3 * 8 * 5},
    ),
    "attention of four query heads to keys of one, broadcast": (
        lambda x: F.scaled_dot_product_attention(x, x[:, :1], x[:, :1]),
        (4, 8, 10),
        {"attention": 2 * 4 * (8 * 8) * 20, "softmax": 5 * 4 * 64, "elementwise": 4 * 64},
    ),
    "attention of four query heads to keys of two, grouped": (
        lambda x: F.scaled_dot_product_attention(x, x[:, :2], x[:, :2], enable_gqa=True),
        (4, 8, 10),
        {"attention": 2 * 4 * (8 * 8) * 20, "softmax": 5 * 4 * 64, "elementwise": 4 * 64},
    ),
    "recurrent network": (
        lambda x, lstm: lstm(x[0])[0],
        (3, 8, 10),
        {"linear": 2 * (3 * 8) * 2 * (4 * 7 * 10 + 4 * 7 * 7)},
        nn.LSTM(10, 7, bidirectional=True, batch_first=True),
    ),
    "softmax": (lambda x: x.softmax(-1), (3, 8, 10), {"softmax": 5 * 240}),
    "layer norm": (nn.LayerNorm(10), (3, 8, 10), {"norm": 7 * 240}),
    "layer norm without parameters": (nn.LayerNorm(10, elementwise_affine=False), (3, 8, 10), {"norm": 5 * 240}),
    "group norm": (nn.GroupNorm(1, 3), (3, 8, 10), {"norm": 7 * 240}),
    "RMS norm": (nn.RMSNorm(10), (3, 8, 10), {"norm": 4 * 240}),
    "batch norm in evaluation": (nn.BatchNorm2d(3), (3, 8, 10), {"norm": 2 * 240}),
    "activation functions": (lambda x: F.gelu(x.relu()), (3, 8, 10), {"activation": 2 * 240}),
    "sums": (lambda x: (x + x.mean(1, keepdim=True)) * 2, (3, 8, 10), {"elementwise": 2 * 240, "reduction": 240}),
    "arithmetic of indices": (lambda x: x[..., torch.arange(5) * 2 + 1], (3, 8, 10), {}),
    "pooling": (nn.MaxPool2d(2), (3, 8, 10), {"pool": 4 * 60}),
    "global pooling": (nn.AdaptiveAvgPool2d(1), (3, 8, 10), {"pool": 240}),
    "bilinear resize": (lambda x: F.interpolate(x, (16, 5), mode="bilinear"), (3, 8, 10), {"resize": 2 * 4 * 240}),
    "bicubic resize": (lambda x: F.interpolate(x, (16, 5), mode="bicubic"), (3, 8, 10), {"resize": 2 * 16 * 240}),
    "resize to half with antialiasing": (
        lambda x: F.interpolate(x, (8, 5), mode="bilinear", antialias=True),
        (3, 8, 10),
        {"resize": 2 * (2 * 4) * 120},
    ),
    "bilinear grid sample": (
        lambda x: F.grid_sample(x, torch.zeros(1, 4, 5, 2), align_corners=False),
        (3, 8, 10),
        {"grid_sample": 2 * 4 * 60},
    ),
    "nearest grid sample": (
        lambda x: F.grid_sample(x, torch.zeros(1, 4, 5, 2), mode="nearest", align_corners=False),
        (3, 8, 10),
        {},
    ),
    "patches out and in again": (
        lambda x: F.fold(F.unfold(x, 3, padding=1), (8, 10), 3, padding=1),
        (3, 8, 10),
        {"elementwise": 9 * 240},
    ),
}


@pytest.mark.parametrize("case", HAND_COUNTS)
def test_operators_cost_what_a_hand_count_says(case):
    function, input_size, expected, *modules = HAND_COUNTS[case]
    if isinstance(function, nn.Module):
        function, modules = (lambda x, module: module(x)), [function]
    assert operators(function, input_size, *modules) == expected


@pytest.mark.parametrize(
    ("equation", "shapes"),
    [
        ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
        ("bhid,bhjd->bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
        ("ij,jk", [(3, 4), (4, 5)]),
        ("...ij, ...jk -> ...ik", [(2, 3, 4, 5), (3, 5, 6)]),
        ("ijk,jl,km->ilm", [(2, 3, 4), (3, 5), (4, 6)]),
        ("ij,jk,kl->il", [(2, 3), (3, 4), (4, 5)]),
    ],
)
def test_einsum_costs_what_torch_computes_for_it(equation, shapes):
    with torch.backends.opt_einsum.flags(enabled=False), FlopCounterMode(display=False) as counter:
        torch.einsum(equation, *(torch.ones(shape) for shape in shapes))
    assert einsum_macs(equation, shapes) == (counter.get_total_flops() // 2, 0)


def test_einsum_follows_the_path():
    """(ij jk) kl costs 2*3*4 + 2*4*5 products, ij (jk kl) costs 3*4*5 + 2*3*5."""
    shapes = [(2, 3), (3, 4), (4, 5)]
    assert einsum_macs("ij,jk,kl->il", shapes) == (64, 0)
    assert einsum_macs("ij,jk,kl->il", shapes, path=[1, 2, 0, 1]) == (90, 0)


def test_fft_convention():
    assert fft_flops(8) == 5 * 8 * 3
    assert fft_flops(8, num_transforms=7, real=True) == 7 * 60
    assert fft_flops(1) == 0


# --- models -------------------------------------------------------------------------------------------------------

FAMILIES = [
    "test_vit",  # attention, class token
    "test_resnet",
    "test_efficientnet",  # depth-wise convolutions, squeeze and excitation
    "test_convnext",
    "levit_128s",
    "mobilevit_xxs",  # unfolding by reshapes
    "xcit_nano_12_p16_224",  # attention over channels
    "edgenext_xx_small",
    "swin_tiny_patch4_window7_224",
    "halonet26t",  # unfold, relative positions
    "gmlp_ti16_224",
]


def torch_flops(model, image):
    # With gradients: FlopCounterMode's hooks fail on modules that are handed a parameter under no_grad. By products: it
    # does not know the fused attention of CPUs, which torch takes on some processors.
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(image)
    return counter.get_total_flops()


@pytest.mark.parametrize("name", FAMILIES)
def test_agrees_with_torch_on_models_of_timm(name):
    model = timm.create_model(name).eval()
    input_size = model.pretrained_cfg["input_size"]
    cost = count(model, input_size)
    assert cost.flops == torch_flops(model, torch.zeros(1, *input_size))
    assert not cost.uncounted
    assert cost.macs == cost.flops / 2
    assert cost.params == sum(p.numel() for p in model.parameters())


def test_counts_images_that_are_not_square():
    model = timm.create_model("test_convnext").eval()
    assert count(model, (3, 96, 160)).flops == torch_flops(model, torch.zeros(1, 3, 96, 160))


def test_torch_transformer_layer_is_counted_in_evaluation():
    """Its fast path is one operator without a name of its own in the formulas, tracing must not take it."""
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    cost = count(Lambda(lambda x, layer: layer(x.flatten(2).mT), layer), (16, 4, 5))
    products = 4 * 16 * 16 + 2 * 16 * 32  # queries, keys, values, projection; the two layers of the MLP
    assert cost.macs == 20 * products + 2 * 20 * 20 * 16
    assert not cost.uncounted


@pytest.mark.parametrize("name", ["test_vit", "test_resnet", "swin_tiny_patch4_window7_224", "levit_128s"])
@pytest.mark.parametrize("convention", ["paper", "all"])
def test_stages_and_operators_add_up(name, convention):
    model = timm.create_model(name)
    cost = count(model, model.pretrained_cfg["input_size"], convention=convention)
    for part in ("params", "flops", "activations"):
        assert sum(getattr(share, part) for share in cost.by_stage.values()) == getattr(cost, part)
    assert sum(cost.by_operator.values()) == cost.flops == cost.by_module[""].flops
    assert [info["module"] for info in model.feature_info] == [
        stage for stage in cost.by_stage if stage not in ("stem", "head", "outside")
    ]


def test_a_stage_begins_with_its_downsampling():
    model = timm.create_model("test_efficientnet", num_classes=7)
    cost = count(model, (3, 64, 64))
    assert cost.by_stage["stem"] == cost.by_module["conv_stem"].__class__(
        params=sum(p.numel() for m in (model.conv_stem, model.bn1) for p in m.parameters()),
        flops=cost.by_module["conv_stem"].flops,
        activations=cost.by_module["conv_stem"].activations,
    )
    assert cost.by_stage["head"].flops == cost.by_module["conv_head"].flops + cost.by_module["classifier"].flops


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_stages_of_a_features_only_model(name):
    """timm wraps such a model in one of two ways, and both rename its modules."""
    model = timm.create_model(name, features_only=True)
    cost = count(model, (3, 160, 160))
    assert sum(share.flops for share in cost.by_stage.values()) == cost.flops
    assert len([stage for stage in cost.by_stage if stage not in ("stem", "head", "outside")]) == len(
        model.feature_info.module_name()
    )


def test_a_shared_module_costs_each_call_and_has_its_parameters_once():
    layer = nn.Linear(10, 10)
    cost = count(nn.Sequential(layer, layer), (3, 8, 10))
    assert cost.params == 110
    assert cost.macs == 2 * (24 * 10 * 10)


def test_modules_keep_their_modes():
    model = timm.create_model("test_resnet").train()
    model.bn1.eval()  # a frozen norm
    before = {name: module.training for name, module in model.named_modules()}
    statistics = model.layer1[0].bn1.running_mean.clone()
    count(model, (3, 64, 64))
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.equal(model.layer1[0].bn1.running_mean, statistics)


def test_models_of_any_type_are_counted():
    model = timm.create_model("test_vit")
    assert count(model.to(torch.bfloat16), (3, 160, 160)).flops == count(model.to(torch.float64), (3, 160, 160)).flops


def test_an_unknown_operator_is_named():
    cost = count(Lambda(lambda x: torch.linalg.qr(x)[1] + torch.cdist(x, x)), (3, 8, 8))
    assert cost.uncounted == {"aten::linalg_qr": 1, "aten::cdist": 1}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_scripted_function_is_named():
    """A trace does not look inside."""
    cost = count(Lambda(torch.jit.script(_square_product)), (3, 8, 8))
    assert cost.uncounted == {"prim::CallFunction": 1}


def _square_product(x):
    return torch.matmul(x, x)


def test_a_module_that_is_never_called_is_named():
    used, unused = nn.Linear(10, 10), nn.Sequential(nn.Linear(10, 10), nn.ReLU())
    cost = count(Lambda(lambda x, used, *_: used(x), used, unused, nn.Identity()), (3, 8, 10))
    assert cost.uncalled == ["inner.1"]


@pytest.mark.parametrize("input_size", [(224, 224), (3, 0, 224), (3, 224.0, 224)])
def test_an_input_size_that_is_none_is_refused(input_size):
    with pytest.raises(ValueError, match="three positive numbers"):
        count(nn.Identity(), input_size)


def test_the_tool_counts_models_where_no_toolbox_is_installed():
    """mmengine and what is built on it belong to an extra."""
    code = "import sys; sys.modules['mmengine'] = None; import flops; flops.main(['gfnet_ti'])"
    tools = Path(__file__).resolve().parents[1] / "tools"
    result = subprocess.run([sys.executable, "-c", code], cwd=tools, capture_output=True, text=True)
    assert result.returncode == 0 and "gfnet_ti" in result.stdout, result.stderr


def test_an_unknown_convention_is_refused():
    with pytest.raises(ValueError, match="'paper' and 'all'"):
        count(nn.Identity(), (3, 8, 8), convention="fvcore")


def test_a_model_without_memory_is_refused():
    with pytest.raises(ValueError, match="meta device"):
        count(nn.Linear(8, 8, device="meta"), (3, 8, 8))


# --- spectral gates -----------------------------------------------------------------------------------------------

FFT_OF_A_GATE = {"fft": 2 * round(2.5 * 196 * log2(196) * 16), "complex product": 6 * (14 * 8) * 16}


@pytest.mark.parametrize("method", ["auto", "fft", "matmul"])
def test_a_gate_costs_the_same_whichever_way_it_computes(method):
    gate = SpectralGating(16, (14, 14), method)
    cost = count(Lambda(lambda x, gate: gate(x.movedim(1, -1)), gate), (16, 14, 14))
    assert dict(cost.by_operator) == FFT_OF_A_GATE
    assert gate.method == method


@pytest.mark.parametrize("mixer", [partial(AFNO, 16, num_blocks=4), FNet])
def test_other_mixers_cost_the_same_whichever_way_they_compute(mixer):
    costs = [
        count(Lambda(lambda x, layer: layer(x.movedim(1, -1)), mixer(method=method)), (16, 7, 9)).by_operator
        for method in ("auto", "fft", "matmul")
    ]
    assert costs[0] == costs[1] == costs[2]
    assert costs[0]["fft"] > 0


def test_a_gate_costs_its_matrix_products_where_these_are_asked_for():
    gate = SpectralGating(16, (14, 14), "matmul")
    cost = count(Lambda(lambda x, gate: gate(x.movedim(1, -1)), gate), (16, 14, 14), as_executed=True)
    rows = 14 * (2 * 8) * 14 * 16  # H rows of W values, to 2 (W // 2 + 1) each
    columns = (2 * 14) * (2 * 14) * 8 * 16
    assert dict(cost.by_operator) == {"matmul": 2 * 2 * (rows + columns)}


def test_a_gate_on_another_grid_costs_the_fft_of_that_grid():
    gate = SpectralGating(16, (14, 14))
    cost = count(Lambda(lambda x, gate: gate(x.movedim(1, -1)), gate), (16, 9, 20))
    assert dict(cost.by_operator) == {
        "fft": 2 * round(2.5 * 180 * log2(180) * 16),
        "complex product": 6 * (9 * 11) * 16,
    }


# --- significance maps --------------------------------------------------------------------------------------------


def test_attention_of_large_images_counts_each_product_once():
    """SG-Former computes weights that take too much memory twice, here those of the first stage."""
    depths, dims = (2, 2, 2, 1), (96, 192, 384, 768)
    model = timm.create_model("sgformer_b", depths=depths, num_classes=0)
    expected = 0
    for i, num_merged in enumerate((240, 240, 588)):  # keys of self-guided attention, four times those at 224 pixels
        num_queries, dim = (448 // 4 // 2**i) ** 2, dims[i]
        num_coarse, window_area = 14 * 14, 7 * 7
        hybrid = num_queries * (num_coarse + window_area) * dim // 2  # multiply-adds for q k, and as many for w v
        expected += 2 * (hybrid + num_queries * num_merged * dim)
    expected += 2 * (14 * 14) ** 2 * dims[3]  # plain attention
    costs = [count(model.to(dtype), (3, 448, 448)) for dtype in (torch.float32, torch.bfloat16)]
    for cost in costs:
        assert (cost.by_operator["matmul"] + cost.by_operator["attention"]) / 2 == expected
    assert count(model.float(), (3, 448, 448), as_executed=True).macs > costs[0].macs
    assert not any(getattr(module, "store_weights", False) for module in model.modules())


# --- the command --------------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    flops_tool.main(list(arguments))
    return capsys.readouterr()


def test_command_counts_each_model_at_each_size(capsys):
    rows = json.loads(run(capsys, "test_vit", "test_convnext", "--size", "96", "64x128", "--format", "json").out)
    assert [(row["model"], row["size"]) for row in rows] == [
        ("test_vit", "96x96"),
        ("test_vit", "64x128"),
        ("test_convnext", "96x96"),
        ("test_convnext", "64x128"),
    ]
    cost = count(timm.create_model("test_vit", img_size=(64, 128)), (3, 64, 128))
    assert [rows[1][key] for key in ("params", "macs", "flops", "activations")] == [
        cost.params,
        cost.macs,
        cost.flops,
        cost.activations,
    ]


def test_command_takes_the_size_of_the_model_by_default(capsys):
    [row] = csv.DictReader(run(capsys, "test_resnet", "--format", "csv").out.splitlines())
    assert row["size"] == "160x160"


def test_command_leaves_out_the_classifier(capsys):
    [row] = json.loads(run(capsys, "test_vit", "--num-classes", "0", "--format", "json").out)
    whole = count(timm.create_model("test_vit"), (3, 160, 160))
    assert row["macs"] == whole.macs - whole.by_module["head"].macs


@pytest.mark.parametrize("by", ["stage", "operator"])
def test_command_splits_the_whole_cost(capsys, by):
    rows = list(csv.DictReader(run(capsys, "test_efficientnet", "--by", by, "--format", "csv").out.splitlines()))
    whole = count(timm.create_model("test_efficientnet"), (3, 160, 160))
    assert sum(float(row["macs"]) for row in rows) == whole.macs
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1)


def test_command_shows_modules_to_a_depth(capsys):
    out = run(capsys, "test_vit", "--by", "module", "--depth", "2", "--format", "csv").out
    names = [row["module"] for row in csv.DictReader(out.splitlines())]
    assert "blocks.5" in names
    assert "blocks.5.attn" not in names


def test_command_writes_markdown_and_a_table_with_units(capsys):
    markdown = run(capsys, "test_vit", "--format", "markdown").out.splitlines()
    assert markdown[0] == "| model | size (HxW) | params (M) | MACs (G) | FLOPs (G) | activations (M) |"
    assert len({line.count("|") for line in markdown}) == 1
    table = run(capsys, "test_vit").out
    assert "MACs (G)" in table
    assert markdown[2].split("|")[4].strip() in table


def test_command_warns_of_what_it_cannot_count(capsys, monkeypatch):
    monkeypatch.setattr(flops_tool.timm, "create_model", lambda name, **_: with_unknown_operator())
    err = run(capsys, "test_vit").err
    assert "too low, not counted are {'aten::cdist': 1}" in err
    assert "never called: inner" in err


def with_unknown_operator():
    model = Lambda(lambda x, unused: torch.cdist(x, x), nn.Linear(2, 2))
    model.pretrained_cfg = {"input_size": (3, 8, 8)}
    return model


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["spectfomer_s"], "did you mean spectformer_s"),
        (["zzzzzz"], "unknown model 'zzzzzz'"),
        (["test_vit", "--size", "12x"], "allowed are N and HxW"),
        (["test_vit", "--size", "0"], "allowed are N and HxW"),
        (["test_vit", "--size", "8x8x8"], "allowed are N and HxW"),
    ],
)
def test_command_explains_what_is_wrong(capsys, arguments, message):
    with pytest.raises(SystemExit):
        flops_tool.main(arguments)
    assert message in capsys.readouterr().err


def test_command_passes_on_why_a_model_refuses_a_size():
    with pytest.raises(SystemExit, match=r"convit_tiny at 256x256: .*doesn't match model"):
        flops_tool.main(["convit_tiny", "--size", "256"])


def test_command_says_that_a_model_has_no_stages():
    with pytest.raises(SystemExit, match="twins_svt_small has no feature_info"):
        flops_tool.main(["twins_svt_small", "--by", "stage", "--size", "64"])


def test_of_wrappers_and_compiled_modules_what_is_inside_is_counted():
    model = timm.create_model("spectformer_ti", img_size=64, depth=2, mixers=1)
    size = (3, 64, 64)
    expected = count(model, size)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    for wrapper in (torch.compile(model), nn.DataParallel(torch.compile(model)), averaged):
        assert count(wrapper, size) == expected
    model.blocks[0].compile()
    block = model.blocks[1] = torch.compile(model.blocks[1])
    assert count(model, size) == expected
    assert model.blocks[1] is block
    assert model.blocks[0]._compiled_call_impl is not None
