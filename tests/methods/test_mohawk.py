"""A vision transformer becomes a spectral model: what is copied, what is made of its attention, what is refused."""

import pytest
import timm
import torch
from timm.models.vision_transformer import ResPostBlock

from spectral_backbones.backbones.isotropic import Isotropic
from spectral_backbones.methods import mohawk
from spectral_backbones.methods.closed_form import FilterSums, LinearSums, fit_layer, layers_to_fit
from spectral_backbones.methods.distillation import RelationDistillationTask, make_task
from spectral_backbones.methods.mixing_matrix import gate_kernel, gate_weight
from spectral_backbones.methods.relations import relation_loss

SIZES = dict(img_size=32, patch_size=8, embed_dim=24, depth=3, num_heads=3, num_classes=5)
NO_CLASS_TOKEN = dict(class_token=False, global_pool="avg", fc_norm=False)


def vit(**kwargs):
    torch.manual_seed(0)
    model = timm.create_model("deit_tiny_patch16_224", **{**SIZES, **kwargs}).eval()
    for parameter in model.parameters():  # biases and norms of a trained model
        if parameter.ndim == 1:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return model


def student(**kwargs):
    torch.manual_seed(1)
    return timm.create_model("spectformer_ti", **{**SIZES, "mixers": "spectral:1, attention", **kwargs}).eval()


def pictures(count=4):
    torch.manual_seed(2)
    return torch.randn(count, 3, 32, 32)


# Copying --------------------------------------------------------------------------------------------------------------


def test_deit_small_fits_spectformer_xs():
    teacher, ours = (timm.create_model(name, device="meta") for name in ("deit_small_patch16_224", "spectformer_xs"))
    found = mohawk.fit(teacher, ours)
    assert found.made == (0, 1, 2, 3)
    new = {
        f"blocks.{number}.{name}"
        for number in found.made
        for name in ("norm1.weight", "norm1.bias", "mixer.complex_weight")
    }
    assert {*ours.state_dict()} - {*found.copied} == new


@pytest.mark.parametrize("tokens", [{}, dict(reg_tokens=2), dict(no_embed_class=True), NO_CLASS_TOKEN])
def test_all_but_the_spectral_blocks_is_the_teachers(tokens):
    teacher, ours, x = vit(**tokens), student(), pictures()
    mohawk.copy_weights(teacher, ours)
    patches = mohawk.as_map(mohawk.run_blocks(teacher, x, [0])[0][0], (4, 4))
    torch.testing.assert_close(mohawk.run_blocks(ours, x, [0])[0][0], patches)
    errors = mohawk.block_errors(teacher, ours, [x])
    assert errors[0] > 0.1
    if tokens is NO_CLASS_TOKEN:
        assert max(errors[1:]) < 1e-5
        last = mohawk.run_blocks(teacher, x, [1])[1][1]
        with torch.no_grad():
            for block in ours.blocks[2:]:
                last = block(mohawk.as_map(last, (4, 4)))
            torch.testing.assert_close(ours.forward_head(ours.norm(last)), teacher(x))


def test_a_spectformer_that_attends_is_a_teacher_too():
    teacher, ours = student(mixers="attention"), student()
    mohawk.copy_weights(teacher, ours)
    assert max(mohawk.block_errors(teacher, ours, [pictures()])[1:]) < 1e-5


# Orientation ----------------------------------------------------------------------------------------------------------


def test_a_layer_that_a_gate_can_be_becomes_one():
    """Attention that is the same for all offsets, and projections that mix no channels: nothing is lost."""
    teacher, ours = vit(**NO_CLASS_TOKEN), student()
    block = teacher.blocks[0]
    dim = SIZES["embed_dim"]
    with torch.no_grad():
        block.attn.qkv.weight[: 2 * dim].zero_()  # all tokens attend to all alike
        block.attn.qkv.bias[: 2 * dim].zero_()
        block.attn.qkv.weight[2 * dim :] = torch.diag(torch.rand(dim))
        block.attn.proj.weight.copy_(torch.diag(torch.rand(dim)))
        found = mohawk.copy_weights(teacher, ours)
        seen = mohawk.MeanAttention(teacher, found.made)
        seen.add(pictures())
        torch.testing.assert_close(seen.attention, torch.full_like(seen.attention, 4 / 16))
        mohawk.orient(ours, seen)
        # Tokens of the usual scale, on which the two norms are exact.
        x = torch.randn(2, 4, 4, dim)
        x = (x - x.mean(-1, keepdim=True)) / x.std(-1, correction=0, keepdim=True) * seen.scale / seen.images
        tokens = x.flatten(1, 2)
        theirs = block.norm2(tokens + block.attn(block.norm1(tokens)))
        mine = ours.blocks[0].norm2(ours.blocks[0].mixer(ours.blocks[0].norm1(x)))
    torch.testing.assert_close(mine.flatten(1, 2), theirs, atol=2e-3, rtol=1e-3)  # the norms' epsilon, twice


