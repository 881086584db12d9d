"""Data to remember: Omniglot, drawn glyphs that stand in for it, and episodes of either."""

from rarememory.data.characters import Characters as Characters
from rarememory.data.characters import character_of as character_of
from rarememory.data.characters import families as families
from rarememory.data.characters import is_upright as is_upright
from rarememory.data.episodes import Episode as Episode
from rarememory.data.episodes import sighting_episode as sighting_episode
from rarememory.data.episodes import support_query_episode as support_query_episode
from rarememory.data.glyphs import draw_glyphs as draw_glyphs
from rarememory.data.jitter import Jitter as Jitter
from rarememory.data.omniglot import Omniglot as Omniglot
from rarememory.data.omniglot import download_omniglot as download_omniglot
from rarememory.data.omniglot import read_omniglot as read_omniglot
from rarememory.data.runs import Run as Run
from rarememory.data.runs import published_runs as published_runs
from rarememory.data.splits import Split as Split
from rarememory.data.splits import checksum as checksum
from rarememory.data.splits import five_alphabets_split as five_alphabets_split
from rarememory.data.splits import folder_split as folder_split
from rarememory.data.splits import hashed_split as hashed_split
from rarememory.data.splits import listed_split as listed_split
from rarememory.data.splits import split_called as split_called
from rarememory.data.streams import Stream as Stream
from rarememory.data.streams import alphabet_stream as alphabet_stream
from rarememory.data.streams import classes_by_alphabet as classes_by_alphabet
from rarememory.data.streams import random_stream as random_stream
