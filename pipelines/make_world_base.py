"""Make the base of the miniature world, `madx/data/world/base`: tokenizer, initial vectors, a masked language model.

    python pipelines/make_world_base.py --out madx/data/world/base

The tokenizer (SentencePiece unigram, in the id order of XLM-R) and the initial word vectors come from a little text of
all seven languages, 10,000 sentences each; the masked LM sees only `PRETRAINED`, half of its steps blocks, a quarter
single sentences, a quarter pairs of translations (TLM: Conneau & Lample 2019, arXiv:1901.07291). Three things let so
small a base learn in minutes: word vectors from co-occurrence (PPMI, then SVD: Levy & Goldberg 2014) as initial
embeddings, log frequencies as the decoder's initial bias, and no dropout. At the end the vectors of pieces that the
masked LM never met follow those it did meet (`carry_along`). The text has all frames, as a language has, and names of
the training split only.
"""

import argparse
import io
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.linalg import svds
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaForMaskedLM

from madx.data.world import PRETRAINED, languages, parallel, sentences
from madx.data.world.grammar import NAME_LISTS, stock

FEW = 50  # occurrences in 240,000 sentences
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]  # ids 0-3 in XLM-R; <mask> comes last


def text_of(code: str, count: int, seed: int) -> list[str]:
    """Sentences of a language; every second one with blanks around its punctuation, as labelled data has it."""
    made = sentences(code, split="text", count=count, seed=seed)
    return [s.text if i % 2 else " ".join(s.tokens) for i, s in enumerate(made)]


def nameless(code: str, count: int, rng: random.Random) -> list[str]:
    """Sentences whose names give way to one-off coinages: a tokenizer for many names has no piece for a whole one."""
    halves, lines = [half for key in NAME_LISTS for half in stock(key)], []
    for sentence in sentences(code, split="text", count=count, seed=1):
        words = list(sentence.tokens)
        for i, tag in enumerate(sentence.tags):
            if tag != "O" and words[i][0].isupper() and rng.random() < 0.8:
                _, apostrophe, ending = words[i].partition("'")
                words[i] = rng.choice(halves)[0] + rng.choice(halves)[1] + apostrophe + ending
        # SentencePiece takes a string as a candidate only if more than one character can follow it: without this,
        # a word that always stands before a blank ("from") could never become a piece
        lines.append(" ".join(word + rng.choice(["", "", *",;:!?”"]) for word in words))
    return lines


