"""How much faster GIT trains and writes here than in the usual notebook, on GIT-Base's real shape with random weights.

    OMP_NUM_THREADS=1 taskset -c 1 python tools/bench_git.py [--rounds 3] [--cases full lora beam] [--kernels]

The notebook is PEFT around `GitForCausalLM`, its own loss and generation, a plain loop and torch's default AdamW, in
float32 and under bfloat16 autocast. All variants of a case share one model in one process and take turns; time is the
process's CPU time, each ratio the median over the rounds of the two steps' times in that round. Batch 4 (generation 8),
64 text tokens of which 50 count, dropout 0.1, one thread.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from transformers import GitConfig, GitForCausalLM

from cxr_ft.model.assembly import silence_libraries
from cxr_ft.model.bases.git import attention, decoder, eligibility, frozen_prefix, generation
from cxr_ft.model.bases.git.beam_search import Search
from cxr_ft.model.bases.git.fused_linear import apply_linears, to_autocast
from cxr_ft.model.heads._next_token_loss import cross_entropy_sum
from cxr_ft.model.peft_models import unwrapped

LENGTHS = (64, 54, 46, 36)
NEW = 64
TEXT = r"git\.encoder\.layer\.\d+\.attention\.self\.(query|value)"
VISION = r"git\.image_encoder\..*\.(q_proj|v_proj)"
CASES = {
    "full": "full fine-tuning",
    "lora": "LoRA text q,v; vision stored",
    "lora+vision": "LoRA text and vision q,v",
    "greedy": "greedy generation",
    "beam": "beam search, 3 beams",
}
#: What this was built to reach, over float32 and over autocast, one core.
GOALS = {"full": (4.5, 1.35), "lora": (8.5, 2.6), "lora+vision": (4.7, 1.4), "greedy": (5, 1.6), "beam": (8, 2.8)}
Step = Callable[[], object]
Kernel = Callable[[Tensor, Tensor, Tensor, attention.Shape, Tensor | None], Tensor]


def precision(low: bool) -> AbstractContextManager[object]:
    """bfloat16 autocast on CPU, or none."""
    context: AbstractContextManager[object] = torch.autocast("cpu", torch.bfloat16, enabled=low)
    return context


def batch() -> dict[str, Tensor]:
    """Four random images, and reports padded to 64 tokens; `labels` already shifted, `hf_labels` not."""
    ids = torch.randint(1000, 30000, (4, 64))
    kept = torch.arange(64) < torch.tensor(LENGTHS)[:, None]
    hf_labels = torch.where(kept, ids, -100)
    labels = torch.cat((hf_labels[:, 1:], torch.full((4, 1), -100)), dim=1)
    pixels = torch.randn(4, 3, 224, 224)
    return {
        "pixel_values": pixels,
        "input_ids": ids,
        "attention_mask": kept.long(),
        "labels": labels,
        "hf_labels": hf_labels,
    }


def notebook_loss(model: nn.Module, b: dict[str, Tensor]) -> Tensor:
    """transformers' own forward and loss."""
    inputs = {name: b[name] for name in ("pixel_values", "input_ids", "attention_mask")}
    loss: Tensor = model(**inputs, labels=b["hf_labels"]).loss
    return loss


def fast_loss(model: nn.Module, b: dict[str, Tensor]) -> Tensor:
    """The same number by the walk: image tokens from the store where the batch holds them."""
    git, counts = eligibility.git_of(model), b["labels"] >= 0
    states = decoder.text_states(git, frozen_prefix.tokens_of(git, b), b["input_ids"], b["attention_mask"], at=counts)
    logits = apply_linears((unwrapped(model).get_submodule("output"),), to_autocast(states))[0]
    return cross_entropy_sum(logits, b["labels"][counts]) / counts.sum()


def training(
    model: nn.Module,
    loss: Callable[[nn.Module, dict[str, Tensor]], Tensor],
    b: dict[str, Tensor],
    low: bool,
    fused: bool,
) -> Step:
    """A step of training as a function."""
    chosen = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(chosen, lr=1e-6, fused=fused or None)

    def step() -> float:
        with precision(low):
            value = loss(model, b)
        torch.autograd.backward(value)
        optimizer.step()
        optimizer.zero_grad()
        return value.item()

    return step


def trainings(case: str, lm: nn.Module) -> dict[str, Step]:
    """The four variants of a training case, by name."""
    if case == "full":
        model = lm.requires_grad_(True)
    else:
        pattern = TEXT if case == "lora" else f"{TEXT}|{VISION}"
        model = get_peft_model(lm, LoraConfig(r=8, lora_alpha=16, target_modules=pattern))
    model.train()
    b = batch()
    stored = {low: dict(b) for low in (False, True)}
    if case == "lora":
        found = frozen_prefix.prefix(model)
        assert found is not None
        for low in (False, True):
            with torch.no_grad(), precision(low):
                stored[low][found.key] = found.compute(b["pixel_values"])
    return {
        "notebook float32": training(model, notebook_loss, b, False, False),
        "notebook autocast": training(model, notebook_loss, b, True, False),
        "ours float32": training(model, fast_loss, stored[False], False, True),
        "ours bfloat16": training(model, fast_loss, stored[True], True, True),
    }


