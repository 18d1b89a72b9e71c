"""Whether a round costs what its active clients do: 100, 1,000 and 10,000 clients, ten of them active.

    python benchmarks/many_clients.py

MNIST, level e. An active client takes as many local steps whatever the number of clients: it has fewer
images and sees them in more local epochs. Each federation lives in a process of its own. Prints seconds a
round, peak memory, and their ratios to those of 100 clients.
"""

import json
import statistics
import subprocess
import sys
import time

CLIENTS = (100, 1_000, 10_000)
BATCH = 6  # divides the images of a client: 600, 60 and 6
STEPS = 100  # of each active client
ROUNDS = 12
"""Of which the first is not counted: it warms up. All run in this process, whose memory is measured."""


def measure(num_clients: int) -> dict[str, float]:
    """Seconds to set the federation up, median seconds a round, and peak memory in MB."""
    from heterofl_core.clients import peak_memory_mb
    from heterofl_core.federation import Federation
    from heterofl_core.params import run_params

    params = run_params(
        dataset="mnist",
        levels="e",
        num_clients=num_clients,
        participation=10 / num_clients,
        batch_size=BATCH,
        local_epochs=STEPS * BATCH * num_clients // 60_000,
    )
    started = time.perf_counter()
    federation = Federation(params)
    ready = time.perf_counter()
    weights, seconds = federation.initial_weights(), []
    for number in range(1, ROUNDS + 1):
        before = time.perf_counter()
        weights, _ = federation.run_round(weights, number, workers=1)
        seconds.append(time.perf_counter() - before)
    federation.evaluate(weights, workers=1)
    return {
        "set-up (s)": ready - started,
        "round (s)": statistics.median(seconds[1:]),
        "memory (MB)": peak_memory_mb(),
    }


def main() -> None:
    """Measures each number of clients in a process of its own and prints a table."""
    if len(sys.argv) > 1:
        print(json.dumps(measure(int(sys.argv[1]))))
        return
    print(" clients  set-up (s)  round (s)  ratio  memory (MB)  ratio")
    first: dict[str, float] = {}
    for num_clients in CLIENTS:
        command = [sys.executable, __file__, str(num_clients)]
        found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        first = first or found
        ratio = {name: value / first[name] for name, value in found.items()}
        print(
            f"{num_clients:8,}  {found['set-up (s)']:10.2f}  {found['round (s)']:9.3f}  "
            f"{ratio['round (s)']:5.2f}  {found['memory (MB)']:11.0f}  {ratio['memory (MB)']:5.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
