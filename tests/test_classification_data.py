"""Data sets: real layouts in, pictures and labels out, and a plain word where something is wrong."""

import hashlib
import pickle
import re
import unicodedata
from urllib.error import URLError

import numpy as np
import pytest
import torch
import torchvision
from mmengine.dataset import default_collate
from mmengine.registry import DATASETS
from PIL import Image
from torch.utils.data import DataLoader

from spectral_backbones.classification import UserError
from spectral_backbones.classification.datasets import CIFAR10, CIFAR100, Digits, Flowers102, ImageFolder, StanfordCars
from spectral_backbones.classification.transforms import BandTransform
from spectral_backbones.engine import sampler
from spectral_backbones.engine.errors import plain_message
from spectral_backbones.engine.sampler import EpochSampler, SeededDataset

from .classification_fixtures import SAMPLES, make_cars, make_cifar10, make_flowers, make_folder, picture

TRANSFORM = {"type": "TimmTransform", "input_size": (3, 16, 16), "is_training": True, "auto_augment": "rand-m9"}


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no route to host")

    for module in ("cifar", "flowers102"):
        monkeypatch.setattr(f"torchvision.datasets.{module}.download_and_extract_archive", refuse)


def test_cifar10_reads_the_original_pickles(tmp_path, monkeypatch):
    folder = make_cifar10(tmp_path)
    meta = (folder / "batches.meta").read_bytes()
    monkeypatch.setitem(torchvision.datasets.CIFAR10.meta, "md5", hashlib.md5(meta).hexdigest())
    train = CIFAR10(str(tmp_path), "train", check_integrity=False)
    test = CIFAR10(str(tmp_path), "test", check_integrity=False)
    first = pickle.loads((folder / "data_batch_1").read_bytes())
    assert len(train) == 20 and len(test) == 4
    assert train.labels[:4].tolist() == first["labels"] and train.classes[8] == "ship"
    assert np.array_equal(np.asarray(train.image(1)), first["data"][1].reshape(3, 32, 32).transpose(1, 2, 0))


def test_a_damaged_cifar_pickle_is_told(tmp_path, no_network):
    folder = make_cifar10(tmp_path)
    (folder / "data_batch_3").write_bytes((folder / "data_batch_3").read_bytes()[:100])
    with pytest.raises(UserError, match=f"CIFAR10: a file in {folder} cannot be read"):
        CIFAR10(str(tmp_path), "train", check_integrity=False)


def test_flowers_joins_splits_and_counts_classes_from_zero(tmp_path):
    make_flowers(tmp_path)
    data = Flowers102(str(tmp_path), "train+val", setid="small.mat")
    assert data.labels.tolist() == [0, 76, 0, 76]
    assert data.classes[0] == "pink primrose" and data.classes[76] == "passion flower" and len(data.classes) == 102
    assert [path[-15:] for path in data.paths] == [f"image_{n:05d}.jpg" for n in (1, 2, 3, 4)]


def test_flowers_with_a_label_out_of_range_says_which_labels(tmp_path):
    make_flowers(tmp_path, labels=[1, 103, 1, 1, 1, 1])
    with pytest.raises(UserError, match=r"labels from 0 to 102, but 102 class names"):
        Flowers102(str(tmp_path), "train", setid="small.mat")


def test_flowers_with_a_listed_image_absent_says_how_many_and_which(tmp_path):
    folder = make_flowers(tmp_path)
    (folder / "jpg" / "image_00002.jpg").unlink()
    with pytest.raises(UserError, match=r"1 of 2 listed images are not there, first .*image_00002\.jpg"):
        Flowers102(str(tmp_path), "train", setid="small.mat")


