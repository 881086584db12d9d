"""A memory for classifiers that already exist: learn a class from one example, explain, forget."""

from rarememory.attention import Attended as Attended
from rarememory.attention import attended as attended
from rarememory.classifier import MemoryClassifier as MemoryClassifier
from rarememory.classifier import wrap as wrap
from rarememory.lookup import Lookup as Lookup
from rarememory.losses import margin_loss as margin_loss
from rarememory.losses import vote_loss as vote_loss
from rarememory.means import MeanMemory as MeanMemory
from rarememory.memory import Memory as Memory
from rarememory.state import EMPTY as EMPTY
from rarememory.state import MemoryState as MemoryState
from rarememory.state import Recall as Recall
from rarememory.state import Write as Write
from rarememory.updates import AverageOrReplace as AverageOrReplace
from rarememory.updates import AverageOrReplaceRandom as AverageOrReplaceRandom
from rarememory.updates import FirstInFirstOut as FirstInFirstOut
from rarememory.updates import Update as Update
from rarememory.vectors import VectorMemory as VectorMemory
from rarememory.vectors import VectorRecall as VectorRecall

__version__ = "0.1.0"
