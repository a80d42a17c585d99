"""Options of `spectral train` that change what hangs together, and values of a config that nothing would read."""

import pytest
import timm
import torch
from mmengine.config import Config

from spectral_backbones.backbones.dense import DenseBackbone
from spectral_backbones.engine import UserError
from spectral_backbones.engine.config import load
from spectral_backbones.engine.schedule import learning_rate, set_batch_size, set_learning_rate, set_length

from .classification_fixtures import load_tool, make_folder, run_here

train = load_tool("train.py")


def chosen(*arguments):
    """The config that a command line gives, before data are looked for, and what is said about it."""
    args = train.parse([str(argument) for argument in arguments])
    said = []
    cfg = load(args.config, args.cfg_options, args.data_root, train.choices.chooser(args, said))
    return cfg, said


# The length of a run --------------------------------------------------------------------------------------------------


def run_of(kind="epochs", length=100, schedule=(), **others):
    loop = {"epochs": dict(max_epochs=length), "iters": dict(type="IterBasedTrainLoop", max_iters=length)}[kind]
    return Config(dict(train_cfg=loop, param_scheduler=[dict(part) for part in schedule], **others))


WARM_UP = dict(type="LinearLR", start_factor=0.1, begin=0, end=5)
IN_ITERATIONS = dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=500)


@pytest.mark.parametrize(
    ("scheduler", "changed"),
    [
        (dict(type="CosineAnnealingLR", begin=5), dict(begin=5)),
        (dict(type="CosineAnnealingLR", begin=5, end=100, T_max=95), dict(begin=5, end=30, T_max=25)),
        (dict(type="CosineAnnealingLR", begin=50, end=100, T_max=50), dict(begin=15, end=30, T_max=15)),
        (dict(type="MultiStepLR", begin=0, end=100, milestones=[60, 90]), dict(end=30, milestones=[18, 27])),
        (dict(type="MultiStepLR", milestones=[60, 90]), dict(milestones=[18, 27])),
        (dict(type="StepLR", step_size=10), dict(step_size=3)),
        (dict(type="PolyLR", power=0.9, begin=5, end=100), dict(begin=5, end=30)),
        (dict(type="PolyLR", by_epoch=False, begin=500, end=9000), dict(begin=500, end=2700)),
        (dict(type="LinearLR", start_factor=1.0, end_factor=0.1, end=100), dict(end=30)),
        (dict(type="ConstantLR", factor=1, begin=90, end=100), dict(begin=27, end=30)),
        (dict(type="CosineRestartLR", periods=[50, 50], restart_weights=[1, 1]), dict(periods=[15, 15])),
        (dict(type="OneCycleLR", eta_max=1.0, total_steps=100), dict(total_steps=30)),
        (dict(type="ExponentialLR", gamma=0.5**0.3), dict(gamma=0.5)),
        (dict(type="CosineAnnealingMomentum", begin=5, T_max=95), dict(T_max=25)),
    ],
)
def test_decays_follow_the_length_and_warm_ups_stay(scheduler, changed):
    cfg = run_of(schedule=[WARM_UP, IN_ITERATIONS, scheduler])
    set_length(cfg, epochs=30)
    assert cfg.train_cfg.max_epochs == 30
    assert cfg.param_scheduler[:2] == [WARM_UP, IN_ITERATIONS]
    found = cfg.param_scheduler[2]
    assert found.pop("gamma", 0.0) == pytest.approx(changed.get("gamma", 0.0))
    assert found == {key: value for key, value in {**scheduler, **changed}.items() if key != "gamma"}


def test_schedules_of_several_optimisers_follow_too():
    parts = dict(generator=[WARM_UP, dict(type="StepLR", step_size=10)], critic=dict(type="StepLR", step_size=20))
    cfg = Config(dict(train_cfg=dict(max_epochs=100), param_scheduler=parts))
    set_length(cfg, epochs=200)
    assert cfg.param_scheduler.generator[1].step_size == 20 and cfg.param_scheduler.critic.step_size == 40
    assert cfg.param_scheduler.generator[0] == WARM_UP