def test_orientation_brings_blocks_nearer_to_the_teachers():
    teacher, ours, x = vit(), student(mixers="spectral:2, attention"), pictures()
    found = mohawk.copy_weights(teacher, ours)
    before = mohawk.block_errors(teacher, ours, [x])
    sizes = [float(ours.blocks[number].mixer.complex_weight.square().mean()) for number in found.made]
    seen = mohawk.MeanAttention(teacher, found.made)
    seen.add(x)
    mohawk.orient(ours, seen)
    after = mohawk.block_errors(teacher, ours, [x])
    assert all(after[number] < before[number] for number in found.made)
    assert after[2] == before[2]
    # As large as before, since learning rates are made for that.
    assert sizes == pytest.approx(
        [float(ours.blocks[number].mixer.complex_weight.square().mean()) for number in found.made]
    )


def test_a_mean_goes_on_where_it_was():
    teacher, x = vit(), pictures(6)
    whole, first, second = (mohawk.MeanAttention(teacher, [0, 1]) for _ in range(3))
    whole.add(x[:4])
    whole.add(x[4:])
    first.add(x[:4])
    second.load_state_dict(first.state_dict())
    second.add(x[4:])
    assert second.images == 6 and torch.equal(second.attention, whole.attention)
    assert torch.equal(second.scale, whole.scale)
    torch.testing.assert_close(whole.attention.sum(-1), torch.full_like(whole.attention[..., 0], 6.0))


