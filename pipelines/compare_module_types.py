"""Recipe: train the same task with several module types, and set score against size and time.

    python pipelines/compare_module_types.py --base xlm-roberta-base --language eng --train train.conll --dev dev.conll
    \\
        --components head_only bitfit pfeiffer houlsby --epochs 3

One task module for each preset and seed, under the same data and steps. `madx compare` measures more: memory and
operations of training and the overhead of inference, in processes of their own and rounds by turns, with baselines of
fine-tuning.
"""

import argparse
import logging
import sys
from statistics import fmean

from rich.console import Console
from rich.table import Table

import madx
from madx.cli.options import pairs
from madx.jobs.labelled import task_type


def main(arguments: argparse.Namespace) -> None:
    # Settings: all presets are trained alike but for the learning rate, which each may have of its own (PRESET=RATE).
    rates = pairs(arguments.rate, "--rate", "PRESET=RATE")
    shared = {"language_module": arguments.language_module, "seeds": arguments.seeds, "epochs": arguments.epochs}
    metric = task_type(arguments.task).metric

    # Build: a base and a store.
    t = madx.Transfer(arguments.base, store=arguments.store)
    table = Table("components", "parameters", "bytes stored", f"{metric}, mean of seeds", "seconds a seed")

    # Train: the modules stay in the store, as TASK-PRESET@SEED.
    for preset in arguments.components:
        name = f"{arguments.task}-{preset}"
        result = t.train_task(
            arguments.task,
            language=arguments.language,
            train=arguments.train,
            dev=arguments.dev,
            name=name,
            components=preset,
            learning_rate=float(rates.get(preset, arguments.learning_rate)),
            overwrite=True,
            **shared,
        )
        first = result.modules[0]
        table.add_row(
            preset,
            f"{first.parameter_count():,}",
            f"{t.store.show(first.name).bytes:,}",
            f"{fmean(run.best[metric] for run in result.training):.1f}",
            f"{fmean(run.seconds for run in result.training):,.0f}",
        )

    Console(width=None if sys.stdout.isatty() else 200).print(table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder or id of the frozen base")
    parser.add_argument("--store", default="modules", help="folder of modules")
    parser.add_argument("--language", required=True, help="language of the labelled data")
    parser.add_argument("--language-module", help="stored language module under all task modules")
    parser.add_argument("--task", default="ner", help="one of `madx tasks`")
    parser.add_argument("--train", required=True, help="labelled training data")
    parser.add_argument("--dev", required=True, help="labelled development data, which is scored")
    parser.add_argument("--components", nargs="+", default=["head_only", "pfeiffer", "houlsby"], help="presets")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="seeds of the task modules")
    parser.add_argument("--epochs", type=int, default=3, help="passes over the labelled data")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of all presets but those of --rate")
    parser.add_argument("--rate", action="append", default=[], metavar="PRESET=RATE", help="of one preset; repeatable")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("madx").setLevel(logging.INFO)
    try:
        main(parser.parse_args())
    except madx.MadxError as error:
        sys.exit(f"Error: {error}")
