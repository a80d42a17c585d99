# SpecDETR (arXiv 2405.10148) for SPOD: 30 bands, 8 classes.
bands = 30
channels = 256
feedforward = dict(embed_dims=channels, feedforward_channels=8 * channels, ffn_drop=0.0)
attention = dict(embed_dims=channels, num_levels=2, num_points=4, dropout=0.0)  # to pixels and to their mean

model = dict(
    type="SpecDETR",
    num_queries=900,
    num_feature_levels=2,
    # No mean and no std: the data is divided by a number of its own.
    data_preprocessor=dict(type="DetDataPreprocessor"),
    backbone=dict(type="PixelTokens", in_channels=bands, embed_dims=channels),
    encoder=dict(num_layers=6, layer_cfg=dict(self_attn_cfg=attention, ffn_cfg=feedforward)),
    decoder=dict(num_layers=6, layer_cfg=dict(cross_attn_cfg=attention, ffn_cfg=feedforward), post_norm_cfg=None),
    positional_encoding=dict(num_feats=channels // 2, normalize=True, temperature=20),
    bbox_head=dict(
        type="SpecDETRHead",
        num_classes=8,
        embed_dims=channels,
        sync_cls_avg_factor=True,
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=5.0),
        loss_iou=dict(type="GIoULoss", loss_weight=2.0),
    ),
    dn_cfg=dict(group_cfg=dict(dynamic=True, num_dn_queries=200)),
    train_cfg=dict(
        assigner=dict(
            type="DynamicIoUHungarianAssigner",
            match_costs=[
                dict(type="FocalLossCost", weight=2.0),
                dict(type="BBoxL1Cost", weight=5.0, box_format="xywh"),
                dict(type="IoUCost", iou_mode="giou", weight=2.0),
            ],
        )
    ),
    test_cfg=dict(max_per_img=300),
)
