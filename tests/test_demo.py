"""The demonstration, on a task that takes a second: it goes on where it was, and ends with one page of all it made."""

import re

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
    pictures = lambda _: sorted(photos.glob("val/*/0.png"))  # noqa: E731
    return demo.TASKS["classification"]._replace(config=str(config), least=0.0, pictures=pictures)


@pytest.fixture
def called(monkeypatch):
    """What the demonstration calls, which runs here; it may be interrupted before a command."""
    calls = []

    def call(command, *arguments):
        if command == called.stops_before:
            raise KeyboardInterrupt
        calls.append((command, *arguments))
        load_tool(command).main([*arguments])
        return f"spectral {command}"

    called = type("Called", (list,), {"stops_before": None})
    monkeypatch.setattr(demo, "call", call)
    calls = called()
    return calls


def show(monkeypatch, task, folder, *arguments):
    monkeypatch.setattr(demo, "TASKS", {"classification": task})
    return run_here("demo.py", "--work-dir", folder, *arguments)


def test_it_goes_on_where_it_was_and_ends_with_one_page(small, called, monkeypatch, tmp_path):
    type(called).stops_before = "predict"
    with pytest.raises(KeyboardInterrupt):
        show(monkeypatch, small, tmp_path)
    work_dir = tmp_path / "classification"
    (work_dir / "epoch_2.pth").unlink()  # as if it had been interrupted in the last epoch
    type(called).stops_before = None
    called.clear()

    said = show(monkeypatch, small, tmp_path, "--pictures", tmp_path / "pictures")
    assert "going on where it was interrupted" in said and "this takes about" not in said
    assert [command for command, *_ in called] == ["train", "predict"] and "--resume" in called[0]
    assert "from epoch 2:" in said
    assert (work_dir / "epoch_2.pth").is_file()
    assert (tmp_path / "pictures" / "classification.png").is_file()

    page = (tmp_path / "index.html").read_text()
    assert re.findall(r'<img src="(.{10})', page) == ["data:image"] * 6  # three of the run, a prediction of each class
    assert "http" not in page and "top-1" in page and "spectral predict" in page and "as if" not in page
    for caption in ("mistaken", "taken for which", "over the training"):
        assert caption in page

    called.clear()
    again = show(monkeypatch, small, tmp_path)
    assert not called and "finished before: top-1" in again and str(tmp_path / "index.html") in again
    anew = show(monkeypatch, small, tmp_path, "--overwrite")
    assert "this takes about 2 minutes" in anew
    assert [command for command, *_ in called] == ["train", "predict"] and "--resume" not in called[0]


def test_each_task_says_how_long_it_takes_by_how_long_the_last_one_took(small, called, monkeypatch, tmp_path):
    second = small._replace(minutes=100.0)
    monkeypatch.setattr(demo, "TASKS", {"classification": small._replace(minutes=0.001), "detection": second})
    monkeypatch.setattr(demo, "demonstrate", timed := Timed(demo.demonstrate))
    with pytest.raises(TypeError):
        run_here("demo.py", "--work-dir", tmp_path)
    assert timed.slowness[0] == 1.0 and timed.slowness[1] > 1.0


class Timed:
    """Lets the first task through, and tells how slow the machine was said to be."""

    def __init__(self, demonstrate):
        self.demonstrate, self.slowness = demonstrate, []

    def __call__(self, name, task, work_dir, slowness, overwrite):
        self.slowness.append(slowness)
        return self.demonstrate(name, task, work_dir, slowness, overwrite) if name == "classification" else None


def test_what_falls_short_is_an_error_and_not_finished(small, called, monkeypatch, tmp_path):
    with pytest.raises(UserError, match=r"top-1 .* the demonstration promises 101"):
        show(monkeypatch, small._replace(least=101.0), tmp_path)
    assert not (tmp_path / "classification" / "done.json").exists()


def test_further_commands_are_filled_in_and_their_pictures_shown(small, called, monkeypatch, tmp_path):
    then = [["predict", "{checkpoint}", "{picture}", "--out-dir", "{work_dir}/sheets"]]
    show(monkeypatch, small._replace(then=then), tmp_path)
    last = called[-1]
    assert last[1].endswith("classification/epoch_2.pth") and last[2].endswith("/0.png")
    assert (tmp_path / "index.html").read_text().count("<img") == 7
