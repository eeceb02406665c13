"""Files of other libraries, read and written. Each format is a package here, registered in `FORMATS`."""

from madx.interop.adapterhub import (
    export_adapterhub,
    export_adapterhub_fusion,
    export_adapterhub_setup,
    import_adapterhub,
    import_adapterhub_fusion,
    import_adapterhub_setup,
)
from madx.interop.composable_sft import export_composable_sft, import_composable_sft
from madx.interop.formats import (
    FORMATS,
    Format,
    ImportRequest,
    ImportResult,
    export_modules,
    import_into,
    import_modules,
)
from madx.interop.hub import Hub
from madx.interop.peft import export_peft, import_peft
from madx.interop.report import ImportReport
from madx.interop.transformers_checkpoint import export_plain
from madx.registry import discover

discover(__name__)

__all__ = [
    "FORMATS",
    "Format",
    "Hub",
    "ImportReport",
    "ImportRequest",
    "ImportResult",
    "export_adapterhub",
    "export_adapterhub_fusion",
    "export_adapterhub_setup",
    "export_composable_sft",
    "export_modules",
    "export_peft",
    "export_plain",
    "import_adapterhub",
    "import_adapterhub_fusion",
    "import_adapterhub_setup",
    "import_composable_sft",
    "import_into",
    "import_modules",
    "import_peft",
]
