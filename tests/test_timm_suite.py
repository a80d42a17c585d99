"""timm's own tests of a model, which its source distribution ships, pass for every name that we register.

They need the network once: the archive of the installed version is fetched by pip and kept in pytest's cache.
"""

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import timm

import backbones

PLUGIN = Path(__file__).parent / "timm_suite" / "our_models.py"

# What timm runs on each of its models; a token model is excused from the two tests of feature maps.
EVERY_MODEL = {
    "test_model_forward",
    "test_model_backward",
    "test_model_forward_torchscript",
    "test_model_forward_intermediates",
    "test_model_forward_intermediates_features",
    "test_model_forward_fx",
    "test_model_backward_fx",
    "test_model_forward_fx_torchscript",
    "test_prune_intermediate_layers_contract",
    "test_prune_intermediate_layers_params_used",
}
MAP_MODEL = {"test_model_default_cfgs", "test_model_forward_features"}
TOKEN_MODEL = {"test_model_default_cfgs_non_std"}


@pytest.fixture(scope="session")
def timm_source(pytestconfig) -> Path:
    """A folder with `tests/` of the installed timm and their settings; skips where pip cannot fetch the source."""
    folder = pytestconfig.cache.mkdir("timm") / f"timm-{timm.__version__}"
    if not folder.exists():
        with tempfile.TemporaryDirectory(dir=folder.parent) as download:
            command = [sys.executable, "-m", "pip", "download", f"timm=={timm.__version__}", "--no-binary=timm"]
            command += ["--no-deps", "--no-input", "--retries=0", "--timeout=15", "--dest", download]
            pip = subprocess.run(command, capture_output=True, text=True)
            if pip.returncode:
                reason = (pip.stderr.strip().splitlines() or ["pip said nothing"])[-1]
                pytest.skip(f"the source distribution of timm {timm.__version__} cannot be fetched: {reason}")
            with tarfile.open(next(Path(download).glob("*.tar.gz"))) as archive:
                wanted = re.compile(r"[^/]+/(tests/.*|pyproject\.toml)")  # not timm/: the installed one is tested
                members = [member for member in archive if wanted.fullmatch(member.name)]
                archive.extractall(download, members, filter="data")
            try:
                Path(download, folder.name).rename(folder)  # appears whole, or another process was quicker
            except OSError:
                if not folder.exists():
                    raise
    return folder


@pytest.mark.parametrize("name", backbones.list_models())
def test_timms_own_tests_pass(name, timm_source, tmp_path):
    """Run in a process of its own: timm's module changes the settings of TorchScript when it is imported."""
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", str(timm_source / "tests" / "test_models.py"), "--model", name]
    command += ["-p", PLUGIN.stem, "-p", "no:cacheprovider", "-q", "--tb=short", "--no-header", "--disable-warnings"]
    # GITHUB_ACTIONS makes timm leave tests out; pytest's own variables are meant for this process
    ignored = ("GITHUB_ACTIONS", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST")
    environment = {key: value for key, value in os.environ.items() if key not in ignored}
    environment["PYTHONPATH"] = os.pathsep.join([str(PLUGIN.parent), *sys.path])
    run = subprocess.run(
        [*command, f"--junitxml={report}"], cwd=timm_source, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, f"timm's tests fail for {name}:\n{run.stdout[-20000:]}\n{run.stderr[-2000:]}"

    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = [case.get("name") for case in cases if case.find("skipped") is not None]
    assert not skipped, f"timm's tests skip {name}: {skipped}"
    passed = {case.get("name").partition("[")[0] for case in cases}
    assert passed >= EVERY_MODEL, f"timm has not run {sorted(EVERY_MODEL - passed)} on {name}"
    assert passed >= MAP_MODEL or passed >= TOKEN_MODEL, f"timm has run neither of {MAP_MODEL} and {TOKEN_MODEL}"
