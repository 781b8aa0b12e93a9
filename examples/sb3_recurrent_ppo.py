"""A recurrent policy of Stable-Baselines3: swap its LSTMs, then let one call do what its loop over time does.

Needs `pip install sb3-contrib`. The policy calls its LSTM step by step as soon as an episode begins anywhere in the batch, in
rollouts and in every update; `_process_sequence` is the only place where it does, and with `reset=` it is one call.
"""

import sys
import time
from typing import Any

import torch
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.env_util import make_vec_env
from torch import Tensor, nn

import openlstm

STEPS = int(sys.argv[1]) if len(sys.argv) > 1 else 1024
torch.set_num_threads(1)  # fastest for all three: single steps of a small network


class Policy(RecurrentActorCriticPolicy):
    """The policy with its loop over time replaced by one call."""

    @staticmethod
    def _process_sequence(
        features: Tensor, lstm_states: tuple[Tensor, Tensor], episode_starts: Tensor, lstm: nn.LSTM
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        rows = lstm_states[0].shape[1]
        x = features.reshape(rows, -1, lstm.input_size).swapaxes(0, 1)  # [T, B, I]
        y, state = lstm(x, lstm_states, reset=episode_starts.reshape(rows, -1).swapaxes(0, 1).bool())
        return y.swapaxes(0, 1).flatten(0, 1), state


def learner(policy: type[RecurrentActorCriticPolicy]) -> RecurrentPPO:
    """A learner with the default settings, 8 poles to be kept upright at once, and 64 units in each LSTM."""
    poles = make_vec_env("CartPole-v1", n_envs=8)
    return RecurrentPPO(policy, poles, policy_kwargs={"lstm_hidden_size": 64}, seed=0, device="cpu")


def outputs(policy: Any) -> Tensor:
    """Values, log-probabilities and entropies of 8 sequences of 16 steps, in which episodes begin at random."""
    generator = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(shape, generator=generator)  # noqa: E731
    state = RNNStates((draw(1, 8, 64), draw(1, 8, 64)), (draw(1, 8, 64), draw(1, 8, 64)))
    starts = (torch.rand(8 * 16, generator=generator) < 0.1).float()
    actions = torch.randint(2, (8 * 16,), generator=generator)
    with torch.no_grad():
        value, log_prob, entropy = policy.evaluate_actions(draw(8 * 16, 4), actions, state, starts)
    return torch.cat([value.flatten(), log_prob, entropy])


def steps_per_second(model: RecurrentPPO) -> float:
    """How fast it learns, environments included."""
    start = time.perf_counter()
    model.learn(STEPS)
    return STEPS / (time.perf_counter() - start)


before, swapped, in_one_call = learner(RecurrentActorCriticPolicy), learner(RecurrentActorCriticPolicy), learner(Policy)
for model in (swapped, in_one_call):
    openlstm.replace(model.policy)  # the very same parameters, so that the optimiser inside the policy keeps working
    assert isinstance(model.policy.lstm_actor, openlstm.LSTM)

wanted = outputs(before.policy)
base = steps_per_second(before)
print(f"torch.nn.LSTM                      {base:8,.0f} steps per second, rollouts and updates together")
errors = []
for name, model in {"openlstm.LSTM": swapped, "openlstm.LSTM with reset=": in_one_call}.items():
    errors.append(float((outputs(model.policy) - wanted).abs().max()))
    speed = steps_per_second(model)
    print(f"{name:<35}{speed:8,.0f} steps per second; outputs differ by {errors[-1]:.0e} at most")
assert max(errors) < 1e-6
