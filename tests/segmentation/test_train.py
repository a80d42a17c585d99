"""The embedded set of digits and the training of a segmenter on it, in one process and in two."""

import numpy as np
import pytest
from PIL import Image

from detection.digits import CLASSES, Recipe, make_digits
from engine import checkpoint as files
from engine.progress import Progress

from ..classification_fixtures import run_here, run_tool
from .fixtures import small_config

pytest.importorskip("mmseg", reason="mmseg is not installed")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    config = small_config(folder, folder / "data")
    return config, folder / "run", run_here("train.py", config, "--work-dir", folder / "run")


def losses(path):
    return files.read(path)["message_hub"]["log_scalars"]["train/loss"][0]


def test_the_set_is_written_where_it_is_missing_and_its_labels_are_the_digits(run):
    data = run[1].parent / "data"
    counts = {"training": 6, "validation": 4}
    seen = set()
    for split, count in counts.items():
        images, labels = (sorted((data / kind / split).iterdir()) for kind in ("images", "annotations"))
        assert [path.stem for path in images] == [path.stem for path in labels] and len(images) == count
        for image, label in zip(images, labels, strict=True):
            values = np.asarray(Image.open(label))
            assert values.shape == (64, 64) == Image.open(image).size and values.dtype == np.uint8
            seen |= set(values.ravel())
    assert 0 in seen and seen <= set(range(11)) and len(seen) > 4
    assert not make_digits(data, Recipe("segmentation", train=6, val=4, size=64))  # the same as the tool would write


def test_a_run_by_iterations_says_and_leaves_what_a_run_by_epochs_does(run):
    _, work_dir, output = run
    lines = output.splitlines()
    assert lines[0] == "training EncoderDecoder on spectformer_h_s for 4 iterations: 6 images, batches of 2"
    assert [line.split(":")[0] for line in lines[1:3]] == ["iteration 2/4", "iteration 4/4"]
    assert lines[3].startswith("best mIoU ")
    kept = sorted(path.name for path in work_dir.glob("*.pth"))
    assert kept == ["best.pth", "iteration_3.pth", "iteration_4.pth"]
    last = files.read(work_dir / "iteration_4.pth")
    assert last["meta"]["iter"] == 4 and last["predictor"]["task"] == "segmentation"
    assert last["predictor"]["classes"] == ["ground", *CLASSES]
    for name in ("curve.png", "segmentations.png"):
        assert Image.open(work_dir / name).size > (300, 300)


def test_a_resumed_run_goes_on_as_the_first_would_have(run, tmp_path):
    config, whole, _ = run
    (tmp_path / "iteration_3.pth").write_bytes((whole / "iteration_3.pth").read_bytes())
    output = run_here("train.py", config, "--work-dir", tmp_path, "--resume")
    assert "for 4 iterations from iteration 4: " in output
    assert losses(tmp_path / "iteration_4.pth") == losses(whole / "iteration_4.pth")


def test_a_picture_shows_its_classes(run, tmp_path):
    _, work_dir, _ = run
    photo = next((work_dir.parent / "data" / "images" / "validation").iterdir())
    output = run_here("predict.py", work_dir / "best.pth", photo, "--out-dir", tmp_path)
    assert all(part.split()[0] in ("ground", *CLASSES) for part in output.splitlines()[0].split(": ")[1].split(", "))
    width, height = Image.open(tmp_path / f"000_{photo.stem}.png").size
    assert width > height >= 480  # enlarged, with a legend beside


@pytest.mark.slow
def test_two_processes_train_and_say_that_batch_norm_is_not_synchronised(run, tmp_path):
    """Gloo has no synchronised batch norm: SyncBN becomes plain batch norm, and a warning says so once."""
    config, _, _ = run
    result = run_tool("train.py", config, "--work-dir", tmp_path, processes=2)
    assert result.returncode == 0, result.stdout
    assert "batches of 2 in each of 2 processes" in result.stdout
    assert result.stdout.count("batch norm takes its statistics from each process alone") == 1
    values = losses(tmp_path / "iteration_4.pth")
    assert len(values) == 4 and np.isfinite(values).all()


def test_progress_is_counted_in_what_the_loop_has():
    progress = Progress("iteration", done=3, total=8, iterations=1, window=4)
    assert progress.next() == Progress("iteration", done=4, total=8, iterations=1, window=4)
