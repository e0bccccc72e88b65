"""Digests depend on what they promise and no more."""

import hashlib

import numpy as np
import torch

from efface.core import digest


def test_canonical_json_by_hand():
    """{"a":1,"b":[null,"e"]} with sorted keys and no spaces is what is hashed."""
    assert digest.of_value({"b": [None, "e"], "a": 1}) == hashlib.sha256(b'{"a":1,"b":[null,"e"]}').hexdigest()


def test_order_of_keys_does_not_count_but_order_of_items_does():
    assert digest.of_value({"a": 1, "b": 2}) == digest.of_value({"b": 2, "a": 1})
    assert digest.of_value([1, 2]) != digest.of_value([2, 1])
    assert digest.of_value({"a": "1"}) != digest.of_value({"a": 1})


def test_arrays_count_in_full():
    """numpy's text leaves out the middle of a long array and rounds to eight digits."""
    long = np.zeros(5000)
    other = long.copy()
    other[2500] = 1
    assert digest.of_value({"x": long}) != digest.of_value({"x": other})
    assert digest.of_value(np.array([0.1])) != digest.of_value(np.array([0.1 + 1e-12]))
    assert digest.of_value(torch.zeros(3)) == digest.of_value(np.zeros(3)) == digest.of_value([0.0, 0.0, 0.0])


def test_file(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digest.of_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_seeds_are_63_bits_and_keep_parts_apart():
    assert 0 <= digest.seed_from(0, "rows") < 2**63
    assert digest.seed_from("a", "bc") != digest.seed_from("ab", "c") != digest.seed_from("abc")
    assert digest.seed_from(1, "x") == digest.seed_from("1", "x")
