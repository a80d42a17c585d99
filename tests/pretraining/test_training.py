"""Runs without labels, from `spectral train` to the classifier that begins from them."""

import pytest
import torch
from PIL import Image
from torch.utils.data import default_collate

from spectral_backbones.engine import UserError
from spectral_backbones.methods.lars import LARS
from spectral_backbones.pretraining import FrameFolder, TwoViews, VICReg

from ..classification_fixtures import load_tool, make_folder, picture, run_forked, run_here
from . import make_frames, make_pictures, small_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("labelled"), per_class=8)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data, labelled):
    """A run that nothing disturbed, validated by neighbours: config, work directory, output."""
    folder = tmp_path_factory.mktemp("finished")
    config = small_config(folder, data, labelled)
    return config, folder / "run", run_here("train.py", config, "--work-dir", folder / "run")


def load(path):
    return torch.load(path, weights_only=True)


def scalars(checkpoint, name="loss"):
    return checkpoint["message_hub"]["log_scalars"][f"train/{name}"][0].tolist()


def probe(labelled, folder, *options):
    small = ["--cfg-options", "train_dataloader.num_workers=0", "val_dataloader.num_workers=0"]
    arguments = ["classification/folder", "--data-root", labelled, "--work-dir", folder, "--batch-size", 8, *options]
    module = load_tool("train.py")
    return module.main([str(argument) for argument in [*arguments, *small]])


def test_a_run_says_what_it_found_and_leaves_what_it_promises(finished):
    _, work_dir, output = finished
    assert "training spectformer_ti for 2 epochs: 24 images, 3 batches of 8" in output
    assert (
        "images without labels: " in output and "24 in 4 folders" in output and "1 file passed over: 1 .txt" in output
    )
    assert "nearest neighbours: 24 images by 24 whose classes are known" in output
    assert "best nearest neighbours " in output
    best, last = load(work_dir / "best.pth"), load(work_dir / "epoch_2.pth")
    assert best["predictor"]["task"] == "pretraining" and "classes" not in best["predictor"]
    assert "classes" not in best["meta"]["dataset_meta"]
    for name in ("invariance", "variance", "covariance", "std"):
        assert len(scalars(last, name)) == 6 and min(scalars(last, name)) >= 0
    sums = zip(*(scalars(last, name) for name in ("invariance", "variance", "covariance")), strict=True)
    assert scalars(last) == pytest.approx([25 * one + 25 * two + three for one, two, three in sums], rel=1e-5)
    assert min(Image.open(work_dir / "curve.png").size) > 300
    assert not any(key.startswith("expander") for key in best["state_dict_ema"])  # what timm's loaders take


def test_the_rate_is_the_authors_and_the_optimiser_too(data, tmp_path):
    config = small_config(tmp_path, data, epochs=3)
    runner = load_tool("train.py").main([str(config), "--work-dir", str(tmp_path / "run")])
    assert type(runner.optim_wrapper.optimizer) is LARS
    peak = 0.3 * 8 / 256  # in proportion to the batch
    cosine = [0.5 * (1 + torch.cos(torch.tensor(torch.pi * step / 6))).item() for step in range(6)]
    expected = [0.0, peak / 3, peak * 2 / 3, *(peak * (share + 1e-3 * (1 - share)) for share in cosine)]
    assert scalars(load(tmp_path / "run" / "epoch_3.pth"), "lr") == pytest.approx(expected, rel=1e-6)
    assert not any((tmp_path / "run").glob("best*")) and (tmp_path / "run" / "curve.png").is_file()


def test_a_resumed_run_ends_as_if_nothing_had_happened(finished, tmp_path):
    config, work_dir, _ = finished
    (tmp_path / "epoch_1.pth").write_bytes((work_dir / "epoch_1.pth").read_bytes())
    output = run_here("train.py", config, "--work-dir", tmp_path, "--resume")
    assert "from epoch 2" in output
    whole, resumed = load(work_dir / "epoch_2.pth"), load(tmp_path / "epoch_2.pth")
    assert scalars(whole) == scalars(resumed) and scalars(whole, "lr") == scalars(resumed, "lr")
    for key, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][key]), key


def test_amp_trains_and_keeps_the_loss_in_single_precision(finished, tmp_path):
    config, work_dir, _ = finished
    run_here("train.py", config, "--work-dir", tmp_path, "--amp")
    plain, half = (scalars(load(folder / "epoch_2.pth")) for folder in (work_dir, tmp_path))
    assert plain != half and plain == pytest.approx(half, rel=0.05)


