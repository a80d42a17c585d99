"""Annotation maps, batches and losses that mmseg takes without a word: told before the first step."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.dataset import Compose, InfiniteSampler
from mmengine.hub import get_config
from mmengine.registry import init_default_scope
from PIL import Image
from torch import nn

pytest.importorskip("mmseg", reason="mmseg is not installed")

from spectral_backbones.engine.config import nodes
from spectral_backbones.engine.errors import UserError
from spectral_backbones.segmentation.hooks.check import (
    check_alike,
    check_batches,
    check_classes,
    check_losses,
    check_metric,
)
from spectral_backbones.segmentation.maps import check_maps
from spectral_backbones.segmentation.toolbox import mmseg
from spectral_backbones.toolboxes.digits import Recipe, make_digits

from ..classification_fixtures import run_forked, run_here
from .fixtures import small_config

LOAD = dict(type="LoadCheckedAnnotations")


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("mmseg")
    yield
    init_default_scope("mmengine")


def data(folder, maps, classes=("ground", "thing"), load=LOAD, **settings):
    """A set of maps, arrays or Pillow's pictures, in a folder."""
    for number, labels in enumerate(maps):
        picture = labels if isinstance(labels, Image.Image) else Image.fromarray(np.asarray(labels, dtype=np.uint8))
        (folder / "maps").mkdir(parents=True, exist_ok=True)
        picture.save(folder / "maps" / f"{number:03d}.png")
        (folder / f"{number:03d}.jpg").touch()  # the pictures themselves are not looked at
    return mmseg.datasets.BaseSegDataset(
        data_root=str(folder),
        data_prefix=dict(img_path="", seg_map_path="maps"),
        metainfo=dict(classes=classes, palette=[[9 * n, 9, 9] for n in range(len(classes))]),
        pipeline=[dict(load, num_classes=len(classes))],
        **settings,
    )


def grid(*values):
    return np.tile(np.array(values), (4, 4))


@pytest.mark.parametrize("trains", [True, False])
def test_masks_of_black_and_white_are_refused(tmp_path, trains):
    with pytest.raises(UserError) as error:
        check_maps(data(tmp_path, [grid(0, 255), grid(0, 0)]), "training", trains)
    said = str(error.value)
    assert "hold the values 0 (75 %), 255 (25 %) (first " in said and "maps/000.png)" in said
    assert "only 'ground' is left, so that 'thing' never occurs" in said and "np.asarray(mask) > 127" in said


@pytest.mark.parametrize(
    ("values", "classes", "reduces", "says"),
    [
        ((0, 1), ("ground", "thing"), True, "if 0 is 'ground' in the files, set reduce_zero_label=False"),
        ((0, 1, 2), ("ground", "b", "c"), True, "'c' never occurs; if 0 is 'ground' in the files"),
        ((255,), ("ground", "thing"), False, "nothing is left to learn from"),
    ],
)
def test_a_training_set_without_its_classes_is_refused(tmp_path, values, classes, reduces, says):
    with pytest.raises(UserError) as error:
        check_maps(data(tmp_path, [grid(*values)], classes, reduce_zero_label=reduces), "training", True)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("values", "classes", "trains", "says"),
    [
        ((255,), ("ground", "thing"), False, "no annotated pixel is left to be scored"),
        ((0, 1, 255), ("a", "b", "c"), True, "'c' never occurs; if it stands for a class"),
    ],
)
def test_what_may_be_meant_is_told(tmp_path, monkeypatch, values, classes, trains, says):
    told = []
    monkeypatch.setattr("spectral_backbones.segmentation.maps.tell_once", told.append)
    check_maps(data(tmp_path, [grid(*values)], classes), "validation", trains)
    assert says in told[0]


