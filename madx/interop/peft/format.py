"""The format `peft`: folders of the library PEFT, one module each."""

from pathlib import Path

from madx.base import Base
from madx.composition import Stack
from madx.errors import ConfigError
from madx.interop.files import read_json
from madx.interop.formats import FORMATS, Format, ImportRequest, ImportResult, single
from madx.interop.peft.exporting import export_peft
from madx.interop.peft.files import CONFIG, WEIGHTS, require_folder
from madx.interop.peft.importing import base_named, import_peft
from madx.interop.peft.methods import method_of
from madx.module import Module


@FORMATS.register("peft")
class Peft(Format):
    """Folders with an `adapter_config.json` that names a `peft_type`."""

    title = "Hugging Face's PEFT: LoRA, DoRA, (IA)^3, prefixes, SHiRA, trainable tokens, token classifiers' heads"
    files = f"{CONFIG} with a peft_type, and {WEIGHTS[0]} or {WEIGHTS[1]}"

    def members(self, folder: Path) -> tuple[str, ...]:
        """Empty: a folder holds one module."""
        return ()

    def base_of(self, folder: Path) -> str | None:
        """`base_model_name_or_path` of the config."""
        config = read_json(require_folder(folder) / CONFIG)
        method_of(config)
        return base_named(config)

    def read(self, folder: Path, requests: tuple[ImportRequest, ...], base: Base) -> ImportResult:
        """The only module of a folder."""
        (request,) = requests
        module, report = import_peft(
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
            raise ConfigError(f"A file of PEFT holds no name, so it cannot be called {as_name!r} there.")
        return export_peft(modules[single(composition, "a folder of PEFT")], folder, base=base)
