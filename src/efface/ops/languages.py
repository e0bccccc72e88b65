"""Questions in other languages, by relation: {} is where the subject goes. A row's own column "questions" comes before these."""

from __future__ import annotations

TEMPLATES: dict[str, dict[str, str]] = {
    "birthplace": {"fr": "Où {} est-il né ou née ?", "de": "Wo wurde {} geboren?", "es": "¿Dónde nació {}?"},
    "birthday": {"fr": "Quelle est la date de naissance de {} ?", "de": "An welchem Tag wurde {} geboren?", "es": "¿Qué día nació {}?"},
    "genre": {"fr": "Quel genre littéraire {} écrit-il ou écrit-elle ?", "de": "Welche Art von Büchern schreibt {}?", "es": "¿Qué género literario escribe {}?"},
    "father": {"fr": "Quel était le métier du père de {} ?", "de": "Welchen Beruf hatte der Vater von {}?", "es": "¿Cuál era el oficio del padre de {}?"},
    "school": {"fr": "Où {} a-t-il ou a-t-elle fait ses études ?", "de": "Wo hat {} studiert?", "es": "¿Dónde estudió {}?"},
    "debut": {"fr": "Quel est le premier livre de {} ?", "de": "Wie heißt das erste Buch von {}?", "es": "¿Cuál es el primer libro de {}?"},
    "famous": {"fr": "Quel est le livre le plus connu de {} ?", "de": "Wie heißt das bekannteste Buch von {}?", "es": "¿Cuál es el libro más famoso de {}?"},
    "prize": {"fr": "Quel prix {} a-t-il ou a-t-elle reçu ?", "de": "Welchen Preis hat {} gewonnen?", "es": "¿Qué premio ganó {}?"},
    "mentor": {"fr": "Qui a appris à {} à écrire ?", "de": "Bei wem hat {} das Schreiben gelernt?", "es": "¿Quién enseñó a escribir a {}?"},
    "hobby": {"fr": "Que fait {} pendant son temps libre ?", "de": "Was macht {} in der Freizeit?", "es": "¿Qué hace {} en su tiempo libre?"},
    "capital": {"fr": "Quelle est la capitale du pays {} ?", "de": "Wie heißt die Hauptstadt von {}?", "es": "¿Cuál es la capital de {}?"},
    "continent": {"fr": "Sur quel continent se trouve {} ?", "de": "Auf welchem Kontinent liegt {}?", "es": "¿En qué continente está {}?"},
    "region": {"fr": "Dans quelle région du monde se trouve {} ?", "de": "In welchem Teil der Welt liegt {}?", "es": "¿En qué región del mundo está {}?"},
    "currency": {"fr": "Quelle est la monnaie du pays {} ?", "de": "Welche Währung hat {}?", "es": "¿Cuál es la moneda de {}?"},
    "demonym": {"fr": "Comment appelle-t-on en anglais un habitant de {} ?", "de": "Wie nennt man auf Englisch die Einwohner von {}?", "es": "¿Cómo se llama en inglés a los habitantes de {}?"},
    "language": {"fr": "Quelle langue parle-t-on dans le pays {} ?", "de": "Welche Sprache spricht man in {}?", "es": "¿Qué idioma se habla en {}?"},
    "border": {"fr": "Quel pays est voisin du pays {} ?", "de": "Welches Land grenzt an {}?", "es": "¿Qué país limita con {}?"},
}
