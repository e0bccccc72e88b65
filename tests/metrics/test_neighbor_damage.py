"""Neighbors, found and measured."""



from efface.metrics.neighbor_damage import NeighborDamage
from efface.testing import tiny_images
from efface.testing.stand_ins import Painter, context


def test_neighbors_are_found_by_name_first_and_their_damage_shows():
    broken = Painter(lambda thing, style: (2 if thing == 1 else thing, style))  # dogs, the neighbors, come out as boats
    metric = NeighborDamage.set({"prompts": 2, "each": 1})
    found = metric.run(broken, tiny_images.request(), context(original=Painter()))
    assert (found.value, found.parts["far"]) == (0.0, 1.0)
    assert [row["prompt"].split()[1] for row in found.table] == ["dog", "dog"]
