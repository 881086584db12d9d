"""A memory for classifiers that already exist: learn a class from one example, explain, forget."""

from rarememory.base.deprecation import renamed_attributes
from rarememory.base.state import EMPTY as EMPTY
from rarememory.base.state import MemoryState as MemoryState
from rarememory.base.state import Recall as Recall
from rarememory.base.state import Write as Write
from rarememory.classifier import MemoryClassifier as MemoryClassifier
from rarememory.classifier import wrap as wrap
from rarememory.lookup import Lookup as Lookup
from rarememory.memory import AverageOrReplace as AverageOrReplace
from rarememory.memory import AverageOrReplaceRandom as AverageOrReplaceRandom
from rarememory.memory import ClosestToCentre as ClosestToCentre
from rarememory.memory import FirstInFirstOut as FirstInFirstOut
from rarememory.memory import Herding as Herding
from rarememory.memory import LeastRecentlyUsed as LeastRecentlyUsed
from rarememory.memory import LeastUsed as LeastUsed
from rarememory.memory import Memory as Memory
from rarememory.memory import PerClass as PerClass
from rarememory.memory import Protected as Protected
from rarememory.memory import Reservoir as Reservoir
from rarememory.memory import Selection as Selection
from rarememory.memory import Update as Update
from rarememory.memory import Usage as Usage
from rarememory.memory import margin_loss as margin_loss
from rarememory.memory import vote_loss as vote_loss
from rarememory.variants import BatchedMemory as BatchedMemory
from rarememory.variants import ClassScores as ClassScores
from rarememory.variants import MeanMemory as MeanMemory
from rarememory.variants import VectorMemory as VectorMemory
from rarememory.variants import VectorRecall as VectorRecall
from rarememory.variants import class_attention as class_attention

__getattr__ = renamed_attributes(
    __name__, {"attended": "class_attention", "Attended": "ClassScores"}
)

__version__ = "0.1.0"
