"""Trains the network of the lecture's figure on sentences again, and writes its weights into the package (half a minute).

python tools/sentences.py
"""

from __future__ import annotations

from safetensors.torch import save

from openlstm.explain import sentences

if __name__ == "__main__":
    sentences.WEIGHTS.write_bytes(save(sentences.train().state_dict()))
