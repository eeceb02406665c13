"""One plain training loop for every task and module type, with checkpoints that a killed run goes on from."""

from madx.training.loop import TrainResult, fit
from madx.training.settings import TrainSettings

__all__ = ["TrainResult", "TrainSettings", "fit"]
