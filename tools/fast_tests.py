"""The tests that answer within two minutes: what a change touches, one name of each family, one short run of each task.

A change is what git sees since the last commit, new files included. Tests are found by name: of a test file itself, of
`detection/hooks/check.py` the file `test_check.py`, of a module without such a file those that name it or its classes,
of a config the test of all configs of its task, of a page the test of the documents. Tests that are marked slow are
left to `make test`.
"""

if __name__ == "__main__" and not __package__:  # run as a script: of this clone's code
    import clone  # noqa: F401

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Iterable, List

ROOT = Path(__file__).resolve().parents[1]

OF_A_NAME = [
    "test_names.py::test_default_cfg_describes_the_model",
    "test_contract.py::test_forward_is_features_then_head",
    "test_contract.py::test_every_parameter_gets_a_finite_gradient",
    "test_contract.py::test_any_size_works_and_may_change_from_batch_to_batch",
]
RUNS = [
    "test_train.py::test_a_run_leaves_what_it_promises",
    "detection/test_train.py::test_a_run_leaves_what_it_promises",
    "segmentation/test_train.py::test_a_run_by_iterations_says_and_leaves_what_a_run_by_epochs_does",
    "volumes/test_training.py::test_a_run_prints_figures_and_draws_slices",
]
CONFIGS = {
    "classification": "test_configs_classification.py",
    "pretraining": "pretraining/test_configs.py",
    "detection": "detection/test_configs.py",
    "segmentation": "segmentation/test_configs.py",
}


def changed() -> List[Path]:
    """What differs from the last commit, relative to the root; nothing where git cannot tell."""
    paths = []
    for command in (["diff", "--name-only", "HEAD"], ["ls-files", "--others", "--exclude-standard"]):
        done = subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True)
        paths += done.stdout.splitlines()
    return [Path(path) for path in paths]


def touched(path: Path, tests: Iterable[Path]) -> List[Path]:
    """Those of the test files that a change of `path` touches, all relative to the root."""
    if path in tests:
        return [path]
    if path.suffix == ".md" or path.parts[0] == "docs":
        return [Path("tests", "test_documents.py")]
    if path.parts[0] == "configs":
        return [test for test in tests if test == Path("tests", CONFIGS.get(path.parts[1], "none"))]
    if path.suffix != ".py" or path.parts[0] == "tests" or not (ROOT / path).is_file():
        return []
    name = path.parent.name if path.stem == "__init__" else path.stem
    module = re.escape(".".join(path.with_suffix("").parts))
    classes = re.findall(r"^class ([A-Z]\w+)", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    uses = re.compile("|".join(rf"\b{word}\b" for word in (module, *classes)))
    of_that_name = [test for test in tests if test.name == f"test_{name}.py"]
    users = [test for test in tests if uses.search((ROOT / test).read_text(encoding="utf-8"))]
    # Tests mirror the rooms, and what a room of its own does not have lies beside them.
    for found in (of_that_name, users):
        if mirrored := [test for test in found if test.parent.name in ("tests", *path.parts)]:
            return mirrored
    return users


def one_of_each_family() -> List[str]:
    """The first name of each model file."""
    from spectral_backbones import backbones  # noqa: F401  registers the models
    from spectral_backbones.backbones.registry import variants

    return sorted({model_cls.__module__: name for name, (model_cls, _) in reversed(variants().items())}.values())


def main() -> None:
    tests = sorted(path.relative_to(ROOT) for path in (ROOT / "tests").rglob("test_*.py"))
    chosen = sorted({test for path in changed() for test in touched(path, tests)})
    print("touched by the change:", *chosen or ["nothing that has tests of its own"], flush=True)
    always = [f"tests/{test}[{name}]" for name in one_of_each_family() for test in OF_A_NAME]
    always += [f"tests/{test}" for test in RUNS]
    arguments = [*map(str, chosen), *(test for test in always if Path(test.partition("::")[0]) not in chosen)]
    os.chdir(ROOT)
    command = [sys.executable, "-m", "pytest", "-n", "auto", "--dist", "worksteal", "-m", "not slow", *arguments]
    os.execv(sys.executable, command)


if __name__ == "__main__":
    main()
