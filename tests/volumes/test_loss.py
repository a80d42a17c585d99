"""The loss gives the official table, and is what MONAI's users know."""

import numpy as np
import pytest
import torch
from monai.losses import DiceCELoss

from spectral_backbones.volumes.losses import DeepDiceCELoss

from .golden_models import TABLES


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-6), (torch.float32, 1e-4)], ids=["float64", "float32"])
@pytest.mark.parametrize("path", TABLES, ids=lambda path: path.stem)
def test_golden_loss_of_volumes_is_ours(path, dtype, tolerance):
    golden = np.load(path)
    levels = range(len(golden["deep_weights"]))
    logits = [torch.from_numpy(golden[f"logits_{i}"]).to(dtype) for i in levels]
    targets = [torch.from_numpy(golden[f"target_{i}"]) for i in levels]
    for batch in (False, True):
        loss = DeepDiceCELoss(batch)
        whole = loss(logits[0], targets[0])
        assert whole.item() == pytest.approx(float(golden[f"dice_ce_batch_{batch}"]), abs=tolerance)
        dice = loss.loss.dice(logits[0], targets[0]) - 1  # MONAI's is 1 - Dice
        assert dice.item() == pytest.approx(float(golden[f"dice_batch_{batch}"]), abs=tolerance)
        crossed = loss.loss.ce(logits[0], targets[0])
        assert crossed.item() == pytest.approx(float(golden["ce"]), abs=tolerance)
    assert DeepDiceCELoss()(logits, targets).item() == pytest.approx(float(golden["deep_loss"]), abs=tolerance)


def test_coarser_heads_are_compared_with_the_nearest_classes():
    target = torch.randint(0, 3, (2, 1, 8, 8, 4), dtype=torch.uint8)
    outputs = [torch.randn(2, 3, 8, 8, 4), torch.randn(2, 3, 4, 4, 2)]
    alone = [DeepDiceCELoss()(outputs[0], target), DeepDiceCELoss()(outputs[1], target[..., 1::2, 1::2, 1::2])]
    assert DeepDiceCELoss()(outputs, target).item() == pytest.approx((2 * alone[0] + alone[1]).item() / 3, abs=1e-6)


def test_gradients_are_those_of_monais_loss():
    logits = torch.randn(2, 3, 6, 6, 4, requires_grad=True)
    target = torch.randint(0, 3, (2, 1, 6, 6, 4))
    theirs = DiceCELoss(include_background=False, to_onehot_y=True, softmax=True)
    (ours,) = torch.autograd.grad(DeepDiceCELoss()(logits, target), logits)
    (expected,) = torch.autograd.grad(theirs(logits, target), logits)
    torch.testing.assert_close(ours, expected)
