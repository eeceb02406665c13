"""Job 3: zero-shot evaluation: swap the language module under a task module, for each target language and control.

python pipelines/zero_shot.py configs/evaluate.yaml targets.swa=swa-test.conll targets.yor=yor-test.conll
"""

import argparse
import logging
import sys

from rich.console import Console

from madx import report
from madx.config import load
from madx.errors import MadxError
from madx.jobs import Evaluate, evaluate

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("config", help="settings file")
parser.add_argument(
    "overrides", nargs="*", metavar="key=value", help="settings that replace the file's, e.g. task_module=pos"
)
arguments = parser.parse_args()
logging.basicConfig(format="%(message)s")
logging.getLogger("madx").setLevel(logging.INFO)

try:
    settings = load(arguments.config, Evaluate, arguments.overrides)
    result = evaluate(settings)
except MadxError as error:
    sys.exit(f"Error: {error}")

Console(width=None if sys.stdout.isatty() else 200).print(report.to_rich(result.matrix))
for warning in result.matrix.warnings():
    print(warning, file=sys.stderr)
print("files:", *result.files)
