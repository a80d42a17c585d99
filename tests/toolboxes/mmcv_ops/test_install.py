"""mmcv finds its operators once `toolboxes` was imported, whatever was imported before."""

import importlib.util
import pkgutil
import sys

import pytest

from spectral_backbones import toolboxes
from spectral_backbones.toolboxes.mmcv_ops import install
from spectral_backbones.toolboxes.mmcv_ops.finder import ExtensionFinder, ExtensionLoader

from ...classification_fixtures import run_fresh

pytest.importorskip("mmcv")


AFTER = "import spectral_backbones.toolboxes, mmcv.ops; print(mmcv.ops.nms.__module__)"
BEFORE = """
try:
    import mmcv.ops
except ModuleNotFoundError as error:
    print(error.name)
import spectral_backbones.toolboxes, mmcv.ops
print(mmcv.ops.nms.__module__)"""
COMPILED = (
    "import sys; sys.path.insert(0, {path!r}); import spectral_backbones.toolboxes, mmcv._ext; print(mmcv._ext.nms)"
)


@pytest.fixture(scope="module")
def printed(tmp_path_factory):
    """What mmcv gives after `toolboxes`, before and after it, and where it is compiled."""
    path = tmp_path_factory.mktemp("compiled")
    (path / "mmcv").mkdir()
    (path / "mmcv" / "__init__.py").touch()
    (path / "mmcv" / "_ext.py").write_text("nms = 'compiled'")
    return run_fresh(AFTER, BEFORE, COMPILED.format(path=str(path)))


@pytest.fixture
def supplied():
    """Skips the test where mmcv is compiled."""
    if not isinstance(importlib.util.find_spec("mmcv._ext").loader, ExtensionLoader):
        pytest.skip("this mmcv is compiled")


@pytest.mark.usefixtures("supplied")
class TestSupplied:
    """Where mmcv is not compiled."""

    def test_mmcv_works_when_imported_after(self, printed):
        assert printed[0] == "mmcv.ops.nms"

    def test_mmcv_works_when_imported_before_and_failed(self, printed):
        assert printed[1].split() == ["mmcv._ext", "mmcv.ops.nms"]

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


def test_a_compiled_extension_is_left_alone(printed):
    assert printed[2] == "compiled"


def test_installing_again_changes_nothing():
    install()
    assert toolboxes.mmcv_ops.install is install
    assert sum(isinstance(finder, ExtensionFinder) for finder in sys.meta_path) == 1