@pytest.mark.parametrize(("length", "interval", "saved"), [(16000, 1600, 400), (320000, 16000, 4000), (3, 1, 1)])
def test_a_shorter_run_is_validated_and_saved_as_often_and_a_longer_one_as_before(length, interval, saved):
    cfg, _ = chosen("dat-t_upernet_8xb2-160k_ade20k-512x512", "--iters", length)
    assert cfg.train_cfg.max_iters == length and cfg.train_cfg.val_interval == interval
    assert cfg.default_hooks.checkpoint.interval == saved
    assert [part.get("end") for part in cfg.param_scheduler] == [1500, None]


def test_hooks_and_intervals_that_count_from_the_end_follow():
    cfg = run_of(
        length=300,
        custom_hooks=[dict(type="PipelineSwitchHook", switch_epoch=280), dict(type="EMAHook", begin_epoch=30)],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=10), timer=None),
    )
    cfg.train_cfg.update(val_interval=10, dynamic_intervals=[(280, 1)])
    set_length(cfg, epochs=30)
    assert [cfg.custom_hooks[0].switch_epoch, cfg.custom_hooks[1].begin_epoch] == [28, 3]
    assert cfg.train_cfg.dynamic_intervals == [(28, 1)] and cfg.train_cfg.val_interval == 1
    assert cfg.default_hooks.checkpoint.interval == 1


@pytest.mark.parametrize(
    ("config", "arguments", "says"),
    [
        ("gfnet_xs_cifar10", ["--iters", 10], "trains by epochs, 1000 of them: its length is set by --epochs"),
        ("dat-t_fpn_8xb2-80k_ade20k-512x512", ["--epochs", 1], "trains by iterations, 80000 .* set by --iters"),
        ("gfnet_xs_cifar10", ["--model", "gfnet_xxs"], "no model is called 'gfnet_xxs'; near it: gfnet_xs"),
        ("mask-rcnn_dat-t_fpn_1x_coco", ["--model", "dat_x"], "no model is called 'dat_x'; near it: dat_"),
        ("mask-rcnn_dat-t_fpn_1x_coco", ["--model", "gfnet_xs"], "gives maps at strides 16, and .* 4, 8, 16, 32"),
        ("mask-rcnn_gfnet-xs_sfp_1x_coco", ["--model", "dat_t"], "gives maps at strides 4, 8, 16, 32, and .* 16"),
        ("gfnet_xs_cifar10", ["--size", "64x32"], "--size is 64x32; classifiers are trained on squares"),
        ("mask-rcnn_dat-t_fpn_1x_coco", ["--size", "64x32"], "--size is 64x32; of a detector it is one number"),
        ("dat-t_fpn_8xb2-80k_ade20k-512x512", ["--weights", "away.pth"], "away.pth"),
        ("gfnet_xs_cifar10", ["--weights", "away.pth"], "--weights names away.pth, which does not exist"),
        ("gfnet_xs_cifar10", ["--lr", 1, "--cfg-options", "optim_wrapper.optimizer.lr=2"], "set the same"),
        (
            "gfnet_xs_cifar10",
            ["--epochs", 9, "--cfg-options", "train_cfg.max_epochs=2"],
            "--epochs and --cfg-options",
        ),
    ],
)
def test_a_choice_that_has_no_meaning_is_told(config, arguments, says):
    with pytest.raises(UserError, match=says):
        chosen(config, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--lr", "0"],
        ["--lr", "fast"],
        ["--seed", "-1"],
        ["--epochs", "0"],
        ["--batch-size", "x"],
        ["--size", "big"],
        ["--epochs", "1", "--iters", "1"],
    ],
)
def test_what_is_no_value_ends_with_the_usage(arguments, capsys):
    with pytest.raises(SystemExit):
        train.parse(["x.py", *arguments])
    assert arguments[0] in capsys.readouterr().err


# The learning rate ---------------------------------------------------------------------------------------------------


