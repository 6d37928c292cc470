import math

import numpy as np
import pytest
import torch

from qbench.measure.agreement import agreement


def test_what_is_the_same_agrees_in_everything() -> None:
    logits = torch.randn(7, 5, generator=torch.Generator().manual_seed(0))
    found = agreement(logits, logits.clone())
    assert (found.top1_percent, found.identical_logits_percent, found.largest_difference) == (100.0, 100.0, 0.0)


def test_differences_by_hand() -> None:
    reference = torch.tensor([[1.0, 2.0], [3.0, 0.0], [0.5, 0.25], [4.0, 5.0]])
    logits = torch.tensor([[1.0, 2.5], [3.0, 0.0], [0.5, 0.75], [4.0, 5.0]])
    found = agreement(logits, reference)  # the third image changes its class; two of eight logits differ
    assert (found.top1_percent, found.identical_logits_percent, found.largest_difference) == (75.0, 75.0, 0.5)


def test_equal_means_bit_for_bit() -> None:
    reference = torch.tensor([[1.0, 0.0]])
    near = torch.from_numpy(np.nextafter(reference.numpy(), np.float32(2.0)))
    assert agreement(near, reference).identical_logits_percent == 0.0
    assert agreement(torch.tensor([[1.0, -0.0]]), reference).identical_logits_percent == 50.0


def test_a_difference_that_is_no_number_is_none() -> None:
    reference = torch.zeros(1, 2)
    for value in (math.nan, math.inf):
        assert agreement(torch.tensor([[value, 0.0]]), reference).largest_difference is None


def test_memory_layout_is_no_difference() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).t()
    assert agreement(logits, logits.contiguous()).identical_logits_percent == 100.0


def test_other_dtypes_and_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="float32"):
        agreement(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.float64))
    with pytest.raises(ValueError, match="one shape"):
        agreement(torch.zeros(2, 3), torch.zeros(3, 3))
