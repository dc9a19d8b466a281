"""The simulation of a pool of engines, against cases that are computed by hand."""

import math
from dataclasses import replace

import pytest

from seva_ray.core.errors import ConfigError
from seva_ray.planning.simulation import Crew, Faults, simulate

ALONE = Crew(num_nodes=1, engines_per_node=1, rows_per_s=10, start_s=5)
NOTHING = Faults()
SPOT = Faults(preemptions_per_hour=2, arrival_s=60, seed=3)


def test_one_engine_starts_once_and_then_works_without_a_gap():
    found = simulate([(3, 20), (1, 7)], ALONE, NOTHING)
    assert found.wall_s == pytest.approx(5 + 67 / 10)
    assert (found.engine_s, found.useful_s) == pytest.approx((11.7, 6.7))
    assert (found.num_units, found.num_starts, found.lost_s, found.num_redone, found.num_preemptions) == (4, 1, 0, 0, 0)
    assert found.utilisation == pytest.approx(6.7 / 11.7)


@pytest.mark.parametrize(("num_nodes", "engines_per_node"), [(1, 2), (2, 1)])
def test_two_engines_share_the_units_and_the_last_unit_keeps_one_of_them_busy(num_nodes, engines_per_node):
    pair = replace(ALONE, num_nodes=num_nodes, engines_per_node=engines_per_node)
    found = simulate([(5, 20)], pair, NOTHING)
    assert found.wall_s == pytest.approx(5 + 3 * 2)
    assert found.engine_s == pytest.approx(2 * 11)


@pytest.mark.parametrize("num_units", [1, 6, 7, 8, 9, 100])
def test_equal_engines_without_faults_are_as_fast_as_units_allow(num_units):
    crew = replace(ALONE, num_nodes=4)
    assert simulate([(num_units, 10)], crew, NOTHING).wall_s == pytest.approx(5 + math.ceil(num_units / 4))


def test_no_units_take_no_time():
    found = simulate([], ALONE, NOTHING)
    assert (found.wall_s, found.engine_s, found.utilisation) == (0, 0, 0)


def test_a_preempted_unit_is_begun_again_once_a_node_is_back():
    # Ready at 5; units of 2 s end at 7 and 9; the third is cut at 10 after 1 s; ready again at 15; four units are left.
    found = simulate([(6, 20)], ALONE, Faults(preempted_at_s=(10,)))
    assert found.wall_s == pytest.approx(15 + 4 * 2)
    assert (found.lost_s, found.useful_s) == pytest.approx((1, 12))
    assert (found.num_redone, found.num_preemptions, found.num_starts) == (1, 1, 2)
    assert found.engine_s == pytest.approx(23)


def test_a_node_that_goes_while_its_engines_load_loses_no_unit():
    found = simulate([(1, 20)], ALONE, Faults(preempted_at_s=(4,)))
    assert (found.wall_s, found.lost_s, found.num_redone) == pytest.approx((4 + 5 + 2, 0, 0))


def test_what_a_lost_engine_held_goes_to_engines_that_had_nothing_left_to_do():
    # Each gets one unit; both begin at 5. One is cut at 6, when its node is lost; the other takes its unit at 7.
    crew = replace(ALONE, num_nodes=2, start_s=5)
    found = simulate([(2, 20)], crew, Faults(preempted_at_s=(6,)))
    assert found.wall_s == pytest.approx(9)
    assert (found.num_redone, found.lost_s) == pytest.approx((1, 1))


def test_an_engine_that_waits_is_woken_by_a_later_preemption():
    # The slow first node begins one unit at 5 and is cut at 15; the other is done at 7, and does the unit from 15 on.
    crew = replace(ALONE, num_nodes=2, units_ahead=1)
    faults = Faults(slow_share=0.5, slow_factor=10, preempted_at_s=(15,))
    assert simulate([(2, 20)], crew, faults).wall_s == pytest.approx(17)