@pytest.mark.parametrize(
    ("values", "classes", "settings"),
    [
        ((0, 1, 255), ("a", "b"), {}),
        ((0, 1, 2), ("a", "b"), dict(reduce_zero_label=True)),
        ((0, 1), ("a", "b", "c"), {}),  # nothing is ignored
        ((0, 255), ("thing",), {}),
        ((0, 3, 7), tuple("abcdefgh"), dict(reduce_zero_label=True)),
    ],
)
def test_sound_maps_pass_without_a_word(tmp_path, monkeypatch, values, classes, settings):
    told = []
    monkeypatch.setattr("spectral_backbones.segmentation.maps.tell_once", told.append)
    check_maps(data(tmp_path, [grid(*values), grid(0)], classes, **settings), "training", True)
    assert told == []


def palette(values):
    picture = Image.fromarray(values.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 128, 0, 0] * 128)
    return picture


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        (
            grid(0, 2),
            "holds label 2; with 2 classes and reduce_zero_label=False labels go from 0 to 1, 255 being",
        ),
        (grid(0, 2), "the file holds 0, 2: if 0 is no class, set reduce_zero_label=True; if it is one, there are 3"),
        (grid(0, 128), "the file holds 0, 128: write the numbers of the classes, 0 to 1, in their place"),
        (palette(grid(0, 15)), "it is stored with a palette, whose indices are read and not its colours"),
        (
            Image.fromarray(np.stack([grid(0, 128), grid(0, 0), grid(0, 0)], -1).astype(np.uint8)),
            "it holds 2 colours, (0, 0, 0), (128, 0, 0), ...: write the number of its class in the place of each",
        ),
        (Image.fromarray(np.stack([grid(0, 1)] * 3, -1).astype(np.uint8)), "its channels are alike, so save one"),
    ],
)
def test_values_that_are_no_classes_are_refused_with_the_usual_cure(tmp_path, labels, says):
    with pytest.raises(UserError) as error:
        check_maps(data(tmp_path, [grid(0, 1), labels]), "validation", False)
    assert "maps/001.png" in str(error.value) and says in str(error.value)


def test_maps_with_a_palette_whose_indices_are_classes_pass(tmp_path):
    check_maps(data(tmp_path, [palette(grid(0, 1, 255))]), "training", True)


@pytest.mark.parametrize("ignored", [254, 255])
def test_what_the_head_ignores_is_ignored(tmp_path, ignored):
    load = dict(LOAD, ignore_index=ignored)
    check_maps(data(tmp_path, [grid(0, 1, ignored)], load=load), "training", True)
    with pytest.raises(UserError, match=f"holds label 253; .* 0 to 1, {ignored} being ignored"):
        check_maps(data(tmp_path / "other", [grid(0, 1, 253)], load=load), "training", True)


def test_classes_that_are_left_out_are_mapped_before_they_are_compared(tmp_path):
    classes = mmseg.datasets.PascalVOCDataset.METAINFO["classes"][:3]
    data(tmp_path, [grid(0, 1, 2, 20, 255)])
    (tmp_path / "list.txt").write_text("000\n")
    voc = mmseg.datasets.PascalVOCDataset(
        ann_file="list.txt",
        data_root=str(tmp_path),
        data_prefix=dict(img_path="", seg_map_path="maps"),
        metainfo=dict(classes=classes),
        pipeline=[dict(LOAD, num_classes=3)],
    )
    check_maps(voc, "training", True)


