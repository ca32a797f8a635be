"""A few cells of the benchmark study by its own command, for a process to be killed."""

import sys

from dllm_tutorial import bench_study

CELLS = [
    bench_study.cell("exact", task, "random", k, n=n, temperature=1, instances=50)
    for task in ("shuffle", "replace_random")
    for n in (3, 5, 8)
    for k in (1, 2, 4)
]


def main() -> None:
    bench_study.STUDIES = {"bench_small": (bench_study.measure, lambda: CELLS)}
    bench_study.main(sys.argv[1:])


if __name__ == "__main__":
    main()
