"""NIfTI files in and out, data sets in their layouts, and what is said of files that cannot be taken."""

import json

import nibabel
import numpy as np
import pytest
import torch

from spectral_backbones.engine.errors import UserError
from spectral_backbones.volumes import nifti
from spectral_backbones.volumes.dataset import VolumeDataset
from spectral_backbones.volumes.digits import Recipe, make_digits
from spectral_backbones.volumes.layouts import LAYOUTS, SPLITS, find_cases

from .fixtures import AFFINE, labels, make_acdc, make_decathlon, make_synapse, save, scan


def names(cases):
    return [case.name for case in cases]


def test_decathlons_classes_and_cases_are_dealt_into_folds(tmp_path):
    root = make_decathlon(tmp_path, cases=10)
    held_out = []
    for fold in range(5):
        classes, val = find_cases("decathlon", root, "val", fold)
        _, train = find_cases("decathlon", root, "train", fold)
        assert sorted(names(train) + names(val)) == [f"case_{number}" for number in range(10)]
        held_out += names(val)
    with pytest.raises(UserError, match="fold is '1', it has to be a whole number"):
        find_cases("decathlon", root, "val", "1")
    assert classes == ["background", "edema", "core"]
    assert sorted(held_out) == [f"case_{number}" for number in range(10)]


def test_a_split_of_the_users_own_is_taken(tmp_path):
    root = make_decathlon(tmp_path)
    split = [{"train": ["case_3"], "val": ["case_1", "case_2"]}]
    (root / "splits_final.json").write_text(json.dumps(split))
    assert names(find_cases("decathlon", root, "train")[1]) == ["case_3"]
    assert names(find_cases("decathlon", root, "test")[1]) == ["case_1", "case_2"]


@pytest.mark.parametrize("where", ["Training", "Abdomen/RawData/Training", "."])
def test_synapse_has_the_official_split(tmp_path, where):
    make_synapse(tmp_path / "made")
    root = tmp_path / "moved" / where
    root.parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "made" / "Training").rename(root)
    classes, train = find_cases("synapse", tmp_path / "moved", "train")
    assert names(train) == ["img0005", "img0006", "img0040"]
    assert names(find_cases("synapse", tmp_path / "moved", "test")[1]) == ["img0001", "img0002"]
    assert len(classes) == 14 and classes[6] == "liver"


def test_task01_has_the_official_split():
    split = LAYOUTS["decathlon_task01"].splits([f"BRATS_{number:03d}" for number in range(1, 485)])
    assert [len(split[part]) for part in SPLITS] == [387, 73, 24]
    assert len({name for part in SPLITS for name in split[part]}) == 484
    assert "BRATS_011" in split["val"] and "BRATS_058" in split["test"] and "BRATS_484" in split["train"]


def test_task01_is_split_as_far_as_it_is_there(tmp_path):
    root = make_decathlon(tmp_path, names=["BRATS_001", "BRATS_011", "BRATS_058"])
    assert [names(find_cases("decathlon_task01", root, part)[1]) for part in SPLITS] == [
        ["BRATS_001"],
        ["BRATS_011"],
        ["BRATS_058"],
    ]
    with pytest.raises(UserError, match="fold is 1, and the set has a split of its own: leave fold out"):
        find_cases("decathlon_task01", root, "val", fold=1)


def test_cases_without_a_number_have_no_official_split(tmp_path):
    root = make_decathlon(tmp_path, names=["head"])
    with pytest.raises(UserError, match=r"case head has no number.*splits_final"):
        find_cases("decathlon_task01", root, "train")


def test_acdc_has_the_official_split_and_two_frames_a_patient(tmp_path):
    root = make_acdc(tmp_path)
    classes, train = find_cases("acdc", root, "train")
    assert names(train) == ["patient001_frame01", "patient001_frame12"]
    assert {name[:10] for name in names(find_cases("acdc", root, "val")[1])} == {"patient089", "patient090"}
    assert {name[:10] for name in names(find_cases("acdc", root, "test")[1])} == {"patient002"}
    assert classes == ["background", "right ventricle", "myocardium", "left ventricle"]


