"""Typed settings in YAML: strict reading with all faults at once, writing, and a description of every key."""

from madx.config.describing import describe
from madx.config.reading import check, dump, faults_of, load, to_dict
from madx.config.settings import Settings, renamed

__all__ = ["Settings", "check", "describe", "dump", "faults_of", "load", "renamed", "to_dict"]
