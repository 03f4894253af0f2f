"""List of the benchmarks: scenarios that measure podbridge and stock in one run and print a table."""

from tier.bench.bridges import bench_100_pods, bench_idle
from tier.bench.latency import bench_latency
from tier.bench.tasks import bench_tasks

BENCHMARKS = {function.__name__: function for function in (bench_latency, bench_tasks, bench_idle, bench_100_pods)}
