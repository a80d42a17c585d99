"""Small data sets in their real layouts, a small config, and the tools run as a user runs them."""

import contextlib
import importlib.util
import io
import json
import multiprocessing
import os
import pickle
import runpy
import socket
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from scipy.io import savemat

ROOT = Path(__file__).parents[1]
SAMPLES = Path(os.environ.get("SPECTRAL_SAMPLE_DATA", ROOT.parent / "shared" / "data"))


def picture(label, number, size=(24, 20)):
    """A picture whose colour tells its class, with noise that tells it from the others."""
    noise = np.random.RandomState(1000 * label + number).randint(0, 60, (*size[::-1], 3))
    colour = np.array([[180, 30, 30], [30, 180, 30], [30, 30, 180]][label % 3])
    return Image.fromarray((noise + colour).astype(np.uint8))


def make_folder(root, splits=("train", "val"), per_class=16, classes=("blue", "green", "red")):
    for split in splits or ("",):
        for label, name in enumerate(classes):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(per_class):
                picture(label, number + 500 * (split == "val")).save(folder / f"{number}.png")
    return root


def make_cifar10(root):
    """Five training batches of 4 and a test batch of 4, pickled as the original is."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]:
        seed = int(name[-1]) if name[-1].isdigit() else 6
        rng = np.random.RandomState(seed)
        content = {"data": rng.randint(0, 256, (4, 3072), dtype=np.uint8), "labels": rng.randint(0, 10, 4).tolist()}
        (folder / name).write_bytes(pickle.dumps(content, protocol=2))
    names = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": names}, protocol=2))
    return folder


def make_flowers(root, labels=None):
    """Six pictures, two a split, in two of the 102 classes."""
    folder = root / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    labels = np.array(labels or [1, 77, 1, 77, 1, 77])
    for number, label in enumerate(labels, start=1):
        picture(int(label), number).save(folder / "jpg" / f"image_{number:05d}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": labels[None]})
    splits = {"trnid": np.array([[1, 2]]), "valid": np.array([[3, 4]]), "tstid": np.array([[5, 6]])}
    savemat(folder / "small.mat", splits)
    return folder


def make_cars(root):
    """Four training and two test pictures of three classes."""
    folder = root / "stanford_cars"
    (folder / "devkit").mkdir(parents=True)
    names = np.array(["AM General Hummer SUV 2000", "Acura RL Sedan 2012", "Audi R8 Coupe 2012"], dtype=object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names[None]})
    for split, classes, mat in (
        ("train", [1, 2, 3, 2], "devkit/cars_train_annos.mat"),
        ("test", [3, 1], "cars_test_annos_withlabels.mat"),
    ):
        (folder / f"cars_{split}").mkdir()
        rows = []
        for number, label in enumerate(classes, start=1):
            picture(label - 1, number).save(folder / f"cars_{split}" / f"{number:05d}.jpg")
            rows.append((0, 0, 24, 20, label, f"{number:05d}.jpg"))
        fields = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
        savemat(folder / mat, {"annotations": np.array(rows, dtype=fields)[None]})
    return folder


def small_config(folder, data_root, max_epochs=3, imports=()):
    """Writes a config of a two-block SpectFormer on a folder of images: 48 pictures, 6 batches of 8.

    Args:
        folder: Where to write it.
        data_root: The pictures.
        max_epochs: 2 or more; one is warm-up.
        imports: Modules of a test that the config brings in.
    """
    base = ROOT / "configs" / "_base_" / "classification"
    settings = {
        "model": {
            "name": "spectformer_ti",
            "img_size": 16,
            "kwargs": {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "mixers": "spectral:1, attention"},
        },
        "custom_imports": {"imports": ["spectral_backbones.classification", *imports]},
        "train_cfg": {"max_epochs": max_epochs},
        "param_scheduler": [
            {"type": "LinearLR", "start_factor": 0.1, "begin": 0, "end": 1, "convert_to_iter_based": True},
            {"type": "CosineAnnealingLR", "eta_min_ratio": 0.01, "begin": 1, "convert_to_iter_based": True},
        ],
        "train_dataloader": {
            "batch_size": 8,
            "num_workers": 0,
            "dataset": {"root": str(data_root)},
        },
        "val_dataloader": {"num_workers": 0, "dataset": {"root": str(data_root)}},
        "test_dataloader": {"num_workers": 0, "dataset": {"root": str(data_root)}},
    }
    lines = [f"_base_ = {json.dumps([str(base / 'folder.py'), str(base / 'scratch_15e.py')])}"]
    lines += [f"{key} = {value!r}" for key, value in settings.items()]
    path = folder / "small.py"
    path.write_text("\n".join(lines))
    return path


def load_tool(tool):
    """Imports a tool as a module."""
    return importlib.import_module(f"spectral_backbones.tools.{Path(tool).stem}")


def run_here(tool, *arguments):
    """Runs a tool in this process, which spares its start; returns what it prints."""
    module = load_tool(tool)
    with contextlib.redirect_stdout(io.StringIO()) as output:
        module.main([str(argument) for argument in arguments])
    return output.getvalue()


def environment(path=""):
    """One thread: the same sums in the same order in every process. `path` is for modules of a test."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(ROOT), str(path)])}


