"""Dice and distances, in millimetres, and the rule for what is empty."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.figures import spelt, telling
from spectral_backbones.volumes.metrics import VolumeMetric, score

SPACING = (0.5, 1.0, 3.0)


def box(*sides, size=(12, 10, 6)):
    volume = torch.zeros(size, dtype=torch.bool)
    volume[tuple(slice(*side) for side in sides)] = True
    return volume


def distance_of_every_pair(found, there, spacing):
    """The 95 % Hausdorff distance of surfaces, written out."""
    surfaces = []
    for volume in (found.numpy(), there.numpy()):
        surfaces.append(np.argwhere(volume & ~binary_erosion(volume)) * np.array(spacing))
    pairs = np.linalg.norm(surfaces[0][:, None] - surfaces[1][None], axis=-1)
    return max(np.percentile(pairs.min(1), 95), np.percentile(pairs.min(0), 95))


def test_scores_are_what_the_definitions_say():
    found, there = box((2, 8), (2, 7), (1, 4)), box((3, 10), (2, 8), (1, 5))
    scored = score(found, there, SPACING)
    assert scored.dice == pytest.approx(2 * (found & there).sum().item() / (found.sum() + there.sum()).item())
    assert scored.hd95 == pytest.approx(distance_of_every_pair(found, there, SPACING), rel=1e-5)
    assert not scored.one_is_empty


@pytest.mark.parametrize("swapped", [False, True])
def test_the_distance_to_nothing_is_the_diagonal_and_not_perfect(swapped):
    pair = [box((2, 8), (2, 7), (1, 4)), box((0, 0), (0, 0), (0, 0))]
    scored = score(*(pair[::-1] if swapped else pair), SPACING)
    assert scored == (0.0, pytest.approx(math.sqrt(6.0**2 + 10.0**2 + 18.0**2)), True)


def test_nothing_found_where_nothing_is_counts_for_nothing():
    nothing = box((0, 0), (0, 0), (0, 0))
    dice, distance, one_is_empty = score(nothing, nothing, SPACING)
    assert math.isnan(dice) and math.isnan(distance) and not one_is_empty


def evaluated(pairs, **kwargs):
    metric = VolumeMetric(**kwargs)
    metric.dataset_meta = {"classes": ("background", "liver", "spleen")}
    for index, (found, there) in enumerate(pairs):
        metric.process(None, [{"index": index, "found": found, "labels": there, "spacing": SPACING}])
    return metric.evaluate(len(pairs))


def test_figures_are_means_over_volumes_and_then_over_classes():
    there = torch.zeros(12, 10, 6, dtype=torch.uint8)
    there[2:6, 2:6, 1:3] = 1
    both = there.clone()
    both[8:10, 2:4, 3:5] = 2
    figures = evaluated([(there, there), (there, both), (both, both)])
    assert figures["Dice/liver"] == 100 and figures["Dice/spleen"] == 50  # in one of the two volumes that have it
    assert figures["Dice"] == 75 and figures["empty"] == 1
    assert figures["HD95/spleen"] == pytest.approx(math.sqrt(36 + 100 + 324) / 2)
    assert telling(figures) == "Dice"
    assert evaluated([(there, both)], classes=["liver"])["Dice"] == 100


def test_a_class_that_no_volume_has_is_no_number():
    there = torch.zeros(12, 10, 6, dtype=torch.uint8)
    there[2:6, 2:6, 1:3] = 1
    figures = evaluated([(there, there)])
    assert math.isnan(figures["Dice/spleen"]) and figures["Dice"] == 100
    nothing = evaluated([(torch.zeros_like(there), torch.zeros_like(there))])
    assert "no annotated" in spelt("Dice", nothing["Dice"]) and "no annotated" in spelt("HD95", nothing["HD95"])


def test_averages_of_unknown_classes_are_refused():
    with pytest.raises(UserError, match="average kidney; the classes are liver, spleen"):
        evaluated([(torch.zeros(4, 4, 4), torch.zeros(4, 4, 4))], classes=["kidney"])
