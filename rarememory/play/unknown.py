"""How like a remembered drawing one must be: a line that holds from the first drawing on."""

import math

from rarememory.classifier import MemoryClassifier

FAR = 0.2
"""The rate of strangers accepted that `fit_threshold` is asked for."""
HALFWAY = 20
"""Remembered drawings at which what was measured and what is fitted count the same."""


def measured(drawings: int) -> float:
    """The line for so many remembered drawings, to begin with: 0.46 + 0.05 log(drawings).

    The more is remembered, the nearer a stranger comes to some of it. It was chosen for the shipped
    encoder by the 423 characters of Omniglot that it has never seen, of all alphabets mixed, one
    drawing of each remembered, all of them drawn again by `drawing.ink` from thinned strokes. With
    what `draw_line` makes of it:

        remembered drawings                             1     3    10    30
        the line                                     0.46  0.52  0.59  0.64
        another hand's drawing, taken for unknown     3 %   6 %  10 %  13 %
        another character, taken for a known one      3 %   5 %   9 %  14 %
        a scribble, taken for a known one             1 %   2 %   3 %   3 %

    >>> round(measured(1), 2), round(measured(30), 2)
    (0.46, 0.63)
    """
    return 0.46 + 0.05 * math.log(drawings)


def draw_line(classifier: MemoryClassifier) -> float:
    """Set the threshold to what was measured, raised towards what the remembered drawings ask for.

    With few classes `fit_threshold` has next to nothing to go by, so it has the weight
    n / (n + 20), and never lowers the line. It matters where all classes look alike, as those of
    one alphabet do: at 20 of them a third of the other characters are taken for known, in place of
    a half, and 13 % of the known ones for unknown, in place of 7 %.

    Returns:
        The threshold; -1 where nothing is remembered, and all is unknown anyway.
    """
    drawings = len(classifier.memory)
    line = measured(drawings) if drawings else -1.0
    if len(classifier.classes) > 1:
        fitted = classifier.fit_threshold(far=FAR)
        line += max(0.0, fitted - line) * drawings / (drawings + HALFWAY)
    classifier.threshold.fill_(line)
    return line