def test_channels_come_first_and_spacing_from_the_affine(tmp_path):
    data = scan(channels=2)
    volume = nifti.read(save(tmp_path / "a.nii.gz", data))
    np.testing.assert_array_equal(volume.data, np.moveaxis(data, -1, 0))
    assert volume.spacing == pytest.approx((0.9, 0.8, 2.5))


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_labels_are_written_where_the_volume_lies(tmp_path, kind, ending):
    image = kind(scan(channels=2), AFFINE)
    image.header.set_slope_inter(2, -1024)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / f"scan{ending}")
    volume = nifti.read(tmp_path / f"scan{ending}")
    nifti.write_labels(tmp_path / "labels.nii.gz", labels(), volume)
    written = nibabel.load(tmp_path / "labels.nii.gz")
    assert type(written) is kind and written.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(np.asarray(written.dataobj), labels())
    np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
    assert written.header.get_zooms() == pytest.approx((0.9, 0.8, 2.5))
    assert written.header.get_xyzt_units()[0] == "mm"


def with_nan(root):
    data = scan().astype(np.float32)
    data[3, 4, 2] = np.nan
    return save(root / "scan.nii.gz", data)


def cut_short(root):
    path = save(root / "scan.nii.gz", scan())
    path.write_bytes(path.read_bytes()[:500])
    return path


def flat(root):
    return save(root / "scan.nii.gz", scan()[..., 0])


def nowhere(root):
    image = nibabel.Nifti1Image(scan(), np.diag([1.0, 1.0, 1.0, 1.0]))
    image.header["srow_x"] = 0
    nibabel.save(image, root / "scan.nii")
    raw = bytearray((root / "scan.nii").read_bytes())
    raw[280:296] = bytes(16)  # srow_x
    (root / "scan.nii").write_bytes(raw)
    return root / "scan.nii"


def of_type(dtype, **changes):
    """A file of a type, with numbers of its header written over: {offset: value, of NumPy's type}."""

    def make(root):
        data = scan().astype(dtype) if dtype != "rgb" else np.zeros((4, 4, 4), [(band, "u1") for band in "RGB"])
        path = save(root / "scan.nii", data)
        raw = bytearray(path.read_bytes())
        for offset, value in changes.items():
            place = int(offset.removeprefix("at"))
            raw[place : place + value.nbytes] = value.tobytes()
        path.write_bytes(raw)
        return path

    return make


def with_a_flipped_bit(root):
    """A compressed file that can be unpacked: its checksum alone tells."""
    path = save(root / "scan.nii.gz", scan())
    raw = bytearray(path.read_bytes())
    raw[-6] ^= 1
    path.write_bytes(raw)
    return path


def compressed_under_another_name(root):
    return save(root / "scan.nii.gz", scan()).rename(root / "scan.nii")


@pytest.mark.parametrize("make, message", [
    (with_nan, "1 voxels that are no numbers"),
    (with_a_flipped_bit, "cannot be read, it is damaged"),
    (compressed_under_another_name, "it is compressed: call it .nii.gz"),
    (of_type("c8"), "holds complex numbers"),
    (of_type("rgb"), "holds colours"),
    (of_type("i2", at70=np.int16(999)), "damaged or no NIfTI file: data code 999"),
    (of_type("i2", at42=np.int16(-5)), "damaged or no NIfTI file"),
    (cut_short, "cannot be read, it is damaged"),
    (flat, "has the shape"),
    (nowhere, "places no voxel in space"),
    (lambda root: root / "gone.nii.gz", "does not exist"),
    (lambda root: root.joinpath("scan.nii").write_bytes(b"none") and root / "scan.nii", "damaged or no NIfTI file"),
    (lambda root: root.joinpath("scan.png").write_bytes(b"none") and root / "scan.png", "is no NIfTI file"),
])  # fmt: skip
def test_a_volume_that_cannot_be_taken_is_named(tmp_path, make, message):
    path = make(tmp_path)
    with pytest.raises(UserError, match=message) as told:
        nifti.read(path)
    assert str(path) in str(told.value)


