"""Each method as an option of the runner, in real runs."""

import re

import pytest
import torch

from spectral_backbones.engine import UserError
from spectral_backbones.methods import eight_bit

from ..classification_fixtures import load_tool, make_folder, run_forked, run_here, small_config

EIGHT_BITS = {"EightBitActivationsHook": {}}
OTHERS = {
    "GradCheckpointingHook": {},
    "DropHeadsHook": dict(rate=0.3, per_image=True),
    "SubsampleKeysHook": dict(keys=4, draws=2),
    "ReduceTokensHook": dict(way="merge", count=4),
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    data = make_folder(tmp_path_factory.mktemp("pictures"), per_class=8)
    return small_config(tmp_path_factory.mktemp("config"), data, max_epochs=2)


def options(hook, **arguments):
    return [f"default_hooks.{hook}.{key}={value}" for key, value in {"type": hook, **arguments}.items()]


def train(config, folder, hooks):
    """The runner of a whole run, and all of its weights in a row."""
    chosen = [option for hook, arguments in hooks.items() for option in options(hook, **arguments)]
    more = ["--cfg-options", *chosen] if chosen else []
    runner = load_tool("train.py").main([str(config), "--work-dir", str(folder), *more])
    return runner, torch.cat([value.flatten().double() for value in runner.model.state_dict().values()])


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    return folder / "epoch_2.pth", train(config, folder, {})[1]


def test_runs_train_with_them_and_their_models_are_plain_afterwards(config, plain, tmp_path, monkeypatch):
    monkeypatch.setattr(eight_bit, "LEAST_VALUES", 256)  # of this small model
    for name, hooks, most in (("eight", EIGHT_BITS, 0.02), ("all", {**EIGHT_BITS, **OTHERS}, 0.5)):
        runner, weights = train(config, tmp_path / name, hooks)
        assert (tmp_path / name / "epoch_2.pth").exists()
        assert 0 < float((weights - plain[1]).norm() / plain[1].norm()) < most
        assert not runner.model.model.grad_checkpointing
        for module in runner.model.modules():
            assert not module._forward_pre_hooks and not module._forward_hooks and "forward" not in vars(module)


def test_a_test_run_takes_the_option_too(config, plain, tmp_path):
    evaluate = [config, plain[0], "--work-dir", tmp_path, "--cfg-options"]
    losses = [
        re.search(r"loss: (\S+)", run_here("test.py", *evaluate, *chosen))[1]
        for chosen in (["randomness.seed=0"], options("ReduceTokensHook", way="uniform", count=6))
    ]
    assert losses[0] != losses[1]
    with pytest.raises(UserError, match="has no class token"):
        run_here("test.py", *evaluate, *options("ReduceTokensHook", way="class_attention", count=2))


@pytest.mark.parametrize(
    "hook, arguments, more, message",
    [
        ("EightBitActivationsHook", {}, ["compile=True"], "activations in eight bits do not go with compile"),
        ("EightBitActivationsHook", {}, ["fsdp=True"], "activations in eight bits do not go with fsdp"),
        ("DropHeadsHook", dict(rate=1.0), [], "below 1, got 1.0"),
        ("SubsampleKeysHook", dict(keys=0), [], "from 1 up, got 0"),
        ("SubsampleKeysHook", dict(kees=4), [], "kees"),
        ("ReduceTokensHook", dict(way="best", count=4), [], "must be one of merge"),
        ("ReduceTokensHook", dict(way="merge", count=4), ["model.kwargs.mixers=spectral"], "plain attention"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(config, tmp_path, hook, arguments, more, message):
    with pytest.raises(UserError, match=message) as raised:
        run_here("train.py", config, "--work-dir", tmp_path, "--cfg-options", *options(hook, **arguments), *more)
    assert "\n" not in str(raised.value)


def test_two_processes_train_with_eight_bits_and_mixed_precision(config, tmp_path):
    arguments = ["--amp", "--work-dir", tmp_path, "--cfg-options", *options("EightBitActivationsHook")]
    done = run_forked("train.py", config, *arguments, processes=2)
    assert done.returncode == 0, done.stdout
    assert (tmp_path / "epoch_2.pth").exists() and "nan" not in done.stdout
