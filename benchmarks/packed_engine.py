"""The packed engine beside torch, ONNX Runtime, OpenVINO and NumPy: python benchmarks/packed_engine.py

Single steps through a stream, one sequence, and batches, on one thread and on two; each beside the ratio to the fastest
peer that is asked of it. NumPy is left out on two threads: its BLAS keeps one spinning for long, on everybody's cores.
--json FILE keeps the figures, --plot FILE draws them, --markdown FILE writes the table of the README.
"""

import argparse
import json

from cgru import bench

PEERS = ("torch", "onnxruntime", "openvino", "NumPy loop")


def step(hidden):
    return bench.Case("one step", 0, 1, hidden, hidden)


def sequence(hidden, steps=100):
    return bench.Case(f"B 1, T {steps}", steps, 1, hidden, hidden)


def batch(size, steps, hidden):
    return bench.Case(f"B {size}, T {steps}", steps, size, hidden, hidden)


ASKED = [  # case, threads, ratio
    *((step(h), 1, r) for h, r in {32: 20, 64: 14, 128: 5, 256: 3}.items()),
    *((sequence(h), 1, r) for h, r in {32: 4, 64: 3, 128: 1.8, 256: 1.7, 512: 1.5}.items()),
    (sequence(512), 2, 2.0),
    (sequence(1024, 50), 2, 1.4),
    (batch(32, 100, 128), 1, 1.15),
    (batch(64, 50, 256), 1, 1.0),
    (batch(64, 50, 512), 1, 1.05),
    (batch(32, 100, 128), 2, 1.3),
    (batch(64, 50, 256), 2, 1.15),
    (batch(64, 50, 512), 2, 1.3),
]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each contender and case")
    parser.add_argument("--threads", type=int, choices=[1, 2], help="only the cases on so many threads")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--plot", metavar="FILE", help="of the cases on one thread")
    parser.add_argument("--markdown", metavar="FILE")
    arguments = parser.parse_args()
    names = ["cgru", *(name for name in PEERS if name in bench.installed())]
    print(
        "microseconds a call, float32, I = H, medians of interleaved rounds. ratio: the fastest peer's time to cgru's;"
    )
    print(
        "possible: to the floor, the time of the arithmetic and of reading the weights, measured in the same rounds\n"
    )
    columns = (f"{name:>11}" for name in names)
    print(
        f"{'case':12} {'H':>5} {'threads':>7}", *columns, f"{'ratio':>6} {'asked':>6} {'possible':>8} {'of floor':>8}"
    )
    rows, kept = [], []
    for case, threads, asked in ASKED:
        if arguments.threads not in (None, threads):
            continue
        present = names if threads == 1 else [name for name in names if name != "NumPy loop"]
        row = bench.measure(case, present, threads, arguments.seconds, rounds=21)
        ratio, possible = row.peer / row.seconds["cgru"], row.peer / row.floor
        times = (f"{row.seconds[name] * 1e6:11,.2f}" if name in row.seconds else f"{'-':>11}" for name in names)
        print(f"{case.name:12} {case.hidden:5} {threads:7}", *times, f"{ratio:6.2f} {asked:6} {possible:8.2f}",
              f"{ratio / possible:8.2f}", flush=True)  # fmt: skip
        kept.append(
            {
                **bench.as_json([row], threads)["rows"][0],
                "threads": threads,
                "ratio": ratio,
                "asked": asked,
                "possible": possible,
            }
        )
        if threads == 1:
            rows.append(row)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(kept, file, indent=2)
    if arguments.markdown:
        with open(arguments.markdown, "w") as file:
            file.write(markdown(kept, names))
    if arguments.plot:
        bench.plot(rows, arguments.plot, 1)


def markdown(kept, names):
    """The table as Markdown, a line a case; the fastest time of a line is bold."""
    lines = [
        f"| case | H | threads | {' | '.join(names)} | ratio | possible |",
        "| --- " + "| ---: " * (len(names) + 4) + "|",
    ]
    for row in kept:
        fastest = min(row["times"].values())
        cells = ["-" if name not in row["times"] else f"{row['times'][name]:,.{1 if row['times'][name] < 100 else 0}f}"
                 for name in names]  # fmt: skip
        if row["times"]["cgru"] < 10:
            cells[0] = f"{row['times']['cgru']:.2f}"
        cells = [
            f"**{cell}**" if row["times"].get(name) == fastest else cell
            for name, cell in zip(names, cells, strict=True)
        ]
        figures = f"{row['ratio']:.2f} | {row['possible']:.2f}"
        lines.append(f"| {row['name']} | {row['hidden']} | {row['threads']} | {' | '.join(cells)} | {figures} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
