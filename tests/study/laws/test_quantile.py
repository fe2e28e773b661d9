"""Student's t without scipy.special, against it."""

import pytest
from scipy.special import stdtrit

from scalevit.study.laws.quantile import student


@pytest.mark.parametrize("degrees", [1, 3, 6.5, 60, 300])
@pytest.mark.parametrize("share", [0.55, 0.95, 0.995])
def test_quantiles_are_students(degrees, share):
    assert student(degrees, share) == pytest.approx(stdtrit(degrees, share), rel=1e-5)
