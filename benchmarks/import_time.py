"""What `import cgru` adds to importing NumPy: python benchmarks/import_time.py"""

import statistics
import subprocess
import sys

CODE = "import numpy, time; start = time.perf_counter(); import cgru; print((time.perf_counter() - start) * 1e3)"


def main():
    command = [sys.executable, "-c", CODE]
    times = [float(subprocess.run(command, capture_output=True, text=True).stdout) for _ in range(22)][1:]
    median = statistics.median(times)
    print(f"import cgru after numpy: median {median:.1f} ms, worst {max(times):.1f} ms (asked: below 20)")


if __name__ == "__main__":
    main()
