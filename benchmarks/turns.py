"""Candidates of a comparison that take turns: each is a process that waits, stopped rather than
spinning, while another one runs.
"""

import json
import os
import signal
import subprocess
from typing import Any


class Candidate:
    """A process that answers lines on its stdin with lines of JSON on its stdout. It says one when
    it is ready."""

    def __init__(self, command: list[str], **environment: str):
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )

    def answer(self) -> Any:
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise RuntimeError(f"{' '.join(self._process.args)} ended with status {status}")
        return json.loads(line)

    def send(self, line: str) -> None:
        print(line, file=self._process.stdin, flush=True)

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def ask(self, line: str) -> Any:
        """A turn of its own."""
        self.resume()
        self.send(line)
        answer = self.answer()
        self.pause()
        return answer

    def close(self) -> None:
        self.resume()
        self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._process.stdout.close()
