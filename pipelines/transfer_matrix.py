"""Recipe: all of MAD-X in one file, from raw text of several languages to a matrix of zero-shot scores.

    python pipelines/transfer_matrix.py --base xlm-roberta-base --source eng --train train.conll --dev dev.conll \\
        --text eng=eng.txt --text swa=swa.txt --test swa=swa-test.conll

A language module for every text, one task module over the source language's, every target scored under four controls.
Modules that the store holds are used as they are. `madx matrix` does this for many sources, tasks and module types
from one settings file, and trains anew what other settings or data would make another module.
"""

import argparse
import logging
import sys
from pathlib import Path

from rich.console import Console

import madx
from madx import report
from madx.cli.options import pairs
from madx.jobs.common import is_main


def main(arguments: argparse.Namespace) -> None:
    # Settings: LANGUAGE=PATH of texts and test sets; the rest are those of the MAD-X recipe.
    texts, tests = pairs(arguments.text, "--text"), pairs(arguments.test, "--test")
    language = {"components": arguments.language_components, "seed": arguments.seeds[0]}
    language |= {"steps": arguments.steps} if arguments.steps else {}
    task = {"components": arguments.task_components, "seeds": arguments.seeds, "epochs": arguments.epochs}

    # Build: a base and a store.
    t = madx.Transfer(arguments.base, store=arguments.store)

    # Train: a language module for each text, then the task module over that of the source.
    for code, path in texts.items():
        if code not in t.store.names():
            trained = t.train_language(code, path, **language)
            before, after = trained.before["perplexity"], trained.after["perplexity"]
            print(f"{code}: held-out pseudo-perplexity {before:,.2f} without its module, {after:,.2f} with it")
    names = [f"{arguments.task}@{seed}" for seed in arguments.seeds] if len(arguments.seeds) > 1 else [arguments.task]
    if not set(names) <= set(t.store.names()):
        t.train_task(arguments.task, language=arguments.source, train=arguments.train, dev=arguments.dev, **task)

    # Swap: the task module, trained in one language, over the module of each target.
    if is_main():
        result = t.evaluate(tests, task=arguments.task, run=str(Path(arguments.store).parent / "results"))
        Console(width=None if sys.stdout.isatty() else 200).print(report.to_rich(result.matrix))
        print("files:", *result.files)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", required=True, help="folder or id of the frozen base")
    parser.add_argument("--store", default="modules", help="folder of modules")
    parser.add_argument("--source", required=True, help="language of the labelled training data")
    parser.add_argument("--text", action="append", required=True, metavar="LANGUAGE=PATH", help="raw text; repeatable")
    parser.add_argument("--task", default="ner", help="one of `madx tasks`")
    parser.add_argument("--train", required=True, help="labelled training data")
    parser.add_argument("--dev", required=True, help="labelled development data")
    parser.add_argument("--test", action="append", required=True, metavar="LANGUAGE=PATH", help="test data; repeatable")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="seeds of the task module")
    parser.add_argument("--steps", type=int, help="optimiser steps of a language module; else by corpus size")
    parser.add_argument("--epochs", type=int, default=100, help="passes over the labelled data")
    parser.add_argument("--language-components", default="madx", help="preset of the language modules")
    parser.add_argument("--task-components", default="pfeiffer", help="preset of the task module")
    logging.basicConfig(format="%(message)s")
    logging.getLogger("madx").setLevel(logging.INFO if is_main() else logging.ERROR)
    try:
        main(parser.parse_args())
    except madx.MadxError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt as stop:
        sys.exit(str(stop) or "stopped; the same command goes on from the last checkpoint")
