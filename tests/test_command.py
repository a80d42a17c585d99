"""The one command: what it lists, finds, copies and refuses, and scripts that it runs."""

import os
import subprocess
import sys

import mmengine.hub
import pytest

from spectral_backbones import __main__ as command
from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load
from spectral_backbones.engine.library import CONFIGS, find_config, list_configs
from spectral_backbones.tools import script as tool_script

from .classification_fixtures import ROOT, environment, run_forked, run_here


def call(*arguments, cwd=None, processes=0, **variables):
    """Runs the command in a process of its own, or under torchrun; `variables` are of its environment."""
    runner = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes else []
    return subprocess.run(
        [sys.executable, *runner, "-m", "spectral_backbones", *map(str, arguments)],
        cwd=cwd,
        env={**environment(), **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


# The page and the help of each command -------------------------------------------------------------------------------


FRESH = """
import importlib.abc, sys
import spectral_backbones
before = set(sys.modules)
from spectral_backbones.__main__ import main
main(["--help"])
new = {name.partition(".")[0] for name in set(sys.modules) - before}
print("NEW", *sorted(new - set(sys.stdlib_module_names)))

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mmengine":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
main(["models", "dat_t"])
main(["train", "classification/folder"])
"""


@pytest.fixture(scope="module")
def fresh():
    """The page of commands, and two commands where mmengine is not installed, in one interpreter."""
    return subprocess.run([sys.executable, "-c", FRESH], env=environment(), capture_output=True, text=True)


def test_the_page_of_commands_costs_what_the_import_costs(fresh):
    page, _, rest = fresh.stdout.partition("NEW")
    assert page.startswith("usage: spectral COMMAND") and all(f"  {name} " in page for name in command.COMMANDS)
    assert rest.splitlines()[0].split() == ["spectral_backbones"]


def test_a_missing_extra_is_named_where_a_command_needs_it(fresh):
    assert " dat_t " in fresh.stdout and fresh.returncode == 1
    assert fresh.stderr.strip() == (
        "error: spectral train needs the package mmengine: pip install 'spectral-backbones[train]'"
    )


@pytest.mark.parametrize("name", [name for name in command.COMMANDS if name != "run"])
def test_the_help_of_a_command_says_how_it_is_called(name, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["pytest"])
    with pytest.raises(SystemExit) as end:
        command.main([name, "--help"])
    said = capsys.readouterr().out
    assert end.value.code in (0, None)
    assert said.startswith(f"usage: spectral {name} ")
    assert f"\nspectral {name} " in said  # an example
    assert "python tools/" not in said


def test_the_help_of_run_and_the_version(capsys):
    command.main(["run", "--help"])
    assert "spectral run train.py --data-dir photos --model gfnet_xs" in capsys.readouterr().out
    command.main(["--version"])
    assert capsys.readouterr().out.startswith("spectral-backbones ")


def test_a_script_of_a_clone_says_its_own_name():
    assert run_forked("models.py", "--help").stdout.startswith("usage: models.py ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian", "x"], "'trian' is neither a command of spectral nor a file; did you mean train?"),
        (["away.py"], "'away.py' is neither a command of spectral nor a file; the commands are train, test"),
        (["run"], "usage: spectral run SCRIPT"),
        (["run", "away.py"], "'away.py' is neither"),
    ],
)
def test_what_is_no_command_is_told(arguments, says):
    with pytest.raises(SystemExit) as end:
        command.main(arguments)
    assert says in end.value.code


