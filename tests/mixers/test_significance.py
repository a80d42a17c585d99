"""Attention that also says how much of it each key receives, and the order of scores."""

import pytest
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.mixers import significance
from spectral_backbones.backbones.mixers.significance import ReceivedAttention, received_attention, spread, stable_order


def attend(*args, attn_drop=0.0, **kwargs):
    return ReceivedAttention(attn_drop)(*args, **kwargs)


def operands(batch=3, heads=2, queries=10, keys=6, dtype=torch.float64):
    shapes = [(batch, heads, length, 4) for length in (queries, keys, keys)]
    return [torch.randn(shape, dtype=dtype, requires_grad=True) for shape in shapes]


def some_inside():
    """The first image has all ten tokens, the others seven and one."""
    return torch.arange(10) < torch.tensor([10, 7, 1])[:, None]


def formula(q, k, v, inside=None):
    """Image by image, with the tokens that exist alone."""
    outputs, received = torch.zeros_like(q), torch.zeros(k.shape[0], k.shape[2], dtype=k.dtype)
    for i in range(q.shape[0]):
        asking = slice(None) if inside is None else inside[i]
        asked = slice(None) if inside is None else inside[i]
        weights = (q[i][:, asking] @ k[i][:, asked].mT / 2).softmax(-1)
        outputs[i][:, asking] = weights @ v[i][:, asked]
        received[i][asked] = weights.detach().sum(1).mean(0)
    return outputs, received


@pytest.mark.parametrize("keeps_weights", [True, False])
@pytest.mark.parametrize("padded", [True, False])
def test_outputs_sums_and_gradients_follow_the_formula(padded, keeps_weights, monkeypatch):
    monkeypatch.setattr(ReceivedAttention, "_keeps_weights", lambda *_: keeps_weights)
    q, k, v = operands(keys=10)
    inside = some_inside() if padded else None
    (out, received), (expected_out, expected_received) = attend(q, k, v, inside), formula(q, k, v, inside)
    if padded:
        out = out * inside[:, None, :, None]  # what the others get is cut off
    torch.testing.assert_close(out, expected_out)
    torch.testing.assert_close(received, expected_received)
    assert not received.requires_grad
    gradients = [torch.autograd.grad(output.square().sum(), (q, k, v)) for output in (out, expected_out)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("max_bytes", [1, 2 * 6 * 8 * 3, 10**6])
def test_sums_do_not_depend_on_how_many_queries_are_taken_at_a_time(max_bytes):
    q, k, v = operands()
    torch.testing.assert_close(received_attention(q, k, max_bytes=max_bytes), formula(q, k, v)[1])
    q, k, v = operands(keys=10)
    expected = formula(q, k, v, some_inside())[1]
    torch.testing.assert_close(received_attention(q, k, some_inside(), max_bytes), expected)


def test_large_weights_are_not_stored_for_the_backward_pass(monkeypatch):
    q, k, v = operands(queries=64, keys=32, dtype=torch.float32)

    def stored():
        shapes = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: shapes.append(t.shape) or t, lambda t: t):
            attend(q, k, v)
        return (3, 2, 64, 32) in [tuple(shape) for shape in shapes]

    assert stored()
    monkeypatch.setattr(significance, "CHUNK_BYTES", 2 * 64 * 32 * 4 - 1)
    assert not stored()


def test_weights_of_any_size_are_stored_where_that_is_asked_for(monkeypatch):
    q, k, v = operands()
    expected = attend(q, k, v)
    monkeypatch.setattr(significance, "CHUNK_BYTES", 1)
    monkeypatch.setattr(significance, "received_attention", None)  # is not called
    torch.testing.assert_close(attend(q, k, v, store_weights=True), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_float32_in_half_precision_and_under_autocast(dtype):
    q, k, v = operands(dtype=torch.float32)
    with torch.autocast("cpu", dtype):
        received = attend(q, k, v)[1]
    assert received.dtype == torch.float32
    torch.testing.assert_close(received, attend(q, k, v)[1])
    q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
    received = attend(q, k, v)[1]
    assert received.dtype == torch.float32
    torch.testing.assert_close(received, attend(q.float(), k.float(), v.float())[1])


def test_dropout_reaches_the_output_alone():
    q, k, v = operands()
    out, received = attend(q, k, v, attn_drop=0.5)
    assert not torch.allclose(out, attend(q, k, v)[0])
    torch.testing.assert_close(received, attend(q, k, v)[1])


def test_a_coarse_map_is_spread_by_nearest_neighbours_and_cut():
    x = torch.randn(2, 3, 4)
    expected = F.interpolate(x[:, None], (12, 16), mode="nearest")[:, 0]
    assert torch.equal(spread(x, 4, 12, 16), expected)
    assert torch.equal(spread(x, 4, 9, 14), expected[:, :9, :14])


class Order(torch.nn.Module):
    def forward(self, scores):
        return stable_order(scores)


def with_ties(dtype=torch.float32):
    return torch.randint(1, 5, (2, 300)).to(dtype) / 7


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_scores_keep_their_order(dtype):
    scores = with_ties(dtype)
    expected = [sorted(range(300), key=lambda i: float(row[i])) for row in scores]
    assert stable_order(scores).tolist() == expected
    assert torch.jit.script(Order())(scores).tolist() == expected
    program = torch.export.export(Order(), (scores,))
    assert program.module()(scores).tolist() == expected


def test_export_tells_neighbouring_floats_apart():
    """It breaks ties by digits that float32 does not have, of which neighbours must keep clear."""
    scores = torch.full((1, 3), 0.02)
    scores[0, 0] = torch.nextafter(scores[0, 0], torch.tensor(1.0))
    scores = torch.cat([scores, scores.new_full((1, 100_000), 0.02)], dim=1)
    program = torch.export.export(Order(), (scores,))
    assert program.module()(scores)[0, -1] == 0


@pytest.mark.slow
def test_equal_scores_keep_their_order_in_onnx(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    path, scores = str(tmp_path / "order.onnx"), with_ties()
    torch.onnx.export(Order().eval(), (scores,), path, dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (order,) = session.run(None, {session.get_inputs()[0].name: scores.numpy()})
    assert order.tolist() == stable_order(scores).tolist()
