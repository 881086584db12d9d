"""Other memories on the same slots: means of classes, vectors; and answers by whole classes."""

from rarememory.variants.class_attention import Attended as Attended
from rarememory.variants.class_attention import attended as attended
from rarememory.variants.mean import MeanMemory as MeanMemory
from rarememory.variants.vector import VectorMemory as VectorMemory
from rarememory.variants.vector import VectorRecall as VectorRecall
