"""Planners win with a perfect model that knows no more than was seen, and cope with a model that errs."""

from types import SimpleNamespace

import numpy as np
import pytest
from minigrid.core.world_object import WorldObj

from wmtoolkit import AnyOrderWorldModel
from wmtoolkit.agents import AGENTS, Agent, SimulatorWorldModel, make_agent
from wmtoolkit.agents.budget import Budget, Meter
from wmtoolkit.agents.false_goals import FalseGoals
from wmtoolkit.agents.infill import forward_score
from wmtoolkit.agents.planner import Planner
from wmtoolkit.agents.registry import agent_class
from wmtoolkit.agents.search_graph import Node, SearchGraph, ahead
from wmtoolkit.agents.seen_map import SIZE, SeenMap
from wmtoolkit.data.levels import make_level, reset_level
from wmtoolkit.errors import UserError
from wmtoolkit.world import grid
from wmtoolkit.world.trajectory import Outcome, Trajectory


def play(agent, env, seed):
    """(success, steps, diagnostics of each decision)."""
    observation = reset_level(env, seed)
    agent.reset(seed)
    log = []
    while True:
        action = agent.act(observation)
        log.append(agent.diagnostics)
        observation, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            return terminated and reward > 0, len(log), log


PLANNERS = [name for name in AGENTS if issubclass(agent_class(name), Planner)]
UNHURRIED = {"max_milliseconds": 60_000}  # so that a busy machine changes nothing


@pytest.fixture(scope="module")
def packaged():
    return AnyOrderWorldModel.from_pretrained()


CUT_SHORT = "as imagined, but the search was cut short"


def lengths(name, level, seeds, model_options=None, **budget):
    env = make_level(level)
    model = SimulatorWorldModel(env, **(model_options or {}))
    patience = UNHURRIED if name in PLANNERS else {}
    agent = make_agent(name, world_model=model, env=env, **{**patience, **budget})
    results = [play(agent, env, seed) for seed in seeds]
    assert all(success for success, *_ in results)
    return np.mean([steps for _, steps, _ in results])


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize(("level", "count"), [("BabyAI-GoToLocal-v0", 8), ("BabyAI-PickupLoc-v0", 5)])
def test_planners_win_nearly_as_fast_as_the_bot_from_what_they_have_seen(name, level, count):
    seeds = range(900_000, 900_000 + count)
    mine = lengths(name, level, seeds, {"sees_hidden": False})
    assert mine <= 1.25 * lengths("bot", level, seeds)


@pytest.mark.parametrize(
    ("level", "count", "factor"),
    [
        ("BabyAI-GoToRedBallGrey-v0", 20, 1.15),
        ("BabyAI-OpenRedDoor-v0", 8, 1.05),
        ("BabyAI-GoToObjMazeS4R2-v0", 8, 1.2),
        ("BabyAI-PutNextLocal-v0", 4, 1.3),
        ("BabyAI-UnlockPickup-v0", 6, 1.3),
        ("MiniGrid-DoorKey-6x6-v0", 8, 1.3),
    ],
)
def test_best_first_handles_objects_and_doors(level, count, factor):
    seeds = range(900_000, 900_000 + count)
    assert lengths("best-first", level, seeds, {"sees_hidden": False}) <= factor * lengths("bot", level, seeds)


def test_moves_alone_are_enough_where_nothing_must_be_handled():
    seeds = range(900_000, 900_015)
    mine = lengths("best-first", "BabyAI-GoToLocal-v0", seeds, {"sees_hidden": False}, actions="moves")
    assert mine <= 1.1 * lengths("bot", "BabyAI-GoToLocal-v0", seeds)


@pytest.mark.parametrize("prior_weight", [0.0, 1.0])
def test_best_first_needs_no_policy_where_goals_are_near(prior_weight):
    seeds = range(900_000, 900_010)
    mine = lengths("best-first", "BabyAI-PickupLoc-v0", seeds, {"sees_hidden": False}, prior_weight=prior_weight)
    assert mine <= 1.1 * lengths("bot", "BabyAI-PickupLoc-v0", seeds)


@pytest.mark.parametrize("options", [{"knows_walls": False}, {"memory": 1}])
def test_it_wins_with_a_model_that_imagines_wrongly_or_forgets(options):
    seeds = range(900_000, 900_020)
    mine = lengths("best-first", "BabyAI-GoToRedBallGrey-v0", seeds, {"sees_hidden": False, **options})
    assert mine <= 1.3 * lengths("bot", "BabyAI-GoToRedBallGrey-v0", seeds)


