"""The order of a stack: a task module is trained above the modules of languages, and acts there."""

from collections.abc import Mapping

from madx.composition import Composition, Route, Stack
from madx.errors import CompositionError


def require_task_last(composition: Composition, roles: Mapping[str, str]) -> None:
    """Raise CompositionError for a stack in which a language module stands after a task module, as `ner + swa`.

    Modules act from left to right, and the head reads what the last one gives. roles: the role of each module by name.

    >>> require_task_last(Stack("swa", "ner"), {"swa": "language", "ner": "task"})
    """
    for stack in composition.branches if isinstance(composition, Route) else (composition,):
        found = [{roles[name] for name in Stack(item).names()} for item in stack.items]
        task = next((i for i, here in enumerate(found) if "task" in here), len(found))
        late = [i for i in range(task + 1, len(found)) if "language" in found[i]]
        if late:
            first = [item for i, item in enumerate(stack.items) if i < task or i in late]
            last = [item for i, item in enumerate(stack.items) if i >= task and i not in late]
            raise CompositionError(
                f"In '{stack}' the task module {stack.items[task]} stands before the language module "
                f"{stack.items[late[0]]}. Modules act from left to right, and a task module is trained above those of "
                f"languages: write '{Stack(*first, *last)}'."
            )
