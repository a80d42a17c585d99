"""What is installed: one package of one name, whole, that no folder of a user's hides."""

import ast
import pydoc
import re
import subprocess
import tarfile
import zipfile
from contextlib import closing
from email import message_from_string
from fnmatch import fnmatch
from pathlib import Path

import pytest
import timm
import torch

import spectral_backbones
from spectral_backbones.__main__ import COMMANDS

from .classification_fixtures import ROOT, make_folder
from .classification_fixtures import small_config as classification_config
from .detection.fixtures import make_small_digits, small_detector
from .installing import ROOMS, Interpreter, build, clean, copy_tree, environment, files
from .segmentation.fixtures import small_config as segmentation_config
from .test_documents import links

TASKS = ("classification", "detection", "segmentation")
FORMER = ("backbones", "classification", "detection", "engine", "segmentation")
# Folders and files that users have beside their scripts; each raises when it is imported.
BESIDE = (
    *("engine", "utils", "util", "datasets", "data", "models", "losses", "optim", "samplers", "config", "logger"),
    *("main", "train", "test", "layers", "tools", "backbones", "detection", "segmentation", "classification"),
)


IMPORT_ALL = """
import importlib, pkgutil, spectral_backbones
for module in pkgutil.walk_packages(spectral_backbones.__path__, "spectral_backbones."):
    if ".detectron2" not in module.name and module.name != "spectral_backbones.backbones.layers.gate_kernels":
        importlib.import_module(module.name)
"""
SCRIPT = """
import sys, timm
print(timm.create_model("spectformer_ti", img_size=32).num_classes, sys.argv[1:], __name__)
"""


@pytest.fixture(scope="session")
def tree(tmp_path_factory):
    """A copy of the tree, unchanged."""
    return files(copy_tree(tmp_path_factory.mktemp("tree")))


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """A wheel of the tree, built where another one was before."""
    folder = tmp_path_factory.mktemp("wheel")
    left = copy_tree(folder / "tree") / "build" / "lib" / "spectral_backbones" / "removed_since.py"
    left.parent.mkdir(parents=True)
    left.touch()
    return build("wheel", folder / "tree", folder)


@pytest.fixture(scope="session")
def unpacked(tmp_path_factory):
    """The source distribution, unpacked."""
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", copy_tree(folder / "tree"), folder)) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return unpacked


@pytest.fixture(scope="session")
def installed(wheel, tmp_path_factory):
    """The commands of an environment that has the wheel."""
    return environment(tmp_path_factory.mktemp("installed"), wheel)


@pytest.fixture(scope="session")
def with_wheel(installed):
    """Code that puts the wheel's environment behind the folder that it runs in, and before all else."""
    (site,) = installed.parent.glob("lib/python*/site-packages")
    return f"import sys; sys.path.insert(1, {str(site)!r}); "


@pytest.fixture(scope="session")
def clones(tmp_path_factory):
    """A folder of three clones, each marked in several rooms; the last one also has a module that the others lack."""
    folder = tmp_path_factory.mktemp("clones")
    for name in ("one", "two", "installed"):
        copy_tree(folder / name)
        for module in ("spectral_backbones/__init__", "backbones/registry", "engine/errors", "tools/tables"):
            path = folder / name / f"{module}.py"
            path.write_text(f"{path.read_text()}\nCLONE = {name!r}\n")
    (folder / "installed" / "backbones" / "only_there.py").touch()
    return folder


@pytest.fixture(scope="session")
def editable(clones, tmp_path_factory):
    """The commands of an environment in which one of the clones is installed as editable."""
    return environment(tmp_path_factory.mktemp("editable"), "--editable", clones / "installed")


@pytest.fixture(scope="session")
def beside_editable(editable, tmp_path_factory):
    """A Python that has an editable install, in an empty folder."""
    with closing(Interpreter(editable, tmp_path_factory.mktemp("empty"))) as interpreter:
        yield interpreter


@pytest.fixture(scope="session")
def folder_of_a_user(tmp_path_factory):
    """A folder whose modules have the names that research code gives its own, and raise when they are imported."""
    folder = tmp_path_factory.mktemp("user")
    for number, name in enumerate(BESIDE):
        path = folder / name / "__init__.py" if number % 2 else folder / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"raise RuntimeError('the {name} of the user')")
    return folder


@pytest.fixture(scope="session")
def beside_user(installed, folder_of_a_user):
    """A Python that has the wheel, in the folder of a user, and has imported all modules of all rooms there."""
    with closing(Interpreter(installed, folder_of_a_user, IMPORT_ALL)) as interpreter:
        yield interpreter


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


