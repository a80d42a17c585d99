# Your own pictures, in any folders, without labels:
# spectral train vicreg_folder --data-root photos --model resnet50 --epochs 100
_base_ = [
    "../_base_/pretraining/views.py",
    "../_base_/pretraining/vicreg_100e.py",
]
model = dict(name="spectformer_s")
train_dataloader = dict(dataset=dict(type="UnlabelledFolder", root="data/my_images"))
