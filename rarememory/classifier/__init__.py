"""A memory beside a classifier that exists already.

`MemoryClassifier`, in `classifier`, is made of parts that do not see it: a `FeatureExtractor` (the
host model, and the layer whose input are the features), a `Memory` of the features, a `LabelBook`
(labels <-> the memory's integers, and the refs of each slot), and an `Ensembler` (four weights that
combine host and memory, and the threshold below which an example is unknown).

A `FeatureExtractor` finds the head with `heads`, reads what the model returns with `outputs`, sees
through the wrappers of torch with `wrappers`, and runs beside other threads by `layer_hooks` and
`modes`; widths that nobody has given are `guesses`.

How the memory is asked is a `Reader`: the fitted one is a `discriminant`, whose examples are left
out by `leave_one_out` and whose answers are improved by `refinement`; `rehearsal` weighs old
classes against new ones.

`examples` makes batches of what users pass; `blend`, `openset` and `calibration` are the functions
of scores that the ensembler uses; `learning`, `refreshing` and `doctor` work on a memory and its
label book; `tuned_keys` are parameters for a while, which `finetuning` trains; `persistence` and
`saving` are the file.
"""

from rarememory.classifier.answers import Forgotten as Forgotten
from rarememory.classifier.answers import Learnt as Learnt
from rarememory.classifier.answers import Probabilities as Probabilities
from rarememory.classifier.answers import Remembered as Remembered
from rarememory.classifier.answers import StoredExample as StoredExample
from rarememory.classifier.blend import BlendWeights as BlendWeights
from rarememory.classifier.calibration import Calibration as Calibration
from rarememory.classifier.calibration import OldAgainstNew as OldAgainstNew
from rarememory.classifier.classifier import MemoryClassifier as MemoryClassifier
from rarememory.classifier.classifier import wrap as wrap
from rarememory.classifier.doctor import Report as Report
from rarememory.classifier.finetuning import Finetuned as Finetuned
from rarememory.classifier.openset import Threshold as Threshold
from rarememory.classifier.refreshing import Drift as Drift
from rarememory.classifier.tuned_keys import TunableKeys as TunableKeys
