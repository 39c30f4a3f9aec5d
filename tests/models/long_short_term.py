"""An LSTM language model over bytes."""

from contextlib import nullcontext
from functools import partial

import torch
from torch import Tensor, nn

from tests.models.byte_gpt import next_byte_loss
from tests.models.byte_stream import VOCABULARY, byte_batch
from tests.models.recipe import Recipe


class LanguageModel(nn.Module):
    """Two LSTM layers between an embedding and a linear head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(VOCABULARY, width)
        self.memory = nn.LSTM(width, width, num_layers=2, batch_first=True)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, tokens: Tensor) -> Tensor:
        # oneDNN has no LSTM in fp16 for most processors and raises instead of stepping aside (torch 2.13.0),
        # so that a script leaves autocast for it.
        half = torch.get_autocast_dtype("cpu") == torch.float16
        with torch.autocast("cpu", enabled=False) if half else nullcontext():
            states, _ = self.memory(self.tokens(tokens))
        logits: Tensor = self.head(states)
        return logits


def build_lstm(seed: int) -> Recipe:
    """Width 48, sixteen bytes of context."""
    torch.manual_seed(seed)
    return Recipe(LanguageModel(48), partial(byte_batch, seed, size=8, context=16), next_byte_loss)
