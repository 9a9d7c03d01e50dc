"""What stays of a file in memory: its structure, and no more of its numbers than there is room for."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bnfold.adapters.onnx_skeleton import _ROOM, skeleton
from bnfold.adapters.onnx_tensors import tensor
from bnfold.adapters.onnx_wire import File

RANDOM = np.random.default_rng(5)


def typed(array, name):
    return helper.make_tensor(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape, array.reshape(-1))


def saved(path, tensors):
    node = helper.make_node("Relu", ["x"], ["y"])
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    onnx.save(helper.make_model(helper.make_graph([node], "g", sides[:1], sides[1:], tensors)), path)
    return skeleton(File(path))


def read(file):
    """Give the name of every initializer, with its numbers."""
    around = file.layout(0, file.source.size)[7][0]
    places = file.layout(around.body, around.end)[5]
    held = zip(file.proto.graph.initializer, places, strict=True)
    return {proto.name: tensor(proto, place.body, file, None) for proto, place in held}


@pytest.mark.parametrize("count", [10, 1100])
def test_small_initializers_stay_while_there_is_room(tmp_path, count):
    arrays = {f"s{place}": RANDOM.normal(size=1000).astype(np.float32) for place in range(count)}
    file = saved(tmp_path / "m.onnx", [numpy_helper.from_array(array, name) for name, array in arrays.items()])
    assert bool(file.payloads) is (4000 * count > _ROOM)
    assert file.proto.ByteSize() < _ROOM + 100 * count
    found = read(file)
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name].stored(), array) for name, array in arrays.items())


@pytest.mark.parametrize("make", [numpy_helper.from_array, typed])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int8"])
@pytest.mark.parametrize("size", [1, 10, 900, 5000])
def test_the_numbers_are_the_files(tmp_path, make, dtype, size):
    array = (100 * RANDOM.normal(size=size)).astype(dtype)
    found = read(saved(tmp_path / "m.onnx", [make(array, "t")]))["t"]
    assert found.dtype == dtype
    assert np.array_equal(found.stored(), array)
    assert np.array_equal(found.stored(size // 2, size - size // 2), array[size // 2 :])
