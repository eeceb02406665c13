"""madx: modular cross-lingual transfer.

import madx
base = madx.load_base("xlm-roberta-base")
engine = madx.Engine(base)
engine.attach(madx.load_module("modules/swa", base))
engine.attach(madx.load_module("modules/ner@1", base))
engine.activate("swa + ner@1")
print(engine.explain())
"""

from importlib import import_module

#: public name -> where it lives; loaded on first use, so that `import madx` costs nothing
_HOMES = {
    "Average": "madx.composition",
    "Engine": "madx.engine",
    "Hub": "madx.interop.hub",
    "MadxError": "madx.errors",
    "Predictor": "madx.jobs",
    "Route": "madx.composition",
    "Scaled": "madx.composition",
    "Stack": "madx.composition",
    "Store": "madx.store",
    "Ties": "madx.composition",
    "evaluate": "madx.jobs",
    "load": "madx.interop.hub",
    "load_base": "madx.base",
    "load_module": "madx.store",
    "new_module": "madx.module",
    "save_module": "madx.store",
    "train_language": "madx.jobs",
    "train_task": "madx.jobs",
}
__all__ = sorted(_HOMES)
__version__ = "0.2.0.dev0"


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'madx' has no attribute {name!r}; it has: {', '.join(__all__)}")
    return getattr(import_module(_HOMES[name]), name)