@pytest.mark.parametrize("inside", [True, False], ids=["the folder itself", "the folder above"])
def test_stanford_cars_takes_either_root(tmp_path, inside):
    folder = make_cars(tmp_path)
    root = str(folder if inside else tmp_path)
    train, test = StanfordCars(root, "train"), StanfordCars(root, "test")
    assert train.labels.tolist() == [0, 1, 2, 1] and test.labels.tolist() == [2, 0]
    assert train.classes[2] == "Audi R8 Coupe 2012"
    assert train.image(0).size == (24, 20)


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda root: CIFAR10(root, "train"), ["cifar-10-batches-py/data_batch_1", "batches.meta", "toronto.edu"]),
        (lambda root: CIFAR100(root, "test"), ["cifar-100-python/test", "meta"]),
        (lambda root: Flowers102(root, "val"), ["flowers-102/jpg", "imagelabels.mat", "setid.mat", "robots.ox.ac.uk"]),
        (lambda root: StanfordCars(root, "test"), ["cars_test_annos_withlabels.mat", "cars_test/*.jpg"]),
        (lambda root: ImageFolder(root + "/absent", "train"), ["absent does not exist"]),
    ],
    ids=["cifar10", "cifar100", "flowers", "cars", "folder"],
)
def test_missing_data_are_told_file_by_file(tmp_path, no_network, build, says):
    with pytest.raises(UserError) as error:
        build(str(tmp_path))
    for text in [str(tmp_path), *says]:
        assert text in str(error.value)


def test_a_failed_download_gives_its_reason(tmp_path, no_network):
    with pytest.raises(UserError, match=r"the download failed: .*no route to host"):
        CIFAR10(str(tmp_path), "train")


def test_folder_with_splits(tmp_path):
    make_folder(tmp_path, per_class=3)
    data = ImageFolder(str(tmp_path), "train")
    assert data.classes == ("blue", "green", "red") and data.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(ImageFolder(str(tmp_path), "test")) == 9  # val stands for a test split that is not there


def test_folder_without_splits_holds_out_the_same_part_of_each_class(tmp_path):
    make_folder(tmp_path, splits=(), per_class=10)
    train, val = ImageFolder(str(tmp_path), "train"), ImageFolder(str(tmp_path), "val")
    assert np.bincount(val.labels).tolist() == [2, 2, 2] and len(train) == 24
    assert not set(train.paths) & set(val.paths)
    assert val.paths == ImageFolder(str(tmp_path), "val").paths


def test_folder_mistakes_are_told(tmp_path):
    make_folder(tmp_path, per_class=2)
    (tmp_path / "val" / "violet").mkdir()
    with pytest.raises(UserError, match=r"classes that the training split has not: .*violet"):
        ImageFolder(str(tmp_path), "val")
    with pytest.raises(UserError, match="splits train, val and test, got 'dev'"):
        ImageFolder(str(tmp_path), "dev")


def lay_out(root, *files):
    """Small pictures at these paths, each another."""
    for number, name in enumerate(files):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number, number, size=(9, 8)).save(root / name, format="PNG")
    return root


def split_folders(root):
    return {split: ImageFolder(str(root), split).folder.name for split in ("train", "val", "test")}


