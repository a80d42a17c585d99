"""Whole runs on volumes: what a user trains, evaluates, predicts and counts by the commands of all tasks."""

import re

import nibabel
import numpy as np
import pytest
import torch
from mmengine.registry import DATASETS, MODELS
from PIL import Image

from spectral_backbones.engine.config import load
from spectral_backbones.engine.errors import UserError
from spectral_backbones.engine.library import list_configs
from spectral_backbones.tools.tasks import complete, task_of
from spectral_backbones.volumes import create_model
from spectral_backbones.volumes.config import mirror_test
from spectral_backbones.volumes.digits import Recipe, make_digits
from spectral_backbones.volumes.nnformer import VARIANTS

from ..classification_fixtures import ROOT, run_here
from .fixtures import AFFINE, CONFIG, make_acdc, make_decathlon, make_synapse, save, scan, small_config


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "digits"
    make_digits(folder, Recipe(train=4, val=2, digits=4))
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data):
    """A run that nothing disturbed: config, work directory, output."""
    folder = tmp_path_factory.mktemp("finished")
    config = small_config(folder, data)
    return config, folder / "run", run_here("train.py", config, "--work-dir", folder / "run")


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def test_a_run_prints_figures_and_draws_slices(finished):
    _, run, output = finished
    line = next(line for line in output.splitlines() if line.startswith("iteration 4/4"))
    assert "Dice" in line and "HD95" in line and "mm" in line and "found or annotated alone" in line
    assert Image.open(run / "slices.png").width > 500 and (run / "curve.png").is_file()
    assert {path.name for path in run.glob("*.pth")} >= {"iteration_4.pth", "best.pth"}


def test_a_resumed_run_arrives_at_the_same_weights(finished, tmp_path, data):
    config, run, _ = finished
    half = tmp_path / "half"
    half.mkdir()
    (half / "iteration_3.pth").write_bytes((run / "iteration_3.pth").read_bytes())
    run_here("train.py", config, "--work-dir", half, "--resume")
    whole, resumed = weights(run / "iteration_4.pth"), weights(half / "iteration_4.pth")
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_mixed_precision_trains(finished, tmp_path):
    config = finished[0]
    options = ["--cfg-options", "train_cfg.max_iters=2"]
    run_here("train.py", config, "--work-dir", tmp_path, "--amp", *options)
    saved = weights(tmp_path / "iteration_2.pth")
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in saved.values())


def test_a_test_prints_the_figures_of_each_class(finished, tmp_path):
    config, run, _ = finished
    output = run_here("test.py", config, run / "iteration_4.pth", "--work-dir", tmp_path)
    assert "Dice:" in output and "HD95/3:" in output and "empty:" in output
    assert (tmp_path / "slices.png").is_file()


def test_mirror_images_are_averaged_along_the_axes_that_training_mirrors(finished, tmp_path):
    config, run, _ = finished
    checkpoint = run / "iteration_4.pth"
    averaged = run_here("test.py", config, checkpoint, "--work-dir", tmp_path, "--tta")
    cfg = mirror_test(load(str(config)))
    assert cfg.model.mirror_axes == (2,)
    segmenter = MODELS.build(complete(cfg).model)
    segmenter.load_state_dict(weights(checkpoint))
    segmenter.eval()
    inputs = torch.randn(1, 1, *segmenter.crop_size)
    with torch.no_grad():
        mirrored = segmenter.network(inputs.flip(4)).softmax(1).flip(4)
        expected = (segmenter.network(inputs).softmax(1) + mirrored).argmax(1)
        assert torch.equal(segmenter.segment(inputs), expected.to(torch.uint8))
    plain = run_here("test.py", config, checkpoint, "--work-dir", tmp_path)
    own = run_here("test.py", config, checkpoint, "--work-dir", tmp_path, "--cfg-options", "model.mirror_axes=(2,)")
    assert figures(averaged) == figures(own) != figures(plain)


def figures(output):
    return [line for line in output.splitlines() if line.startswith(("Dice", "HD95"))]


def test_axes_that_training_does_not_mirror_are_not_mirrored(tmp_path):
    cfg = load("volumes/nnformer/nnformer_synapse")
    with pytest.raises(UserError, match=r"mirrors no axis.*leave out --tta, or name the axes by model.mirror_axes"):
        mirror_test(cfg)
    cfg.model.mirror_axes = [0, 0]
    with pytest.raises(ValueError, match="allowed are 0, 1 and 2, each once"):
        MODELS.build({**mirror_test(cfg).model, "out_channels": 2})


