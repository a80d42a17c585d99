# The published variant, crop, batch and schedule; the data are prepared by MONAI in place of nnU-Net.
_base_ = ["../../_base_/volumes/acdc.py", "../../_base_/volumes/schedule_250k.py"]
model = dict(name="nnformer_acdc")
