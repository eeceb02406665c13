"""madx: modular cross-lingual transfer, with language modules and task modules over one frozen multilingual encoder.

    import madx

    t = madx.Transfer("xlm-roberta-base", store="modules")
    t.train_language("eng", "eng.txt")
    t.train_language("swa", "swa.txt")
    t.train_task("ner", language="eng", train="train.conll", dev="dev.conll")
    print(t.predict("Juma anaishi Nairobi.", language="swa").entities)

One step lower, with a composition of one's own:

    base = madx.load_base("xlm-roberta-base")
    engine = madx.Engine(base)
    engine.attach(madx.load_module("modules/swa", base))
    engine.attach(madx.load_module("modules/ner@1", base))
    engine.activate("swa + ner@1")
    print(engine.explain())
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from madx.registry import provide
from madx.version import __version__ as __version__

if TYPE_CHECKING:
    from madx.base import Base as Base
    from madx.base import load_base as load_base
    from madx.composition import Average as Average
    from madx.composition import Fuse as Fuse
    from madx.composition import Route as Route
    from madx.composition import Scaled as Scaled
    from madx.composition import Stack as Stack
    from madx.composition import Ties as Ties
    from madx.engine import Engine as Engine
    from madx.errors import MadxError as MadxError
    from madx.interop.hub import Hub as Hub
    from madx.interop.hub import load as load
    from madx.jobs import Columns as Columns
    from madx.jobs import Compare as Compare
    from madx.jobs import CompareResult as CompareResult
    from madx.jobs import Entity as Entity
    from madx.jobs import Evaluate as Evaluate
    from madx.jobs import EvaluateResult as EvaluateResult
    from madx.jobs import HeadResult as HeadResult
    from madx.jobs import Inspect as Inspect
    from madx.jobs import Inspection as Inspection
    from madx.jobs import LanguageResult as LanguageResult
    from madx.jobs import Matrix as Matrix
    from madx.jobs import MatrixResult as MatrixResult
    from madx.jobs import Prediction as Prediction
    from madx.jobs import Predictor as Predictor
    from madx.jobs import Proxies as Proxies
    from madx.jobs import TaskResult as TaskResult
    from madx.jobs import TrainHead as TrainHead
    from madx.jobs import TrainLanguage as TrainLanguage
    from madx.jobs import TrainTask as TrainTask
    from madx.jobs import Transfer as Transfer
    from madx.jobs.compare import compare as compare
    from madx.jobs.evaluate import evaluate as evaluate
    from madx.jobs.inspect import inspect as inspect
    from madx.jobs.matrix import matrix as matrix
    from madx.jobs.train_head import train_head as train_head
    from madx.jobs.train_language import train_language as train_language
    from madx.jobs.train_task import train_task as train_task
    from madx.module import Module as Module
    from madx.module import new_module as new_module
    from madx.store import Store as Store
    from madx.store import load_module as load_module
    from madx.store import save_module as save_module
    from madx.training import TrainSettings as TrainSettings

provide("hub", "madx.interop.hub:Hub")

#: room -> its public names; each is loaded on first use, so that `import madx` costs nothing
_ROOMS = {
    "madx.base": "Base load_base",
    "madx.composition": "Average Fuse Route Scaled Stack Ties",
    "madx.engine": "Engine",
    "madx.errors": "MadxError",
    "madx.interop.hub": "Hub load",
    "madx.jobs": "Columns Compare CompareResult Entity Evaluate EvaluateResult HeadResult Inspect Inspection "
    "LanguageResult Matrix MatrixResult Prediction Predictor Proxies TaskResult TrainHead TrainLanguage TrainTask "
    "Transfer compare evaluate inspect matrix train_head train_language train_task",
    "madx.module": "Module new_module",
    "madx.store": "Store load_module save_module",
    "madx.training": "TrainSettings",
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names.split()}
__all__ = sorted(_HOMES)


if not TYPE_CHECKING:  # type checkers would take every name for granted

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module 'madx' has no attribute {name!r}; it has: {', '.join(__all__)}")
        return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
