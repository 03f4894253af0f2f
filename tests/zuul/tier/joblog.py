"""Reader of a build's live log (job-output.txt): its lines with their times, and assertions about them."""

import re
from datetime import datetime

STAMP = re.compile(r"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{6}) \| ?(.*)$")


class JobLog:
    """Live log as a list `lines` of (time, text).

    A line without a time is an error in the log; its time is None.
    """

    def __init__(self, text):
        self.text = text
        self.lines = []
        for line in text.split("\n"):
            found = STAMP.match(line)
            if found:
                self.lines.append((datetime.fromisoformat(found[1]), found[2].rstrip()))
            elif line:
                self.lines.append((None, line))

    def summary(self):
        """Returns the log for people: lines cut to 240 characters, and consecutive numbered lines shortened to two."""
        shown, consecutive = [], 0
        lines = [line[:240] for line in self.text.split("\n")]
        for line, after in zip(lines, [*lines[1:], ""], strict=True):
            numbered = re.search(r"number \d+ *$", line) and re.search(r"number \d+ *$", after)
            consecutive = consecutive + 1 if numbered else 0
            if consecutive < 2:
                shown.append(line)
        return "\n".join(shown)

    def lines_of(self, host):
        """Returns the texts that were logged for one host, without the host's name."""
        prefix = f"{host} | "
        return [text.removeprefix(prefix) for _time, text in self.lines if text.startswith(prefix)]

    def expect(self, *texts):
        """Asserts that each text is a complete line of the log."""
        have = {text for _time, text in self.lines}
        for text in texts:
            assert text in have, f"no line {text[:200]!r} in the log"
        return self

    def expect_once(self, *texts):
        """Asserts that each text is a complete line of the log, and occurs once."""
        have = [text for _time, text in self.lines]
        for text in texts:
            assert have.count(text) == 1, (
                f"{have.count(text)} instead of 1 line {text[:200]!r} in the log; "
                # They tell whether the whole log of the task is missing.
                f"the host has the lines {self.lines_of(text.split(' | ')[0])[:20]}"
            )
        return self

    def expect_match(self, *patterns):
        """Asserts that each regular expression is found in a line."""
        for pattern in patterns:
            assert any(re.search(pattern, text) for _time, text in self.lines), f"no line matches {pattern!r}"
        return self

    def refuse(self, *parts):
        """Asserts that no line contains any of these texts."""
        for part in parts:
            lines = [text[:200] for _time, text in self.lines if part in text]
            assert not lines, f"the log has {lines}"
        return self

    def task(self, name):
        """Returns the (time, text) pairs from the banner of a task to the next banner."""
        started, found = False, []
        for when, text in self.lines:
            banner = re.match(r"(?:TASK|LOOP|PLAY|RUN|POST-RUN|PRE-RUN)\b", text)
            if started and banner:
                break
            if started:
                found.append((when, text))
            elif banner and re.match(rf"(?:TASK|LOOP) \[{re.escape(name)}[:\]]", text):
                started = True
                found.append((when, text))
        assert found, f"no task {name!r} in the log"
        return found

    def seconds_to_next(self, name):
        """Returns the seconds from the banner of a task to the next banner."""
        times = [when for when, text in self.lines if re.match(r"(?:TASK|LOOP|PLAY|RUN)\b", text)]
        started = self.task(name)[0][0]
        return (next(when for when in times if when > started) - started).total_seconds()

    def seconds(self, name):
        """Returns the seconds from the banner of a task to its last line with a time and a text."""
        lines = [when for when, text in self.task(name) if when and text]
        return (lines[-1] - lines[0]).total_seconds()
