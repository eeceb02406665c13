"""Scores, their noise, and the transfer matrix with its controls and proxies: pure data, no engine, no model."""

from madx.evaluation.contrasts import Contrast
from madx.evaluation.matrix import COLUMNS, CONTROLS, PROXIES, Cell, Meta, Missing, Row, TransferMatrix
from madx.evaluation.significance import Difference, SeedDifference, holm, paired_bootstrap, seed_difference
from madx.scores import EntityScores, Statistics, entity_scores

__all__ = ["COLUMNS", "CONTROLS", "PROXIES", "Cell", "Contrast", "Difference", "EntityScores", "Meta", "Missing", "Row",
           "SeedDifference", "Statistics", "TransferMatrix", "entity_scores", "holm", "paired_bootstrap", "seed_difference"]