class Liar:
    """A model whose states lie: by default that to face any object that the agent has seen is success."""

    def __init__(self, model, kind=None):
        self.model, self.kind = model, kind or LyingState

    @property
    def forward_passes(self):
        return self.model.forward_passes

    def rollout_state(self, histories):
        return self.kind(self.model.rollout_state(histories))

    def infill_plan(self, *arguments, **options):
        return self.model.infill_plan(*arguments, **options)


class LyingState:
    def __init__(self, state):
        self.state = state

    def __len__(self):
        return len(self.state)

    def __getattr__(self, name):
        return getattr(self.state, name)

    @property
    def outcomes(self):
        lies = np.isin(self.state.images[:, 3, 5, 0], [5, 6, 7])
        outcomes = self.state.outcomes.copy()
        outcomes[lies] = np.eye(4)[Outcome.SUCCESS]
        return outcomes

    def step(self, actions, **options):
        return type(self)(self.state.step(actions, **options))

    def select(self, rows):
        return type(self)(self.state.select(rows))

    @classmethod
    def cat(cls, states):
        return cls(states[0].state.cat([state.state for state in states]))


@pytest.mark.parametrize("name", PLANNERS)
def test_a_false_goal_is_tried_once(name):
    env = make_level("BabyAI-GoToRedBallGrey-v0")
    model = Liar(SimulatorWorldModel(env, sees_hidden=False))
    agent = make_agent(name, world_model=model, actions="moves", **UNHURRIED)
    false = 0
    for seed in range(900_000, 900_006):
        success, _, log = play(agent, env, seed)
        tried = sum(decision["reason"] == "false goal" for decision in log)
        assert success
        assert tried <= 7  # there are seven wrong objects
        false += tried
    assert false


class PickupState(LyingState):
    """Says that to pick up anything is success."""

    def __init__(self, state, picked=None):
        super().__init__(state)
        self.picked = np.zeros(len(state), bool) if picked is None else picked

    @property
    def outcomes(self):
        outcomes = self.state.outcomes.copy()
        outcomes[self.picked] = np.eye(4)[Outcome.SUCCESS]
        return outcomes

    def step(self, actions, **options):
        state = self.state.step(actions, **options)
        full = np.isin(state.images[:, 3, 6, 0], grid.PORTABLE)
        return PickupState(state, full & (np.asarray(actions) == grid.PICKUP))

    def select(self, rows):
        return PickupState(self.state.select(rows), self.picked[rows])

    @classmethod
    def cat(cls, states):
        joint = states[0].state.cat([state.state for state in states])
        return cls(joint, np.concatenate([state.picked for state in states]))


def test_what_was_picked_up_in_vain_is_not_picked_up_again():
    """Neither where it lay nor where it was dropped meanwhile; the right thing is found among the wrong ones."""
    env = make_level("BabyAI-PickupLoc-v0")
    agent = make_agent(
        "best-first", world_model=Liar(SimulatorWorldModel(env), PickupState), prior_weight=0, **UNHURRIED
    )
    false = 0
    for seed in range(900_000, 900_004):
        success, _, log = play(agent, env, seed)
        things = sum(isinstance(cell, WorldObj) and cell.can_pickup() for cell in env.unwrapped.grid.grid)
        tried = sum(decision["reason"] == "false goal" for decision in log)
        assert success
        assert tried <= things
        false += tried
    assert false


def test_a_drop_speaks_for_drops_beside_less():
    """What a drop beside two things did not achieve, one beside either of them will not; beside a third it may."""
    level = "BabyAI-PutNextLocal-v0"
    env = make_level(level)
    observation = reset_level(env, 0)
    seen = SeenMap(observation)
    model = SimulatorWorldModel(env)
    root = model.rollout_state([Trajectory.start(observation)])
    graph = SearchGraph(root, seen, Meter(Budget(10, 1e9, 10), model))
    ball, box, key = (6, 0, 0), (7, 1, 0), (5, 2, 0)
    x, y, heading = *seen.position, seen.direction
    front = ahead((x, y, heading))
    around = [((front[0] + dx) % SIZE, (front[1] + dy) % SIZE) for dx, dy in ((1, 0), (0, 1), (-1, 0), (0, -1))]
    beside = [place for place in around if place != (x, y)]

    def dropped(*things):
        image = observation["image"].copy()
        image[grid.FRONT_CELL] = ball
        changes = frozenset((*place, thing) for place, thing in zip(beside, (*things, *3 * [(1, 0, 0)]), strict=False))
        state = SimpleNamespace(images=image[None], outcomes=np.eye(4)[[Outcome.SUCCESS]])
        return Node((x, y, heading, (1, 0, 0), changes | {(*front, ball)}), state, 0, 0, grid.DROP, 1)

    false = FalseGoals()
    false.add(graph, dropped(box, key))
    assert false.cover(graph, dropped(box, key))
    assert false.cover(graph, dropped(box))
    assert false.cover(graph, dropped())
    assert not false.cover(graph, dropped(key, box))  # the same things, but each elsewhere
    assert not false.cover(graph, dropped(box, key, key))


