"""The detector: DINO of mmdet on a token for every pixel."""

from typing import Any, Dict, Optional, Tuple

import torch
from mmcv.ops import MultiScaleDeformableAttention
from mmdet.models.detectors import DINO, DeformableDETR
from mmdet.models.layers import DeformableDetrTransformerEncoder, SinePositionalEncoding
from mmdet.registry import MODELS
from mmdet.structures import OptSampleList
from torch import Tensor, nn

from .decoder import Decoder
from .denoising import BoxDenoising


@MODELS.register_module()
class SpecDETR(DINO):
    """DINO whose encoder works at full resolution and whose queries are alike and don't attend to one another.

    Args:
        *args: Arguments of mmdet's `DeformableDETR`; both its options, two stages and refined boxes, are on.
        dn_cfg: Arguments of `BoxDenoising`; None trains without denoising.
        proposal_size: Width and height of a pixel's proposal as a share of the image; the global token's are twice as
            large. The official configs call it `candidate_bboxes_size`.
        propose_globally: Whether the last token, the global one, makes a proposal too. The official configs call the
            opposite `remove_last_candidate`.
        **kwargs: As `args`.

    Raises:
        ValueError: Parts have other numbers of levels, `test_cfg.max_per_img` is more than there are answers, or an
            image has fewer tokens than there are queries.
    """

    def __init__(
        self,
        *args: Any,
        dn_cfg: Optional[dict] = None,
        proposal_size: float = 0.01,
        propose_globally: bool = False,
        **kwargs: Any,
    ) -> None:
        super(DINO, self).__init__(*args, as_two_stage=True, with_box_refine=True, **kwargs)
        self._check()
        self.proposal_size = proposal_size
        self.propose_globally = propose_globally
        self.dn_query_generator = None
        if dn_cfg is not None:
            self.dn_query_generator = BoxDenoising(
                self.bbox_head.num_classes, self.embed_dims, self.num_queries, **dn_cfg
            )

    def _check(self) -> None:
        for name, module in self.named_modules():
            number = getattr(module, "num_levels", self.num_feature_levels)  # of the stem and of each attention
            if number != self.num_feature_levels:
                raise ValueError(
                    f"{name}.num_levels is {number}, but num_feature_levels is {self.num_feature_levels}: "
                    "they have to be the same"
                )
        answers, asked = self.num_queries * self.bbox_head.num_classes, (self.test_cfg or {}).get("max_per_img", 0)
        if asked > answers:
            raise ValueError(
                f"test_cfg.max_per_img is {asked}, but {self.num_queries} queries for {self.bbox_head.num_classes} "
                f"classes give {answers} answers: set it to at most that"
            )

    def _init_layers(self) -> None:
        self.positional_encoding = SinePositionalEncoding(**self.positional_encoding)
        self.encoder = DeformableDetrTransformerEncoder(**self.encoder)
        self.decoder = Decoder(**self.decoder)
        self.embed_dims = self.encoder.embed_dims
        self.level_embed = nn.Parameter(torch.empty(self.num_feature_levels, self.embed_dims))
        self.memory_trans_fc = nn.Linear(self.embed_dims, self.embed_dims)
        self.memory_trans_norm = nn.LayerNorm(self.embed_dims)

    def init_weights(self) -> None:
        """DINO's initialization, without embeddings of queries.

        The parts' own and `init_cfg` come last: mmdet's DINO would write over the weights that `init_cfg` names.
        """
        matrices = [p for coder in (self.encoder, self.decoder) for p in coder.parameters() if p.dim() > 1]
        for matrix in (*matrices, self.memory_trans_fc.weight):
            nn.init.xavier_uniform_(matrix)
        for module in self.modules():
            if isinstance(module, MultiScaleDeformableAttention):
                module.init_weights()
        nn.init.normal_(self.level_embed)
        super(DeformableDETR, self).init_weights()

    def pre_decoder(
        self,
        memory: Tensor,
        memory_mask: Optional[Tensor],
        spatial_shapes: Tensor,
        batch_data_samples: OptSampleList = None,
    ) -> Tuple[Dict[str, Any], Dict[str, Any]]:
        """Chooses the proposals that queries start from; in training the denoised ones come before them.

        Args:
            memory: Tokens after the encoder, (B, S, C).
            memory_mask: Which of them are padding, (B, S).
            spatial_shapes: Height and width of each level, (levels, 2).
            batch_data_samples: The objects, for denoising.

        Returns:
            What the decoder takes, and in training what the head's losses take beside the decoder's outputs.
        """
        tokens, proposals = self.gen_encoder_output_proposals(memory, memory_mask, spatial_shapes)
        if tokens.shape[1] < self.num_queries:
            raise ValueError(
                f"num_queries is {self.num_queries}, but an image of {spatial_shapes[0].tolist()} pixels has only "
                f"{tokens.shape[1]} to choose from: take fewer queries or a larger image"
            )
        last = self.decoder.num_layers
        scores = self.bbox_head.cls_branches[last](tokens)  # B S classes
        boxes = self.bbox_head.reg_branches[last](tokens) + proposals  # B S 4
        chosen = scores.amax(-1).topk(self.num_queries, dim=1).indices[..., None]  # B Q 1
        scores, boxes = (values.take_along_dim(chosen, 1) for values in (scores, boxes))
        query = memory.new_ones(len(memory), self.num_queries, self.embed_dims)
        reference, dn_meta = boxes.detach(), None
        if self.training and self.dn_query_generator is not None:
            dn_query, dn_boxes, _, dn_meta = self.dn_query_generator(batch_data_samples)
            query, reference = torch.cat([dn_query, query], 1), torch.cat([dn_boxes, reference], 1)
        decoder_inputs = dict(query=query, memory=memory, reference_points=reference.sigmoid())
        if not self.training:
            return decoder_inputs, {}
        return decoder_inputs, dict(enc_outputs_class=scores, enc_outputs_coord=boxes.sigmoid(), dn_meta=dn_meta)

    def forward_decoder(self, memory: Tensor, memory_mask: Optional[Tensor], **kwargs: Any) -> Dict[str, Any]:
        """Runs the decoder; returns what the head takes: queries and boxes of each layer."""
        queries, boxes = self.decoder(
            value=memory, key_padding_mask=memory_mask, reg_branches=self.bbox_head.reg_branches, **kwargs
        )
        return dict(hidden_states=queries, references=list(boxes))

    def gen_encoder_output_proposals(
        self, memory: Tensor, memory_mask: Optional[Tensor], spatial_shapes: Tensor
    ) -> Tuple[Tensor, Tensor]:
        """Tokens as the branches of proposals take them, (B, S, C), and a small box around each before the sigmoid.

        Boxes (B, S, 4) are infinite for padding and for centres and sides within 1e-4 of 0 or 1; mmdet's method, with
        1e-2, would leave out all that are as small as here.
        """
        batch = len(memory)
        dtype = torch.promote_types(memory.dtype, torch.float32)
        if memory_mask is None:
            memory_mask = memory.new_zeros(memory.shape[:2], dtype=torch.bool)
        proposals = []
        shapes = spatial_shapes.tolist()
        masks = memory_mask.split([height * width for height, width in shapes], 1)
        for level, (mask, shape) in enumerate(zip(masks, shapes)):
            inside = ~mask.view(batch, *shape)  # B H W
            y, x = (torch.arange(size, dtype=dtype, device=memory.device) + 0.5 for size in inside.shape[1:])
            x = x[None] / inside[:, 0].sum(1, keepdim=True)  # B W
            y = y[None] / inside[:, :, 0].sum(1, keepdim=True)  # B H
            side = torch.full_like(inside, self.proposal_size * 2**level, dtype=dtype)
            x, y = torch.broadcast_tensors(x[:, None], y[..., None])  # B H W
            proposals.append(torch.stack([x, y, side, side], -1).flatten(1, 2))
        boxes = torch.cat(proposals, 1)
        is_left_out = memory_mask[..., None] | ~((boxes > 1e-4) & (boxes < 1 - 1e-4)).all(-1, keepdim=True)
        boxes = torch.log(boxes / (1 - boxes)).masked_fill(is_left_out, float("inf"))
        tokens = self.memory_trans_norm(self.memory_trans_fc(memory.masked_fill(is_left_out, 0)))
        end = None if self.propose_globally else len(memory[0]) - (self.num_feature_levels - 1)
        return tokens[:, :end], boxes[:, :end]
