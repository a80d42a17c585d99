# The published variant, crop, batch and schedule; the data are prepared by MONAI in place of nnU-Net.
_base_ = ["../../_base_/volumes/synapse.py", "../../_base_/volumes/schedule_250k.py"]
model = dict(name="nnformer_synapse")
# The eight of thirteen organs that published figures are of.
val_evaluator = dict(
    classes=["aorta", "gallbladder", "left kidney", "right kidney", "liver", "pancreas", "spleen", "stomach"]
)
test_evaluator = val_evaluator
