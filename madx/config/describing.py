"""A description of all keys of a settings class, as YAML that a user can fill in."""

import json
import types
import typing
from typing import Any

import yaml

from madx.config.settings import Settings, settings_of
from madx.config.yaml_text import Dumper


def describe(schema: type[Settings], *, indent: str = "") -> str:
    """Return all keys with meaning, type, range and default, as YAML that a user can fill in."""
    lines = []
    for name, field in schema.model_fields.items():
        limits = [
            f"{word} {getattr(m, key)}"
            for m in field.metadata
            for key, word in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<"))
            if getattr(m, key, None) is not None
        ]
        kind = ", ".join([_type_text(field.annotation), *limits])
        lines.append(f"{indent}# {field.description or name.replace('_', ' ')} ({kind})")
        inner = settings_of(field.annotation)
        if inner is not None:
            lines.append(f"{indent}{name}:")
            deeper = indent + "  "
            if typing.get_origin(field.annotation) is dict:
                lines.append(f"{deeper}NAME:   # one such block for each name")
                deeper += "  "
            lines.append(describe(inner, indent=deeper).rstrip("\n"))
        elif field.is_required():
            lines.append(f"{indent}{name}:   # required")
        else:
            default = json.loads(json.dumps(field.get_default(call_default_factory=True), default=list))
            text = yaml.dump(default, Dumper=Dumper, default_flow_style=True, width=1000, allow_unicode=True)
            lines.append(f"{indent}{name}: {text.removesuffix(chr(10)).removesuffix('...').strip()}")
    return "\n".join(lines) + "\n"


def _type_text(annotation: Any) -> str:
    """Return a type in words: `list of text`, `integer or auto`."""
    origin, args = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _type_text(args[0])
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_type_text(a) for a in args)
    if origin is typing.Literal:
        return " | ".join(str(a) for a in args)
    if annotation is type(None):
        return "null"
    if origin in (list, tuple):
        return f"list of {_type_text(args[0])}" if args else "list"
    if origin is dict:
        return f"{_type_text(args[1])} by name"
    return {"str": "text", "int": "integer", "float": "number", "bool": "true | false"}.get(
        getattr(annotation, "__name__", ""),
        getattr(annotation, "__name__", "anything").lower().replace("any", "anything"),
    )
