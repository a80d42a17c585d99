"""Models are built on the meta device without drawing values, and elsewhere with them."""

import pytest
import timm
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from spectral_backbones.backbones.undrawn import undrawn

from .models import ONE_OF_EACH_CLASS, SMALLEST, build


class Drawing(TorchDispatchMode):
    """Notes which operators in place come to tensors without values."""

    def __init__(self):
        super().__init__()
        self.met = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func._schema.name.endswith("_") and args[0].is_meta:
            self.met.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ONE_OF_EACH_CLASS)
def test_nothing_is_drawn_on_meta(name):
    arguments = SMALLEST.get(name, {})
    with Drawing() as by_argument:
        timm.create_model(name, device="meta", **arguments)
    with Drawing() as by_default, torch.device("meta"):
        timm.create_model(name, **arguments)
    assert by_argument.met == by_default.met == []


@pytest.mark.parametrize("name", ONE_OF_EACH_CLASS)
def test_it_is_the_same_model_but_for_its_values(name):
    values, none = build(name).state_dict(), build(name, device="meta").state_dict()
    assert list(values) == list(none)
    for key, value in values.items():
        assert (none[key].shape, none[key].dtype, none[key].is_meta) == (value.shape, value.dtype, True)
        assert not value.is_meta


def test_tensors_with_values_and_shapes_that_change_are_left_alone():
    with undrawn():
        assert torch.zeros(3).fill_(2).tolist() == [2, 2, 2]
        assert torch.empty(2, 3, device="meta").t_().shape == (3, 2)
        assert torch.empty(0, device="meta").resize_(4).shape == (4,)
