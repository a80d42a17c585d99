"""The README's table of models is true: it is what the tool writes, and what is counted is what the papers say."""

import sys
from pathlib import Path

import pytest

import backbones

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))
import model_table  # noqa: E402

NAMES = backbones.list_models()

# Multiply-adds of all spectral gates of a model in millions, from 2.5 HW log2(HW) FLOPs a transform and channel and 6 a
# complex product.
SPECTRAL_MMACS = {
    "spectformer_ti": 4.17,
    "spectformer_xs": 6.25,
    "spectformer_s": 6.25,
    "spectformer_b": 8.33,
    "spectformer_h_s": 28.7,
    "spectformer_h_b": 28.7,
    "spectformer_h_l": 50.8,
    "gfnet_ti": 12.5,
    "gfnet_xs": 18.7,
    "gfnet_s": 29.7,
    "gfnet_b": 39.6,
    "gfnet_h_ti": 37.7,
    "gfnet_h_s": 56.6,
    "gfnet_h_b": 83.2,
}


def readme_table():
    return model_table.split((ROOT / "README.md").read_text(encoding="utf-8"))[1].split("\n")


def test_readme_lists_every_model_once():
    lines = readme_table()
    rows = [line for line in lines if line.startswith("| `")]
    assert sorted(line.split("`")[1] for line in rows) == sorted(NAMES) == sorted(model_table.PUBLISHED)
    assert lines == [*model_table.head(), *rows, *model_table.notes()]


@pytest.mark.parametrize("name", NAMES, scope="class")
class TestModel:
    """One count serves all tests of a model: they are run model by model."""

    def test_readme_row_is_up_to_date(self, name):
        assert model_table.row(name) in readme_table(), "run python tools/model_table.py"

    def test_macs_are_the_published_ones_within_two_percent(self, name):
        """Within 2 % of a number that rounds to the paper's.

        SpectFormer's hierarchical figures leave out attention's products and the transforms, as the table's note says:
        convolutions and linear layers alone agree.
        """
        cost, published = model_table.cost_of(name), model_table.PUBLISHED[name]
        macs = cost.macs
        if published.note == "token labels":
            macs = (cost.by_operator["conv"] + cost.by_operator["linear"]) / 2
        half_a_digit = 0.5 * 10.0 ** -len(published.gmacs.partition(".")[2])
        low, high = float(published.gmacs) - half_a_digit, float(published.gmacs) + half_a_digit
        assert 0.98 * low <= macs / 1e9 <= 1.02 * high

    def test_spectral_gates_cost_what_a_hand_count_says(self, name):
        operators = model_table.cost_of(name).by_operator
        mmacs = (operators["fft"] + operators["complex product"]) / 2e6
        assert mmacs == pytest.approx(SPECTRAL_MMACS[name], rel=0.003)

    def test_nothing_is_left_uncounted_or_uncalled(self, name):
        cost = model_table.cost_of(name)
        assert not cost.uncounted
        assert not cost.uncalled


@pytest.fixture
def readme(tmp_path, monkeypatch):
    """A README with an old table, and a short new one."""
    monkeypatch.setattr(model_table, "table", lambda: "| new |")
    path = tmp_path / "README.md"
    path.write_text(f"# Title\n\n{model_table.BEGIN}\n| old |\n{model_table.END}\n\nEnd.\n")
    return path


def test_the_tool_changes_only_what_is_between_the_markers(readme):
    model_table.main(["--readme", str(readme)])
    assert readme.read_text() == f"# Title\n\n{model_table.BEGIN}\n| new |\n{model_table.END}\n\nEnd.\n"


def test_check_fails_on_an_old_table_and_changes_nothing(readme):
    before = readme.read_text()
    with pytest.raises(SystemExit, match="out of date"):
        model_table.main(["--readme", str(readme), "--check"])
    assert readme.read_text() == before
    model_table.main(["--readme", str(readme)])
    model_table.main(["--readme", str(readme), "--check"])


def test_a_readme_without_markers_is_refused(tmp_path):
    with pytest.raises(ValueError, match="model table: begin"):
        model_table.split("# Title\n")


def test_a_model_without_published_figures_is_named(monkeypatch):
    monkeypatch.delitem(model_table.PUBLISHED, "gfnet_ti")
    with pytest.raises(ValueError, match="gfnet_ti"):
        model_table.table()
