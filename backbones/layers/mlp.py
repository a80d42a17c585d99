"""MLPs over the channels of a map."""

from typing import Callable, Dict, Type

import torch
import torch.nn as nn
from timm.layers import Mlp

from .conv import ConvNormAct
from .renaming import renamed


class DepthwiseMlp(nn.Module):
    """An MLP with a 3x3 depth-wise convolution before its activation, which tells it where a token is (PVT v2,
    arXiv 2106.13797, section 3.2).

    (B, H, W, C) -> (B, H, W, C).

    Args:
        in_features: Channels C.
        hidden_features: Channels between the two linear layers.
        act_layer: Activation.
        drop: Dropout after each linear layer.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Type[nn.Module] = nn.GELU,
        drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = nn.Linear(in_features, hidden_features, **dd)
        self.dwconv = nn.Conv2d(hidden_features, hidden_features, 3, padding=1, groups=hidden_features, **dd)
        self.act = act_layer()
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_features, in_features, **dd)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.fc1(x).permute(0, 3, 1, 2)  # B C H W, channels last in memory
        x = self.dwconv(x).permute(0, 2, 3, 1)  # B H W C
        x = self.drop1(self.act(x))
        return self.drop2(self.fc2(x))


class ActivatorMlp(nn.Module):
    """A gated MLP with a norm in both branches: W3(norm(act(W1 x)) * norm(W2 x)), one norm for both (Activator, arXiv
    2405.15953; Abdullah-88/Activator, `ActivatorGatingUnit`).

    (..., C) -> (..., C). The paper puts it in attention's place, but it mixes no tokens: each is treated on its own.
    So it stands here among the MLPs; beside the mixer `identity` nothing in a trunk mixes tokens, as in the paper.

    Args:
        in_features: Channels C.
        hidden_features: Channels of both branches.
        act_layer: Activation of the first branch.
        drop: Dropout after the gate and after the last linear layer. The public code has none.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Type[nn.Module] = nn.GELU,
        drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1_g = nn.Linear(in_features, hidden_features, **dd)
        self.fc1_x = nn.Linear(in_features, hidden_features, **dd)
        self.act = act_layer()
        self.norm = nn.LayerNorm(hidden_features, **dd)
        self.drop1 = nn.Dropout(drop)
        self.fc2 = nn.Linear(hidden_features, in_features, **dd)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.act(self.fc1_g(x))) * self.norm(self.fc1_x(x))
        return self.drop2(self.fc2(self.drop1(x)))

    @torch.jit.ignore
    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of the public code by our names, see `load_official`."""
        return renamed(state, {"proj_1.": "fc1_g.", "proj_2.": "fc1_x.", "norm.": "norm.", "proj_3.": "fc2."})


class LMUFormerMlp(nn.Module):
    """An MLP with batch norms: ReLU(norm(W2 act(norm(W1 x)))) (LMUFormer, arXiv 2402.04882; zeyuliu1037/LMUFormer,
    `ConvFFN`). Both linear layers have a bias, which the norms take off again.

    (B, ..., C) -> (B, ..., C). The batch norms want statistics of large batches: with few images a device train with
    SyncBatchNorm or keep them frozen; images of a batch depend on each other in training.

    Args:
        in_features: Channels C.
        hidden_features: Channels between the two layers.
        act_layer: Activation between them.
        drop: Dropout after each activation. The public code has none.
    """

    def __init__(
        self,
        in_features: int,
        hidden_features: int,
        act_layer: Type[nn.Module] = nn.GELU,
        drop: float = 0.0,
        device=None,
        dtype=None,
    ) -> None:
        super().__init__()
        dd = {"device": device, "dtype": dtype}
        self.fc1 = ConvNormAct(in_features, hidden_features, bias=True, act_layer=act_layer, **dd)
        self.drop1 = nn.Dropout(drop)
        self.fc2 = ConvNormAct(hidden_features, in_features, bias=True, act_layer=nn.ReLU, **dd)
        self.drop2 = nn.Dropout(drop)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(1, -2).unsqueeze(1)  # B 1 N C
        return self.drop2(self.fc2(self.drop1(self.fc1(tokens)))).reshape(x.shape)

    @torch.jit.ignore
    def from_official(self, state: Dict[str, torch.Tensor]) -> Dict[str, torch.Tensor]:
        """Weights of the public code by our names, see `load_official`."""
        names = {f"{fc}_conv.": f"{fc}.conv." for fc in ("fc1", "fc2")}
        names.update({f"{fc}_bn.": f"{fc}.bn." for fc in ("fc1", "fc2")})
        converted = renamed(state, names)
        return {name: value.unsqueeze(-1) if value.dim() == 3 else value for name, value in converted.items()}


# What a block may mix channels with, by name.
MLPS: Dict[str, Callable[..., nn.Module]] = {
    "mlp": Mlp,
    "activator": ActivatorMlp,
    "lmuformer": LMUFormerMlp,
    "depthwise": DepthwiseMlp,
}


def create_mlp(
    name: str,
    dim: int,
    hidden_dim: int,
    act_layer: Type[nn.Module] = nn.GELU,
    drop: float = 0.0,
    is_map: bool = True,
    device=None,
    dtype=None,
) -> nn.Module:
    """An MLP of MLPS.

    Args:
        name: Its name.
        dim: Channels C.
        hidden_dim: Channels between.
        act_layer: Activation.
        drop: Rate of dropout.
        is_map: Whether it is for maps (B, H, W, C), not for sequences (B, N, C).

    Raises:
        ValueError: There is none of that name, or it needs a map.
    """
    allowed = [key for key in MLPS if is_map or key != "depthwise"]
    if name not in allowed:
        raise ValueError(f"mlp must be one of {', '.join(allowed)}, got {name!r}")
    return MLPS[name](dim, hidden_dim, act_layer=act_layer, drop=drop, device=device, dtype=dtype)