def test_the_batch_size_scales_the_rate_of_a_config_that_says_for_how_many_it_is():
    cfg, _ = chosen("mask-rcnn_dat-t_fpn_1x_coco", "--batch-size", 4)
    assert cfg.train_dataloader.batch_size == 4 and cfg.auto_scale_lr.enable
    assert learning_rate(cfg, 1) == (
        "learning rate: 2.5e-05, in proportion to 4 pictures a step; the config's 0.0001 is for 16"
    )
    assert "5e-05, in proportion to 8 pictures a step (4 in each of 2 processes)" in learning_rate(cfg, 2)


def test_another_rate_stays_as_it_is():
    cfg, _ = chosen("spectformer_ti_digits", "--batch-size", 4)
    assert learning_rate(cfg, 2) == "learning rate: 0.002, whatever the batch size"
    cfg, _ = chosen("gfnet_xs_cifar10", "--batch-size", 4, "--lr", 0.5)
    assert cfg.optim_wrapper.optimizer.lr == 0.5 and not cfg.auto_scale_lr.enable
    assert learning_rate(cfg, 2) == "learning rate: 0.5, whatever the batch size"


def test_a_batch_or_a_rate_that_another_part_decides_is_refused():
    cfg = Config(dict(train_dataloader=dict(sampler=dict(type="GroupMultiSourceSampler", batch_size=5), batch_size=5)))
    with pytest.raises(UserError, match=r"is set by train_dataloader\.sampler: set it there"):
        set_batch_size(cfg, 4)
    with pytest.raises(UserError, match="has no val_dataloader"):
        set_batch_size(cfg, 4, "val_dataloader")
    several = dict(constructor="Mine", one=dict(optimizer=dict(lr=1)), two=dict(optimizer=dict(lr=2)))
    with pytest.raises(UserError, match="it has several optimisers, one, two"):
        set_learning_rate(Config(dict(optim_wrapper=several)), 0.1)


# The model, its weights and the size of pictures ---------------------------------------------------------------------


def test_a_classifier_of_another_model_leaves_what_only_the_former_has():
    cfg, said = chosen("spectformer_ti_digits", "--model", "gfnet_xs", "--size", 64, "--seed", 7)
    assert cfg.model.name == "gfnet_xs" and cfg.model.img_size == 64 and not cfg.model.kwargs
    (line,) = said
    assert line == "model.kwargs: patch_size, embed_dim, depth, num_heads, mixers, stem of spectformer_ti are left out"
    assert cfg.randomness.seed == 7
    cfg, said = chosen("classification/folder", "--model", "resnet18")
    assert cfg.model.kwargs == dict(drop_path_rate=0.15) and said == []


@pytest.mark.parametrize(
    ("config", "model", "keys"),
    [
        ("mask-rcnn_dat-t_fpn_1x_coco", "sgformer_s", ["neck"]),
        ("mask-rcnn_dat-t_fpn_1x_coco", "resnet50", ["neck"]),
        ("mask-rcnn_gfnet-xs_sfp_1x_coco", "spectformer_xs", ["neck"]),
        ("dat-t_fpn_8xb2-80k_ade20k-512x512", "spectformer_h_s", ["neck"]),
        ("dat-t_upernet_8xb2-160k_ade20k-512x512", "vitaev2_s", ["decode_head", "auxiliary_head"]),
        ("spectformer-h-s_mask2former_8xb2-160k_ade20k-512x512", "gfnet_h_ti", ["decode_head"]),
        ("spectformer-s_sfp-upernet_8xb2-160k_ade20k-512x512", "convit_ti", ["neck"]),
    ],
)
def test_channels_follow_the_backbone(config, model, keys):
    cfg, _ = chosen(config, "--model", model)
    backbone = {key: value for key, value in cfg.model.backbone.items() if key != "type"}
    assert backbone["name"] == model
    with torch.device("meta"):
        channels = list(DenseBackbone(**backbone).channels)
    for key in keys:
        head = cfg.model[key]
        expected = channels[head.in_index] if isinstance(head.get("in_index"), int) else channels
        assert head.in_channels == expected
    if len(keys) == 1 and keys[0] == "neck" and "decode_head" in cfg.model:
        assert cfg.model.decode_head.in_channels == load(config).model.decode_head.in_channels


