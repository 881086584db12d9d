"""The memory: one module, and the pure functions that read, write, resize and forget for it."""

from rarememory.memory.budgets import PerClass as PerClass
from rarememory.memory.budgets import Protected as Protected
from rarememory.memory.budgets import Reservoir as Reservoir
from rarememory.memory.losses import margin_loss as margin_loss
from rarememory.memory.losses import vote_loss as vote_loss
from rarememory.memory.module import Memory as Memory
from rarememory.memory.selections import ClosestToCentre as ClosestToCentre
from rarememory.memory.selections import Herding as Herding
from rarememory.memory.selections import Selection as Selection
from rarememory.memory.updates import AverageOrReplace as AverageOrReplace
from rarememory.memory.updates import AverageOrReplaceRandom as AverageOrReplaceRandom
from rarememory.memory.updates import FirstInFirstOut as FirstInFirstOut
from rarememory.memory.updates import LeastRecentlyUsed as LeastRecentlyUsed
from rarememory.memory.updates import LeastUsed as LeastUsed
from rarememory.memory.updates import Update as Update
from rarememory.memory.usage import Usage as Usage