class TestArchives:
    def test_the_wheel_holds_the_rooms_and_the_configs_whole_and_nothing_else(self, wheel, tree):
        package = "spectral_backbones"
        expected = {name: content for name, content in tree.items() if name.startswith(f"{package}/")}
        for room in ROOMS:
            expected |= {f"{package}/{name}": tree[name] for name in tree if name.startswith(f"{room}/")}
        expected |= {f"{package}/.mim/{name}": tree[name] for name in tree if name.startswith("configs/")}
        held = contents(wheel)
        about = {name: held.pop(name) for name in [*held] if fnmatch(name, f"{package}-*.dist-info/*")}
        assert held.keys() == expected.keys()
        assert held == expected
        assert {"LICENSE", "METADATA", "entry_points.txt", "RECORD"} <= {name.rpartition("/")[2] for name in about}

    def test_the_source_distribution_holds_the_tree(self, unpacked, tree):
        held = files(unpacked)
        changed = {name for name in tree if held.get(name) != tree[name]}
        assert changed <= {"setup.cfg", "PKG-INFO"}  # setuptools writes into the first how the version is tagged
        configs = {f"spectral_backbones/.mim/{name}" for name in tree if name.startswith("configs/")}
        assert held.keys() == tree.keys() | configs | {"PKG-INFO"}

    def test_the_wheel_of_the_source_distribution_is_that_of_the_tree(self, unpacked, wheel, tmp_path):
        copy_of_it = tmp_path / "copy"
        copy_of_it.mkdir()
        for name, content in files(unpacked).items():
            (copy_of_it / name).parent.mkdir(parents=True, exist_ok=True)
            (copy_of_it / name).write_bytes(content)
        assert contents(build("wheel", copy_of_it, tmp_path)) == contents(wheel)

    def test_the_source_distribution_runs_its_tests(self, editable, unpacked):
        """In an environment that has another tree of ours."""
        (unpacked / "tests" / "test_whose.py").write_text(
            "import spectral_backbones.backbones\n"
            "from tests.classification_fixtures import ROOT\n"
            "def test_it_is_the_code_beside_the_tests():\n"
            "    assert not hasattr(spectral_backbones, 'CLONE')\n"
            "    assert ROOT / 'backbones' / '__init__.py' == __import__('pathlib').Path("
            "spectral_backbones.backbones.__file__)\n"
        )
        tests = ["tests/test_whose.py", "tests/layers/test_mlp.py"]
        done = subprocess.run(
            [editable / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests],
            cwd=unpacked,
            env=clean(),
            capture_output=True,
            text=True,
        )
        (unpacked / "tests" / "test_whose.py").unlink()
        assert done.returncode == 0, done.stdout


@pytest.fixture
def metadata(wheel):
    (text,) = (text for name, text in contents(wheel).items() if name.endswith("/METADATA"))
    return message_from_string(text.decode())


class TestMetadata:
    def test_it_says_what_the_package_is(self, metadata):
        assert metadata["Version"] == spectral_backbones.__version__
        assert metadata["License-Expression"] == "Apache-2.0"
        classifiers = metadata.get_all("Classifier")
        for part in ("Typing :: Typed", "Programming Language :: Python :: 3.10", "Topic :: ", "Intended Audience :: "):
            assert any(classifier.startswith(part) for classifier in classifiers), part
        assert metadata["Requires-Python"] == ">=3.10"
        assert {"train", "mm", "export", "test"} <= set(metadata.get_all("Provides-Extra"))
        assert {"Source", "Documentation", "Changelog", "Issues"} <= {
            url.partition(",")[0] for url in metadata.get_all("Project-URL")
        }

    def test_the_repositorys_address_stands_in_one_file(self, metadata, tree):
        source = source_of(metadata)
        holding = {name for name, content in tree.items() if source.encode() in content}
        assert holding - {"PKG-INFO"} == {"setup.cfg"}  # the other one is made from it, and only in an sdist

    def test_links_and_pictures_lead_into_the_repository_wherever_the_readme_is_shown(self, metadata, tree):
        source = source_of(metadata)
        shown = links(metadata.get_payload())
        for target in shown:
            assert re.match(r"https?://|#", target), target
        ours = [target for target in shown if target.startswith(source)]
        assert sorted(re.sub(f"{source}/(blob|raw)/HEAD/", "", target) for target in ours) == sorted(
            target for target in links((ROOT / "README.md").read_text()) if not re.match(r"https?://|#", target)
        )
        for target in ours:
            is_picture = target.endswith((".png", ".jpg"))
            assert target.startswith(f"{source}/{'raw' if is_picture else 'blob'}/HEAD/")


