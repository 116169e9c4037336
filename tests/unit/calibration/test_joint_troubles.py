"""Joint fits of surveys with troubles drawn at random: WCS and zero points are right within their errors, or what is wrong is said."""

import os

import pytest

from tests.support.joint_troubles import TWINS, draw, judge

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning:numpy")
NUMBER = int(os.environ.get("ALERTPROD_JOINT_TROUBLES", "8"))


def test_no_trouble_makes_a_wcs_or_a_zero_point_wrong_without_a_word():
    """Zeros and infinities in all tables (0, 3), two positions of each reference star (5), other fields, mirrored chips."""
    silent, right, told = {}, 0, []
    for number in range(NUMBER):
        case = draw(number)
        verdict = judge(case)
        told.append(verdict)
        worst = max(verdict.ratios.values(), default=float("nan"))
        flux = max(verdict.fluxes.values(), default=float("nan"))
        print(
            f"{number} {case.done}: {verdict.refused or verdict.converged}, worst {worst:.2f}, {flux:.2f}, {verdict.weak} weak"
        )
        if verdict.silent():
            silent[str(case.done)] = verdict.silent()
        right += sum(ratio <= 5.0 for ratio in verdict.ratios.values())
    assert not silent
    assert right > 3 * NUMBER  # images: saying no to everything is no way out
    assert TWINS in told[5].refused
    for number in (0, 3):  # the rows are left out, not the survey
        assert not told[number].refused
        assert told[number].ratios
