"""DINO's decoder without attention between queries: each looks at the image alone."""

from typing import Any, Tuple

import torch
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.layers import MLP, coordinate_to_encoding, inverse_sigmoid
from mmdet.models.layers.transformer import DetrTransformerDecoder, DetrTransformerDecoderLayer
from mmengine.model import ModuleList
from torch import Tensor, nn


class DecoderLayer(DetrTransformerDecoderLayer):
    """Attention to the image and a feed-forward network, each with a norm after it: (B, Q, C) -> (B, Q, C).

    Without attention between them, the result for a query does not depend on which others there are.
    """

    def _init_layers(self) -> None:
        self.cross_attn = MultiScaleDeformableAttention(**self.cross_attn_cfg)
        self.embed_dims = self.cross_attn.embed_dims
        self.ffn = FFN(**self.ffn_cfg)
        self.norms = ModuleList(build_norm_layer(self.norm_cfg, self.embed_dims)[1] for _ in range(2))

    def forward(self, query: Tensor, **kwargs: Any) -> Tensor:
        query = self.norms[0](self.cross_attn(query, **kwargs))
        return self.norms[1](self.ffn(query))


class Decoder(DetrTransformerDecoder):
    """Layers that refine boxes in turn.

    DINO's own puts the code of a box in twice the channels that the official checkpoints of SpecDETR have.
    """

    def _init_layers(self) -> None:
        self.layers = ModuleList(DecoderLayer(**self.layer_cfg) for _ in range(self.num_layers))
        self.embed_dims = self.layers[0].embed_dims
        self.ref_point_head = MLP(self.embed_dims * 2, self.embed_dims, self.embed_dims, 2)
        self.norm = nn.LayerNorm(self.embed_dims)

    def forward(
        self,
        query: Tensor,
        reference_points: Tensor,
        valid_ratios: Tensor,
        reg_branches: nn.ModuleList,
        **kwargs: Any,
    ) -> Tuple[Tensor, Tensor]:
        """Refines queries and boxes.

        Args:
            query: (B, Q, C).
            reference_points: Boxes (B, Q, 4), centre, width and height as shares of the image.
            valid_ratios: Shares of each map's width and height that are not padding, (B, levels, 2).
            reg_branches: What each layer moves boxes by, from its queries.
            **kwargs: What `MultiScaleDeformableAttention` takes: the image's tokens as `value`, their shapes.

        Returns:
            Queries after each of L layers, (L, B, Q, C), and boxes, those given first, (L + 1, B, Q, 4). A box has the
            gradient of the layer that it comes from and, as the reference of the next, none.
        """
        queries, boxes = [], [reference_points]
        scale = torch.cat([valid_ratios, valid_ratios], -1)[:, None]  # B 1 levels 4
        for layer, branch in zip(self.layers, reg_branches):
            reference = boxes[-1].detach()
            on_maps = reference[:, :, None] * scale  # B Q levels 4
            position = self.ref_point_head(coordinate_to_encoding(on_maps[:, :, 0], num_feats=self.embed_dims // 2))
            query = layer(query, query_pos=position, reference_points=on_maps, **kwargs)
            boxes.append((branch(query) + inverse_sigmoid(reference, eps=1e-3)).sigmoid())
            queries.append(self.norm(query))
        return torch.stack(queries), torch.stack(boxes)
