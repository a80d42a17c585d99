"""The study of what methods of training bring: each is run once, by its config."""

import pytest

from spectral_backbones.engine import UserError
from spectral_backbones.tools import study_methods
from spectral_backbones.tools.records import Records

from ..classification_fixtures import run_here


def test_the_study_runs_each_method_once_and_shows_all(tmp_path, monkeypatch):
    ran = []

    def training(cfg, folder):
        ran.append(cfg)
        return {"top1": 50.0 + len(ran), "loss": 1.0, "seconds": 1.0, "params": 1e6}

    monkeypatch.setattr(study_methods, "train_once", training)
    results, page = tmp_path / "found.json", tmp_path / "page.md"
    page.write_text("before\n" + "\n".join(study_methods.markers(results)) + "\nafter\n")
    arguments = ["--results", results, "--page", page, "--seeds", 1]
    with pytest.raises(UserError, match="holds nothing of this study"):
        run_here("study_methods.py", *arguments, "--known")
    said = run_here("study_methods.py", *arguments)
    count = len(study_methods.METHODS)
    assert len(ran) == count and said == run_here("study_methods.py", *arguments, "--known")
    assert said.strip() in page.read_text() and page.read_text().endswith("after\n")
    assert all(method.what in said for method in study_methods.METHODS.values()) and len(ran) == count
    # The recipe is that of all; what a method adds is all that they differ in.
    for cfg in ran:
        assert cfg.model.kwargs.mixers == "attention" and cfg.train_cfg.max_epochs == study_methods.EPOCHS
        assert cfg.train_dataloader.batch_size == ran[0].train_dataloader.batch_size
        assert cfg.optim_wrapper == ran[0].optim_wrapper
    assert all(cfg.randomness.seed == 0 for cfg in ran)
    hooks = [set(cfg.default_hooks) - set(ran[0].default_hooks) for cfg in ran]
    assert sum(map(bool, hooks)) == 5 and ran[count - 2].model.kwargs.residual == "gru"


def test_a_page_without_its_lines_is_refused(tmp_path):
    results, page = tmp_path / "found.json", tmp_path / "page.md"
    Records(results).keep(
        study_methods.Study(Records(results), {})._of("none", 0), dict(top1=1, loss=1, seconds=1, params=1)
    )
    page.write_text("nothing\n")
    with pytest.raises(UserError, match=r"page\.md: these two lines"):
        run_here("study_methods.py", "--results", results, "--page", page, "--known")