def test_a_value_found_late_is_ignored_with_a_warning(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("spectral_backbones.segmentation.loading.tell_once", told.append)
    wide = Image.fromarray(grid(0, 1, 300).astype(np.uint16))
    for number, labels in enumerate([grid(0, 1, 9), wide]):
        one = data(tmp_path / str(number), [labels], ("a", "b"))
        result = one.pipeline.transforms[0](dict(one.get_data_info(0), ori_shape=(4, 12)))
        assert np.array_equal(result["gt_seg_map"], grid(0, 1, 255)) and result["gt_seg_map"].dtype == np.uint8
    assert "000.png holds label 9; with 2 classes" in told[0] and "holds label 300" in told[1]


def test_sets_that_read_0_in_two_ways_are_refused(tmp_path):
    one, other = (
        data(tmp_path / str(reduces), [grid(0, 1, 2)], reduce_zero_label=reduces) for reduces in (True, False)
    )
    check_alike(dict(training=one, validation=one))
    with pytest.raises(UserError, match="reduce_zero_label is True of the training set and False of the val"):
        check_alike(dict(training=one, validation=other))


def test_an_evaluator_without_annotations_is_told_before_the_run(tmp_path):
    (tmp_path / "x.jpg").touch()
    bare = mmseg.datasets.BaseSegDataset(
        data_root=str(tmp_path), metainfo=dict(classes=("a", "b")), pipeline=[dict(type="LoadImageFromFile")]
    )
    with pytest.raises(UserError, match="IoUMetric, compares with annotations, but the pipeline of its data set loads"):
        check_metric(mmseg.evaluation.IoUMetric(), bare)
    check_metric(mmseg.evaluation.IoUMetric(format_only=True, output_dir=str(tmp_path / "out")), bare)


def test_annotations_inside_of_other_transforms_are_found(tmp_path):
    """As in test-time augmentation, whose views share them."""
    one = data(tmp_path, [grid(0, 255)])
    one.pipeline = Compose([dict(type="TestTimeAug", transforms=[[dict(LOAD, num_classes=2)]])])
    check_metric(mmseg.evaluation.IoUMetric(), one)
    with pytest.raises(UserError, match="'thing' never occurs"):
        check_maps(one, "test", False)


def model(head, **settings):
    widths = dict(UPerHead=[8, 8], PSPHead=8, FCNHead=8, ASPPHead=8)[head]
    settings = dict(norm_cfg=dict(type="BN"), loss_decode=dict(type="CrossEntropyLoss")) | settings
    index = [0, 1] if isinstance(widths, list) else 0
    cfg = dict(type=head, in_channels=widths, in_index=index, channels=4, num_classes=3, **settings)
    if head == "FCNHead":
        cfg["num_convs"] = 1
    return nn.ModuleDict(dict(decode_head=mmseg.registry.MODELS.build(cfg)))


def loader(count, batch_size, **settings):
    return torch.utils.data.DataLoader(torch.zeros(count, 1), batch_size, **settings)


@pytest.mark.parametrize("head", ["UPerHead", "PSPHead", "ASPPHead"])
def test_a_batch_of_one_picture_is_refused_where_heads_normalise_one_pixel(head):
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):  # as torch says it
        model(head).train()["decode_head"]([torch.rand(1, 8, 8, 8)] * 2)
    with pytest.raises(UserError, match=r"but train_dataloader.batch_size is 1: raise it"):
        check_batches(model(head), loader(5, 1))
    with pytest.raises(UserError, match=r"last batch of 5 pictures in batches of 2 is of one: set .*drop_last=True"):
        check_batches(model(head), loader(5, 2))
    for sound in (loader(5, 2, drop_last=True), loader(6, 2), loader(5, 3)):
        check_batches(model(head), sound)
    check_batches(model(head, norm_cfg=dict(type="GN", num_groups=1)), loader(5, 1))
    check_batches(model("FCNHead"), loader(5, 1))


def test_weights_of_classes_are_as_many_as_the_classes():
    loss = dict(type="CrossEntropyLoss", class_weight=[1.0, 2.0])
    with pytest.raises(UserError, match=r"model.decode_head.loss_decode.class_weight has 2 numbers, the head 3"):
        check_losses(model("FCNHead", loss_decode=loss))
    with pytest.raises(UserError, match=r"loss_decode.1.class_weight has 2 numbers"):
        check_losses(model("FCNHead", loss_decode=[dict(type="DiceLoss"), loss]))
    check_losses(model("FCNHead", loss_decode=dict(loss, class_weight=[1.0, 2.0, 3.0])))


