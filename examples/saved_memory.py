"""What a step of training keeps in memory and how long it takes: plain, in eight bits, checkpointed, and with both.

python saved_memory.py MODEL... [--batch-size N] [--size N] [--steps N]

It runs on one core of the CPU: times are seconds of that core, whatever else the machine does, of the fastest of some
steps that take turns. Memory is what the forward pass has saved at its end, without parameters, and by how much the
process then grows at its highest, with the gradients there already.
"""

import argparse
import multiprocessing
import resource
import time
from pathlib import Path

import timm
import torch
from torch.autograd.graph import saved_tensors_hooks

import spectral_backbones  # noqa: F401  registers its models with timm
from spectral_backbones.methods import eight_bit
from spectral_backbones.methods.eight_bit import keep_eight_bits

WAYS = {"plain": (), "eight bits": ("bits",), "checkpointed": ("blocks",), "both": ("bits", "blocks")}


def build(name: str, size: int) -> torch.nn.Module:
    """A model with the same values each time."""
    torch.manual_seed(0)
    try:
        return timm.create_model(name, img_size=size).train()
    except TypeError:
        return timm.create_model(name).train()


def step(model: torch.nn.Module, x: torch.Tensor, way: str) -> float:
    """Seconds of one step."""
    model.zero_grad()
    model.set_grad_checkpointing("blocks" in WAYS[way])
    undo = keep_eight_bits(model) if "bits" in WAYS[way] else None
    begin = time.process_time()
    model(x).square().mean().backward()
    seconds = time.process_time() - begin
    if undo:
        undo()
    return seconds


def saved(model: torch.nn.Module, x: torch.Tensor, way: str) -> int:
    """Bytes that the forward pass has saved at its end."""
    bits, found, held = "bits" in WAYS[way], {}, []
    keeper = eight_bit._Keeper()

    def pack(tensor):
        kept = keeper.pack(tensor) if bits else tensor.detach()
        if isinstance(kept, eight_bit.Kept):
            found[id(kept.codes)] = kept.codes.nbytes
        elif kept.data_ptr() != tensor.data_ptr():  # a small one that was put elsewhere
            found[kept.data_ptr()] = kept.nbytes
        elif not isinstance(tensor, torch.nn.Parameter) and not eight_bit._is_of_parameter(tensor):
            found[kept.untyped_storage().data_ptr()] = kept.untyped_storage().nbytes()
        held.append(kept)  # so that no number is given away again
        return kept

    model.set_grad_checkpointing("blocks" in WAYS[way])
    with saved_tensors_hooks(pack, eight_bit._unpack), eight_bit._ExactComparisons(keeper):
        model(x)
    return sum(found.values())


def grown(name: str, shape: tuple, size: int, way: str, result: multiprocessing.SimpleQueue) -> None:
    """Puts the megabytes by which this process grows at its highest in one step, after a small one."""
    torch.set_num_threads(1)
    model, x = build(name, size), torch.randn(shape)
    step(model, x[:2], way)  # code that is loaded, gradients, plans
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    step(model, x, way)
    result.put((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / 1e6)


def main() -> None:
    """Prints a row for each model and way."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--batch-size", type=int, default=2)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shape = (args.batch_size, 3, args.size, args.size)
    print("| model | way | saved, MB | process, MB | seconds | to plain |\n| --- | --- | --- | --- | --- | --- |")
    for name in args.models:
        peaks, context = {}, multiprocessing.get_context("spawn")
        for way in WAYS:
            result = context.SimpleQueue()
            child = context.Process(target=grown, args=(name, shape, args.size, way, result))
            child.start()
            peaks[way] = result.get()
            child.join()
        model, x = build(name, args.size), torch.randn(shape)
        kept = {way: saved(model, x, way) / 1e6 for way in WAYS}
        rounds = [{way: step(model, x, way) for way in WAYS} for _ in range(args.steps)]
        fastest = {way: min(one[way] for one in rounds) for way in WAYS}
        for way in WAYS:
            ratio = fastest[way] / fastest["plain"]
            print(
                f"| {name} | {way} | {kept[way]:.0f} | {peaks[way]:.0f} | {fastest[way]:.2f} | {ratio:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
