"""This file owns how a live log (job-output.txt) is read: lines with their times, and what is expected of them."""

import re
from datetime import datetime

STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) \| ?(.*)$")


class JobLog:
    """The log as (time, text) pairs; lines without a time are an error of the log and kept as they are."""

    def __init__(self, text):
        self.text = text
        self.lines = []
        for line in text.split("\n"):
            found = STAMP.match(line)
            if found:
                self.lines.append((datetime.fromisoformat(found[1]), found[2].rstrip()))
            elif line:
                self.lines.append((None, line))

    def shortened(self):
        """For people: no long line, and of a row of numbered lines the first and the last."""
        shown, row = [], 0
        lines = [line[:240] for line in self.text.split("\n")]
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            numbered = re.search(r"number \d+ *$", line) and re.search(r"number \d+ *$", after)
            row = row + 1 if numbered else 0
            if row < 2:
                shown.append(line)
        return "\n".join(shown)

    def of(self, host):
        """The lines under one host's name."""
        prefix = f"{host} | "
        return [text.removeprefix(prefix) for _time, text in self.lines if text.startswith(prefix)]

    def expect(self, *texts):
        """Each is a whole line."""
        have = {text for _time, text in self.lines}
        for text in texts:
            assert text in have, f"no line {text[:200]!r} in the log"
        return self

    def expect_once(self, *texts):
        have = [text for _time, text in self.lines]
        for text in texts:
            assert have.count(text) == 1, f"{have.count(text)} instead of 1 line {text[:200]!r} in the log"
        return self

    def expect_match(self, *patterns):
        for pattern in patterns:
            assert any(re.search(pattern, text) for _time, text in self.lines), f"no line matches {pattern!r}"
        return self

    def refuse(self, *parts):
        for part in parts:
            lines = [text[:200] for _time, text in self.lines if part in text]
            assert not lines, f"the log has {lines}"
        return self

    def task(self, name):
        """The lines from a task's banner to the next one's."""
        begun, found = False, []
        for when, text in self.lines:
            banner = re.match(r"(?:TASK|LOOP|PLAY|RUN|POST-RUN|PRE-RUN)\b", text)
            if begun and banner:
                break
            if begun:
                found.append((when, text))
            elif banner and re.match(rf"(?:TASK|LOOP) \[{re.escape(name)}[:\]]", text):
                begun = True
                found.append((when, text))
        assert found, f"no task {name!r} in the log"
        return found

    def seconds_to_next(self, name):
        """How long a task took: from its banner to the next one's."""
        times = [when for when, text in self.lines if re.match(r"(?:TASK|LOOP|PLAY|RUN)\b", text)]
        begun = self.task(name)[0][0]
        return (next(when for when in times if when > begun) - begun).total_seconds()

    def seconds(self, name):
        """How long a task took: from its banner to its last line that has a time and a text."""
        lines = [when for when, text in self.task(name) if when and text]
        return (lines[-1] - lines[0]).total_seconds()
