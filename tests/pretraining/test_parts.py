"""The parts of a run without labels: views, folders, frames, neighbours, the learning rate."""

import numpy as np
import pytest
import torch
from mmengine.optim import OptimWrapper
from PIL import Image

from spectral_backbones.classification.datasets import Digits, ImageFolder
from spectral_backbones.engine import UserError
from spectral_backbones.methods.schedule import warmup_cosine
from spectral_backbones.pretraining import BankAndQueries, FrameFolder, TwoViews, Unlabelled, UnlabelledFolder, VICRegLR
from spectral_backbones.pretraining.neighbours import nearest

from ..classification_fixtures import make_folder, picture
from . import make_frames, make_pictures

PLAIN = dict(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)
STILL = dict(PLAIN, scale=(1.0, 1.0), hflip=0.0, jitter_prob=0.0, grey_prob=0.0, blur_prob=(0.0, 0.0))


# Views


def test_views_differ_from_one_another_and_repeat_with_the_seed():
    views = TwoViews(**PLAIN)
    image = picture(0, 0)
    torch.manual_seed(0)
    first, second = views(image)
    assert first.shape == second.shape == (3, 16, 16) and not torch.equal(first, second)
    torch.manual_seed(0)
    assert all(torch.equal(one, other) for one, other in zip(views(image), (first, second), strict=True))


def test_each_view_has_its_own_probabilities():
    image = Image.fromarray(np.random.RandomState(0).randint(0, 256, (16, 16, 3), dtype=np.uint8))
    whole = torch.from_numpy(np.asarray(image).transpose(2, 0, 1) / 127.5 - 1).float()
    blurred, plain = TwoViews(
        **{**STILL, "blur_prob": (1.0, 0.0), "blur_sigma": (2.0, 2.0), "solarize_prob": (0.0, 0.0)}
    )(image)
    assert torch.allclose(plain, whole, atol=1e-5) and blurred.std() < 0.8 * plain.std()
    plain, solarized = TwoViews(**{**STILL, "solarize_prob": (0.0, 1.0)})(image)
    assert torch.allclose(plain, whole, atol=1e-5)
    assert torch.allclose(solarized, torch.where(whole > 0, -whole, whole), atol=1e-5)  # 128 and more are inverted


def test_views_of_one_channel_are_grey_and_neighbours_are_whole():
    views = TwoViews((1, 16, 16), (0.5,), (0.5,))
    assert [view.shape for view in views(picture(1, 1))] == [(1, 16, 16)] * 2
    half = Image.new("RGB", (40, 40))
    half.paste((255, 255, 255), (20, 0, 40, 40))
    shade = TwoViews(**{**STILL, "scale": (0.01, 0.02)}).neighbour(half)
    assert shade[0, 8, 0] < -0.9 and shade[0, 8, -1] > 0.9
    with pytest.raises(UserError, match="1 or 3 channels, not 5"):
        TwoViews((5, 16, 16), (0.5,) * 5, (0.5,) * 5)


# Folders


def test_all_pictures_of_a_folder_are_found_once_and_read_as_everywhere(tmp_path):
    data = make_pictures(tmp_path / "pictures", count=8)
    (data / "link.png").symlink_to(data / "0.png")
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(data / "clear.png")
    folder = UnlabelledFolder(str(data))
    assert len(folder) == 9
    said = "\n".join(folder.describe())
    assert "1 link to images that are there already" in said and "1 file passed over: 1 .txt" in said
    place = folder.paths.index(str(data / "clear.png"))
    assert folder.image(place).getpixel((0, 0)) == (255, 255, 255)  # opacity shows the background
    (data / "broken.png").write_bytes(b"none")
    broken = UnlabelledFolder(str(data))
    with pytest.raises(UserError, match=r"broken\.png: it is damaged"):
        broken.image(broken.paths.index(str(data / "broken.png")))


def test_splits_that_would_be_learnt_from_are_told(tmp_path):
    said = "\n".join(UnlabelledFolder(str(make_folder(tmp_path, per_class=2))).describe())
    assert "images without labels" in said and "val/ are among them" in said


def test_labels_of_a_data_set_do_not_reach_the_model():
    data = Unlabelled(dict(type="Digits", split="test"), TwoViews((1, 16, 16), (0.5,), (0.5,)))
    assert set(data[3]) == {"inputs", "indices"} and len(data[3]["inputs"]) == 2
    assert data.metainfo == {} and len(data) == len(Digits("test"))


# Frames


