"""The protocols of few-shot learning, answered by a memory over embeddings made once."""

from typing import TYPE_CHECKING

from rarememory.base.deprecation import renamed_attributes
from rarememory.evaluation.accuracy import Accuracy as Accuracy
from rarememory.evaluation.accuracy import Bar as Bar
from rarememory.evaluation.embedding import embed as embed
from rarememory.evaluation.embedding import embed_averaged as embed_averaged
from rarememory.evaluation.few_shot import FewShotAccuracies as FewShotAccuracies
from rarememory.evaluation.few_shot import few_shot_accuracies as few_shot_accuracies
from rarememory.evaluation.lifelong import lifelong_accuracy as lifelong_accuracy
from rarememory.evaluation.lifelong import lifelong_forgetting as lifelong_forgetting
from rarememory.evaluation.plots import plot_ages as plot_ages
from rarememory.evaluation.plots import plot_confusions as plot_confusions
from rarememory.evaluation.plots import plot_embedding as plot_embedding
from rarememory.evaluation.runs import runs_accuracy as runs_accuracy
from rarememory.evaluation.sighting import sighting_accuracy as sighting_accuracy
from rarememory.evaluation.storage import Storage as Storage
from rarememory.evaluation.storage import storage_accuracy as storage_accuracy
from rarememory.evaluation.support_query import support_query_accuracy as support_query_accuracy
from rarememory.evaluation.within_alphabet import WithinAlphabet as WithinAlphabet
from rarememory.evaluation.within_alphabet import (
    within_alphabet_accuracy as within_alphabet_accuracy,
)

if not TYPE_CHECKING:
    __getattr__ = renamed_attributes(
        __name__, {"both_protocols": "few_shot_accuracies", "Figures": "FewShotAccuracies"}
    )
