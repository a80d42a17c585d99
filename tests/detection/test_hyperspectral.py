"""Point objects in images of many bands, from files of any format to figures; what is wrong with them is told."""

import json
import re

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image
from scipy import io as scipy_io

from spectral_backbones import detection  # noqa: F401  supplies mmcv's operators before mmdet asks for them

pytest.importorskip("mmdet", reason="mmdet is not installed")

from mmdet.registry import DATASETS, METRICS
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from spectral_backbones.detection.coco_file import mend
from spectral_backbones.detection.config import complete
from spectral_backbones.detection.hooks.check import check_bands
from spectral_backbones.detection.hyperspectral import baselines
from spectral_backbones.detection.hyperspectral.made import (
    CLASSES,
    KINDS,
    SCALE,
    Recipe,
    Spectra,
    draw_cube,
    make_cubes,
)
from spectral_backbones.detection.predictor import Predictor
from spectral_backbones.detection.specdetr import PixelTokens
from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load as load_config
from spectral_backbones.toolboxes.loading import LoadBands

from ..classification_fixtures import ROOT, load_tool, run_here, run_tool

CONFIGS = ROOT / "configs" / "detection" / "specdetr"
RECIPE = dict(train=12, val=4, size=16, bands=6, targets=6)


@pytest.fixture(scope="module")
def cubes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made") / "cubes"
    make_cubes(folder, Recipe(**RECIPE))
    return folder


@pytest.fixture(autouse=True)
def _scope():
    yield
    init_default_scope("mmengine")


def tiny(folder, data_root, **load):
    """Writes a config over that of made images: a tiny model, 6 bands, 12 images of 16x16."""
    load = dict(type="LoadBands", bands=6, divisor=3000.0) | load
    text = f"""
_base_ = {str(CONFIGS / "specdetr-small_made.py")!r}
load = {load!r}
feedforward = dict(embed_dims=16, feedforward_channels=16)
model = dict(
    num_queries=20,
    backbone=dict(in_channels=6, embed_dims=16),
    encoder=dict(num_layers=1, layer_cfg=dict(self_attn_cfg=dict(embed_dims=16), ffn_cfg=feedforward)),
    decoder=dict(num_layers=1, layer_cfg=dict(cross_attn_cfg=dict(embed_dims=16), ffn_cfg=feedforward)),
    positional_encoding=dict(num_feats=8),
    bbox_head=dict(embed_dims=16),
    test_cfg=dict(max_per_img=20),
)
data_root = {str(data_root) + "/"!r}
train_dataloader = dict(dataset=dict(data_root=data_root, pipeline=[load, *_base_.train_pipeline[1:]]))
val_dataloader = dict(dataset=dict(data_root=data_root, pipeline=[load, *_base_.test_pipeline[1:]]))
test_dataloader = val_dataloader
val_evaluator = dict(ann_file=data_root + "annotations/val.json")
test_evaluator = val_evaluator
train_cfg = dict(max_epochs=2, val_interval=1)
"""
    path = folder / "tiny.py"
    path.write_text(text)
    return path


def copied(cubes, folder, change=None):
    """The set once more, with an annotation file that is changed."""
    for path in sorted(cubes.rglob("*.*")):
        target = folder / path.relative_to(cubes)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    if change:
        path = folder / "annotations" / "train.json"
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))
    return folder


# The whole way


