"""The demonstration, on a task that takes a second: it goes on where it was, and ends with one page of all it made."""

import re
import shutil

import pytest

from spectral_backbones.engine import UserError
from spectral_backbones.tools import demo

from .classification_fixtures import load_tool, make_folder, run_here, small_config


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The demonstration of classification on a small config, two epochs."""
    folder = tmp_path_factory.mktemp("demo")
    photos = make_folder(folder / "photos")
    config = small_config(folder, photos, max_epochs=2)

    def unseen(work_dir, folder):
        for path in photos.glob("val/*/0.png"):
            shutil.copy(path, folder / f"{path.parent.name}.png")

    return demo.TASKS["classification"]._replace(config=str(config), options=[], least=0.0, unseen=unseen)


@pytest.fixture(scope="module")
def called():
    """What the demonstration calls, which runs here."""
    calls = []

    def call(command, *arguments):
        calls.append((command, *arguments))
        load_tool(command).main([*arguments])
        return f"spectral {command}"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "call", call)
        yield calls


def show(task, folder, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "TASKS", {"classification": task})
        return run_here("demo.py", "--work-dir", folder, *arguments)


@pytest.fixture(scope="module")
def shown(small, called, tmp_path_factory):
    """The folder of a whole demonstration, what it said, and what it called."""
    folder = tmp_path_factory.mktemp("shown")
    said = show(small, folder, "--pictures", folder / "pictures")
    return folder, said, [*called]


@pytest.fixture
def folder(shown, called, tmp_path):
    """A copy of that folder, with nothing called since."""
    called.clear()
    return shutil.copytree(shown[0], tmp_path / "copy")


def test_it_trains_and_predicts_and_ends_with_one_page(shown):
    folder, said, calls = shown
    assert "this takes about 2 minutes" in said and said.splitlines()[-1].endswith(str(folder / "index.html"))
    assert [command for command, *_ in calls] == ["train", "predict", "visualize"] and "--resume" not in calls[0]
    assert (folder / "pictures" / "classification.png").is_file()
    page = (folder / "index.html").read_text()
    assert re.findall(r'<img src="(.{10})', page) == ["data:image"] * 7  # three of the run, filters, three predictions
    assert "http" not in page and "top-1" in page and "spectral predict" in page
    for caption in ("mistaken", "taken for which", "over the training"):
        assert caption in page


def test_what_was_interrupted_goes_on(small, called, folder):
    work_dir = folder / "classification"
    (work_dir / "epoch_2.pth").unlink()
    (work_dir / "done.json").unlink()
    said = show(small, folder)
    assert "going on where it was interrupted" in said and "this takes about" not in said
    assert "--resume" in called[0] and "from epoch 2:" in said
    assert (work_dir / "epoch_2.pth").is_file() and (work_dir / "done.json").is_file()


def test_what_is_finished_is_not_done_again(small, called, folder):
    said = show(small, folder)
    assert not called and "finished before: top-1" in said and str(folder / "index.html") in said
    (folder / "classification" / "mine.png").touch()
    show(small._replace(options=["--seed", "1"]), folder)  # another task: what there is, is not its own
    assert "--resume" not in called[0] and not (folder / "classification" / "mine.png").exists()


def test_an_interruption_says_how_to_go_on(small, called, folder, monkeypatch):
    (folder / "classification" / "done.json").unlink()
    monkeypatch.setattr(demo, "call", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(UserError, match="classification was interrupted: the same command goes on"):
        show(small, folder)


def test_overwriting_begins_anew(small, called, folder):
    show(small, folder, "--overwrite")
    assert [command for command, *_ in called] == ["train", "predict", "visualize"] and "--resume" not in called[0]


def test_what_falls_short_is_an_error_and_not_finished(small, called, folder):
    (folder / "classification" / "done.json").unlink()
    with pytest.raises(UserError, match=r"top-1 .* the demonstration promises 101"):
        show(small._replace(least=101.0), folder)
    assert not (folder / "classification" / "done.json").exists()


def test_further_commands_are_filled_in_and_their_pictures_shown(small, called, folder):
    (folder / "classification" / "done.json").unlink()
    show(small._replace(then=[["predict", "{checkpoint}", "{picture}", "--out-dir", "{work_dir}/sheets"]]), folder)
    last = called[-1]
    assert last[1].endswith("classification/epoch_2.pth") and last[2].endswith("unseen/blue.png")
    assert (folder / "index.html").read_text().count("<img") == 8


def test_each_task_says_how_long_it_takes_by_how_long_the_last_one_took(monkeypatch, tmp_path):
    said = []

    def demonstrate(name, task, work_dir, slowness, overwrite):
        said.append(round(slowness, 2))
        return {"seconds": 90 * task.minutes, "was_whole": name != "detection", "outcome": ""}

    monkeypatch.setattr(demo, "demonstrate", demonstrate)
    run_here("demo.py", "--work-dir", tmp_path)
    assert said == [1.0, 1.5, 1.5]  # of what was resumed nobody knows how long it takes
