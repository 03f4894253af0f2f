"""Tests of the report: goals, tables and plots of a few rows, and files that were changed by hand."""

import json
import sys
import tempfile
import unittest
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from results import pages, tables  # noqa: E402
from results.goals import Goal, Goals  # noqa: E402
from results.rows import Results, number  # noqa: E402
from suite.rows import Failed, Rows, merge, read  # noqa: E402
from suite.workloads import AREA_OF, LABELS, UNITS  # noqa: E402


def row(workload, peer, link, *samples, why=None):
    rows = Rows()
    rows.add(workload, peer, link, *samples)
    if why:
        rows.failed(workload, peer, link, why)
    return {**rows.rows()[0], "run": 1}


def results(*rows):
    return Results([], list(rows))


class GoalsTest(unittest.TestCase):
    # Rows as (workload, peer, link, median); the goal as (what, link) with its value and verdict.
    TABLE = [
        ([("command-20", "podbridge", "direct", 30), ("command-20", "null", "none", 20)], "× null", 1.5, "met"),
        (
            [("command-20", "podbridge", "direct", 40), ("command-20", "null", "none", 20)],
            "× null",
            2,
            "missed by 18 %",
        ),
        ([("command-20", "podbridge", "direct", 40)], "× null", None, "no figure"),
        (
            [("command-20", "podbridge", "direct", 50), ("command-20", "kubectl-zuul", "api", 500)],
            "kubectl as Zuul sets it ÷ podbridge",
            10,
            "missed by 50 %",
        ),
        (
            [("setup", "podbridge", "direct", 70), ("setup", "ssh", "ssh", 100), ("setup", "null", "none", 1)],
            "× ssh, mux, pipelined",
            0.7,
            "met",
        ),
        (
            [
                ("copy-large", "podbridge", "direct", 700),
                ("copy-large", "null", "none", 300),
                ("copy-large", "tls", "tcp", 200),
            ],
            "× (null + 1.3 of a stream over the link)",
            700 / 560,
            "missed by 25 %",
        ),
        (
            [("rate-out", "podbridge", "direct", 900), ("rate-out", "tls", "tcp", 1000)],
            "of a TLS stream",
            0.9,
            "met",
        ),
        ([("memory-warm", "podbridge", "direct", 24)], "MB", 24, "missed by 20 %"),
    ]

    def test_each_row_of_the_table(self):
        for rows, what, value, verdict in self.TABLE:
            with self.subTest(what=what, verdict=verdict):
                found = Goals(results(*(row(*each) for each in rows))).all()
                (goal,) = [goal for goal in found if goal.what == what and goal.link == "direct"]
                self.assertEqual((goal.value, goal.verdict), (value, verdict))

    def test_a_goal_of_a_workload_that_was_not_measured_is_left_out(self):
        self.assertEqual(Goals(results(row("raw", "null", "none", 1))).all()[0].verdict, "no figure")
        self.assertEqual(Goals(results()).all(), [])

    def test_every_goal_can_be_missed(self):
        self.assertFalse(Goal("w", "direct", "x", 2, 1).is_met)
        self.assertFalse(Goal("w", "direct", "x", 1, 2, at_least=True).is_met)
        self.assertFalse(Goal("w", "direct", "x", None, 2).is_met)


class RowsTest(unittest.TestCase):
    def test_a_row_is_the_median_and_the_spread(self):
        made = row("raw", "ssh", "ssh", 3, 1, 2.00005)
        self.assertEqual(
            {key: made[key] for key in ("median", "low", "high", "n")}, {"median": 2.0, "low": 1, "high": 3, "n": 3}
        )
        self.assertEqual(made["unit"], "ms per task")

    def test_a_peer_that_fails_has_a_row_that_says_why(self):
        def fail():
            raise Failed("no such\nprogram: '/tmp/x/y.z/kubectl': /memory/file")

        rows = Rows()
        with mock.patch("suite.rows.say"):
            rows.measure(["copy-large", "fetch-large"], "tls", "tcp", fail)
        self.assertEqual([(each["workload"], each["n"], each["why"]) for each in rows.rows()], [
            ("copy-large", 0, "no such program: '…/kubectl': /memory/file"),
            ("fetch-large", 0, "no such program: '…/kubectl': /memory/file"),
        ])  # fmt: skip

    def test_a_run_of_some_workloads_keeps_the_other_rows(self):
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "made" / "latest.json"
            merge(path, read(path), {"date": "a"}, [row("raw", "ssh", "ssh", 1), row("loop", "ssh", "ssh", 1)])
            merge(path, read(path), {"date": "b"}, [row("raw", "ssh", "ssh", 2)])
            document = json.loads(path.read_text())
            self.assertEqual([(each["workload"], each["median"], each["run"]) for each in document["rows"]], [
                ("loop", 1, 1),
                ("raw", 2, 2),
            ])  # fmt: skip
            merge(path, read(path), {"date": "c"}, [row("raw", "ssh", "ssh", 2), row("loop", "ssh", "ssh", 1)])
            self.assertEqual([run["date"] for run in json.loads(path.read_text())["runs"]], ["c"])


class TextsTest(unittest.TestCase):
    def test_numbers(self):
        table = [(0, "0"), (1.5, "1.50"), (0.123456, "0.123"), (12.34, "12.3"), (149.6, "150"), (1780.4, "1,780")]
        for value, text in table:
            with self.subTest(value=value):
                self.assertEqual(number(value), text)

    def test_a_table_has_the_best_peer_in_bold_and_notes(self):
        missing = {**row("raw", "ssh", "ssh", 1), "n": 0, "median": None, "low": None, "high": None, "why": "a | b"}
        rows = [row("raw", "null", "none", 1), row("raw", "podbridge", "direct", 2, 3, 4), missing]
        text = tables.table(results(*rows), ["raw", "loop"])
        self.assertIn("| **3.00** (2.00–4.00) | 1.00 | – (1) |", text)
        self.assertIn("\n1. `raw`, ssh, mux, pipelined: a \\| b\n", text)
        self.assertNotIn("loop", text)

    def test_a_file_that_was_changed_by_hand_is_found(self):
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            (root / "docs/bench").mkdir(parents=True)
            (root / "README.md").write_text(f"a\n{pages.BEGIN}\n{pages.END}\nb\n")
            merge(
                root / "docs/bench/latest.json",
                read(root / "none"),
                RUN,
                [row("command-20", "podbridge", "direct", 30, 31), row("command-20", "kubectl-zuul", "api", 700)],
            )
            pages.write(root)
            self.assertEqual(pages.differences(root), [])
            self.assertIn("| `command`, 20 tasks, ms per task | 700 |  |  | 30.5 |", (root / "README.md").read_text())
            for name in ("README.md", "docs/bench/README.md", "docs/bench/tasks.svg"):
                text = (root / name).read_text()
                (root / name).write_text(text.replace("30.5", "29.5"))
                self.assertEqual(pages.differences(root), [name])
                (root / name).write_text(text)
            (root / "docs/bench/old.svg").write_text("")
            self.assertEqual(pages.differences(root), ["docs/bench/old.svg"])

    def test_every_workload_is_in_a_section(self):
        shown = [name for _heading, workloads, _text in pages.SECTIONS.values() for name in workloads]
        self.assertEqual(sorted(shown), sorted(AREA_OF))
        self.assertEqual(set(LABELS), set(UNITS))


RUN = {
    **{
        "date": "d",
        "minutes": 1,
        "commit": "c",
        "load": 0.1,
        "machine": "m",
        "versions": {"a": "1"},
        "areas": ["command"],
    },
    "quick": True,
}

if __name__ == "__main__":
    unittest.main()
