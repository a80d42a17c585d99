"""Copies and archives of the tree, and environments that borrow the tests' dependencies and have one thing of ours."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from fnmatch import fnmatch
from pathlib import Path

from .classification_fixtures import ROOT

ROOMS = (
    "backbones",
    "classification",
    "detection",
    "engine",
    "methods",
    "pretraining",
    "segmentation",
    "toolboxes",
    "tools",
    "visualization",
    "volumes",
)
_IGNORED = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]

_BUILD = """
import sys
from setuptools import build_meta
print(getattr(build_meta, f"build_{sys.argv[1]}")(sys.argv[2]))
"""


_SERVE = """
import json, os, sys, traceback
import matplotlib.pyplot, mmengine.runner, timm

exec(sys.argv[1])
for line in sys.stdin:
    folder, code, output = json.loads(line)
    if not (child := os.fork()):
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(os.open(output, os.O_WRONLY), 1)
        os.dup2(1, 2)
        os.chdir(folder)
        try:
            exec(code, {})
            status = 0
        except SystemExit as exit:
            status = exit.code or 0
        except BaseException:
            traceback.print_exc()
            status = 1
        if not isinstance(status, int):
            print(status)
            status = 1
        sys.stdout.flush()
        os._exit(status)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def _is_ours(name):
    """Whether a file or folder of the tree is part of it, and not of a tool, of git or of a run."""
    hidden = name.startswith(".") and name not in (".ci", ".gitignore", ".mim")
    return not hidden and not any(fnmatch(name, pattern) for pattern in _IGNORED)


def copy_tree(target):
    """Copies the tree, its symlink as one."""
    ignore = lambda folder, names: [name for name in names if not _is_ours(name)]  # noqa: E731
    shutil.copytree(ROOT, target, symlinks=True, ignore=ignore, dirs_exist_ok=True)
    return target


def files(folder):
    """The content of each file below a folder that is part of the tree, by its path; what is linked is left out."""
    found = {}
    for parent, folders, names in os.walk(folder):
        folders[:] = filter(_is_ours, folders)
        for name in filter(_is_ours, names):
            path = Path(parent, name)
            found[path.relative_to(folder).as_posix()] = path.read_bytes()
    return found


def build(kind, tree, target):
    """Builds a "wheel" or "sdist" of a tree, which is changed by that."""
    done = subprocess.run(
        [sys.executable, "-c", _BUILD, kind, str(target)], cwd=tree, env=clean(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return target / done.stdout.split()[-1]


def clean(**settings):
    """The tests' environment variables, without what lets Python find the tree; one thread."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    return {**kept, "OMP_NUM_THREADS": "1", **settings}


def environment(folder, *requirement):
    """Makes a virtual environment of the tests' dependencies, and installs something of ours into it.

    A path of a .pth file is put on `sys.path` without its own .pth files being read, so that an editable install among
    the borrowed packages is out of reach.

    Args:
        folder: Where to.
        requirement: As pip takes it: a wheel, or "--editable" and a tree.

    Returns:
        Its folder of commands.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site / "borrowed.pth").write_text("\n".join(borrowed))
    options = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed", "--no-compile"]
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", *options]
    done = subprocess.run([*pip, *map(str, requirement)], env=clean(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "bin"


class Interpreter:
    """An environment's Python that has imported timm and mmengine, and runs each code in a copy of itself.

    Args:
        bin: The folder of the environment's commands.
        folder: Where it is started, whose modules it would find first.
        code: What it runs itself, whose imports the copies have too.
    """

    def __init__(self, bin, folder, code=""):
        self.bin, self.folder = bin, folder
        self.process = subprocess.Popen(
            [bin / "python", "-c", _SERVE, code],
            cwd=folder,
            env=clean(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, code, folder=None):
        """Runs a code in a folder, its own one by default; returns what it prints."""
        with tempfile.NamedTemporaryFile("r") as output:
            print(json.dumps([str(folder or self.folder), code, output.name]), file=self.process.stdin, flush=True)
            status = self.process.stdout.readline().strip()
            printed = output.read()
        assert status == "0", f"{printed}\nended with {status}: {code}"
        return printed.strip()

    def spectral(self, *arguments):
        """Runs the installed command as if it had been called, but for imports that are done already."""
        argv = [str(self.bin / "spectral"), *map(str, arguments)]
        code = f"import runpy, sys; sys.argv = {argv}; sys.path[0] = {str(self.bin)!r}"
        return self.run(f"{code}; runpy.run_path(sys.argv[0], run_name='__main__')")

    def module(self, *arguments):
        """Runs `python -m spectral_backbones`, likewise."""
        argv = ["-m", *map(str, arguments)]
        code = f"import runpy, sys; sys.argv = {argv}; sys.modules.pop('spectral_backbones.__main__', None)"
        return self.run(f"{code}; runpy.run_module('spectral_backbones', run_name='__main__', alter_sys=True)")

    def close(self):
        """Ends it."""
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
