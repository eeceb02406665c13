"""Ctrl-C, SIGTERM and SIGHUP during a run: the first asks it to stop after its step, the second stops it at once.

SIGHUP comes when a terminal or a connection closes. A process that was started to ignore it (`nohup`) goes on ignoring
it.
"""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

log = logging.getLogger("madx")

#: by name, since Windows has no SIGHUP
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether a stop was asked for since the block began.

    Outside of the main thread, where Python gives no signals, it is always False.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    asked: list[int] = []
    before = {number: signal.getsignal(number) for number in SIGNALS}
    for number in [n for n, handler in before.items() if handler == signal.SIG_IGN and n != signal.SIGINT]:
        del before[number]

    def note(number: int, _frame: object) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        with suppress(RuntimeError):  # the signal came while another message was being written
            log.warning("Stopping after this step; once more stops at once.")

    for number in before:
        signal.signal(number, note)
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