@pytest.mark.parametrize("name", PLANNERS)
def test_predicted_failure_is_avoided(name):
    env = make_level("MiniGrid-LavaGapS6-v0")
    agent = make_agent(name, world_model=SimulatorWorldModel(env), **UNHURRIED)
    for seed in range(4):
        assert play(agent, env, seed)[0]


@pytest.mark.parametrize("name", PLANNERS)
def test_a_plan_is_followed_without_asking_the_model_again(name):
    env = make_level("BabyAI-GoToLocal-v0")
    far = {"horizons": list(range(1, 11))} if name == "infill" else {}
    agent = make_agent(name, world_model=SimulatorWorldModel(env), **UNHURRIED, **far)
    _, steps, log = play(agent, env, 900_001)
    assert steps > 2
    assert log[0]["forward_passes"] > 0
    for decision in log[1:]:
        assert (decision["forward_passes"], decision["reason"]) == (0, "as imagined")
    assert log[0]["goal"]
    assert log[0]["success_probability"] == 1
    assert [log[0]["plan"][i] for i in range(steps)] == [decision["plan"][0] for decision in log]
    assert log[0]["candidates"]
    assert max(candidate.success for candidate in log[0]["candidates"]) == 1


def test_what_comes_into_view_starts_no_search():
    """The copy of the level knows no more than was seen: what comes into view is news, and mostly no contradiction."""
    env = make_level("BabyAI-GoToObjMazeS4R2-v0")
    agent = make_agent("best-first", world_model=SimulatorWorldModel(env, sees_hidden=False), **UNHURRIED)
    news = []
    for seed in range(900_000, 900_006):
        success, _, log = play(agent, env, seed)
        assert success
        news += [decision for decision in log if decision["reason"] == "as imagined, but for what came into view"]
    assert news
    assert all(decision["forward_passes"] == 0 for decision in news)


def test_it_imagines_what_it_then_sees():
    env = make_level("BabyAI-GoToLocal-v0")
    agent = make_agent("best-first", world_model=SimulatorWorldModel(env))
    observation = reset_level(env, 900_001)
    action = agent.act(observation)
    observation, *_ = env.step(action)
    np.testing.assert_array_equal(agent.diagnostics["imagined_image"], observation["image"])
    assert agent.diagnostics["imagined_direction"] == observation["direction"]


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize(
    "budget",
    [
        {"max_forward_passes": 2},
        {"max_forward_passes": 9},
        {"max_nodes": 5},
        {"max_nodes": 40},
        {"max_milliseconds": 1},
    ],
)
def test_the_budget_is_kept_and_an_action_comes_anyway(name, budget):
    env = make_level("BabyAI-GoToLocal-v0", max_steps=20)
    agent = make_agent(name, world_model=SimulatorWorldModel(env, sees_hidden=False), **budget)
    for seed in range(900_000, 900_003):
        _, _, log = play(agent, env, seed)
        for decision in log:
            assert decision["forward_passes"] <= budget.get("max_forward_passes", 99)
            assert decision["nodes"] <= budget.get("max_nodes", 99)