def generations(case: str, lm: nn.Module) -> dict[str, Step]:
    """The four variants of generation: eight images, 64 tokens each, no end."""
    lm.eval()
    beams = 3 if case == "beam" else 1
    pixels, ids = torch.randn(8, 3, 224, 224), torch.full((8, 1), 101)
    search = Search(end=-1, pad=0, max_new_tokens=NEW, beams=beams)
    model: Any = lm

    def notebook(low: bool) -> Tensor:
        how = {"max_new_tokens": NEW, "num_beams": beams, "do_sample": False, "eos_token_id": -1, "pad_token_id": 0}
        with torch.no_grad(), precision(low):
            out: Tensor = model.generate(pixel_values=pixels, input_ids=ids, attention_mask=ids * 0 + 1, **how)
        return out

    def ours(low: bool) -> Tensor:
        with torch.no_grad(), precision(low):
            tokens = frozen_prefix.tokens_of(model.git, {"pixel_values": pixels})
            return generation.generate(model, tokens, ids, None, search)

    return {
        "notebook float32": lambda: notebook(False),
        "notebook autocast": lambda: notebook(True),
        "ours float32": lambda: ours(False),
        "ours bfloat16": lambda: ours(True),
    }


def seconds(step: Step) -> float:
    """CPU seconds of one step."""
    start = time.process_time()
    step()
    return time.process_time() - start


def peak(dtype: torch.dtype) -> float:
    """The best rate of a product of GIT-Base's shape, in FLOP a second."""
    x, w = torch.randn(1044, 768, dtype=dtype), torch.randn(3072, 768, dtype=dtype)
    best = min(seconds(lambda: F.linear(x, w)) for _ in range(30))
    return 2 * 1044 * 768 * 3072 / best


def flops(step: Step) -> int:
    """Floating-point operations of the products in one step, counted as torch dispatches them."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def measure(case: str, rounds: int, peaks: dict[bool, float]) -> Iterator[str]:
    """The lines of a case's table."""
    torch.manual_seed(0)
    lm = GitForCausalLM(GitConfig())
    steps = (generations if case in ("greedy", "beam") else trainings)(case, lm)
    counted = {name: flops(step) for name, step in steps.items()}  # and warm-up
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            taken[name].append(seconds(step))
    yield f"{CASES[case]} (goal: {GOALS[case][0]} x float32, {GOALS[case][1]} x autocast)"
    for name, times in taken.items():
        against = ["notebook float32", "notebook autocast"]
        ratios = [[base / own for base, own in zip(taken[other], times, strict=True)] for other in against]
        over = [f"{statistics.median(r):5.2f} [{min(r):.2f}, {max(r):.2f}]" for r in ratios]
        share = counted[name] / min(times) / peaks[name.endswith(("autocast", "bfloat16"))]
        yield f"  {name:18} {statistics.median(times):7.3f} s  {over[0]:19}  {over[1]:19}  {share:4.0%} of peak"
    if case == "lora":
        yield study(lm, {name: statistics.median(times) for name, times in taken.items()})


def study(lm: nn.Module, taken: dict[str, float], runs: int = 24, epochs: int = 5) -> str:
    """An ablation whose runs share one store, computed from the medians of a step: every image is looked at once."""
    pixels = batch()["pixel_values"]
    with torch.no_grad(), precision(True):
        look = min(seconds(lambda: frozen_prefix.tokens_of(lm.git, {"pixel_values": pixels})) for _ in range(3))
    passes = runs * epochs
    ours = passes * taken["ours bfloat16"] + look
    over = [passes * taken[f"notebook {low}"] / ours for low in ("float32", "autocast")]
    return (
        f"  {runs} runs of {epochs} epochs, computed: {over[0]:.2f} x float32, {over[1]:.2f} x autocast; training "
        f"alone, storing an image taken as {look / len(pixels) * 1e3:.0f} ms"
    )


def kernels() -> Iterator[str]:
    """CPU milliseconds of attention, by the two kernels, on the shapes of GIT-Base's image tokens."""
    shape = attention.Shape(64, 197, 0.0)
    for dtype in (torch.float32, torch.bfloat16):
        q, k, v = (torch.randn(4, 197, 768, dtype=dtype, requires_grad=True) for _ in range(3))

        def run(kernel: Kernel, graph: bool, q: Tensor = q, k: Tensor = k, v: Tensor = v) -> None:
            with torch.set_grad_enabled(graph):
                out = kernel(q, k, v, shape, None)
            if graph:
                torch.autograd.grad(out.sum(), (q, k, v))

        for graph in (False, True):
            best = [
                min(seconds(partial(run, kernel, graph)) for _ in range(9)) * 1e3
                for kernel in (attention.products, attention.fused)
            ]
            what = "forward and backward" if graph else "forward"
            yield f"  {dtype!s:15} {what:21} products {best[0]:6.1f} ms, fused {best[1]:6.1f} ms"


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often each variant takes its turn")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), help="what to measure")
    parser.add_argument("--kernels", action="store_true", help="measure attention's two kernels instead")
    asked = parser.parse_args()
    silence_libraries()
    torch.set_num_threads(1)
    print(
        f"load average {os.getloadavg()[0]:.1f}, torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}"
    )
    if asked.kernels:
        print(*kernels(), sep="\n")
        return
    peaks = {low: peak(torch.bfloat16 if low else torch.float32) for low in (False, True)}
    print(f"peak of a product: {peaks[False] / 1e9:.0f} GFLOP/s in float32, {peaks[True] / 1e9:.0f} in bfloat16")
    print(f"  {'':18} {'median':>9}  {'over float32':19}  {'over autocast':19}")
    for case in asked.cases:
        print(*measure(case, asked.rounds, peaks), sep="\n", flush=True)


if __name__ == "__main__":
    main()
