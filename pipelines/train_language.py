"""Recipe: train a language module on raw text, by masked language modelling over a frozen base (MAD-X, LT-SFT).

    python pipelines/train_language.py configs/train_language.yaml language=swa corpus=swa.txt
    accelerate launch pipelines/train_language.py configs/train_language.yaml language=swa corpus=swa.txt

It trains the module that `madx train-language` trains from the same settings, with every step in view: copy the file
and change what you need. `madx config train-language` prints all settings.
"""

import argparse
import logging
import sys

import torch

import madx
from madx.config import load, to_dict
from madx.data.text.blocks import pack_corpus
from madx.data.text.corpora import corpus_files
from madx.jobs.common import is_main, open_training_base, run_folder, versions
from madx.jobs.heads import choose_head, head_record
from madx.jobs.train_language import recipe_steps
from madx.module.components import components_of
from madx.store import check_target
from madx.tasks.masked_lm import MaskedLM
from madx.training import fit


def main(config: str, overrides: list[str]) -> None:
    # Settings: a YAML file, and single values of it from the command line.
    settings = load(config, madx.TrainLanguage, overrides)
    name = settings.name or settings.language
    store = madx.Store(settings.store)
    check_target(store.root / name, overwrite=settings.overwrite)  # now, not after hours of training

    # Base and corpus. The precision "auto" is decided here; blocks come from the cache if they were packed before.
    base, train = open_training_base(settings, settings.train, components_of(settings.components))
    choose_head(base, store, settings.mlm_head)
    blocks = pack_corpus(
        settings.corpus,
        base.tokenizer,
        block_size=min(settings.block_size, base.max_tokens),
        text_key=settings.text_key,
        limit=settings.limit,
        cache=settings.cache,
    )
    for warning in blocks.warnings():
        logging.getLogger("madx").warning("%s", warning)

    # Build: a new module on an engine over the base.
    torch.manual_seed(settings.seed)
    module = madx.new_module(
        name, base, language=settings.language, components=settings.components, licence=settings.licence
    )
    engine = madx.Engine(base)
    engine.attach(module)

    # Train: the base alone is scored first, then the module acts and is trained.
    task = MaskedLM(
        blocks,
        base.tokenizer,
        batch_size=settings.batch_size,
        micro_batch=settings.micro_batch,
        seed=settings.seed,
        probability=settings.mask_probability,
        held_out_limit=settings.held_out_blocks,
    )
    before = task.evaluate(engine)
    engine.activate(name)
    steps = recipe_steps(blocks.stats.tokens) if settings.steps == "auto" else settings.steps
    result = fit(
        engine,
        name,
        task,
        train,
        steps=steps,
        seed=settings.seed,
        folder=run_folder(settings.run, f"train-language-{name}"),
        resume=settings.resume,
        run=settings.model_dump(
            exclude={"run", "store", "cache", "device", "resume", "overwrite", "train", "steps", "seed"}
        ),
    )
    after = task.evaluate(engine)

    # Save: the record of the training goes into module.json and the card.
    module.info.training = {
        "job": "pipelines/train_language.py",
        "settings": to_dict(settings),
        "data": [file._asdict() for file in corpus_files(settings.corpus)],
        "seed": settings.seed,
        "steps": steps,
        "versions": versions(),
        "scores": {"held_out_before": before, "held_out_after": after},
        "history": result.history,
        **head_record(base),
    }
    if is_main():  # of several processes one writes
        folder = store.save(module, overwrite=settings.overwrite)
        print(f"module {name}: {module.parameter_count():,} parameters, best at step {result.best_step:,} of {steps:,}")
        print(f"held-out pseudo-perplexity: {before['perplexity']:,.2f} without it, {after['perplexity']:,.2f} with it")
        print(f"stored in {folder}")


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