def test_labels_that_are_whole_up_to_rounding_are_classes(tmp_path):
    """Scaled files, and those of floats, hold 1.0000001 for 1."""
    path = save(tmp_path / "labels.nii.gz", labels() * np.float64(1.0000001) - 1e-7)
    np.testing.assert_array_equal(nifti.read_labels(path, 3), labels())


@pytest.mark.parametrize("unit, millimetres", [("meter", 1000), ("mm", 1), ("micron", 0.001), ("unknown", 1)])
def test_spacing_is_in_millimetres_whatever_the_unit_of_the_file(tmp_path, unit, millimetres):
    image = nibabel.Nifti1Image(scan(), AFFINE)
    image.header.set_xyzt_units(unit)
    nibabel.save(image, tmp_path / "scan.nii")
    volume = nifti.read(tmp_path / "scan.nii")
    assert volume.spacing == pytest.approx([0.9 * millimetres, 0.8 * millimetres, 2.5 * millimetres])
    nifti.write_labels(tmp_path / "labels.nii", labels(), volume)
    assert nibabel.load(tmp_path / "labels.nii").header.get_xyzt_units()[0] == unit
    nifti.read_labels(tmp_path / "labels.nii", 3, volume)


def test_volumes_in_folders_are_listed_through_links_and_nothing_hidden_is(tmp_path):
    root = tmp_path / "root"
    path = save(root / "a b é.nii.gz", scan())
    save(tmp_path / "outside" / "scan.NII", scan())
    save(root / "__MACOSX" / "c.nii", scan())
    (root / "linked").symlink_to(tmp_path / "outside")
    (root / "dead.nii").symlink_to(root / "nowhere.nii")
    (root / "folder.nii").mkdir()
    (root / "picture.png").touch()
    assert nifti.find_volumes([str(root)]) == [path, root / "linked" / "scan.NII"]


def moved(affine, millimetres=5.0):
    affine = affine.copy()
    affine[0, 3] += millimetres
    return affine


@pytest.mark.parametrize("data, affine, message", [
    (labels(), moved(AFFINE), "by their affines, up to 5 mm apart"),
    (labels(), np.diag([0.9, 0.8, 2.5, 1.0]), "lie elsewhere"),
    (labels((20, 18, 5)), AFFINE, "have 20x18x5 voxels, their volume .* 20x18x6"),
    (labels(num_classes=6), AFFINE, "hold 3, 4, 5, allowed are the classes 0 to 2"),
    (labels() * np.float32(0.5), AFFINE, "hold 0.5"),
    (labels().astype(np.int16) * -1, AFFINE, "hold -2, -1"),
    (np.repeat(labels()[..., None], 2, -1), AFFINE, "have 2 channels"),
])  # fmt: skip
def test_labels_that_do_not_fit_their_volume_are_named(tmp_path, data, affine, message):
    root = make_decathlon(tmp_path, cases=1)
    path = save(root / "labelsTr" / "case_0.nii.gz", data, affine)
    (root / "splits_final.json").write_text(json.dumps([{"train": ["case_0"], "val": ["case_0"]}]))
    dataset = VolumeDataset(str(root), "decathlon", "train", [], is_training=True)
    with pytest.raises(UserError, match=message) as told:
        dataset[0]
    assert str(path) in str(told.value)


def test_an_affine_that_differs_by_rounding_is_the_same(tmp_path):
    root = make_decathlon(tmp_path, cases=1)
    save(root / "labelsTr" / "case_0.nii.gz", labels(), moved(AFFINE, 1e-4))
    (root / "splits_final.json").write_text(json.dumps([{"train": ["case_0"], "val": ["case_0"]}]))
    assert VolumeDataset(str(root), "decathlon", "val", [])[0]["labels"].sum() == labels().sum()