def test_an_interruption_ends_a_command_with_one_line(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as end:
        tool_script.run(interrupted)
    assert end.value.code == 130 and capsys.readouterr().err == "interrupted\n"


# Models and configs --------------------------------------------------------------------------------------------------


def test_models_are_listed_by_wildcards():
    lines = run_here("models.py", "dat*", "gfnet_h_?", "--exclude", "*_384", "--with-weights", "--format", "csv")
    names = [line.partition(",")[0] for line in lines.splitlines()[1:]]
    assert "dat_pp_t" in names and "gfnet_h_s" in names
    assert not {"dat_p", "dat_b_384", "gfnet_h_ti", "gfnet_ti"} & set(names)
    by_size = run_here("models.py", "gfnet_*", "--sort", "params", "--format", "csv").splitlines()[1:]
    assert by_size[0].startswith("gfnet_ti,GFNet,224x224,7")
    with pytest.raises(SystemExit, match="no model fits gfnet_xxs; did you mean gfnet_xs"):
        run_here("models.py", "gfnet_xxs")


def test_configs_are_listed_and_each_name_is_found():
    names = run_here("configs.py").splitlines()
    assert names == list_configs()
    assert {"classification/folder", "detection/dat/mask-rcnn_dat-pp-t_fpn_ms-crop-1x_coco"} <= set(names)
    assert not any("_base_" in name for name in names)
    assert all(find_config(name) == CONFIGS / f"{name}.py" for name in names)
    for pattern in ("detection/*dat-pp-b*", "detection/dat/cascade-mask-rcnn_dat-pp-b_fpn_ms-crop-3x_coco.py"):
        assert run_here("configs.py", pattern).split() == [
            "detection/dat/cascade-mask-rcnn_dat-pp-b_fpn_ms-crop-3x_coco"
        ]
    with pytest.raises(UserError, match=r"no config fits spectformr_s_folder; did you mean .*spectformer_s_folder"):
        run_here("configs.py", "spectformr_s_folder")


@pytest.mark.parametrize(
    "text",
    [
        "classification/spectformer/spectformer_ti_digits",
        "classification/spectformer/spectformer_ti_digits.py",
        "configs/classification/spectformer/spectformer_ti_digits.py",
        "spectformer_ti_digits",
        "spectformer/spectformer_ti_digits.py",
        "spectral_backbones::classification/spectformer/spectformer_ti_digits.py",
    ],
)
def test_a_config_is_found_anywhere_by_its_path_or_its_last_part(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config(text) == CONFIGS / "classification/spectformer/spectformer_ti_digits.py"


def test_a_file_of_ones_own_goes_before_a_config_of_the_library(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "spectformer_ti_digits.py").write_text("default_scope = 'mine'\n")
    assert load("spectformer_ti_digits.py").default_scope == "mine"
    assert load("spectformer_ti_digits").default_scope == "mmengine"  # the file has another name


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("clasification/folder", "no config of the library; did you mean classification/folder[?]$"),
        ("spectformer_ti_digit", "did you mean classification/spectformer/spectformer_ti_digits"),
        ("spectformer-h-small_fpn_digit", "did you mean segmentation/digits/spectformer-h-small_fpn_digits"),
        ("/away/mine.py", "/away/mine.py does not exist"),
    ],
)
def test_a_config_that_is_misspelt_is_told_with_those_like_it(text, says):
    with pytest.raises(UserError, match=says):
        load(text)


def test_a_last_part_that_several_have_is_refused(monkeypatch):
    monkeypatch.setattr("spectral_backbones.engine.library.list_configs", lambda: ["a/one", "b/one"])
    with pytest.raises(UserError, match="could be any of a/one, b/one: name more of its path"):
        find_config("one")


def test_a_config_is_copied_printed_and_inherited_from(tmp_path):
    name = "classification/spectformer/spectformer_ti_digits"
    inheriting, whole, printed = (tmp_path / f"{kind}.py" for kind in ("inheriting", "whole", "printed"))
    run_here("configs.py", name, "--copy", inheriting)
    run_here("configs.py", name, "--copy", whole, "--whole")
    printed.write_text(run_here("configs.py", "spectformer_ti_digits", "--print"))
    assert len(inheriting.read_text().splitlines()) == 2
    original = load(name)
    for path in (inheriting, whole, printed):
        assert load(str(path)).to_dict() == original.to_dict()
    with inheriting.open("a") as file:
        file.write("train_cfg = dict(max_epochs=2)\n")
    assert load(str(inheriting)).train_cfg.max_epochs == 2
    for target, says in ((whole, "exists already"), (tmp_path / "config", "call it .*config.py")):
        with pytest.raises(UserError, match=says):
            run_here("configs.py", name, "--copy", target)
    with pytest.raises(UserError, match="is no config of the library: copy the file itself"):
        run_here("configs.py", whole, "--copy", tmp_path / "new.py")


def test_mms_own_functions_find_the_configs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = mmengine.hub.get_config("spectral_backbones::classification/gfnet/gfnet_xs_cifar10.py")
    assert cfg.model.name == "gfnet_xs" and cfg.train_cfg.max_epochs == 1000
    cfg = mmengine.hub.get_config("spectral_backbones::detection/dat/mask-rcnn_dat-t_fpn_1x_coco.py")
    assert cfg.model.backbone.name == "dat_t"
    index = (CONFIGS.parent / "spectral_backbones" / ".mim" / "model-index.yml").read_text()
    known = sorted(path.relative_to(CONFIGS.parent).as_posix() for path in CONFIGS.rglob("metafile.yml"))
    assert [line.removeprefix("  - ") for line in index.splitlines()[1:]] == known


