"""A whole transfer matrix from one settings file: sources x targets x tasks x module types x seeds; what is stored is reused.

python pipelines/transfer_matrix.py configs/matrix.yaml seeds=[1,2]
"""

import argparse
import logging
import sys

from rich.console import Console

from madx import report
from madx.config import load
from madx.errors import MadxError
from madx.jobs import Matrix, matrix
from madx.jobs.common import is_main

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("config", help="settings file")
parser.add_argument(
    "overrides", nargs="*", metavar="key=value", help="settings that replace the file's, e.g. seeds=[1,2]"
)
arguments = parser.parse_args()
logging.basicConfig(format="%(message)s")
logging.getLogger("madx").setLevel(logging.INFO if is_main() else logging.ERROR)

try:
    settings = load(arguments.config, Matrix, arguments.overrides)
    result = matrix(settings)
except MadxError as error:
    sys.exit(f"Error: {error}")
except KeyboardInterrupt as stop:
    sys.exit(str(stop) or "stopped; the same command goes on from the last checkpoint")

if is_main():
    Console(width=None if sys.stdout.isatty() else 200).print(report.to_rich(result.matrices))
    print("files:", *result.files)
if result.failures:
    sys.exit(f"{len(result.failures)} failed; the same command tries these again")
