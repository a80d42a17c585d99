"""The Legendre memory against its recurrence."""

import pytest
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.mixers import create_mixer
from spectral_backbones.backbones.mixers.lmu import impulse_response


def recurrence(u, order):
    """States of the memory (B, N, order) for signals (B, N), step by step."""
    length = u.shape[1]
    i = torch.arange(order, dtype=torch.float64)
    a = torch.tensor(
        [[(2 * m + 1) * (-1.0 if m < n else (-1.0) ** (m - n + 1)) for n in range(order)] for m in range(order)]
    )
    b = (2 * i + 1) * (-1.0) ** i
    held = torch.linalg.matrix_exp(F.pad(torch.cat([a.double(), b[:, None]], 1) / length, [0, 0, 0, 1]))
    state, states = torch.zeros(len(u), order, dtype=torch.float64), []
    for t in range(length):
        state = state @ held[:order, :order].T + u[:, t, None] * held[:order, order]
        states.append(state)
    return torch.stack(states, 1)


@pytest.mark.parametrize("length", [1, 2, 49, 300])  # as a product and by FFT
@torch.no_grad()
def test_the_memory_is_that_of_the_recurrence(length):
    mixer = create_mixer("lmu", 6, (1, length), num_heads=1, dtype=torch.float64)
    u = torch.rand(2, length, dtype=torch.float64)
    torch.testing.assert_close(mixer.remember(u), recurrence(u, 6))


@torch.no_grad()
def test_scans_average_directions_and_axes():
    u = torch.rand(2, 3, 5, dtype=torch.float64)
    made = {
        scan: create_mixer("lmu", 4, (3, 5), num_heads=1, scan=scan, dtype=torch.float64) for scan in ("both", "axes")
    }

    def both(signal):
        return (recurrence(signal, 4) + recurrence(signal.flip(1), 4).flip(1)) / 2

    torch.testing.assert_close(made["both"]._states(u), both(u.reshape(2, 15)).reshape(2, 3, 5, 4))
    rows = torch.stack([both(u[:, i]) for i in range(3)], 1)
    columns = torch.stack([both(u[:, :, i]) for i in range(5)], 2)
    torch.testing.assert_close(made["axes"]._states(u), (rows + columns) / 2)


def test_a_token_sees_the_past_alone_where_the_scan_is_forward():
    mixer = create_mixer("lmu", 4, (3, 5), num_heads=1, scan="forward", dtype=torch.float64).eval()
    mixer.signal.bias.data.fill_(1.0)
    x = torch.rand(1, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    mixer(x)[0, 1, 2].sum().backward()
    seen = x.grad[0].abs().sum(-1).flatten()
    assert (seen[:8] > 0).all() and (seen[8:] == 0).all()


def test_a_long_response_stays_finite():
    assert impulse_response(64, 5000, torch.device("cpu")).abs().max() < 1.0


def test_an_unknown_scan_is_refused():
    with pytest.raises(ValueError, match="scan must be one of forward, both, axes"):
        create_mixer("lmu", 4, (3, 5), num_heads=1, scan="backward")


@torch.no_grad()
def test_the_response_is_made_within_a_custom_operator_too():
    mixer = create_mixer("lmu", 6, (1, 53), num_heads=1, dtype=torch.float64)

    @torch.library.custom_op("spectral_backbones_tests::remember", mutates_args=())
    def remember(u: torch.Tensor) -> torch.Tensor:
        return mixer.remember(u).clone()

    u = torch.rand(2, 53, dtype=torch.float64)  # a length whose response nothing has made before
    torch.testing.assert_close(remember(u), recurrence(u, 6))
