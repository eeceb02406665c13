"""The format `adapterhub`: adapters, fusions, tagging heads and stacks of AdapterHub's `adapters`, of any version.

One module is a folder, the composition of several is a folder of such folders.
"""

from pathlib import Path

from madx.base import Base
from madx.composition import Stack
from madx.errors import StoreError
from madx.interop.adapterhub.config import check_version
from madx.interop.adapterhub.exporting import export_adapterhub
from madx.interop.adapterhub.files import CONFIG, FUSION_CONFIG, require_folder
from madx.interop.adapterhub.importing import import_adapterhub
from madx.interop.adapterhub.setup import SETUP, export_adapterhub_setup, import_adapterhub_setup, read_setup
from madx.interop.files import read_json
from madx.interop.formats import FORMATS, Format, ImportRequest, ImportResult
from madx.module import Module


@FORMATS.register("adapterhub")
class AdapterHub(Format):
    """Folders that `adapters` saves and loads; `adapter_setup.json` beside folders of adapters is a composition."""

    title = "AdapterHub's `adapters`: adapters of six methods, fusions, tagging heads, stacks"
    files = f"{CONFIG}, {FUSION_CONFIG}, or {SETUP} with a folder for each adapter"

    def members(self, folder: Path) -> tuple[str, ...]:
        """The adapters named in a setup; none in the folder of one adapter."""
        return read_setup(folder).names() if (folder / SETUP).is_file() else ()

    def base_of(self, folder: Path) -> str | None:
        """`model_name` of the config; of a setup, that of its first adapter."""
        names = self.members(folder)
        alone = not names and (folder / FUSION_CONFIG).is_file() and not (folder / CONFIG).is_file()
        path = folder / FUSION_CONFIG if alone else require_folder(folder / names[0] if names else folder) / CONFIG
        full = read_json(path)
        check_version(full.get("version"))
        if not isinstance(full.get("model_name"), str | None):
            raise StoreError(f"{path}: 'model_name' is a {type(full['model_name']).__name__}; a text is expected.")
        return full.get("model_name") or None

    def read(self, folder: Path, requests: tuple[ImportRequest, ...], base: Base) -> ImportResult:
        """One adapter, or those of a setup in the composition that it describes."""
        first, mismatch = requests[0], any(request.allow_base_mismatch for request in requests)
        if not self.members(folder):
            module, report = import_adapterhub(
                folder,
                base,
                name=first.name,
                role=first.role,
                language=first.language,
                task=first.task,
                with_head=first.with_head,
                allow_base_mismatch=mismatch,
            )
            return ImportResult({first.name: module}, (report,), Stack(first.name))
        composition, modules, reports = import_adapterhub_setup(
            folder,
            base,
            roles={request.name: request.role for request in requests},
            languages={request.name: request.language for request in requests if request.language},
            task=next((request.task for request in requests if request.task), None),
            with_head=all(request.with_head for request in requests),
            allow_base_mismatch=mismatch,
        )
        return ImportResult(modules, tuple(reports), composition)

    def write(
        self,
        composition: Stack,
        modules: dict[str, Module],
        folder: Path,
        *,
        base: Base,
        as_name: str | None = None,
    ) -> Path:
        """A single module as the folder of an adapter, several as a setup."""
        names = composition.names()
        if composition.items == names and len(names) == 1:
            return export_adapterhub(modules[names[0]], folder, base=base, as_name=as_name)
        return export_adapterhub_setup(composition, modules, folder, base=base)
