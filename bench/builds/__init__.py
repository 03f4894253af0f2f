"""Benchmarks of real Zuul builds: scenarios of tests/zuul that measure podbridge and the stock kubectl in one run."""

from builds.bridges import bench_100_pods, bench_idle
from builds.latency import bench_latency
from builds.tasks import bench_silent, bench_tasks

BENCHMARKS = {
    function.__name__: function for function in (bench_latency, bench_tasks, bench_silent, bench_idle, bench_100_pods)
}
