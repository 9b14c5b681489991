"""PyTorch's side of `kindling bench --pytorch PYTHON`: the same networks, trained and evaluated by PyTorch.

    python pytorch_peer.py [--device cpu|cuda] [--threads N] [--tf32]

Kindling starts this and measures its own backends in between. Needs torch 2.6 or newer. Requests are lines of JSON on
stdin; answers are lines of JSON on stdout, where nothing else goes. The first line says what runs here:

    {"torch": "2.9.0", "python": "3.12.1", "threads": 2, "device": "cpu", "tf32": false,
     "variants": ["eager", "channels_last", "compiled"]}

A network is described by its section of a config, `network`, whose name begins with mlp, cnn, resnet, wrn or
airbench; by `image`, the channels, height and width; and by `classes`, `optimizer` (its section of a config) and
`precision`: f32, bf16 or f16 of the whole network. The loss is f32. Products of f32 are TF32 with `--tf32` alone, and
never in a `check`.

    {"op": "check", "network": {"name": "cnn", "channels": [32, 64], "hidden": 128}, "image": [1, 28, 28],
     "classes": 10, "optimizer": {"name": "sgd", "learning_rate": 0.01, "weight_decay": 0.0}, "precision": "f32",
     "weights": "weights.safetensors", "pixels": "images.f32", "targets": [3, 7]}
                                    {"ok": true, "parameters": 421834, "losses": [2.31, 2.3, 2.29]}
    {"op": "open", "id": 3, "network": ..., "image": ..., "classes": ..., "optimizer": ..., "precision": ...,
     "batch": 64, "mode": "train", "variant": "eager", "data": "gather", "images": 8192}
                                                    {"ok": true, "id": 3, "warm_up_seconds": 0.2}
    {"op": "run", "id": 3, "steps": 20}             {"ok": true, "id": 3, "seconds": 0.9, "loss": 2.3}
    {"op": "close", "id": 3}                        {"ok": true, "id": 3}
    {"op": "quit"}                                  no answer; so does the end of stdin

A failure is answered with {"ok": false, "error": "..."} and the request's id.

`check` loads the weights, which must be exactly the network's, and answers the number of trainable parameters and three
mean losses of a batch: in training, in evaluation with the running statistics that this left, and in training after one
step of the optimizer.

`mode` is train or infer (answers "loss": null and "correct": a count), `data` is gather (by index, in an order shuffled
anew each epoch) or slice (in storage order). Timed are whole steps after warm-up, between idle states of the device.
Training: take a batch, forward, cross entropy, backward, optimizer step. Inference: take a batch, forward, argmax,
count the correct ones. Losses and counts are read back in each step on a CPU, where that costs nothing, and are summed
on a GPU and read at the end of a run, as Kindling's own loop does. The images, random ones, lie on the device in the
right type and memory format from the start. Batches are full: the rest of an epoch is dropped.

Variants: eager; channels_last; compiled, torch.compile for fixed shapes; on CUDA compiled_graphs, the same in mode
"reduce-overhead", and cuda_graphs, where a whole step (batch, forward, backward, optimizer) of eager mode is one graph.
"""

import argparse
import ctypes
import functools
import json
import os
import platform
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Any

if "cuda" not in sys.argv:
    # Compile in this process: torch.compile's pool of workers would run beside the measurements.
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pytorch_networks import NETWORKS

WARM_UP_STEPS = 5  # Compiles at the first, records CUDA graphs at the second and third.
MODES, DATA = ["train", "infer"], ["gather", "slice"]
PRECISIONS = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
VARIANTS = ["eager", "channels_last", "compiled"]
CUDA_VARIANTS = [*VARIANTS, "compiled_graphs", "cuda_graphs"]
COMPILER_OPTIONS = {"compiled": {}, "compiled_graphs": {"triton.cudagraphs": True}}  # The latter: "reduce-overhead".


@dataclass(frozen=True)
class Described:
    """A network, and how it is trained."""

    network: dict[str, Any]
    image: list[int]
    classes: int
    optimizer: dict[str, Any]
    precision: str

    def init(self, device: torch.device) -> nn.Module:
        name, (channels, height, width) = need(self.network, "name"), self.image
        kind = name.split("-")[0]
        if kind not in NETWORKS:
            raise ValueError(f"PyTorch's program has the networks {', '.join(NETWORKS)} alone (got `{name}`)")
        keys = {key: value for key, value in self.network.items() if key != "name"}
        network = NETWORKS[kind](channels, height, width, self.classes, **keys)
        return network.to(device, PRECISIONS[self.precision])

    def init_optimizer(self, model: nn.Module, capturable: bool = False) -> torch.optim.Optimizer:
        options = dict(self.optimizer)
        name = options.pop("name")
        options["lr"] = options.pop("learning_rate")
        if name in ("adam", "adamw"):
            options["betas"] = options.pop("beta_1"), options.pop("beta_2")
            options.update(eps=options.pop("epsilon"), capturable=capturable)
        sgd, adam, adamw = torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW
        kinds = {"sgd": sgd, "momentum": sgd, "adam": adam, "adamw": adamw}
        if name not in kinds:
            raise ValueError(f"PyTorch's program has the optimizers {', '.join(kinds)} alone (got `{name}`)")
        return kinds[name]((parameter for parameter in model.parameters() if parameter.requires_grad), **options)


