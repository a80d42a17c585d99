_base_ = ["./fpn.py", "./ade20k_512x512.py", "./schedule_80k.py", "./runtime.py"]
