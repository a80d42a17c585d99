"""mmcv finds its operators once `detection` was imported, whatever was imported before."""

import importlib.util
import os
import pkgutil
import subprocess
import sys

import pytest

import detection
from detection.mmcv_ops import install
from detection.mmcv_ops.finder import ExtensionFinder, ExtensionLoader

pytest.importorskip("mmcv")


def run(code, path=""):
    """Runs code in a fresh interpreter and gives what it prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(path), os.getcwd()]))}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def supplied():
    """Skips the test where mmcv is compiled."""
    if not isinstance(importlib.util.find_spec("mmcv._ext").loader, ExtensionLoader):
        pytest.skip("this mmcv is compiled")


@pytest.mark.usefixtures("supplied")
class TestSupplied:
    """Where mmcv is not compiled."""

    def test_mmcv_works_when_imported_after(self):
        assert run("import detection, mmcv.ops; print(mmcv.ops.nms.__module__)") == "mmcv.ops.nms"

    def test_mmcv_works_when_imported_before_and_failed(self):
        code = """
try:
    import mmcv.ops
except ModuleNotFoundError as error:
    print(error.name)
import detection, mmcv.ops
print(mmcv.ops.nms.__module__)"""
        assert run(code).split() == ["mmcv._ext", "mmcv.ops.nms"]

    def test_availability_checks_see_it(self):
        from mmcv.utils import ext_loader
        from mmengine.utils.dl_utils import mmcv_full_available

        assert mmcv_full_available()
        if hasattr(pkgutil, "find_loader"):  # gone in Python 3.14
            assert ext_loader.check_ops_exist()

    def test_environment_report_names_what_computes(self):
        from mmcv.ops import get_compiler_version, get_compiling_cuda_version

        assert "torch" in get_compiler_version()
        assert isinstance(get_compiling_cuda_version(), str)

    def test_operators_that_are_missing_say_so_when_they_are_called(self):
        import mmcv._ext

        with pytest.raises(NotImplementedError, match=r"knn_forward.*compiled mmcv"):
            mmcv._ext.knn_forward(k=1)

    def test_private_names_are_no_operators(self):
        import mmcv._ext

        with pytest.raises(AttributeError, match="_private"):
            _ = mmcv._ext._private


def test_a_compiled_extension_is_left_alone(tmp_path):
    (tmp_path / "mmcv").mkdir()
    (tmp_path / "mmcv" / "__init__.py").touch()
    (tmp_path / "mmcv" / "_ext.py").write_text("nms = 'compiled'")
    assert run("import detection, mmcv._ext; print(mmcv._ext.nms)", tmp_path) == "compiled"


def test_installing_again_changes_nothing():
    install()
    assert detection.mmcv_ops.install is install
    assert sum(isinstance(finder, ExtensionFinder) for finder in sys.meta_path) == 1
