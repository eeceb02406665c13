"""A module: one named, trained, stored unit."""

from madx.module.module import (
    ROLES,
    Module,
    ModuleInfo,
    new_module,
    require_base,
    require_parameters,
    require_task_head,
)

__all__ = [
    "Module",
    "ModuleInfo",
    "ROLES",
    "new_module",
    "require_base",
    "require_parameters",
    "require_task_head",
]
