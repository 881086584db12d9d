"""How like a remembered drawing one must be: a line that holds from the first drawing on."""

import math

from rarememory.classifier import MemoryClassifier

FAR = 0.2
"""The rate of strangers accepted that `fit_threshold` is asked for."""
HALFWAY = 20
"""Remembered drawings at which what was measured and what is fitted count the same."""


def measured(drawings: int) -> float:
    """The line for so many remembered drawings, by which to begin: 0.42 + 0.06 log(drawings).

    The more is remembered, the nearer a stranger comes to some of it. Measured for the shipped
    encoder on the characters of Omniglot that it has never seen, of all alphabets mixed, with one
    drawing of each remembered, drawn again by `drawing.ink` from their thinned strokes:

        remembered drawings                        1     3    10    30
        the line                                0.42  0.49  0.56  0.62
        another hand's drawing, taken for none   1 %   5 %   7 %  11 %
        another character, taken for a known one 3 %   6 %  10 %  16 %
        a scribble, taken for a known one        1 %   3 %   3 %   4 %
    """
    return 0.42 + 0.06 * math.log(drawings)


def draw_line(classifier: MemoryClassifier) -> float:
    """Set the threshold to what was measured, raised towards what the remembered drawings ask for.

    With few classes `fit_threshold` has next to nothing to go by, so it has the weight
    n / (n + 20), and never lowers the line. Where all classes look alike, as those of one alphabet
    do, it matters: at 20 of them 35 % of the others are taken for known, in place of 50 %, and 12 %
    of the known ones for none, in place of 7 %.

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
