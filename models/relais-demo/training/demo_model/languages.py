"""Tell the two languages apart; kept free of torch, so that tests load it quickly."""

from __future__ import annotations

import re

from demo_model.wording import Language

_FRENCH = {
    "je",
    "vous",
    "nous",
    "le",
    "la",
    "les",
    "des",
    "du",
    "une",
    "votre",
    "est",
    "sont",
    "pas",
    "avec",
    "pour",
    "sur",
    "dans",
    "merci",
    "désolé",
    "que",
    "qui",
    "et",
    "au",
    "aux",
    "il",
    "elle",
}
_ENGLISH = {
    "i",
    "you",
    "we",
    "the",
    "your",
    "is",
    "are",
    "not",
    "with",
    "for",
    "on",
    "in",
    "thank",
    "sorry",
    "that",
    "who",
    "and",
    "at",
    "it",
    "of",
    "to",
    "this",
    "was",
    "will",
    "please",
}


def guess_language(text: str) -> Language | None:
    """Tell French from English by small words; None when neither wins (a bare label, a name)."""
    words = re.findall(r"[^\W\d_]+", text.lower())
    french, english = (
        sum(word in _FRENCH for word in words),
        sum(word in _ENGLISH for word in words),
    )
    if french == english:
        return None
    return "fr" if french > english else "en"
