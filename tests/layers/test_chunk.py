"""Inference by a few images at a time: the same result from less memory, and only where nobody can tell."""

import pytest
import torch
from torch import nn

from spectral_backbones.backbones.layers import chunk
from spectral_backbones.backbones.layers.chunk import by_images, hidden_width

TOKENS, DIM, WIDTH = 6, 4, 32
BYTES_PER_IMAGE = TOKENS * WIDTH * 4


class Wide(nn.Module):
    """Two linear layers with a wide tensor between them, whose sizes are recorded."""

    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(DIM, WIDTH)
        self.fc2 = nn.Linear(WIDTH, DIM)
        self.widest = []  # values in the wide tensor, for each call

    def whole(self, x):
        x = self.fc1(x)
        self.widest.append(x.numel())
        return self.fc2(x.relu())

    def forward(self, x):
        return by_images(self, self.whole, x, hidden_width(self))


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setattr(chunk, "CHUNK_BYTES", 3 * BYTES_PER_IMAGE)
    return Wide().eval()


def images_of_each_call(wide, x, forward=None):
    wide.widest.clear()
    forward(x) if forward is not None else wide(x)
    return [size // (TOKENS * WIDTH) for size in wide.widest]


@torch.no_grad()
@pytest.mark.parametrize("batch", [0, 1, 2, 3, 4, 7, 9])
def test_the_result_is_that_of_the_whole_batch(wide, batch):
    x = torch.randn(batch, TOKENS, DIM)
    torch.testing.assert_close(wide(x), wide.whole(x))


@torch.no_grad()
def test_what_else_belongs_to_each_image_goes_with_it(wide):
    x, other = torch.randn(7, TOKENS, DIM), torch.randn(7, 1, 1)

    def shifted(part, shift, nothing):
        assert nothing is None
        return wide.whole(part) + shift

    expected = wide.whole(x) + other
    torch.testing.assert_close(by_images(wide, shifted, x, hidden_width(wide), other, None), expected)


@torch.no_grad()
def test_the_widest_tensor_stays_within_the_limit(wide):
    assert images_of_each_call(wide, torch.randn(8, TOKENS, DIM)) == [3, 3, 2]
    assert 4 * max(wide.widest) <= chunk.CHUNK_BYTES


@torch.no_grad()
def test_half_precision_takes_twice_the_images(wide):
    assert images_of_each_call(wide.bfloat16(), torch.randn(8, TOKENS, DIM).bfloat16()) == [4, 4]


@torch.no_grad()
def test_an_image_above_the_limit_goes_alone(wide, monkeypatch):
    monkeypatch.setattr(chunk, "CHUNK_BYTES", 1)
    assert images_of_each_call(wide, torch.randn(3, TOKENS, DIM)) == [1, 1, 1]


@torch.no_grad()
def test_a_batch_within_the_limit_is_not_split_nor_copied(wide):
    x = torch.randn(3, TOKENS, DIM)
    assert images_of_each_call(wide, x) == [3]
    assert by_images(wide, lambda x: x, x, WIDTH) is x


@torch.no_grad()
def test_maps_are_split_along_the_batch(wide):
    x = torch.randn(7, 2, 3, DIM)
    torch.testing.assert_close(wide(x), wide.whole(x))
    assert images_of_each_call(wide, x) == [3, 2, 2]  # as even as can be


def test_nothing_is_split_in_training(wide):
    x = torch.randn(8, TOKENS, DIM)
    assert images_of_each_call(wide.train(), x) == [8]
    with torch.no_grad():
        assert images_of_each_call(wide, x) == [8]


def test_nothing_is_split_where_gradients_are_wanted(wide):
    assert images_of_each_call(wide, torch.randn(8, TOKENS, DIM)) == [8]


def test_inference_mode_splits_too(wide):
    with torch.inference_mode():
        assert images_of_each_call(wide, torch.randn(8, TOKENS, DIM)) == [3, 3, 2]


@torch.no_grad()
@pytest.mark.parametrize("inner", [False, True], ids=["on the module", "inside it"])
@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_hook_sees_whole_batches(wide, kind, inner):
    shapes = []
    hook = getattr(wide.fc1 if inner else wide, kind)(lambda module, args, *output: shapes.append(args[0].shape))
    x = torch.randn(8, TOKENS, DIM)
    assert images_of_each_call(wide, x) == [8]
    assert shapes == [x.shape]
    hook.remove()
    assert images_of_each_call(wide, x) == [3, 3, 2]


@torch.no_grad()
def test_export_keeps_the_batch_dynamic(wide):
    example = torch.randn(8, TOKENS, DIM)
    program = torch.export.export(wide, (example,), dynamic_shapes={"x": {0: torch.export.Dim("batch")}})
    assert "split" not in str(program.graph)
    x = torch.randn(5, TOKENS, DIM)
    torch.testing.assert_close(program.module()(x), wide.whole(x))


@torch.no_grad()
def test_compilation_sees_whole_batches(wide):
    torch.compiler.reset()
    x = torch.randn(8, TOKENS, DIM)
    assert images_of_each_call(wide, x, torch.compile(wide, fullgraph=True, backend="eager")) == [8]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*is deprecated")
@torch.no_grad()
def test_a_trace_works_on_any_batch(wide):
    traced = torch.jit.trace(wide, (torch.randn(8, TOKENS, DIM),))
    x = torch.randn(5, TOKENS, DIM)
    torch.testing.assert_close(traced(x), wide.whole(x))


@torch.no_grad()
def test_other_devices_are_left_alone(wide):
    assert images_of_each_call(wide.to("meta"), torch.randn(8, TOKENS, DIM, device="meta")) == [8]


def test_hidden_width_is_that_of_the_widest_linear_layer():
    assert hidden_width(nn.Sequential(nn.Linear(2, 5), nn.Sequential(nn.Linear(5, 9), nn.Linear(9, 3)))) == 9
    assert hidden_width(nn.Identity()) == 0
