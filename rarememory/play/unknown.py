"""The threshold for unknown drawings, usable from the first remembered drawing on."""

import math

from rarememory.classifier import MemoryClassifier

FALSE_ACCEPT_RATE = 0.2
"""The rate that `fit_threshold` is called with."""
EQUAL_WEIGHTS_AT = 20
"""Number of remembered drawings at which prior and fitted threshold have equal weight."""


def prior_threshold(drawings: int) -> float:
    """The threshold before any fitting: 0.46 + 0.05 log(drawings).

    The more drawings are remembered, the nearer an unknown one comes to some of them. The formula
    was fitted to the shipped encoder on the 423 characters of Omniglot that it was not trained on,
    of all alphabets mixed, one drawing of each remembered, all rendered by `drawing.ink` from
    thinned strokes. Error rates with `set_threshold`:

        remembered drawings                          1     3    10    30
        threshold                                 0.46  0.52  0.59  0.64
        known character, rejected as unknown       3 %   6 %  10 %  13 %
        other character, accepted as known         3 %   5 %   9 %  14 %
        scribble, accepted as known                1 %   2 %   3 %   3 %

    >>> round(prior_threshold(1), 2), round(prior_threshold(30), 2)
    (0.46, 0.63)
    """
    return 0.46 + 0.05 * math.log(drawings)


def set_threshold(classifier: MemoryClassifier) -> float:
    """Set the threshold to prior + max(0, fitted - prior) n / (n + 20) for n drawings.

    With few classes `fit_threshold` has little data, hence the weight n / (n + 20). It matters
    where classes look alike, as those of one alphabet do: with 20 of them it accepts a third of the
    other characters instead of half, and rejects 13 % of the known ones instead of 7 %.

    Returns:
        The threshold; -1 for an empty memory, which answers unknown anyway.
    """
    drawings = len(classifier.memory)
    threshold = prior_threshold(drawings) if drawings else -1.0
    if len(classifier.classes) > 1:
        fitted = classifier.fit_threshold(false_accept_rate=FALSE_ACCEPT_RATE)
        threshold += max(0.0, fitted - threshold) * drawings / (drawings + EQUAL_WEIGHTS_AT)
    classifier.threshold.fill_(threshold)
    return threshold
