"""Large libraries are imported without Python's garbage collector, which is as it was afterwards."""

import gc

import pytest

from seva_ray.core.imports import quick_imports


def test_the_collector_is_off_within_the_block_and_as_before_after_it_also_after_an_error():
    assert gc.isenabled()
    with quick_imports():
        assert not gc.isenabled()
        with quick_imports():
            pass
        assert not gc.isenabled(), "the outer block goes on"
    assert gc.isenabled()
    with pytest.raises(ImportError), quick_imports():
        raise ImportError
    assert gc.isenabled()
