"""The embedded set of digits on canvases: what is written, whole or not at all, and that mmdet reads it."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict

import cv2
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from spectral_backbones.engine import UserError
from spectral_backbones.toolboxes import digits
from spectral_backbones.toolboxes.digits import Recipe, make_digits, make_missing_digits

from ..classification_fixtures import ROOT, run_here

SMALL = Recipe(train=12, val=6, size=96)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets") / "digits"
    assert make_digits(folder, SMALL)
    return folder


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_boxes_are_those_of_the_masks_and_no_digit_covers_another(made):
    for split, count in (("train", 12), ("val", 6)):
        coco = COCO(made / "annotations" / f"instances_{split}.json")
        assert len(coco.imgs) == count and [coco.cats[1 + digit]["name"] for digit in range(10)] == list("0123456789")
        sides = []
        for number, info in coco.imgs.items():
            assert Image.open(made / split / info["file_name"]).size == (info["width"], info["height"]) == (96, 96)
            annotations = coco.imgToAnns[number]
            masks = np.stack([coco.annToMask(annotation) for annotation in annotations])
            assert masks.sum(0).max() == 1
            for mask, annotation in zip(masks, annotations, strict=True):
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                height, width = np.ptp(rows) + 1, np.ptp(columns) + 1
                assert annotation["bbox"] == [columns[0], rows[0], width, height] and annotation["area"] == mask.sum()
                sides.append(height)
        assert max(sides) > 1.8 * min(sides)  # several scales


def test_training_and_validation_show_different_digits(made, monkeypatch):
    """Digits of one split are drawn on canvases of that split only."""
    asked = []
    source = digits.read_digits

    def watched(split):
        asked.append(split)
        return source(split)

    monkeypatch.setattr(digits, "read_digits", watched)
    make_digits(made.parent / "again", SMALL)
    assert asked == ["train", "test"]
    assert not {image.tobytes() for image in source("train").pixels} & {
        image.tobytes() for image in source("test").pixels
    }


def test_a_seed_gives_the_same_set_every_time_and_another_seed_another(made, tmp_path):
    make_digits(tmp_path / "same", SMALL)
    assert contents(tmp_path / "same") == contents(made)
    make_digits(tmp_path / "other", Recipe(train=12, val=6, size=96, seed=1))
    assert contents(tmp_path / "other")["train/000000.jpg"] != contents(made)["train/000000.jpg"]


def test_what_is_there_is_not_made_again(made):
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    output = run_here("make_digits.py", made, "--train", 12, "--val", 6, "--size", 96)
    assert output == f"12 + 6 canvases are already in {made}\n"
    assert before == {path: path.stat().st_mtime_ns for path in made.rglob("*")}
    with pytest.raises(UserError, match="holds digits made with seed=0: remove it, or choose another folder"):
        make_digits(made, Recipe(train=12, val=6, size=96, seed=5))


@pytest.mark.parametrize(("key", "value"), [("task", "segmentation"), ("version", 1)])
def test_a_set_of_another_task_or_drawing_is_not_taken_for_the_one_needed(made, tmp_path, key, value):
    folder = tmp_path / "digits"
    folder.mkdir()
    (folder / "digits.json").write_text(json.dumps({**asdict(SMALL), key: value}))
    needed = getattr(SMALL, key)
    with pytest.raises(
        UserError, match=f"{folder} holds digits made with {key}={value}, needed .* {key}={needed}: rem"
    ):
        make_missing_digits(folder, SMALL)
    make_missing_digits(made, Recipe(train=3, val=2, size=64, seed=7))  # another size of the same is as good
    (folder / "digits.json").write_text("{")
    with pytest.raises(UserError, match=r"digits.json does not say what the digits were made with: remove"):
        make_missing_digits(folder, SMALL)


def test_small_digits_are_many_and_lie_on_a_canvas_as_they_do_on_one_of_their_own(tmp_path):
    make_digits(tmp_path / "set", Recipe("segmentation", train=1, val=1, size=256, smaller=4))
    labels = np.asarray(Image.open(tmp_path / "set" / "annotations" / "training" / "000000.png"))
    count, places = cv2.connectedComponentsWithStats((labels > 0).astype(np.uint8))[::2]
    assert count - 1 > 3 * 16 * 0.6  # a few find no place, and some fall apart
    assert 14 <= places[1:, 3].max() <= 1.2 * 0.5 * 256 / 4
    with pytest.raises(UserError, match="at least 320 pixels"):
        Recipe(size=256, smaller=5)


def test_a_set_of_before_a_choice_was_there_is_taken(tmp_path):
    folder = tmp_path / "set"
    make_digits(folder, Recipe(train=1, val=1, size=96))
    mark = folder / "digits.json"
    found = json.loads(mark.read_text())
    assert found.pop("smaller") == 1
    mark.write_text(json.dumps(found))
    assert not make_digits(folder, Recipe(train=1, val=1, size=96))
    with pytest.raises(UserError, match="holds digits made with size=96, smaller=1"):
        make_digits(folder, Recipe(train=1, val=1, size=128, smaller=2))


def test_interrupted_writing_leaves_nothing(tmp_path, monkeypatch):
    real = digits.draw_canvas

    def interrupted(*arguments):
        if len(list(tmp_path.rglob("*.jpg"))) == 5:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(digits, "draw_canvas", interrupted)
    with pytest.raises(KeyboardInterrupt):
        make_digits(tmp_path / "digits", SMALL)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_that_make_one_set_end_with_it_whole(tmp_path, made):
    """As under torchrun, where each process finds the data missing."""
    with ThreadPoolExecutor(2) as pool:
        written = list(pool.map(lambda _: make_digits(tmp_path / "digits", SMALL), range(2)))
    assert any(written) and contents(tmp_path / "digits") == contents(made)
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_segmentation_has_the_same_canvases_and_eleven_classes(made, tmp_path, monkeypatch):
    """But for its larger digits, which are taken away here."""
    monkeypatch.setitem(digits._HEIGHTS, "segmentation", digits._HEIGHTS["detection"])
    make_digits(tmp_path / "ade", Recipe("segmentation", train=12, val=6, size=96))
    for ade, split in (("training", "train"), ("validation", "val")):
        coco = COCO(made / "annotations" / f"instances_{split}.json")
        for number, info in coco.imgs.items():
            image, labels = (
                tmp_path / "ade" / "images" / ade / info["file_name"],
                np.asarray(
                    Image.open((tmp_path / "ade" / "annotations" / ade / info["file_name"]).with_suffix(".png"))
                ),
            )
            assert image.read_bytes() == (made / split / info["file_name"]).read_bytes()
            expected = np.zeros((96, 96), dtype=int)
            for annotation in coco.imgToAnns[number]:
                expected[coco.annToMask(annotation) == 1] = annotation["category_id"]
            assert np.array_equal(labels, expected)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--train", 0], "train is 0, it has to be 1 or more"),
        (["--size", 32], "size is 32, it has to be 64 or more"),
        (["--seed", -1], "seed is -1, it has to be 0 or more"),
        (["--task", "depth"], "task is 'depth', allowed are detection, segmentation"),
    ],
)
def test_mistakes_are_told(tmp_path, options, says):
    with pytest.raises(UserError, match=says):
        run_here("make_digits.py", tmp_path / "digits", *options)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match="exists and holds no digits"):
        make_digits(tmp_path, SMALL)
    assert os.listdir(tmp_path) == ["letter.txt"]


def test_mmdet_reads_it_and_makes_it_where_it_is_missing(tmp_path):
    pytest.importorskip("mmdet")
    from mmengine.registry import DATASETS, init_default_scope

    from spectral_backbones.engine.config import load

    cfg = load(str(next((ROOT / "configs/detection/digits").glob("mask-rcnn*.py"))), data_root=str(tmp_path / "digits"))
    init_default_scope("mmdet")
    cfg.train_dataloader.dataset.recipe = dict(train=3, val=2, size=96)
    data = DATASETS.build(cfg.train_dataloader.dataset)
    sample = data[1]["data_samples"]
    content = json.loads((tmp_path / "digits/annotations/instances_train.json").read_text())
    there = [annotation for annotation in content["annotations"] if annotation["image_id"] == 1]
    assert len(data) == 3 and sample.gt_instances.labels.tolist() == [row["category_id"] - 1 for row in there]
    height, width = sample.img_shape
    areas = sample.gt_instances.masks.areas / (height * width)
    assert areas == pytest.approx([row["area"] / 96**2 for row in there], rel=0.2)
