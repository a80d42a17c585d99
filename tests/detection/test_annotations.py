"""Annotation files as users bring them: mended as they are read, told of, or refused before the first step."""

import json
import shutil

import numpy as np
import pytest
from mmengine.registry import init_default_scope

pytest.importorskip("mmdet", reason="mmdet is not installed")

import spectral_backbones.detection.hooks  # noqa: F401  installs the reader
from spectral_backbones.detection.annotations import CheckedCOCO
from spectral_backbones.detection.coco_file import mend
from spectral_backbones.detection.toolbox import mmdet
from spectral_backbones.engine.errors import UserError

from ..classification_fixtures import run_here
from .fixtures import make_small_digits, small_detector

CLASSES = ("red", "green", "blue")


@pytest.fixture(autouse=True)
def _scope():
    init_default_scope("mmdet")
    yield
    init_default_scope("mmengine")


def content(**changes):
    """Two images of 40x30, three annotations; `changes` replace keys of the second annotation, None takes one away."""
    square = [[10, 10, 20, 10, 20, 20, 10, 20]]
    annotations = [
        dict(id=5 + n, image_id=1 + n // 2, category_id=n + 1, bbox=[10, 10, 10, 10], area=100, iscrowd=0)
        | dict(segmentation=square)
        for n in range(3)
    ]
    for key, value in changes.items():
        if value is None:
            del annotations[1][key]
        else:
            annotations[1][key] = value
    return dict(
        images=[dict(id=n, file_name=f"{n}.png", width=40, height=30) for n in (1, 2)],
        annotations=annotations,
        categories=[dict(id=n, name=name) for n, name in enumerate(CLASSES, start=1)],
    )


MENDED = [
    (dict(id=0), "1 annotation whose id is missing, 0 or no whole number (first: id 0 of image 1): all numbered anew"),
    (dict(id=None), "whose id is missing, 0 or no whole number"),
    (dict(id="a6"), "whose id is missing, 0 or no whole number"),
    (dict(id=5), "with an id that another has (first: id 5 of image 1): all numbered anew"),
    (dict(area=None), "without an area above 0 (first: id 6 of image 1): filled in, the bbox's"),
    (dict(area=float("nan")), "without an area above 0"),
    (dict(iscrowd=None), "whose iscrowd is missing or not 0 or 1 (first: id 6 of image 1): filled in, 0"),
    (
        dict(bbox=[]),
        "whose bbox is missing or not four finite numbers (first: id 6 of image 1): filled in from",
    ),
    (dict(bbox=None), "filled in from the segmentation"),
    (dict(bbox=[1, 2, "3", 4]), "filled in from the segmentation"),
    (dict(segmentation=[10, 10, 20, 10, 20, 20]), "with parts of a segmentation that are no polygon of three points"),
    (dict(segmentation=[[1, 2], [10, 10, 20, 10, 20, 20]]), "with parts of a segmentation that are no polygon"),
]


@pytest.mark.parametrize(("changes", "says"), MENDED, ids=[f"{changes}" for changes, _ in MENDED])
def test_what_has_one_right_value_is_filled_in(changes, says):
    file = content(**changes)
    (line,) = map(str, mend(file, "x.json", masks=True))
    assert says in line
    assert len(file["annotations"]) == 3 and mend(file, "x.json", masks=True) == []
    numbers = [item["id"] for item in file["annotations"]]
    assert len(set(numbers)) == 3 and 0 not in numbers
    for item in file["annotations"]:
        assert item["bbox"] == [10, 10, 10, 10] and item["area"] == 100 and item["iscrowd"] == 0


DROPPED = [
    (dict(bbox=[], segmentation=[]), "whose bbox is missing or not four finite numbers"),
    (dict(bbox=[1, 2, float("nan"), 4], segmentation=None), "whose bbox is missing or not four finite numbers"),
    (dict(bbox=[20, 20, -10, -10]), "whose bbox has no width or height above 0"),
    (dict(bbox=[20, 20, 0, 5]), "whose bbox has no width or height above 0"),
    (dict(bbox=[50, 5, 5, 5]), "whose bbox lies outside of its picture"),
    (dict(image_id=9), "of a image that the file does not list, image_id 9"),
    (dict(image_id="1"), "ids of image entries are int"),
    (dict(category_id=7), "of a category that the file does not list, category_id 7"),
    (dict(category_id=[1]), "of a category that the file does not list"),
    (dict(segmentation=None), "without a usable segmentation, where masks are asked for"),
    (dict(segmentation=[]), "without a usable segmentation"),
    (dict(segmentation=[[1, 2, 3, 4]]), "without a usable segmentation"),
    (dict(segmentation=[[1, 2, float("nan"), 4, 5, 6]]), "without a usable segmentation"),
    (dict(segmentation=dict(counts="abc", size=[40, 30])), "without a usable segmentation"),
]


@pytest.mark.parametrize(("changes", "says"), DROPPED, ids=[f"{changes}" for changes, _ in DROPPED])
def test_what_has_no_right_value_is_dropped(changes, says):
    file = content(**changes)
    (line,) = map(str, mend(file, "x.json", masks=True))
    assert line.startswith("1 annotation ") and says in line and line.endswith(": dropped")
    assert [item["id"] for item in file["annotations"]] == [5, 7]
    if "segmentation" in changes and "bbox" not in changes:  # which a detector of boxes does not need
        assert mend(content(**changes), "x.json") == []


def test_an_annotation_that_is_there_twice_is_dropped_once():
    file = content()
    file["annotations"].append(dict(file["annotations"][0]))
    assert "that are there twice, under one id" in str(mend(file, "x.json")[0])
    assert [item["id"] for item in file["annotations"]] == [5, 6, 7]


def test_a_sound_file_is_left_as_it_is():
    file = content()
    file["annotations"][0]["segmentation"] = dict(counts=[310, 890], size=[30, 40])
    file["annotations"][1].update(bbox=[-1, -2, 42.5, 33], iscrowd=1)
    before = json.dumps(file)
    assert mend(file, "x.json", masks=True) == [] and json.dumps(file) == before


def spoil(key, value):
    file = content()
    file[key] = value(file[key])
    return file


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (spoil("images", lambda items: [*items, dict(id=1, file_name="3.png")]), "1.png and 3.png are both image 1"),
        (spoil("images", lambda items: [dict(file_name="3.png")]), "image 0 (3.png) has no id"),
        (spoil("categories", lambda items: [*items, dict(id=1, name="pink")]), "'red' and 'pink' are both category 1"),
        (spoil("categories", lambda items: [dict(id=1)]), "category 0 is {'id': 1}, it needs an 'id' and a 'name'"),
        (spoil("annotations", lambda items: dict(a=1)), "its 'annotations' are no list of objects"),
        (
            spoil("annotations", lambda items: [dict(item, image_id=str(item["image_id"])) for item in items]),
            "none of its 3 annotations can be used\n  3 annotations of a image",
        ),
        (
            spoil("annotations", lambda items: [dict(item, bbox=[0.1, 0.1, 0.2, 0.2]) for item in items]),
            "boxes are [x, y, width, height] in pixels",
        ),
        (
            spoil("annotations", lambda items: [dict(item, segmentation=[]) for item in items]),
            "none of its 3 annotations has a segmentation, but masks are asked for",
        ),
        (dict(a=1), "it holds 'a', needed are 'images', 'annotations' and 'categories'"),
    ],
)
def test_what_nobody_can_know_is_refused(file, says):
    with pytest.raises(UserError) as error:
        mend(file, "x.json", masks=True)
    assert str(error.value).startswith("x.json") and says in str(error.value)


