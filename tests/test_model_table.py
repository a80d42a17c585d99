"""The table of models in docs/models.md and `spectral models` are true: they are what the tool writes, and what is
counted is what the papers say.
"""

from collections import Counter
from dataclasses import replace

import pytest
import timm
import torch

from spectral_backbones.backbones.flops import count
from spectral_backbones.tools import model_table, models

from .models import NAMES, ONE_OF_EACH_CLASS

# Multiply-adds of all spectral gates of a model in millions, for the models that have any, from 2.5 HW log2(HW) FLOPs a
# transform and channel and 6 a complex product.
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


def page_table():
    return model_table.split(model_table.PAGE.read_text(encoding="utf-8"))[1].split("\n")


def test_the_page_lists_every_model_once():
    lines = page_table()
    rows = [line for line in lines[: lines.index("")] if line.startswith("| `")]
    assert sorted(line.split("`")[1] for line in rows) == sorted(NAMES) == sorted(model_table.PUBLISHED)
    assert [line.split("`")[1] for line in rows] == [record["model"] for record in models.records()]
    assert lines == [*model_table.head(), *rows, *model_table.notes(), *model_table.dense_table()]
    assert set(model_table.DENSE) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_counts_agree_with_the_papers_and_the_page(name, monkeypatch):
    """One test for all that a count has to satisfy, because counting a large model takes a second.

    Blocks of a stage that are built alike cost alike, as is shown of each class; so they are counted once in other
    models, unless operators are asked for.
    """
    if name in SPECTRAL_MMACS or model_table.PUBLISHED[name].layers_only:
        cost = model_table.cost_of(name)
    else:
        cost = cost_by_kinds_of_blocks(name)
        if name in ONE_OF_EACH_CLASS:
            whole = model_table.cost_of(name)
            assert (cost.params, cost.flops) == (whole.params, whole.flops)
            cost = whole
    assert not cost.uncounted
    assert not cost.uncalled
    spectral_macs = (cost.by_operator.get("fft", 0) + cost.by_operator.get("complex product", 0)) / 2
    assert spectral_macs / 1e6 == pytest.approx(SPECTRAL_MMACS.get(name, 0), rel=0.003)
    if model_table.PUBLISHED[name].gmacs is not None:
        low, high = published_gmacs(name)
        assert 0.98 * low <= comparable_macs(name, cost) / 1e9 <= 1.02 * high
    monkeypatch.setattr(model_table, "cost_of", lambda _: cost)
    (listed,) = (record for record in models.records() if record["model"] == name)
    assert model_table.record(name) == listed, "run python tools/model_table.py"
    assert model_table.row(listed) in page_table(), "run python tools/model_table.py"


def cost_by_kinds_of_blocks(name):
    """The parameters and multiply-adds of `model_table.cost_of`, with one block of each kind in each stage counted."""
    model = timm.create_model(name, device="meta")
    params = sum(parameter.numel() for parameter in model.parameters())
    repeated = {}
    for path, owner in [(f"stages.{i}.", stage) for i, stage in enumerate(getattr(model, "stages", []))] or [
        ("", model)
    ]:
        kinds = [repr(block) for block in owner.blocks]
        first = [kinds.index(kind) for kind in dict.fromkeys(kinds)]
        owner.blocks = torch.nn.ModuleList([owner.blocks[i] for i in first])
        times = Counter(kinds)
        repeated |= {f"{path}blocks.{j}": times[kinds[i]] - 1 for j, i in enumerate(first)}
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.zero_()
    cost = count(model, timm.get_pretrained_cfg(name).input_size)
    flops = cost.flops + sum(times * cost.by_module[block].flops for block, times in repeated.items())
    return replace(cost, params=params, flops=flops)


def published_gmacs(name):
    """The least and the largest number that rounds to the paper's."""
    text = model_table.PUBLISHED[name].gmacs
    half_a_digit = 0.5 * 10.0 ** -len(text.partition(".")[2])
    return float(text) - half_a_digit, float(text) + half_a_digit


def comparable_macs(name, cost):
    """What the paper counted."""
    if model_table.PUBLISHED[name].layers_only:
        return (cost.by_operator["conv"] + cost.by_operator["linear"]) / 2
    return cost.macs


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with an old table, and a short new one."""
    monkeypatch.setattr(model_table, "records", lambda: [{"model": "new"}])
    monkeypatch.setattr(model_table, "table", lambda known: f"| {known[0]['model']} |")
    monkeypatch.setattr(model_table, "TABLE", tmp_path / "models.json")
    path = tmp_path / "models.md"
    path.write_text(f"# Title\n\n{model_table.BEGIN}\n| old |\n{model_table.END}\n\nEnd.\n")
    return path


def test_the_tool_changes_only_what_is_between_the_markers(page):
    model_table.main(["--page", str(page)])
    assert page.read_text() == f"# Title\n\n{model_table.BEGIN}\n| new |\n{model_table.END}\n\nEnd.\n"


def test_check_fails_on_an_old_table_and_changes_nothing(page):
    before = page.read_text()
    with pytest.raises(SystemExit, match="out of date"):
        model_table.main(["--page", str(page), "--check"])
    assert page.read_text() == before
    model_table.main(["--page", str(page)])
    model_table.main(["--page", str(page), "--check"])
    (page.parent / "models.json").write_text("[]")
    with pytest.raises(SystemExit, match=r"models\.json is out of date"):
        model_table.main(["--page", str(page), "--check"])


def test_a_first_table_goes_between_adjacent_markers(page):
    page.write_text(f"{model_table.BEGIN}\n{model_table.END}\n")
    model_table.main(["--page", str(page)])
    assert page.read_text() == f"{model_table.BEGIN}\n| new |\n{model_table.END}\n"


@pytest.mark.parametrize("text", ["# Title\n", f"{model_table.END}\n{model_table.BEGIN}\n", model_table.BEGIN * 2])
def test_a_page_without_the_markers_is_refused(page, text):
    page.write_text(text)
    with pytest.raises(SystemExit, match="once each, in this order"):
        model_table.main(["--page", str(page)])


def test_a_model_without_published_figures_is_named(monkeypatch):
    monkeypatch.delitem(model_table.PUBLISHED, "gfnet_ti")
    with pytest.raises(ValueError, match="gfnet_ti"):
        model_table.records()