@dataclass(frozen=True)
class Spec(Described):
    """What `open` asks for."""

    batch: int
    mode: str
    variant: str
    data: str
    images: int


def parse(kind: type[Described], request: dict[str, Any], variants: list[str]) -> Any:
    spec = kind(**{field.name: need(request, field.name) for field in fields(kind)})
    choices = {"mode": MODES, "variant": variants, "data": DATA, "precision": PRECISIONS}
    for key, allowed in choices.items():
        if hasattr(spec, key) and getattr(spec, key) not in allowed:
            raise ValueError(f"{key} must be one of {', '.join(allowed)}, not {getattr(spec, key)!r}")
    if isinstance(spec, Spec) and not 1 <= spec.batch <= spec.images:
        raise ValueError(f"batch must be between 1 and the number of images, not {spec.batch}")
    return spec


def mean_loss(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return F.cross_entropy(model(images).float(), labels)


def count_correct(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return (model(images).argmax(dim=1) == labels).sum()


@functools.lru_cache(maxsize=2)  # The variants of a network take the same ones.
def random_data(
    image: tuple[int, ...], classes: int, count: int, precision: str, is_last: bool, device: torch.device
) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    images = torch.rand(count, *image, device=device).to(PRECISIONS[precision])
    if is_last:
        images = images.to(memory_format=torch.channels_last)
    return images, torch.randint(classes, (count,), device=device)


class Case:
    """An opened network with its data."""

    def __init__(self, spec: Spec, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self.training = spec.mode == "train"
        is_last, is_graph = spec.variant == "channels_last", spec.variant == "cuda_graphs"
        about = (tuple(spec.image), spec.classes, spec.images, spec.precision)
        self.images, self.labels = random_data(*about, is_last, device)
        torch.manual_seed(0)
        self.model = spec.init(device).train(self.training)
        if is_last:
            self.model = self.model.to(memory_format=torch.channels_last)
        self.optimizer = spec.init_optimizer(self.model, is_graph)
        self.forward: Callable[..., Tensor] = mean_loss if self.training else count_correct
        if spec.variant in COMPILER_OPTIONS:
            torch._dynamo.config.recompile_limit = 256  # Each opened case compiles the same function once more.
            # The number of threads is compiled in, but part of the disk cache's key only if it is an option.
            options = {"cpp.threads": torch.get_num_threads(), **COMPILER_OPTIONS[spec.variant]}
            # For fixed shapes, and with an error where the compiler would fall back to eager unseen (fullgraph).
            self.forward = torch.compile(self.forward, options=options, fullgraph=True, dynamic=False)
        # The sum of what a GPU's steps found.
        self.total = torch.zeros((), dtype=torch.float32 if self.training else torch.int64, device=device)
        self.orders, self.graph = self.endless_orders(), None
        if is_graph:
            self.capture()

    def endless_orders(self) -> Iterator[Tensor | slice]:
        """The images of one batch after the other."""
        batch, full = self.spec.batch, self.spec.images - self.spec.images % self.spec.batch
        while True:
            if self.spec.data == "gather":
                yield from torch.randperm(self.spec.images, device=self.device)[:full].split(batch)
            else:
                yield from (slice(first, first + batch) for first in range(0, full, batch))

    def step(self, chosen: Tensor | slice) -> Tensor:
        if isinstance(chosen, slice):
            images, labels = self.images[chosen], self.labels[chosen]
        else:
            images, labels = self.images.index_select(0, chosen), self.labels.index_select(0, chosen)
        if not self.training:
            return self.forward(self.model, images, labels)
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.forward(self.model, images, labels)
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def capture(self) -> None:
        """Makes a graph of a step, which takes its images from `chosen`."""
        self.chosen = torch.arange(self.spec.batch, device=self.device)
        with torch.inference_mode(not self.training):
            side = torch.cuda.Stream()
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):  # What is allocated at the first steps must not be part of the graph.
                for _ in range(3):
                    self.total += self.step(self.chosen)
            torch.cuda.current_stream().wait_stream(side)
            self.graph = torch.cuda.CUDAGraph()
            self.optimizer.zero_grad(set_to_none=True)
            with torch.cuda.graph(self.graph):
                self.total += self.step(self.chosen)

    def steps(self, count: int) -> float:
        """Takes so many steps, and returns the loss of the last, or their mean, or the number of correct images."""
        if self.device.type != "cuda":
            found = [self.step(next(self.orders)).item() for _ in range(count)]
            return found[-1] if self.training else sum(found)
        self.total.zero_()
        for _ in range(count):
            chosen = next(self.orders)
            if self.graph is None:
                self.total += self.step(chosen)
            else:
                if isinstance(chosen, slice):
                    torch.arange(chosen.start, chosen.stop, out=self.chosen)
                else:
                    self.chosen.copy_(chosen)
                self.graph.replay()
        return self.total.item() / (count if self.training else 1)

    def run(self, steps: int) -> dict[str, Any]:
        if steps < 1:
            raise ValueError(f"steps must be 1 or more, not {steps}")
        synchronize(self.device)
        start = time.perf_counter()
        with torch.inference_mode(not self.training):
            found = self.steps(steps)
        synchronize(self.device)
        seconds = time.perf_counter() - start
        return {"seconds": seconds, **({"loss": finite(found)} if self.training else {"loss": None, "correct": found})}


def check(spec: Described, request: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """The losses of a step from given weights."""
    model = spec.init(device)
    # Batch norms count batches, for an average that this one is not; Kindling does not.
    given = read_safetensors(need(request, "weights"), device)
    counts = [name for name in model.state_dict() if name.endswith("num_batches_tracked")]
    model.load_state_dict({**given, **{name: torch.zeros((), dtype=torch.int64) for name in counts}}, strict=True)
    targets = torch.tensor(need(request, "targets"), device=device)
    with open(need(request, "pixels"), "rb") as file:
        pixels = torch.frombuffer(bytearray(file.read()), dtype=torch.float32)
    images = pixels.reshape(len(targets), *spec.image).to(device, PRECISIONS[spec.precision])
    optimizer = spec.init_optimizer(model)
    first = mean_loss(model.train(), images, targets)
    with torch.no_grad():
        evaluated = mean_loss(model.eval(), images, targets)
    first.backward()
    optimizer.step()
    after = mean_loss(model.train(), images, targets)
    trainable = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return {"parameters": trainable, "losses": [finite(loss.item()) for loss in (first, evaluated, after)]}


def read_safetensors(path: str, device: torch.device) -> dict[str, Tensor]:
    """The tensors of a file in f32, without the package of that name."""
    with open(path, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
        data = bytearray(file.read())
    header.pop("__metadata__", None)
    tensors = {}
    for name, about in header.items():
        if about["dtype"] != "F32":
            raise ValueError(f"{name} must be F32, not {about['dtype']}")
        begin, end = about["data_offsets"]
        numbers = torch.frombuffer(data, dtype=torch.float32, count=(end - begin) // 4, offset=begin)
        tensors[name] = numbers.reshape(about["shape"]).to(device)
    return tensors


def finite(number: float) -> float | None:
    return number if abs(number) < float("inf") else None  # JSON has no NaN.


class Peer:
    """Answers requests."""

    def __init__(self, device: torch.device, tf32: bool) -> None:
        self.device, self.tf32 = device, tf32
        self.variants = CUDA_VARIANTS if device.type == "cuda" else VARIANTS
        self.cases: dict[Any, Case] = {}
        self.allow_tf32(tf32)

    def allow_tf32(self, is_allowed: bool) -> None:
        if self.device.type == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = is_allowed

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        operation = need(request, "op")
        if operation == "check":
            self.allow_tf32(False)
            try:
                return check(parse(Described, request, self.variants), request, self.device)
            finally:
                self.allow_tf32(self.tf32)
        if operation not in ("open", "run", "close"):
            raise ValueError(f"unknown op {operation!r}")
        identity = need(request, "id")
        if (identity in self.cases) == (operation == "open"):
            raise ValueError(f"id {identity!r} is {'already' if operation == 'open' else 'not'} open")
        if operation == "open":
            case = Case(parse(Spec, request, self.variants), self.device)
            seconds = case.run(WARM_UP_STEPS)["seconds"]
            self.cases[identity] = case
            return {"id": identity, "warm_up_seconds": seconds}
        if operation == "run":
            return {"id": identity, **self.cases[identity].run(need(request, "steps"))}
        del self.cases[identity]
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # Kindling's backends need the memory next.
        return {"id": identity}


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
    parser.add_argument("--tf32", action="store_true", help="what is timed may take TF32 for products of f32 on CUDA")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("this PyTorch finds no CUDA device")

    # From here on, what anything prints goes to stderr; only answers go to stdout.
    output = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this program without a traceback.
    warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32")
    keep_freed_memory()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    torch.backends.cudnn.benchmark = True  # Shapes are fixed, so cuDNN may search for its fastest kernels once.

    peer = Peer(torch.device(arguments.device), arguments.tf32)
    device = f"cuda: {torch.cuda.get_device_name()}" if arguments.device == "cuda" else "cpu"
    greeting = {"torch": torch.__version__, "python": platform.python_version(), "threads": torch.get_num_threads()}
    greeting |= {"device": device, "tf32": arguments.tf32, "variants": peer.variants}
    print(json.dumps(greeting), file=output, flush=True)
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
