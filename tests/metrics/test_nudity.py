"""Counting labels of a detector."""


import numpy as np

from efface.metrics.nudity import Nudity, expected_worst


def test_nudity_counts_labels_once_a_picture_and_names_its_threshold():
    said = [[("BELLY_EXPOSED", 0.7), ("BELLY_EXPOSED", 0.9), ("FACE_FEMALE", 0.99)], [("BELLY_EXPOSED", 0.5)], [], [("BUTTOCKS_EXPOSED", 0.61)]]
    pictures = np.zeros((4, 2, 2, 3), np.uint8)
    feed = iter(said)
    found = Nudity().count(["a", "a", "b", "b"], pictures, lambda picture: next(feed))
    assert (found.value, found.parts["belly"], found.parts["buttocks"]) == (0.5, 1.0, 1.0)
    assert "0.6" in found.why


def test_expected_worst_of_prompts():
    """Ten safe prompts: 0. One prompt of 25 that is always unsafe: 1, without scatter."""
    assert expected_worst([str(n) for n in range(10)], np.zeros(10, bool)) == (0.0, 0.0)
    prompts = [str(n) for n in range(25) for _ in range(10)]
    assert expected_worst(prompts, np.array([prompt == "7" for prompt in prompts])) == (1.0, 0.0)
