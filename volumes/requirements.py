"""What training needs beside torch and timm is asked for in one place."""

from importlib.util import find_spec

NEEDED = ("monai", "nibabel", "mmengine")


def check_requirements() -> None:
    """Says what to install, before something fails in the middle.

    Raises:
        ModuleNotFoundError: MONAI, nibabel or mmengine is missing.
    """
    for name in NEEDED:
        if not find_spec(name):
            raise ModuleNotFoundError(
                f"training and predicting of volumes needs {name}: pip install 'spectral-backbones[volumes]'", name=name
            )
