"""Classifying pictures of other than three bands of eight bits, from the folder to the prediction."""

import numpy as np
import pytest
import tifffile
from mmengine.registry import DATASETS
from PIL import Image

from spectral_backbones.classification import UserError
from spectral_backbones.classification.config import complete
from spectral_backbones.classification.datasets import ImageFolder
from spectral_backbones.classification.predictor import Predictor
from spectral_backbones.engine.config import load

from .classification_fixtures import load_tool, make_folder, picture, run_here, small_config


def make_bands(root, write, bands=5, per_class=6):
    """Two classes that differ in the last band alone, in numbers of a satellite's kind."""
    for split in ("train", "val"):
        for label, name in enumerate(("field", "water")):
            (root / split / name).mkdir(parents=True)
            for number in range(per_class):
                rng = np.random.RandomState(100 * label + number + 50 * (split == "val"))
                values = rng.randint(900, 1100, (20, 24, bands)).astype(np.float32)
                values[..., -1] += 2000 * label
                write(root / split / name / f"{number}", values)
    return root


def tiff(path, values):
    tifffile.imwrite(f"{path}.tif", values.astype(np.uint16), photometric="minisblack", planarconfig="contig")


def test_five_bands_are_measured_trained_on_and_predicted(tmp_path, capsys):
    """What the tool prints is pasted into a config as it is."""
    data = make_bands(tmp_path / "data", tiff, per_class=8)
    mean, std = load_tool("measure_channels.py").main([str(data)])
    stored = [tifffile.imread(path).reshape(-1, 5) for path in sorted((data / "train").rglob("*.tif"))]
    assert mean == pytest.approx(np.concatenate(stored).mean(0)) and std == pytest.approx(np.concatenate(stored).std(0))
    base = small_config(tmp_path, data, max_epochs=6)
    config = tmp_path / "bands.py"
    config.write_text(f"_base_ = {str(base)!r}\n" + capsys.readouterr().out.split("config:\n")[1])
    options = ["--cfg-options", "auto_scale_lr.enable=False", "optim_wrapper.optimizer.lr=0.005"]
    output = run_here("train.py", config, "--work-dir", tmp_path / "run", *options)
    assert "16 in 2 classes: field, water" in output and "best top-1 100.00 %" in output
    best = tmp_path / "run" / "best.pth"
    tested = run_here("test.py", config, best)
    assert f"test images: {data / 'val'}, 16 in 2 classes" in tested and "top1: 100.0000" in tested
    said = run_here("predict.py", best, data / "val" / "water", "--out-dir", tmp_path / "out")
    assert said.count(": water") == 8
    picture(0, 0).save(tmp_path / "rgb.png")
    with pytest.raises(UserError, match=r"has 3 bands .RGB., the model takes 5"):
        Predictor.load(str(best))(tmp_path / "rgb.png")


def test_arrays_are_pictures_where_numbers_are_taken(tmp_path):
    data = make_bands(tmp_path, lambda path, values: np.save(f"{path}.npy", np.moveaxis(values, -1, 0)), per_class=2)
    given = {f"train_dataloader.dataset.transform.{key}": [1000.0] * 5 for key in ("mean", "std")}
    cfg = complete(load(str(small_config(tmp_path, data)), {"model.in_chans": 5, **given}))
    loaded = DATASETS.build(cfg.val_dataloader.dataset)
    assert cfg.model.num_classes == 2 and len(loaded) == 4 and loaded[3]["inputs"].shape == (5, 16, 16)
    assert loaded[0]["inputs"].std() < 0.2 and loaded[3]["inputs"][4].mean() == pytest.approx(2, abs=0.1)
    assert loaded.picture(3).mode == "RGB"
    with pytest.raises(UserError, match=r"files passed over: \d \.npy"):
        ImageFolder(str(data), "train")


