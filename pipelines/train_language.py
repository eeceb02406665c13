"""Job 1: raw text of one language -> a language module in the store.

    python pipelines/train_language.py configs/train_language.yaml language=swa corpus=swa.txt

With several GPUs: accelerate launch pipelines/train_language.py configs/train_language.yaml language=swa corpus=swa.txt
"""

import argparse
import logging
import sys

from madx.config import load
from madx.errors import MadxError
from madx.jobs import TrainLanguage, train_language
from madx.jobs.common import is_main

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("config", help="settings file")
parser.add_argument(
    "overrides", nargs="*", metavar="key=value", help="settings that replace the file's, e.g. train.learning_rate=2e-4"
)
arguments = parser.parse_args()
logging.basicConfig(format="%(message)s")
logging.getLogger("madx").setLevel(logging.INFO if is_main() else logging.ERROR)

try:
    settings = load(arguments.config, TrainLanguage, arguments.overrides)
    result = train_language(settings)
except MadxError as error:
    sys.exit(f"Error: {error}")
except KeyboardInterrupt as stop:
    sys.exit(str(stop) or "stopped; the same command goes on from the last checkpoint")

if is_main():
    before, after = result.before["perplexity"], result.after["perplexity"]
    print(f"module {result.module.name}: {result.module.parameter_count():,} parameters")
    print(f"best at step {result.training.best_step:,} of {result.training.steps:,}")
    print(f"held-out pseudo-perplexity: {before:,.2f} without it, {after:,.2f} with it")
    print(f"stored in {result.folder}")