def test_a_detector_of_many_bands_is_trained_tested_and_predicts(cubes, tmp_path, capsys, monkeypatch):
    config = tiny(tmp_path, cubes)
    said = run_here("train.py", config, "--work-dir", tmp_path / "run")
    assert "box AP25" in said
    checkpoint = tmp_path / "run" / "best.pth"
    figures = load_tool("test").main([str(config), str(checkpoint), "--work-dir", str(tmp_path / "test")])
    assert set(figures) >= {"coco/bbox_mAP", "coco/bbox_mAP_50", "coco/bbox_mAP_25"} or not figures
    assert Predictor.load(str(checkpoint)).classes == list(CLASSES)
    # Of what cannot be predicted the name is told, and the others are predicted.
    inputs = tmp_path / "new"
    inputs.mkdir()
    good = np.load(cubes / "val" / "000000.npy")
    np.save(inputs / "a.npy", good)
    np.save(inputs / "few.npy", good[..., :5])
    np.save(inputs / "none.npy", good[:0])
    np.save(inputs / "reflectance.npy", good / 3000.0)
    scipy_io.savemat(inputs / "z.mat", {"data": good, "map": good[..., 0]})
    broken = good.astype(np.float32)
    broken[0, 0, 0] = np.nan
    np.save(inputs / "nan.npy", broken)
    Image.new("RGB", (16, 16)).save(inputs / "quicklook.png")  # for people
    arguments = [checkpoint, inputs, "--out-dir", tmp_path / "out", "--threshold", 0]
    done = run_tool("predict.py", *arguments)  # in a process that has not trained
    assert done.returncode == 1
    for says in (
        r"4 of 6 pictures failed, first image .*few.npy has 5 bands, the model takes 6",
        r"none.npy holds no pixels",
        r"reflectance.npy holds float64 numbers, LoadBands.dtype is uint16",
        r"nan.npy holds 1 values of 1536 that are NaN",
    ):
        assert re.search(says, done.stdout), done.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["000_a.png", "005_z.png"]
    capsys.readouterr()
    with pytest.raises(UserError, match="SpecDETR with a SpecDETRHead cannot be exported: there is no graph"):
        load_tool("export").main([str(checkpoint), "--out", str(tmp_path / "a.onnx")])
    assert PixelTokens.counted_at == ((128, 128),)  # as the paper does
    monkeypatch.setattr(PixelTokens, "counted_at", ((16, 16),))
    load_tool("flops").main(["--config", str(config)])
    assert re.search(r"16x16 .*encoder", capsys.readouterr().out)


@pytest.mark.parametrize("kind", ["matched_filter", "spectral_angle"])
def test_a_detector_by_spectra_is_scored_by_the_same_metric(cubes, tmp_path, kind):
    config = tiny(tmp_path, cubes)
    pytest.importorskip("spectral")
    arguments = [str(config), "--baseline", kind, "--work-dir", str(tmp_path / kind)]
    figures = load_tool("test").main(arguments)
    assert figures["coco/bbox_mAP_25"] >= figures["coco/bbox_mAP_50"] >= figures["coco/bbox_mAP"] >= 0
    assert figures["coco/bbox_mAP_25"] > 0.05
    assert (tmp_path / kind / "detections.png").is_file()


def test_a_test_names_a_checkpoint_or_a_baseline(cubes, tmp_path):
    config = str(tiny(tmp_path, cubes))
    for arguments in ([], ["best.pth", "--baseline", "matched_filter"]):
        with pytest.raises(UserError, match="name a checkpoint, or by --baseline"):
            load_tool("test").main([config, *arguments])
    with pytest.raises(UserError, match="there is no baseline 'ace'; there are matched_filter, spectral_angle"):
        load_tool("test").main([config, "--baseline", "ace"])
    with pytest.raises(UserError, match="has to start with LoadBands: baselines go by spectra"):
        load_tool("test").main(
            [str(next((ROOT / "configs/detection/digits").glob("*.py"))), "--baseline", "spectral_angle"]
        )


# Faults, told before the first step


def save_as(change):
    def write(folder):
        path = folder / "val" / "000002.npy"
        np.save(path, change(np.load(path)))

    return write


