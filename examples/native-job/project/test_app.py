"""Test of the running program: `test_app.py URL RESULT` asks it for its version and writes the result."""

import sys
import time
import urllib.request
from pathlib import Path

url, result = sys.argv[1:]
for _attempt in range(50):
    try:
        answer = urllib.request.urlopen(url).read().decode()
        break
    except OSError:
        time.sleep(0.2)  # the program has not begun to listen
else:
    sys.exit(f"{url} does not answer")
print("the program answers", answer)
Path(result).write_text(answer)
