"""A module: one named, trained, stored unit."""

from madx.module.fits import require_base, require_first_piece, require_parameters, require_task_head
from madx.module.module import ROLES, Module, ModuleInfo, new_module

__all__ = [
    "Module",
    "ModuleInfo",
    "ROLES",
    "new_module",
    "require_base",
    "require_first_piece",
    "require_parameters",
    "require_task_head",
]
