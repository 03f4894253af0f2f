//! What `podbridge bench` prints: a table for people, or JSON rows for programs.

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::json;

use crate::commands::bench::peer::Taken;

/// The runs of one workload through one program.
pub(super) struct Row {
    workload: String,
    peer: &'static str,
    times: Vec<Duration>,
    processor: Duration,
}

impl Row {
    pub(super) fn new(workload: String, peer: &'static str) -> Self {
        Self {
            workload,
            peer,
            times: Vec::new(),
            processor: Duration::ZERO,
        }
    }

    pub(super) fn add(&mut self, taken: Taken) {
        self.times.push(taken.time);
        self.times.sort_unstable();
        self.processor += taken.processor;
    }

    /// Returns median, lowest and highest time in milliseconds.
    fn spread(&self) -> [f64; 3] {
        let milliseconds = |time: Option<&Duration>| time.map_or(0.0, |time| time.as_secs_f64() * 1e3);
        let median = self.times.get(self.times.len() / 2);
        [median, self.times.first(), self.times.last()].map(milliseconds)
    }

    /// Returns the processor time of one run in milliseconds, which is exact to the kernel's clock tick divided by the number of runs.
    fn processor(&self) -> f64 {
        self.processor.as_secs_f64() * 1e3 / self.times.len().max(1) as f64
    }
}

/// Returns the table. Rows of one workload stand one after the other: podbridge, then kubectl.
pub(super) fn table(rows: &[Row], link: &str, pod: &str) -> String {
    let mut text = format!(
        "pod {pod}, link {link}, podbridge {}; whole processes in turns, median (lowest to highest)\n\n",
        env!("CARGO_PKG_VERSION")
    );
    let mut line = |work: &str, own: &str, other: &str, ratio: &str| {
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{work:30}{own:33}{other:33}{ratio:>6}");
    };
    line("", "podbridge", "kubectl", "ratio");
    for pair in rows.chunks_exact(2) {
        let [own, other] = [&pair[0], &pair[1]];
        let times = |row: &Row| {
            let [median, low, high] = row.spread();
            format!("{} ({} to {})", shown(median), shown(low), shown(high))
        };
        let ratio = |own: f64, other: f64| format!("{:.1}", other / own.max(f64::MIN_POSITIVE));
        line(
            &own.workload,
            &times(own),
            &times(other),
            &ratio(own.spread()[0], other.spread()[0]),
        );
        let [own, other] = [own.processor(), other.processor()];
        let shown_ratio = if own > 0.0 { ratio(own, other) } else { String::new() };
        line("  processor time of a run", &shown(own), &shown(other), &shown_ratio);
    }
    text
}

fn shown(milliseconds: f64) -> String {
    if milliseconds < 100.0 {
        format!("{milliseconds:.1} ms")
    } else {
        format!("{milliseconds:.0} ms")
    }
}

/// Returns one JSON object per workload, program and figure.
pub(super) fn json(rows: &[Row], link: &str) -> String {
    let figures = rows.iter().flat_map(|row| {
        let link = if row.peer == "podbridge" { link } else { "kubectl exec" };
        let figure = move |what: &str, [median, low, high]: [f64; 3]| {
            json!({"workload": format!("{}{what}", row.workload), "peer": row.peer, "link": link, "unit": "ms",
                   "median": median, "low": low, "high": high, "n": row.times.len()})
        };
        let processor = row.processor();
        [figure("", row.spread()), figure(": processor time", [processor; 3])]
    });
    serde_json::to_string_pretty(&figures.collect::<Vec<_>>()).unwrap_or_default() + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(peer: &'static str, milliseconds: &[u64]) -> Row {
        let mut row = Row::new("copy".into(), peer);
        for time in milliseconds {
            row.add(Taken {
                time: Duration::from_millis(*time),
                processor: Duration::from_millis(10),
            });
        }
        row
    }

    #[test]
    fn the_table_has_medians_spread_and_the_ratio() {
        let text = table(
            &[row("podbridge", &[9, 8, 30]), row("kubectl", &[120, 99, 110])],
            "direct",
            "web",
        );
        let lines: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(
            lines[3].join(" "),
            "copy 9.0 ms (8.0 ms to 30.0 ms) 110 ms (99.0 ms to 120 ms) 12.2"
        );
        assert_eq!(lines[4].join(" "), "processor time of a run 10.0 ms 10.0 ms 1.0");
    }

    #[test]
    fn json_rows_name_workload_peer_link_and_unit() {
        let rows: serde_json::Value = serde_json::from_str(&json(&[row("kubectl", &[5])], "direct")).unwrap();
        assert_eq!(
            rows[0],
            json!({"workload": "copy", "peer": "kubectl", "link": "kubectl exec", "unit": "ms",
                   "median": 5.0, "low": 5.0, "high": 5.0, "n": 1})
        );
    }
}
