# What every detector shares beside its data and schedule.
_base_ = "mmdet::_base_/default_runtime.py"
custom_imports = dict(imports=["detection"], allow_failed_imports=False)
