"""Other memories on the same slots: means, vectors, many at once; answers by whole classes."""

from rarememory.variants.attention import ClassScores as ClassScores
from rarememory.variants.attention import class_attention as class_attention
from rarememory.variants.batched import BatchedMemory as BatchedMemory
from rarememory.variants.mean import MeanMemory as MeanMemory
from rarememory.variants.vector import VectorMemory as VectorMemory
from rarememory.variants.vector import VectorRecall as VectorRecall
