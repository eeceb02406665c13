"""Job 2: labelled sentences of the source language -> a task module for each seed, above the frozen language module.

python pipelines/train_task.py configs/train_task.yaml language=eng data=train.conll dev=dev.conll
"""

import argparse
import logging
import sys

from madx.config import load
from madx.errors import MadxError
from madx.jobs import TrainTask, train_task
from madx.jobs.common import is_main
from madx.tasks import TASKS

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("config", help="settings file")
parser.add_argument(
    "overrides", nargs="*", metavar="key=value", help="settings that replace the file's, e.g. seeds=[1,2]"
)
arguments = parser.parse_args()
logging.basicConfig(format="%(message)s")
logging.getLogger("madx").setLevel(logging.INFO if is_main() else logging.ERROR)

try:
    settings = load(arguments.config, TrainTask, arguments.overrides)
    result = train_task(settings)
except MadxError as error:
    sys.exit(f"Error: {error}")
except KeyboardInterrupt as stop:
    sys.exit(str(stop) or "stopped; the same command goes on from the last checkpoint")

if is_main():
    for module, trained, folder in zip(result.modules, result.training, result.folders):
        scores = "  ".join(f"{name} {value:.1f}" for name, value in trained.best.items())
        print(f"{module.name}: best at step {trained.best_step:,}: {scores}  stored in {folder}")
    print(f"on {settings.dev}: {result.summary(TASKS.get(settings.task).metric)}")
