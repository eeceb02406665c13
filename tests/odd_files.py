"""Things that can lie in the place of a file, for the tests of reading."""

import os
import socket

ZERO = "/dev/zero"


def make(kind, path):
    """Put something at a path that is no regular file."""
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to(ZERO)
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to(path.with_name("nothing"))
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        here = os.getcwd()
        os.chdir(path.parent)  # the path of a socket may have 108 bytes
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
        os.chdir(here)


KINDS = {
    "pipe": "named pipe",
    "device": "device",
    "loop": "leads back to itself",
    "dangling": "no such file",
    "folder": "a folder",
    "socket": "socket",
}