FAULTS = {
    "bands": (save_as(lambda cube: cube[..., :5]), r"000002.npy has 5 bands, the model takes 6 \(LoadBands.bands\)"),
    "type": (save_as(lambda cube: cube / 3000), r"000002.npy holds float64 numbers, .*000000.npy holds uint16"),
    "empty": (save_as(lambda cube: cube[:0]), r"000002.npy holds no pixels"),
    "nan": (
        save_as(lambda cube: np.where(cube == cube.max(), np.nan, cube)),
        r"000002.npy holds \d+ values of 1536 that are NaN",
    ),
    "size": (
        save_as(lambda cube: cube[:12]),
        r"000002.npy is 16x12 pixels \(width x height\), its annotations say 16x16",
    ),
    "missing": (
        lambda folder: (folder / "val" / "000002.npy").unlink(),
        r"cannot read image .*000002.npy: No such file",
    ),
    "cut": (
        lambda folder: (folder / "val" / "000002.npy").write_bytes((folder / "val" / "000001.npy").read_bytes()[:500]),
        r"cannot read image .*000002.npy: ",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_an_image_is_told_with_its_name(cubes, tmp_path, fault):
    make, says = FAULTS[fault]
    data = copied(cubes, tmp_path / "data")
    make(data)
    cfg = load_config(str(tiny(tmp_path, data, dtype=None)))
    init_default_scope("mmdet")
    datasets = [DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader)]
    with pytest.raises(UserError, match=says):
        check_bands(torch.nn.Identity(), datasets)


def test_a_fault_of_a_validation_image_is_told_before_the_first_step(cubes, tmp_path):
    data = copied(cubes, tmp_path / "data")
    FAULTS["nan"][0](data)
    with pytest.raises(UserError, match=FAULTS["nan"][1]):
        load_tool("train").main([str(tiny(tmp_path, data, dtype=None)), "--work-dir", str(tmp_path / "run")])
    assert not list((tmp_path / "run").glob("*.pth"))


def test_a_stem_of_other_bands_is_told(cubes, tmp_path):
    config = tiny(tmp_path, cubes, chosen=[0, 2, 4])
    with pytest.raises(UserError, match=r"has 3 bands .*takes 6 \(model.backbone.in_channels\): set .* to 3"):
        load_tool("train").main([str(config), "--work-dir", str(tmp_path / "run")])


def test_boxes_below_one_pixel_are_kept_and_told(cubes, tmp_path, caplog):
    """mmdet leaves them out of training without a word, and its metric counts them as not found."""

    def shrink(content):
        first, second, *_ = content["annotations"]
        first["bbox"], second["bbox"] = [3.2, 4, 0.5, 2], [5, 6, 0, 0]
        first["area"] = 1.0

    data = copied(cubes, tmp_path / "data", shrink)
    config = load_config(str(tiny(tmp_path, data)))
    init_default_scope("mmdet")
    whole = DATASETS.build({**config.train_dataloader.dataset, "data_root": str(cubes)})
    dataset = DATASETS.build(config.train_dataloader.dataset)
    counts = [[len(one.get_data_info(i)["instances"]) for i in range(len(one))] for one in (whole, dataset)]
    assert counts[0] == counts[1]
    boxes = [instance["bbox"] for instance in dataset.get_data_info(0)["instances"][:2]]
    assert boxes == [pytest.approx([2.95, 4, 3.95, 6]), pytest.approx([5, 6, 6, 7])]
    content = json.loads((data / "annotations" / "train.json").read_text())
    (fault,) = mend(content, "train.json", least_side=1.0)
    assert "2 annotations whose bbox has a side below 1 pixel (first: id 1 of 000000.npy): kept" in str(fault)
    assert not mend(content, "train.json", least_side=1.0)


# Loading


def test_every_format_gives_a_detector_the_same_image(tmp_path):
    values = np.random.RandomState(0).randint(0, 3000, (6, 8, 5)).astype(np.uint16)
    np.save(tmp_path / "a.npy", values)
    tifffile.imwrite(tmp_path / "a.tif", np.moveaxis(values, -1, 0), photometric="minisblack")
    scipy_io.savemat(tmp_path / "a.mat", {"cube": values})
    pytest.importorskip("spectral.io.envi").save_image(str(tmp_path / "a.hdr"), values, ext=".img")
    step = LoadBands(bands=5, chosen=[4, 0], divisor=3000.0, dtype="uint16")
    for ending in ("npy", "tif", "mat", "hdr", "img"):
        result = step({"img_path": str(tmp_path / f"a.{ending}"), "height": 6, "width": 8})
        assert result["img"].dtype == np.float32 and result["img"].flags.c_contiguous
        np.testing.assert_allclose(result["img"], values[..., [4, 0]] / 3000, rtol=1e-6, err_msg=ending)
        assert (result["img_shape"], result["ori_shape"], result["scale_factor"]) == ((6, 8), (6, 8), (1.0, 1.0))


def test_bands_are_chosen_and_divided(tmp_path):
    path = str(tmp_path / "a.npy")
    np.save(path, np.ones((9, 8, 7)) * np.arange(7))

    def loaded(**options):
        return LoadBands(**options)({"img_path": path})["img"][0, 0].tolist()

    assert loaded() == [0, 1, 2, 3, 4, 5, 6] == loaded(bands=7)
    assert loaded(chosen=3) == [0, 3, 6] == loaded(bands=7, chosen=3) and loaded(chosen=1) == [3]
    assert loaded(chosen=[6, 1], divisor=[2.0, 4.0]) == [3, 0.25]
    assert loaded(dtype=">f8") == loaded(dtype="<f8") == loaded()  # the order of bytes is no type
    for options, says in (
        (dict(bands=0), r"LoadBands.bands is 0"),
        (dict(chosen=8), r"a.npy has 7 bands, LoadBands.chosen takes 8"),
        (dict(bands=7, chosen=8), r"chosen is 8, of 7 bands"),
        (dict(chosen=[7]), r"a.npy has 7 bands, LoadBands.chosen takes \[7\]"),
        (dict(bands=7, chosen=[7]), r"chosen is \[7\]: it has to be a number of bands, or places from 0 to 6"),
        (dict(chosen=[]), r"LoadBands.chosen is \[\]"),
        (dict(chosen=1.5), r"LoadBands.chosen is 1.5: it has to be a number of bands, or places from 0$"),
        (dict(divisor="much"), r"divisor is 'much': it has to be a number above 0"),
        (dict(divisor=[]), r"divisor is \[\]: it has to be a number above 0"),
        (dict(view=0), r"view is 0: it has to be one or three"),
        (dict(divisor=0.0), r"divisor is 0.0: it has to be a number above 0"),
        (dict(divisor=float("nan")), r"divisor is nan"),
        (dict(divisor=[1.0, 2.0]), r"a.npy gives 7 bands, LoadBands.divisor has 2"),
        (dict(bands=7, divisor=[1.0, 2.0]), r"divisor has 2 numbers for 7 bands"),
        (dict(dtype="uint16"), r"a.npy holds float64 numbers, LoadBands.dtype is uint16"),
        (dict(dtype="unit16"), r"dtype is 'unit16', which is no type"),
        (dict(view=[0, 1]), r"view is \[0, 1\]: it has to be one or three"),
        (dict(bands=8), r"a.npy has 7 bands, the model takes 8 \(LoadBands.bands\)"),
    ):
        with pytest.raises(UserError, match=says):
            loaded(**options)


@pytest.mark.parametrize("bands", [1, 2, 3, 30])
def test_bands_are_shown_in_grey_or_in_three_colours(bands):
    pixels = np.random.RandomState(0).rand(6, 8, bands).astype(np.float32)
    shown = LoadBands().displayed(pixels)
    assert shown.shape == (6, 8, 3) and shown.dtype == np.uint8 and shown.min() == 0 and shown.max() == 255
    assert (shown[..., 0] == shown[..., 2]).all() == (bands < 3)
    grey = LoadBands(view=[bands - 1]).displayed(pixels)
    order = np.argsort(pixels[..., bands - 1].ravel())
    assert (grey == grey[..., :1]).all() and (np.diff(grey[..., 0].ravel()[order].astype(int)) >= 0).all()
    if bands == 30:  # the last in red
        assert (shown == LoadBands(view=[29, 14, 0]).displayed(pixels)).all()


def test_a_divisor_is_measured(cubes, tmp_path, capsys):
    measure = load_tool("measure_channels").main
    divisor = measure([str(cubes / "train"), "--divisor", "--in-chans", "6"])
    numbers = np.concatenate([np.load(path).ravel() for path in sorted((cubes / "train").iterdir())])
    assert divisor == pytest.approx(np.percentile(numbers, 99.9), rel=5e-3)
    (line,) = re.findall(r"^dict\(.*\)$", capsys.readouterr().out, flags=re.MULTILINE)
    step = eval(line)  # what is printed is pasted into a config
    assert step == dict(type="LoadBands", bands=6, divisor=divisor, dtype="uint16")
    np.save(tmp_path / "a.npy", np.ones((8, 9, 6), np.uint16))
    np.save(tmp_path / "b.npy", np.ones((8, 9, 6), np.float32))
    with pytest.raises(UserError, match=r"b.npy holds float32 numbers, .*a.npy uint16"):
        measure([str(tmp_path), "--divisor"])
    np.save(tmp_path / "b.npy", np.ones((8, 9, 7), np.uint16))
    with pytest.raises(UserError, match=r"b.npy has 7 bands, .* 6 \(--in-chans\)"):
        measure([str(tmp_path), "--divisor", "--in-chans", "6"])
    (tmp_path / "b.npy").unlink()
    np.save(tmp_path / "a.npy", np.zeros((8, 9, 6), np.uint16))
    with pytest.raises(UserError, match=r"are 0 or less: there is nothing to divide by"):
        measure([str(tmp_path), "--divisor"])


# Made images


def test_a_made_pixel_is_a_part_of_target_and_the_rest_background():
    recipe = Recipe(**{**RECIPE, "noise": 0.0, "bands": 30})
    spectra = Spectra.draw(recipe.bands, recipe.seed)
    with_targets, targets = draw_cube(spectra, recipe, np.random.default_rng(5))
    nothing = spectra._replace(targets=[np.zeros_like(one) for one in spectra.targets])
    ink, same = draw_cube(nothing, recipe, np.random.default_rng(5))  # (1 - a) background
    assert targets == same and targets
    share_known = 0
    for label, (left, top, width, height) in targets:
        place = np.s_[top : top + height, left : left + width]
        added = (with_targets[place].astype(float) - ink[place]).reshape(-1, recipe.bands) / SCALE  # a * target
        errors = []
        for spectrum in spectra.targets[label]:
            shares = added @ spectrum / (spectrum @ spectrum)
            errors.append(np.abs(added - shares[:, None] * spectrum).max())
            if errors[-1] < 2 / SCALE:
                assert shares.min() >= 0 and shares.max() <= 1.001
                share_known += 1
                if KINDS[CLASSES[label]].is_inside:
                    assert (width, height) == (1, 1) and shares.max() < 0.5
        assert min(errors) < 2 / SCALE, CLASSES[label]
    assert share_known == len(targets)


def test_made_kinds_are_those_that_are_promised(cubes):
    spectra = Spectra.draw(30, 0)
    units = [one / np.linalg.norm(one, axis=1, keepdims=True) for one in spectra.targets]
    angles = np.array([[np.arccos(np.clip(a @ b.T, -1, 1)).min() for b in units] for a in units])
    np.fill_diagonal(angles, np.inf)
    assert np.unravel_index(angles.argmin(), angles.shape) == (3, 4)  # C4 and C5
    assert [len(one) for one in spectra.targets] == [1, 1, 1, 1, 1, 2, 2, 3]
    content = json.loads((cubes / "annotations" / "train.json").read_text())
    assert [category["name"] for category in content["categories"]] == list(CLASSES)
    assert len(content["images"]) == 12 and np.load(cubes / "train" / "000011.npy").shape == (16, 16, 6)
    boxes = np.array([one["bbox"] for one in content["annotations"]])
    assert (boxes[:, 2:] >= 1).all() and (boxes[:, :2] >= 0).all() and (boxes[:, :2] + boxes[:, 2:] <= 16).all()
    small = np.array([one["category_id"] <= 2 for one in content["annotations"]])
    assert (boxes[small, 2:] == 1).all()


def test_a_set_is_made_once_and_another_is_not_written_over_it(cubes, tmp_path):
    make = load_tool("make_hyperspectral").main
    options = [text for key, value in RECIPE.items() for text in (f"--{key}", str(value))]
    make([str(tmp_path / "again"), *options])
    for path in cubes.rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(cubes)).read_bytes(), path
    with pytest.raises(UserError, match=r"holds cubes made with .*bands=6"):
        make([str(tmp_path / "again"), *options, "--bands", "7"])
    for option, value, says in (
        ("--bands", "3", "bands is 3"),
        ("--size", "8", "size is 8"),
        ("--noise", "-1", "noise"),
    ):
        with pytest.raises(UserError, match=says):
            make([str(tmp_path / "other"), option, value])
    assert not (tmp_path / "other").exists()