def test_no_pass_is_begun_that_the_slowest_so_far_says_would_overrun(monkeypatch):
    now, counter = [0.0], SimpleNamespace(forward_passes=7)
    monkeypatch.setattr("wmtoolkit.agents.budget.time.perf_counter", lambda: now[0])
    meter = Meter(Budget(max_forward_passes=99, max_milliseconds=100), counter)
    assert meter.room_for(9)
    for passes, seconds in ((2, 0.02), (1, 0.03), (1, 0.01)):
        counter.forward_passes += passes
        now[0] += seconds
        room = meter.room_for(1), meter.room_for(2)
    assert room == (True, False)  # 60 ms are gone, and the slowest pass took 30
    now[0] += 0.011
    assert not meter.room_for(1)


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize(
    "wrong",
    [{"max_nodes": 0}, {"max_forward_passes": 0}, {"max_milliseconds": 0}, {"actions": "some"}, {"discount": 0}],
)
def test_a_budget_of_nothing_is_refused(name, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        make_agent(name, world_model=Liar(None), **wrong)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"max_nodes": "many"}, "max_nodes is a whole number, not 'many'"),
        ({"batch": 2.5}, "batch is a whole number"),
        ({"goal_threshold": "x"}, "goal_threshold is a number"),
        ({"actions": 3}, "actions is a word"),
        ({"prior_weight": True}, "prior_weight is a number"),
    ],
)
def test_an_option_of_another_kind_is_refused(wrong, said):
    with pytest.raises(UserError, match=said):
        make_agent("best-first", world_model=SimulatorWorldModel(make_level("BabyAI-GoToObj-v0")), **wrong)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("best-first", {"batch": 0}),
        ("beam", {"width": 0}),
        ("shooting", {"samples": 0}),
        ("cem", {"elite": 2.0}),
        ("mcts", {"leaves": 0}),
        ("mcts", {"failure_threshold": 0}),
        ("infill", {"horizons": []}),
        ("infill", {"horizons": 3}),
        ("infill", {"horizons": [0, 2]}),
    ],
)
def test_an_option_of_nothing_is_refused(name, wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        make_agent(name, world_model=Liar(None), **wrong)


@pytest.mark.parametrize("name", PLANNERS)
def test_episodes_repeat_under_their_seed(world_model, name):
    """With a model that knows nothing, everything is chance: and chance is seeded."""
    env = make_level("BabyAI-GoToLocal-v0", max_steps=4)
    agent = make_agent(name, world_model=world_model, max_nodes=12, **UNHURRIED)
    assert isinstance(agent, Agent)
    runs = []
    for seed in (3, 4, 3):
        _, _, log = play(agent, env, seed)
        runs.append([decision["plan"][0] for decision in log])
    assert runs[0] == runs[2]
    assert all(action in range(len(grid.ACTIONS)) for run in runs for action in run)


def test_mcts_draws_what_it_might_see_and_never_counts_on_it():
    env = make_level("BabyAI-GoToRedBallGrey-v0")
    observation = reset_level(env, 900_001)  # the target is out of sight
    thought = {}
    for chances in (1, 4):
        model = SimulatorWorldModel(env, sees_hidden=False)
        agent = make_agent("mcts", world_model=model, chances=chances, actions="moves", **UNHURRIED)
        agent.act(observation)
        thought[chances] = agent.diagnostics
    assert all(not node.key[4] for node in thought[1]["graph"].nodes)
    drawn = [node for node in thought[4]["graph"].nodes if node.key[4]]
    assert drawn
    for node in drawn:
        assert {cell[0] for _, _, cell in node.key[4]} <= {grid.OBJECTS.index(name) for name in ("key", "ball", "box")}
    assert not thought[4]["goal"]
    assert all(not node.key[4] for node in thought[4]["plan_nodes"])


@pytest.mark.parametrize("name", ["policy", *PLANNERS])
def test_forward_passes_are_calls_of_the_network(world_model, name):
    """What encodes a context, asks the policy, imagines a step or fills in a plan: all of it, and nothing else."""
    calls = []
    hook = world_model.network.register_forward_hook(lambda *_: calls.append(1))
    try:
        env = make_level("BabyAI-GoToLocal-v0", max_steps=3)
        budget = {} if name == "policy" else {"max_nodes": 30, "max_forward_passes": 12, **UNHURRIED}
        _, _, log = play(make_agent(name, world_model=world_model, **budget), env, 900_000)
    finally:
        hook.remove()
    assert sum(decision["forward_passes"] for decision in log) == len(calls) > 0
    assert all(decision["forward_passes"] <= 12 for decision in log)


@pytest.mark.parametrize("name", ["best-first", "mcts"])
@pytest.mark.parametrize("limit", range(2, 13))
def test_a_real_model_is_never_called_more_often_than_the_budget_says(packaged, name, limit):
    """Near the limit, situations that were asked for the policy, and so encoded, are mixed with others."""
    env = make_level("BabyAI-GoToLocal-v0", max_steps=4)
    agent = make_agent(name, world_model=packaged, max_forward_passes=limit, **UNHURRIED)
    for seed in (900_008, 900_012):
        assert max(decision["forward_passes"] for decision in play(agent, env, seed)[2]) <= limit


@pytest.mark.parametrize("name", PLANNERS)
@pytest.mark.parametrize("level", ["BabyAI-GoToLocal-v0", "BabyAI-PickupLoc-v0"])
def test_a_small_budget_costs_detours_and_not_the_episode(name, level):
    seeds = range(900_000, 900_006)
    mine = lengths(name, level, seeds, {"sees_hidden": False}, max_forward_passes=4)
    assert mine <= 2 * lengths("bot", level, seeds)


@pytest.mark.parametrize("name", PLANNERS)
def test_a_search_goes_on_with_what_was_imagined_behind_a_plan_that_came_true(name):
    env = make_level("BabyAI-GoToObjMazeS4R2-v0")
    model = SimulatorWorldModel(env)
    agent = make_agent(name, world_model=model, max_forward_passes=8, **UNHURRIED)
    kept = 0
    for seed in range(900_000, 900_004):
        _, _, log = play(agent, env, seed)
        for decision in log:
            if "graph" not in decision or len(decision["graph"]) <= decision["nodes"]:
                continue
            assert decision["reason"] in ("plan finished", "false goal", CUT_SHORT)
            graph = decision["graph"]
            for index in range(1, len(graph), 5):
                node, way = graph.nodes[index], [graph.nodes[step].action for step in graph.path(index)]
                state = graph.nodes[0].state
                for action in way:
                    state = state.step([action])
                np.testing.assert_array_equal(state.images[0], node.image)
                assert len(way) == node.depth
                kept += 1
    assert kept > 20


def test_mcts_spends_its_budget_before_it_gives_up():
    """Simulations that end where everything is known already do not end the search, as long as there is more."""
    env = make_level("BabyAI-GoToObjMazeS4R2-v0")
    agent = make_agent("mcts", world_model=SimulatorWorldModel(env, sees_hidden=False), chances=1, **UNHURRIED)
    for seed in range(900_000, 900_004):
        agent.reset(seed)
        agent.act(reset_level(env, seed))
        thought = agent.diagnostics
        graph = thought["graph"]
        unknown = any(graph.known(node, action) is None for node in range(len(graph)) for action in graph.useful(node))
        assert thought["goal"] or thought["forward_passes"] >= 61 or not unknown


def test_infilling_takes_fewer_passes_than_searching():
    env = make_level("BabyAI-GoToLocal-v0")
    passes = {}
    for name in ("infill", "best-first"):
        agent = make_agent(name, world_model=SimulatorWorldModel(env, sees_hidden=False), **UNHURRIED)
        logs = [play(agent, env, seed)[2] for seed in range(900_000, 900_010)]
        passes[name] = np.mean([decision["forward_passes"] for log in logs for decision in log])
    assert passes["infill"] < passes["best-first"]


def test_a_plans_score_is_what_the_model_gives_its_way_forwards(world_model):
    """Views, headings and outcomes of each step, and SUCCESS in place of the outcome that was likeliest at the end."""
    env = make_level("BabyAI-GoToLocal-v0")
    observation = reset_level(env, 900_000)
    state = world_model.rollout_state([Trajectory.start(observation)])
    graph = SearchGraph(state, SeenMap(observation), Meter(Budget(99, 1e9, 99), world_model))
    (first,) = graph.imagine([(0, grid.LEFT)])
    (second,) = graph.imagine([(first, grid.LEFT)])
    state = state.step([grid.LEFT]).step([grid.LEFT])
    odds = state.outcomes[0]
    expected = state.total_log_prob[0] + np.log(odds[Outcome.SUCCESS] / odds.max())
    assert forward_score(graph, [0, first, second]) == pytest.approx(expected, abs=1e-3)


def test_infill_needs_a_model_that_infills():
    class Forward:
        rollout_state = policy = None

    with pytest.raises(UserError, match="infill_plan"):
        make_agent("infill", world_model=Forward())


def test_infill_is_refused_horizons_beyond_the_models_when_it_is_made(world_model):
    furthest = world_model.network.world.span - 1
    make_agent("infill", world_model=world_model, horizons=[1, furthest])
    with pytest.raises(UserError, match=f"horizons must be at most {furthest} for this world model.*not 100"):
        make_agent("infill", world_model=world_model, horizons=[1, 100])
