"""Both forms of Combiner against the expectation that they compute, token by token."""

import pytest
import torch

from spectral_backbones.backbones.mixers import create_mixer

GRID = (5, 7)


def made(name, **options):
    torch.manual_seed(0)
    mixer = create_mixer(name, 8, GRID, num_heads=2, dtype=torch.float64, **options)
    x = torch.randn(2, *GRID, 8, dtype=torch.float64)
    q, k, v = mixer.qkv(x).unflatten(3, (3, 2, 4)).unbind(3)  # B H W heads d
    return mixer, x, q / 2, k, v


@pytest.mark.parametrize("segment", [(2, 3), (5, 7), (1, 7), (9, 9), None])
@pytest.mark.parametrize("own_summary", [False, True])
@torch.no_grad()
def test_fixed_attends_to_its_segment_and_to_summaries_of_the_others(segment, own_summary):
    mixer, x, q, k, v = made("combiner_fixed", segment=segment, own_summary=own_summary)
    rows, cols = segment or (3, 3)
    cells = [
        (slice(top, top + rows), slice(left, left + cols))
        for top in range(0, GRID[0], rows)
        for left in range(0, GRID[1], cols)
    ]
    expected = torch.empty_like(q)
    for b in range(2):
        for head in range(2):
            keys, values = [], []
            for cell in cells:
                in_cell = [t[b, :, :, head][cell].reshape(-1, 4) for t in (q, k, v)]
                weights = (in_cell[1] @ in_cell[0].amax(0)).softmax(0)
                keys.append(in_cell[1].amax(0))
                values.append(weights @ in_cell[2])
            for number, cell in enumerate(cells):
                others = [i for i in range(len(cells)) if own_summary or i != number]
                own_k, own_v = (t[b, :, :, head][cell].reshape(-1, 4) for t in (k, v))
                all_k = torch.cat([own_k, *(keys[i][None] for i in others)])
                all_v = torch.cat([own_v, *(values[i][None] for i in others)])
                part = q[b, :, :, head][cell]
                expected[b, :, :, head][cell] = (part @ all_k.T).softmax(-1) @ all_v
    torch.testing.assert_close(mixer(x), mixer.proj(expected.flatten(3)))


@pytest.mark.parametrize("summary", ["proj", "wsum"])
@torch.no_grad()
def test_axial_attends_to_its_row_and_to_summaries_of_the_others(summary):
    mixer, x, q, k, v = made("combiner_axial", summary=summary)
    weights = torch.einsum("bychd,byzhd->byhcz", q, k).softmax(-1)
    values = torch.einsum("byhcz,byzhd->bychd", weights, v)
    keys = torch.einsum("byhcz,byzhd->bychd", weights, k)
    if summary == "proj":
        keys = mixer.key_proj(mixer.norm(x + mixer.row_proj(values.flatten(3)))).unflatten(3, (2, 4))
    expected = torch.empty_like(q)
    for row in range(GRID[0]):
        for col in range(GRID[1]):
            others = [other for other in range(GRID[0]) if other != row]
            all_k = torch.cat([k[:, row], keys[:, others, col]], 1)  # B keys heads d
            all_v = torch.cat([v[:, row], values[:, others, col]], 1)
            logits = torch.einsum("bhd,bkhd->bhk", q[:, row, col], all_k)
            expected[:, row, col] = torch.einsum("bhk,bkhd->bhd", logits.softmax(-1), all_v)
    torch.testing.assert_close(mixer(x), mixer.proj(expected.flatten(3)))


def test_an_unknown_summary_is_refused():
    with pytest.raises(ValueError, match="summary must be one of proj, wsum"):
        create_mixer("combiner_axial", 8, GRID, num_heads=2, summary="none")
