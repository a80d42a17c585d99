"""Every segmentation config is parsed and built, and its parts fit. One of each algorithm and one of each family also
takes a training step and predicts, on whole images and in sliding windows; the others are built without values.
"""

import warnings
from unittest.mock import Mock

import pytest
import timm
import torch
import yaml
from mmengine.config import Config
from mmengine.optim import OptimWrapper, build_optim_wrapper
from mmengine.registry import init_default_scope
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.structures import PixelData

from ..classification_fixtures import ROOT

pytest.importorskip("mmseg", reason="mmseg is not installed")

from spectral_backbones.backbones.undrawn import undrawn
from spectral_backbones.segmentation.hooks.check import check_channels
from spectral_backbones.segmentation.toolbox import mmseg

MODELS = mmseg.registry.MODELS
SegDataSample = mmseg.structures.SegDataSample

CONFIGS = sorted((ROOT / "configs" / "segmentation").glob("*/*_ade20k-512x512.py"))
TRAINED = {
    "spectformer-h-s_fpn",
    "spectformer-h-s_upernet",
    "spectformer-h-s_mask2former",
    "spectformer-ti_sfp-upernet",
    "gfnet-h-ti_upernet",
    "gfnet-ti_sfp-upernet",
    "pyramidtnt-ti_fpn",
    "halonet-h0-256_upernet",
    "sgformer-s_fpn",
    "dat-t_upernet",
    "dat-pp-t_fpn",
    "vitaev2-s_upernet",
    "ffnet-2_upernet",
    "axial-26s_upernet",
    "fit-s_sfp-upernet",
    "convit-ti_sfp-upernet",
    "tnt-ti_sfp-upernet",
}
SIZE = (72, 100)  # not divisible by 32, and as pictures of ADE20K not square


@pytest.fixture(autouse=True, scope="module")
def _scope():
    init_default_scope("mmseg")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Default ``avg_non_ignore`` is False")
        yield
    init_default_scope("mmengine")


def test_what_the_papers_trained_is_there():
    names = {path.stem for path in CONFIGS}
    for family, models in {
        "spectformer": ["spectformer-h-s", "spectformer-h-b", "spectformer-h-l"],
        "gfnet": ["gfnet-h-ti", "gfnet-h-s", "gfnet-h-b"],
        "pyramidtnt": ["pyramidtnt-ti", "pyramidtnt-s", "pyramidtnt-m", "pyramidtnt-b"],
        "halonet": ["halonet-26t", "halonet-50ts", "halonet-h0-256"],
        "sgformer": ["sgformer-s", "sgformer-m", "sgformer-b"],
        "dat": ["dat-t", "dat-s", "dat-b", "dat-pp-t", "dat-pp-s", "dat-pp-b"],
        "vitae": ["vitaev2-s"],
    }.items():
        for model in models:
            for settings in ("fpn_8xb2-80k", "upernet_8xb2-160k"):
                name = f"{model}_{settings}_ade20k-512x512"
                assert name in names and (ROOT / "configs" / "segmentation" / family / f"{name}.py").is_file()
    for model in ("ffnet-2", "ffnet-3", "ffnet-4", "axial-26s"):
        assert f"{model}_upernet_8xb2-160k_ade20k-512x512" in names
    for model in ("spectformer-s", "gfnet-s", "convit-s", "tnt-s", "fit-s"):
        assert f"{model}_sfp-upernet_8xb2-160k_ade20k-512x512" in names
    assert {algorithm(path) for path in CONFIGS} >= TRAINED


def algorithm(path):
    return path.stem.split("_8xb2")[0]


@pytest.mark.parametrize("path", CONFIGS, ids=algorithm)
def test_config_fits(path):
    cfg = Config.fromfile(path)
    model_name, head, settings, _ = path.stem.split("_")
    assert cfg.model.backbone.name.replace("_", "-") == model_name
    check_recipe(cfg, head, settings, "ffnet" in model_name)
    mean, std = (timm.get_pretrained_cfg(cfg.model.backbone.name).to_dict()[key] for key in ("mean", "std"))
    assert cfg.model.data_preprocessor.mean == pytest.approx([255 * value for value in mean], abs=0.01)
    assert cfg.model.data_preprocessor.std == pytest.approx([255 * value for value in std], abs=0.01)
    if algorithm(path) not in TRAINED:
        with torch.device("meta"), undrawn():
            check_channels(MODELS.build(cfg.model))
        return
    model = MODELS.build(narrow(cfg.model))
    check_channels(model)
    model.init_weights()
    check_step(model, build_optim_wrapper(model, cfg.optim_wrapper))
    check_predictions(model.eval())


