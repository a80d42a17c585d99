# Your own pictures, from weights that were trained on others:
# spectral train classification/folder --data-root photos --model gfnet_xs --weights gfnet-xs.pth --epochs 30
_base_ = [
    "../_base_/classification/folder.py",
    "../_base_/classification/finetune_50e.py",
]
model = dict(name="spectformer_s", kwargs=dict(drop_path_rate=0.15))
