"""The choice of widths is the best one: brute force over few items agrees, and more budget is never worse."""

from itertools import product

import numpy as np
import pytest

from tf_requant.planning.allocation import Item, allocate


def random_items(rng: np.random.Generator, count: int, options: int, integral: bool) -> list[Item]:
    found = []
    for _ in range(count):
        costs = rng.integers(1, 40, options).astype(float) if integral else rng.random(options) * 10
        errors = rng.integers(0, 30, options).astype(float) if integral else rng.random(options) ** 4
        found.append(Item(costs, errors))
    return found


def totals(items: list[Item], chosen: tuple[int, ...]) -> tuple[float, float]:
    return sum(i.costs[k] for i, k in zip(items, chosen)), sum(i.errors[k] for i, k in zip(items, chosen))


def brute_force(items: list[Item], budget: float) -> float | None:
    """The least error over every combination."""
    found = [totals(items, chosen) for chosen in product(*(range(i.costs.size) for i in items))]
    return min((error for cost, error in found if cost <= budget), default=None)


@pytest.mark.parametrize("integral", [True, False])
@pytest.mark.parametrize("seed", range(40))
def test_it_equals_brute_force_on_up_to_six_layers(seed: int, integral: bool) -> None:
    rng = np.random.default_rng(seed)
    items = random_items(rng, int(rng.integers(1, 7)), int(rng.integers(1, 6)), integral)
    least, most = (sum(float(f(i.costs)) for i in items) for f in (np.min, np.max))
    for budget in [least - 1, least, *rng.uniform(least, most, 6), most]:
        best, chosen = brute_force(items, budget), allocate(items, budget)
        assert (best is None) == (chosen is None)
        if chosen is not None:
            cost, error = totals(items, chosen)
            assert cost <= budget
            assert error == pytest.approx(best, rel=1e-12)


def test_the_frontier_is_monotone_on_a_network_s_size() -> None:
    """Fifty layers of four widths: errors fall by four a bit, sizes differ by a thousand."""
    rng = np.random.default_rng(1)
    items = []
    for _ in range(53):
        size, noise = float(10 ** rng.uniform(2, 5.5)), float(10 ** rng.uniform(-5, -1))
        bits = np.array([4.0, 5.0, 6.0, 8.0])
        items.append(Item(np.round(size) * bits, noise * rng.uniform(0.7, 1.3, 4) * 4.0**-bits))
    whole = sum(i.costs[-1] for i in items)
    errors = []
    for share in np.linspace(0.5, 1.0, 51):
        chosen = allocate(items, share * whole)
        cost, error = totals(items, chosen)
        assert cost <= share * whole
        errors.append(error)
    assert all(b <= a for a, b in zip(errors, errors[1:]))
    assert errors[-1] == pytest.approx(sum(i.errors.min() for i in items))


def test_an_option_that_another_beats_is_never_taken() -> None:
    items = [Item(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 0.5]))]
    assert [allocate(items, budget) for budget in (0.5, 1.0, 2.5, 3.0)] == [None, (0,), (0,), (2,)]


@pytest.mark.parametrize("seed", range(30))
def test_a_budget_that_just_fits_is_met_whatever_the_last_bits_of_the_costs(seed: int) -> None:
    """Costs of 0.1 and 0.4 a product: sums in two orders differ."""
    rng = np.random.default_rng(seed)
    items = [Item(rng.integers(1, 900) * np.array([0.1, 0.4]), np.array([float(rng.random()), 0.0])) for _ in range(12)]
    picked = rng.integers(0, 2, 12)
    budget = sum(float(item.costs[k]) for item, k in zip(items, picked))
    chosen = allocate(items, budget)
    assert chosen is not None
    cost, error = totals(items, chosen)
    assert cost <= budget * (1 + 1e-9) and error <= totals(items, tuple(picked))[1] + 1e-12
