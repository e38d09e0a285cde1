"""A static decoding step as a CUDA graph: recorded once for a rollout, then replayed. It has never run on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from osler.training.shared_prefix.decoder import Decoder


def record(decoder: Decoder, num_rows: int) -> Callable[[Tensor, int], Tensor]:
    """A function with the signature of `Decoder.step` that replays the recorded step.

    The graph is valid for one rollout, like the decoder's buffers: optimizers change weights in place, but prompts differ in width.
    """
    device = decoder.device
    tokens_A = torch.zeros(num_rows, dtype=torch.long, device=device)
    place = torch.zeros(1, dtype=torch.long, device=device)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # warm-up: kernels and workspaces must exist before the recording
        decoder.step(tokens_A, place)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Thread-local, because other threads, such as one that pins batches, call CUDA during the recording.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        logits_AV = decoder.step(tokens_A, place)

    def play(tokens: Tensor, step: int) -> Tensor:
        tokens_A.copy_(tokens)
        place.fill_(step)
        graph.replay()
        return logits_AV.clone()  # the next replay writes into the same memory

    return play
