"""Self-guided attention against its definition, and the groups of any number of tokens."""

import pytest
import torch

from spectral_backbones.backbones.mixers import SelfGuidedAttention
from spectral_backbones.backbones.mixers.self_guided import GroupMerging

# Fractions of the tokens where classes begin and end.
BOUNDS = {2: (0, 1 / 2, 1), 3: (0, 1 / 4, 3 / 4, 1)}


def keys_of(layer, tokens, scores):
    """The merged keys (K, C) of tokens (N, C), as lists: the tokens of each class, in groups that are all full."""
    order = sorted(range(len(tokens)), key=lambda i: float(scores[i]))
    bounds = [int(len(tokens) * share) for share in BOUNDS[len(layer.group_sizes)]]
    keys = []
    for first, last, size, merge in zip(bounds, bounds[1:], layer.group_sizes, layer.merge):
        members = tokens[order[first:last]]
        for group in members.split(size):
            keys.append((group * merge.weight[0, :, None]).sum(0) + merge.bias)
    return torch.stack(keys)


def formula(layer, x, significance):
    """For maps whose classes hold whole groups."""
    _, height, width, dim = x.shape
    out = []
    for image, scores in zip(x, significance):
        by_rows = keys_of(layer, image.flatten(0, 1), scores.flatten())
        by_cols = keys_of(layer, image.transpose(0, 1).flatten(0, 1), scores.T.flatten())
        pairs = [layer.kv1(by_rows).chunk(2, -1), layer.kv2(by_cols).chunk(2, -1)]
        k, v = (torch.cat(halves, -1).unflatten(-1, (layer.num_heads, -1)).transpose(0, 1) for halves in zip(*pairs))
        q = layer.q(image).flatten(0, 1).unflatten(-1, (layer.num_heads, -1)).transpose(0, 1)
        weights = (q @ k.mT * q.shape[-1] ** -0.5).softmax(-1)
        out.append((weights @ v).transpose(0, 1).reshape(height, width, dim))
    return layer.proj(torch.stack(out) + layer.lepe(x))


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("group_sizes", [(8, 4, 2), (2, 1)])
def test_values_and_gradients_follow_the_definition_where_groups_are_whole(group_sizes, ties):
    layer = SelfGuidedAttention(16, 4, group_sizes).double()
    x = torch.randn(2, 8, 4, 16, dtype=torch.float64, requires_grad=True)
    scores = torch.rand(2, 8, 4, dtype=torch.float64)
    if ties:  # rows and columns then differ
        scores = (scores * 3).round()
    actual, significance = layer(x, scores)
    assert significance is None
    expected = formula(layer, x, scores)
    torch.testing.assert_close(actual, expected)
    inputs = [x, *layer.parameters()]
    gradients = [torch.autograd.grad(output.square().sum(), inputs) for output in (actual, expected)]
    torch.testing.assert_close(*gradients)


def places(layer, num_tokens):
    """Which tokens of a sorted sequence each key of one row of tokens is merged from, a list for each class."""
    seen = []
    hooks = [merge.register_forward_hook(lambda module, args, out: seen.append(args[0][0, 0])) for merge in layer.merge]
    tokens = torch.arange(num_tokens, dtype=torch.float32).view(1, 1, -1, 1).expand(-1, -1, -1, 4)
    layer(tokens.contiguous(), tokens[..., 0])
    for hook in hooks:
        hook.remove()
    return [groups[..., 0].long() for groups in seen]


@pytest.mark.parametrize("group_sizes", [(8, 4, 2), (2, 1), (5, 3, 1)])
@pytest.mark.parametrize("num_tokens", [1, 2, 3, 4, 7, 31, 32, 33, 100])
def test_every_token_has_a_place_and_every_group_is_full(num_tokens, group_sizes):
    layer = SelfGuidedAttention(4, 2, group_sizes)
    classes = places(layer, num_tokens)
    assert torch.cat([groups.flatten() for groups in classes]).unique().tolist() == list(range(num_tokens))
    for groups, size in zip(classes, group_sizes):
        count = groups.unique().numel()
        assert groups.shape == (-(-count // size), size)
        assert (groups.flatten().diff() >= 0).all()  # in order
        taken = groups.flatten().unique(return_counts=True)[1]
        assert taken.numel() == 0 or taken.max() - taken.min() <= 1  # evenly


def test_the_least_significant_class_is_a_quarter_and_merged_most():
    low, middle, high = places(SelfGuidedAttention(4, 2, (8, 4, 2)), 32)
    assert (low.shape, middle.shape, high.shape) == ((1, 8), (4, 4), (4, 2))
    assert low.flatten().tolist() == list(range(8))
    assert high.flatten().tolist() == list(range(24, 32))


def test_a_group_is_merged_over_its_places_alike_for_all_channels():
    merge = GroupMerging(3)
    x = torch.randn(2, 5, 3, 4)
    expected = torch.nn.functional.linear(x.transpose(-1, -2), merge.weight, merge.bias)[..., 0]
    torch.testing.assert_close(merge(x), expected)


def test_an_image_keeps_to_its_own_order():
    layer = SelfGuidedAttention(16, 4, (8, 4, 2)).double()
    x, scores = torch.randn(3, 5, 7, 16, dtype=torch.float64), torch.rand(3, 5, 7)
    alone = torch.cat([layer(image[None], score[None])[0] for image, score in zip(x, scores)])
    torch.testing.assert_close(layer(x, scores)[0], alone)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_heads=3), "divisor of the 16 channels, got 3"),
        (dict(num_heads=1), "even.*2, 4, 8, 16, got 1"),
        (dict(group_sizes=(4,)), r"two or three.*got \(4,\)"),
        (dict(group_sizes=(4, 0)), r"at least 1 token, got \(4, 0\)"),
    ],
)
def test_arguments_that_cannot_work_are_refused_with_what_can(kwargs, message):
    with pytest.raises(ValueError, match=message):
        SelfGuidedAttention(16, **{"num_heads": 4, **kwargs})
