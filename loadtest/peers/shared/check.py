"""Checks what peers answer against onnxruntime, run directly in this process on the same files."""

import argparse
import concurrent.futures
import http.client
import pathlib
import signal
import sys
import time
from collections.abc import Callable

import numpy as np
import tritonclient.grpc as triton
from contracts import CONTRACTS, Contract
from engine import Engine
from peer_process import NAMES, PEERS, Running, running
from process_tree import descendants
from tritonclient.utils import np_to_triton_dtype

CALLERS = 8
# Peers that keep the state of a sequence.
KEEP_STATE = ("triton",)
ITEMS = 3
# Absolute: with other batch sizes, sums are added up in another order.
TOLERANCE = 1e-4
# One int8 scale for a whole batch: an item's result depends on what else is in the batch.
TOLERANCE_IN_COMPANY = {"minilm": 0.25}

# From one item's inputs to its outputs; all have a batch axis of one.
Call = Callable[[list[np.ndarray]], list[np.ndarray]]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--models", type=str.split)
    parser.add_argument("peers", nargs="+", choices=NAMES)
    arguments = parser.parse_args()
    # A peer that was started is stopped again.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped"))
    failures = 0
    for peer in arguments.peers:
        for model in arguments.models or CONTRACTS:
            if CONTRACTS[model].kept and peer not in KEEP_STATE:
                continue
            begin = time.monotonic()
            fault = check(peer, CONTRACTS[model])
            print(f"{peer:9} {model:14} {fault or 'ok'} ({time.monotonic() - begin:.1f} s)", flush=True)
            failures += fault is not None
    sys.exit(f"{failures} failed" if failures else 0)


def check(peer: str, contract: Contract) -> str | None:
    """What is wrong, or None."""
    engine = Engine(contract, 1)
    log = PEERS.parents[1] / f".cache/peers/{peer}/check-{contract.name}.log"
    try:
        with running(peer, contract.name, log=log) as server:
            alone = difference(engine, caller(contract, server, 1), seed=1)
            # Several at a time, so that they share batches.
            with concurrent.futures.ThreadPoolExecutor(CALLERS) as pool:
                seeds = range(2, 2 + CALLERS)
                together = max(pool.map(lambda seed: difference(engine, caller(contract, server, seed), seed), seeds))
            processes = descendants(server.pid)
    except (RuntimeError, OSError, http.client.HTTPException, triton.InferenceServerException) as error:
        return f"FAILED: {error}"
    if left := [pid for pid in processes if pathlib.Path(f"/proc/{pid}").exists()]:
        return f"FAILED: processes {left} are left"
    allowed = TOLERANCE_IN_COMPANY.get(contract.name, TOLERANCE)
    if not (alone <= TOLERANCE and together <= allowed):
        return f"FAILED: off by {alone:.2g} alone and {together:.2g} with others"
    return None


def difference(engine: Engine, call: Call, seed: int) -> float:
    """The largest one over some items, each of which takes the state that the previous one gave."""
    contract, random, worst = engine.contract, np.random.default_rng(seed), 0.0
    state = None
    for _ in range(ITEMS):
        inputs = item(contract, random)
        if state is not None:
            inputs[-1] = state
        expected, given = engine.run(inputs), call(inputs)
        if contract.state:
            state = expected[-1]
        # A peer that keeps the state itself does not reveal it.
        pairs = zip(expected, given)
        worst = max(worst, *(float(np.abs(left - right).max()) if left.shape == right.shape else np.inf for left, right in pairs))
    return worst


def item(contract: Contract, random: np.random.Generator) -> list[np.ndarray]:
    inputs = []
    for tensor in contract.inputs:
        shape = (1, *tensor.shape)
        if contract.state and tensor.name == contract.state[0] or tensor.name == "token_type_ids":
            inputs.append(np.zeros(shape, tensor.dtype))
        elif tensor.name == "attention_mask":
            inputs.append(np.ones(shape, tensor.dtype))
        elif tensor.dtype.kind == "i":
            inputs.append(random.integers(0, 256, shape, tensor.dtype))
        else:
            inputs.append(random.uniform(-0.5, 0.5, shape).astype(tensor.dtype))
    return inputs


def caller(contract: Contract, server: Running, seed: int) -> Call:
    if server.grpc is None:
        return lambda inputs: post(contract, server.http, inputs)
    client = triton.InferenceServerClient(server.grpc)
    if contract.kept:
        return sequence(client, contract, seed)
    return lambda inputs: infer(client, contract, inputs, len(contract.outputs))


def sequence(client: triton.InferenceServerClient, contract: Contract, seed: int) -> Call:
    """The server keeps the state: only the first input is sent, and only the first output comes back."""
    sent = 0

    def call(inputs: list[np.ndarray]) -> list[np.ndarray]:
        nonlocal sent
        sent += 1
        place = {"sequence_id": seed, "sequence_start": sent == 1, "sequence_end": sent == ITEMS}
        return infer(client, contract, inputs[:1], 1, **place)

    return call


def infer(
    client: triton.InferenceServerClient, contract: Contract, inputs: list[np.ndarray], outputs: int, **place
) -> list[np.ndarray]:
    tensors = []
    for tensor, array in zip(contract.inputs, inputs):
        made = triton.InferInput(tensor.name, list(array.shape), np_to_triton_dtype(array.dtype))
        tensors.append(made.set_data_from_numpy(array))
    result = client.infer(contract.name, tensors, client_timeout=60, **place)
    return [result.as_numpy(tensor.name) for tensor in contract.outputs[:outputs]]


def post(contract: Contract, address: str, inputs: list[np.ndarray]) -> list[np.ndarray]:
    connection = http.client.HTTPConnection(address, timeout=60)
    try:
        body = b"".join(array.tobytes() for array in inputs)
        connection.request("POST", "/infer", body, {"content-type": "application/octet-stream"})
        response = connection.getresponse()
        answer = response.read()
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise RuntimeError(f"HTTP {response.status}: {answer[:200]!r}")
    if len(answer) != sum(tensor.bytes for tensor in contract.outputs):
        raise RuntimeError(f"an answer of {len(answer)} bytes")
    outputs, begin = [], 0
    for tensor in contract.outputs:
        part = np.frombuffer(answer, tensor.dtype, tensor.size, begin)
        outputs.append(part.reshape(1, *tensor.shape))
        begin += tensor.bytes
    return outputs


if __name__ == "__main__":
    main()
