"""The parts of the classification package, each against a count by hand or an independent source."""

import argparse
import io

import numpy as np
import pytest
import timm
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim import build_optim_wrapper
from mmengine.registry import HOOKS, MODELS
from torch import nn
from torch.nn.functional import cross_entropy

from spectral_backbones import backbones  # noqa: F401
from spectral_backbones.classification import Accuracy, TimmTransform, UserError
from spectral_backbones.classification.config import complete, data_config
from spectral_backbones.classification.metrics import Evaluation
from spectral_backbones.classification.pictures import draw_confusion_matrix, draw_mistakes, draw_prediction
from spectral_backbones.classification.transforms import _augment_ops
from spectral_backbones.classification.zoo import check_name, create_model
from spectral_backbones.engine import checkpoint as files
from spectral_backbones.engine.config import load
from spectral_backbones.engine.figures import FIGURES, known
from spectral_backbones.engine.hooks import PlainStateHook
from spectral_backbones.engine.pictures import draw_curve
from spectral_backbones.engine.progress import Progress

from .classification_fixtures import picture

SMALL = dict(patch_size=4, embed_dim=16, depth=2, num_heads=2, mixers="spectral:1, attention")


def classifier(**changes):
    settings = dict(type="TimmClassifier", name="spectformer_ti", num_classes=3, img_size=16, kwargs=SMALL)
    return MODELS.build({**settings, **changes})


def batch(count=6, classes=3):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, 16, 16, generator=generator), torch.arange(count) % classes


# The classifier


def test_loss_and_accuracy_are_those_of_the_logits():
    model, (inputs, labels) = classifier().eval(), batch()
    logits = model(inputs)
    losses = model(inputs, labels, mode="loss")
    assert torch.allclose(losses["loss"], cross_entropy(logits, labels))
    assert losses["top1"] == 100 * (logits.argmax(1) == labels).float().mean()


def test_label_smoothing_mixes_in_the_mean_over_classes():
    model, (inputs, labels) = classifier(label_smoothing=0.3).eval(), batch()
    expected = cross_entropy(model(inputs), labels, label_smoothing=0.3)
    assert torch.allclose(model(inputs, labels, mode="loss")["loss"], expected)


def test_mixup_changes_pictures_and_targets_together():
    model, (inputs, labels) = classifier(mixup=dict(mixup_alpha=1.0)).eval(), batch()
    np.random.seed(0)
    loss = model(inputs.clone(), labels, mode="loss")["loss"]
    np.random.seed(0)
    share = np.random.RandomState(0)
    share.rand()  # timm asks first whether to mix
    share = float(share.beta(1.0, 1.0))
    mixed = share * inputs + (1 - share) * inputs.flip(0)
    logits = model(mixed)
    expected = share * cross_entropy(logits, labels) + (1 - share) * cross_entropy(logits, labels.flip(0))
    assert torch.allclose(loss, expected, atol=1e-5)


def test_predictions_carry_index_label_and_logits():
    model, (inputs, labels) = classifier().eval(), batch()
    samples = model(inputs, labels, torch.arange(6) + 40, mode="predict")
    assert [sample["index"] for sample in samples] == list(range(40, 46))
    assert torch.equal(torch.stack([sample["logits"] for sample in samples]), model(inputs).detach())


def test_mmengine_does_not_initialise_what_timm_has():
    """mmengine calls init_weights of every child that has one: a timm model would lose the weights it was given."""
    model = classifier(name="vit_tiny_patch16_224", kwargs=dict(patch_size=4, embed_dim=16, depth=1, num_heads=2))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.init_weights()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "vit_tiny_patch16_224", "gfnet_ti"])
def test_any_timm_name_fits(name):
    model = classifier(name=name, kwargs=None, img_size=64).eval()
    assert model(torch.randn(2, 3, 64, 64)).shape == (2, 3)


def test_an_unknown_name_offers_names_like_it():
    with pytest.raises(UserError, match=r"no model is called 'spectformer_tiny'; near it: .*spectformer_ti"):
        check_name("spectformer_tiny")


