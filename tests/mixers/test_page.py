"""The page of the mixers and the command that lists them are true."""

import json

import pytest

from spectral_backbones.__main__ import COMMANDS
from spectral_backbones.backbones.mixers import get_mixer, list_mixers
from spectral_backbones.tools import mixer_table, mixers


def page():
    return mixer_table.split(mixer_table.PAGE.read_text(encoding="utf-8"))[1].split("\n")


@pytest.mark.parametrize("name", list_mixers())
def test_parameters_and_macs_are_those_that_are_counted(name):
    assert mixer_table.what_row(name) in page(), "run python tools/mixer_table.py"


def test_the_page_tells_of_every_mixer_what_was_measured():
    measured = json.loads(mixer_table.MEASURED.read_text(encoding="utf-8"))
    assert sorted(measured["mixers"]) == list_mixers()
    assert page()[len(list_mixers()) + 2 :] == mixer_table.measured_table(measured)
    assert mixer_table.PICTURE.is_file()


def test_what_takes_too_much_memory_is_told_as_such():
    sides = {str(side): {"seconds": 1.5, "bytes": 2e6} for side in mixer_table.SIDES} | {"128": None}
    row = mixer_table.measured_table({"machine": "a machine", "mixers": {"mine": {"date": "today", "sides": sides}}})[3]
    assert row == "| `mine` | 1500 | 1500 | beyond 8 GiB | 2.00 | 2.00 | beyond 8 GiB | today |"


def test_every_mixer_but_the_baseline_has_a_paper():
    assert [name for name in list_mixers() if not get_mixer(name).paper.startswith("arXiv:")] == ["identity"]


def test_the_command_lists_mixers_with_papers_and_options(capsys):
    assert "mixers" in COMMANDS
    mixers.main(["--format", "json"])
    rows = {row["mixer"]: row for row in json.loads(capsys.readouterr().out)}
    assert sorted(rows) == list_mixers()
    assert rows["neighbourhood"]["paper"] == "arXiv:2204.07143" and rows["neighbourhood"]["options"]["kernel_size"] == 7
    mixers.main(["*window"])
    shown = capsys.readouterr().out
    assert "shifted_window" in shown and "window_size=7" in shown and "spectral" not in shown
    with pytest.raises(SystemExit, match="no mixer fits windows; there are afno, attention"):
        mixers.main(["windows"])