# Baselines and figures


def test_a_matched_filter_is_the_formula():
    pytest.importorskip("spectral")
    rng = np.random.RandomState(0)
    image, spectra = rng.rand(9, 7, 4), rng.rand(2, 4)
    pixels = image.reshape(-1, 4)
    away = spectra - pixels.mean(0)
    inverse = np.linalg.inv(np.cov(pixels.T))
    expected = (image - pixels.mean(0)) @ inverse @ away.T / np.diag(away @ inverse @ away.T)
    np.testing.assert_allclose(baselines.matched_filter(image, spectra), expected, rtol=1e-6)
    cosines = image @ spectra.T / np.linalg.norm(image, axis=-1)[..., None] / np.linalg.norm(spectra, axis=-1)
    np.testing.assert_allclose(baselines.spectral_angle(image, spectra), cosines, rtol=1e-6)
    for score in baselines.BASELINES.values():  # of an image without contrast, or black, nothing stands out
        assert np.isfinite(score(np.ones((5, 4, 4)), spectra)).all()
        assert (score(np.zeros((5, 4, 4)), spectra) == 0).all()


def test_boxes_of_a_quarter_overlap_count_in_one_figure_alone(tmp_path):
    init_default_scope("mmdet")
    content = dict(
        images=[dict(id=0, file_name="a.npy", width=20, height=20)],
        annotations=[dict(id=1, image_id=0, category_id=1, bbox=[4, 4, 2, 2], area=4, iscrowd=0)],
        categories=[dict(id=1, name="C1")],
    )
    path = tmp_path / "a.json"
    path.write_text(json.dumps(content))
    metric = METRICS.build(dict(type="PointCocoMetric", ann_file=str(path), metric="bbox"))
    metric.dataset_meta = dict(classes=["C1"])
    for box, loose, strict in (([4.0, 4, 5, 6], 1, 1), ([4.0, 4, 5, 5], 1, 0), ([5.0, 5, 7, 7], 0, 0)):
        found = InstanceData(bboxes=torch.tensor([box]), scores=torch.tensor([0.9]), labels=torch.tensor([0]))
        metric.process({}, [dict(img_id=0, ori_shape=(20, 20), pred_instances=found)])
        figures = metric.evaluate(1)
        assert figures["coco/bbox_mAP_25"] == loose and figures["coco/bbox_mAP_50"] == strict
        assert figures["coco/bbox_mAP"] == pytest.approx(strict * 0.1)  # of ten IoUs 0.5 alone


