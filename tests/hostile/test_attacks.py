"""Each attack in its short form: the server answers as it must, holds no more than it may, serves others, and ends up empty.

Times are not checked here: a debug build on a busy machine has none to spare. `run --all` times the bystander."""

import attack
import pytest
import trial

# This much of each flood, and at most this many seconds of it.
SCALE = 0.01
SECONDS = 1.5

ATTACKS = [one for one in attack.load().values() if one.in_short]


@pytest.mark.parametrize("one", sorted(ATTACKS, key=lambda one: one.settings), ids=lambda one: one.name)
def test_attack(farm, one: attack.Attack):
    outcome = trial.run(one, farm.server(one), SCALE, SECONDS)
    if outcome.wrong:
        farm.forget(one)
        pytest.fail("\n".join([f"sent: {outcome.sent}", f"did: {outcome.did}", *outcome.wrong]), pytrace=False)
