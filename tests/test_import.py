"""What importing the package does and does not do."""

import subprocess
import sys


def run(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_import_takes_less_than_a_second_on_top_of_timm():
    code = (
        "import timm, time; start = time.process_time(); import spectral_backbones; print(time.process_time() - start)"
    )
    assert float(run(code)) < 1.0


def test_import_brings_in_neither_a_toolbox_nor_the_training_requirements():
    heavy = ("mmengine", "mmcv", "mmdet", "mmseg", "detectron2", "monai", "nibabel", "fvcore", "matplotlib", "sklearn")
    code = f"import sys, spectral_backbones; print([name for name in {(*heavy, 'onnx')} if name in sys.modules])"
    assert run(code) == "[]"


def test_import_registers_every_name_with_timm_and_changes_none_of_timms():
    code = (
        "import timm; before = {name: timm.model_entrypoint(name) for name in timm.list_models()}; "
        "from spectral_backbones import backbones; "
        "assert all(timm.model_entrypoint(name) is entry for name, entry in before.items()); "
        "assert not set(before) & set(backbones.list_models()); "
        "assert set(backbones.list_models()) <= set(timm.list_models()); "
        "print(len(backbones.list_models()))"
    )
    assert int(run(code)) >= 14
