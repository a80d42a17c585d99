"""What importing the detectron2 entry point needs, and what it says where detectron2 is missing."""

import importlib
import sys

import pytest

from ..test_import import run


def test_without_detectron2_the_error_says_how_to_install_it(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("spectral_backbones.toolboxes.detectron2")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "detectron2", None)  # its import then fails as if it were not installed
    with pytest.raises(ModuleNotFoundError, match=r"git\+https://github\.com/facebookresearch/detectron2"):
        importlib.import_module("spectral_backbones.toolboxes.detectron2")


def test_it_needs_neither_an_mm_package_nor_pkg_resources():
    """detectron2's model_zoo imports pkg_resources, which setuptools 82 no longer has."""
    pytest.importorskip("detectron2", reason="detectron2 is not installed, it is built from its sources")
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(['pkg_resources', 'mmengine', 'mmcv', 'mmdet', 'mmseg']))\n"
        "import spectral_backbones.toolboxes\n"
        "assert 'detectron2' not in sys.modules\n"
        "from spectral_backbones.toolboxes.detectron2 import get_config\n"
        "print(get_config('common/models/mask_rcnn_fpn.py').model.roi_heads.num_classes)"
    )
    assert run(code) == "80"