# Published sets

PUBLISHED = {
    "specdetr_100e_spod": (30, 3000.0, 8, 100),
    "specdetr_36e_avon": (360, 5000.0, 2, 36),
    "specdetr_24e_muufl": (72, 10000.0, 4, 24),
    "specdetr_12e_san-diego": (180, 10000.0, 1, 12),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sets_are_read_as_they_lie(tmp_path, name):
    bands, divisor, classes, epochs = PUBLISHED[name]
    cfg = complete(load_config(str(CONFIGS / f"{name}.py"), None, str(tmp_path)))
    assert cfg.model.backbone.in_channels == bands and cfg.model.bbox_head.num_classes == classes
    assert cfg.train_cfg.max_epochs == epochs == cfg.param_scheduler[0].end
    is_real = name != "specdetr_100e_spod"
    assert cfg.model.get("propose_globally", False) == cfg.model.bbox_head.get("round_boxes", False) == is_real
    categories = [dict(id=1 + i, name=label) for i, label in enumerate(cfg.train_dataloader.dataset.metainfo.classes)]
    assert len(categories) == classes
    cube = np.full((40, 33, bands), divisor, dtype=np.int16 if divisor < 10000 else np.uint16)
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        np.save(tmp_path / split / "000001.npy", cube)
        box = dict(
            id=1, image_id=1, category_id=classes, bbox=[3, 4, 1, 1], area=1
        )  # as their scripts write, no iscrowd
        content = dict(
            images=[dict(id=1, file_name="000001.npy", height=40, width=33)], annotations=[box], categories=categories
        )
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / "annotations" / f"{split}.json").write_text(json.dumps(content))
    init_default_scope("mmdet")
    for loader in (cfg.train_dataloader, cfg.test_dataloader):
        item = DATASETS.build(loader.dataset)[0]
        assert item["inputs"].shape == (bands, 40, 33) and (item["inputs"] == 1).all()
        assert item["data_samples"].gt_instances.labels.tolist() == [classes - 1]
    assert (tmp_path / "annotations" / "test.json").samefile(cfg.test_evaluator.ann_file)