def test_boxes_of_corners_are_told():
    file = spoil("annotations", lambda items: [dict(item, bbox=[30, 20, 38, 28]) for item in items])
    assert "3 annotations whose bbox reaches beyond its picture" in str(mend(file, "x.json")[0])


def test_a_category_under_two_ids_is_one():
    file = content()
    file["categories"].append(dict(id=9, name="red"))
    file["annotations"][1]["category_id"] = 9
    assert "1 category entry with a name that another has (first: 'red')" in str(mend(file, "x.json")[0])
    assert file["annotations"][1]["category_id"] == 1 and len(file["categories"]) == 3


@pytest.fixture
def folder(tmp_path):
    return make_small_digits(tmp_path / "digits")


def rewrite(path, change):
    file = json.loads(path.read_text())
    change(file)
    path.write_text(json.dumps(file))


def test_sizes_are_the_pictures(folder):
    path = folder / "annotations" / "instances_train.json"

    def change(file):
        file["images"][0].update(width=32, height=32)
        del file["images"][1]["height"]

    rewrite(path, change)
    file = json.loads(path.read_text())
    lines = [str(fault) for fault in mend(file, str(path), str(folder / "train"))]
    assert "1 image without width or height (first: 1, 000001.jpg): filled in" in lines[0]
    assert "not the picture's (first: 0, 000000.jpg is 64x64, not 32x32): set right" in lines[1]
    assert all((image["width"], image["height"]) == (64, 64) for image in file["images"])