@pytest.mark.parametrize(
    ("names", "serve"),
    [
        ("Train Val", "Train Val Val"),
        ("training validation", "training validation validation"),
        ("TRAIN TEST", "TRAIN TEST TEST"),
        ("train valid test", "train valid test"),
        ("train dev eval", "train dev eval"),
        ("Training Testing", "Training Testing Testing"),
        ("train eval test", "train eval test"),
        ("train eval", "train eval eval"),
    ],
)
def test_split_folders_are_known_by_their_usual_names(tmp_path, names, serve):
    lay_out(tmp_path, *(f"{name}/{label}/{label}.png" for name in names.split() for label in ("cat", "dog")))
    assert list(split_folders(tmp_path).values()) == serve.split()
    assert ImageFolder(str(tmp_path), "train").classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ("train_2017/a/1 train_2017/b/1 val_2017/a/1 val_2017/b/1", r"train_2017 looks like a split \(train\)"),
        ("train2017/a/1 train2017/b/1 val2017/a/1", "train2017 looks like a split"),
        ("2023-val/a/1 2023-val/b/1 2023-train/a/1", "2023-train looks like a split"),
        ("dataset_train/a/1 dataset_train/b/1 dataset_test/a/1", "looks like a split"),
        ("MyPhotosTrain/a/1 MyPhotosTrain/b/1 other/a/1", "MyPhotosTrain looks like a split"),
        ("trainset/a/1 trainset/b/1 testset/a/1", "looks like a split"),
        ("train/a/1 train/b/1 val_2017/a/1 val_2017/b/1", "val_2017 looks like a split"),
        ("val/a/1 val/b/1 test/a/1 test/b/1", "has test/, val/ but no folder to train on"),
        ("train/a/1 train/b/1", "has train/ but neither val/ nor test/"),
        ("Train/1 Train/2 Val/1 Val/2", "Train/, Val/, which look like splits but hold images and no folders"),
        ("train_2017/1 val_2017/1 val_2017/2", "look like splits but hold images"),
        ("train/a/1 train/b/1 val/a/1 valid/b/1", "val/, valid/, which both could serve as val"),
        ("Train/a/1 Train/b/1 train/a/1 val/b/1", "Train/, train/, which both could serve as train"),
        ("cat/train/1 cat/val/1 dog/train/1 dog/val/1", "cat holds train/, val/: splits are folders above"),
        ("train/cat/test/1 train/cat/train/1 train/dog/1 val/cat/1", "cat holds test/, train/"),
        ("cat/x/training/1 cat/x/testing/1 dog/x/1", "cat/x holds"),
        ("2021/cat/1 2021/dog/1 2022/cat/1 2022/dog/1", "2021/, 2022/, which hold the same sub-folders"),
        ("fold_1/cat/1 fold_1/dog/1 fold_2/cat/1 fold_2/dog/1", "fold_1/, fold_2/, which hold the same sub-folders"),
        ("tr/cat/1 tr/dog/1 te/cat/1 te/dog/1", "te/, tr/, which hold the same sub-folders"),
        ("setA/cat/1 setA/dog/1 setB/cat/1", "setA/, setB/, which hold the same sub-folders"),
        ("cat/cat_train/1 cat/cat_val/1 dog/x/1", "cat holds cat_train/, cat_val/"),
        ("cat/old_train/1 cat/old_test/1 dog/x/1", "cat holds old_test/, old_train/"),
        ("cat/train/1 cat/cat_val/1 dog/x/1", "cat holds cat_val/, train/"),
        ("train/images/1 train/images/2 train/labels/x/ val/images/1", "only images has images: a classifier needs"),
        ("all/a/1 all/b/1", "two classes or more, found .'all'.; if its folders a, b are meant, name"),
    ],
)
def test_what_looks_like_splits_and_is_not_is_refused_by_name(tmp_path, files, says):
    lay_out(tmp_path, *(f"{name}.png" for name in files.split()))
    with pytest.raises(UserError, match=says):
        ImageFolder(str(tmp_path), "train")


@pytest.mark.parametrize(
    "files",
    [
        "train/1 car/1 car/2 train/2 bus/1 bus/2",
        "bullet_train/1 bullet_train/2 test_tube/1 test_tube/2",
        "valley/1 valley/2 trainer/1 trainer/2 devil/1 devil/2",
        "cat/day/1 cat/day/2 dog/day/1 dog/night/2",
        "cat/2021/1 cat/2022/2 dog/2021/1 dog/2022/2",
        "1/left/1 1/right/2 2/left/1 2/right/2",
        "vehicles/train/1 vehicles/car/1 tools/hammer/1 tools/saw/1",
        "shots.png/1 shots.png/2 b/1 b/2",
    ],
)
def test_classes_that_share_a_word_with_splits_are_classes(tmp_path, files):
    lay_out(tmp_path, *(f"{name}.png" for name in files.split()))
    data = ImageFolder(str(tmp_path), "train")
    assert data.classes == tuple(sorted({name.split("/")[0] for name in files.split()}))
    assert len(data) + len(ImageFolder(str(tmp_path), "val")) == len(files.split())


def test_classes_that_hold_the_same_folders_are_told(tmp_path):
    """As splits under names in another language would."""
    lay_out(tmp_path, *(f"{name}/{label}/1.png" for name in ("übung", "prüfung") for label in ("cat", "dog")))
    says = (
        "prüfung/, übung/ are taken for classes, though each holds the same sub-folders, cat/, dog/: .* dataset.splits="
    )
    assert re.search(says, "\n".join(ImageFolder(str(tmp_path), "train").describe()))
    lay_out(tmp_path, "prüfung/fox/1.png")
    assert not any("taken for" in line for line in ImageFolder(str(tmp_path), "train").describe())


def test_a_user_says_which_folders_are_splits(tmp_path):
    lay_out(tmp_path, *(f"{year}/{name}/1.png" for year in ("train_21", "train_22") for name in ("a", "b")))
    named = dict(train="train_21", val="train_22")
    assert ImageFolder(str(tmp_path), "test", splits=named).folder.name == "train_22"
    assert ImageFolder(str(tmp_path), "train", splits={}).classes == ("train_21", "train_22")
    for splits, says in (({"dev": "x"}, "got dev"), ({"train": "train_21"}, "one for val"), ({"train": "x"}, "one")):
        with pytest.raises(UserError, match=says):
            ImageFolder(str(tmp_path), "train", splits=splits)


