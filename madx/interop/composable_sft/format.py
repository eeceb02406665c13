"""The format `composable-sft`: sparse fine-tunings as the code of the LT-SFT paper stores them (Ansell et al. 2022,
arXiv:2110.07560).

A folder holds `pytorch_diff.bin`. Beside it may lie a `config.json` of transformers, which the library's trainer
writes. Published files have none, so they identify their base by names and shapes of parameters alone, and do not name
their labels.
"""

from pathlib import Path

from madx.base import Base
from madx.composition import Stack
from madx.errors import ConfigError
from madx.interop.composable_sft.exporting import export_composable_sft
from madx.interop.composable_sft.file import CONFIG, FILE, require_folder
from madx.interop.composable_sft.importing import import_composable_sft
from madx.interop.files import read_json
from madx.interop.formats import FORMATS, Format, ImportRequest, ImportResult, single
from madx.module import Module


@FORMATS.register("composable-sft")
class ComposableSft(Format):
    """Folders with a `pytorch_diff.bin`; each holds one module."""

    title = "LT-SFT's composable-sft: sparse fine-tunings, and a token classifier's head"
    files = f"{FILE}, and {CONFIG} where there is one"

    def members(self, folder: Path) -> tuple[str, ...]:
        """Empty: a folder holds one module."""
        return ()

    def base_of(self, folder: Path) -> str | None:
        """The base named in `config.json`, if there is one."""
        folder = require_folder(folder)
        made_for = read_json(folder / CONFIG).get("_name_or_path") if (folder / CONFIG).is_file() else None
        return made_for if isinstance(made_for, str) and made_for else None

    def read(self, folder: Path, requests: tuple[ImportRequest, ...], base: Base) -> ImportResult:
        """The only module of a folder."""
        (request,) = requests
        module, report = import_composable_sft(
            folder,
            base,
            name=request.name,
            role=request.role,
            language=request.language,
            task=request.task,
            with_head=request.with_head,
            allow_base_mismatch=request.allow_base_mismatch,
        )
        return ImportResult({request.name: module}, (report,), Stack(request.name))

    def write(
        self,
        composition: Stack,
        modules: dict[str, Module],
        folder: Path,
        *,
        base: Base,
        as_name: str | None = None,
    ) -> Path:
        """A single module. The format has no names, so `as_name` is refused."""
        if as_name is not None:
            raise ConfigError(f"A file of composable-sft holds no name, so it cannot be called {as_name!r} there.")
        return export_composable_sft(modules[single(composition, f"a {FILE}")], folder, base=base)
