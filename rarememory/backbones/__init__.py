"""Encoders of small grey images, [batch, 1, size, size] in [0, 1] -> [batch, key_dim].

They need not normalize what they return: the memory does.
"""

from rarememory.backbones.conv4 import Conv4 as Conv4
from rarememory.backbones.ensemble import Backbone as Backbone
from rarememory.backbones.ensemble import Ensemble as Ensemble
from rarememory.backbones.paper import PaperCNN as PaperCNN
from rarememory.backbones.residual import Residual as Residual
from rarememory.backbones.shipped import omniglot_encoder as omniglot_encoder
from rarememory.backbones.shipped import unseen_characters as unseen_characters
from rarememory.backbones.stored import BACKBONES as BACKBONES
from rarememory.backbones.stored import stored_encoder as stored_encoder