def dataset(path, classes):
    return mmdet.datasets.CocoDataset(ann_file=str(path), metainfo=dict(classes=classes), data_prefix=dict(img=""))


def write(folder, **changes):
    path = folder / "x.json"
    path.write_text(json.dumps({**content(), **changes}))
    return path


@pytest.mark.parametrize("classes", [("blue", "green", "red"), ("red", "green", "blue"), ("blue", "red")])
def test_labels_are_places_in_the_list_of_classes(tmp_path, classes):
    path = write(tmp_path)
    data = dataset(path, classes)
    labels = [item["bbox_label"] for info in data for item in info["instances"]]
    assert [classes[label] for label in labels] == [name for name in CLASSES if name in classes]


@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (
            ("red", "gren", "blue"),
            "no category 'gren' of metainfo.classes, but 'green' beside them; near 'gren'",
        ),
        (("Red", "green", "blue"), "near 'Red': 'red'"),
        (("red", "green", "zebra"), "no category 'zebra' of metainfo.classes, but 'blue' beside them"),
        (("a", "b"), "no category 'a', 'b' of metainfo.classes, but 'red', 'green', 'blue' beside them"),
    ],
)
def test_names_that_the_file_does_not_have_are_refused(tmp_path, classes, says):
    path = write(tmp_path)
    with pytest.raises(UserError) as error:
        dataset(path, classes)
    assert says in str(error.value)
    with pytest.raises(UserError, match="has no category"):
        CheckedCOCO(str(path)).get_cat_ids(cat_names=classes)


def test_a_file_that_lacks_a_category_keeps_the_labels_of_the_others(tmp_path):
    path = write(tmp_path, categories=content()["categories"][1:], annotations=content()["annotations"][1:])
    data = dataset(path, CLASSES)
    assert [item["bbox_label"] for info in data for item in info["instances"]] == [1, 2]
    assert score(path, data, CLASSES)["coco/bbox_mAP"] == 1.0


def test_lists_that_mmdet_publishes_are_read_as_mmdet_reads_them(tmp_path):
    """Its iSAID begins with a background that no file has: published weights are of labels without it."""
    categories = [dict(id=n, name=name) for n, name in enumerate(("ship", "Bridge", "storage_tank"), start=1)]
    data = mmdet.datasets.iSAIDDataset(ann_file=str(write(tmp_path, categories=categories)), data_prefix=dict(img=""))
    assert [item["bbox_label"] for info in data for item in info["instances"]] == [0, 1]


def score(path, data, classes, **settings):
    """Gives a metric the very annotations of the data set."""
    import torch

    metric = mmdet.evaluation.CocoMetric(ann_file=str(path), metric="bbox", **settings)
    metric.dataset_meta = data.metainfo
    for info in data:
        boxes = torch.tensor([item["bbox"] for item in info["instances"]], dtype=torch.float32).reshape(-1, 4)
        labels = torch.tensor([item["bbox_label"] for item in info["instances"]])
        found = dict(bboxes=boxes, labels=labels, scores=torch.linspace(0.9, 0.8, len(labels)))
        metric.process({}, [dict(pred_instances=found, img_id=info["img_id"], ori_shape=(30, 40))])
    return metric.evaluate(len(data))


