"""Plurals to singulars by Harman's S-stemmer (1991): a query in the singular ("board game") must find a text in the plural.     Stdlib only."""

import re


def singular(word: str) -> str:
    """The first rule whose ending fits decides, and may decide to leave the word as it is."""
    if len(word) < 3 or not word.endswith("s"):
        return word
    if word.endswith("ies"):
        return word if word[-4:-3] in ("e", "a") else word[:-3] + "y"
    if word.endswith("es"):
        return word if word[-3:-2] in ("a", "e", "o") else word[:-1]
    return word if word[-2] in ("u", "s") else word[:-1]


def in_singular(text: str) -> str:
    """Lower-cased, every word by itself."""
    return re.sub(r"\w+", lambda found: singular(found.group()), text.lower())
