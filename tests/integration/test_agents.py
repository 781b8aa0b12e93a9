"""Recipes of examples/ as laws: agents whose episodes end within a batch, and a translator on packed input."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from tests.integration.models import EACH, same
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import openlstm

T, B, I, H = 23, 5, 6, 7


class Agent(nn.Module):
    """Features -> recurrent core -> logits and values; the state is multiplied by 0 where an episode begins."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__()
        self.encoder = nn.Linear(4, I)
        self.core = getattr(nn, kind)(I, H, **options)
        self.heads = nn.Linear(H, 3)

    def loop(self, x: Tensor, state: Any, done: Tensor) -> tuple[Tensor, Any]:
        outputs = []
        for x_t, done_t in zip(self.encoder(x), done, strict=True):
            keep = (1.0 - done_t).view(1, -1, 1)
            state = tuple(keep * s for s in state) if isinstance(state, tuple) else keep * state
            y, state = self.core(x_t.unsqueeze(0), state)
            outputs.append(y)
        return self.heads(torch.cat(outputs)), state

    def call(self, x: Tensor, state: Any, done: Tensor) -> tuple[Tensor, Any]:
        y, state = self.core(self.encoder(x), state, reset=done.bool())
        return self.heads(y), state


def _states(kind: str, layers: int, rows: int = B) -> Any:
    h = [torch.randn(layers, rows, H, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    return tuple(h) if kind == "LSTM" else h[0]


@EACH
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("ends", ["none", "first-step", "some", "every-step"])
def test_the_loop_over_time_is_one_call(kind: str, layers: int, ends: str) -> None:
    """Outputs, final states and all gradients, also that to the carried-in state: 0 where the first step begins an episode."""
    torch.manual_seed(0)
    theirs = Agent(kind, num_layers=layers).double()
    ours = openlstm.replace(copy.deepcopy(theirs))
    x, state = torch.randn(T, B, 4, dtype=torch.float64), _states(kind, layers)
    share = {"none": 0.0, "first-step": 0.0, "some": 0.2, "every-step": 1.0}[ends]
    done = (torch.rand(T, B) < share).double()
    done[0, 1::2] = float(ends != "none")
    found = []
    for run in (theirs.loop, ours.loop, ours.call):
        leaves = [s.detach().clone().requires_grad_() for s in (state if isinstance(state, tuple) else (state,))]
        agent = run.__self__
        agent.zero_grad()
        y, end = run(x, tuple(leaves) if kind == "LSTM" else leaves[0], done)
        ends_ = list(end) if isinstance(end, tuple) else [end]
        (y.square().sum() + sum(e.sin().sum() for e in ends_)).backward()
        found.append([y, *ends_, *[s.grad for s in leaves], *[p.grad for p in agent.parameters()]])
    same(found[1], found[0], 1e-11)
    same(found[2], found[0], 1e-11)


class Translator(nn.Module):
    """Encoder over packed rows in both directions, decoder with attention over all of its outputs."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, I)
        self.encoder = getattr(nn, kind)(I, H, bidirectional=True)
        self.decoder = getattr(nn, kind)(I, 2 * H)
        self.head = nn.Linear(4 * H, 11)

    def forward(self, source: Tensor, lengths: Tensor, target: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.embed(source), lengths, enforce_sorted=False)
        seen, state = self.encoder(packed)
        memory, _ = pad_packed_sequence(seen, total_length=len(source))
        state = [s.transpose(0, 1).reshape(1, -1, 2 * H) for s in (state if isinstance(state, tuple) else (state,))]
        y, _ = self.decoder(self.embed(target), tuple(state) if len(state) == 2 else state[0])
        outside = torch.arange(len(source)).unsqueeze(1) >= lengths
        scores = torch.einsum("tbh,sbh->bts", y, memory).masked_fill(outside.T.unsqueeze(1), -torch.inf)
        return self.head(torch.cat([y, torch.einsum("bts,sbh->tbh", scores.softmax(-1), memory)], -1))


@EACH
def test_a_translator_on_packed_rows(kind: str) -> None:
    torch.manual_seed(0)
    theirs = Translator(kind).double()
    ours = openlstm.replace(copy.deepcopy(theirs))
    source, target, lengths = torch.randint(11, (T, B)), torch.randint(11, (9, B)), torch.tensor([3, T, 1, 8, 8])
    found = []
    for model in (ours, theirs):
        y = model(source, lengths, target)
        nn.functional.cross_entropy(y.flatten(0, 1), target.flatten()).backward()
        found.append([y, *[p.grad for p in model.parameters()]])
    same(found[0], found[1], 1e-11)


sb3 = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")


def _learner(policy: Any = "MlpLstmPolicy", **options: Any) -> Any:
    contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib is not installed; the dev extra brings it")
    from stable_baselines3.common.env_util import make_vec_env

    poles = make_vec_env("CartPole-v1", n_envs=3, seed=0)
    options = {"lstm_hidden_size": 16, **options}
    return contrib.RecurrentPPO(
        policy, poles, n_steps=40, batch_size=40, n_epochs=2, seed=0, policy_kwargs=options, device="cpu"
    )


POLICIES: list[dict[str, Any]] = [
    {},
    {"n_lstm_layers": 2},
    {"enable_critic_lstm": False, "shared_lstm": True},
    {"enable_critic_lstm": False},
]


def _by_reset(features: Tensor, lstm_states: Any, episode_starts: Tensor, lstm: Any) -> Any:
    """What examples/sb3_recurrent_ppo.py puts in the place of the policy's loop over time."""
    rows = lstm_states[0].shape[1]
    x = features.reshape(rows, -1, lstm.input_size).swapaxes(0, 1)
    y, state = lstm(x, lstm_states, reset=episode_starts.reshape(rows, -1).swapaxes(0, 1).bool())
    return y.swapaxes(0, 1).flatten(0, 1), state


@sb3
@pytest.mark.slow
@pytest.mark.parametrize("options", POLICIES, ids=["two-lstms", "two-layers", "shared", "critic-without"])
def test_a_recurrent_policy_of_stable_baselines(options: dict[str, Any]) -> None:
    """The same outputs to 1e-6 and the same learning: action by action in rollouts, whole sequences in updates."""
    before = _learner(**options)
    learners = [_learner(**options) for _ in range(2)]
    for model in learners:
        parameters = list(model.policy.parameters())
        assert openlstm.replace(model.policy) is model.policy
        assert isinstance(model.policy.lstm_actor, openlstm.LSTM)
        assert all(p is q for p, q in zip(model.policy.parameters(), parameters, strict=True))
    learners[1].policy._process_sequence = _by_reset
    from sb3_contrib.common.recurrent.type_aliases import RNNStates

    torch.manual_seed(1)
    layers, rows, steps = options.get("n_lstm_layers", 1), 4, 11
    pairs = [tuple(torch.randn(layers, rows, 16) for _ in range(2)) for _ in range(2)]
    starts, observed = (torch.rand(rows * steps) < 0.2).float(), torch.randn(rows * steps, 4)
    actions = torch.randint(2, (rows * steps,))

    def outputs(model: Any) -> list[Tensor]:
        with torch.no_grad():
            values = model.policy.predict_values(observed, pairs[1], starts)
            one = model.policy(observed[:rows], RNNStates(*pairs), starts[:rows], deterministic=True)
            return [values, *model.policy.evaluate_actions(observed, actions, RNNStates(*pairs), starts), *one[1:3]]

    for model in learners:
        for a, b in zip(outputs(model), outputs(before), strict=True):
            assert a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-6)
        a, state = model.predict(observed[:3].numpy(), episode_start=starts[:3].numpy() == 1)
        b, other = before.predict(observed[:3].numpy(), episode_start=starts[:3].numpy() == 1)
        assert all(abs(s - t).max() < 1e-6 for s, t in zip(state, other, strict=True))
    for model in (before, *learners):
        model.set_random_seed(3)
        model.learn(120)  # a rollout and its updates
    for model in learners:
        for (name, p), q in zip(model.policy.named_parameters(), before.policy.parameters(), strict=True):
            assert torch.allclose(p, q, atol=2e-5), name


@sb3
@pytest.mark.slow
def test_a_saved_learner_opens_in_either_form() -> None:
    """sb3 saves a state_dict; what was saved after the swap opens as torch.nn's layers, and can be swapped again."""
    model = _learner()
    openlstm.replace(model.policy)
    model.learn(120)
    file = io.BytesIO()
    model.save(file)
    file.seek(0)
    opened = type(model).load(file, device="cpu")
    assert isinstance(opened.policy.lstm_actor, nn.LSTM)
    same(list(opened.policy.parameters()), list(model.policy.parameters()), 0.0)
    openlstm.replace(opened.policy)
    opened.set_env(model.get_env())
    opened.learn(120)