@pytest.mark.parametrize("size", [(40, 33, 21), (9, 7, 5)], ids=["larger", "smaller"])
def test_predictions_are_nifti_files_with_the_inputs_affine_and_a_picture(finished, tmp_path, size):
    _, run, _ = finished
    save(tmp_path / "in" / "scan.nii.gz", scan(size))
    output = run_here("predict.py", run / "iteration_4.pth", tmp_path / "in", "--out-dir", tmp_path / "out")
    written = nibabel.load(tmp_path / "out" / "000_scan.nii.gz")
    assert written.shape == size and written.get_data_dtype() == np.uint8
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
    assert written.header.get_zooms() == pytest.approx((0.9, 0.8, 2.5))
    assert np.asarray(written.dataobj).max() <= 4
    assert Image.open(tmp_path / "out" / "000_scan.png").width > 500
    assert "scan.nii.gz: " in output
    with pytest.raises(UserError, match="--background is for classification, detection, segmentation, and"):
        run_here("predict.py", run / "iteration_4.pth", tmp_path / "in", "--background", 0, 0, 0)


def test_what_cannot_be_predicted_is_named_and_the_rest_is_predicted(finished, tmp_path, capsys):
    _, run, _ = finished
    data = scan().astype(np.float32)
    data[0, 0, 0] = np.nan
    for name, content in (("a", scan()), ("nan", data), ("two", scan(channels=2)), ("thin", scan((20, 18, 1)))):
        save(tmp_path / "in" / f"{name}.nii.gz", content)
    (tmp_path / "in" / "torn.nii.gz").write_bytes(b"none")
    with pytest.raises(UserError, match="4 of 5 pictures failed"):
        run_here("predict.py", run / "iteration_4.pth", tmp_path / "in", "--out-dir", tmp_path / "out")
    told = capsys.readouterr().err
    for text in ("nan.nii.gz has 1 voxels that are no numbers", "two.nii.gz has 2 channels, the model takes 1"):
        assert text in told
    for text in ("thin.nii.gz has 20x18x1 voxels, a patch of the model 2x2x2", "torn.nii.gz cannot be read"):
        assert text in told
    assert (tmp_path / "out" / "000_a.nii.gz").is_file()


def test_predictions_at_another_spacing_have_the_files_voxels(tmp_path, data):
    once = "train_cfg = dict(max_iters=1, val_interval=1)"
    config = small_config(tmp_path, data, f"val_dataloader['dataset']['spacing'] = (2.0, 2.0, 2.0)\n{once}")
    output = run_here("train.py", config, "--work-dir", tmp_path / "run")
    assert "Dice" in output
    path = save(tmp_path / "scan.nii.gz", scan((31, 20, 9)), np.diag([1.0, 1.0, 2.0, 1.0]))
    run_here("predict.py", tmp_path / "run" / "iteration_1.pth", path, "--out-dir", tmp_path / "out")
    assert nibabel.load(tmp_path / "out" / "000_scan.nii.gz").shape == (31, 20, 9)


def test_training_begins_from_official_weights_with_another_head(tmp_path, data):
    config = small_config(tmp_path, data, "train_cfg = dict(max_iters=1, val_interval=1)")
    arguments = load(str(config)).model.kwargs
    official = create_model("nnformer_synapse", relative_index="official", **arguments)
    torch.save({"epoch": 1000, "state_dict": official.state_dict()}, tmp_path / "official.model")
    options = [f"model.pretrained={tmp_path / 'official.model'}", "optim_wrapper.optimizer.lr=0.0"]
    run_here("train.py", config, "--work-dir", tmp_path / "run", "--cfg-options", *options)
    trained = weights(tmp_path / "run" / "iteration_1.pth")
    expected = official.state_dict()["model_down.layers.0.blocks.0.attn.qkv.weight"]
    # Weight decay goes by the learning rate too.
    assert torch.equal(trained["network.model_down.layers.0.blocks.0.attn.qkv.weight"], expected)
    assert trained["network.final.0.up.bias"].shape == (5,)


def test_flops_of_a_config_are_counted_by_parts(tmp_path, data):
    config = small_config(tmp_path, data)
    output = run_here("flops.py", "--config", config, "--format", "markdown")
    assert all(part in output for part in ("model_down", "decoder", "final", "whole", "8x16x16"))
    larger = run_here("flops.py", "--config", config, "--volume-size", "16x16x16", "--format", "markdown")
    assert "16x16x16" in larger


def test_flops_of_a_published_network_are_counted_by_its_name():
    output = run_here("flops.py", "nnformer_acdc", "--volume-size", "8x32x32", "--format", "csv")
    assert [line.split(",")[:3] for line in output.splitlines()[1:]] == [
        ["nnformer_acdc", "8x32x32", part] for part in ("model_down", "decoder", "final", "whole")
    ]


@pytest.mark.parametrize(
    "arguments",
    [("nnformer_acdc", "--num-classes", 3), ("nnformer_acdc", "--size", 64), ("gfnet_ti", "--volume-size", 64)],
)
def test_options_that_a_network_cannot_heed_are_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        run_here("flops.py", *arguments)
    assert f"{arguments[1]} is for" in capsys.readouterr().err