def test_a_set_and_its_metric_agree_in_any_order(tmp_path):
    annotations = content()["annotations"]
    for number, item in enumerate(annotations):
        item["id"] = number  # 0 counts as not found
        del item["iscrowd"], item["area"]
    annotations[2]["bbox"] = [20, 20, -10, 10]
    classes = ("blue", "red", "green")
    path = write(tmp_path, annotations=annotations)
    found = score(path, dataset(path, classes), classes, classwise=True)
    assert found["coco/bbox_mAP"] == 1.0
    assert found["coco/red_precision"] == found["coco/green_precision"] == 1.0
    assert np.isnan(found["coco/blue_precision"])


def train(config, folder):
    return run_here("train.py", config, "--work-dir", folder / "run")


def test_a_run_on_annotations_with_faults_trains_and_says_what_was_done(folder, tmp_path):
    for split in ("train", "val"):

        def change(file):
            file["categories"].reverse()
            for number, item in enumerate(file["annotations"]):
                item["id"] = number
                del item["area"], item["iscrowd"]
            file["annotations"][1]["segmentation"] = []
            file["annotations"][2]["image_id"] = 999

        rewrite(folder / "annotations" / f"instances_{split}.json", change)
    train(small_detector(tmp_path, folder), tmp_path)
    (log,) = (tmp_path / "run").glob("*/*.log")
    text = log.read_text()
    for split in ("train", "val"):
        assert text.count(f"instances_{split}.json, as it was read:\n") == 1
    assert "without a usable segmentation, where masks are asked for (first: id 1" in text
    assert (tmp_path / "run" / "epoch_2.pth").is_file()


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        ("val_dataloader['dataset']['metainfo'] = dict(classes=tuple('1023456789'))", "in two orders"),
        ("val_evaluator['ann_file'] = '{root}/annotations/other.json'", "has no image"),
    ],
    ids=["order", "file"],
)
def test_sets_and_metrics_that_do_not_fit_are_refused_before_the_first_step(folder, tmp_path, lines, says):
    annotations = folder / "annotations"
    shutil.copy(annotations / "instances_val.json", annotations / "other.json")

    def change(file):
        file["images"] = [dict(image, id=image["id"] + 500) for image in file["images"]]
        file["annotations"] = [dict(item, image_id=item["image_id"] + 500) for item in file["annotations"]]

    rewrite(annotations / "other.json", change)
    config = small_detector(tmp_path, folder)
    config.write_text(config.read_text() + lines.format(root=folder))
    with pytest.raises(UserError, match=says):
        train(config, tmp_path)
    assert not list((tmp_path / "run").glob("*.pth"))


def test_a_validation_set_without_annotations_is_told(folder, tmp_path):
    rewrite(folder / "annotations" / "instances_val.json", lambda file: file.update(annotations=[]))
    try:
        train(small_detector(tmp_path, folder), tmp_path)
    finally:
        (log,) = (tmp_path / "run").glob("*/*.log")
        assert "has no annotations of the 10 classes, so there are no figures" in log.read_text()


XML = """<annotation><size><width>40</width><height>30</height></size>
<object><name>{name}</name><bndbox><xmin>{left}</xmin><ymin>5</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object>
</annotation>"""


def voc(folder, classes, name="dog", left=5):
    (folder / "Annotations").mkdir()
    (folder / "Annotations" / "1.xml").write_text(XML.format(name="cat", left=5))
    (folder / "Annotations" / "2.xml").write_text(XML.format(name=name, left=left))
    (folder / "list.txt").write_text("1\n2\n")
    return mmdet.datasets.XMLDataset(
        data_root=str(folder), ann_file="list.txt", data_prefix=dict(sub_data_root=""), metainfo=dict(classes=classes)
    )


def test_xml_files_are_read_for_their_names(tmp_path):
    with pytest.raises(UserError, match=r"has no category 'dgo' .* near 'dgo': 'dog'"):
        voc(tmp_path, ("cat", "dgo"))


@pytest.mark.parametrize("classes", [("cat", "dog"), ("cat",), ("cat", "dog", "zebra")])
def test_xml_files_with_other_names_or_without_a_rare_one_pass(tmp_path, classes):
    data = voc(tmp_path, classes)
    assert len([item for info in data for item in info["instances"]]) == (1 if classes == ("cat",) else 2)


def test_an_inverted_box_of_xml_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"2\.xml has a dog whose bndbox is inverted: xmin 30, ymin 5, xmax 20"):
        voc(tmp_path, ("cat", "dog"), left=30)
