"""Importing this lets mmengine find the library's configs, as `_base_ = "spectral_backbones::detection/..."` and by
`mmengine.hub.get_config`: in `.mim/configs` beside this file, as those of mm's toolboxes lie in theirs.
"""

from mmengine.config.utils import MODULE2PACKAGE

# The name of a module, which no distribution has: so mmengine asks Python where the library lies, and gets the one that
# runs here and not another that is installed as well.
MODULE2PACKAGE[__package__] = __name__
