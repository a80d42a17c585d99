"""The tables of losses, schedules and steps (tests/golden/losses.npz): ours must agree to 1e-6."""

import functools

import numpy as np
import pytest
import torch

from spectral_backbones.backbones.layers.gated_residual import GRUGate
from spectral_backbones.methods import mixing_matrix, relations
from spectral_backbones.methods.drop_heads import drop_heads
from spectral_backbones.methods.frame_order import FrameOrderLoss
from spectral_backbones.methods.lars import LARS
from spectral_backbones.methods.schedule import warmup_cosine
from spectral_backbones.methods.vicreg import Expander, VICRegLoss

from ..golden import weights
from ..golden_models import FILES

each = pytest.mark.parametrize("path", [p for p in FILES if p.stem.startswith("losses")], ids=lambda path: path.stem)


@functools.lru_cache
def read(path):
    return {key: torch.as_tensor(value) if value.dtype.kind != "U" else value for key, value in np.load(path).items()}


def table(path, prefix):
    """The entries of a prefix; a file without any has nothing of it to show."""
    found = {key.removeprefix(prefix): value for key, value in read(path).items() if key.startswith(prefix)}
    if not found:
        pytest.skip(f"{path.name} has no {prefix}*")
    return found


def close(actual, expected, tolerance=1e-6):
    torch.testing.assert_close(torch.as_tensor(actual, dtype=torch.float64), expected.double(), atol=tolerance, rtol=0)


@each
def test_golden_vicreg_has_the_official_terms_loss_and_gradient(path):
    cases = {key.split("_")[0] for key in table(path, "vicreg_") if key.endswith("_x") and "grad" not in key}
    assert cases
    for case in cases:
        golden = table(path, f"vicreg_{case}_")
        x = golden["x"].clone().requires_grad_()
        loss, terms = VICRegLoss()(x, golden["y"])
        loss.backward()
        close(loss.detach(), golden["loss"])
        close(x.grad, golden["grad_x"])
        for name, term in terms._asdict().items():
            close(term.detach(), golden[name])


@each
def test_golden_learning_rate_is_the_official_one(path):
    golden = table(path, "vicreg_lr")
    for step, rate in zip(golden["_steps"].tolist(), golden[""]):
        close(warmup_cosine(step, 1000, 100, base=0.3, batch_size=512), rate)


@each
def test_golden_expander_is_the_official_projector(path):
    golden = table(path, "expander_")
    expander = Expander(5, (12, 12, 10)).double()
    state = weights.state_dict(golden["names"], golden["shapes"])
    expander.load_state_dict({name: torch.as_tensor(value).double() for name, value in state.items()}, strict=False)
    close(expander.eval()(golden["x"]).detach(), golden["eval"])
    close(expander.train()(golden["x"]).detach(), golden["train"])


@each
def test_golden_lars_makes_the_official_steps(path):
    golden = table(path, "lars_")
    params = {name: torch.nn.Parameter(golden[f"{name}_0"].clone()) for name in ("weight", "bias")}
    optimizer = LARS(params.values(), lr=0.3, weight_decay=1e-2)
    steps = sum(key.startswith("weight_grad_") for key in golden)
    assert steps
    for step in range(steps):
        for name, param in params.items():
            param.grad = golden[f"{name}_grad_{step}"].clone()
        optimizer.step()
        for name, param in params.items():
            close(param.detach(), golden[f"{name}_{step + 1}"], 1e-12)


@each
def test_golden_order_of_frames_has_the_official_losses(path):
    golden = table(path, "tov_")
    loss = FrameOrderLoss(4).double()
    loss.head.weight.data.copy_(golden["head_weight"])
    loss.head.bias.data.copy_(golden["head_bias"])
    order = loss(golden["now_1"], golden["before"], golden["after"], golden["permutation"])
    close(order.detach(), golden["temporal_loss"])
    views, terms = VICRegLoss()(golden["now_1"], golden["now_2"])
    for name, term in terms._asdict().items():
        close(term, golden[f"{name}_loss"])
    close((views + order).detach(), golden["loss"])


@each
def test_golden_removed_heads_are_those_of_the_draws(path):
    golden = table(path, "heads_")
    close(drop_heads(golden["input"], float(golden["p"]), golden["draws"]), golden["output"])


@each
def test_golden_mohawk_has_the_published_losses(path):
    golden = table(path, "mohawk_")
    close(mixing_matrix.matrix_loss(golden["student_matrix"], golden["teacher_matrix"]), golden["stage1"])
    close(mixing_matrix.hidden_state_loss(golden["student_hidden"], golden["teacher_hidden"]), golden["stage2"])


@each
def test_golden_gate_is_the_product_with_its_matrix_and_nearest_to_attention(path):
    golden = table(path, "gate_")
    weight = torch.complex(golden["weight_real"], golden["weight_imag"])
    grid_size = tuple(golden["kernel"].shape[:2])
    kernel = mixing_matrix.gate_kernel(weight, grid_size)
    close(kernel, golden["kernel"])
    close(mixing_matrix.kernel_matrix(kernel), golden["matrix"])
    product = torch.einsum("cpq,bqc->bpc", golden["matrix"], golden["input"].flatten(1, 2))
    close(product.view_as(golden["output"]), golden["output"])
    close(mixing_matrix.nearest_kernel(golden["attention"], grid_size), golden["nearest_kernel"])
    # The way back: what of a filter acts is what its kernel gives.
    close(mixing_matrix.gate_kernel(mixing_matrix.gate_weight(kernel), grid_size), golden["kernel"])


@each
@pytest.mark.parametrize("name", ["attention", "value"])
def test_golden_minilm_has_its_relations(path, name):
    golden = table(path, "minilm_")
    rows, cols = ("q", "k") if name == "attention" else ("v", "v")
    loss = relations.relation_loss(
        golden[f"{rows}_teacher"],
        golden[f"{rows}_student"],
        int(golden["heads"]),
        golden[f"{cols}_teacher"],
        golden[f"{cols}_student"],
    )
    close(loss, golden[name])


@each
@pytest.mark.parametrize("name", ["q", "k", "v"])
def test_golden_minilm_of_the_second_version_has_its_relations(path, name):
    golden, tokens = table(path, "minilmv2_"), table(path, "minilm_")
    loss = relations.relation_loss(tokens[f"{name}_teacher"], tokens[f"{name}_student"], int(golden["relation_heads"]))
    close(loss, golden[2 * name])


@each
def test_golden_gate_of_a_residual_is_a_gru_cell(path):
    golden = table(path, "gtrxl_")
    gate = GRUGate(golden["x"].shape[-1]).double()
    gate.from_update.weight.data.copy_(torch.cat([golden[f"W{name}"] for name in "rzg"]))
    gate.from_stream.weight.data.copy_(torch.cat([golden[f"U{name}"] for name in "rz"]))
    gate.from_reset.weight.data.copy_(golden["Ug"])
    gate.bias.data.copy_(golden["bias"])
    close(gate(golden["x"], golden["y"]).detach(), golden["gate"])
