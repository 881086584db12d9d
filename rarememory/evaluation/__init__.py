"""The protocols of few-shot learning, answered by a memory over embeddings made once."""

from rarememory.evaluation.accuracy import Accuracy as Accuracy
from rarememory.evaluation.accuracy import Bar as Bar
from rarememory.evaluation.both import Figures as Figures
from rarememory.evaluation.both import both_protocols as both_protocols
from rarememory.evaluation.embedding import embed as embed
from rarememory.evaluation.sighting import sighting_accuracy as sighting_accuracy
from rarememory.evaluation.support_query import support_query_accuracy as support_query_accuracy
