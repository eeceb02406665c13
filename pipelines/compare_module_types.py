"""Module types and baselines on five axes: storage, training memory, training compute, accuracy, inference overhead.

python pipelines/compare_module_types.py configs/compare.yaml language=eng data=train.conll dev=dev.conll
"""

import argparse
import logging
import sys

from rich.console import Console

from madx import report
from madx.config import load
from madx.errors import MadxError
from madx.jobs import Compare, compare

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("config", help="settings file")
parser.add_argument(
    "overrides", nargs="*", metavar="key=value", help="settings that replace the file's, e.g. seeds=[1,2]"
)
arguments = parser.parse_args()
logging.basicConfig(format="%(message)s")
logging.getLogger("madx").setLevel(logging.INFO)

try:
    settings = load(arguments.config, Compare, arguments.overrides)
    result = compare(settings)
except MadxError as error:
    sys.exit(f"Error: {error}")
except KeyboardInterrupt as stop:
    sys.exit(str(stop) or "stopped; the same command goes on from the last checkpoint")

Console(width=None if sys.stdout.isatty() else 200).print(report.to_rich(result.comparison))
print("files:", *result.files)
if result.comparison.failures():
    sys.exit("some candidates failed, see above")
