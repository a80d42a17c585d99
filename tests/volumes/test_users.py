"""What users of MONAI do with the network, as the docs show it, and what those who do not ask are spared."""

import re
import subprocess
import sys

import pytest
import torch
from monai.data import MetaTensor

from spectral_backbones.volumes import create_model, list_models, requirements

from ..classification_fixtures import ROOT, environment


def test_the_docs_replace_swinunetr_by_one_line_of_a_monai_script():
    """That the script runs, and learns, is tested with all Python of the documents."""
    page = (ROOT / "docs" / "volumes.md").read_text()
    before = re.search(r"^    (model = SwinUNETR\(.*\))$", page, re.MULTILINE).group(1)
    line, _ = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert line.count("model = ") == 1 and before.startswith("model = ")


@pytest.mark.parametrize("name", list_models())
def test_logits_are_one_volume_in_training_too_where_deep_supervision_is_off(name):
    arguments = dict(in_channels=2, out_channels=3, feature_size=24, crop_size=(32, 32, 32), deep_supervision=False)
    assert create_model(name, **arguments)(torch.randn(1, 2, 32, 32, 32)).shape == (1, 3, 32, 32, 32)


def test_metadata_pass_by_the_network_and_come_out_again():
    affine = torch.diag(torch.tensor([0.8, 0.8, 2.5, 1.0], dtype=torch.float64))
    volumes = MetaTensor(torch.randn(1, 1, 16, 32, 32), affine=affine)
    model = create_model("nnformer_synapse", feature_size=24, crop_size=(16, 32, 32), deep_supervision=False)
    seen = []
    model.model_down.patch_embed.register_forward_pre_hook(lambda module, args: seen.append(type(args[0])))
    logits = model(volumes)
    assert seen == [torch.Tensor]  # at every operation they would cost more than the operation
    assert isinstance(logits, MetaTensor) and torch.equal(logits.affine, affine)
    logits.mean().backward()
    assert model.model_down.patch_embed.proj1.conv1.weight.grad.any()


def test_monai_and_nibabel_stay_away_from_those_who_do_not_ask():
    heavy = ("monai", "nibabel", "mmengine", "matplotlib", "sklearn")
    code = (
        "import sys; from spectral_backbones import volumes; volumes.create_model('nnformer_acdc', feature_size=24); "
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("missing", requirements.NEEDED)
def test_training_says_what_to_install(missing, monkeypatch):
    monkeypatch.setattr(requirements, "find_spec", lambda name: None if name == missing else True)
    with pytest.raises(ModuleNotFoundError, match=rf"needs {missing}: pip install 'spectral-backbones\[volumes\]'"):
        requirements.check_requirements()