def test_an_argument_that_the_model_lacks_is_told():
    with pytest.raises(UserError, match=r"resnet10t refuses .*mixers.* model.kwargs=None takes them all away"):
        create_model("resnet10t", kwargs=dict(mixers="spectral:1"))


def test_a_value_that_the_model_refuses_is_told():
    with pytest.raises(UserError, match=r"spectformer_ti cannot be built with .*depth': 2.*mixer"):
        create_model("spectformer_ti", kwargs=dict(SMALL, mixers="spectral:7"))


def test_a_model_without_weights_is_not_trained_from_scratch_by_mistake():
    with pytest.raises(UserError, match="spectformer_ti has no weights to download"):
        create_model("spectformer_ti", pretrained=True)


def test_weights_that_cannot_be_downloaded_are_told(monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    with pytest.raises(UserError, match="the weights of resnet10t could not be downloaded: no route to host"):
        create_model("resnet10t", pretrained=True)


def test_weights_of_something_else_are_refused_whatever_the_number_of_classes(tmp_path):
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pth")
    for name in ("resnet10t", "spectformer_ti"):
        with pytest.raises(UserError, match=r"the weights of .*other\.pth"):
            create_model(name, num_classes=7, pretrained=tmp_path / "other.pth")


def test_what_weights_lack_is_told(tmp_path, capsys):
    weights = create_model("resnet10t").state_dict()
    del weights["layer1.0.conv1.weight"]
    torch.save(weights, tmp_path / "most.pth")
    model = create_model("resnet10t", num_classes=7, pretrained=tmp_path / "most.pth")
    assert torch.equal(model.layer2[0].conv1.weight, weights["layer2.0.conv1.weight"])
    assert "1 of 70 tensors of resnet10t are not in" in capsys.readouterr().out


def test_training_starts_from_a_checkpoint_of_another_data_set(tmp_path):
    """Its head does not fit and is left out; the rest is taken, the position tables at the size of the model."""
    source = create_model("spectformer_ti", num_classes=7, img_size=16, kwargs=SMALL)
    torch.save({"model": source.state_dict()}, tmp_path / "official.pth")
    model = create_model(
        "spectformer_ti", num_classes=3, img_size=32, kwargs=SMALL, pretrained=tmp_path / "official.pth"
    )
    own = model.state_dict()
    assert own["head.weight"].shape[0] == 3
    name = "blocks.1.mlp.fc1.weight"
    assert torch.equal(own[name], source.state_dict()[name])


# The optimiser


def optimizer(model, **changes):
    settings = dict(
        type="OptimWrapper",
        constructor="TimmOptimWrapperConstructor",
        optimizer=dict(opt="adamw", lr=1.0, weight_decay=0.5),
    )
    return build_optim_wrapper(model, {**settings, **changes}).optimizer


def test_one_dimensional_parameters_and_what_the_model_names_do_not_decay():
    model = classifier()
    decays = {
        id(parameter): group["weight_decay"] for group in optimizer(model).param_groups for parameter in group["params"]
    }
    named = dict(model.model.named_parameters())
    assert len(decays) == len(named)
    for name, parameter in named.items():
        spared = parameter.ndim == 1 or name in model.model.no_weight_decay()
        assert decays[id(parameter)] == (0 if spared else 0.5), name


def test_layer_decay_lowers_the_rate_towards_the_stem():
    model = classifier()
    rates = {}
    for group in optimizer(model, paramwise_cfg=dict(layer_decay=0.5)).param_groups:
        rates |= {id(parameter): group["lr"] for parameter in group["params"]}
    named = {name: rates[id(parameter)] for name, parameter in model.model.named_parameters()}
    head, second, first, stem = (
        next(rate for name, rate in named.items() if name.startswith(prefix))
        for prefix in ("head", "blocks.1", "blocks.0", "patch_embed")
    )
    assert (head, second, first, stem) == (1.0, 0.5, 0.25, 0.125)


def test_bfloat16_covers_the_forward_pass_and_leaves_weights_float32():
    model, (inputs, labels) = classifier(), batch()
    wrapper = build_optim_wrapper(
        model,
        dict(type="Bfloat16OptimWrapper", constructor="TimmOptimWrapperConstructor", optimizer=dict(opt="sgd", lr=0.1)),
    )
    with wrapper.optim_context(model):
        assert model(inputs).dtype == torch.bfloat16
    before = model.model.head.weight.clone() if hasattr(model.model.head, "weight") else None
    log = model.train_step(dict(inputs=inputs, labels=labels), wrapper)
    assert torch.isfinite(log["loss"]) and log["loss"].dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in model.parameters())
    assert before is None or not torch.equal(before, model.model.head.weight)