@pytest.mark.parametrize(
    "name", ["segmentation/dat/dat-t_upernet_8xb2-160k_ade20k-512x512", "detection/dat/mask-rcnn_dat-t_fpn_1x_coco"]
)
def test_a_file_of_ones_own_inherits_all_of_a_config_of_the_library(tmp_path, name):
    path = tmp_path / "mine.py"
    path.write_text(f"_base_ = 'spectral_backbones::{name}.py'\ntrain_cfg = dict(val_interval=7)\n")
    expected = load(name)
    expected.train_cfg.val_interval = 7
    assert load(str(path)).to_dict() == expected.to_dict()


def test_all_tools_take_names_of_configs(tmp_path):
    lines = run_here("flops.py", "--config", "spectformer-h-small_fpn_digits", "--size", 64, "--format", "csv")
    assert "spectformer-h-small_fpn_digits,64x64,whole" in lines
    with pytest.raises(UserError, match="did you mean classification/folder"):
        run_here("predict.py", "x.pth", "y.png", "--config", "classification/foldr")
    with pytest.raises(UserError, match="did you mean classification/folder"):
        run_here("test.py", "classification/foldr", "x.pth")


# Any script ----------------------------------------------------------------------------------------------------------

# As timm's are: arguments, a model by its name, a loader; its workers are spawned and unpickle what it defines.
SCRIPT = """
import argparse
import multiprocessing
import os
import sys

import timm
import torch
import utils  # a module beside the script
from torch.utils.data import DataLoader, Dataset

parser = argparse.ArgumentParser(description="a script")
parser.add_argument("data")
parser.add_argument("--model", default="resnet50")
parser.add_argument("--workers", type=int, default=0)


class Pictures(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        return torch.full((3, 32, 32), float(timm.is_model("spectformer_ti")))


def in_a_child(name, queue):
    package = sys.modules["spectral_backbones"].__file__
    queue.put((timm.is_model(name), __name__, os.path.basename(__file__), utils.VALUE, package))


def main():
    args = parser.parse_args()
    model = timm.create_model(args.model, img_size=32, num_classes=2)
    spawn = multiprocessing.get_context("spawn") if args.workers else None
    batch = next(iter(DataLoader(Pictures(), 2, num_workers=args.workers, multiprocessing_context=spawn)))
    print(args.data, tuple(model(batch).shape), batch.min().item(), __name__, __file__, sys.argv[0], utils.VALUE)
    if args.workers:
        queue = spawn.Queue()
        child = spawn.Process(target=in_a_child, args=(args.model, queue))
        child.start()
        print("child", *queue.get(timeout=120))
        child.join()
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
        total = torch.ones(1)
        torch.distributed.all_reduce(total)
        print(f"processes {int(total)}")
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    (folder / "train.py").write_text(SCRIPT)
    (folder / "utils.py").write_text("VALUE = 'beside'\n")
    return folder / "train.py"


def test_a_script_knows_our_models_in_its_spawned_workers_too(script):
    """Called in a clone's root, where the package is found by the folder, which the script's takes the place of."""
    done = call("run", script, "photos", "--model", "spectformer_ti", "--workers", 1, cwd=ROOT, PYTHONPATH="")
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first == f"photos (2, 2) 1.0 __main__ {script} {script} beside"
    assert second == f"child True __mp_main__ train.py beside {ROOT / 'spectral_backbones' / '__init__.py'}"


def test_a_script_is_called_without_the_word_run_and_says_its_own_usage(script):
    done = call("train.py", "--colour", "red", cwd=script.parent)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith("usage: train.py [-h]")


def test_a_script_runs_under_torchrun_and_finds_what_lies_beside_it(script, tmp_path):
    (tmp_path / "utils.py").write_text("raise RuntimeError('of the folder that it is called from')\n")
    done = call("run", script, "photos", "--model", "gfnet_ti", processes=2, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("processes 2") == 2


def test_what_reads_a_list_may_end_before_it():
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "spectral_backbones", "models"],
        env=environment(),
        stdout=write,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(write)
    assert done.stderr == ""
