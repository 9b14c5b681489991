"""PyTorch's side of `kindling bench --pytorch PYTHON`: the same networks, trained and evaluated by PyTorch.

    python pytorch_peer.py [--device cpu|cuda] [--threads N] [--tf32]

Kindling starts this and measures its own backends in between. Needs torch 2.6 or newer. Requests are lines of JSON on
stdin; answers are lines of JSON on stdout, where nothing else goes. The first line says what runs here:

    {"torch": "2.9.0", "threads": 2, "device": "cpu", "tf32": false, "variants": ["eager", "channels_last", "compiled"]}

    {"op": "open", "id": 3, "model": "cnn", "channels": [32, 64], "hidden": [128], "batch": 64, "mode": "train",
     "variant": "eager", "data": "gather", "images": 8192, "precision": "f32"}
                                                    {"ok": true, "id": 3, "warm_up_seconds": 0.2}
    {"op": "run", "id": 3, "steps": 20}             {"ok": true, "id": 3, "seconds": 0.9, "loss": 2.3}
    {"op": "close", "id": 3}                        {"ok": true, "id": 3}
    {"op": "matmul", "size": 1024, "repeats": 10}   {"ok": true, "gflops": 180.0}
    {"op": "quit"}                                  no answer; so does the end of stdin

A failure is answered with {"ok": false, "error": "..."} and the request's id. `channels` and `hidden` make the network,
whatever `model` says. `mode` is train or infer (answers "loss": null and "correct": a count), `data` is gather (by
index, in an order shuffled anew each epoch) or slice (in storage order), `precision` is f32, bf16 or f16 of the whole
network; the loss is f32.

Timed are whole steps after warm-up, between idle states of the device. Training: take a batch, forward, cross entropy,
backward, SGD, read the loss back, as a loop that logs does. Inference: take a batch, forward, argmax, read the number
of correct ones back. The images, random ones, lie on the device in the right type and memory format from the start.
Batches are full: the rest of an epoch is dropped.
"""

import argparse
import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

# Compile in this process: torch.compile's pool of workers would run beside the measurements.
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SIDE, CLASSES, LEARNING_RATE = 28, 10, 0.01
WARM_UP_STEPS = 5  # Compiles at the first, records CUDA graphs at the second and third.
MODES, DATA = ["train", "infer"], ["gather", "slice"]
PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
VARIANTS = ["eager", "channels_last", "compiled"]
CUDA_VARIANTS = [*VARIANTS, "compiled_graphs"]
COMPILER_OPTIONS = {"compiled": {}, "compiled_graphs": {"triton.cudagraphs": True}}  # The latter: "reduce-overhead".


@dataclass(frozen=True)
class Spec:
    """What `open` asks for."""

    hidden: list[int]
    channels: list[int]
    batch: int
    mode: str
    variant: str
    data: str
    images: int
    precision: str

    @classmethod
    def parse(cls, request: dict[str, Any], variants: list[str]) -> "Spec":
        spec = cls(**{field.name: need(request, field.name) for field in fields(cls)})
        choices = {"mode": MODES, "variant": variants, "data": DATA, "precision": PRECISIONS}
        for key, allowed in choices.items():
            if request[key] not in allowed:
                raise ValueError(f"{key} must be one of {', '.join(allowed)}, not {request[key]!r}")
        if not 1 <= spec.batch <= spec.images:
            raise ValueError(f"batch must be between 1 and the number of images, not {spec.batch}")
        return spec


def network(channels: list[int], hidden: list[int]) -> nn.Sequential:
    """Kindling's MLP, or with channels its CNN."""
    layers: list[nn.Module] = []
    inputs, side = 1, SIDE
    for outputs in channels:
        convolution = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)
        layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        inputs, side = outputs, side // 2
    layers.append(nn.Flatten())
    inputs *= side * side
    for outputs in hidden:
        layers += [nn.Linear(inputs, outputs), nn.ReLU(inplace=True)]
        inputs = outputs
    return nn.Sequential(*layers, nn.Linear(inputs, CLASSES))


def mean_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images).float(), labels)


def count_correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return (model(images).argmax(dim=1) == labels).sum()