def test_a_probe_trains_the_classifier_alone_and_fine_tuning_all(finished, labelled, tmp_path):
    weights = finished[1] / "best.pth"
    learnt = load(weights)["state_dict_ema"]
    for option, moves in ((["--probe", "--lr", "0.03"], False), ([], True)):
        folder = tmp_path / f"{moves}"
        runner = probe(labelled, folder, "--weights", weights, "--epochs", "3", *option)
        own = runner.model.model.state_dict()
        changed = [key for key in learnt if not torch.equal(learnt[key], own[key])]
        assert bool(changed) == moves and len(own["head.weight"]) == 3
        assert runner.cfg.model.img_size == 16 and runner.cfg.val_dataloader.dataset.transform.input_size[1] == 16
        if not moves:  # colour tells the classes: neighbours find them, and so does a classifier
            assert runner.message_hub.runtime_info["best_score"] > 90
            pictures = tmp_path / "red.png"
            picture(0, 99).save(pictures)
            told = run_here("predict.py", folder / "best.pth", pictures, "--out-dir", tmp_path / "out")
            assert "blue" in told and "red" in told


def test_a_probe_of_random_features_needs_no_weights(labelled, tmp_path, capsys):
    model = ["--model", "resnet10t", "--size", "32", "--epochs", "2"]
    runner = probe(labelled, tmp_path, "--probe", *model)
    assert "the classifier alone learns" in capsys.readouterr().out
    learning = [name for name, one in runner.model.named_parameters() if one.requires_grad]
    assert learning == ["model.fc.weight", "model.fc.bias"]
    assert runner.model.model.bn1.num_batches_tracked == 0  # its statistics stay too


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "vit_tiny_patch16_224"])
def test_any_timm_model_learns_and_is_probed(name, data, labelled, tmp_path):
    config = small_config(tmp_path, data)
    told = run_here("train.py", config, "--work-dir", tmp_path / "run", "--model", name, "--size", 32)
    assert f"training {name} for 2 epochs" in told
    weights = tmp_path / "run" / "epoch_2.pth"
    runner = probe(labelled, tmp_path / "probe", "--weights", weights, "--probe", "--epochs", 2, "--size", 32)
    own = runner.model.model.state_dict()
    assert all(torch.equal(value, own[key]) for key, value in load(weights)["state_dict_ema"].items())


@pytest.mark.slow
def test_two_processes_have_the_losses_and_the_weights_of_one(finished, tmp_path):
    """Half the batch in each: statistics of the loss and of the expander's norms are those of both."""
    config, work_dir, _ = finished
    options = ["--cfg-options", "train_dataloader.batch_size=4"]
    result = run_forked("train.py", config, "--work-dir", tmp_path, *options, processes=2)
    assert result.returncode == 0, result.stdout
    assert "3 batches of 4 in each of 2 processes" in result.stdout and "batch norm" not in result.stdout
    one, two = load(work_dir / "epoch_2.pth"), load(tmp_path / "epoch_2.pth")
    for name in ("loss", "invariance", "variance", "covariance"):
        assert scalars(one, name) == pytest.approx(scalars(two, name), rel=1e-4), name
    for key, value in one["state_dict"].items():
        assert torch.allclose(value, two["state_dict"][key], rtol=1e-3, atol=1e-5), key
    knn = [checkpoint["message_hub"]["log_scalars"]["val/knn"][0].tolist() for checkpoint in (one, two)]
    assert knn[0] == knn[1]


# Frames


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return make_frames(tmp_path_factory.mktemp("frames"))


def frames_config(folder, frames, epochs=2, **dataset):
    loader = dict(batch_size=8, num_workers=0, dataset=dict(type="FrameFolder", root=str(frames), **dataset))
    model = dict(
        name="spectformer_ti",
        img_size=16,
        kwargs=dict(patch_size=4, embed_dim=16, depth=2, num_heads=2, mixers="spectral:1, attention"),
        expander=(32, 24),
        frame_order=1.0,
    )
    return small_config(folder, frames, epochs=epochs, train_dataloader=loader, model=model)


def test_the_order_of_frames_is_a_second_loss(frames, tmp_path):
    output = run_here("train.py", frames_config(tmp_path, frames), "--work-dir", tmp_path / "run")
    # Of 12 frames the first three and the last three have one neighbour only.
    assert "12 frames with neighbours in 2 sequences" in output
    last = load(tmp_path / "run" / "epoch_2.pth")
    parts = zip(*(scalars(last, name) for name in ("invariance", "variance", "covariance", "order")), strict=True)
    expected = [25 * one + 25 * two + three + order for one, two, three, order in parts]
    assert scalars(last) == pytest.approx(expected, rel=1e-5)
    assert last["state_dict"]["order.head.weight"].shape == (1, 48)
    assert "order.head.weight" not in last["state_dict_ema"]


