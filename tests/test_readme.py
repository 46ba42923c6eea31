"""The README's walk-through, command by command as it stands there, against simulated providers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import openai
import pytest

from costbearer.simulator import CREDENTIAL, running_simulator
from tests.system import Server
from tests.test_docs import shell_lines
from tests.test_readme_report import log

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")


def settings() -> str:
    """The configuration file that the README writes."""
    found = re.search(r"cat > costbearer.toml <<'TOML'\n(.*?)\nTOML\n", README, re.S)
    assert found is not None
    return found[1]


@pytest.mark.slow
def test_the_walk_through(tmp_path: Path) -> None:
    with running_simulator() as simulator:
        server = Server(tmp_path, simulator)
        text = settings().replace("https://api.openai.com/v1", simulator.openai_base_url)
        ports = f"[gateway]\nport = {server.gateway_port}\n[console]\nport = {server.console_port}\n"
        (tmp_path / "costbearer.toml").write_text(ports + text)
        environment = os.environ | {"OPENAI_API_KEY": CREDENTIAL}
        commands = [line.split()[1:] for line in shell_lines(README) if line.startswith("costbearer ")]
        assert commands[0] == ["serve"]
        output = (tmp_path / "server.log").open("wb")
        server.process = subprocess.Popen(
            [sys.executable, "-m", "costbearer", "serve"], cwd=tmp_path, env=environment, stdout=output, stderr=output
        )
        output.close()
        try:
            server.await_ready()
            log(tmp_path)
            for command in commands[1:]:
                done = subprocess.run(
                    [sys.executable, "-m", "costbearer", *command],
                    cwd=tmp_path,
                    env=environment,
                    capture_output=True,
                    text=True,
                    timeout=60,
                    check=False,
                )
                assert done.returncode == 0, (command, done.stdout, done.stderr)
                if command[:2] == ["keys", "issue"]:
                    _call(server, done.stdout.strip())
                if command[:2] == ["report", "spend"] and "--json" not in command:
                    assert "search" in done.stdout
                    assert "ranker" in done.stdout
        finally:
            server.stop()


def _call(server: Server, key: str) -> None:
    with openai.OpenAI(base_url=f"{server.gateway_url}/v1", api_key=key, max_retries=0) as client:
        client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello."}])
    time.sleep(1.5)
