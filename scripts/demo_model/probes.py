"""Thirty prompts written by hand, apart from the templates, with what a fitting answer must contain.

They are the nearest thing here to a stranger's first message. Nothing in training is made from them.
"""

from __future__ import annotations

from dataclasses import dataclass

from demo_model.noise import folded
from demo_model.wording import Language


@dataclass(frozen=True)
class Probe:
    """A prompt, its language, and words of which the answer must contain one from each group."""

    prompt: str
    language: Language
    wanted: tuple[tuple[str, ...], ...]

    def fits(self, answer: str) -> bool:
        """Whether each group of wanted words is met, whatever the accents and capitals."""
        text = f" {folded(answer)} "
        return all(any(folded(word) in text for word in group) for group in self.wanted)


PROBES: tuple[Probe, ...] = (
    Probe(
        "I stood two hours in the queue at the town hall today.",
        "en",
        (("town hall",), ("wait", "queue")),
    ),
    Probe(
        "My passport application was made in March and I have heard nothing since.",
        "en",
        (("passport",), ("sorry",)),
    ),
    Probe(
        "The nurses at the hospital were angels, please tell them.",
        "en",
        (("hospital",), ("kind words", "well received", "positive", "satisfied")),
    ),
    Probe(
        "Why is the tax office shut on Friday afternoons?",
        "en",
        (("tax office",), ("hours", "closed")),
    ),
    Probe(
        "the website of the health insurance keeps logging me out",
        "en",
        (("health insurance",), ("website", "account")),
    ),
    Probe(
        "Could the library stay open a bit later during exams?",
        "en",
        (("library",), ("hours", "open")),
    ),
    Probe("The postman threw my parcel over the fence.", "en", (("mail", "parcel"), ("sorry",))),
    Probe(
        "I lost my driving licence on holiday, what should I do?",
        "en",
        (("driving licence",), ("report", "new one")),
    ),
    Probe("Hello, who are you?", "en", (("demo model of Relais",),)),
    Probe("Hey! How's life?", "en", (("I am well",),)),
    Probe("What is the capital of France?", "en", (("paris",),)),
    Probe("How many days are there in one week?", "en", (("seven",),)),
    Probe("Please write a haiku about my goldfish", "en", (("tiny demo model",),)),
    Probe("Which phone should I buy, Android or Apple?", "en", (("tiny demo model",),)),
    Probe(
        "Classify this remark: nobody at the job centre ever calls me back", "en", (("complaint",),)
    ),
    Probe(
        "J'ai poireauté deux heures à la mairie ce matin !",
        "fr",
        (("mairie",), ("attente", "attendu")),
    ),
    Probe(
        "Toujours aucune trace de ma carte d'identité, demandée en avril.",
        "fr",
        (("carte d'identité",), ("désolé",)),
    ),
    Probe(
        "Bravo aux infirmières de l'hôpital, elles sont extraordinaires.",
        "fr",
        (("hôpital",), ("mots si aimables", "bien reçu", "positif", "satisfait")),
    ),
    Probe(
        "Pourquoi le centre des impôts ferme-t-il le vendredi après-midi ?",
        "fr",
        (("impôts",), ("horaires", "close")),
    ),
    Probe("le site de la caf bugue sans arret", "fr", (("caf",), ("site",))),
    Probe(
        "Pourriez-vous laisser la bibliothèque ouverte plus longtemps en juin ?",
        "fr",
        (("bibliothèque",), ("horaires", "ouverture")),
    ),
    Probe(
        "Le facteur a jeté mon colis par-dessus le portail.",
        "fr",
        (("courrier", "colis"), ("désolé",)),
    ),
    Probe(
        "On m'a volé mon permis de conduire à la plage, que dois-je faire ?",
        "fr",
        (("permis",), ("déclarez", "demande")),
    ),
    Probe("Bonjour, vous êtes qui au juste ?", "fr", (("modèle de démonstration de Relais",),)),
    Probe("Salut, la pêche ?", "fr", (("je vais bien",),)),
    Probe("Dis, quelle est la capitale de l'Italie ?", "fr", (("rome",),)),
    Probe("Il y a combien de mois dans l'année ?", "fr", (("douze",),)),
    Probe("Écris un sonnet sur mon poisson rouge", "fr", (("tout petit modèle",),)),
    Probe(
        "Classez cette remarque : l'équipe de la piscine est vraiment au top",
        "fr",
        (("compliment",),),
    ),
    Probe(
        "La dame de l'accueil à la préfecture m'a envoyé promener.",
        "fr",
        (("préfecture",), ("respect", "accueil", "expérience")),
    ),
)
