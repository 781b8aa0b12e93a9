"""Trained LSTMs that ship inside packages of other people, read, run and looked into; each beside what runs it otherwise.

python -m papers.real_models prints the tables of docs/real-models.md; --pictures draws its pictures.
"""
