# The demonstration with activations kept in eight bits for the backward pass.
_base_ = ["../spectformer/spectformer_ti_digits.py"]
default_hooks = dict(eight_bit=dict(type="EightBitActivationsHook"))
