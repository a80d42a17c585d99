"""tools/predict.py: a checkpoint or a name in, classes and annotated pictures out."""

import pytest
import timm
import torch
from PIL import Image

from classification import UserError
from classification.predictor import Predictor
from engine.images import find_images

from .classification_fixtures import SAMPLES, make_folder, picture, run_here, run_tool, small_config


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
    result = run_tool("predict.py", checkpoint, *images, "--topk", 2, "--out-dir", tmp_path / "out")
    assert result.returncode == 0, result.stdout
    lines = result.stdout.strip().splitlines()
    assert [line.split(": ")[1].split()[0] for line in lines[:3]] == ["blue", "green", "red"], result.stdout
    assert all(line.count("%") == 2 for line in lines[:3])
    written = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert written == ["000_7.png", "001_7.png", "002_7.png"]  # one name from three folders
    assert all(Image.open(tmp_path / "out" / name).width > 400 for name in written)


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


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f"no sample data at {SAMPLES}")
def test_a_folder_of_photographs(trained, tmp_path):
    output = run_here("predict.py", trained[0], SAMPLES / "photos", "--out-dir", tmp_path)
    assert output.splitlines()[-1] == f"24 annotated pictures: {tmp_path}"
    assert len(list(tmp_path.glob("*.png"))) == 24
