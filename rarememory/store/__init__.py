"""One memory for many workers: the log of truth is a database, and each worker has an exact copy.

`StoredClassifier`, in `classifier`, is a `MemoryClassifier` whose changes are transactions. A
`Change` is what one of them did, as bytes: slots travel, not computations. The `Log` keeps them in
order in a database, through one of two dialects: `sqlite` (with a fair queue of writers, `queue`)
and `postgresql`. `encoders` tells models apart, and `following` keeps copies up to date.
"""

from rarememory.store.classifier import StoredClassifier as StoredClassifier
from rarememory.store.classifier import wrap as wrap