# The metric


def test_accuracy_against_a_count_by_hand():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(40, 7, generator=generator), torch.randint(7, (40,), generator=generator)
    metric = Accuracy()
    metric.dataset_meta = {"classes": tuple("abcdefg")}
    for start in (0, 16, 32):
        metric.process(
            None,
            [
                dict(index=index, label=int(labels[index]), logits=logits[index])
                for index in range(start, min(start + 16, 40))
            ],
        )
    figures = metric.evaluate(40)
    order = logits.argsort(1, descending=True)
    assert figures["top1"] == pytest.approx(100 * sum((order[:, 0] == labels).tolist()) / 40)
    assert figures["top5"] == pytest.approx(100 * sum(int(labels[i]) in order[i, :5].tolist() for i in range(40)) / 40)
    assert figures["loss"] == pytest.approx(cross_entropy(logits, labels).item(), rel=1e-5)
    matrix = metric.last.confusion_matrix()
    assert matrix.sum() == 40 and matrix[2, 5] == ((labels == 2) & (order[:, 0] == 5)).sum()


# The average of the weights


def test_ema_is_the_average_and_is_lent_for_validation_only():
    hook = HOOKS.build(dict(type="ModelEmaHook", decay=0.75))
    model = nn.Linear(1, 1, bias=False)

    class Wrapper:
        def should_update(self):
            return True

    runner = argparse.Namespace(model=model, optim_wrapper=Wrapper(), iter=4)
    with torch.no_grad():
        model.weight.fill_(1.0)
        hook.before_train(runner)
        model.weight.fill_(5.0)
    hook.after_train_iter(runner, 0)
    hook.before_val_epoch(runner)
    assert model.weight.item() == 0.75 * 1 + 0.25 * 5
    hook.after_val_epoch(runner)
    assert model.weight.item() == 5.0
    checkpoint = {}
    hook.before_save_checkpoint(runner, checkpoint)
    assert checkpoint["ema_state_dict"]["weight"].item() == 2.0


@pytest.mark.parametrize("resumes", [True, False])
def test_the_average_goes_on_only_where_the_run_does(resumes):
    """A run that begins from the weights of another, with another head, has another average."""
    hook = HOOKS.build(dict(type="ModelEmaHook", decay=0.75))
    runner = argparse.Namespace(model=nn.Linear(1, 1, bias=False), _resume=resumes)
    hook.after_load_checkpoint(runner, {"ema_state_dict": {"weight": torch.full((1, 1), 7.0)}})
    hook.before_train(runner)
    assert (hook.ema.module.weight.item() == 7.0) == resumes


# Checkpoint files


def test_a_checkpoint_cut_short_is_told_and_not_whole(tmp_path):
    path = tmp_path / "epoch_1.pth"
    torch.save({"state_dict": {"weight": torch.randn(1000)}}, path)
    assert files.is_whole(path)
    content = path.read_bytes()
    for length in (0, 100, len(content) - 1):
        path.write_bytes(content[:length])
        assert not files.is_whole(path)
        with pytest.raises(UserError, match=rf"epoch_1.pth \({length} bytes\) cannot be read: it is cut short"):
            files.read(path)
    damaged = bytearray(content)
    damaged[len(content) // 2] ^= 255
    path.write_bytes(damaged)
    assert not files.is_whole(path)


class Trap:
    def __reduce__(self):
        return (open, ("sprung", "w"))


def test_code_in_a_checkpoint_is_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"weight": torch.ones(1)}, "meta": Trap()}, "trap.pth")
    assert files.read("trap.pth")["state_dict"]["weight"] == 1
    assert not (tmp_path / "sprung").exists()


