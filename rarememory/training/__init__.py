"""Training an encoder under a memory: the loop, its configuration, its optimizer."""

from rarememory.training.config import Recipe as Recipe
from rarememory.training.trainer import Step as Step
from rarememory.training.trainer import Training as Training
from rarememory.training.trainer import train as train
