"""Questions in other languages."""

from efface.ops.languages import TEMPLATES


def test_every_template_has_one_place_for_the_subject():
    for relation, texts in TEMPLATES.items():
        assert set(texts) == {"fr", "de", "es"}, relation
        assert all(text.count("{}") == 1 for text in texts.values()), relation