def test_an_official_checkpoint_with_its_command_line_is_read(tmp_path):
    weights = {"head.weight": torch.ones(2)}
    torch.save({"model": weights, "args": argparse.Namespace(lr=1.0)}, tmp_path / "official.pth")
    assert torch.equal(files.timm_weights(files.read(tmp_path / "official.pth"))["head.weight"], weights["head.weight"])


def test_weights_that_do_not_fit_are_named():
    with pytest.raises(
        UserError, match=r"bias is missing; other is unknown; weight has shape \(3, 2\), the model \(2, 3\)"
    ):
        files.load_strictly(nn.Linear(3, 2), {"weight": torch.zeros(3, 2), "other": torch.zeros(1)}, "x.pth")


def test_weights_with_another_head_are_loaded_and_the_head_is_told():
    model = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4))
    weights = {**nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5)).state_dict(), "neck.weight": torch.zeros(1)}
    said = []
    files.load_fitting(model, weights, "x.pth", said.append)
    assert torch.equal(model[0].weight, weights["0.weight"]) and model[1].weight.shape == (4, 3)
    assert said == ["x.pth has no weights for 2 of the model's 4 tensors: 1.weight, ... are new"]


def test_weights_of_which_none_fits_are_refused():
    weights = {f"module.{name}": value for name, value in nn.Linear(2, 3).state_dict().items()}
    with pytest.raises(
        UserError, match=r"x.pth has no weights of this model: it holds module.weight, ..., the model weight"
    ):
        files.load_fitting(nn.Linear(2, 3), weights, "x.pth", print)


def test_counts_that_a_file_lacks_do_not_make_it_fit():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    with pytest.raises(UserError, match=r"has no weights of this model: it holds other, ..., the model 0.weight"):
        files.load_fitting(model, {"other": torch.zeros(1)}, "x.pth", print)


def message_hub():
    return {
        "log_scalars": {"train/loss": HistoryBuffer([3.0, 2.0], [1, 1])},
        "runtime_info": {"best_score": np.float64(2.5)},
        "resumed_keys": {},
    }


def test_a_checkpoint_holds_tensors_and_plain_values_alone():
    """So that torch reads it with weights_only=True, whatever arrays a data set describes itself by."""
    metainfo = {"classes": ("a", "b"), "palette": np.array([[1, 2, 3], [4, 5, 6]])}
    checkpoint = {"message_hub": message_hub(), "meta": {"dataset_meta": metainfo}}
    PlainStateHook().before_save_checkpoint(None, checkpoint)
    file = io.BytesIO()
    torch.save(checkpoint, file)
    file.seek(0)
    read = torch.load(file, weights_only=True)
    assert read["meta"]["dataset_meta"] == {"classes": ("a", "b"), "palette": [[1, 2, 3], [4, 5, 6]]}
    PlainStateHook().after_load_checkpoint(None, read)
    assert read["message_hub"]["log_scalars"]["train/loss"].mean() == 2.5
    assert read["message_hub"]["runtime_info"]["best_score"] == 2.5


