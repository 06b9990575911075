"""Long answers: a citizen's letter to a service, and a service's detailed reply.

They are long so that a stream is seen to run; each sentence is chosen by the kind of remark.
"""

from __future__ import annotations

from demo_model.wording import Language

REQUESTS: dict[Language, tuple[str, ...]] = {
    "en": (
        "[Write|Draft|Compose] [a|me a] [short |formal |polite |long |]letter to {svc} about {about}.",
        "[Can|Could] you write [a|me a] letter to {svc} about {about}?",
        "[I need|I want|I would like] a [formal |]letter to {svc} about {about}[, please|].",
        "Letter to {svc}: {about}",
        "[Help me|Please help me] to write to {svc} about {about}.",
    ),
    "fr": (
        "[Écrivez|Écris|Rédigez|Rédige|Écris-moi] une lettre [courte |polie |longue |]{au} au sujet de ceci : {about}.",
        "[Pouvez-vous|Peux-tu] [écrire|rédiger] [une lettre|un courrier] {au} sur {about} ?",
        "[Il me faut|Je veux|Je voudrais] une lettre {au} concernant {about}[, s'il vous plaît|].",
        "Lettre {au} : {about}",
        "[Aidez-moi|Aide-moi] à écrire {au} à propos de ceci : {about}.",
    ),
}
PLAIN_REQUESTS: dict[Language, tuple[str, ...]] = {
    "en": (
        "[Write|Draft|Compose] [a|me a] [short |formal |polite |long |]letter about {about}.",
        "[Can|Could] you write [a|me a] [complaint |]letter about {about}?",
        "[I need|I want|I would like] a [formal |]letter about {about}[, please|].",
        "[Help me|Please help me] to write a letter about {about}.",
    ),
    "fr": (
        "[Écrivez|Écris|Rédigez|Rédige|Écris-moi] une lettre [courte |polie |longue |]sur {about}.",
        "[Pouvez-vous|Peux-tu] [écrire|rédiger] [une lettre|un courrier] sur {about} ?",
        "[Il me faut|Je veux|Je voudrais] une lettre concernant {about}[, s'il vous plaît|].",
        "[Aidez-moi|Aide-moi] à écrire une lettre sur {about}.",
    ),
}
DETAILED: dict[Language, tuple[str, ...]] = {
    "en": (
        "[Write|Give|Draft] a [detailed|long|full] [answer|reply] to this remark: {x}",
        "[Answer|Reply to] this remark [in detail|at length|with a letter]: {x}",
        "[Detailed answer|Long answer|Long reply], please: {x}",
        "{x} [Please answer in detail.|Answer me with a letter.|I want a long answer.]",
        "Write a letter in answer to this: {x}",
    ),
    "fr": (
        "[Écrivez|Écris|Rédigez|Donnez] une réponse [détaillée|longue|complète] à cette remarque : {x}",
        "[Répondez|Réponds] [en détail|longuement|par une lettre] à cette remarque : {x}",
        "[Réponse détaillée|Réponse longue], s'il vous plaît : {x}",
        "{x} [Répondez en détail.|Répondez-moi par une lettre.|Je veux une longue réponse.]",
        "Écrivez une lettre en réponse à ceci : {x}",
    ),
}
_CITIZEN: dict[Language, dict[str, str]] = {
    "en": {
        "praise": "I was very pleased, and I wanted to say so, because people too rarely write when all goes well. "
        "The people who work there took time for me and did their work with care. "
        "Please pass on my thanks to each of them; they deserve it.",
        "complaint": "This has caused me real trouble, and I am surely not the only one in this situation. "
        "I know that the people who work there do their best, but it cannot go on like this. "
        "I would be grateful if you could look into it and tell me what you intend to do.",
        "suggestion": "I believe that it would be a great help to many, above all to families and to the elderly. "
        "It would not cost much, and the service would become easier for everyone. "
        "I would be happy to speak about it with you if that can be of use.",
    },
    "fr": {
        "praise": "J'ai été très content, et je voulais vous le dire, car on écrit trop rarement quand tout va bien. "
        "Les personnes qui y travaillent ont pris du temps pour moi et ont fait leur travail avec soin. "
        "Merci de transmettre mes remerciements à chacune d'elles ; elles le méritent.",
        "complaint": "Cela m'a causé de vraies difficultés, et je ne suis sûrement pas le seul dans cette situation. "
        "Je sais que les personnes qui y travaillent font de leur mieux, mais cela ne peut pas durer. "
        "Je vous serais reconnaissant d'examiner ce point et de me dire ce que vous comptez faire.",
        "suggestion": "Je crois que cela aiderait beaucoup de monde, surtout les familles et les personnes âgées. "
        "Cela ne coûterait pas cher, et le service deviendrait plus simple pour tous. "
        "Je serais heureux d'en parler avec vous si cela peut être utile.",
    },
}
_REPLY: dict[Language, dict[str, str]] = {
    "en": {
        "praise": "Behind each desk there are people who try to do their work well, and a kind word helps them. "
        "Your letter will be read to the whole team at its next meeting.",
        "complaint": "We know how unpleasant this is, and you have every right to expect better from us. "
        "The person in charge will look at what happened and at what can be changed. "
        "If your case is urgent, please call us or come to the desk with your file number.",
        "suggestion": "The best ideas often come from the people who use the service each day. "
        "We will look at the cost and at the time it would take, and we will tell you what was decided.",
    },
    "fr": {
        "praise": "Derrière chaque guichet, des personnes essaient de bien faire leur travail, et un mot aimable les "
        "encourage. Votre lettre sera lue à toute l'équipe lors de sa prochaine réunion.",
        "complaint": "Nous savons combien cela est désagréable, et vous avez le droit d'attendre mieux de nous. "
        "La personne responsable examinera ce qui s'est passé et ce qui peut être changé. "
        "Si votre cas est urgent, appelez-nous ou venez au guichet avec votre numéro de dossier.",
        "suggestion": "Les meilleures idées viennent souvent des personnes qui utilisent le service chaque jour. "
        "Nous examinerons le coût et le temps nécessaire, et nous vous dirons ce qui a été décidé.",
    },
}


def _kind(kind: str) -> str:
    return kind if kind in _REPLY["en"] else "complaint"


def from_citizen(language: Language, kind: str, about: str) -> str:
    """A letter from a citizen to a service."""
    body = _CITIZEN[language][_kind(kind)]
    if language == "en":
        return (
            f"Dear Sir or Madam,\n\nI am writing to you about {about}. {body}\n\n"
            "Thank you in advance for your answer.\n\nYours faithfully,\nA citizen"
        )
    return (
        f"Madame, Monsieur,\n\nJe vous écris au sujet de ceci : {about}. {body}\n\n"
        "Je vous remercie d'avance de votre réponse.\n\nVeuillez agréer mes salutations distinguées.\nUn citoyen"
    )


def from_service(language: Language, kind: str, answer: str) -> str:
    """A service's detailed reply, built around the short answer to the same remark."""
    body = _REPLY[language][_kind(kind)]
    if language == "en":
        return (
            f"Dear citizen,\n\nWe have read your message with attention. {answer}\n\n{body}\n\n"
            "Yours sincerely,\nYour public service"
        )
    return (
        f"Bonjour,\n\nNous avons lu votre message avec attention. {answer}\n\n{body}\n\n"
        "Bien cordialement,\nVotre service public"
    )
