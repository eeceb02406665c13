"""Words of running text in many scripts, and their agreement with the tokens of labelled sets."""

import logging
import re
import sys
import time
from types import ModuleType

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from madx.data import segmentation
from madx.data import words as rule
from madx.data.inspect.overlap import SentenceIndex
from madx.data.labelled.conll import read_conll
from madx.data.labelled.sentences import Sentence
from madx.data.words import count_words, is_tokenised, letter_words, letters, word_spans, words
from madx.data.world import languages, sentences
from madx.metrics.language_similarity import ngrams, similarities

#: text with a bar wherever it is cut, blanks between words left out
CUT = {
    "Yoruba, composed": "Adébáyọ̀ ń gbé ní Ọ̀yọ́-Ilé|.",
    "Yoruba, decomposed": "Ade\u0301ba\u0301yo\u0323\u0300 n\u0301 gbe\u0301 ni\u0301 O\u0323\u0300yo\u0323\u0301|.",
    "Hausa": "‘Yan sanda|, ‘yan majalisa da ʼyaʼya|.",
    "Swahili": "Ng'ombe wa Juma Ali|, Dar-es-Salaam|.",
    "isiZulu": "uMongameli wase-Afrika|, i-ANC",
    "Hindi": "नरेन्द्र दिल्ली|, में रहते हैं।".replace("हैं।", "हैं|।"),
    "Hindi, joiner": "क्\u200dष अमेरि\u200dका",
    "Tamil": "தமிழ்நாட்டில்|, சென்னை|.",
    "Malayalam, joiner at the end": "അവന്\u200d വന്നു|.",
    "Persian": "علی می\u200cخواهد|، به تهران|.",
    "Arabic with vowels": "مُحَمَّدٌ يَعِيشُ فِي القَاهِرَةِ|؟",
    "Hebrew with points": 'שָׁלוֹם עוֹלָם|, צה"ל',
    "Amharic": "አዲስ አበባ|፣ ኢትዮጵያ|። ፪ኛ",
    "Amharic, old style": "ሰላም፡ለዓለም|።",
    "Tibetan": "བོད་ཡིག",
    "Georgian, Armenian": "თბილისი|, Երևան|։",
    "Korean": "서울에서|, 왔다|.",
    "beyond the first plane": "𐐀𐐁𐐂 𝒳𝓎|, 𞤀𞤁𞤂",
    "emoji": "👩\u200d👩\u200d👧\u200d👦 👍🏽|👍🏽 🇰🇪|🇹🇿|! 1\ufe0f\u20e3",
    "apostrophes": "don't can’t O'Brien l’ami| |'|word|' Farmers' Union '68",
    "abbreviations": "U.S. and J. K. Rowling|, e.g. J.R.R. Tolkien|, a.m.",
    "Nepali abbreviation": "ने.क.पा. का नेता|।",
    "numbers": "3.5|% 1,000.5 12:30 01/24/2001 m² |$|10 US$|20 Nr.1|.",
    "addresses": "https://x.org/a?b=c&d|, juma.ali@example.org|, @juma_1 #tag|.",
    "signs": "|(|wow|)|!!! ... he|?! :-) R&B AT&T a_b",
    "quotes": '|“|Habari|”|, |"|Juma|"|.',
    "signs without a shape": "\ufeffJuma \u200fשלום\u200f\u200b|x\u00ady\u2028z\u00a0w",
    "a mark without its letter": "a \u0323e\u0301 b",
    "joiners without a letter": "a \u200c b \u200dc\u200c",
    "nothing": " \t\u3000\u200b\ufeff \u200d ",
}


@pytest.mark.parametrize("text", CUT.values(), ids=list(CUT))
def test_words_keep_their_marks_and_joiners(text):
    unseen = re.compile("^[\u200c\u200d\u200f\ufeff]|\u200f$")
    separators = r"[\s\u200b|]+|(?<=ም)፡|(?<=ད)་"
    wanted = [w for w in (unseen.sub("", part) for part in re.split(separators, text)) if w]
    given_text = text.replace("|", "")
    assert list(words(given_text)) == wanted
    assert [given_text[start:end] for start, end in word_spans(given_text)] == wanted