def test_data_say_what_serves_as_what_and_what_is_not_used(tmp_path):
    lay_out(tmp_path, *(f"train/c{number:02d}/{number}.png" for number in range(12)))
    lay_out(tmp_path, "valid/c00/1.png", "extra/a/1.png")
    (tmp_path / "train" / "c00" / "photo.heic").write_bytes(b"x")
    lay_out(tmp_path, "train/loose.png", "train/.ipynb_checkpoints/1.png", "train/c01/._2.png", "flat.png")
    (tmp_path / "train" / "rare").mkdir()
    (tmp_path / "train" / "c02" / "link.png").symlink_to(tmp_path / "train" / "c03" / "3.png")
    train = "\n".join(ImageFolder(str(tmp_path), "train").describe())
    assert f"train images: {tmp_path / 'train'}, 12 in 13 classes: c00, c01, c02," in train
    assert "c09, ..." in train and "c10" not in train.splitlines()[0]
    for note in (
        "1 file passed over: 1 .heic",
        "1 image in .*train beside the class folders",
        "no images of 1 class: rare",
        "extra/, which is beside the splits, is not used",
        "1 image beside the splits",
        "1 link in c02 left out: .*c02/link.png, which is .*c03/3.png",
    ):
        assert re.search(note, train), (note, train)
    val = ImageFolder(str(tmp_path), "val")
    assert f"val images: {tmp_path / 'valid'}, 1 in 1 class" in val.describe()[0] and len(val.classes) == 13
    assert "no images of 12 classes: c01" in "\n".join(val.describe())


def test_a_rare_class_is_trained_on_and_not_held_out(tmp_path):
    lay_out(tmp_path, "cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png", "lynx/1.png")
    train, val = ImageFolder(str(tmp_path), "train"), ImageFolder(str(tmp_path), "val")
    assert np.bincount(train.labels).tolist() == [1, 1, 1] and np.bincount(val.labels).tolist() == [1, 1]
    said = "\n".join(val.describe())
    assert "2 in 2 classes; these: of 5, 2 are held out, 0.2 of each class, the same every time" in said
    assert "3 in 3 classes: cat, dog, lynx" in train.describe()[0]
    assert "one image only, which is trained on and not held out, have 1 class: lynx" in said


def test_names_that_differ_in_unicode_form_are_told_by_code_points(tmp_path):
    one, other = unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")
    lay_out(tmp_path, f"train/{one}/1.png", "train/tea/1.png", f"val/{other}/1.png")
    with pytest.raises(UserError, match=r"U\+0065 U\+0301\) is 'café' \(U\+00E9\)"):
        ImageFolder(str(tmp_path), "val")
    lay_out(tmp_path, f"train/{other}/1.png")
    with pytest.raises(UserError, match=r"two classes called .* only in Unicode form: U\+.* and U\+"):
        ImageFolder(str(tmp_path), "train")


def test_a_folder_has_its_own_background(tmp_path):
    lay_out(tmp_path, "a/1.png", "a/2.png", "b/1.png", "b/2.png")
    for path in tmp_path.rglob("*.png"):
        Image.new("RGBA", (4, 4), (1, 2, 3, 0)).save(path)
    assert ImageFolder(str(tmp_path), "train").image(0).getpixel((0, 0)) == (255, 255, 255)
    assert ImageFolder(str(tmp_path), "train", background=[0, 9, 0]).image(0).getpixel((0, 0)) == (0, 9, 0)
    with pytest.raises(UserError, match="red, green and blue"):
        ImageFolder(str(tmp_path), "train", background="white")


