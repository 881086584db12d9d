"""Shapes of the tensors of a search, checked by jaxtyping while the tests run.

Axes: `batch` queries, `slots` of the memory, `key_dim` the width of a key.
"""

from jaxtyping import Bool, Float, Float16, Int64
from torch import Tensor

Queries = Float[Tensor, "batch key_dim"]
Keys = Float[Tensor, "slots key_dim"]
HalfPrecisionKeys = Float16[Tensor, "slots key_dim"]
Occupied = Bool[Tensor, " slots"]
Among = Bool[Tensor, "batch slots"] | Bool[Tensor, " slots"]
"""The occupied slots that may be found: of all queries, or of each."""
Values = Int64[Tensor, " slots"]
Labels = Int64[Tensor, " batch"]
Neighbors = Int64[Tensor, "batch found"]
"""Slots found for each query; EMPTY where there is none."""
Pair = tuple[Int64[Tensor, " batch"], Int64[Tensor, " batch"]]
"""For each query the slot of its positive and of its negative; EMPTY where there is none."""
SlotList = Int64[Tensor, " listed"]
"""Some slots of the memory, in no order."""
