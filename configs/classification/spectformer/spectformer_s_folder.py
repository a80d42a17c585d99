# The same as `classification/folder`, which takes --model; kept for those who call it by this name.
_base_ = "../folder.py"
