"""The digest of weights, by hand and by what it must tell apart."""

import hashlib

import torch

from efface.ops.fingerprint import of_weights


def test_by_hand():
    """Two tensors, in order of their names: name, type and shape as text, then the bytes."""
    total = hashlib.sha256(b"start")
    total.update(b"a|torch.int32|(2,)|" + b"\x01\0\0\0\x02\0\0\0")
    total.update(b"b|torch.float32|()|" + b"\0\0\x80\x3f")
    found = of_weights({"b": torch.tensor(1.0), "a": torch.tensor([1, 2], dtype=torch.int32)}, "start")
    assert found == total.hexdigest()


def test_names_types_shapes_and_bytes_count_and_layout_in_memory_does_not():
    weight = torch.arange(6.0).reshape(2, 3)
    base = of_weights({"w": weight})
    assert of_weights({"w": weight.T.contiguous().T}) == base
    others = [{"v": weight}, {"w": weight.double()}, {"w": weight.reshape(3, 2)}, {"w": weight + 1}, {"w": weight, "x": weight}, {}]
    assert len({base, *map(of_weights, others)}) == 1 + len(others)
