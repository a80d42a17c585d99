"""Routing attention: who is taken, what the others get, and how centroids learn."""

import pytest
import torch
import torch.nn.functional as F

from spectral_backbones.backbones.mixers import create_mixer

GRID = (5, 7)


def made(**options):
    torch.manual_seed(0)
    mixer = create_mixer("routing", 8, GRID, num_heads=2, clusters=4, dtype=torch.float64, **options).eval()
    return mixer, torch.randn(2, *GRID, 8, dtype=torch.float64)


def transcribed(mixer, x):
    """The function token by token."""
    q, k, v = mixer.tokens(x)
    length = -(-q.shape[2] // mixer.clusters)
    out = torch.zeros_like(q)
    for b in range(len(x)):
        for head in range(mixer.num_heads):
            answers = [[] for _ in range(q.shape[2])]
            scores = [F.normalize(t[b, head], dim=-1) @ mixer.centroids[head].T for t in (q, k)]
            taken = [score.T.topk(length)[1].tolist() for score in scores]

            def ask(n, cluster, b=b, head=head, taken=taken):
                members = taken[1][cluster]
                logits = k[b, head, members] @ q[b, head, n] / 2
                if mixer.shared_qk:
                    logits = logits + torch.tensor([-5e4 if m == n else 0.0 for m in members])
                return logits.softmax(0) @ v[b, head, members]

            for cluster in range(mixer.clusters):
                for n in taken[0][cluster]:
                    answers[n].append(ask(n, cluster))
            for n, found in enumerate(answers):
                if found:
                    out[b, head, n] = torch.stack(found).sum(0) / (len(found) + 1e-5)
                elif mixer.untaken == "nearest":
                    out[b, head, n] = ask(n, scores[0][n].argmax().item())
    return mixer.proj(out.transpose(1, 2).reshape(x.shape))


@pytest.mark.parametrize("shared_qk", [False, True])
@pytest.mark.parametrize("untaken", ["nearest", "zero"])
@torch.no_grad()
def test_taken_tokens_attend_within_clusters_and_untaken_ones_ask_the_nearest(shared_qk, untaken):
    mixer, x = made(shared_qk=shared_qk, untaken=untaken)
    torch.testing.assert_close(mixer(x), transcribed(mixer, x))


@torch.no_grad()
def test_untaken_tokens_that_all_are_near_one_centroid_are_answered():
    mixer, x = made()
    mixer.qkv.weight[:8].copy_(0.01 * mixer.qkv.weight[:8])
    x = x + 3.0  # all queries point the same way
    torch.testing.assert_close(mixer(x), transcribed(mixer, x))


def test_centroids_are_found_in_the_first_step_and_move_in_every_other_but_not_in_evaluation():
    mixer, x = made()
    first = mixer.centroids.clone()
    mixer(x).sum().backward()
    assert torch.equal(mixer.centroids, first) and not mixer.is_found
    mixer.train()
    mixer(x)  # a pass without a backward is no step
    assert torch.equal(mixer.centroids, first)
    mixer(x).sum().backward()
    found = mixer.centroids.clone()
    assert mixer.is_found and not torch.equal(found, first)
    mixer(x).sum().backward()
    assert 0 < (mixer.centroids - found).abs().max() < 0.002


def test_a_checkpoint_that_computes_twice_makes_one_step():
    results = []
    for checkpointing in (False, True):
        mixer, x = made()
        mixer.is_found.fill_(True)
        mixer.train()
        if checkpointing:
            torch.utils.checkpoint.checkpoint(mixer, x, use_reentrant=False).sum().backward()
        else:
            mixer(x).sum().backward()
        results.append(mixer.centroids)
    torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("options", "message"), [(dict(untaken="other"), "untaken must"), (dict(clusters=0), "least 1")]
)
def test_options_that_cannot_work_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        create_mixer("routing", 8, GRID, num_heads=2, **options)
