"""Who judges which concept."""



from efface.families import judges
from efface.testing import tiny_images


def test_a_judge_knows_the_concept_by_a_word_of_it():
    found = tiny_images.judges()
    named = {name.removeprefix("judge/"): judge for name, judge in found.items()}
    assert judges.asked(("a cat",), named) == ("object", 0)
    assert judges.asked(("glossy style",), named) == ("style", 1)