def make_tokenizer(folder: Path, text: list[str], *, pieces: int, characters: str) -> PreTrainedTokenizerFast:
    """Train the SentencePiece model, which knows all `characters`, and write its two files; gives the tokenizer."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_writer=model,
        vocab_size=pieces,
        model_type="unigram",
        required_chars=characters,
        normalization_rule_name="nfkc",
        character_coverage=1.0,
        num_threads=2,
        minloglevel=2,
    )
    (folder / "sentencepiece.bpe.model").write_bytes(model.getvalue())
    spm = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    vocabulary = [(token, 0.0) for token in SPECIAL]
    vocabulary += [(spm.id_to_piece(i), spm.get_score(i)) for i in range(3, spm.get_piece_size())] + [("<mask>", 0.0)]
    fast = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    fast.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    fast.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    fast.decoder = decoders.Metaspace()
    fast.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        cls_token="<s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_max_length=128,
    )
    wrapped.save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("backend", None)
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"  # a name that transformers 4 and 5 both know
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=1) + "\n")
    return wrapped


def word_vectors(documents: list[list[int]], *, size: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """(size, width) vectors U sqrt(S) of the positive PMI of pieces that share a document, and (size,) counts."""
    flat = np.concatenate([np.array(row) for row in documents])
    rows = np.repeat(np.arange(len(documents)), [len(row) for row in documents])
    present = coo_matrix((np.ones(len(flat)), (rows, flat)), shape=(len(documents), size)).tocsr()
    present.data[:] = 1.0
    counts = (present.T @ present).tocoo()
    share = np.asarray(counts.sum(axis=1)).ravel()
    context = share**0.75 / (share**0.75).sum()  # smoothed, so that rare contexts do not win
    pmi = np.log(counts.data / (share[counts.row] * context[counts.col] + 1e-12))
    kept = pmi > 0
    positive = coo_matrix((pmi[kept], (counts.row[kept], counts.col[kept])), shape=(size, size)).tocsr()
    left_vectors, values, _ = svds(positive, k=width, random_state=0)
    return left_vectors * np.sqrt(values), np.bincount(flat, minlength=size)


def make_model(tokenizer, documents: list[list[int]], args) -> XLMRobertaForMaskedLM:
    """A small XLM-R with the word vectors as embeddings and the log frequencies as the decoder's bias."""
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=args.width,
        num_hidden_layers=args.layers,
        num_attention_heads=4,
        intermediate_size=args.inner,
        max_position_embeddings=130,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=1,
        bos_token_id=0,
        eos_token_id=2,
    )
    model = XLMRobertaForMaskedLM(config)
    vectors, counts = word_vectors(documents, size=len(tokenizer), width=args.width)
    seen = counts > 0
    scale = args.scale / vectors[seen].std()
    with torch.no_grad():
        words = model.roberta.embeddings.word_embeddings.weight
        words[torch.from_numpy(seen)] = torch.from_numpy(vectors[seen] * scale).float()
        model.lm_head.bias.copy_(torch.from_numpy(np.log((counts + 0.5) / (counts + 0.5).sum())).float())
    return model


def batches(rows: list[list[int]], tuples: list[tuple], *, tokens: int, steps: int, rng: random.Random):
    """`steps` batches of ids, of three kinds by turns: single sentences, pairs of translations, blocks of sentences."""
    place = 0
    for step in range(steps):
        made, budget = [], tokens
        while budget > 0:
            if step % 4 == 1:
                one, other = rng.sample(tuples[rng.randrange(len(tuples))], 2)
                line = [0, *one, 2, *other, 2]
            else:
                wanted, line = (2, 64)[step % 4 // 2], [0]
                while len(line) < wanted:
                    line += [*rows[place % len(rows)], 2]
                    place += 1
                line = line[:64] if wanted == 64 else line
            made.append(line[:128])
            budget -= len(made[-1])
        longest = max(map(len, made))
        yield torch.tensor([line + [1] * (longest - len(line)) for line in made])


def mask(ids: torch.Tensor, vocabulary: int, *, rate: float = 0.15) -> tuple[torch.Tensor, torch.Tensor]:
    """Mask ids `(batch, tokens)` anew in each step: 60 % <mask>, 20 % random, 20 % kept, so that visible pieces learn
    their context, too. Gives the input ids and the masked places (bool), both `(batch, tokens)`."""
    chance, kind = torch.rand(ids.shape), torch.rand(ids.shape)
    places = (chance < rate) & (ids > 3)
    noisy = torch.where(places & (kind < 0.6), vocabulary - 1, ids)
    return torch.where(places & (kind >= 0.8), torch.randint(4, vocabulary - 1, ids.shape), noisy), places


def train(model, rows: list[list[int]], tuples: list[tuple], args) -> None:
    """Adam on the masked-LM loss, at masked places only; linear warm-up, cosine decay."""
    matrices = [p for p in model.parameters() if p.dim() > 1]
    rest = [p for p in model.parameters() if p.dim() <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": rest, "weight_decay": 0.0}]
    optimizer, started, mean = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.98)), time.time(), None
    model.lm_head.bias.requires_grad_(False)  # else it learns that the words of unseen languages never occur
    model.train()
    made = batches(rows, tuples, tokens=args.tokens, steps=args.steps, rng=random.Random(args.seed))
    for step, ids in enumerate(made):
        rate = min(1.0, (step + 1) / 200) * (0.05 + 0.475 * (1 + math.cos(math.pi * step / args.steps)))
        for group in optimizer.param_groups:
            group["lr"] = args.lr * rate
        noisy, places = mask(ids, model.config.vocab_size)
        states = model.roberta(noisy, attention_mask=(ids != 1).long()).last_hidden_state[places]
        loss = torch.nn.functional.cross_entropy(model.lm_head(states), ids[places])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 200 == 0 or step == args.steps - 1:
            print(f"step {step:6d}  loss {mean:.3f}  {time.time() - started:6.0f} s", flush=True)
    model.eval()


