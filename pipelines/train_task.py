"""Recipe: train a task module on labelled sentences of a source language, above that language's frozen module.

    python pipelines/train_task.py configs/train_task.yaml language=eng data=train.conll dev=dev.conll

It trains the modules that `madx train-task` trains from the same settings, one for each seed, with every step in view:
copy the file and change what you need. `madx config train-task` prints all settings; those of several source languages
(`cycle`, lists of languages) are left to the command.
"""

import argparse
import logging
import sys

import torch

import madx
from madx.config import load, to_dict
from madx.data.labelled.labels import LabelSet, require
from madx.errors import ConfigError
from madx.jobs.common import is_main, open_training_base, run_folder, versions, weights_of
from madx.jobs.labelled import file_sha256, read_labelled, task_type
from madx.jobs.train_task.job import components_that_act
from madx.store import check_target
from madx.training import fit


def main(config: str, overrides: list[str]) -> None:
    # Settings: a YAML file, and single values of it from the command line.
    settings = load(config, madx.TrainTask, overrides)
    if not isinstance(settings.language, str) or settings.cycle:
        raise ConfigError("This recipe trains on one source language, without cycle; `madx train-task` takes several.")
    under = settings.module_of(settings.language)  # the language module, None for none
    store = madx.Store(settings.store)
    for name in settings.names().values():
        check_target(store.root / name, overwrite=settings.overwrite)  # now, not after hours of training

    # Data: sentences, and the labels of the training data, which the development data may not exceed.
    kind = task_type(settings.task)
    data, dev = (read_labelled(path, settings.columns, kind) for path in (settings.data, settings.dev))
    labels = kind.label_set(data, source=settings.data)
    require(labels, LabelSet.from_sentences(dev, source=settings.dev))

    # Build: the engine over the base, and the frozen language module on it.
    base, options = open_training_base(settings, settings.train, *components_that_act(settings))
    engine = madx.Engine(base)
    if under is not None:
        engine.attach(store.load(under, base))

    modules = []
    for seed, name in settings.names().items():
        torch.manual_seed(seed)
        module = madx.new_module(
            name,
            base,
            role="task",
            language=settings.language,
            components=settings.components,
            task=settings.task,
            labels=labels.tags,
            licence=settings.licence,
            pooling=settings.pooling,
        )
        engine.attach(module)
        engine.activate(f"{under} + {name}" if under else name)

        # Train: the head and the module's components; base and language module stay as they are.
        task = kind(
            base.tokenizer,
            labels,
            train=data,
            dev=dev,
            max_length=min(settings.max_length, base.max_tokens),
            batch_size=None if settings.tokens_per_batch else settings.batch_size,
            tokens_per_batch=settings.tokens_per_batch,
            micro_batch=settings.micro_batch,
            seed=seed,
        )
        steps = task.steps(settings.epochs)
        result = fit(
            engine,
            name,
            task,
            options,
            steps=steps,
            seed=seed,
            folder=run_folder(settings.run, f"train-task-{settings.name or settings.task}") / f"seed-{seed}",
            resume=settings.resume,
            run=settings.model_dump(exclude={"run", "store", "device", "resume", "overwrite", "train"}),
        )

        # The record of the training goes into module.json and the card.
        module.info.training = {
            "job": "pipelines/train_task.py",
            "settings": to_dict(settings),
            "data": [{"path": path, "sha256": file_sha256(path)} for path in (settings.data, settings.dev)],
            "seed": seed,
            "steps": steps,
            "composition": str(engine.composition),
            "language_module": weights_of(store, under) if under else None,
            "explanation": engine.explain().as_dict(),
            "versions": versions(),
            "scores": {"dev": result.best},
            "history": result.history,
        }
        engine.activate(None)
        modules.append(module)

    # Save: after the last seed, so that a stopped run can be given again.
    for module in modules if is_main() else ():
        folder = store.save(module, overwrite=settings.overwrite)
        scores = "  ".join(f"{key} {value:.1f}" for key, value in module.info.training["scores"]["dev"].items())
        print(f"{module.name}: on {settings.dev}: {scores}  stored in {folder}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="settings file")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="settings that replace the file's")
    arguments = parser.parse_args()
    logging.basicConfig(format="%(message)s")
    logging.getLogger("madx").setLevel(logging.INFO if is_main() else logging.ERROR)
    try:
        main(arguments.config, arguments.overrides)
    except madx.MadxError as error:
        sys.exit(f"Error: {error}")
    except KeyboardInterrupt as stop:
        sys.exit(str(stop) or "stopped; the same command goes on from the last checkpoint")