def test_what_a_narrow_backbone_was_built_of_goes_with_it():
    cfg, said = chosen("mask-rcnn_spectformer-h-small_fpn_digits", "--model", "gfnet_h_ti")
    assert dict(cfg.model.backbone) == dict(type="TimmBackbone", name="gfnet_h_ti", img_size=128)
    assert said == ["model.backbone: stem_dim, embed_dims, depths, mlp_ratios of spectformer_h_s are left out"]


def test_a_backbone_that_is_none_of_timms_takes_no_model(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("_base_ = 'mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'")
    with pytest.raises(UserError, match="is a ResNet and no TimmBackbone"):
        chosen(path, "--model", "dat_t")


def test_weights_are_a_backbones_or_a_whole_models(tmp_path):
    trunk, whole = tmp_path / "trunk.pth", tmp_path / "whole.pth"
    torch.save({"state_dict": {"patch_embed.proj.weight": torch.zeros(1)}}, trunk)
    torch.save({"state_dict": {"backbone.x": torch.zeros(1), "neck.convs.0.weight": torch.zeros(1)}}, whole)
    cfg, said = chosen("mask-rcnn_dat-t_fpn_1x_coco", "--weights", trunk)
    assert cfg.model.backbone.init_cfg == dict(type="Pretrained", checkpoint=str(trunk)) and not cfg.load_from
    assert said == [f"{trunk} holds the weights of a backbone"]
    cfg, _ = chosen("mask-rcnn_dat-t_fpn_1x_coco", "--weights", whole)
    assert cfg.load_from == str(whole) and "init_cfg" not in cfg.model.backbone
    cfg, _ = chosen("mask-rcnn_dat-t_fpn_1x_coco", "--model", "resnet50", "--weights", "timm")
    assert cfg.model.backbone.pretrained is True
    cfg, _ = chosen("classification/folder", "--weights", trunk)
    assert cfg.model.pretrained == str(trunk)


def test_sizes_go_along():
    cfg, said = chosen("mask-rcnn_dat-t_fpn_ms-crop-3x_coco", "--size", 400)
    steps = cfg.train_dataloader.dataset.pipeline[3].transforms[1]
    assert [step.get("scales") or step.get("crop_size") for step in steps[:2]] == [
        [(666, 200), (666, 250), (666, 300)],
        (192, 300),
    ]
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.pipeline[1].scale == (666, 400)
    assert said == ["sizes of pictures are 0.5 times those of the config"]

    cfg, _ = chosen("spectformer-s_sfp-upernet_8xb2-160k_ade20k-512x512", "--size", "256x384")
    pipeline = cfg.train_dataloader.dataset.pipeline
    assert pipeline[2].scale == (1024, 256) and pipeline[3].crop_size == (256, 384)
    assert cfg.model.data_preprocessor.size == cfg.model.test_cfg.crop_size == cfg.model.backbone.img_size == (256, 384)
    assert cfg.model.test_cfg.stride == (170, 170)
    cfg, _ = chosen("mask-rcnn_spectformer-h-small_fpn_digits", "--size", 64)
    assert cfg.model.backbone.img_size == 64 and cfg.train_dataloader.dataset.pipeline[2].scale == (64, 64)


# Whole runs ----------------------------------------------------------------------------------------------------------


def test_a_folder_is_fine_tuned_tested_and_predicted(tmp_path, monkeypatch):
    """Away from a clone's root: by the config's name, another model, weights with another head, a shorter run."""
    monkeypatch.chdir(tmp_path)
    photos = make_folder(tmp_path / "photos", per_class=4)
    weights = timm.create_model("gfnet_ti", num_classes=7, img_size=32)
    torch.save(weights.state_dict(), "gfnet.pth")
    options = ["--cfg-options", "train_dataloader.num_workers=0", "val_dataloader.num_workers=0"]
    common = ["--data-root", photos, "--model", "gfnet_ti", "--size", 32, "--batch-size", 8]
    output = run_here(
        "train.py", "classification/folder", *common, "--weights", "gfnet.pth", "--epochs", 3, "--seed", 5, *options
    )
    assert "learning rate: 1.5625e-05, in proportion to 8 pictures a step; the config's 0.0005 is for 256" in output
    cfg = load("work_dirs/folder/folder.py")
    assert cfg.train_cfg.max_epochs == 3 and cfg.param_scheduler[0].end == 2 and cfg.randomness.seed == 5
    kept = torch.load("work_dirs/folder/epoch_3.pth", weights_only=False)
    assert kept["meta"]["seed"] == 5 and kept["optimizer"]["param_groups"][-1]["initial_lr"] == pytest.approx(5e-4 / 32)
    moved = (kept["state_dict"]["model.patch_embed.proj.weight"] - weights.patch_embed.proj.weight).abs().max()
    assert moved < 1e-3  # it began from the weights

    without_workers = ["--cfg-options", "test_dataloader.num_workers=0"]
    by_name = run_here("test.py", "classification/folder", "work_dirs/folder/best.pth", *common, *without_workers)
    by_file = run_here("test.py", "work_dirs/folder/folder.py", "work_dirs/folder/best.pth", *without_workers)
    assert by_name == by_file and "top1" in by_name
    assert "photos/val/red/0.png: red " in run_here("predict.py", "work_dirs/folder/best.pth", "photos/val/red")


def test_a_segmenter_trains_with_another_backbone_and_crop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_here("make_digits.py", "digits", "--task", "segmentation", "--train", 8, "--val", 2, "--size", 64)
    output = run_here(
        "train.py", "segmentation/digits/spectformer-h-small_fpn_digits", "--data-root", "digits",
        "--model", "gfnet_h_ti", "--size", 64, "--iters", 2, "--batch-size", 2, "--lr", 1e-4,
        "--cfg-options", "param_scheduler.0.end=1", "param_scheduler.1.begin=1",
    )  # fmt: skip
    assert "learning rate: 0.0001, whatever the batch size" in output
    kept = torch.load("work_dirs/spectformer-h-small_fpn_digits/iteration_2.pth", weights_only=False)
    assert kept["meta"]["iter"] == 2
    trunk = {key for key in kept["state_dict"] if key.startswith("backbone.model.")}
    assert trunk == {
        f"backbone.model.{key}" for key in DenseBackbone("gfnet_h_ti", out_norm="final").model.state_dict()
    }


# Values that nothing would read --------------------------------------------------------------------------------------

DIGITS, COCO, ADE = (
    "classification/spectformer/spectformer_ti_digits",
    "detection/dat/mask-rcnn_dat-pp-t_fpn_ms-crop-1x_coco",
    "segmentation/dat/dat-t_upernet_8xb2-160k_ade20k-512x512",
)


@pytest.mark.parametrize(
    ("config", "key", "says"),
    [
        # New at the top, and read by nobody.
        (DIGITS, "max_epochs", r"nothing reads max_epochs .* did you mean train_cfg\.max_epochs\?"),
        (DIGITS, "lr", r"did you mean optim_wrapper\.optimizer\.lr\?"),
        (DIGITS, "modle.name", r"did you mean model\.name\?"),
        (ADE, "max_iter", r"did you mean train_cfg\.max_iters\?"),
        (DIGITS, "qwertz", "what is read begins with custom_imports, default_hooks"),
        # Variables that the file, or one that it inherits from, has used.
        (COCO, "data_root", r"variable of .* train_dataloader\.dataset\.data_root, .* val_evaluator\.ann_file"),
        (COCO, "train_pipeline.2.prob", r"its value is in train_dataloader\.dataset\.pipeline\.2\.prob; set it there"),
        (COCO, "multi_scale.scales", r"pipeline\.3\.transforms\.0\.0\.scales, .*pipeline\.3\.transforms\.1\.2\.scales"),
        (COCO, "backend_args", r"train_dataloader\.dataset\.pipeline\.0\.backend_args.* and 2 more"),
        (ADE, "norm_cfg.type", r"model\.decode_head\.norm_cfg\.type, model\.auxiliary_head\.norm_cfg\.type"),
        (ADE, "crop_size", r"its value is in train_dataloader\.dataset\.pipeline\.3\.crop_size; set it there"),
        (ADE, "vis_backends", r"visualizer\.vis_backends"),
        # New in a dict whose class does not take it.
        (COCO, "model.neck.out_chanels", "model.neck is a FPN, which takes no out_chanels; did you mean out_channels"),
        (COCO, "val_evaluator.metrc", "CocoMetric, which takes no metrc; did you mean metric"),
        (
            COCO,
            "train_cfg.val_intervall",
            "EpochBasedTrainLoop, which takes no val_intervall; did you mean val_interval",
        ),
        (ADE, "model.decode_head.chanels", "UPerHead, which takes no chanels; did you mean channels"),
        (DIGITS, "model.drop_path_rate", "TimmClassifier, which takes no drop_path_rate; it takes data_preprocessor"),
        (DIGITS, "default_hooks.checkpoint.keeps", "KeepCheckpointsHook, which takes no keeps; did you mean keep"),
        (DIGITS, "param_scheduler.1.milestones", "CosineAnnealingLR, which takes no milestones"),
        (ADE, "optim_wrapper.optimizer.nesterov", "AdamW, which takes no nesterov"),
        (COCO, "train_dataloader.dataset.pipelines", "CocoDataset, which takes no pipelines; did you mean pipeline"),
        (COCO, "train_dataloader.dataset.pipeline.2.probability", "RandomFlip, which takes no probability"),
    ],
)
def test_a_value_that_nothing_would_read_is_refused(config, key, says):
    with pytest.raises(UserError, match=says):
        load(config, {key: 1})


@pytest.mark.parametrize(
    ("config", "options"),
    [
        (DIGITS, {"train_cfg.max_epochs": 2, "load_from": "x.pth", "work_dir": "x", "sync_bn": "torch", "fsdp": True}),
        (DIGITS, {"model.kwargs.depth": 3, "optim_wrapper.optimizer.momentum": 0.9, "auto_scale_lr": {"enable": True}}),
        (DIGITS, {"optim_wrapper.accumulative_counts": 2, "train_dataloader.dataset.transform.hflip": 0.5}),
        (
            DIGITS,
            {"default_hooks.ema": dict(type="ModelEmaHook", decay=0.9), "default_hooks.checkpoint.priority": "LOW"},
        ),
        (DIGITS, {"custom_hooks": [dict(type="EarlyStoppingHook", monitor="top1")], "env_cfg.cudnn_benchmark": True}),
        (DIGITS, {"model.data_preprocessor": dict(type="ImgDataPreprocessor"), "randomness.deterministic": True}),
        (
            COCO,
            {"model.backbone.window_size": 3, "model.backbone.with_cp": True, "tta_model": dict(type="DetTTAModel")},
        ),
        (COCO, {"optim_wrapper.optimizer.type": "SGD", "optim_wrapper.optimizer.momentum": 0.9}),
        (COCO, {"optim_wrapper.loss_scale": "dynamic", "optim_wrapper.type": "AmpOptimWrapper"}),
        (COCO, {"model.rpn_head.loss_bbox": dict(_delete_=True, type="GIoULoss", loss_weight=2.0)}),
        (COCO, {"model.rpn_head.loss_bbox.beta": 0.1, "model.rpn_head.loss_bbox.type": "SmoothL1Loss"}),
        (
            COCO,
            {
                "model.neck.norm_cfg": dict(type="BN", requires_grad=True),
                "model.test_cfg.rcnn.nms.class_agnostic": True,
            },
        ),
        (COCO, {"model.roi_head.bbox_roi_extractor.roi_layer.aligned": False, "train_dataloader.dataset.indices": 8}),
        (COCO, {"visualizer.vis_backends": [dict(type="TensorboardVisBackend")], "param_scheduler.1.verbose": True}),
        (COCO, {"train_dataloader.dataset": dict(_delete_=True, type="RepeatDataset", times=2, dataset=dict())}),
        (COCO, {"train_dataloader.dataset.pipeline.3": dict(type="Albu", transforms=[dict(type="Rotate", limit=3)])}),
        (ADE, {"model.decode_head.norm_cfg.eps": 1e-3, "model.decode_head.norm_cfg.requires_grad": False}),
        (
            ADE,
            {
                "model.decode_head.loss_decode.class_weight": [1.0],
                "model.pretrained": None,
                "val_evaluator.prefix": "a",
            },
        ),
        (ADE, {"model.backbone.init_cfg": dict(type="Pretrained", checkpoint="x.pth", prefix="backbone.")}),
    ],
)
def test_a_value_that_works_is_taken(config, options):
    cfg = load(config, options)
    for key, value in options.items():
        part = cfg
        for name in key.split("."):
            part = part[int(name)] if isinstance(part, list) else part[name]
        if not isinstance(value, dict):
            assert part == value


def test_variables_are_followed_through_files_and_expressions(tmp_path):
    (tmp_path / "base.py").write_text("side = 32\nroot = 'data/'\nunused = 3\npart = dict(scale=(side, side))\n")
    path = tmp_path / "config.py"
    path.write_text(
        "_base_ = 'base.py'\n"
        "mine = 4\n"
        "model = dict(size=[_base_.side, dict(deep={{_base_.side}})], sides=[side for side in range(mine)])\n"
        "model['more'] = dict(path=_base_.root + 'x', **_base_.part)\n"
        "model['gone'] = mine\n"
        "del model['gone']\n"
    )
    for key, says in (
        ("side", r"its value is in model\.more, model\.size\.0, model\.size\.1\.deep; set it there"),
        ("root", r"its value is in model\.more\.path; set it there"),
        ("part.scale", r"its value is in model\.more\.scale; set it there"),
        ("mine", r"its value is in model\.sides; set it there"),
    ):
        with pytest.raises(UserError, match=says):
            load(str(path), {key: 1})
    assert load(str(path), {"unused": 4}).unused == 4  # a hook may read it


def test_a_variable_whose_value_is_nowhere_any_more_is_refused(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("side = 32\nmodel = dict(size=side)\nmodel['size'] = 64\n")
    with pytest.raises(UserError, match="nothing of its value is left in the config"):
        load(str(path), {"side": 1})


def test_variables_of_a_config_that_a_run_has_written_are_refused_too(tmp_path):
    path = tmp_path / "dumped.py"
    load(COCO).dump(str(path))
    with pytest.raises(UserError, match=r"its value is in .*train_dataloader\.dataset\.data_root, val_dataloader"):
        load(str(path), {"data_root": "elsewhere"})
    with pytest.raises(UserError, match=r"its value is in train_dataloader\.dataset\.pipeline\.1\.with_bbox"):
        load(str(path), {"train_pipeline.1.with_bbox": False})
    assert load(str(path), {"train_cfg.max_epochs": 3}).train_cfg.max_epochs == 3


def test_a_users_own_class_takes_what_its_base_takes(tmp_path, monkeypatch):
    (tmp_path / "my_parts.py").write_text(
        "from mmengine.hooks import EarlyStoppingHook\n"
        "from mmengine.registry import HOOKS\n"
        "@HOOKS.register_module()\n"
        "class MyHook(EarlyStoppingHook):\n"
        "    def __init__(self, *args, colour='red', **kwargs):\n"
        "        super().__init__(*args, **kwargs)\n"
        "@HOOKS.register_module()\n"
        "class TakesAll(EarlyStoppingHook):\n"
        "    def __init__(self, **kwargs):\n"
        "        self.rest = {**kwargs}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    path = tmp_path / "config.py"
    path.write_text(
        "custom_imports = dict(imports=['my_parts'])\n"
        "custom_hooks = [dict(type='MyHook'), dict(type='TakesAll'), dict(type='Unknown')]\n"
    )
    load(str(path), {"custom_hooks.0.colour": "blue", "custom_hooks.0.patience": 2})
    load(str(path), {"custom_hooks.1.anything": 1, "custom_hooks.2.anything": 1})
    with pytest.raises(UserError, match="is a MyHook, which takes no color; did you mean colour"):
        load(str(path), {"custom_hooks.0.color": "blue"})
