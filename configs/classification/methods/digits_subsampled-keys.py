# The demonstration with 16 of its 64 tokens as keys, drawn anew for each layer and step; all of them in evaluation.
# `default_hooks.keys.draws=8` averages eight draws there.
_base_ = ["../spectformer/spectformer_ti_digits.py"]
default_hooks = dict(keys=dict(type="SubsampleKeysHook", keys=16))