class Case:
    """An opened network with its data."""

    def __init__(self, spec: Spec, device: torch.device) -> None:
        torch.manual_seed(0)
        self.spec, self.device = spec, device
        self.training = spec.mode == "train"
        self.model = network(spec.channels, spec.hidden).to(device, PRECISIONS[spec.precision]).train(self.training)
        self.images = torch.rand(spec.images, 1, SIDE, SIDE, device=device).to(PRECISIONS[spec.precision])
        self.labels = torch.randint(CLASSES, (spec.images,), device=device)
        if spec.variant == "channels_last":
            self.model = self.model.to(memory_format=torch.channels_last)
            self.images = self.images.to(memory_format=torch.channels_last)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE)
        self.forward: Callable[..., Tensor] = mean_loss if self.training else count_correct
        if spec.variant in COMPILER_OPTIONS:
            torch._dynamo.config.recompile_limit = 256  # Each opened case compiles the same function once more.
            # The number of threads is compiled in, but part of the disk cache's key only if it is an option.
            options = {"cpp.threads": torch.get_num_threads(), **COMPILER_OPTIONS[spec.variant]}
            # For fixed shapes, and with an error where the compiler would fall back to eager unseen (fullgraph).
            self.forward = torch.compile(self.forward, options=options, fullgraph=True, dynamic=False)
        self.batches = self.endless_batches()

    def endless_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        batch, full = self.spec.batch, self.spec.images - self.spec.images % self.spec.batch
        while True:
            if self.spec.data == "slice":
                yield from zip(self.images[:full].split(batch), self.labels[:full].split(batch))
            else:
                for chosen in torch.randperm(self.spec.images, device=self.device)[:full].split(batch):
                    yield self.images.index_select(0, chosen), self.labels.index_select(0, chosen)

    def train(self, steps: int) -> dict[str, Any]:
        for _ in range(steps):
            images, labels = next(self.batches)
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.forward(self.model, images, labels)
            loss.backward()
            self.optimizer.step()
            value = loss.item()
        return {"loss": value if abs(value) < float("inf") else None}  # JSON has no NaN.

    @torch.inference_mode()
    def infer(self, steps: int) -> dict[str, Any]:
        correct = 0
        for _ in range(steps):
            images, labels = next(self.batches)
            correct += int(self.forward(self.model, images, labels).item())
        return {"loss": None, "correct": correct}

    def run(self, steps: int) -> dict[str, Any]:
        if steps < 1:
            raise ValueError(f"steps must be 1 or more, not {steps}")
        synchronize(self.device)
        start = time.perf_counter()
        figures = self.train(steps) if self.training else self.infer(steps)
        synchronize(self.device)
        return {"seconds": time.perf_counter() - start, **figures}


class Peer:
    """Answers requests."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.variants = CUDA_VARIANTS if device.type == "cuda" else VARIANTS
        self.cases: dict[Any, Case] = {}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        operation = need(request, "op")
        if operation == "matmul":
            return {"gflops": matmul_gflops(need(request, "size"), need(request, "repeats"), self.device)}
        if operation not in ("open", "run", "close"):
            raise ValueError(f"unknown op {operation!r}")
        identity = need(request, "id")
        if (identity in self.cases) == (operation == "open"):
            raise ValueError(f"id {identity!r} is {'already' if operation == 'open' else 'not'} open")
        if operation == "open":
            case = Case(Spec.parse(request, self.variants), self.device)
            seconds = case.run(WARM_UP_STEPS)["seconds"]
            self.cases[identity] = case
            return {"id": identity, "warm_up_seconds": seconds}
        if operation == "run":
            return {"id": identity, **self.cases[identity].run(need(request, "steps"))}
        del self.cases[identity]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # Kindling's backends need the memory next.
        return {"id": identity}


def matmul_gflops(size: int, repeats: int, device: torch.device) -> float:
    """The best rate of `repeats` products of square f32 matrices."""
    left, right = torch.rand(size, size, device=device), torch.rand(size, size, device=device)
    product = torch.mm(left, right)
    best = float("inf")
    for _ in range(repeats):
        synchronize(device)
        start = time.perf_counter()
        torch.mm(left, right, out=product)
        synchronize(device)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e9


def need(request: dict[str, Any], key: str) -> Any:
    if key not in request:
        raise ValueError(f"{key} is missing")
    return request[key]


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def keep_freed_memory() -> None:
    """Has glibc keep freed tensors' memory, which it returns to the kernel: refaulting is a fifth of a CNN's step.

    Kindling does the same for libtorch, and has an allocator that does for its own tensors.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD, at the most that older versions accept


def main() -> None:
    parser = argparse.ArgumentParser(description="PyTorch's side of `kindling bench --pytorch`.")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="PyTorch's default if not given")
    parser.add_argument("--tf32", action="store_true", help="f32 matrix products may use TF32 tensor cores")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("this PyTorch finds no CUDA device")

    # From here on, what anything prints goes to stderr; only answers go to stdout.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this program without a traceback.
    keep_freed_memory()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    if arguments.tf32:
        torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True  # Shapes are fixed, so cuDNN may search for its fastest kernels once.

    peer = Peer(torch.device(arguments.device))
    device = f"cuda: {torch.cuda.get_device_name()}" if arguments.device == "cuda" else "cpu"
    greeting = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": device}
    print(json.dumps({**greeting, "tf32": arguments.tf32, "variants": peer.variants}), file=output, flush=True)
    for line in sys.stdin.buffer:
        request: Any = None
        try:
            request = json.loads(line)
            if not isinstance(request, dict):
                raise ValueError("a request is a JSON object")
            if request.get("op") == "quit":
                break
            answer = {"ok": True, **peer.answer(request)}
        except Exception as error:  # Whatever PyTorch raises, the next request may do.
            reason = " ".join(str(error).split())[:300] or type(error).__name__
            answer = {"ok": False, "error": reason}
            if isinstance(request, dict) and "id" in request:
                answer["id"] = request["id"]
        print(json.dumps(answer), file=output, flush=True)


if __name__ == "__main__":
    main()