def test_the_order_can_be_learnt_and_the_embeddings_do_not_collapse(frames):
    """Frames grow brighter, which tells their order; a constant guess costs 0.45."""
    still = dict(scale=(1.0, 1.0), hflip=0.0, jitter_prob=0.0, grey_prob=0.0, blur_prob=(0.0, 0.0))
    data = FrameFolder(str(frames), TwoViews((3, 16, 16), (0.5,) * 3, (0.5,) * 3, solarize_prob=(0.0, 0.0), **still))
    batch = default_collate([data[place] for place in range(len(data))] * 2)["inputs"]
    torch.manual_seed(0)
    kwargs = dict(patch_size=4, embed_dim=32, depth=2, num_heads=2, mixers="spectral:1, attention")
    model = VICReg("spectformer_ti", img_size=16, kwargs=kwargs, expander=(16, 16), frame_order=25.0)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(40):
        losses = model(batch, mode="loss")
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert losses["order"] < 0.2 and losses["std"] > 0.8


def test_the_order_of_pictures_that_are_no_frames_is_refused(data, frames, labelled, tmp_path):
    config = small_config(tmp_path, data, model=dict(frame_order=1.0))
    with pytest.raises(UserError, match="pictures in no order"):
        run_here("train.py", config, "--work-dir", tmp_path / "run")
    with pytest.raises(UserError, match="has no frames"):
        run_here("train.py", frames_config(tmp_path, data), "--work-dir", tmp_path / "run")
    with pytest.raises(UserError, match="needs 15 of them"):
        run_here("train.py", frames_config(tmp_path, frames, gap=7), "--work-dir", tmp_path / "run")
    assert not list(tmp_path.glob("run/*.pth"))


# What does not fit

NO_VIEWS = "dict(_delete_=True, type='TimmTransform', input_size=(3, 16, 16))"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cfg-options", "model.in_chans=5"], "1 channel or 3"),
        (["--cfg-options", "train_dataloader.batch_size=1"], "a batch of one picture"),
        (["--batch-size", "100"], "24 training images make no batch of 100"),
        (["--epochs", "1"], "must end before the run"),
        (["--model", "no_such_model"], "no_such_model"),
        (["--data-root", "/no/where"], "does not exist"),
        (["--probe"], "trains a classifier"),
        (["--weights", "/no/file.pth"], "does not exist"),
        (["--cfg-options", "model.frame_order=-1"], "from 0 up"),
        (["--cfg-options", f"train_dataloader.dataset.transform={NO_VIEWS}"], "one picture and not two"),
        (["--cfg-options", "val_dataloader=dict(dataset=dict(type='Digits'))"], "sought in a bank"),
        (["--cfg-options", "train_dataloader.dataset.transform.blur_prob=0.5"], "two numbers"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(data, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run_here("train.py", small_config(tmp_path, data), "--work-dir", tmp_path / "run", *options)


def test_a_folder_without_pictures_and_a_file_in_its_place_are_refused(data, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "a.txt").write_text("none")
    for root, message in ((tmp_path / "empty", "1 file passed over: 1 .txt"), (data / "notes.txt", "is no folder")):
        with pytest.raises(UserError, match=message):
            run_here("train.py", small_config(tmp_path, root), "--work-dir", tmp_path / "run")


def test_weights_say_their_model_and_another_is_refused(finished, labelled, tmp_path):
    weights = finished[1] / "best.pth"
    with pytest.raises(UserError, match="not of --model resnet10t"):
        probe(labelled, tmp_path, "--weights", weights, "--model", "resnet10t")
    with pytest.raises(UserError, match="learnt without labels, and no classes"):
        run_here("predict.py", weights, labelled)


def test_a_test_run_tells_the_neighbours_accuracy(finished, tmp_path):
    config, work_dir, _ = finished
    told = run_here("test.py", config, work_dir / "best.pth", "--work-dir", tmp_path)
    best = load(work_dir / "best.pth")["message_hub"]["runtime_info"]["best_score"]
    assert f"knn: {best:.4f}" in told
    with pytest.raises(UserError, match="nothing to evaluate on"):
        run_here("test.py", small_config(tmp_path, work_dir), work_dir / "best.pth")
