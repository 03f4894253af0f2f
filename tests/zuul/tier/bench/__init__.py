"""This file owns the list of benchmarks: scenarios that print a table, podbridge beside stock in one run."""

from tier.bench.bridges import bench_100_pods, bench_idle
from tier.bench.latency import bench_latency
from tier.bench.tasks import bench_tasks

BENCHMARKS = {function.__name__: function for function in (bench_latency, bench_tasks, bench_idle, bench_100_pods)}