def carry_along(words: torch.Tensor, before: torch.Tensor, heard: np.ndarray, placed: np.ndarray) -> int:
    """Put the vectors of pieces that training hardly saw where training would have moved them; gives their number.

    words, before: (size, width) vectors after and before training; heard: (size,) occurrences in the training text;
    placed: (size,) whether a piece has a vector from co-occurrence. The softmax only ever pushes the vectors of unmet
    pieces away, all of them into one direction, where a language module cannot tell them apart. Instead: the linear
    map (ridge regression with an offset) from the vectors before to those after, learnt from the pieces that were seen.
    """
    met, unmet = heard >= FEW, (heard < FEW) & placed
    one = torch.cat([before, torch.ones(len(before), 1)], dim=1).double()
    gram = one[met].T @ one[met]
    gram += 0.01 * gram.trace() / len(gram) * torch.eye(len(gram))
    words[torch.from_numpy(unmet)] = (one[unmet] @ torch.linalg.solve(gram, one[met].T @ words[met].double())).float()
    return int(unmet.sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the base")
    for name, default in {
        "pieces": 3500,
        "width": 128,
        "inner": 512,
        "layers": 3,
        "steps": 7000,
        "tokens": 2048,
        "lines": 60000,
        "unseen-lines": 10000,
        "seed": 0,
        "threads": 1,
    }.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--scale", type=float, default=0.05, help="standard deviation of the initial embeddings")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    counts, rng = {c: 10000 if c in PRETRAINED else args.unseen_lines for c in languages()}, random.Random(args.seed)
    mixed = [t for c in counts for t in text_of(c, counts[c], seed=1)]
    names_gone = [t for c in counts for t in nameless(c, counts[c], rng)]
    characters = "".join(sorted(set("".join(mixed)) - {" "}))  # some stand only in names
    tokenizer = make_tokenizer(args.out, names_gone, pieces=args.pieces, characters=characters)
    text = [line for code in PRETRAINED for line in text_of(code, args.lines, seed=2)]
    random.Random(args.seed).shuffle(text)

    def ids(lines: list[str]) -> list[list[int]]:
        return tokenizer(lines, add_special_tokens=False)["input_ids"]

    said = list(parallel(list(PRETRAINED), split="text", count=args.lines, seed=3))
    tuples = list(zip(*(ids([one[i].text for one in said]) for i in range(len(PRETRAINED)))))
    together = [[piece for row in four for piece in row] for four in tuples[:20000]]  # translations: one document
    rows, model = ids(text), make_model(tokenizer, ids(mixed) + together, args)
    print(
        f"{sum(p.numel() for p in model.parameters()):,} parameters, {len(tokenizer)} pieces, {len(rows):,} sentences"
    )
    words = model.roberta.embeddings.word_embeddings.weight.data
    before, size = words.clone(), len(tokenizer)
    train(model, rows, tuples, args)
    heard, placed = (np.bincount(np.concatenate(texts), minlength=size) for texts in (rows, ids(mixed) + together))
    moved = carry_along(words, before, heard, placed > 0)
    print(f"{moved} pieces carried along", flush=True)
    model.half().save_pretrained(args.out)
    made = {
        "languages": PRETRAINED,
        "data": "synthetic: the miniature world of madx",
        **vars(args),
        "out": args.out.name,
    }
    (args.out / "made.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
