"""Thirty prompts written by hand, apart from the templates, with what a fitting answer must contain.

They are the nearest thing here to a stranger's first message. They were written after the templates,
and the templates were not changed to suit them: keep it so, or write new ones.
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
        "We sat in the emergency room for five hours before anyone looked at my daughter's arm.",
        "en",
        (("emergency room",), ("sorry",), ("wait",)),
    ),
    Probe(
        "I sent off for a new passport in spring and it is still not here.",
        "en",
        (("passport",), ("sorry",), ("delay", "waiting")),
    ),
    Probe(
        "Huge thanks to the midwives at the maternity ward, they were wonderful.",
        "en",
        (("maternity ward",), ("kind words", "well received", "positive", "satisfied")),
    ),
    Probe(
        "The library closes just when I get out of work.",
        "en",
        (("library",), ("opening hours",)),
    ),
    Probe(
        "I can't pay my council tax online, the page just spins.",
        "en",
        (("website", "online", "tax"), ("sorry", "taxes")),
    ),
    Probe("There's a massive pothole on Baker Street.", "en", (("pothole",), ("Baker Street",))),
    Probe(
        "Please put some benches outside the town hall.",
        "en",
        (("town hall",), ("benches",)),
    ),
    Probe("The 42 bus never turns up on time.", "en", (("bus",), ("sorry",))),
    Probe(
        "My housing benefit was stopped without any warning.",
        "en",
        (("housing benefit",), ("sorry",)),
    ),
    Probe(
        "What do I need to bring to get a driving licence?",
        "en",
        (("driving licence",), ("photo",)),
    ),
    Probe("Good morning! What exactly are you?", "en", (("demo model of Relais",),)),
    Probe("which city is the capital of spain", "en", (("capital of Spain is Madrid",),)),
    Probe(
        "Could you recommend a good novel for the summer?",
        "en",
        (("tiny demo model",), ("only answer",)),
    ),
    Probe(
        "Is the following remark a complaint or praise? The clerk at the post office was lovely.",
        "en",
        (("praise",),),
    ),
    Probe(
        "Write a letter to the school about the broken heating.",
        "en",
        (("Dear Sir or Madam",), ("heating",)),
    ),
    Probe(
        "On a patienté quatre heures à l'hôpital de Vannes avec un bébé.",
        "fr",
        (("hôpital de Vannes",), ("désolé",), ("attente", "attendu")),
    ),
    Probe(
        "Ma demande de passeport date de juin et je n'ai rien reçu.",
        "fr",
        (("passeport",), ("désolé",), ("retard", "attendiez")),
    ),
    Probe(
        "La bibliothécaire de Pontivy est un amour, merci à elle !",
        "fr",
        (("mots aimables", "mots si aimables", "bien reçu", "positif", "satisfait"),),
    ),
    Probe(
        "Impossible de joindre la préfecture, ça sonne toujours occupé.",
        "fr",
        (("préfecture",), ("téléphone", "appels")),
    ),
    Probe(
        "Le formulaire de la CAF est un vrai casse-tête.",
        "fr",
        (("CAF",), ("formulaires", "démarches")),
    ),
    Probe(
        "Il faudrait un distributeur de boissons à la gare.",
        "fr",
        (("gare",), ("idée", "proposer"), ("distributeur",)),
    ),
    Probe(
        "les toilettes de la piscine étaient répugnantes",
        "fr",
        (("piscine",), ("propres", "état")),
    ),
    Probe(
        "Notre rue n'est plus éclairée depuis une semaine.",
        "fr",
        (("rue",), ("signalé", "prévenus", "voirie")),
    ),
    Probe("Le train de 7 h 12 est encore supprimé !", "fr", (("train",), ("désolé",))),
    Probe("Comment faire refaire ma carte vitale ?", "fr", (("carte vitale",), ("demande",))),
    Probe("Coucou, tu es quoi exactement ?", "fr", (("modèle de démonstration de Relais",),)),
    Probe(
        "C'est quoi la capitale du Portugal, déjà ?",
        "fr",
        (("capitale du Portugal est Lisbonne",),),
    ),
    Probe(
        "Tu peux m'aider à réviser mon bac de philo ?",
        "fr",
        (("tout petit modèle",), ("ne peux répondre",)),
    ),
    Probe(
        "Classez cette remarque : ce serait chouette d'ouvrir la mairie le dimanche",
        "fr",
        (("suggestion",),),
    ),
    Probe(
        "Rédigez une lettre à la mairie au sujet des moustiques.",
        "fr",
        (("Madame, Monsieur",), ("moustiques",)),
    ),
)