class OnDevice(torch.Tensor):
    """A tensor that numpy refuses, as it does those on a GPU."""

    def __array__(self, *args):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def numpy(self, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")

    def cpu(self):
        return self.as_subclass(torch.Tensor)


def test_curves_are_read_that_were_put_on_a_device():
    checkpoint = {"message_hub": message_hub(), "meta": {}}
    PlainStateHook().before_save_checkpoint(None, checkpoint)
    curves = checkpoint["message_hub"]["log_scalars"]
    curves["train/loss"] = [part.as_subclass(OnDevice) for part in curves["train/loss"]]
    PlainStateHook().after_load_checkpoint(None, checkpoint)
    assert curves is not checkpoint["message_hub"]["log_scalars"]
    assert checkpoint["message_hub"]["log_scalars"]["train/loss"].mean() == 2.5


def test_a_checkpoint_that_mmengine_wrote_is_read_without_its_curves(tmp_path):
    torch.save({"state_dict": {"weight": torch.ones(1)}, "message_hub": message_hub()}, tmp_path / "epoch_1.pth")
    checkpoint = files.read(tmp_path / "epoch_1.pth")
    PlainStateHook().after_load_checkpoint(None, checkpoint)
    assert checkpoint["message_hub"]["log_scalars"] == {} and checkpoint["state_dict"]["weight"] == 1


def test_mmengines_average_is_told_from_this_librarys():
    """Its EMAHook saves the average as "state_dict" and the trained weights, with a count of steps, as the other."""
    trained, average = {"weight": torch.ones(1)}, {"weight": torch.zeros(1)}
    theirs = {"state_dict": average, "ema_state_dict": {"steps": torch.tensor(3), "module.weight": trained["weight"]}}
    assert files.unwrap(theirs) is average
    assert files.unwrap({"state_dict": trained, "ema_state_dict": average, "predictor": {}}) is average
    assert files.unwrap({"state_dict": trained}) is files.unwrap({"model": trained}) is trained


# Transforms


@pytest.mark.parametrize("left_out", ["param_scheduler", "train_cfg"])
def test_a_config_without_a_schedule_is_completed(left_out):
    assert complete(load("spectformer_ti_digits", {left_out: None})).get(left_out) is None


def test_pictures_are_prepared_as_the_model_says():
    config = data_config("tnt_s_patch16_224", img_size=32)
    assert config["input_size"] == (3, 32, 32) and config["mean"] == timm.get_pretrained_cfg("tnt_s_patch16_224").mean
    grey = data_config("gfnet_ti", in_chans=1)
    assert grey["mean"] == (pytest.approx((0.485 + 0.456 + 0.406) / 3),)
    image = picture(0, 1)
    assert TimmTransform(**config)(image.convert("L")).shape == (3, 32, 32)
    assert TimmTransform(**grey)(image).shape == (1, 224, 224)


@pytest.mark.parametrize("policy", ["rand-m10-inc1", "original", "augmix-m10"])
def test_no_strength_of_augmentation_fails(policy):
    """timm's posterize asks Pillow for zero bits at full strength, which Pillow 13 refuses."""
    transform = TimmTransform((3, 16, 16), is_training=True, auto_augment=policy)
    operations = [op for op in _augment_ops(transform.transform) if op.name.startswith("Posterize")]
    assert operations
    for op in operations:
        op.prob, op.magnitude, op.magnitude_std = 1.0, 10, 0
        op(picture(0, 0))
    if policy == "rand-m10-inc1":
        assert operations[0](picture(0, 0)).getextrema() == ((0, 0),) * 3


# Pictures


def test_pictures_are_written_whatever_the_outcome(tmp_path):
    class Data:
        def image(self, index):
            return picture(index, index)

    right = Evaluation(torch.arange(3), torch.arange(3), torch.arange(3), torch.ones(3), ["a", "b", "c"])
    wrong = Evaluation(
        torch.arange(60),
        torch.arange(60),
        torch.arange(60).flip(0),
        torch.rand(60),
        [f"a rather long class name {number}" for number in range(60)],
    )
    for name, outcome in (("right", right), ("wrong", wrong)):
        draw_confusion_matrix(outcome, tmp_path / f"{name}_matrix.png")
        draw_mistakes(outcome, Data(), tmp_path / f"{name}_mistakes.png")
    progress = Progress("epoch", 2, 2, iterations=2, window=2)
    figures = {FIGURES["top1"]: [50.0, 75.0]}
    draw_curve([2.0, 1.5, 1.0, 0.5], progress, [1, 2], [1.2, 0.9], figures, "model", tmp_path / "curve.png")
    draw_prediction(picture(0, 0), [("one", 0.9), ("two", 0.1)], tmp_path / "prediction.png")
    from PIL import Image

    sizes = {path.name: Image.open(path).size for path in tmp_path.iterdir()}
    assert len(sizes) == 6 and min(min(size) for size in sizes.values()) > 200


# Figures


def test_a_figure_that_the_table_does_not_know_goes_by_its_own_name():
    shown = known({"mDice": 80.0, "mAcc": 70.0, "time": 1.0}, "mDice")
    assert [figure.show(value) for (_, figure), value in zip(shown, (70.0, 80.0), strict=True)] == [
        "class accuracy 70.00 %",
        "mDice 80.00",
    ]
    assert known({}, "mDice") == []
