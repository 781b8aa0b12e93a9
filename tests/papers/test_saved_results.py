"""What papers/results/ holds was judged by the claims as they stand, and docs/papers.md says the same."""

import json
from pathlib import Path

import pytest
from papers import adding600, copy1000, gers2000, hochreiter1997, parity
from papers.study import Claim, Trial, summary

ROOT = Path(__file__).parents[2]
STUDIES: dict[str, list[Claim]] = {
    "hochreiter1997": hochreiter1997.claims(),
    "gers2000": gers2000.claims(),
    "adding600": [adding600.CLAIM],
    "copy1000": [copy1000.CLAIM],
    "parity": [parity.CLAIM],
}
SAVED = [
    (claim, saved)
    for name, claims in STUDIES.items()
    if (path := ROOT / "papers" / "results" / f"{name}.json").exists()
    for claim in claims
    if (saved := json.loads(path.read_text())["claims"].get(claim.key))
]


@pytest.mark.parametrize(("claim", "saved"), SAVED, ids=[claim.key for claim, _ in SAVED])
def test_a_saved_claim_is_what_its_trials_make_of_it(claim: Claim, saved: dict) -> None:
    now = summary(claim, [Trial(**t) for t in saved["trials"]])
    assert {**now, "look": ""} == {**saved, "look": ""}  # that sentence also names the thresholds of today


@pytest.mark.parametrize(("claim", "saved"), SAVED, ids=[claim.key for claim, _ in SAVED])
def test_the_page_says_what_was_reached(claim: Claim, saved: dict) -> None:
    rows = [line for line in (ROOT / "docs" / "papers.md").read_text().splitlines() if line.startswith(f"| {claim.what} |")]
    assert len(rows) == 1 and saved["reached"] in rows[0]
    assert ("not reached" in rows[0]) == (not saved["met"])
    assert f"{saved['networks']} networks" in rows[0]


def test_the_studies_of_adding_and_parity_are_saved() -> None:
    assert {claim.key for claim, _ in SAVED} >= {"adding", "parity", "adding600"}
