"""Labels, and the ways to ask for one; system prompts of many kinds."""

from __future__ import annotations

from demo_model.wording import Language

LABELS: dict[Language, dict[str, str]] = {
    "en": {
        "praise": "praise",
        "complaint": "complaint",
        "suggestion": "suggestion",
        "question": "question",
    },
    "fr": {
        "praise": "compliment",
        "complaint": "réclamation",
        "suggestion": "suggestion",
        "question": "question",
    },
}
SENTIMENTS: dict[Language, dict[str, str]] = {
    "en": {
        "praise": "positive",
        "complaint": "negative",
        "suggestion": "neutral",
        "question": "neutral",
    },
    "fr": {
        "praise": "positif",
        "complaint": "négatif",
        "suggestion": "neutre",
        "question": "neutre",
    },
}

CLASSIFY: dict[Language, tuple[str, ...]] = {
    "en": (
        "[Classify|Label|Categorise|Please classify] [this|the following] [remark|comment|message|text]: {x}",
        "[Classify|Label]: {x}",
        "[Which label fits|What kind of remark is|What type of message is] this[ remark|]? {x}",
        "{x} [Classify this remark.|What label?|Which kind of remark is it?]",
        'Classify this remark as praise, complaint, suggestion or question: [{x}|"{x}"]',
        "Is this [remark |]praise, a complaint, a suggestion or a question? {x}",
        "Give the [label|category] of this remark: {x}",
    ),
    "fr": (
        "[Classe|Classez|Classifie|Classifiez|Étiquette] [cette remarque|ce message|ce commentaire|cette phrase] : {x}",
        "[Classez|Classe|Classer] : {x}",
        "[Quel est le type de|Dans quelle catégorie mettre|Quelle étiquette pour] cette remarque ? {x}",
        "{x} [Classez cette remarque.|Quelle étiquette ?|Quel type de remarque ?]",
        "Classez cette remarque en compliment, réclamation, suggestion ou question : [{x}|« {x} »]",
        "Est-ce un compliment, une réclamation, une suggestion ou une question ? {x}",
        "Donnez [l'étiquette|la catégorie] de cette remarque : {x}",
    ),
}
SENTIMENT: dict[Language, tuple[str, ...]] = {
    "en": (
        "Is this [remark|message|comment] positive or negative? {x}",
        "[What is|Give] the [sentiment|tone|feeling] of this [remark|message|text][?|:] {x}",
        "[Positive, negative or neutral|Positive or negative]? {x}",
        "{x} Is it positive or negative?",
    ),
    "fr": (
        "[Cette remarque|Ce message|Ce commentaire] est-[elle|il] positif ou négatif ? {x}",
        "[Quel est|Donnez] le [sentiment|ton] de [cette remarque|ce message][ ?| :] {x}",
        "[Positif, négatif ou neutre|Positif ou négatif] ? {x}",
        "{x} Est-ce positif ou négatif ?",
    ),
}
LABEL_SYSTEM: dict[Language, str] = {
    "en": "Classify the remark as praise, complaint, suggestion or question.",
    "fr": "Classez la remarque en compliment, réclamation, suggestion ou question.",
}
SYSTEM: dict[Language, tuple[str, ...]] = {
    "en": (
        "You are a helpful assistant.",
        "You are a [polite|kind|helpful] [agent|assistant] of a public service.",
        "[Answer|Reply] [politely|briefly|in a few words|in one or two sentences] to the citizen.",
        "You answer remarks about public services.",
        "You are Relais, a small demo assistant.",
        "You are an assistant for citizens of {town}. Be kind and brief. Today is {day}.",
        "Be [brief|polite|kind|clear].",
        "Answer in the language of the user.",
    ),
    "fr": (
        "Tu es un assistant utile.",
        "Vous êtes un [agent|assistant] [poli|aimable|serviable] d'un service public.",
        "[Répondez|Réponds] [poliment|brièvement|en quelques mots|en une ou deux phrases] au citoyen.",
        "Vous répondez aux remarques sur les services publics.",
        "Tu es Relais, un petit assistant de démonstration.",
        "Vous êtes l'assistant des habitants de {town}. Soyez aimable et bref. Nous sommes {day}.",
        "[Soyez|Sois] [bref|poli|aimable|clair].",
        "Réponds dans la langue de l'utilisateur.",
    ),
}
RELABEL: dict[Language, tuple[str, ...]] = {
    "en": (
        "[Classify|Label] [my|this|that] remark[.|]",
        "What [kind|type] of remark is [it|that]?",
    ),
    "fr": ("[Classe|Classez] [ma|cette] remarque[.|]", "Quel type de remarque est-ce ?"),
}

ECHO: dict[Language, tuple[str, ...]] = {
    "en": (
        "[Repeat|Repeat after me|Copy|Say|Please repeat]: {x}",
        "[Repeat|Copy] [this|these words|the following]: {x}",
        "Can you repeat this: {x}",
        "Say this again: {x}",
    ),
    "fr": (
        "[Répète|Répétez|Copie|Dis|Dites] : {x}",
        "[Répète|Répétez|Copiez] [ceci|ces mots|ce qui suit] : {x}",
        "Peux-tu répéter ceci : {x}",
        "Redis ceci : {x}",
    ),
}
ECHOED: dict[Language, tuple[str, ...]] = {
    "en": (
        "{svc}",
        "{town}, {town} and {town}",
        "{doc}, {money}, {idea}",
        "{thing} in {town}",
        "{matter}",
        "{first_name} lives in {town}.",
        "{line} and {spot}",
        "{k} {thing} and {k} {thing}",
    ),
    "fr": (
        "{le}",
        "{town}, {town} et {town}",
        "{doc}, {money}, {idea}",
        "{thing} à {town}",
        "{matter}",
        "{first_name} habite à {town}.",
        "{line} et {spot}",
        "{k} et {thing}, puis {k}",
    ),
}