def test_bands_are_cropped_flipped_and_erased_alone():
    values = np.arange(20 * 30 * 5).reshape(20, 30, 5).astype(np.uint16)
    settings = dict(input_size=(5, 12, 12), mean=[10.0] * 5, std=[2.0, 4, 4, 4, 4])
    middle = BandTransform(**settings, crop_pct=1.0)(values)
    assert middle.shape == (5, 12, 12)
    assert middle[0, 6, 6].item() * 2 == pytest.approx(middle[1, 6, 6].item() * 4 - 1, abs=1)
    trained = BandTransform(**settings, is_training=True, re_prob=1.0)(values)
    assert trained.shape == (5, 12, 12) and (trained == 0).all(0).any()
    for wrong, says in (({"std": [1.0] * 4}, "std must be 5 numbers"), ({"std": [0.0] * 5}, "std must be positive")):
        with pytest.raises(UserError, match=says):
            BandTransform(**{**settings, **wrong})


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_cut_short_is_named(tmp_path, workers):
    make_folder(tmp_path, per_class=2)
    broken = tmp_path / "train" / "green" / "1.png"
    broken.write_bytes(broken.read_bytes()[:200])
    data = ImageFolder(str(tmp_path), "train", TRANSFORM)
    with pytest.raises(UserError) as error:
        list(DataLoader(data, batch_size=2, num_workers=workers, collate_fn=default_collate))
    assert plain_message(error.value).startswith(f"cannot read image {broken}: ")
    assert "\n" not in plain_message(error.value)


def test_digits_are_split_once_and_evenly():
    train, test = Digits("train"), Digits("test")
    assert len(train) == 1437 and len(test) == 360
    assert np.abs(np.bincount(test.labels) - 36).max() <= 1
    seen = {image.tobytes() for image in train.pixels}
    assert sum(image.tobytes() in seen for image in test.pixels) == 0
    assert test.image(0).size == (8, 8) and test.pixels.max() == 255


def batches(data, workers, epoch, seed=3):
    order = EpochSampler(data, seed)
    order.set_epoch(epoch)
    loader = DataLoader(
        SeededDataset(data), batch_size=8, sampler=order, num_workers=workers, collate_fn=default_collate
    )
    return {
        int(index): image for batch in loader for index, image in zip(batch["indices"], batch["inputs"], strict=True)
    }


def test_augmentation_depends_on_seed_epoch_and_sample_alone(tmp_path):
    """A run may go on with another number of workers, and ends the same."""
    data = ImageFolder(str(make_folder(tmp_path)), "train", TRANSFORM)
    alone, many, later = batches(data, 0, 1), batches(data, 2, 1), batches(data, 0, 2)
    assert list(alone) == list(many) and list(alone) != list(later)
    assert all(torch.equal(alone[index], many[index]) for index in alone)
    assert not any(torch.equal(alone[index], later[index]) for index in alone)


def test_two_processes_share_out_the_batches_of_one(monkeypatch):
    """With a batch half as large each holds, at any time, half of the batch that one process would hold."""
    data = range(101)
    whole = list(EpochSampler(data, 0))
    parts = []
    for rank in range(2):
        monkeypatch.setattr(sampler, "get_dist_info", lambda rank=rank: (rank, 2))
        parts.append(list(EpochSampler(data, 0)))
    assert len(parts[0]) == len(parts[1]) == 50
    for start in range(0, 48, 4):
        together = {*parts[0][start : start + 4], *parts[1][start : start + 4]}
        assert together == set(whole[2 * start : 2 * start + 8])


needs_samples = pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no sample data at {SAMPLES}")


@needs_samples
@pytest.mark.parametrize(
    ("config", "length", "classes"),
    [
        (dict(type="CIFAR10", root="cifar10", split="train", check_integrity=False), 2500, 10),
        (dict(type="CIFAR10", root="cifar10", split="test", check_integrity=False), 500, 10),
        (dict(type="CIFAR100", root="cifar100", split="train", check_integrity=False), 900, 100),
        (dict(type="Flowers102", root="flowers102", split="train"), 1020, 102),
        (dict(type="Flowers102", root="flowers102", split="test", setid="setid_subset.mat"), 102, 102),
        (dict(type="StanfordCars", root="stanford_cars", split="train"), 100, 196),
        (dict(type="StanfordCars", root=".", split="test"), 40, 196),
    ],
    ids=lambda value: f"{value['type']}-{value['split']}" if isinstance(value, dict) else None,
)
def test_the_real_samples_open(config, length, classes):
    data = DATASETS.build(dict(config, root=str(SAMPLES / config["root"]), transform=TRANSFORM))
    assert len(data) == length and len(data.classes) == classes
    assert data[length - 1]["inputs"].shape == (3, 16, 16)


@needs_samples
def test_a_subset_of_cifar_is_refused_unless_allowed(no_network):
    with pytest.raises(UserError, match="check_integrity=False for a subset"):
        CIFAR10(str(SAMPLES / "cifar10"), "train")