@pytest.mark.parametrize("options, message", [
    (dict(channels=4), "case_0.nii.gz has 2 channels, the model takes 4"),
    (dict(least=(4, 4, 8)), "case_0.nii.gz has 20x18x6 voxels, a patch of the model 4x4x8"),
])  # fmt: skip
def test_a_volume_that_does_not_fit_the_model_is_named(tmp_path, options, message):
    root = make_decathlon(tmp_path, cases=1)
    (root / "splits_final.json").write_text(json.dumps([{"train": ["case_0"], "val": ["case_0"]}]))
    with pytest.raises(UserError, match=message):
        VolumeDataset(str(root), "decathlon", "train", [], **options)[0]


def change(root, key, value):
    path = root / "dataset.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}), encoding="utf-8-sig")


def case(folder):
    return {"image": f"{folder}/x.nii", "label": f"{folder}/y.nii"}


@pytest.mark.parametrize("spoil, message", [
    (lambda root: (root / "dataset.json").unlink(), "has no dataset.json"),
    (lambda root: (root / "dataset.json").write_text("{"), "dataset.json cannot be read as JSON"),
    (lambda root: (root / "dataset.json").write_text("{}"), "dataset.json is not as the Decathlon's"),
    (lambda root: (root / "labelsTr" / "case_1.nii.gz").unlink(), "1 files of .* are missing, first .*case_1.nii.gz"),
    (lambda root: (root / "splits_final.json").write_text('[{"train": ["x"], "val": []}]'), "names cases .* first x"),
    (lambda root: (root / "splits_final.json").write_text("{}"), "is no list of dicts"),
    (lambda root: (root / "splits_final.json").write_text("[]"), "is no list of dicts"),
    (lambda root: (root / "splits_final.json").write_text('[{"train": ["case_0"], "val": null}]'), "no list of dicts"),
    (lambda root: (root / "splits_final.json").write_text('[{"train": [], "val": ["case_0"]}]'), "none of them for tr"),
    (lambda root: make_decathlon(root, classes=map(str, range(257))), "has 257 classes, allowed are 2 to 256"),
    (lambda root: make_decathlon(root, classes=["background"]), "has 1 classes, allowed are 2 to 256"),
    (lambda root: make_decathlon(root, classes=["ground", "core", "core"]), "two labels have one name among ground,"),
    (lambda root: change(root, "labels", {"0": "ground", "1.0": "core"}), "invalid literal"),
    (lambda root: change(root, "training", [case(folder) for folder in "ab"]), "two cases are called x, .*a/x.nii and"),
])  # fmt: skip
def test_a_folder_that_is_none_of_the_layout_is_told(tmp_path, spoil, message):
    root = make_decathlon(tmp_path)
    spoil(root)
    with pytest.raises(UserError, match=message):
        find_cases("decathlon", root, "train")


