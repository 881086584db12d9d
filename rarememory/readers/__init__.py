"""Readers answer questions about a story in hops, as memory networks do."""

from rarememory.readers.babi import Outcome as Outcome
from rarememory.readers.babi import Setup as Setup
from rarememory.readers.babi import train_babi as train_babi
from rarememory.readers.encoding import Bags as Bags
from rarememory.readers.memn2n import MemN2N as MemN2N
from rarememory.readers.memn2n import Reading as Reading
from rarememory.readers.noise import noisy_times as noisy_times
from rarememory.readers.questions import Questions as Questions
from rarememory.readers.questions import Vocabulary as Vocabulary
from rarememory.readers.questions import encode_questions as encode_questions
from rarememory.readers.stored import load_reader as load_reader
from rarememory.readers.stored import save_reader as save_reader
from rarememory.readers.training import Epoch as Epoch
from rarememory.readers.training import Errors as Errors
from rarememory.readers.training import Recipe as Recipe
from rarememory.readers.training import Training as Training
from rarememory.readers.training import errors_of as errors_of
