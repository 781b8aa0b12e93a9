"""An agent with an LSTM core that was written with a Python loop over time: swap the layer, then drop the loop.

Episodes end in the middle of a rollout, so the loop sets the state to zero by hand before each step; `reset=` does that.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import openlstm

T, B, OBSERVATION, HIDDEN, ACTIONS = 128, 16, 8, 64, 4


class Agent(nn.Module):
    """Observation -> features -> LSTM -> logits of the actions and a value, as in single-file reinforcement learning."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(OBSERVATION, HIDDEN), nn.Tanh())
        self.lstm = nn.LSTM(HIDDEN, HIDDEN)
        self.actor = nn.Linear(HIDDEN, ACTIONS)
        self.critic = nn.Linear(HIDDEN, 1)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor], done: Tensor) -> tuple[Tensor, Tensor]:
        """x [T, B, .], done [T, B]: 1 where a new episode begins -> logits [T, B, A], values [T, B]."""
        y = self.core(self.encoder(x), state, done)
        return self.actor(y), self.critic(y).squeeze(-1)

    def core(self, x: Tensor, state: tuple[Tensor, Tensor], done: Tensor) -> Tensor:
        outputs = []
        for x_t, done_t in zip(x, done, strict=True):
            keep = (1.0 - done_t).view(1, -1, 1)
            y_t, state = self.lstm(x_t.unsqueeze(0), (keep * state[0], keep * state[1]))
            outputs.append(y_t)
        return torch.cat(outputs)


class AgentWithoutLoop(Agent):
    """The same agent; the core is one call."""

    def core(self, x: Tensor, state: tuple[Tensor, Tensor], done: Tensor) -> Tensor:
        return self.lstm(x, state, reset=done.bool())[0]


torch.manual_seed(0)
before = Agent()
swapped, without_loop = Agent(), AgentWithoutLoop()
for other in (swapped, without_loop):
    other.load_state_dict(before.state_dict())  # the names of the parameters are torch.nn's
    openlstm.replace(other)

# A rollout that begins with carried states, in which 2 % of the steps begin a new episode.
x, done = torch.randn(T, B, OBSERVATION), (torch.rand(T, B) < 0.02).float()
state = (torch.randn(1, B, HIDDEN), torch.randn(1, B, HIDDEN))
actions, returns = torch.randint(ACTIONS, (T, B)), torch.randn(T, B)


def update(agent: Agent) -> tuple[Tensor, Tensor]:
    """Forward, loss and backward, as an update of the agent does it; outputs and all gradients come back."""
    agent.zero_grad()
    logits, values = agent(x, state, done)
    chosen = logits.log_softmax(-1).gather(-1, actions.unsqueeze(-1)).squeeze(-1)
    (-(chosen * returns).mean() + (values - returns).square().mean()).backward()
    gradients = torch.cat([p.grad.flatten() for p in agent.parameters() if p.grad is not None])
    return torch.cat([logits, values.unsqueeze(-1)], -1).detach(), gradients


def steps_per_second(run: Callable[[], object], repeats: int = 5) -> float:
    """The median of some runs, after one that is not timed."""
    run()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return T * B / sorted(times)[repeats // 2]


wanted, wanted_gradients = update(before)
base = steps_per_second(lambda: update(before))
print(f"torch.nn.LSTM in a loop over time    {base:10,.0f} steps per second of an update")
errors = []
for name, agent in {"openlstm.LSTM in the same loop": swapped, "openlstm.LSTM with reset=": without_loop}.items():
    outputs, gradients = update(agent)
    errors += [(outputs - wanted).abs().max(), (gradients - wanted_gradients).norm() / wanted_gradients.norm()]
    speed = steps_per_second(lambda agent=agent: update(agent))
    print(f"{name:<37}{speed:10,.0f}, {speed / base:.1f} times as many; outputs differ by {errors[-2]:.0e} at most")
assert max(errors) < 1e-5