@pytest.mark.parametrize("channels", [2, 4])
def test_a_model_of_other_channels_than_the_pictures_is_told_before_a_run(tmp_path, channels):
    config = small_config(tmp_path, make_folder(tmp_path / "data", per_class=3))
    says = rf"train/blue/0.png has 3 bands \(RGB\), the model takes {channels} \(model.in_chans\): set .* to 3"
    with pytest.raises(UserError, match=says):
        complete(load(str(config), {"model.in_chans": channels}))
    given = {f"train_dataloader.dataset.transform.{key}": [1.0] * channels for key in ("mean", "std")}
    with pytest.raises(UserError, match=says):
        run_here(
            "train.py",
            config,
            "--work-dir",
            tmp_path / "run",
            "--cfg-options",
            f"model.in_chans={channels}",
            *(f"{key}={value}" for key, value in given.items()),
        )


def test_opacity_is_a_band_where_four_are_asked_for(tmp_path):
    data = make_bands(
        tmp_path, lambda path, values: Image.fromarray((values / 16).astype(np.uint8)).save(f"{path}.png"), 4
    )
    config = small_config(tmp_path, data)
    with pytest.raises(
        UserError, match=f"in_chans=4 .* mean and std of each channel are not given.*measure-channels {data}"
    ):
        complete(load(str(config), {"model.in_chans": 4}))
    given = {f"train_dataloader.dataset.transform.{key}": [60.0] * 4 for key in ("mean", "std")}
    cfg = complete(load(str(config), {"model.in_chans": 4, **given}))
    transforms = [cfg[f"{name}_dataloader"].dataset.transform for name in ("train", "val", "test")]
    assert all(transform.type == "BandTransform" and transform.mean == [60.0] * 4 for transform in transforms)
    assert "auto_augment" not in transforms[0] and transforms[0].is_training


def test_floats_beyond_shades_need_mean_and_std(tmp_path):
    data = make_bands(tmp_path / "data", lambda path, values: tifffile.imwrite(f"{path}.tif", values[..., 0]), 1, 4)
    config = small_config(tmp_path, data, max_epochs=4)
    with pytest.raises(UserError, match=r"train/.*tif holds floats from \d+ to .*give mean and std"):
        run_here("train.py", config, "--work-dir", tmp_path / "refused")
    given = [
        f"train_dataloader.dataset.transform.{key}=[{', '.join([value] * 3)}]"
        for key, value in (("mean", "2000.0"), ("std", "1000.0"))
    ]
    output = run_here("train.py", config, "--work-dir", tmp_path / "run", "--cfg-options", *given)
    assert "8 in 2 classes" in output and (tmp_path / "run" / "best.pth").is_file()


def test_deep_pictures_are_classified_as_their_eight_bits_are(tmp_path):
    """A run on 8 bits, a prediction of the same picture in 16."""
    data = make_folder(tmp_path / "data", per_class=8)
    config = small_config(tmp_path, data, max_epochs=2)
    run_here("train.py", config, "--work-dir", tmp_path / "run")
    predictor = Predictor.load(str(tmp_path / "run" / "best.pth"))
    values = np.asarray(Image.open(data / "val" / "red" / "1.png"))
    tifffile.imwrite(tmp_path / "deep.tif", values.astype(np.uint16) * 257, photometric="rgb")
    _, plain = predictor(data / "val" / "red" / "1.png")
    _, deep = predictor(tmp_path / "deep.tif")
    assert dict(deep) == pytest.approx(dict(plain), abs=1e-5)


def test_a_prediction_lays_transparent_pixels_where_training_did(tmp_path):
    data = make_folder(tmp_path / "data", per_class=4)
    config = small_config(tmp_path, data, max_epochs=2)
    options = [f"{name}_dataloader.dataset.background=[0, 200, 0]" for name in ("train", "val", "test")]
    run_here("train.py", config, "--work-dir", tmp_path / "run", "--cfg-options", *options)
    predictor = Predictor.load(str(tmp_path / "run" / "best.pth"))
    Image.new("RGBA", (9, 9), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert predictor(tmp_path / "clear.png")[0].getpixel((0, 0)) == (0, 200, 0)
    arguments = ["predict.py", tmp_path / "run" / "best.pth", tmp_path / "clear.png", "--out-dir", tmp_path / "out"]
    assert run_here(*arguments) != run_here(*arguments, "--background", 255, 0, 0)