def source_of(metadata):
    (source,) = (url for url in metadata.get_all("Project-URL") if url.startswith("Source, "))
    return source.removeprefix("Source, ")


class TestPublicNames:
    def test_each_is_listed_documented_and_known_to_type_checkers(self):
        module = ast.parse(Path(spectral_backbones.__file__).read_text())
        bound = {
            name.asname or name.name
            for node in ast.walk(module)
            if isinstance(node, ast.ImportFrom)
            for name in node.names
        }
        bound |= {
            target.id
            for node in ast.walk(module)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        page = pydoc.plain(pydoc.render_doc(spectral_backbones))
        assert {"count_flops", "list_models"} <= set(spectral_backbones.__all__) <= bound & set(dir(spectral_backbones))
        for name in spectral_backbones.__all__:
            assert getattr(spectral_backbones, name)
            assert name in page

    def test_a_name_that_is_none_is_told(self):
        with pytest.raises(AttributeError, match="'spectral_backbones' has no attribute 'list_model'"):
            spectral_backbones.list_model  # noqa: B018


class TestClones:
    MARKS = (
        "import spectral_backbones as ours; from spectral_backbones.backbones import registry; "
        "from spectral_backbones.engine import errors, library, config; from spectral_backbones.tools import tables; "
        "from mmengine.hub import get_config; "
        "name = 'spectral_backbones::classification/spectformer/spectformer_ti_digits.py'; "
        "print(*{module.CLONE for module in (ours, registry, errors, tables)}, library.CONFIGS.parent, "
        "get_config(name).filename); "
    )

    def test_each_runs_its_own_code_whatever_is_installed(self, clones, beside_editable, with_wheel):
        def check(name, printed):
            mark, root, config = printed.split()
            assert (mark, root) == (name, str(clones / name))
            assert Path(config).is_relative_to(clones / name)

        check("one", beside_editable.run(self.MARKS, clones / "one"))
        check("two", beside_editable.run(self.MARKS, clones / "two"))
        check("one", beside_editable.run(with_wheel + self.MARKS, clones / "one"))
        first = f"import sys; sys.path.insert(0, {str(clones / 'two')!r}); "  # as PYTHONPATH does
        check("two", beside_editable.run(first + self.MARKS, clones))

    def test_what_is_installed_as_editable_is_found_from_everywhere(self, clones, beside_editable):
        assert beside_editable.run(self.MARKS).split()[:2] == ["installed", str(clones / "installed")]
        assert "spectral COMMAND" in beside_editable.spectral("--help")

    def test_a_module_that_a_clone_does_not_have_is_not_taken_from_the_installed_one(self, clones, beside_editable):
        code = (
            "import importlib; import spectral_backbones.backbones\n"
            "try: importlib.import_module('spectral_backbones.backbones.only_there')\n"
            "except ModuleNotFoundError as error: print(error.name)"
        )
        assert beside_editable.run(code, clones / "one") == "spectral_backbones.backbones.only_there"
        assert beside_editable.run(code) == ""

    def test_a_script_of_a_clone_runs_its_own_code(self, clones, beside_editable):
        (clones / "two" / "configs" / "classification" / "spectformer" / "only_here.py").touch()
        script = str(clones / "two" / "tools" / "configs.py")
        code = (
            f"import runpy, sys; sys.argv = [{script!r}, 'classification/*']; "
            f"sys.path[0] = {str(Path(script).parent)!r}; runpy.run_path(sys.argv[0], run_name='__main__')"
        )
        assert "classification/spectformer/only_here" in beside_editable.run(code).split()


class TestBareNames:
    """In a clone's root the rooms are found by the names that they were installed under before."""

    SAME = """
import importlib, os, sys, warnings
warnings.filterwarnings("error", message="Overwriting")  # timm's, of a name that is registered twice
for name in {imports}:
    importlib.import_module(name)
for name, module in [*sys.modules.items()]:
    if name.partition(".")[0] in {rooms}:
        ours = f"spectral_backbones.{{name}}"
        assert module is sys.modules[ours] and module.__name__ == module.__spec__.name == ours, name
modules = [m for m in {{*sys.modules.values()}} if (getattr(m, "__file__", None) or "").startswith(os.getcwd())]
assert len(modules) == len({{module.__file__ for module in modules}}) > 100
from importlib.util import find_spec
assert find_spec("backbones.spectformer") and find_spec("backbones.layers") and not find_spec("backbones.nothing")
try:
    from backbones import nothing
except ImportError as error:
    assert "cannot import name 'nothing'" in str(error)
"""
    BARE = (
        *("backbones.spectformer", "detection", "segmentation", "classification", "engine.config", "backbones.layers"),
        *("toolboxes.mmcv_ops.boxes", "backbones", "engine"),
    )

    @pytest.mark.parametrize("first", ["bare", "full"])
    def test_they_mean_the_very_same_modules(self, clones, beside_editable, first):
        full = [f"spectral_backbones.{name}" for name in self.BARE]
        mixed = [name for pair in zip(full, self.BARE[::-1]) for name in pair]
        imports = [*self.BARE, *full] if first == "bare" else mixed
        beside_editable.run(self.SAME.format(imports=imports, rooms=FORMER), clones / "one")

    def test_away_from_a_clone_they_are_free(self, beside_editable, with_wheel):
        code = f"from importlib.util import find_spec; import spectral_backbones; print(*map(find_spec, {FORMER}))"
        free = " ".join(["None"] * len(FORMER))
        assert beside_editable.run(code) == beside_editable.run(with_wheel + code) == free

    def test_whole_models_pickled_by_them_load_in_a_clones_root_alone(self, clones, beside_editable, tmp_path):
        model = timm.create_model("spectformer_ti", img_size=32, depth=2, mixers="spectral:1, attention")
        torch.save(model, tmp_path / "new.pt")
        old = tmp_path / "old.pt"
        with zipfile.ZipFile(tmp_path / "new.pt") as archive, zipfile.ZipFile(old, "w") as rewritten:
            for name in archive.namelist():
                content = archive.read(name).replace(b"cspectral_backbones.backbones", b"cbackbones")
                rewritten.writestr(name, content)
        load = f"import torch; model = torch.load({str(old)!r}, weights_only=False); "
        check = (
            "from spectral_backbones.backbones.spectformer import SpectFormer; assert type(model) is SpectFormer; "
            "print(*model(torch.zeros(1, 3, 32, 32)).shape)"
        )
        assert beside_editable.run(load + check, clones / "one") == "1 1000"
        with pytest.raises(AssertionError, match="No module named 'backbones'"):
            beside_editable.run(load)


class TestBesideAUsersModules:
    """With the wheel alone, in a folder that holds everything but the library."""

    @pytest.mark.slow
    @pytest.mark.parametrize("task", TASKS)
    def test_each_task_is_trained_tested_and_predicted(self, beside_user, folder_of_a_user, tmp_path, task):
        """By a config that inherits from the installed ones."""
        config, pictures = run_of(task, tmp_path)
        said = beside_user.spectral("train", config, "--work-dir", tmp_path / "run")
        assert f"{tmp_path / 'run' / 'best.pth'}" in said
        assert list((tmp_path / "run").glob("*.png"))
        figures = beside_user.module("test", config, tmp_path / "run" / "best.pth")
        assert re.search(r"^[\w/ -]+: [\d.]+", figures, flags=re.MULTILINE)
        beside_user.spectral("predict", tmp_path / "run" / "best.pth", *pictures, "--out-dir", tmp_path / "out")
        assert len(list((tmp_path / "out").iterdir())) == len(pictures)

    def test_workers_that_are_spawned_find_the_library(self, beside_user, tmp_path):
        config, _ = run_of("classification", tmp_path)
        options = ["train_dataloader.num_workers=1", "train_dataloader.multiprocessing_context=spawn"]
        said = beside_user.spectral("train", config, "--work-dir", tmp_path / "run", "--cfg-options", *options)
        assert "best top-1" in said

    @pytest.mark.slow
    def test_torchrun_trains(self, installed, folder_of_a_user, tmp_path):
        config, _ = run_of("classification", tmp_path)
        torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        arguments = ["-m", "spectral_backbones", "train", config, "--work-dir", tmp_path / "run"]
        done = subprocess.run(
            [installed / "python", *torchrun, *arguments],
            cwd=folder_of_a_user,
            env=clean(),
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("best top-1") == 1

    def test_a_config_is_trained_by_its_name(self, beside_user, tmp_path):
        photos = make_folder(tmp_path / "photos", per_class=8)
        choices = ["--model", "test_resnet", "--size", 32, "--epochs", 3, "--batch-size", 8]
        options = ["train_dataloader.num_workers=0", "val_dataloader.num_workers=0"]
        said = beside_user.spectral(
            *("train", "classification/folder", "--data-root", photos, "--work-dir", tmp_path / "run", *choices),
            *("--cfg-options", *options),
        )
        assert "training test_resnet for 3 epochs" in said

    def test_every_other_command_works(self, beside_user, tmp_path):
        (tmp_path / "script.py").write_text(SCRIPT)
        name = "detection/digits/mask-rcnn_spectformer-h-small_fpn_digits"
        weights = tmp_path / "gfnet_ti.pth"
        torch.save(timm.create_model("gfnet_ti").state_dict(), weights)
        teacher = tmp_path / "test_vit.pth"
        torch.save(timm.create_model("test_vit").state_dict(), teacher)
        photos = make_folder(tmp_path / "few", per_class=2)
        photo = ROOT / "docs" / "images" / "detection.jpg"
        calls = {
            "flops": [(["spectformer_ti", "--size", 32], "spectformer_ti"), (["--config", name, "--size", 64], "neck")],
            "benchmark": [(["spectformer_ti", "--size", 32, "--seconds", 0.1], "spectformer_ti")],
            "compare": [(["test_vit", "--sizes", 64, "--seconds", 0.1, "--results", tmp_path / "c.json"], "test_vit")],
            "models": [(["dat*"], "dat_pp_t")],
            "mixers": [([], "neighbourhood")],
            "visualize": [
                (
                    [weights, photo, "--name", "gfnet_ti", "--what", "filters", "--out-dir", tmp_path / "seen"],
                    "filters.png",
                ),
                (
                    ["test_vit2", photo, "--random", "--size", 64, "--format", "html", "--what", "attention"],
                    "index.html",
                ),
            ],
            "export": [(["gfnet_ti", weights, "--format", "pt2", "--out", tmp_path / "gfnet.pt2"], "gfnet.pt2")],
            "configs": [
                (["detection/digits/*"], name),
                ([name, "--print"], "TimmBackbone"),
                ([name, "--copy", tmp_path / "mine.py"], "mine.py"),
            ],
            "distill": [
                (
                    [
                        *(teacher, "test_vit2", "classification/folder", "--teacher-name", "test_vit"),
                        *("--by", "features", "--data-root", photos, "--size", 160, "--epochs", 3, "--batch-size", 2),
                        *("--work-dir", tmp_path / "student"),
                    ],
                    "the student: ",
                )
            ],
            "run": [([tmp_path / "script.py", "--a", 1], "1000 ['--a', '1'] __main__")],
            "measure-channels": [([make_folder(tmp_path / "photos", per_class=2)], "mean")],
            "make-hyperspectral": [
                ([tmp_path / "cubes", "--train", 2, "--val", 2, "--size", 16], "2 + 2 images of 30 bands written")
            ],
            "make-digits": [([tmp_path / "digits", "--train", 2, "--val", 2, "--size", 64], "2 + 2 canvases")],
        }
        assert {*calls, "train", "test", "predict", "demo", "check-gpu"} == {*COMMANDS}
        for command, variants in calls.items():
            for arguments, shown in variants:
                assert shown in beside_user.spectral(command, *arguments), command
        assert "1000 [] __main__" in beside_user.module(tmp_path / "script.py")
        assert "MaskRCNN" in beside_user.spectral("configs", tmp_path / "mine.py", "--print")

    @pytest.mark.parametrize("command", COMMANDS)
    def test_every_command_has_its_help(self, beside_user, command):
        assert beside_user.spectral(command, "--help").startswith(f"usage: spectral {command}")


def run_of(task, folder):
    """A short run: its config, which inherits from the library's by their names, and pictures to predict."""
    if task == "classification":
        config = classification_config(folder, make_folder(folder / "photos", per_class=8), max_epochs=2)
        pictures = sorted(folder.glob("photos/val/red/*"))[:2]
    elif task == "detection":
        config = small_detector(folder, make_small_digits(folder / "digits"))
        pictures = sorted(folder.glob("digits/val/*"))[:2]
    else:
        config = segmentation_config(folder, folder / "digits")
        pictures = sorted((ROOT / "docs" / "images").glob("*.jpg"))[:2]
    text = config.read_text()
    config.write_text(text.replace(f"{ROOT / 'configs'}/", "spectral_backbones::"))
    assert "spectral_backbones::" in config.read_text() and str(ROOT) not in config.read_text()
    return config, pictures
