"""Published test errors on bAbI in %, of the tasks 1 to 20."""

from typing import NamedTuple


class Published(NamedTuple):
    """A published table.

    Attributes:
        mean: over the 20 tasks.
        failed: tasks of an error above 5 %.
        errors: of each task; empty where only the mean is known here.
        source: where it stands.

    Example:
        >>> PUBLISHED["joint", "en"].mean
        12.4
    """

    mean: float
    failed: int
    errors: tuple[float, ...]
    source: str


_PAPER = "Sukhbaatar et al. 2015"
_PER_TASK_10K = "0 .3 9.3 0 .6 0 3.7 .8 .8 2.4 0 0 0 0 0 .4 40.7 6.7 66.5 0"
_JOINT = "0 11.4 21.9 13.4 14.4 2.8 18.3 9.3 1.9 6.5 .3 .1 .2 6.9 0 2.7 40.4 9.4 88.0 0"

PUBLISHED = {
    ("joint", "en"): Published(12.4, 11, tuple(map(float, _JOINT.split())), _PAPER),
    ("per task", "en"): Published(13.9, 11, (), _PAPER),
    ("per task", "en-10k"): Published(6.6, 4, tuple(map(float, _PER_TASK_10K.split())), _PAPER),
    ("nonlinear", "en-10k"): Published(4.2, 3, (), _PAPER),
    ("memnn", "en"): Published(6.7, 4, (), "Weston et al. 2015"),
}
"""By kind of training and size of bAbI: position encoding, linear start, random noise, 3 hops."""
