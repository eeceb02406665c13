"""One plain training loop for every task and module type, with checkpoints that a killed run goes on from."""

from madx.training.fit import fit, forget
from madx.training.loop import TrainResult
from madx.training.settings import SparseSettings, TrainSettings

__all__ = ["SparseSettings", "TrainResult", "TrainSettings", "fit", "forget"]