def test_digits_are_written_by_the_command(tmp_path):
    arguments = [tmp_path / "set", "--task", "volumes", "--train", 2, "--val", 1]
    assert "2 + 1 volumes written to" in run_here("make_digits.py", *arguments)
    assert "2 + 1 volumes are already in" in run_here("make_digits.py", *arguments)


def make_tumours(root):
    return make_decathlon(root, channels=4, names=["BRATS_001", "BRATS_011", "BRATS_058"])


MADE = {"synapse": make_synapse, "acdc": make_acdc, "tumor": make_tumours}


@pytest.mark.parametrize("path", sorted((ROOT / "configs" / "volumes").glob("*/nnformer_*.py")), ids=lambda p: p.stem)
def test_configs_of_published_variants_read_their_data(path, tmp_path):
    root = MADE[path.stem.removeprefix("nnformer_")](tmp_path)
    cfg = complete(load(str(path), data_root=str(root)))
    assert task_of(cfg) == "volumes"
    for step in ("train", "val", "test"):
        dataset = DATASETS.build(cfg[f"{step}_dataloader"].dataset)
        sample = dataset[0]
        assert sample["inputs"].shape[0] == cfg.model.get("in_channels", dataset.channels)
        if step == "train":
            crop = VARIANTS[cfg.model.name]["crop_size"]
            assert tuple(sample["inputs"].shape[1:]) == crop[::-1] == tuple(sample["labels"].shape[1:])
    assert cfg.model.out_channels == len(dataset.classes)


def test_configs_of_volumes_are_listed():
    assert "volumes/nnformer/nnformer_synapse" in list_configs()


@pytest.mark.parametrize("options, message", [
    (["model.name=nnformer_sinapse"], "did you mean nnformer_synapse"),
    (["model.out_channels=3"], "the model has 3 classes, VolumeDataset .* has 5: set model.out_channels to 5"),
    (["model.in_channels=2"], "has 1 channels, the model takes 2"),
    (["val_dataloader.batch_size=2"], "val_dataloader.batch_size is 2: volumes are evaluated whole"),
    (["param_scheduler.0.begin=9"], "begins at iteration 9"),
    (["model.kwargs.relative_index=wrong"], "relative_index is 'wrong'"),
    (["model.kwargs.width=3"], "width"),
    (["model.overlap=1.0"], "overlap is 1.0"),
    (["train_dataloader.dataset.fold=7"], "fold is 7"),
    (["val_evaluator.classes=[liver]"], "average liver; the classes are 0, 1, 2, 3"),
    (["val_evaluator.classes=[]"], r"VolumeMetric.classes is \[\], it has to be a list of names"),
    (["val_evaluator.classes=liver"], "VolumeMetric.classes is 'liver', it has to be a list of names"),
    (["model.overlap=half"], "overlap is 'half'"),
    (["model.windows_at_once=0"], "windows_at_once is 0, it has to be a whole number of at least 1"),
    (["model.mirror_axes=1"], "mirror_axes is 1, allowed are 0, 1 and 2, each once, in a list"),
])  # fmt: skip
def test_configs_that_cannot_work_are_told(tmp_path, data, options, message):
    config = small_config(tmp_path, data)
    with pytest.raises(UserError, match=message):
        run_here("train.py", config, "--work-dir", tmp_path / "run", "--cfg-options", *options)
    assert not list((tmp_path / "run").glob("*.pth"))  # before the first step


@pytest.mark.parametrize("tool, arguments, message", [
    ("predict.py", ["nnformer_acdc", "."], "nnformer_acdc is a network without weights"),
    ("visualize.py", ["nnformer_acdc", ROOT / "docs/images/hyperspectral.png"], "nnformer_acdc segments volumes"),
    ("benchmark.py", ["nnformer_acdc"], "nnformer_acdc is a network of volumes, models of images are meant"),
    ("flops.py", ["--config", CONFIG, "--size", "32"], "--size is for other models than .*nnformer-small_digits"),
    ("flops.py", ["--config", CONFIG, "--volume-size", "1"], "a volume of 1x1x1 voxels is smaller than a patch"),
])  # fmt: skip
def test_commands_say_what_they_do_not_take_of_volumes(tool, arguments, message, capsys):
    with pytest.raises((SystemExit, UserError)) as told:
        run_here(tool, *arguments)
    assert re.search(message, str(told.value) + capsys.readouterr().err)


def test_an_unknown_task_is_told(tmp_path, data):
    config = small_config(tmp_path, data, "task = 'volume'")
    with pytest.raises(UserError, match=r"task of .* is 'volume', it has to be one of .*volumes"):
        complete(load(str(config)))
