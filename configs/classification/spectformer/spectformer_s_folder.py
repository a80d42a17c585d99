# Your own pictures: python tools/train.py THIS_FILE --data-root FOLDER --cfg-options model.pretrained=WEIGHTS
_base_ = [
    "../../_base_/classification/folder.py",
    "../../_base_/classification/finetune_50e.py",
]
model = dict(name="spectformer_s", kwargs=dict(drop_path_rate=0.15))
