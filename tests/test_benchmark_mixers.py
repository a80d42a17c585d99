"""The transcriptions that mixers are measured against compute the same."""

import json

import pytest
import torch

from spectral_backbones.tools import benchmark_mixers


@pytest.mark.parametrize("name", benchmark_mixers.PLAIN)
@pytest.mark.parametrize("train", [False, True])
def test_a_mixer_and_its_transcription_agree_in_answer_and_gradients(name, train):
    (mixer, *runs), given = benchmark_mixers.pair(name, 14, 16, batch=2, num_heads=2)
    mixer.double().train(train and not getattr(mixer, "learns", None))  # or the first pass would move centroids
    given = [tensor.double() for tensor in given]
    answers, gradients = [], []
    for run in runs:
        x = given[0].clone().requires_grad_()
        y = run(x, *given[1:])
        y.square().sum().backward()
        answers.append(y.detach())
        gradients.append([x.grad, *(p.grad for p in mixer.parameters() if p.grad is not None)])
        mixer.zero_grad()
    torch.testing.assert_close(*answers, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)


def test_both_are_timed_in_inference_and_training(capsys):
    benchmark_mixers.main(["--mixers", "ponet", "--side", "7", "--dim", "8", "--seconds", "0.02", "--format", "json"])
    (row,) = json.loads(capsys.readouterr().out)
    assert row["mixer"] == "ponet" and row["side"] == 7
    assert all(row[f"{mode}_{key}"] > 0 for mode in ("infer", "train") for key in ("s", "plain_s", "ratio"))


def test_a_side_that_no_segment_divides_is_refused(capsys):
    with pytest.raises(SystemExit):
        benchmark_mixers.main(["--side", "15"])
    assert "side is 15, it has to be a multiple of 7" in capsys.readouterr().err