def test_frames_go_by_their_numbers_and_not_by_their_letters(tmp_path):
    data = FrameFolder(str(make_frames(tmp_path, count=12, clips=("one",))), gap=2)
    names = [[data.paths[place].rpartition("_")[2] for place in frame] for frame in data.frames]
    assert ["10.png", "8.png", "12.png"] in names and len(names) == 8


def test_a_gap_in_the_numbers_is_no_neighbourhood_and_their_step_is_the_usual_one(tmp_path):
    root = make_frames(tmp_path, count=12, clips=("one",))
    (root / "one" / "frame_13.png").unlink()
    data = FrameFolder(str(root), gap=1)
    shown = {int(data.paths[frame.now].rpartition("_")[2][:-4]) for frame in data.frames}
    assert shown == {9, 10, 11, 15, 16, 17, 18}
    for number, path in enumerate(sorted((root / "one").iterdir(), key=lambda path: int(path.stem[6:]))):
        path.rename(root / f"cam 1 {5 * number:04d} left.png")  # another number before, and letters behind
    data = FrameFolder(str(root), gap=1)
    assert len(data) == 9 and "9 frames with neighbours in 1 sequence" in data.describe()[0]


def test_several_sequences_lie_in_one_folder_and_what_is_none_is_told(tmp_path):
    root = make_frames(tmp_path, count=8, clips=("one",))
    for path in list((root / "one").iterdir()):
        Image.open(path).save(path.with_name(f"other_{path.stem[6:]}.png"))
    for name in ("short_1", "short_2", "cover"):
        picture(0, 0).save(root / "one" / f"{name}.png")
    data = FrameFolder(str(root))
    assert len(data) == 4 and data.sequences == 2
    said = "\n".join(data.describe())
    assert "1 sequence shorter than 7 frames" in said and "1 image without a number" in said


def test_numbered_pictures_of_several_sizes_are_no_frames(tmp_path):
    for number in range(9):
        picture(0, number, size=(24 + number % 2, 20)).save(tmp_path / f"IMG_{number:04d}.jpg")
    with pytest.raises(UserError, match="frames of one video have one size"):
        FrameFolder(str(tmp_path))


# Neighbours


def test_neighbours_vote_by_their_similarity():
    torch.manual_seed(0)
    bank, queries, labels = torch.randn(30, 5), torch.randn(12, 5), torch.randint(3, (30,))
    found = nearest(queries, bank, labels, k=7, temperature=0.1, chunk=5)
    for query, label in zip(queries, found, strict=True):
        similar = torch.cosine_similarity(query[None], bank)
        votes = torch.zeros(3)
        for place in similar.argsort(descending=True)[:7]:
            votes[labels[place]] += (similar[place] / 0.1).exp()
        assert votes.argmax() == label
    assert torch.equal(nearest(bank, bank, labels, k=1), labels)
    assert len(nearest(queries, bank[:2], labels[:2], k=20)) == 12  # fewer than k


def test_the_bank_comes_first_and_takes_so_many_of_each_class(tmp_path):
    root = str(make_folder(tmp_path, per_class=4))
    bank, queries = (dict(type="ImageFolder", root=root, split=split) for split in ("train", "val"))
    data = BankAndQueries([bank, queries], per_class=2)
    assert data.metainfo == {"bank": 6} and len(data) == 6 + 12
    assert [data[place]["labels"] for place in range(6)] == [0, 0, 1, 1, 2, 2]
    last = data[len(data) - 1]
    assert last["labels"] == 2 and last["inputs"].size == ImageFolder(root, "val").image(11).size
    with pytest.raises(UserError, match="find itself"):
        BankAndQueries([bank, dict(bank)])
    with pytest.raises(UserError, match="the bank, ImageFolder, has the classes"):
        other = str(make_folder(tmp_path / "other", classes=("a", "b", "c")))
        BankAndQueries([bank, dict(queries, root=other)])


# The learning rate


def test_the_schedule_of_the_runner_is_the_authors():
    """100 epochs of 10 steps, counted in epochs by the config, as `methods.schedule`, which has its golden test."""
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    wrapper = OptimWrapper(torch.optim.SGD([parameter], lr=0.6))
    schedule = VICRegLR.build_iter_from_epoch(optimizer=wrapper, ramp=10, end=100, epoch_length=10)
    parameter.grad = torch.zeros_like(parameter)
    for step in range(1000):
        expected = warmup_cosine(step, 1000, 100, base=0.3, batch_size=512)
        assert wrapper.param_groups[0]["lr"] == pytest.approx(expected, rel=1e-12)
        wrapper.step()
        schedule.step()
