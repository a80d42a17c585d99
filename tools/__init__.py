"""The commands of `spectral`, a file each; each is a script too, in a clone: `python tools/train.py ...`."""
