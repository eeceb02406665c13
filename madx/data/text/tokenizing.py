"""Plain text -> token ids, the same way for language modules and tasks.

Text is data: `</s>` typed in a corpus is not the end of a sentence. Unigram vocabularies hold their special tokens as
ordinary pieces, so whatever special id comes out of text is replaced by the unknown token.
"""

from typing import NamedTuple

from madx.errors import BaseError


class Frame(NamedTuple):
    """The ids around and inside a sequence: `start` text `end`; `unknown` is None where the vocabulary has none."""

    start: int
    end: int
    unknown: int | None


def frame_of(tokenizer) -> Frame:
    """`<s> ... </s>` of RoBERTa, `[CLS] ... [SEP]` of BERT; bos and eos where cls and sep are absent.

    Raises BaseError for a tokenizer with neither pair.
    """
    start = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
    end = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
    if start is None or end is None:
        raise BaseError(
            f"the tokenizer {type(tokenizer).__name__} has no pair of tokens around a sequence: it needs cls and sep, "
            "or bos and eos. Set them when the tokenizer is loaded, for example cls_token='<s>', sep_token='</s>'."
        )
    return Frame(start, end, tokenizer.unk_token_id)


def text_ids(tokenizer, texts: list[str], *, offsets: bool = False):
    """Ids of each text without the frame, never cut; with `offsets` also each piece's (start, end) in characters.

    A special id other than unknown becomes unknown (is left in place where the vocabulary has no unknown token).
    """
    # verbose=False: text is cut into blocks or windows later, so "longer than the maximum" would be a false alarm.
    coded = tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=offsets,
        truncation=False,
        padding=False,
        split_special_tokens=True,
        verbose=False,
    )
    unknown = tokenizer.unk_token_id
    special = set() if unknown is None else set(tokenizer.all_special_ids) - {unknown}
    rows = [
        row if special.isdisjoint(row) else [unknown if i in special else i for i in row] for row in coded["input_ids"]
    ]
    return (rows, coded["offset_mapping"]) if offsets else rows
