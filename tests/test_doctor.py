"""What the doctor finds, and what it makes of facts that no test machine has."""

from __future__ import annotations

import re
import secrets
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from raydd.doctor import Finding, examine, judge
from raydd.engine import probe
from raydd.engine.probe import Node, is_open, listening, try_store, versions
from raydd.store import Folder

OURS = {"python": "3.11.9", "raydd": "1.0", "ray": "2.60.0", "torch": "2.5"}
WELL = Node(
    name="n (10.0.0.1)",
    versions={**OURS, "python": "3.11.2"},
    shared_memory=4 << 30,
    memory=8 << 30,
    gpus=2,
    torch_gpus=("H100", "H100"),
    auth="token",
    store="",
    skew_s=0.5,
    listens=("127.0.0.1",),
)
CASES = [
    ({"problem": "did not answer in time"}, "node", "stop", "did not answer in time", "raylet.out"),
    (
        {"versions": {**OURS, "ray": "2.59.0"}},
        "versions",
        "stop",
        "expected ray 2.60.0, as .*, got 2.59.0",
        "one image",
    ),
    ({"versions": {**OURS, "raydd": ""}}, "versions", "stop", "expected raydd 1.0, .* got none", "one image"),
    ({"versions": {**OURS, "python": "3.12.1"}}, "versions", "stop", "got 3.12.1", "one image"),
    ({"versions": {**OURS, "torch": "2.4"}}, "versions", "warn", "got 2.4", "last bits"),
    ({"shared_memory": 64 << 20}, "/dev/shm", "warn", "0.1 GiB free", "--shm-size"),
    ({"memory": 1 << 30}, "memory", "warn", "1.0 GiB free", "larger machine"),
    ({"memory": 1 << 28}, "memory", "stop", "0.2 GiB free", "larger machine"),
    ({"torch_gpus": ("H100",)}, "GPUs", "stop", "Ray gives out 2, torch sees 1 of them", "nvidia-smi"),
    ({"torch_gpus": None, "gpu_problem": "no driver"}, "GPUs", "stop", "torch sees no driver", "nvidia-smi"),
    ({"skew_s": -20.0}, "clock", "warn", "20 s behind the driver's", "NTP"),
    ({"skew_s": 1000.0}, "clock", "stop", "1000 s ahead of the driver's", "NTP"),
    ({"auth": "disabled"}, "authentication", "warn", "disabled: whoever reaches", "RAY_AUTH_MODE=token"),
    ({"listens": ("0.0.0.0",)}, "dashboard", "warn", "listens at 0.0.0.0, where its token", "--dashboard-host=127"),
    ({"store": "cannot write s3://b"}, "store", "stop", "cannot write s3://b", "endpoint"),
]


@pytest.mark.parametrize(("change", "what", "level", "detail", "remedy"), CASES)
def test_each_illness_has_its_remedy(change: dict, what: str, level: str, detail: str, remedy: str) -> None:
    found = judge([WELL, replace(WELL, name="ill (10.0.0.2)", **change)], OURS, "s3://b")
    (ill,) = [finding for finding in found if finding.level != "ok"]
    assert (ill.what, ill.level, ill.where) == (what, level, "ill (10.0.0.2)")
    assert re.search(detail, ill.detail)
    assert remedy in ill.remedy
    assert "\n" not in ill.line()


def test_a_well_cluster() -> None:
    found = judge([replace(WELL, head=True), WELL], OURS, "s3://b")
    assert {finding.level for finding in found} == {"ok"}
    told = {finding.what: finding.detail for finding in found}
    assert told["nodes"] == "2 answered"
    assert told["GPUs"] == "4 x H100"
    assert told["store"].startswith("s3://b: every node writes")
    assert "store" not in {finding.what for finding in judge([WELL], OURS, None)}


def test_an_open_dashboard_without_a_token_is_worse() -> None:
    found = judge([replace(WELL, auth="disabled", listens=("::",))], OURS, None)
    assert {finding.what: finding.level for finding in found if finding.level != "ok"} == {
        "authentication": "warn",
        "dashboard": "stop",
    }


def test_nobody_answers() -> None:
    (only,) = judge([Node(name="n", problem="gone")], OURS, "s3://b")
    assert (only.what, only.level) == ("node", "stop")


