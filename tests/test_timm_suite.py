"""timm's own tests of a model, which its source distribution ships, pass for one model of each class at its smallest.

TIMM_SUITE=all in the environment takes every name that we register, as large as it is, which takes fifteen times as
long; what depends on a model's code, not on its sizes, then runs on one model of each code path (models.py), as
test_contract_of_code.py always does. The tests need the network once: the archive of the installed version is fetched
by pip and kept in pytest's cache.
"""

import json
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

from .models import NAMES, ONE_OF_EACH_CLASS, REPRESENTATIVES, SMALLEST
from .timm_suite.our_models import OF_CODE

PLUGIN = Path(__file__).parent / "timm_suite" / "our_models.py"

# What timm runs on each of its models; a token model is excused from the two tests of feature maps.
EVERY_MODEL = {
    "test_model_forward",
    "test_model_backward",
    "test_model_forward_intermediates",
    "test_model_forward_intermediates_features",
    "test_prune_intermediate_layers_params_used",
}
MAP_MODEL = {"test_model_default_cfgs", "test_model_forward_features"}
TOKEN_MODEL = {"test_model_default_cfgs_non_std"}

# A process takes ten seconds to start, so it tests twenty names; they are dealt out so that each has small and large.
IS_ALL = os.environ.get("TIMM_SUITE") == "all"
TESTED = NAMES if IS_ALL else ONE_OF_EACH_CLASS
NUM_PROCESSES = -(-len(TESTED) // 20)
SHARES = [TESTED[i::NUM_PROCESSES] for i in range(NUM_PROCESSES)]


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


@pytest.mark.slow
@pytest.mark.parametrize("names", SHARES, ids=",".join)
def test_timms_own_tests_pass(names, timm_source, tmp_path):
    """Run in a process of its own: timm's module changes the settings of TorchScript when it is imported."""
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", str(timm_source / "tests" / "test_models.py")]
    command += [f"--model={name}" for name in names]
    command += [f"--code-of={name}" for name in names if name in REPRESENTATIVES]
    command += ["--arguments", json.dumps({} if IS_ALL else SMALLEST)]
    command += ["-p", PLUGIN.stem, "-p", "no:cacheprovider", "-q", "--tb=short", "--no-header", "--disable-warnings"]
    # GITHUB_ACTIONS makes timm leave tests out; pytest's own variables are meant for this process
    ignored = ("GITHUB_ACTIONS", "PYTEST_ADDOPTS", "PYTEST_CURRENT_TEST")
    environment = {key: value for key, value in os.environ.items() if key not in ignored}
    environment["PYTHONPATH"] = os.pathsep.join([str(PLUGIN.parent), *sys.path])
    run = subprocess.run(
        [*command, f"--junitxml={report}"], cwd=timm_source, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, f"timm's tests fail:\n{run.stdout[-20000:]}\n{run.stderr[-2000:]}"

    cases = list(ElementTree.parse(report).iter("testcase"))
    skipped = [case.get("name") for case in cases if case.find("skipped") is not None]
    assert not skipped, f"timm's tests skip {skipped}"
    for name in names:
        passed = {case.get("name").partition("[")[0] for case in cases if is_of(name, case.get("name"))}
        expected = EVERY_MODEL | OF_CODE if name in REPRESENTATIVES else EVERY_MODEL
        assert passed >= expected, f"timm has not run {sorted(expected - passed)} on {name}"
        assert passed >= MAP_MODEL or passed >= TOKEN_MODEL, (
            f"timm has run neither {MAP_MODEL} nor {TOKEN_MODEL} on {name}"
        )


def is_of(model, case):
    """Whether a test case, such as "test_model_forward[1-gfnet_ti]" or "[1-gfnet_ti.in1k]", is one of a model's."""
    return re.search(rf"[\[-]{model}[.\]-]", case) is not None