def test_a_validation_set_in_colours_stops_the_run_before_its_first_step(tmp_path):
    config = small_config(tmp_path, tmp_path / "data")
    make_digits(tmp_path / "data", Recipe("segmentation", train=6, val=4, size=64))
    for path in (tmp_path / "data" / "annotations" / "validation").iterdir():
        Image.open(path).convert("L").convert("RGB").save(path)
    with pytest.raises(UserError, match="has 3 channels"):
        run_here("train.py", config, "--work-dir", tmp_path / "run")
    assert not list((tmp_path / "run").glob("*.pth"))


@pytest.mark.slow
def test_what_one_process_sees_in_the_maps_stops_all(tmp_path):
    """The process that reads none would wait for the other until it is killed."""
    make_digits(tmp_path / "data", Recipe("segmentation", train=6, val=4, size=64))
    for path in (tmp_path / "data" / "annotations" / "validation").iterdir():
        path.write_bytes(b"no picture")
    config = small_config(tmp_path, tmp_path / "data")
    result = run_forked("train.py", config, "--work-dir", tmp_path / "run", processes=2)
    assert result.returncode and result.stdout.count("error: cannot read annotation") == 2
    assert not list((tmp_path / "run").glob("*.pth"))


ZOO = (
    "bisenetv1/bisenetv1_r18-d32_4xb4-160k_cityscapes-1024x1024",
    "cgnet/cgnet_fcn_4xb4-60k_cityscapes-680x680",  # with weights of classes
    "encnet/encnet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "mask2former/mask2former_r50_8xb2-160k_ade20k-512x512",
    "ocrnet/ocrnet_hr18_4xb2-40k_cityscapes-512x1024",
    "pspnet/pspnet_r50-d8_4xb2-40k_cityscapes-512x1024",
    "stdc/stdc1_4xb12-80k_cityscapes-512x1024",
    "upernet/upernet_r50_4xb2-40k_cityscapes-512x1024",
)


@pytest.mark.parametrize("name", ZOO)
def test_segmenters_of_mmsegs_zoo_pass_as_they_are_trained(name):
    cfg = get_config(f"mmseg::{name}.py")
    cfg.model.pretrained = None
    for node in nodes(cfg.model):
        node.pop("init_cfg", None)
    with torch.device("meta"):
        segmenter = mmseg.registry.MODELS.build(cfg.model)
    data_set = mmseg.registry.DATASETS.get(cfg.train_dataloader.dataset.type)
    check_classes(segmenter, SimpleNamespace(metainfo=data_set.METAINFO))  # STDC has a head that finds borders
    check_losses(segmenter)
    check_batches(segmenter, loader(2975, cfg.train_dataloader.batch_size, sampler=InfiniteSampler(range(2975))))


@pytest.mark.parametrize("reduces", [False, True])
def test_maps_of_eight_and_of_sixteen_bits_are_read_alike(tmp_path, reduces):
    labels = np.random.default_rng(0).integers(0, 12, (40, 31)).astype(np.uint8)
    labels[0, :3] = 255
    read = []
    for dtype in (np.uint8, np.uint16):
        path = tmp_path / f"{np.dtype(dtype).name}.png"
        Image.fromarray(labels.astype(dtype)).save(path)
        results = dict(seg_map_path=str(path), reduce_zero_label=reduces, seg_fields=[], ori_shape=labels.shape)
        step = mmseg.registry.TRANSFORMS.build(dict(type="LoadCheckedAnnotations", num_classes=11))
        read.append(step(results)["gt_seg_map"])
    assert read[0].dtype == np.uint8 and np.array_equal(*read)
    expected = np.where(labels == 255, 255, labels - 1) if reduces else np.where(labels == 11, 255, labels)
    assert np.array_equal(read[0], expected)  # 0 less 1 is 255 in eight bits, and 11 is no class
