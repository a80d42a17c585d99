"""PoNet against its equations, token by token."""

import pytest
import torch

from spectral_backbones.backbones.mixers import create_mixer


@pytest.mark.parametrize(("grid", "segment"), [((5, 7), (2, 3)), ((3, 4), (7, 7)), ((1, 9), (1, 4)), ((6, 6), (1, 6))])
@torch.no_grad()
def test_every_token_gets_what_the_equations_say(grid, segment):
    torch.manual_seed(0)
    mixer = create_mixer("ponet", 8, grid, num_heads=2, segment=segment, dtype=torch.float64)
    x = torch.randn(2, *grid, 8, dtype=torch.float64)
    q, k, o, s, near = mixer.proj_in(x).chunk(5, -1)
    height, width = grid
    expected = torch.empty_like(x)
    for b in range(2):
        everywhere = []
        for head in range(2):
            some = slice(4 * head, 4 * head + 4)
            keys = k[b, ..., some].reshape(-1, 4)
            weights = (keys @ q[b, ..., some].reshape(-1, 4).mean(0) / 2).softmax(0)
            everywhere.append(weights @ keys)
        for row in range(height):
            for col in range(width):
                top, left = row // segment[0] * segment[0], col // segment[1] * segment[1]
                cell = s[b, top : top + segment[0], left : left + segment[1]].amax((0, 1))
                around = near[b, max(0, row - 1) : row + 2, max(0, col - 1) : col + 2].amax((0, 1))
                expected[b, row, col] = (torch.cat(everywhere) + cell) * o[b, row, col] + around
    torch.testing.assert_close(mixer(x), mixer.proj(expected))


def test_a_segment_that_is_none_is_refused():
    with pytest.raises(ValueError, match="segment is its height and width"):
        create_mixer("ponet", 8, (4, 4), num_heads=2, segment=(0, 3))