@given(st.text(max_size=60))
def test_any_text_is_cut_into_its_visible_characters_in_order(text):
    places = word_spans(text)
    assert all(start < end for start, end in places) and all(a[1] <= b[0] for a, b in zip(places, places[1:]))
    inside = {i for start, end in places for i in range(start, end)}
    left = [c for i, c in enumerate(text) if i not in inside]
    assert not regex.search(r"[^\s\p{Z}\p{Cc}\p{Cf}፡་]", "".join(left)), "nothing that can be seen is left out"


# ---- tokenised lines -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "Dr. Juma Ali , Wizara ya Afya ( WHO ) , l' Eko .",
        '""" Ndiyo """ , alisema Rais .',
        "bzw. 20. Mai , Thutmosis' III. Sohn .",
        "रा.प्र.पा. भन्छन्- ने. का. ।",
        "茩asar Wa蓷anda , ku蓷in .",
        "Hip- Nollywood , http://a.b/c... :D .",
    ],
)
def test_a_line_that_is_tokenised_is_cut_by_spaces_alone(line):
    assert is_tokenised(line) and list(words(line)) == line.split()


@pytest.mark.parametrize(
    "line",
    [
        "Juma Ali , anaishi Nairobi.",  # a comma by mistake
        "Juma anaishi Nairobi. Anasoma , Ali .",
        "Comment ça va ? Bien ! « Oui » : non ;",  # French
        'The song " Lonely " is by Rosenrot.',
        "Juma (Nairobi) . Kenya",
        "ሰላም፡ለዓለም። ሰላም ፡፡",
        "no sign at all",
        "",
    ],
)
def test_other_lines_are_cut_by_the_rule(line):
    assert not is_tokenised(line)
    assert not any(w.endswith(("robi.", "rot.", "bi)")) for w in words(line))


#: set -> the least share of sentences whose joined tokens are cut again as they were
LEAST = {
    "fin-tdt": 0.975,  # numbers with a space inside, "110 000", are one token there
    "yor-ytb": 0.975,  # 7 of 317 sentences have tokens such as "OYIN,"
}


@pytest.mark.slow
def test_joined_tokens_of_labelled_sets_are_cut_again_as_they_were(shared, monkeypatch):
    monkeypatch.setattr(segmentation, "_segmenter", lambda: None)
    low = []
    for file in sorted(shared.glob("data/*/*/test.conll")):
        if file.parts[-3] not in ("ner", "pos", "scripts"):
            continue
        gold = read_conll(file, scheme="none")[::4]
        agreed = sum(words(" ".join(s.tokens)) == s.tokens for s in gold) / len(gold)
        if agreed < LEAST.get(file.parts[-2], 0.99):
            low.append((file.parts[-2], file.name, agreed))
    assert not low


def test_the_synthetic_world_has_the_words_of_the_rule():
    for language in languages():
        for sentence in sentences(language, split="dev", count=30, seed=1):
            assert words(sentence.text) == sentence.tokens


# ---- scripts without spaces ------------------------------------------------------------------------------------------

UNSPACED = {
    "Thai": ("สมชายอยู่ที่เชียงใหม่", "สมชาย อยู่ ที่ เชียงใหม่"),
    "Lao": ("ຂ້ອຍຮັກພາສາລາວ", "ຂ້ອຍ ຮັກ ພາສາ ລາວ"),
    "Khmer": ("ខ្ញុំស្រលាញ់ភាសាខ្មែរ", "ខ្ញុំ ស្រលាញ់ ភាសាខ្មែរ"),
    "Burmese": ("ကျွန်တော်မြန်မာစာဖတ်တယ်", "ကျွန်တော် မြန်မာ စာ ဖတ် တယ်"),
    "Chinese": ("我住在北京市。", "我 住在 北京市 。"),
    "Japanese": ("さくらは𠮷野家、ABC社2024年", "さくら は 𠮷 野家 、 ABC 社 2024 年"),
}


@pytest.fixture
def fresh(monkeypatch):
    """Caches of the rule as in a new process, before and after."""

    def clear():
        rule._remembered_cut.cache_clear()
        segmentation._report.cache_clear()
        segmentation._segmenter.cache_clear()

    clear()
    yield monkeypatch
    monkeypatch.undo()
    clear()


