"""A classifier that exists already, with a memory beside it.

One object, `MemoryClassifier`, holds five things: the host (any module; what enters its last Linear
are the features, what leaves it are the host's own answers), a `Memory` of the features, a book of
names (labels of any kind <-> the memory's integers), the refs that each slot rests on, and four
numbers that weigh host against memory, with a threshold below which the answer is "unknown".

Each idea has its file. `labels` and `refs` are the two books; `host` listens to the model;
`examples` makes batches of what users pass; `blending`, `openset` and `calibration` are pure
functions of scores. `answering` holds it all and answers; `learning`, `known`, `refreshing` and
`doctor` work on that; `persistence` and `saving` make a file of it; `wrapped` is the class that
users meet.
"""

from rarememory.classifier.answers import Forgotten as Forgotten
from rarememory.classifier.answers import Learnt as Learnt
from rarememory.classifier.answers import Probabilities as Probabilities
from rarememory.classifier.answers import Remembered as Remembered
from rarememory.classifier.answers import StoredExample as StoredExample
from rarememory.classifier.calibration import Calibration as Calibration
from rarememory.classifier.doctor import Report as Report
from rarememory.classifier.refreshing import Drift as Drift
from rarememory.classifier.wrapped import MemoryClassifier as MemoryClassifier
from rarememory.classifier.wrapped import wrap as wrap
