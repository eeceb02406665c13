"""Text -> token ids, in the same way for language modules and for tasks.

Text is data: a `</s>` that is typed in a corpus does not end a sentence. Unigram vocabularies hold their special tokens
as ordinary pieces, so any special id that text gives is replaced by the unknown token.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from madx.errors import BaseError

if TYPE_CHECKING:
    from transformers import BatchEncoding, PreTrainedTokenizerBase


class Frame(NamedTuple):
    """The ids around a sequence (`start` text `end`), and the unknown id, None where the vocabulary has none."""

    start: int
    end: int
    unknown: int | None


def frame_of(tokenizer: PreTrainedTokenizerBase) -> Frame:
    """Return `<s> ... </s>` for RoBERTa, `[CLS] ... [SEP]` for BERT; bos and eos where cls and sep are absent.

    Raises BaseError for a tokenizer with neither pair.
    """
    start = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
    end = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
    if start is None or end is None:
        raise BaseError(
            f"The tokenizer {type(tokenizer).__name__} has no pair of tokens around a sequence: it needs cls and sep, "
            "or bos and eos. Set them when the tokenizer is loaded, for example cls_token='<s>', sep_token='</s>'."
        )
    return Frame(start, end, tokenizer.unk_token_id)


def text_ids(tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> list[list[int]]:
    """Return the ids of each text, without the frame and however long it is.

    A special id other than the unknown one becomes the unknown id; it stays where the vocabulary has no unknown token.
    """
    return _without_special(tokenizer, _encode(tokenizer, texts, offsets=False)["input_ids"])


def text_ids_with_offsets(
    tokenizer: PreTrainedTokenizerBase, texts: list[str]
) -> tuple[list[list[int]], list[list[tuple[int, int]]]]:
    """Return the ids of each text, as `text_ids` does, and the (start, end) of each piece in characters."""
    encoded = _encode(tokenizer, texts, offsets=True)
    return _without_special(tokenizer, encoded["input_ids"]), encoded["offset_mapping"]


def _encode(tokenizer: PreTrainedTokenizerBase, texts: list[str], *, offsets: bool) -> BatchEncoding:
    return tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        return_offsets_mapping=offsets,
        truncation=False,
        padding=False,
        split_special_tokens=True,
        verbose=False,  # no warning about texts longer than the maximum: they are cut into blocks or windows later
    )


def _without_special(tokenizer: PreTrainedTokenizerBase, rows: list[list[int]]) -> list[list[int]]:
    unknown = tokenizer.unk_token_id
    special = set() if unknown is None else set(tokenizer.all_special_ids) - {unknown}
    return [row if special.isdisjoint(row) else [unknown if i in special else i for i in row] for row in rows]
