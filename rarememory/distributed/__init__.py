"""One memory of several processes: each holds all of it (`gathered`), or a part (`shard`)."""

from rarememory.distributed.replicated import broadcast_state as broadcast_state
from rarememory.distributed.replicated import gathered as gathered
from rarememory.distributed.sharding import shard as shard
