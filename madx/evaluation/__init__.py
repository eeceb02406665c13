"""Scores, their noise, and the transfer matrix with its four controls: pure data, no engine, no model."""

from madx.evaluation.matrix import CONTROLS, Cell, Contrast, Meta, Missing, Row, TransferMatrix
from madx.evaluation.significance import Difference, SeedDifference, paired_bootstrap, seed_difference
from madx.scores import EntityScores, Statistics, entity_scores

__all__ = ["CONTROLS", "Cell", "Contrast", "Difference", "EntityScores", "Meta", "Missing", "Row", "SeedDifference",
           "Statistics", "TransferMatrix", "entity_scores", "paired_bootstrap", "seed_difference"]
