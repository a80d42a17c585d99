"""tools/predict.py: a checkpoint or a name in, classes and annotated pictures out."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from spectral_backbones.classification import UserError
from spectral_backbones.classification.predictor import Predictor
from spectral_backbones.classification.zoo import count_classes
from spectral_backbones.engine.images import find_images

from .classification_fixtures import SAMPLES, load_tool, make_folder, picture, run_forked, run_here, small_config
from .golden import weights


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    data = make_folder(folder / "pictures")
    config = small_config(folder, data, max_epochs=6)
    options = ["default_hooks.ema.type=ModelEmaHook", "default_hooks.ema.decay=0.5"]
    run_here("train.py", config, "--work-dir", folder / "run", "--cfg-options", *options)
    return folder / "run" / "best.pth", data


def test_a_checkpoint_needs_nothing_but_itself(trained, tmp_path):
    checkpoint, data = trained
    images = [data / "val" / name / "7.png" for name in ("blue", "green", "red")]
    result = run_forked("predict.py", checkpoint, *images, "--topk", 2, "--out-dir", tmp_path / "out")
    assert result.returncode == 0, result.stdout
    lines = result.stdout.strip().splitlines()
    assert [line.split(": ")[1].split()[0] for line in lines[:3]] == ["blue", "green", "red"], result.stdout
    assert all(line.count("%") == 2 for line in lines[:3])
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["000_7.png", "001_7.png", "002_7.png"]  # one name from three folders
    assert all(Image.open(tmp_path / "out" / name).width > 400 for name in written)


def test_an_option_of_another_task_is_refused(trained, tmp_path):
    checkpoint, data = trained
    with pytest.raises(UserError, match=r"--threshold is for detection, and .*best\.pth is for classification"):
        run_here("predict.py", checkpoint, data / "val", "--threshold", 0.3, "--out-dir", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_predictions_are_those_of_the_validation(trained):
    """The averaged weights and the pictures prepared as they were validated."""
    path, data = trained
    checkpoint = torch.load(path, weights_only=True)
    predictor = Predictor.load(str(path))
    right = [
        predictor(image)[1][0][0] == name
        for name in predictor.classes
        for image in find_images([str(data / "val" / name)])
    ]
    score = checkpoint["message_hub"]["runtime_info"]["best_score"]
    assert 100 * sum(right) / len(right) == pytest.approx(score, abs=1e-3)
    weights = predictor.model.state_dict()
    assert all(torch.equal(value, weights[key[6:]]) for key, value in checkpoint["ema_state_dict"].items())


def test_an_official_checkpoint_is_read_by_the_name_of_its_model(tmp_path):
    model = timm.create_model("gfnet_ti").eval()
    torch.save({"model": model.state_dict()}, tmp_path / "official.pth")
    image = tmp_path / "image.png"
    picture(0, 0, size=(300, 200)).save(image)
    with pytest.raises(UserError, match="does not say which model it belongs to: add --name"):
        Predictor.load(str(tmp_path / "official.pth"))
    predictor = Predictor.load(str(tmp_path / "official.pth"), "gfnet_ti")
    _, scores = predictor(image, topk=3)
    expected = model(predictor.transform(Image.open(image))[None]).softmax(-1)[0]
    assert scores[0][1] == pytest.approx(expected.max().item(), rel=1e-4)
    assert scores[0][0] == predictor.classes[expected.argmax()]
    assert predictor.classes[207] == "golden retriever"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["spectformer_ti", "IMAGE"], "spectformer_ti has no weights to download"),
        (["spectformer_tiny", "IMAGE"], "no model is called 'spectformer_tiny'; near it: "),
        (["absent.pth", "IMAGE"], "absent.pth does not exist"),
        (["CHECKPOINT", "absent.jpg"], "image absent.jpg does not exist"),
        (["CHECKPOINT", "EMPTY"], "has no images (.jpg"),
        (["CHECKPOINT", "BROKEN"], "broken.png: "),
    ],
    ids=["no weights", "no model", "no checkpoint", "no image", "empty folder", "broken image"],
)
def test_mistakes_are_told(trained, tmp_path, arguments, says):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    picture(0, 0).save(tmp_path / "image.png")
    known = {"IMAGE": "image.png", "EMPTY": "empty", "BROKEN": "broken.png"}
    paths = {key: str(tmp_path / value) for key, value in known.items()} | {"CHECKPOINT": str(trained[0])}
    with pytest.raises(UserError) as error:
        run_here("predict.py", *(paths.get(word, word) for word in arguments), "--out-dir", tmp_path / "out")
    assert says in str(error.value)


# Checkpoints by every door --------------------------------------------------------------------------------------------


def logits(model, path, data):
    """Of a picture, prepared as the checkpoint says."""
    predictor = Predictor.load(str(path))
    return model.eval()(predictor.transform(Image.open(data / "val" / "red" / "1.png"))[None])


@torch.no_grad()
def test_timm_reads_what_this_library_trains(trained):
    """By the model's own names, and the average that was scored, not the last step's weights."""
    path, data = trained
    predictor = Predictor.load(str(path))
    spec = torch.load(path, weights_only=True)["predictor"]["model"]
    name, arguments = spec["name"], {"img_size": spec["img_size"], **spec["kwargs"]}
    expected = logits(predictor.model, path, data)
    source = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(path), num_classes=3), **arguments)

    model = timm.create_model(name, num_classes=3, **source)
    assert torch.equal(logits(model, path, data), expected)
    model = timm.create_model(name, num_classes=3, checkpoint_path=str(path), **arguments)
    assert torch.equal(logits(model, path, data), expected)
    model = timm.create_model(name, num_classes=3, **arguments)
    timm.models.load_checkpoint(model, str(path))
    assert torch.equal(logits(model, path, data), expected)

    own = predictor.model.state_dict()
    assert timm.models.load_state_dict(str(path)).keys() == own.keys()
    trunk = {key: value for key, value in own.items() if not key.startswith("head.")}
    for kwargs in (dict(num_classes=0), dict(num_classes=7), dict(features_only=True, out_indices=(0, 1))):
        model = timm.create_model(name, **source, **kwargs)
        loaded = getattr(model, "model", model).state_dict()
        shared = [key for key in trunk if key in loaded]
        assert len(shared) >= len(trunk) - 2 and all(torch.equal(loaded[key], trunk[key]) for key in shared)
    # A checkpoint in memory, and one of an earlier version, which has no such entry.
    whole = torch.load(path, weights_only=True)
    for checkpoint in (whole, {key: value for key, value in whole.items() if key != "state_dict_ema"}):
        overlay = dict(state_dict=checkpoint, num_classes=3)
        model = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, **arguments)
        assert torch.equal(logits(model, path, data), expected)


def test_the_entry_for_timm_costs_no_bytes(trained, tmp_path):
    path, _ = trained
    checkpoint = torch.load(path, weights_only=True)
    entry = checkpoint.pop("state_dict_ema")
    torch.save(checkpoint, tmp_path / "without.pth")
    names = sum(2 * len(key) + 300 for key in entry)  # of the archive's records and the pickle, at most
    assert path.stat().st_size - (tmp_path / "without.pth").stat().st_size < names
    for key, value in entry.items():
        assert value.data_ptr() == checkpoint["ema_state_dict"][f"model.{key}"].data_ptr()


def test_bare_weights_say_their_number_of_classes(tmp_path):
    torch.manual_seed(1)
    image = tmp_path / "image.png"
    picture(0, 0, size=(300, 200)).save(image)
    for name, classes in (("gfnet_ti", 7), ("resnet18", 2)):
        model = timm.create_model(name, num_classes=classes).eval()
        path = tmp_path / f"{name}.pth"
        torch.save(model.state_dict(), path)
        predictor = Predictor.load(str(path), name)
        expected = model(predictor.transform(Image.open(image))[None]).softmax(-1)[0].max().item()
        _, scores = predictor(image)
        assert len(predictor.classes) == classes and scores[0][1] == pytest.approx(expected, rel=1e-4)
    torch.save(timm.create_model("gfnet_ti", in_chans=4).state_dict(), tmp_path / "bands.pth")
    with pytest.raises(UserError, match=r"bands.pth takes pictures of 4 channels, and weights alone do not say how"):
        Predictor.load(str(tmp_path / "bands.pth"), "gfnet_ti")
    torch.save(timm.create_model("gfnet_ti", num_classes=0).state_dict(), tmp_path / "trunk.pth")
    with pytest.raises(UserError, match=r"trunk.pth has no classifier, head.weight of gfnet_ti is missing"):
        Predictor.load(str(tmp_path / "trunk.pth"), "gfnet_ti")
    golden = np.load(Path(__file__).parent / "golden" / "dat_tiny.npz")
    official = weights.state_dict(golden["names"], golden["shapes"])
    assert count_classes("dat_t", official, "official.pth") == 1000
    official = {key: value for key, value in official.items() if not key.startswith("cls_")}
    with pytest.raises(UserError, match=r"official.pth has no classifier"):
        count_classes("dat_t", official, "official.pth")


def test_a_name_that_a_checkpoint_contradicts_is_refused(trained):
    with pytest.raises(UserError, match=r"is a checkpoint of \w+, not of resnet18: leave out --name"):
        Predictor.load(str(trained[0]), "resnet18")


# Folders --------------------------------------------------------------------------------------------------------------


def test_pictures_that_fail_are_named_and_the_others_predicted(trained, tmp_path, capsys):
    checkpoint, _ = trained
    folder = tmp_path / "pictures"
    (folder / "deep" / "deeper").mkdir(parents=True)
    picture(0, 0).save(folder / "a.png")
    (folder / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "c.png").write_bytes(b"")
    picture(1, 0).save(folder / "deep" / "deeper" / "d.PNG")
    out = folder / "predictions"
    for _ in range(2):  # what the first call has drawn is no picture for the second
        with pytest.raises(UserError, match=r"^2 of 4 pictures failed, first cannot read image .*b.png: "):
            load_tool("predict.py").main([str(checkpoint), str(folder), "--out-dir", str(out)])
        said = capsys.readouterr()
        assert f"2 annotated pictures: {out}" in said.out and len(list(out.iterdir())) == 2
        first, second = (line for line in said.err.splitlines() if line.startswith("failed: "))
        assert "b.png" in first and "c.png" in second


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no sample data at {SAMPLES}")
def test_a_folder_of_photographs(trained, tmp_path):
    output = run_here("predict.py", trained[0], SAMPLES / "photos", "--out-dir", tmp_path)
    assert output.splitlines()[-1] == f"24 annotated pictures: {tmp_path}"
    assert len(list(tmp_path.glob("*.png"))) == 24