def test_units_that_a_slow_engine_holds_ahead_wait_for_it():
    # 4 units each: 2 s a unit on the fast node, 8 s on the slow one. One unit ahead: the fast one takes all but one.
    faults = Faults(slow_share=0.5, slow_factor=4)
    crew = replace(ALONE, num_nodes=2)
    assert simulate([(8, 20)], crew, faults).wall_s == pytest.approx(5 + 4 * 8)
    assert simulate([(8, 20)], replace(crew, units_ahead=1), faults).wall_s == pytest.approx(5 + 2 * 8)


def test_commits_go_no_faster_than_driver_and_storage_take_them():
    crew = replace(ALONE, engines_per_node=10, units_per_s=0.5)
    assert simulate([(100, 10)], crew, NOTHING).wall_s == pytest.approx(6 + 99 / 0.5)
    assert simulate([(100, 10)], replace(crew, units_per_s=None), NOTHING).wall_s == pytest.approx(5 + 10)


def test_an_engine_that_waits_for_its_commit_works_on_nothing_else():
    # Units of 1 s, commits 2 s apart: at 6 and 8. The third is cut at 8.5; again ready at 13.5: commits at 14.5, 16.5.
    slow = replace(ALONE, units_per_s=0.5)
    found = simulate([(4, 10)], slow, Faults(preempted_at_s=(8.5,)))
    assert (found.wall_s, found.lost_s) == pytest.approx((16.5, 0.5))


def test_nodes_arrive_after_exponential_waits_of_the_given_mean():
    crew = replace(ALONE, num_nodes=4000, start_s=0)
    found = simulate([(4000, 10**7)], crew, Faults(arrival_s=300))
    waited = 4000 * found.wall_s - found.engine_s
    assert waited / 4000 == pytest.approx(300, rel=0.06)


def test_preemptions_come_at_the_given_rate_and_lose_half_a_unit_each():
    # Lives of 30 min against units of 100 s: what is lost is what an exponential life leaves of its last unit.
    crew = replace(ALONE, num_nodes=100)
    found = simulate([(40_000, 1000)], crew, SPOT)
    node_hours = found.engine_s / 3600
    assert found.num_preemptions / node_hours == pytest.approx(2, rel=0.1)
    rate = 2 / 3600
    lost_each = 1 / rate - 100 * math.exp(-rate * 100) / (1 - math.exp(-rate * 100))
    assert found.lost_s / found.num_redone == pytest.approx(lost_each, rel=0.1)
    assert found.useful_s == pytest.approx(40_000 * 100)
    assert found.wall_s > simulate([(40_000, 1000)], crew, NOTHING).wall_s


def test_larger_units_lose_more_to_preemption():
    crew = replace(ALONE, num_nodes=20)
    small, large = (simulate([(400_000 // rows, rows)], crew, SPOT) for rows in (100, 2000))
    assert large.lost_s > 5 * small.lost_s


def test_units_that_vary_take_as_long_on_average():
    found = simulate([(20_000, 10)], ALONE, Faults(unit_spread=0.5))
    assert found.useful_s == pytest.approx(20_000, rel=0.02)
    assert found.useful_s != 20_000


@pytest.mark.parametrize("faults", [SPOT, Faults(unit_spread=0.3)])
def test_the_same_seed_gives_the_same_run_and_another_another(faults):
    crew, units = replace(ALONE, num_nodes=8), [(500, 100)]
    assert simulate(units, crew, faults) == simulate(units, crew, faults)
    assert simulate(units, crew, faults) != simulate(units, crew, replace(faults, seed=4))


def test_nodes_that_never_live_through_a_unit_are_refused():
    with pytest.raises(ConfigError, match=r"preemptions_per_hour 60: .* the 5 s of its start and the 1000 s of a unit"):
        simulate([(1, 10_000)], ALONE, Faults(preemptions_per_hour=60))


@pytest.mark.parametrize(
    ("field", "value"),
    [("arrival_s", -1), ("preemptions_per_hour", math.inf), ("slow_share", 1.5), ("slow_factor", 0.5), ("seed", -1)],
)
def test_faults_that_cannot_be_are_refused(field, value):
    with pytest.raises(ConfigError, match=f"{field} {value}: must be"):
        Faults(**{field: value})