def command(tool, *arguments, processes=1):
    script = [str(ROOT / "tools" / tool), *map(str, arguments)]
    if processes == 1:
        return [sys.executable, *script]
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *script]


def run_tool(tool, *arguments, processes=1, path=""):
    """Runs a tool in a process of its own; returns it with its whole output in `stdout`."""
    return subprocess.run(
        command(tool, *arguments, processes=processes),
        env=environment(path),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )


FRESH = """
import os, sys, warnings
import mmengine, timm

warnings.simplefilter("ignore")
for code in sys.argv[1:]:
    if not (child := os.fork()):
        exec(code, {})
        sys.stdout.flush()
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        sys.exit(f"this failed: {code}")
    print(end="\\0", flush=True)
"""


def run_fresh(*codes):
    """Runs each code in an interpreter that has imported timm and mmengine alone; returns what each prints."""
    done = subprocess.run([sys.executable, "-c", FRESH, *codes], env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [output.strip() for output in done.stdout.split("\0")[:-1]]


def run_forked(tool, *arguments, processes=1, path=""):
    """As `run_tool`, in processes that begin as copies of this one, which spares them all imports.

    For what has to be killed and for what processes do together; that torchrun starts a tool is shown by `run_tool`.
    """
    if torch.cuda.is_available():
        return run_tool(tool, *arguments, processes=processes, path=path)  # no fork may follow the use of a GPU
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(processes)}
    with tempfile.TemporaryFile() as output:
        context, children = multiprocessing.get_context("fork"), []
        for rank in range(processes):
            settings = {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            children.append(context.Process(target=_copy, args=(tool, arguments, output.fileno(), settings, str(path))))
            children[-1].start()
        for child in children:
            child.join(300)
            if child.is_alive():
                child.kill()
                child.join()
        output.seek(0)
        codes = [child.exitcode for child in children]
        return subprocess.CompletedProcess([tool, *arguments], max(codes, key=abs), output.read().decode())


def _copy(tool, arguments, output, settings, path):
    for stream in (1, 2):
        os.dup2(output, stream)
    sys.stdout, sys.stderr = (os.fdopen(os.dup(stream), "w", buffering=1) for stream in (1, 2))
    os.environ.update(settings)
    sys.argv = [str(ROOT / "tools" / tool), *map(str, arguments)]
    sys.path[:0] = [str(ROOT / "tools"), path]
    code = 0
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as exit:
        code = exit.code
        if isinstance(code, str):
            print(code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
        code = 1
    os._exit(code if isinstance(code, int) else code is not None)
