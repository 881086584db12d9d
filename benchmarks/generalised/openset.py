"""Open set: half of the new classes are never learnt, and should be answered with "unknown".

No drawing of an evaluation character helps to fit the threshold, but the five from which each known
one is learnt. The unknown queries that it is fitted to are of rehearsal classes, forgotten again.
"""

import torch
from jaxtyping import Float
from torch import Generator, Tensor, nn

from benchmarks.generalised.drawings import FIT, NEW_TEST, TEST, Classes, Drawings, drawn
from benchmarks.generalised.memory import learn_seconds, prepared
from benchmarks.openset import RATES, auroc, share

SHOTS = 5


def open_set(host: nn.Module, classes: Classes, seed: int) -> dict[str, float]:
    """AUROC, and the false-accept rates that are measured where others are requested."""
    order = torch.randperm(len(classes.new), generator=Generator().manual_seed(seed)).tolist()
    names = [classes.new.names[place] for place in order]
    learnt, unlearnt = (classes.new.select(part) for part in (names[::2], names[1::2]))
    classifier = prepared(host, classes, SHOTS)
    learn_seconds(classifier, drawn(learnt, slice(0, SHOTS)))
    known = drawn(classes.old, TEST) + drawn(learnt, NEW_TEST)
    unknown = drawn(unlearnt, NEW_TEST)
    scores = {
        "memory": [classifier.familiarity(part.batches()) for part in (known, unknown)],
        "max_softmax": [_max_softmax(host, part) for part in (known, unknown)],
    }
    figures = {f"openset.auroc.{name}": 100 * auroc(*pair) for name, pair in scores.items()}
    for rate in RATES:
        unknown_examples = drawn(classes.rehearsal, FIT).batches()
        classifier.fit_threshold(unknown=unknown_examples, false_accept_rate=rate)
        accepted = [100 * share(part > classifier.threshold) for part in scores["memory"]]
        key = f"openset.far{round(100 * rate)}"
        figures |= {f"{key}.known_accepted": accepted[0], f"{key}.measured": accepted[1]}
    return figures


@torch.inference_mode()
def _max_softmax(host: nn.Module, drawings: Drawings) -> Float[Tensor, " queries"]:
    """The host's own confidence (Hendrycks and Gimpel 2017)."""
    parts = [host(inputs).log_softmax(1).amax(1) for inputs, _ in drawings.batches()]
    return torch.cat(parts)