@pytest.mark.parametrize("arguments, message", [
    (("nifti", ".", "train"), "there is no layout 'nifti'"),
    (("acdc", "gone", "train"), "gone does not exist"),
    (("acdc", ".", "train"), "holds no case of the layout acdc"),
    (("synapse", ".", "train"), "has no folder img"),
    (("acdc", ".", "training"), "allowed are train, val, test"),
])  # fmt: skip
def test_arguments_that_find_nothing_are_told(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        find_cases(*arguments)


def test_volumes_are_resampled_and_labels_stay_for_evaluation(tmp_path):
    root = make_decathlon(tmp_path)
    options = dict(spacing=(1.8, 1.6, 1.25))
    sample = VolumeDataset(str(root), "decathlon", "val", [], **options)[0]
    assert sample["inputs"].shape == (2, 10, 9, 12) and sample["labels"].shape == (1, 20, 18, 6)
    assert sample["spacing"].tolist() == pytest.approx([0.9, 0.8, 2.5])
    crop = VolumeDataset(str(root), "decathlon", "train", [], is_training=True, **options)[0]
    assert crop["labels"].shape == (1, 10, 9, 12) and set(crop["labels"].unique().tolist()) <= {0, 1, 2}


def test_monais_transforms_prepare_volumes(tmp_path):
    root = make_decathlon(tmp_path)
    transforms = [
        dict(type="NormalizeIntensityd", keys=["image"], channel_wise=True),
        dict(type="SpatialPadd", keys=["image", "label"], spatial_size=(24, 24, 8)),
        dict(
            type="RandCropByPosNegLabeld", keys=["image", "label"], label_key="label", spatial_size=(8, 8, 8), neg=0.0
        ),
    ]
    sample = VolumeDataset(str(root), "decathlon", "train", transforms, is_training=True)[0]
    assert sample["inputs"].shape == (2, 8, 8, 8) and type(sample["inputs"]) is torch.Tensor
    assert sample["labels"].any()  # the middle of the crop is no background


def test_kept_volumes_are_what_files_hold_each_time(tmp_path):
    root = make_decathlon(tmp_path)
    transforms = [
        dict(type="NormalizeIntensityd", keys=["image"], nonzero=True, channel_wise=True),
        dict(type="RandFlipd", keys=["image", "label"], prob=0.5),
    ]
    options = dict(split="train", transforms=transforms, is_training=True)
    kept, read = (VolumeDataset(str(root), "decathlon", keep=keep, **options) for keep in (True, False))
    for seed in range(3):
        samples = []
        for dataset in (kept, read):
            np.random.seed(seed)
            samples.append(dataset[1])
        assert all(torch.equal(samples[0][key], samples[1][key]) for key in ("inputs", "labels"))


@pytest.mark.parametrize("transforms, message", [
    ([dict(type="Normalize")], "MONAI has no transform of dicts 'Normalize'"),
    ([dict(type="NormalizeIntensity")], "MONAI has no transform of dicts 'NormalizeIntensity'"),
    ([dict(keys=["image"])], "MONAI has no transform of dicts None, as `type` of {'keys'"),
    ([dict(type="NormalizeIntensityd", keys=["img"])], "case_0.nii.gz cannot be prepared, .*NormalizeIntensityd.*img"),
    ([dict(type="RandCropByPosNegLabeld", keys=["image", "label"], label_key="label", spatial_size=(32, 4, 4))],
     "case_0.nii.gz cannot be prepared, applying transform RandCropByPosNegLabeld: .* larger than the image"),
    ([dict(type="SpatialPadd", keys=["image"], spatial_size=(24, 24, 8))], "24x24x8 .* and 20x18x6 of its labels"),
    ([dict(type="NormalizeIntensityd", keys=["image"], wrong=1)], "NormalizeIntensityd cannot be made"),
    ([dict(type="RandSpatialCropSamplesd", keys=["image", "label"], roi_size=4, num_samples=2)], "2 samples of one"),
    ([dict(type="ScaleIntensityRanged", keys=["image"], a_min=0, a_max=1, b_min=0, b_max=float("inf"))], "no numbers"),
])  # fmt: skip
def test_transforms_that_cannot_work_are_told(tmp_path, transforms, message):
    root = make_decathlon(tmp_path)
    with pytest.raises(UserError, match=message):
        VolumeDataset(str(root), "decathlon", "train", transforms, is_training=True)[0]


def test_crops_that_make_no_batch_are_told_by_the_names_of_both_volumes(tmp_path):
    root = make_decathlon(tmp_path, cases=2)
    (root / "splits_final.json").write_text(json.dumps([{"train": ["case_0", "case_1"], "val": ["case_0"]}]))
    for folder, data in (("imagesTr", scan((20, 10, 6), channels=2)), ("labelsTr", labels((20, 10, 6)))):
        save(root / folder / "case_1.nii.gz", data)
    crop = dict(type="RandSpatialCropd", keys=["image", "label"], roi_size=(12, 12, 6), random_size=False)
    options = dict(split="train", transforms=[crop], is_training=True)
    assert VolumeDataset(str(root), "decathlon", **options)[1]["inputs"].shape == (2, 12, 10, 6)
    dataset = VolumeDataset(str(root), "decathlon", in_batches=True, **options)
    dataset[0]
    with pytest.raises(
        UserError, match=r"12x10x6 voxels of volume .*case_1.nii.gz, and 12x12x6 of .*case_0.nii.gz: put"
    ):
        dataset[1]


def test_transforms_of_whole_volumes_leave_the_size(tmp_path):
    """Predictions would not lie where the file's voxels do."""
    pad = dict(type="SpatialPadd", keys=["image"], spatial_size=(24, 24, 8))
    dataset = VolumeDataset(str(make_decathlon(tmp_path)), "decathlon", "val", [pad])
    with pytest.raises(UserError, match=r"make 24x24x8 voxels of 20x18x6 of volume .*: .* have to leave the size"):
        dataset[0]


@pytest.mark.parametrize("spacing", [(1, 1), (0, 1, 1), 1.0, "111", ("1", 1, 1), (float("nan"), 1, 1), (None, 1, 1)])
def test_a_spacing_that_is_none_is_told(tmp_path, spacing):
    with pytest.raises(UserError, match=r"spacing is .*, it has to be three positive numbers of millimetres"):
        VolumeDataset(str(make_decathlon(tmp_path)), "decathlon", "train", [], spacing=spacing)


def test_a_volume_too_large_once_it_is_resampled_is_told_with_its_own_spacing(tmp_path):
    dataset = VolumeDataset(str(make_decathlon(tmp_path)), "decathlon", "train", [], spacing=(1e-3,) * 3)
    with pytest.raises(
        UserError, match=r"18000x14400x15000 voxels at .*: by its affine its own is \[0.9, 0.8, 2.5\] mm"
    ):
        dataset[0]


def test_digits_are_the_same_for_a_seed_and_lie_as_a_task_of_the_decathlon(tmp_path):
    recipe = Recipe(train=2, val=1)
    assert make_digits(tmp_path / "one", recipe) and make_digits(tmp_path / "two", recipe)
    assert not make_digits(tmp_path / "one", recipe)  # it is there already
    classes, cases = find_cases("decathlon", tmp_path / "one", "train")
    assert classes == ["background", "0", "1"]
    for case in cases:
        volume = nifti.read(case.image)
        found = nifti.read_labels(case.label, len(classes), volume)
        other = nifti.read(tmp_path / "two" / "imagesTr" / case.image.name)
        np.testing.assert_array_equal(volume.data, other.data)
        assert found.any() and volume.spacing == (1.0, 1.0, 2.0)
        assert volume.data[0][found > 0].mean() > volume.data[0][found == 0].mean() + 100
    with pytest.raises(UserError, match="holds digits made with train=2"):
        make_digits(tmp_path / "one", Recipe(train=3, val=1))


def test_digits_are_tilted_along_the_axis_that_they_are_swept_along(tmp_path):
    make_digits(tmp_path / "set", Recipe(train=8, val=1))
    drifts = []
    for case in find_cases("decathlon", tmp_path / "set", "train")[1]:
        found = nifti.read_labels(case.label, 5)
        for label in set(np.unique(found)) - {0}:
            slices = [np.argwhere(found[..., depth] == label) for depth in range(found.shape[2])]
            centres = np.array([one.mean(0) for one in slices if len(one)])
            assert len(centres) >= found.shape[2] // 3
            drifts.append(np.abs(centres[-1] - centres[0]).max())
    assert max(drifts) > 2  # voxels
