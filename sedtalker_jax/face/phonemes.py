"""Phoneme mnemonics of espeak-ng's English voices (and common IPA letters) and the visemes that show them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType


@dataclass(frozen=True)
class Phoneme:
    """One sound. symbol: espeak-ng mnemonic; times in seconds; stress: 0 none, 1 primary, 2 secondary."""

    symbol: str
    start_s: float
    end_s: float
    stress: int = 0


REST = ("rest",)
VOWELS = frozenset({"IY", "IH", "EH", "AE", "AA", "AO", "OW", "UW", "UU", "UH", "ER"})
"""Visemes of vowels."""
_TABLE: dict[tuple[str, ...], str] = {
    ("PP",): "p b m m- p# b# pp",
    ("FF",): "f v f# v# ɱ",
    ("TH",): "T D D# θ ð",
    ("DD",): "t d n t2 t# d# n- n#  ɾ t[ d[ n[ n^ ɲ tt",
    ("SS",): "s z s# z# ts dz s2 z2",
    ("SH",): "S Z tS dZ S# Z# tS# C ʃ ʒ tʃ dʒ ɕ ç",
    ("KK",): "k g N k# g# x Q N- ŋ ɡ ɣ kk ?",
    ("LL",): "l l# L l^ l- ɫ l2",
    ("RR",): "r r- R r# r/ ɹ ɻ r2",
    ("WW",): "w w# hw ʍ",
    ("IY",): "i i: j i2 iː j#",
    ("IH",): "I I2 I# ɪ I: i# I2# y Y",
    ("EH",): "e E e: E2 E# ɛ e# E: eː",
    ("AE",): "a aa a2 a# æ & a: aa:",
    ("AA",): "A A: A# A@ AA ɑ ɑː A2 A~ 0 ɒ 02 0#",
    ("AO",): "O O: O2 O# O@ ɔ ɔː o@ o: O~ W",
    ("OW",): "o o2 o#",
    ("UW",): "u u: u2 u# uː",
    ("UH",): "V V@ @ @2 @# @- ə ʌ V# V2 ɐ @: a@ @~ 8",
    ("ER",): "3 3: 3# @r ɜ ɜː ɝ ɚ VR V3 3r ɜ:",
    ("HH",): "h h# H ʔ h2",
    ("UU",): "U U# ʊ U2",
    # Diphthongs and vowels with a following r or l: one viseme after the other.
    ("EH", "IH"): "eI eɪ e2 ei EI",
    ("AA", "IH"): "aI aɪ aI2 ai",
    ("AO", "IH"): "OI ɔɪ oI",
    ("OW", "UW"): "oU oʊ oU# əʊ @U ou",
    ("AA", "UW"): "aU aʊ au",
    ("IH", "UH"): "i@ ɪə I@ iə",
    ("IH", "ER"): "i@3 I3 ɪɹ i3",
    ("EH", "UH"): "e@ eə E@ ɛə",
    ("EH", "ER"): "e@3 E3 ɛɹ",
    ("UW", "UH"): "U@ ʊə u@",
    ("UW", "ER"): "U@3 U3 ʊɹ",
    ("AA", "ER"): "A@3 A3 A:r ɑːɹ",
    ("AO", "ER"): "O@3 O3 o@3 o@r ɔːɹ",
    ("AA", "IH", "UH"): "aI@ aɪə",
    ("AA", "IH", "ER"): "aI3 aI@3 aɪɚ",
    ("AA", "UW", "UH"): "aU@ aʊə",
    ("AA", "UW", "ER"): "aU3 aU@3",
    ("UH", "LL"): "@L @5 əl",
    ("UH", "DD"): "@n",
    ("UH", "PP"): "@m",
    ("IY", "UW"): "ju: ju",
}
SILENCES = frozenset({"", "_", "_:", "__", "_!", "_|", "||", "sil", "SIL", "pau", "sp", "spn", "#", "|", "<p:>", "||_"})

VISEMES_OF: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {symbol: visemes for visemes, symbols in _TABLE.items() for symbol in symbols.split()}
)
"""Mnemonic -> its visemes, one after the other."""

_MARKS = "'ˈ,ˌ%=!\"`"


@lru_cache(maxsize=4096)
def visemes_of(symbol: str) -> tuple[str, ...]:
    """Visemes of a phoneme mnemonic, without its stress and length marks.

    A variant that is not in the table (a digit, #, -, ~ or ; at its end) counts as its base. A symbol that is unknown even then
    is shown as a schwa, and said so once per process.
    """
    plain = symbol.strip().strip(_MARKS).replace("ː", ":") if symbol else ""
    if plain in SILENCES:
        return REST
    candidate = plain
    while candidate:
        for form in (candidate, candidate.replace(":", "ː"), candidate.rstrip(":")):
            if form in VISEMES_OF:
                return VISEMES_OF[form]
        if candidate[-1] in "0123456789#-~;:*^/[.'" and len(candidate) > 1:
            candidate = candidate[:-1]
        else:
            break
    # Once per symbol and process, since answers are cached.
    warnings.warn(f"unknown phoneme '{symbol}' is shown as a schwa", stacklevel=2)
    return ("UH",)
