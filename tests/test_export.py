"""Classifiers leave Python: what a file computes, says of itself, and what is refused."""

import ctypes
import gc
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as functional

from spectral_backbones.classification.classifier import TimmClassifier
from spectral_backbones.classification.config import data_config
from spectral_backbones.engine import UserError, deploy
from spectral_backbones.engine.deploy.compare import compare
from spectral_backbones.engine.deploy.formats import trace
from spectral_backbones.engine.deploy.procedure import check_loss
from spectral_backbones.engine.deploy.runtimes import METADATA
from spectral_backbones.engine.library import list_configs
from spectral_backbones.tools import export, predict, test

from .classification_fixtures import ROOT, make_folder, small_config

CLASSES = ["blue", "green", "red"]
SPEC = dict(
    name="spectformer_ti",
    num_classes=3,
    img_size=16,
    kwargs=dict(patch_size=4, embed_dim=16, depth=2, num_heads=2, mixers="spectral:1, attention"),
)
TRANSFORM = data_config("spectformer_ti", img_size=16)  # as the config resolves it


def write_checkpoint(path, transform=TRANSFORM, **spec):
    """A checkpoint as training writes it, whose probabilities are far from even."""
    torch.manual_seed(0)
    model = TimmClassifier(**{**SPEC, **spec})
    with torch.no_grad():
        model.model.get_classifier().weight.mul_(30)
    kind = "BandTransform" if spec.get("in_chans", 3) not in (1, 3) else "TimmTransform"
    known = dict(task="classification", model=model.spec, transform={"type": kind, **transform}, classes=CLASSES)
    torch.save({"state_dict": model.state_dict(), "predictor": known}, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    make_folder(folder / "data", per_class=4)
    small_config(folder, folder / "data")
    write_checkpoint(folder / "best.pth")
    return folder


def exported(folder, out, *options):
    return export.main([str(folder / "small.py"), str(folder / "best.pth"), "--out", str(out), *options])


@pytest.fixture(scope="module")
def onnx_file(folder):
    return exported(folder, folder / "model.onnx")


@pytest.mark.parametrize(
    "name, options",
    [
        ("a.onnx", ["--batch", "dynamic"]),
        ("a.pt2", ["--format", "pt2"]),
        ("a.xml", ["--format", "openvino", "--batch", "2"]),
    ],
)
def test_a_file_of_each_format_predicts_and_is_tested_as_the_model_is(folder, tmp_path, name, options, capsys):
    file = exported(folder, tmp_path / name, *options)
    assert "probabilities differ by at most" in capsys.readouterr().out
    pictures = [str(folder / "data" / "val" / colour / "0.png") for colour in CLASSES]
    found, expected = (
        predict.main([str(model), *pictures, "--out-dir", str(tmp_path / "out")])
        for model in (file, folder / "best.pth")
    )
    for one, other in zip(found, expected):
        assert [name for name, _ in one] == [name for name, _ in other]
        assert [share for _, share in one] == pytest.approx([share for _, share in other], abs=1e-4)
    figures, expected = (
        test.main([str(folder / "small.py"), str(model), "--work-dir", str(tmp_path / "test")])
        for model in (file, folder / "best.pth")
    )
    assert figures == pytest.approx(expected, abs=1e-3)


def test_a_file_says_what_it_is(onnx_file):
    known = deploy.open_program(onnx_file).metadata
    assert known["task"] == "classification" and known["classes"] == CLASSES and known["outputs"] == ["probabilities"]
    assert known["images"] == dict(dtype="uint8", shape=[1, 3, 16, 16], channel_order="RGB")
    assert [step["step"] for step in known["resize"]] == ["shorter_side", "centre"]
    assert known["library"].startswith("spectral-backbones ")


@pytest.mark.parametrize("name, dtype", [("half.onnx", "float16"), ("half.pt2", "bfloat16")])
def test_half_precision_agrees_within_looser_limits(folder, tmp_path, name, dtype):
    kind = "pt2" if name.endswith("pt2") else "onnx"
    file = exported(folder, tmp_path / name, "--format", kind, "--dtype", dtype)
    assert deploy.open_program(file).metadata["dtype"] == dtype


def test_int8_is_judged_on_the_test_set(folder, tmp_path, capsys):
    import onnx

    pictures = str(folder / "data" / "train")
    file = exported(folder, tmp_path / "int8.onnx", "--int8", pictures, "--max-drop", "50")
    said = capsys.readouterr().out
    assert "top-1" in said and "in float32" in said and "in int8" in said
    content = file.read_bytes()
    assert deploy.open_program(file).metadata["dtype"] == "int8"
    products = {
        node.name: node.input for node in onnx.load(file).graph.node if node.op_type in ("MatMul", "Gemm", "Conv")
    }
    in_eight_bits = {
        name for name, inputs in products.items() if all("DequantizeLinear" in name for name in inputs[:2])
    }
    # The stem; qkv, proj and two layers of an MLP; those of the other MLP; the head. Not the gate's four transforms.
    assert len(in_eight_bits) == 8 and len(products) == 8 + 4 + 2
    with pytest.raises(UserError, match="points of top-1, --max-drop is -100"):
        exported(folder, file, "--int8", pictures, "--max-drop", "-100")
    assert file.read_bytes() == content and len(list(tmp_path.iterdir())) == 1


def test_a_model_that_finds_nothing_in_eight_bits_has_lost_all():
    said = []
    before = {"coco/bbox_mAP": 0.5, "coco/bbox_mAP_50": -1.0}
    check_loss(before, {}, None, said.append)  # mmdet gives no figures where nothing is found
    assert "box AP 50.0 in float32, box AP 0.0 in int8" in said[0]
    with pytest.raises(UserError, match=r"int8 costs 50\.00 points of box AP, --max-drop is 3\.0"):
        check_loss(before, {}, 3.0, said.append)
    check_loss(before, {"coco/bbox_mAP": 0.48}, 3.0, said.append)
    for none in ({}, {"coco/bbox_mAP": -1.0}):  # nothing is annotated
        with pytest.raises(UserError, match="--max-drop needs a figure to limit"):
            check_loss(none, {}, 3.0, said.append)


def test_a_file_beside_the_export_that_is_none_of_it_stays(folder, tmp_path):
    weights = write_checkpoint(tmp_path / "best.bin")  # where OpenVINO puts its own
    content = weights.read_bytes()
    with pytest.raises(UserError, match=r"best\.xml would overwrite .*best\.bin, which no export wrote"):
        export.main([str(weights), "--format", "openvino", "--out", str(tmp_path / "best.xml")])
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(UserError, match=r"a\.bin is a folder"):
        export.main([str(weights), "--format", "openvino", "--out", str(tmp_path / "a.xml")])
    assert weights.read_bytes() == content and len(list(tmp_path.iterdir())) == 2


def test_official_weights_and_models_of_timm_are_exported_by_name(tmp_path):
    import timm

    torch.manual_seed(0)
    torch.save(timm.create_model("vit_tiny_patch16_224", num_classes=4).state_dict(), tmp_path / "official.pth")
    file = tmp_path / "vit.pt2"
    options = ["--format", "pt2", "--size", "48x64", "--out", str(file)]
    export.main([str(tmp_path / "official.pth"), "--name", "vit_tiny_patch16_224", *options])
    assert deploy.open_program(file).size == (48, 64)
    with pytest.raises(UserError, match=r"no weights of resnet18 are called 'none'; there are resnet18\.a1_in1k"):
        export.main(["resnet18.none", str(tmp_path / "official.pth"), "--format", "pt2"])
    with pytest.raises(UserError, match="is made for pictures of one size"):
        export.main(["vit_tiny_patch16_224", str(tmp_path / "official.pth"), "--format", "pt2", "--dynamic"])


def test_pictures_of_other_numbers_of_bands_come_as_numbers(tmp_path):
    transform = dict(input_size=(4, 16, 16), mean=(100.0,) * 4, std=(50.0,) * 4)
    checkpoint = write_checkpoint(tmp_path / "bands.pth", transform, in_chans=4)
    file = export.main([str(checkpoint), "--format", "pt2", "--out", str(tmp_path / "bands.pt2")])
    program = deploy.open_program(file)
    assert program.shape == (1, 4, 16, 16) and program.dtype == np.float32


def test_the_example_runs_a_file_without_torch(folder, onnx_file, tmp_path):
    script = ROOT / "examples" / "run_onnx.py"
    picture = folder / "data" / "val" / "red" / "1.png"
    code = "import sys; sys.modules['torch'] = None; import runpy; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0])"
    done = subprocess.run([sys.executable, "-c", code, script, onnx_file, picture], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    name, share = done.stdout.splitlines()[0].rsplit(" ", 2)[1:]
    (expected,) = predict.main([str(folder / "best.pth"), str(picture), "--out-dir", str(tmp_path)])
    assert name == expected[0][0] and float(share) == pytest.approx(expected[0][1], abs=2e-3)


def test_a_file_that_is_off_takes_no_name(folder, tmp_path):
    from spectral_backbones.classification.deploy import subject
    from spectral_backbones.classification.predictor import Predictor

    (tmp_path / "a.pt2").write_text("an earlier file")
    wrong = subject(Predictor.load(str(folder / "best.pth")))
    eager = wrong.eager
    wrong.eager = lambda images: {"probabilities": eager(images)["probabilities"] + 2e-4}
    with pytest.raises(UserError, match=r"does not compute what the model does.*limit 0\.0001"):
        deploy.export(wrong, deploy.Settings("pt2", tmp_path / "a.pt2"))
    assert (tmp_path / "a.pt2").read_text() == "an earlier file" and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "options, message",
    [
        (["--format", "tflite"], r"--format is 'tflite'; allowed are onnx, pt2, openvino"),
        (["--dtype", "bfloat16"], "bfloat16 is for pt2 alone"),
        (["--dtype", "int4"], "--dtype is 'int4'; allowed are"),
        (["--format", "openvino", "--out", "a.xml", "--dtype", "bfloat16"], "bfloat16 is for pt2 alone"),
        (["--opset", "11"], "--opset is 11; allowed are 18 to 23"),
        (["--format", "pt2", "--out", "a.pt2", "--opset", "20"], "--opset is for onnx and openvino"),
        (["--int8", "missing"], "missing does not exist"),
        (["--int8", "."], "has no images"),
        (["--int8", ".", "--dtype", "float16"], "--int8 starts from float32"),
        (["--format", "pt2", "--out", "a.pt2", "--int8", "."], "--int8 is for onnx and openvino"),
        (["--max-drop", "1"], "--max-drop is a limit for --int8"),
        (["--max-drop", "nan", "--int8", "."], "--max-drop is nan, it takes points"),
        (["--data-root", "data"], "--data-root is the test set that --int8 is judged by"),
        (["--size", "2"], "the model cannot take pictures of 2x2: .*too small, the least size is 4x4"),
        (["--batch", "0"], "--batch is '0'; allowed are"),
        (["--batch", "many"], "--batch is 'many'; allowed are"),
        (["--out", "model.pt2"], "the name of a file of onnx ends in .onnx"),
        (["--photos", "missing"], "missing does not exist"),
        (["--out", "/dev/null/model.onnx"], "model.onnx cannot be written: /dev/null is no folder"),
        (["--out", "/proc/model.onnx"], "model.onnx cannot be written: "),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(folder, tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        export.main([str(folder / "small.py"), str(folder / "best.pth"), *options])
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [("--data-root", "data"), ("--max-drop", "1")])
def test_a_model_alone_has_no_test_set(folder, tmp_path, option):
    out = tmp_path / "a.onnx"
    with pytest.raises(UserError, match=f"{option[0]} .*: name the config instead of the model alone"):
        export.main([str(folder / "best.pth"), "--int8", str(folder / "data" / "train"), "--out", str(out), *option])
    assert not out.exists()


def test_models_of_other_tasks_and_without_classes_are_refused(folder, tmp_path):
    import timm

    volumes = next(name for name in list_configs() if name.startswith("volumes/"))
    with pytest.raises(UserError, match="a model of volumes cannot be exported; those of classification, detection"):
        export.main([volumes, str(folder / "best.pth"), "--out", str(tmp_path / "a.onnx")])
    with torch.device("meta"):
        features = timm.create_model("vit_small_patch14_dinov2")
    torch.save({key: torch.zeros(value.shape) for key, value in features.state_dict().items()}, tmp_path / "a.pth")
    with pytest.raises(UserError, match=r"has no classifier, .* it tells no classes"):
        export.main(["vit_small_patch14_dinov2", str(tmp_path / "a.pth"), "--out", str(tmp_path / "a.onnx")])


@pytest.mark.parametrize("size", ["3x4x5", "0", "224x", "big"])
def test_a_size_that_is_none_is_refused(size, capsys):
    with pytest.raises(SystemExit):
        export.main(["spectformer_ti", "--size", size])
    assert "allowed are N and HxW" in capsys.readouterr().err


def test_a_checkpoint_of_another_model_is_refused(folder, tmp_path):
    write_checkpoint(tmp_path / "other.pth", name="gfnet_ti", kwargs={}, img_size=224)
    with pytest.raises(UserError, match="is a checkpoint of gfnet_ti, not of spectformer_ti"):
        export.main([str(folder / "small.py"), str(tmp_path / "other.pth")])
    with pytest.raises(UserError, match="name the checkpoint"):
        export.main([str(folder / "small.py")])
    with pytest.raises(UserError, match="has no weights"):
        export.main(["spectformer_ti"])
    with pytest.raises(UserError, match="is an exported file already"):
        export.main([str(folder / "small.py"), "model.onnx"])


def test_files_of_others_and_pictures_of_another_size_are_refused(onnx_file, tmp_path):
    program = deploy.open_program(onnx_file)
    with pytest.raises(UserError, match=r"takes pictures of 3x16x16 .* got 3x32x16"):
        program(np.zeros((1, 3, 32, 16), np.uint8))
    import onnx

    foreign = onnx.load(str(onnx_file))
    del foreign.metadata_props[:]
    onnx.save(foreign, str(tmp_path / "foreign.onnx"))
    with pytest.raises(UserError, match="was not written by `spectral export`"):
        deploy.open_program(tmp_path / "foreign.onnx")
    for text, reason in [("{", "Expecting property name"), ("{}", "'images'"), ('{"images": 3}', "not subscriptable")]:
        foreign.metadata_props.add(key="spectral_backbones", value=text)
        onnx.save(foreign, str(tmp_path / "odd.onnx"))
        with pytest.raises(UserError, match=f"says of itself what `spectral export` does not write: .*{reason}"):
            deploy.open_program(tmp_path / "odd.onnx")
        del foreign.metadata_props[:]
    open_sides = {**program.metadata, "images": dict(dtype="uint8", shape=[1, 3, None, None])}
    foreign.metadata_props.add(key="spectral_backbones", value=json.dumps(open_sides))
    onnx.save(foreign, str(tmp_path / "sides.onnx"))
    with pytest.raises(UserError, match=r"sides\.onnx cannot take pictures of 1x3x5x5: .*Expected: 16") as error:
        deploy.open_program(tmp_path / "sides.onnx")(np.zeros((1, 3, 5, 5), np.uint8))
    assert "\n" not in str(error.value)
    (tmp_path / "torn.onnx").write_bytes(onnx_file.read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be run by onnxruntime"):
        deploy.open_program(tmp_path / "torn.onnx")
    (tmp_path / "torn.pt2").write_bytes(onnx_file.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"cannot be run by torch .*: it is damaged") as error:
        deploy.open_program(tmp_path / "torn.pt2")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="does not exist"):
        predict.main([str(tmp_path / "none.onnx"), str(tmp_path)])


def test_a_file_of_another_task_is_refused(onnx_file):
    config = ROOT / "configs" / "segmentation" / "digits" / "spectformer-h-small_fpn_digits.py"
    pytest.importorskip("mmseg")
    with pytest.raises(UserError, match=r"is for classification, .* for segmentation"):
        test.main([str(config), str(onnx_file)])


class SignalStack(ctypes.Structure):
    _fields_ = [("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("bytes", ctypes.c_size_t)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks the C library of Linux")
def test_programs_of_openvino_that_go_in_any_order_leave_the_thread_its_stack_for_signals(tmp_path):
    """A stack that went with one of them would be met by the next signal, in whatever is run after it."""
    openvino = pytest.importorskip("openvino")
    images = openvino.opset13.parameter([1, 3, 4, 4], openvino.Type.u8, name="images")
    images.output(0).tensor.set_names({"images"})
    negative = openvino.opset13.bitwise_not(images)
    negative.output(0).tensor.set_names({"negative"})
    model = openvino.Model([negative], [images], "negative")
    known = dict(images=dict(shape=[1, 3, 4, 4], dtype="uint8"), outputs=["negative"])
    model.set_rt_info(json.dumps(known), METADATA)
    openvino.save_model(model, str(tmp_path / "negative.xml"))

    def stack():
        found = SignalStack()
        assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(found)) == 0
        return found.address, found.flags, found.bytes

    first = deploy.open_program(tmp_path / "negative.xml")
    before = stack()
    second = deploy.open_program(tmp_path / "negative.xml")
    assert stack() == before
    for program in (first, second):
        assert (program(np.full((1, 3, 4, 4), 3, np.uint8))["negative"] == 252).all()
    del first, program
    gc.collect()
    del second
    gc.collect()
    assert stack() == before


@torch.no_grad()
def test_means_over_parts_of_a_map_are_for_any_size():
    class Pyramid(torch.nn.Module):
        def forward(self, x):
            return tuple(functional.adaptive_avg_pool2d(x, size) for size in (1, 3, (2, None)))

    program = trace(Pyramid(), torch.rand(2, 3, 12, 18), ("height", "width")).run_decompositions()
    for size in [(12, 18), (13, 7), (36, 40)]:  # divided by the parts, and not
        x = torch.rand(2, 3, *size)
        for found, expected in zip(program.module()(x), Pyramid()(x), strict=True):
            torch.testing.assert_close(found, expected)


def test_boxes_are_compared_by_rank_and_ties_may_change_places():
    rows = dict(
        boxes=np.array([[[0, 0, 9, 9], [5, 5, 20, 20], [1, 1, 2, 2], [0, 0, 0, 0]]], np.float32),
        scores=np.array([[0.9, 0.5, 0.5, 0]], np.float32),
        labels=np.array([[1, 0, 0, -1]]),
    )
    swapped = {name: array[:, [0, 2, 1, 3]] for name, array in rows.items()}
    assert compare(swapped, rows).agrees
    for key, change in dict(boxes=0.6, scores=2e-3, labels=1).items():
        off = {name: array.copy() for name, array in rows.items()}
        off[key][0, 0] += change
        assert not compare(off, rows).agrees and not compare(rows, off).agrees
    assert json.dumps(compare(rows, rows).figures)


def test_a_check_of_many_models_goes_on_where_it_stopped(tmp_path, monkeypatch):
    from spectral_backbones.tools import check_exports

    asked = []

    def check(name, kinds):
        asked.append((name, kinds))
        return [check_exports.row_of(name, kind, check_exports.OTHERS, 1e-6, 2.0, 3.0, "") for kind in kinds]

    monkeypatch.setattr(check_exports, "check", check)
    out = ["--out", str(tmp_path / "exports.json")]
    check_exports.main(["gfnet_ti", "--formats", "pt2", *out])
    rows = check_exports.main(["gfnet_ti", "tnt_ti", *out])
    assert asked == [("gfnet_ti", ["pt2"]), ("gfnet_ti", ["onnx"]), ("tnt_ti", ["pt2", "onnx"])] and len(rows) == 4
    with monkeypatch.context() as another:
        another.setattr(check_exports, "versions", lambda: {"torch": "another"})
        check_exports.main(["tnt_ti", *out])
    assert asked[3:] == [("tnt_ti", ["pt2", "onnx"])]
    monkeypatch.setattr(check_exports, "LIMIT", 1e-7)
    with pytest.raises(UserError, match="4 of 4 exports failed: gfnet_ti pt2, gfnet_ti onnx, tnt_ti pt2"):
        check_exports.main(["gfnet_ti", "tnt_ti", *out])
