"""One plain training loop for every task and module type, with checkpoints from which a killed run goes on."""

from madx.training.fit import fit, forget
from madx.training.run import TrainResult
from madx.training.settings import SparseSettings, TrainSettings

__all__ = ["SparseSettings", "TrainResult", "TrainSettings", "fit", "forget"]
