"""A static decoding step as a CUDA graph: recorded once, then replayed for every token. It has never run on a GPU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def record(step: Callable[[Tensor, Tensor], Tensor], num_rows: int, device: torch.device) -> Callable[[Tensor, int], Tensor]:
    """A function of the tokens [num_rows] and their index in the completions that replays `step`, a function of the same two as tensors.

    The graph reads and writes the memory that `step` used during the recording. It is valid as long as that memory is: see
    `static_decoders`.
    """
    tokens_A = torch.zeros(num_rows, dtype=torch.long, device=device)
    place = torch.zeros(1, dtype=torch.long, device=device)
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):  # warm-up: kernels and workspaces must exist before the recording
        step(tokens_A, place)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    # Thread-local, because other threads, such as one that pins batches, call CUDA during the recording.
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        logits_AV = step(tokens_A, place)

    def play(tokens: Tensor, place_index: int) -> Tensor:
        tokens_A.copy_(tokens)
        place.fill_(place_index)
        graph.replay()
        return logits_AV.clone()  # the next replay writes into the same memory

    return play
