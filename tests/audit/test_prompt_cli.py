"""`delaudit prompt` and `delaudit serve` as a person runs them: a real process against a real service."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TOKEN = "an-api-token"  # noqa: S105 - the fake service's


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """The fake service as a process of its own."""
    command = [sys.executable, str(ROOT / "tests" / "defenses" / "fake_service.py")]
    environment = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:  # noqa: S603 - our own script
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.kill()


def delaudit(
    *arguments: str, cache: Path, token: str | None = TOKEN, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run the command with a cache of its own."""
    environment = {k: v for k, v in os.environ.items() if k != "DELAUDIT_TOKEN"}
    environment |= {"XDG_CACHE_HOME": str(cache), "HOME": str(cache)} | ({"DELAUDIT_TOKEN": token} if token else {})
    command = [sys.executable, "-m", "audit.cli.main", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, cwd=ROOT, env=environment, check=False)  # noqa: S603 - our own command


def assert_one_line(done: subprocess.CompletedProcess[bytes], words: str) -> None:
    """Exit code 2, nothing on stdout, one line on stderr."""
    assert done.returncode == 2, done.stderr.decode()
    assert not done.stdout.strip()
    lines = done.stderr.decode().strip().splitlines()
    assert len(lines) == 1, lines
    assert words in lines[0]


def test_the_answer_is_printed(url: str, tmp_path: Path) -> None:
    """Plain output is the answer's text and a line's end."""
    done = delaudit("prompt", "my name is Ada", "--server", url, "--max-new-tokens", "20", cache=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert len(done.stdout.decode()) == 21
    assert done.stdout.endswith(b"\n")


def test_json_has_text_and_costs(url: str, tmp_path: Path) -> None:
    """--json is one object with the answer, the traffic and the mechanism; the second call uses the cached bundle."""
    arguments = ["prompt", "-", "--server", url, "--mu", "20", "--n", "2", "--max-new-tokens", "20", "--json"]
    for _ in range(2):
        done = delaudit(*arguments, cache=tmp_path, stdin=b"my name is Ada\n")
        assert done.returncode == 0, done.stderr.decode()
    figures = json.loads(done.stdout)
    assert len(figures["text"]) == 20
    assert (figures["tokens_up"], figures["bytes_up"], figures["bytes_down"]) == (14, 32 + 21, 88)
    assert figures["bytes_up_per_token"] == pytest.approx(53 / 14)
    assert (figures["n"], figures["d"]) == (2, 6)
    assert figures["mu"] == pytest.approx(20)
    assert figures["a_over_c"] > 1
    assert "AES-128-CTR" in figures["rng"]
    assert figures["client_encode_ms"] > 0
    assert figures["seconds"] > 0
    assert len(list(tmp_path.rglob("*.safetensors"))) == 1


def test_the_null_is_finite_json(url: str, tmp_path: Path) -> None:
    """At mu = 0 A/c is infinite, which JSON lacks: it is null."""
    done = delaudit("prompt", "hello", "--server", url, "--mu", "0", "--json", cache=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout, parse_constant=pytest.fail)["a_over_c"] is None


def test_a_bundle_file_is_used(url: str, tmp_path: Path) -> None:
    """--bundle takes a bundle from a file, and refuses one that is none."""
    assert delaudit("prompt", "hello", "--server", url, cache=tmp_path).returncode == 0
    (cached,) = tmp_path.rglob("*.safetensors")
    moved = cached.rename(tmp_path / "mine.safetensors")
    done = delaudit("prompt", "hello", "--server", url, "--bundle", str(moved), cache=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    assert not cached.exists()
    moved.write_bytes(b"nothing")
    done = delaudit("prompt", "hello", "--server", url, "--bundle", str(moved), cache=tmp_path)
    assert_one_line(done, "mine.safetensors is not a client bundle")


def test_every_fault_is_one_line_and_exit_code_2(url: str, tmp_path: Path) -> None:
    """Wrong token, wrong mechanism, wrong server, wrong input: one line each."""
    server = ["--server", url]
    assert_one_line(delaudit("prompt", "x", *server, cache=tmp_path, token=None), "refused the API token")
    assert_one_line(delaudit("prompt", "x", *server, "--token", "no", cache=tmp_path), "refused the API token")
    assert_one_line(delaudit("prompt", "x", *server, "--mu", "1", "--a-over-c", "2", cache=tmp_path), "not both")
    assert_one_line(delaudit("prompt", "x", *server, "--mu", "-3", cache=tmp_path), "mu must be")
    assert_one_line(delaudit("prompt", "x", *server, "--n", "9", cache=tmp_path), "--n")
    assert_one_line(delaudit("prompt", "", *server, cache=tmp_path), "empty")
    assert_one_line(delaudit("prompt", "-", *server, cache=tmp_path, stdin=b"\xff\xfe"), "not UTF-8")
    assert_one_line(delaudit("prompt", "x", "--server", "http://127.0.0.1:1", cache=tmp_path), "cannot reach")
    assert_one_line(delaudit("prompt", "x", "--server", "nowhere", cache=tmp_path), "not an HTTP address")


def test_prompt_loads_nothing_heavy(url: str, tmp_path: Path) -> None:
    """A whole run of the command imports neither torch nor transformers, scipy or the service."""
    script = (
        "import sys\n"
        "from audit.cli.main import cli\n"
        "cli.main(sys.argv[1:], standalone_mode=False)\n"
        "print(sorted({'torch', 'transformers', 'scipy', 'sklearn', 'fastapi', 'mlflow'} & set(sys.modules)))\n"
    )
    command = [sys.executable, "-c", script, "prompt", "hello", "--server", url, "--token", TOKEN]
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)  # noqa: S603 - our own script
    assert done.stdout.splitlines()[-1] == "[]"


def test_noise_from_an_exact_epsilon(url: str, tmp_path: Path) -> None:
    """--epsilon takes the least noise that keeps it; the accountant agrees."""
    from defenses.privacy.binomial import StochasticQuantizationProfile

    arguments = ["prompt", "my name is Ada", "--server", url, "--epsilon", "3", "--n", "2", "--json"]
    done = delaudit(*arguments, cache=tmp_path)
    assert done.returncode == 0, done.stderr.decode()
    figures = json.loads(done.stdout)
    exact = StochasticQuantizationProfile.of(2, figures["d"], figures["a_over_c"]).epsilon(1e-5)
    assert 3 * (1 - 1e-6) <= exact <= 3


def test_epsilon_contradicts_mu_and_needs_n(url: str, tmp_path: Path) -> None:
    """Two noises at once, or an epsilon without bits, are refused before anything is sent."""
    base = ["prompt", "hello", "--server", url, "--epsilon", "3"]
    assert_one_line(delaudit(*base, "--n", "2", "--mu", "5", cache=tmp_path), "one of --mu")
    assert_one_line(delaudit(*base, cache=tmp_path), "needs --n")
    assert_one_line(delaudit(*base[:-1], "-1", "--n", "2", cache=tmp_path), "epsilon")


def test_noise_that_the_server_chose_is_said(url: str, tmp_path: Path) -> None:
    """Who leaves the noise to the server is told what it chose; who sets it is not."""
    chosen = delaudit("prompt", "hello", "--server", url, cache=tmp_path)
    assert "noise chosen by the server" in chosen.stderr.decode()
    own = delaudit("prompt", "hello", "--server", url, "--mu", "5", "--n", "2", cache=tmp_path)
    assert not own.stderr.decode().strip()