def test_a_filter_and_a_constant_are_found_by_least_squares():
    torch.manual_seed(0)
    kernel, constant, x = torch.randn(4, 5, 6), torch.randn(6), torch.randn(50, 4, 5, 6) + 1.0
    y = torch.fft.irfft2(torch.fft.rfft2(x, dim=(1, 2)) * gate_weight(kernel), s=(4, 5), dim=(1, 2)) + constant
    sums = FilterSums((4, 5), 6)
    sums.add(x[:20], y[:20])
    sums.add(x[20:], y[20:])
    weight, found = sums.solve()
    torch.testing.assert_close(gate_kernel(weight, (4, 5)).float(), kernel, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(found.float(), constant, atol=1e-2, rtol=1e-2)


@torch.no_grad()
def test_a_layer_is_found_by_least_squares_and_keeps_its_weights_where_nothing_is_seen():
    torch.manual_seed(0)
    true, layer = torch.nn.Linear(6, 3), torch.nn.Linear(6, 3)
    x = torch.randn(500, 4, 6)
    x[..., 5] = 0.0
    before = layer.weight[:, 5].clone()
    sums = LinearSums(layer)
    sums.add(x, true(x))
    sums.solve()
    torch.testing.assert_close(layer.weight[:, :5], true.weight[:, :5], atol=5e-3, rtol=0)
    torch.testing.assert_close(layer.weight[:, 5], before)
    torch.testing.assert_close(layer.bias, true.bias, atol=5e-3, rtol=0)


@torch.no_grad()
def test_layers_by_least_squares_bring_blocks_nearer_one_after_the_other():
    teacher, x = vit(), pictures(64)
    oriented, ours = (student(mixers="spectral:2, attention") for _ in range(2))
    made = mohawk.copy_weights(teacher, oriented).made
    mohawk.copy_weights(teacher, ours)
    seen = mohawk.MeanAttention(teacher, made)
    seen.add(x)
    mohawk.orient(oriented, seen)
    nearer, off = [], [mohawk.block_errors(teacher, ours, [x])[0]]
    logits = []
    for layer in layers_to_fit(ours, made):
        if layer == "head":
            logits.append((ours(x) - teacher(x)).norm())
        fit_layer(teacher, ours, layer, [x[:30], x[30:]])
        nearer.append(layer)
        off.append(mohawk.block_errors(teacher, ours, [x])[0])
    logits.append((ours(x) - teacher(x)).norm())
    assert off[:4] == sorted(off[:4], reverse=True) and len(set(off[3:])) == 1  # the first block has three layers
    assert nearer == [
        *(f"blocks.{number}.{layer}" for number in range(2) for layer in ("filter", "fc1", "fc2")),
        *(f"blocks.2.{layer}" for layer in ("proj", "fc1", "fc2")),
        "head",
    ]
    both = zip(mohawk.block_errors(teacher, ours, [x]), mohawk.block_errors(teacher, oriented, [x]), strict=True)
    assert all(one < 0.7 * other for (one, other), _ in zip(both, made, strict=False))
    assert logits[1] < 0.5 * logits[0] and logits[1] < 0.5 * (oriented(x) - teacher(x)).norm()


# Training -------------------------------------------------------------------------------------------------------------


def test_alignment_trains_the_spectral_blocks_alone_and_brings_them_nearer():
    teacher, ours, x = vit(), student(), pictures()
    mohawk.copy_weights(teacher, ours)
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    error = mohawk.block_errors(teacher, ours, [x])[0]
    task = make_task("alignment", ours, teacher, torch.nn.CrossEntropyLoss())
    ours.train()
    optimizer = torch.optim.Adam([p for p in task.trainable_module.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(20):
        losses = task(x, torch.zeros(4, dtype=torch.long))
        optimizer.zero_grad()
        losses["loss"].backward()
        optimizer.step()
    assert mohawk.block_errors(teacher, ours.eval(), [x])[0] < 0.7 * error
    changed = {name for name, value in ours.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name in before if name.startswith("blocks.0.")}
    assert all(parameter.grad is None for parameter in teacher.parameters())


@pytest.mark.parametrize(
    "way, teacher, kwargs",
    [
        ("logits", "resnet10t", dict(num_classes=5)),
        ("features", "resnet10t", dict(num_classes=7)),
        ("relations", "vit_tiny_patch16_224", dict(img_size=32, patch_size=8, embed_dim=36, depth=1, num_heads=2)),
    ],
)
def test_any_pair_learns_by_what_both_have(way, teacher, kwargs):
    torch.manual_seed(0)
    teacher, ours = timm.create_model(teacher, **kwargs), student()
    task = make_task(way, ours, teacher, torch.nn.CrossEntropyLoss(), label_weight=0.25)
    task.train()
    x, labels = pictures(), torch.tensor([0, 1, 2, 3])
    found = task(x, labels)
    torch.testing.assert_close(found["loss"], 0.25 * found["task_loss"] + 0.75 * found["kd_loss"])
    found["loss"].backward()
    assert all(parameter.grad is not None for parameter in task.trainable_module.parameters())
    assert not teacher.training and all(parameter.grad is None for parameter in teacher.parameters())


def test_relations_are_those_of_the_last_attention_without_prefix_tokens():
    teacher, ours, x = vit(embed_dim=36), student(), pictures()
    task = RelationDistillationTask(
        ours, timm.task.DistillationTeacher(teacher), torch.nn.CrossEntropyLoss(), relation_heads=4
    )
    found = task(x, torch.tensor([0, 1, 2, 3]))
    qkv = []
    for model, block in ((teacher, teacher.blocks[-1].attn), (ours, ours.blocks[-1].mixer)):
        inside = mohawk.run_blocks(model, x, [2])[2][0]
        tokens = model.blocks[-1].norm1(inside)
        qkv.append(block.qkv(tokens.flatten(1, -2))[:, -16:].chunk(3, -1))
    expected = sum(relation_loss(t, s, 4) for t, s in zip(*qkv, strict=True)) / 3
    torch.testing.assert_close(found["kd_loss"], expected)


# Refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "teacher, ours, message, would",
    [
        (lambda: timm.create_model("resnet10t"), {}, "a ResNet, no plain vision transformer", "deit_small_patch16_224"),
        (lambda: timm.create_model("tnt_s_patch16_224"), {}, "no plain vision transformer", "deit_small_patch16_224"),
        (lambda: vit(embed_dim=48), {}, "has 48 channels, the student 24", "embed_dim=48, depth=3, num_heads=3"),
        (lambda: vit(depth=4), {}, "has 4 blocks, the student 3", "depth=4"),
        (lambda: vit(num_heads=4), {}, "block 1 has 4 heads in the teacher and 3", "num_heads=4"),
        (lambda: vit(img_size=48), {}, "has 6x6 tokens, the student 4x4", "img_size=48"),
        (lambda: timm.create_model("deit_small_patch16_224"), {}, "has 384 channels", ": spectformer_xs, gfnet_xs, a"),
        (lambda: vit(num_classes=7), {}, "has 7 classes, the student 5", "embed_dim=24"),
        (lambda: vit(in_chans=1), {}, "has 1 channels of the pictures, the student 3", "embed_dim=24"),
        (lambda: vit(mlp_ratio=2.0), {}, "mlp.fc1.weight is .96, 24. and the teacher's", "mlp_ratio=2"),
        (lambda: vit(init_values=0.1), {}, r"has blocks.*ls1.gamma, blocks.*ls2.gamma, for", "deit_tiny"),
        (lambda: vit(pre_norm=True), {}, "the teacher has norm_pre.weight", "deit_tiny"),
        (lambda: vit(qk_norm=True), {}, r"has blocks.*attn.k_norm.bias", "deit_tiny"),
        (lambda: vit(qkv_bias=False), {}, "blocks have no attn.qkv.bias", "deit_tiny"),
        (lambda: vit(block_fn=ResPostBlock, init_values=None), {}, "it has ResPostBlock", "deit_tiny"),
        (lambda: vit(pos_embed="none"), {}, "no table of positions", "deit_tiny"),
        (lambda: vit(global_pool="avg"), {}, "pools by 'avg' before its last norm", "deit_tiny"),
        (lambda: vit(act_layer=torch.nn.ReLU), {}, "activations GELU and ReLU", ""),
        (lambda: vit(), dict(mixers="attention"), "no spectral block to be made", "embed_dim=24"),
        (lambda: vit(), dict(mixers="spectral:1, fnet"), "mix by FNet", "embed_dim=24"),
        (lambda: vit(), dict(stem="conv"), "no single convolution", "embed_dim=24"),
        (lambda: vit(), dict(global_pool="max"), "pools by 'max'", "embed_dim=24"),
        (lambda: vit(), dict(residual="gru"), "residual.gate.bias is missing", "embed_dim=24"),
        (lambda: vit(), dict(mlp="activator"), "missing", "embed_dim=24"),
    ],
)
def test_what_does_not_fit_is_told_with_what_would(teacher, ours, message, would):
    with pytest.raises(ValueError, match=message) as raised:
        mohawk.fit(teacher(), student(**ours))
    assert would in str(raised.value).partition("What would")[2]


@pytest.mark.parametrize(
    "way, arguments, message",
    [
        ("logits", {}, "teacher has 7, the student 5"),
        ("relations", {}, "no plain self-attention"),
        ("features", dict(label_weight=1.5), "from 0 to 1, got 1.5"),
        ("features", dict(temperature=0), "above 0, got 0"),
        ("guesses", {}, "one of alignment, logits"),
    ],
)
def test_a_way_that_does_not_fit_says_why(way, arguments, message):
    with pytest.raises(ValueError, match=message):
        make_task(
            way, student(), timm.create_model("resnet10t", num_classes=7), torch.nn.CrossEntropyLoss(), **arguments
        )


def test_relations_of_other_numbers_of_tokens_or_heads_are_refused():
    loss = torch.nn.CrossEntropyLoss()
    with pytest.raises(ValueError, match="divide the teacher's and the student's channels"):
        make_task("relations", student(), vit(), loss, relation_heads=5)
    task = make_task("relations", student(patch_size=4), vit(), loss)
    with pytest.raises(ValueError, match="as many images and tokens"):
        task(pictures(), torch.zeros(4, dtype=torch.long))


def test_every_named_student_is_there():
    for name in mohawk.STUDENTS:
        assert isinstance(timm.create_model(name, device="meta"), Isotropic)
    assert all(map(timm.is_model, mohawk.TEACHERS))