def test_sockets_that_listen(tmp_path: Path) -> None:
    head = "  sl  local_address rem_address   st tx_queue\n"
    rows = (
        "0: 0100007F:2059 00000000:0000 0A x\n1: 00000000:2059 00000000:0000 0A x\n2: 0A00000A:2059 0A00000A:1 01 x\n"
    )
    rows += "3: 00000000:205A 00000000:0000 0A x\n"
    six = "0: 00000000000000000000000001000000:2059 0:0 0A x\n1: 0000000000000000FFFF00000100007F:2059 0:0 0A x\n"
    for name, text in (("tcp", rows), ("tcp6", six)):
        (tmp_path / name).write_text(head + text)
    found = listening(8281, (str(tmp_path / "tcp"), str(tmp_path / "tcp6"), str(tmp_path / "none")))
    assert found == ["0.0.0.0", "127.0.0.1", "::1", "::ffff:127.0.0.1"]
    assert [is_open(address) for address in found] == [True, False, False, False]


@pytest.mark.parametrize("kind", ["disk", "memory"])
def test_a_store_is_touched_and_left_as_it_was(kind: str, tmp_path: Path) -> None:
    store = Folder(str(tmp_path / "runs") if kind == "disk" else f"memory://{secrets.token_hex(6)}/runs")
    found = {finding.what: finding for finding in examine(store.url)}
    assert found["store"] == Finding(
        what="store", level="ok", detail=f"{store.url}: write, read, list, create-if-absent, delete"
    )
    assert store.list() == []
    assert "is another place there than here" in try_store(store.url, "mark")
    (tmp_path / "file").write_text("")
    ill = {finding.what: finding for finding in examine(str(tmp_path / "file/runs"))}
    assert ill["store"].level == "stop"
    assert "Not a directory" in ill["store"].detail
    assert "store" not in {finding.what for finding in examine(None)}


def test_where_decoded_images_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def found() -> Finding:
        return next(finding for finding in examine(None) if finding.what == "cache")

    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "not" / "yet"))
    assert found().level == "ok"
    assert re.match(rf"decoded images: {tmp_path}/not/yet, \d+\.\d GiB free", found().detail)
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RAYDD_CACHE", str(tmp_path / "file"))
    detail = f"decoded images: {tmp_path}/file, {tmp_path}/file cannot be written"
    assert found() == Finding(what="cache", level="stop", detail=detail, remedy="RAYDD_CACHE names another folder")


def test_a_token_that_others_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "token"
    file.write_text("x")
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(file))
    file.chmod(0o644)
    (token,) = [finding for finding in examine(None) if finding.what == "token"]
    assert (token.level, token.remedy) == ("warn", f"chmod 600 {file}")
    file.chmod(0o600)
    assert not [finding for finding in examine(None) if finding.what == "token"]


def test_torch_is_asked_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "_GPUS", 'print(\'["A", "B, C"]\')')
    assert probe._torch_gpus() == (("A", "B, C"), "")
    monkeypatch.setattr(probe, "_GPUS", "raise OSError('no driver')")
    assert probe._torch_gpus() == (None, "OSError: no driver")


@pytest.mark.ray
def test_every_node_of_a_cluster_answers(ray_address: str, tmp_path: Path) -> None:
    (node,) = probe.ask_nodes(str(tmp_path / "store"), answer_s=240)
    assert (node.problem, node.store, node.head, node.auth) == ("", "", True, "token")
    assert node.versions == versions()
    assert abs(node.skew_s) < 1
    assert not [address for address in node.listens if is_open(address)]
    assert list((tmp_path / "store").glob("*")) == []
    found = judge([node], versions(), str(tmp_path / "store"))
    assert {finding.what for finding in found if finding.level == "stop"} <= {"memory"}


@pytest.mark.ray
def test_a_node_that_does_not_answer_is_a_finding(ray_address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "look", _sleeps)
    (node,) = probe.ask_nodes(None, answer_s=1)
    assert node.problem == "did not answer in time"


def _sleeps(*_: object) -> dict:
    import time

    time.sleep(600)
    return {}


def test_a_cluster_that_is_not_there_is_a_finding() -> None:
    code = "import sys; from raydd.cli import main; sys.argv = ['raydd', 'doctor', '--address', '127.0.0.1:9']; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1, done.stderr
    assert re.match(r"BAD  cluster +cannot reach the Ray cluster at 127\.0\.0\.1:9", done.stdout), done.stdout
