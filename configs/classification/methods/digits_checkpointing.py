# The demonstration with blocks computed again in the backward pass: what eight bits are compared with.
_base_ = ["../spectformer/spectformer_ti_digits.py"]
default_hooks = dict(checkpointing=dict(type="GradCheckpointingHook"))