@pytest.mark.parametrize("script", UNSPACED)
def test_without_a_segmenter_text_is_cut_by_character_with_one_notice(script, fresh, caplog):
    fresh.setitem(sys.modules, "icu4py.breakers", None)
    text = UNSPACED[script][0]
    with caplog.at_level(logging.WARNING, "madx"):
        found = words(text) + words(text + " ")
    assert "".join(found) == 2 * text
    assert all(not re.match("[\u0e31\u0e34-\u0e3a\u0eb1\u102b-\u103e\u17b6-\u17d3]", word) for word in found), (
        "no bare mark"
    )
    assert len(caplog.messages) == 1
    assert script in caplog.text and "pip install 'madx[segmentation]'" in caplog.text


def test_katakana_words_stay_whole_without_a_segmenter(fresh):
    fresh.setitem(sys.modules, "icu4py.breakers", None)
    assert words("東京タワーへ") == ("東", "京", "タワー", "へ")


@pytest.mark.parametrize("script", UNSPACED)
def test_icu_cuts_scripts_without_spaces(script, fresh):
    pytest.importorskip("icu4py.breakers")
    text, wanted = UNSPACED[script]
    assert list(words(text)) == wanted.split()
    assert [text[start:end] for start, end in word_spans(text)] == wanted.split()
    assert count_words(text) == len([word for word in wanted.split() if word not in "。、ABC2024"])


def test_a_segmenter_is_asked_for_stretches_of_its_scripts_alone(fresh):
    asked = []

    class WordBreaker:
        def __init__(self, text, locale):
            asked.append(text)

        def __iter__(self):
            return iter([asked[-1][:2], asked[-1][2:], ""])

    breakers = ModuleType("icu4py.breakers")
    breakers.WordBreaker = WordBreaker
    fresh.setitem(sys.modules, "icu4py.breakers", breakers)
    assert words("Juma, ขอบคุณครับ ABC田中さん.") == ("Juma", ",", "ขอ", "บคุณครับ", "ABC", "田中", "さん", ".")
    assert asked == ["ขอบคุณครับ", "田中さん"]
    assert word_spans("田中さん x", segmented=False) == [(0, 4), (5, 6)]


def test_words_of_a_corpus_are_counted_by_spaces_or_by_the_segmenter(fresh):
    fresh.setitem(sys.modules, "icu4py.breakers", None)
    assert count_words("Juma, ‘yan ... Ọ̀yọ́ .") == 5 and count_words("") == 0
    assert count_words("北京 2024 東京A") == 5


# ---- letters ---------------------------------------------------------------------------------------------------------


def test_letters_keep_their_marks():
    assert letters("Ọ̀yọ́, 3!") == letters("O\u0323\u0300YO\u0323\u0301 3") != letters("Oyo 3")
    assert letters("की का") == "कीका" and letters("می\u200cخواهد") == letters("میخواهد")
    assert letter_words("Ọ̀yọ́-Ilé क्\u200dष 3a_b") == ["ọ̀yọ́", "ilé", "क्ष", "a", "b"]


def test_overlap_does_not_take_words_with_other_marks_for_the_same():
    gold = Sentence(tuple("की दिल्ली में रहते हैं नरेन्द्र मोदी और राम".split()), ())
    other = "का दिल्ली में रहते हैं नरेन्द्र मोदी और राम"
    index = SentenceIndex({"test": [gold]})
    index.look(other)
    assert index.seen("text")[0].found == 0
    index.look("1. की दिल्ली, में रहते हैं: नरेन्द्र मोदी और राम।")
    assert index.seen("text")[0].found == 1


def test_ngrams_are_those_of_words_in_either_normal_form():
    assert list(ngrams(["O\u0323\u0300yo\u0323\u0301"])) == list(ngrams(["Ọ̀yọ́"]))
    found = similarities({"a": ["Ade\u0301 ni\u0301 Osu\u0301"], "b": ["Adé ní Osú"]})
    assert found.values["a"]["b"] == 1


# ---- bounds ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unit", ["a", "'", "a.", "\u0301", "ก", "a-", "@", "www.", "( ", "'a ", "a&", "1/", "A. ", "。", "👍", "a@"]
)
def test_long_lines_take_linear_time(unit):
    """Work in the square of the length would take minutes here."""
    text = "x" + unit * (40_000 // len(unit)) + "@"
    begun = time.process_time()
    assert word_spans(text) and count_words(text)
    assert time.process_time() - begun < 3
