"""RecoGym's users behind a pipe: JSON lines in, JSON lines out. Run by the Python of an environment with `recogym.txt`.

It imports nothing of this project, and changes nothing of RecoGym's `RecoEnv1` (Rohde et al. 2018): users view products
by themselves (*organic*), and in between are shown one product after the other (*bandit*), which they click or not.

First line out: {"products": P}. In: {"user": 17} begins the user, {"user": 17, "product": 5} shows a product. Out,
after either: what the user does until the next product is shown, as `Turn` of `world.py`. Each user has a generator of
their own, so users depend neither on each other nor on the order in which they come.
"""

import contextlib
import copy
import importlib.util
import io
import json
import sys
import types
from typing import Any

SEEDS_APART = 1_000_003  # more than users, so that two worlds do not share their users' generators


def environment(products: int, seed: int) -> Any:
    """RecoGym's environment with its default arguments.

    Its `__init__` and its agents import libraries that the environment does not need (recogym.txt): they are left out.
    """
    found = importlib.util.find_spec("recogym")
    if found is None or found.submodule_search_locations is None:
        raise SystemExit(f"{sys.executable} has no recogym")
    package, agents = types.ModuleType("recogym"), types.ModuleType("recogym.agents")
    package.__path__ = list(found.submodule_search_locations)
    agents.Agent = object  # type: ignore[attr-defined] # named in a signature
    sys.modules |= {"recogym": package, "recogym.agents": agents}
    with contextlib.redirect_stderr(io.StringIO()):  # gym recommends its successor
        from recogym.envs import RecoEnv1, env_1_args

    made = RecoEnv1()
    made.init_gym({**env_1_args, "num_products": products, "random_seed": seed * SEEDS_APART})
    return made


class Users:
    """The users who have begun and not left, each with an environment that shares the products' arrays."""

    def __init__(self, world: Any) -> None:
        from recogym.envs.features.time import DefaultTimeGenerator
        from recogym.envs.reco_env_v1 import ff

        self._world, self._timer, self._click_rate = world, DefaultTimeGenerator, ff
        self._open: dict[int, Any] = {}

    def begin(self, user: int) -> dict[str, Any]:
        one = self._open[user] = copy.copy(self._world)
        one.time_generator = self._timer(one.config)
        one.reset_random_seed(1 + user)
        one.reset(user)
        return self._turn(user, one.step(None), 0.0)

    def show(self, user: int, product: int) -> dict[str, Any]:
        one = self._open[user]
        probability = float(self._truth(one)[product])  # before the step, in which the interest may drift
        return self._turn(user, one.step(product), probability)

    def _truth(self, one: Any) -> Any:
        """(P,) probability of a click on each product; interests do not drift while products are shown."""
        return self._click_rate((one.beta @ one.omega + one.mu_bandit).ravel())

    def _turn(self, user: int, step: tuple[Any, Any, bool, Any], probability: float) -> dict[str, Any]:
        observation, clicked, done, _ = step
        turn = {
            "views": [(int(view["t"]), int(view["v"])) for view in observation.sessions()],
            "step": int(observation.context().time()),
            "done": bool(done),
            "clicked": bool(clicked),
            "probability": probability,
        }
        if done:
            del self._open[user]
            return turn
        truth = self._truth(self._open[user])
        return turn | {"best": int(truth.argmax()), "best_probability": float(truth.max())}


def main(products: int, seed: int) -> None:
    users = Users(environment(products, seed))
    _say({"products": products})
    for line in sys.stdin:
        asked = json.loads(line)
        user = asked["user"]
        _say(users.show(user, asked["product"]) if "product" in asked else users.begin(user))


def _say(content: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(content) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