def check_recipe(cfg, head, settings, is_ffnet):
    iterations = {"8xb2-80k": 80000, "8xb2-160k": 160000}[settings]
    assert cfg.train_cfg.max_iters == iterations
    assert last_rate(cfg, iterations).end == iterations and last_rate(cfg, 4000).end == 4000
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 16
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.lr, optimizer.weight_decay) == {
        "fpn": ("AdamW", 1e-4, 1e-4),
        "upernet": ("AdamW", 1e-4, 0.05) if is_ffnet else ("AdamW", 6e-5, 0.01),
        "sfp-upernet": ("AdamW", 6e-5, 0.01),
        "mask2former": ("AdamW", 1e-4, 0.05),
    }[head]
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.reduce_zero_label is True
    assert cfg.model.decode_head.num_classes == 150
    assert cfg.model.get("pretrained") is None  # mmseg would give it to the backbone
    assert cfg.model.test_cfg.mode == ("slide" if head == "sfp-upernet" else "whole")


def last_rate(cfg, max_iters):
    """Builds the last scheduler as the runner does for a run of so many iterations."""
    loop = Mock(spec=IterBasedTrainLoop)
    runner = Mock(spec=Runner, _train_loop=loop, max_iters=max_iters, train_dataloader=[], logger=Mock())
    optimizer = OptimWrapper(torch.optim.SGD([torch.zeros(1)], lr=1.0))
    return Runner._build_param_scheduler(runner, list(cfg.param_scheduler), optimizer)[-1]


def narrow(model):
    """The heads of a paper cost more than all else on small images."""
    head = model.decode_head
    if head.type == "Mask2FormerHead":
        head.num_queries = 10
        head.pixel_decoder.encoder.num_layers = head.transformer_decoder.num_layers = 1
        head.train_cfg.num_points = 64
        return model
    head.channels = 16
    if "neck" in model:
        model.neck.out_channels = 16
        head.in_channels = [16] * 4
    if "auxiliary_head" in model:
        model.auxiliary_head.channels = 16
        if "neck" in model:
            model.auxiliary_head.in_channels = 16
    return model


def batch(model, count, size, training):
    generator = torch.Generator().manual_seed(0)
    samples = []
    for _ in range(count):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size))
        labels = torch.randint(0, 4, (1, 3, 5), generator=generator).repeat_interleave(24, 1).repeat_interleave(20, 2)
        labels[:, :4] = 255
        sample.gt_sem_seg = PixelData(data=labels[:, : size[0], : size[1]])
        samples.append(sample)
    inputs = [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for _ in range(count)]
    model.data_preprocessor.size = size
    return model.data_preprocessor(dict(inputs=inputs, data_samples=samples), training)


def check_step(model, optim_wrapper):
    learned = [parameter for group in optim_wrapper.optimizer.param_groups for parameter in group["params"]]
    assert len(learned) == len(set(learned)) == sum(parameter.requires_grad for parameter in model.parameters())
    loss, logs = model.parse_losses(model(**batch(model.train(), 2, SIZE, True), mode="loss"))
    assert all(torch.isfinite(value) for value in logs.values())
    loss.backward()
    unused = [
        name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ]
    assert unused == []  # they would stop distributed training
    before = {name: value.clone() for name, value in model.backbone.model.patch_embed.named_parameters()}
    optim_wrapper.step()
    assert any(not torch.equal(now, before[name]) for name, now in model.backbone.model.patch_embed.named_parameters())


@torch.no_grad()
def check_predictions(model):
    for test_cfg in (dict(mode="whole"), dict(mode="slide", crop_size=(64, 64), stride=(43, 43))):
        model.test_cfg = Config(test_cfg)
        (sample,) = model(**batch(model, 1, SIZE, False), mode="predict")
        assert sample.pred_sem_seg.data.shape == (1, *SIZE) and sample.seg_logits.data.shape == (150, *SIZE)
        assert torch.isfinite(sample.seg_logits.data).all()


@pytest.mark.parametrize("folder", sorted({path.parent for path in CONFIGS}), ids=lambda folder: folder.name)
def test_readme_and_metafile_list_every_config(folder):
    names = [path.stem for path in CONFIGS if path.parent == folder]
    readme = (folder / "README.md").read_text()
    listed = [model["Name"] for model in yaml.safe_load((folder / "metafile.yml").read_text())["Models"]]
    assert listed == names and all(f"]({name}.py) |" in readme for name in names)
