"""The service under load and under attack: is anything lost, wrong or leaked?

``main.py serve`` is started on loopback. Clients that never pause send it pictures to classify,
report and compress; every fifth request is malformed, oversized or hostile. Each answer to a good
request is compared with what the library's functions for files make of the picture, each bad one
has to be refused with a reason, and all requests have to be answered. One kind of bad request takes
longer than a worker may, so that workers are killed and replaced. Meanwhile the memory of the
service and its workers is looked at.

    python -m benchmarks.service_load --seconds 120

A request that finds the queue full (503) is sent again; those are counted. The exit status is 1 if
anything was wrong.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from PIL import Image as PilImage

from benchmarks.environment import write_environment
from benchmarks.generated_picture import generated_picture
from datasets.workers import worker_pool
from desk.batch import write_reports
from imagecompression import CODECS
from imagecompression.image_io import load_image
from imagecompression.transcoding import compress_file
from train.classification import DEFAULT_RUN, classify
from train.run import Run
from train.verdict import as_json

ROOT = Path(__file__).parent.parent
MEGABYTES, MEGAPIXELS = 4, 2
SECONDS = 12
"""That a worker may take for a request."""

WORKER_MEGABYTES = 2048
BAD_SHARE = 5
"""Every so manieth request is bad."""

CLIENT_SECONDS = 300.0
PACKAGES = ("fastapi", "onnxruntime", "python-multipart", "starlette", "uvicorn")


@dataclass(frozen=True)
class Trial:
    """A request and what has to come back.

    Attributes:
        name: Of its kind, for the table.
        send: Sends it to a service; returns status and body, None for a connection that was closed.
        statuses: Those that are right.
        body: What a right answer holds; None for a refusal, which only has to give a reason.
    """

    name: str
    send: Callable[[httpx.Client], tuple[int, bytes] | None]
    statuses: tuple[int, ...]
    body: bytes | None = None


@dataclass
class Tally:
    """What has happened so far; shared by all clients."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    retries: int = 0

    def note(self, trial: Trial, outcome: str, seconds: float, problem: str = "") -> None:
        with self.lock:
            self.counts[trial.name, outcome] += 1
            self.seconds.append(seconds)
            if problem:
                self.problems.append(f"{trial.name}: {problem}")


def pictures() -> dict[str, bytes]:
    """Files to send, by name."""
    image = generated_picture(240, 320, 3)
    gray = np.ascontiguousarray(image[:, :, 1])
    settings = {"jpeg": {"quality": 70}, "bpg": {"qp": 34}, "webp": {"quality": 60}, "svd": {}}
    files = {
        f"{name}{CODECS[name].suffix}": CODECS[name](**params).encode(image)
        for name, params in settings.items()
    }
    out = io.BytesIO()
    PilImage.fromarray(gray).save(out, "PNG")
    return files | {"gray.png": out.getvalue()}


def post(path: str, name: str, data: bytes, **form: str) -> Callable[[httpx.Client], Any]:
    def send(client: httpx.Client) -> tuple[int, bytes]:
        answer = client.post(path, files={"file": (name, data)}, data=form)
        return answer.status_code, answer.content

    return send


COMPRESSIONS: tuple[tuple[str, float | None, float | None], ...] = (
    ("jpeg", 15, None),
    ("jpeg2000", None, 0.9),
)
"""Codec, ratio, SSIM."""


def library_answers(folder: Path, name: str) -> dict[str, bytes]:
    """What the library makes of a picture file: verdict, reports and compressed files."""
    path, out = folder / name, folder / f"{name} made"
    run = Run.load(DEFAULT_RUN)
    verdict = as_json(classify(load_image(path).pixels, run))
    text = json.dumps(
        {"results": [{"file": name, **verdict}], "errors": []}, indent=2, ensure_ascii=False
    )
    answers = {"classify": f"{text}\n".encode()}
    write_reports([path], run, out)
    for kind in ("json", "html", "pdf"):
        answers[f"report {kind}"] = (out / f"{path.stem}.{kind}").read_bytes()
    for codec, ratio, ssim in COMPRESSIONS:
        made = out / f"made{CODECS[codec].suffix}"
        compress_file(path, made, codec, ratio, ssim, [])
        answers[f"compress {codec}"] = made.read_bytes()
    return answers


def good_trials() -> list[Trial]:
    """Requests with the library's answers, made in a process like a worker."""
    files = pictures()
    trials = []
    with tempfile.TemporaryDirectory() as folder, worker_pool(1) as pool:
        for name, data in files.items():
            (Path(folder) / name).write_bytes(data)
        tasks = [(Path(folder), name) for name in files]
        for number, answers in pool.run(library_answers, tasks):
            name = tasks[number][1]
            data = files[name]
            send = {"classify": post("/classify", name, data)}
            for kind in ("json", "html", "pdf"):
                send[f"report {kind}"] = post(f"/report?format={kind}", name, data)
            for codec, ratio, ssim in COMPRESSIONS:
                goal = {"ratio": str(ratio)} if ratio else {"ssim": str(ssim)}
                send[f"compress {codec}"] = post("/compress", name, data, codec=codec, **goal)
            trials += [Trial(kind, send[kind], (200,), body) for kind, body in answers.items()]
    return trials


def bad_trials(url: str) -> list[Trial]:
    """Malformed, oversized and hostile requests."""
    good = pictures()
    jpeg, gray, bpg = good["jpeg.jpg"], good["gray.png"], good["bpg.bpg"]
    bomb = gray[:16] + (30_000).to_bytes(4, "big") * 2 + gray[24:]
    form = {"content-type": "multipart/form-data; boundary=b"}
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    host, port = url.removeprefix("http://").split(":")

    def content(path: str, data: Any, headers: dict[str, str]) -> Callable[[httpx.Client], Any]:
        def send(client: httpx.Client) -> tuple[int, bytes]:
            answer = client.post(path, content=data() if callable(data) else data, headers=headers)
            return answer.status_code, answer.content

        return send

    def get(method: str, path: str) -> Callable[[httpx.Client], Any]:
        def send(client: httpx.Client) -> tuple[int, bytes]:
            answer = client.request(method, path)
            return answer.status_code, answer.content

        return send

    def chunks() -> Any:
        yield head
        for _ in range(MEGABYTES * 2):
            yield bytes(1 << 20)

    def raw(text: bytes) -> Callable[[httpx.Client], Any]:
        """Bytes on a socket of its own; the rest of the body never comes."""

        def send(_: httpx.Client) -> tuple[int, bytes] | None:
            with socket.create_connection((host, int(port)), CLIENT_SECONDS) as line:
                line.sendall(text)
                line.shutdown(socket.SHUT_WR)
                answer = b"".join(iter(lambda: line.recv(65536), b""))
            if not answer:
                return None
            top, _, body = answer.partition(b"\r\n\r\n")
            return int(top.split()[1]), body

        return send

    def damaged(data: bytes, seed: int) -> bytes:
        rng = random.Random(seed)
        broken = bytearray(data[: rng.randrange(30, len(data) // 2)])
        for _ in range(8):
            broken[rng.randrange(20, len(broken))] = rng.randrange(256)
        return bytes(broken)

    return [
        Trial("no picture", post("/classify", "a.jpg", b"no picture at all"), (415,)),
        Trial("empty file", post("/report", "a.jpg", b""), (415,)),
        Trial("truncated PNG", post("/classify", "a.png", gray[:-300]), (422,)),
        Trial("damaged BPG", post("/classify", "a.bpg", damaged(bpg, 1)), (422,)),
        Trial("damaged JPEG", post("/compress", "a.jpg", damaged(jpeg, 2), codec="jpeg", ratio="9"),
              (422,)),
        Trial("pixel bomb", post("/classify", "a.png", bomb), (413,)),
        Trial("pixel bomb, report", post("/report", "a.png", bomb), (413,)),
        Trial("too small a picture", post("/classify", "a.png", tiny_png()), (422,)),
        Trial("too many bytes", post("/classify", "a.png", bytes((MEGABYTES + 1) << 20)), (413,)),
        Trial("too many bytes, no length", content("/classify", chunks, form), (413,)),
        Trial("no form", content("/classify", b"{}", {"content-type": "application/json"}), (415,)),
        Trial("broken form", content("/classify", b"--c\r\nx", form), (400,)),
        Trial("no boundary", content("/classify", b"x", {"content-type": "multipart/form-data"}),
              (400,)),
        Trial("no such codec", post("/compress", "a.jpg", jpeg, codec="gif", ratio="9"), (422,)),
        Trial("no such ratio", post("/compress", "a.jpg", jpeg, codec="jpeg", ratio="-1"), (422,)),
        Trial("no such setting", post("/compress", "a.jpg", jpeg, codec="jpeg", set="rm=-rf"),
              (422,)),
        Trial("no such format", post("/report?format=../x", "a.jpg", jpeg), (422,)),
        Trial("no such path", get("GET", "/../../etc/passwd"), (404,)),
        Trial("takes too long", post(
            "/compress", "noise.png", noise_png(), codec="heic", set="preset=placebo", ratio="3",
        ), (504,)),
        Trial("no such method", get("DELETE", "/classify"), (405,)),
        Trial("no HTTP", raw(b"\x16\x03\x01 hello\r\n\r\n"), (400,)),
        Trial("body cut off", raw(
            b"POST /classify HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n"
            b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + head), (400,)),
    ]  # fmt: skip


def tiny_png() -> bytes:
    out = io.BytesIO()
    PilImage.new("L", (8, 8)).save(out, "PNG")
    return out.getvalue()


def noise_png() -> bytes:
    """A picture that x265 needs minutes for."""
    out = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1500), np.uint8)
    PilImage.fromarray(noise).save(out, "PNG", compress_level=0)
    return out.getvalue()


def client(
    number: int, url: str, good: list[Trial], bad: list[Trial], end: float, tally: Tally
) -> None:
    """One client: a request after the other until the time is over."""
    rng = random.Random(number)
    turn = number
    with httpx.Client(base_url=url, timeout=CLIENT_SECONDS) as session:
        while time.monotonic() < end:
            turn += 1
            trial = rng.choice(bad if turn % BAD_SHARE == 0 else good)
            one(trial, session, rng, tally)


def one(trial: Trial, session: httpx.Client, rng: random.Random, tally: Tally) -> None:
    """Send a request, again while the queue is full, and judge the answer."""
    while True:
        started = time.monotonic()
        try:
            answer = trial.send(session)
        except (httpx.HTTPError, OSError) as error:
            tally.note(trial, "lost", time.monotonic() - started, f"{type(error).__name__} {error}")
            return
        seconds = time.monotonic() - started
        if answer is None:  # half a request may be answered by closing the connection
            half = trial.name == "body cut off"
            tally.note(trial, "closed", seconds, "" if half else "closed without an answer")
            return
        status, body = answer
        if status != 503:
            break
        with tally.lock:
            tally.retries += 1
        time.sleep(rng.uniform(0.5, 2))
    problem = ""
    if status not in trial.statuses:
        problem = f"status {status}, {body[:200]!r}"
    elif trial.body is not None and body != trial.body:
        problem = f"another answer than the library's: {body[:200]!r}"
    elif str(ROOT).encode() in body or b"Traceback" in body:
        problem = f"tells too much: {body[:200]!r}"
    elif trial.body is None and trial.name != "no HTTP" and not reason(body):
        problem = f"no reason: {body[:200]!r}"
    tally.note(trial, str(status), seconds, problem)


def reason(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return ""


def watch_memory(process: psutil.Process, over: threading.Event) -> dict[str, int]:
    """Greatest MiB of the service and of one worker, and how many processes there were."""
    most = {"service": 0, "worker": 0}
    seen: set[int] = set()
    while not over.wait(0.25):
        most["service"] = max(most["service"], process.memory_info().rss >> 20)
        for child in process.children():
            try:
                most["worker"] = max(most["worker"], child.memory_info().rss >> 20)
                seen.add(child.pid)
            except psutil.NoSuchProcess:
                continue
    return most | {"processes": len(seen)}


def service_bound(workers: int, queue: int) -> int:
    """MiB of the process that listens: its libraries, and each body twice; see `desk.gate`."""
    return 256 + 2 * (workers + queue) * MEGABYTES


def run_load(seconds: float, clients: int, workers: int) -> dict[str, Any]:
    """Start the service, attack it, and tell what has happened."""
    good = good_trials()
    tally = Tally()
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w+") as log:
        temporary = Path(folder) / "temporary"
        temporary.mkdir()
        service = psutil.Popen(
            [sys.executable, "main.py", "serve", "--port", "0", "--json",
             "--workers", str(workers), "--queue", str(clients),
             "--seconds", str(SECONDS),
             "--max-megabytes", str(MEGABYTES), "--max-megapixels", str(MEGAPIXELS),
             "--worker-megabytes", str(WORKER_MEGABYTES)],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True,
            env=os.environ | {"TMPDIR": str(temporary)},
        )  # fmt: skip
        url = json.loads("".join(iter(service.stdout.readline, "}\n")) + "}")["url"]
        bad = bad_trials(url)
        over = threading.Event()
        memory: dict[str, int] = {}
        watching = threading.Thread(target=lambda: memory.update(watch_memory(service, over)))
        watching.start()
        end = time.monotonic() + seconds
        threads = [
            threading.Thread(target=client, args=(number, url, good, bad, end, tally))
            for number in range(clients)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        over.set()
        watching.join()
        healthy = httpx.get(f"{url}/health").json() == {"status": "ok"}
        left = [str(path) for path in temporary.glob("*/*/*")]
        service.terminate()
        status = service.wait(120)
        log.seek(0)
        tracebacks = log.read().count("Traceback")
    names = {trial.name for trial in bad}
    took = sorted(tally.seconds)
    return {
        "seconds": seconds,
        "clients": clients,
        "workers": workers,
        "load_average_before": LOAD,
        "packages": {name: version(name) for name in PACKAGES},
        "requests": len(took),
        "bad_requests": sum(n for (name, _), n in tally.counts.items() if name in names),
        "lost": sum(n for (_, outcome), n in tally.counts.items() if outcome == "lost"),
        "problems": len(tally.problems),
        "problem_list": sorted(set(tally.problems))[:20],
        "full_queue_retries": tally.retries,
        "median_seconds": round(took[len(took) // 2], 3),
        "p95_seconds": round(took[int(len(took) * 0.95)], 3),
        "service_mib": memory["service"],
        "service_bound_mib": service_bound(workers, clients),
        "worker_mib": memory["worker"],
        "worker_limit_mib": WORKER_MEGABYTES,
        "processes_seen": memory["processes"],
        "temporary_files_left": len(left),
        "tracebacks_in_log": tracebacks,
        "healthy_at_the_end": healthy,
        "exit_status": status,
        "outcomes": {
            name: {o: n for (each, o), n in sorted(tally.counts.items()) if each == name}
            for name in sorted({name for name, _ in tally.counts})
        },
    }


LOAD = round(os.getloadavg()[0], 1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=Path("results/service_load.json"))
    arguments = parser.parse_args()
    found = run_load(arguments.seconds, arguments.clients, arguments.workers)
    arguments.out.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    write_environment(arguments.out)
    print(json.dumps(found, indent=2))
    sound = found["problems"] == 0 and found["tracebacks_in_log"] == 0
    sound &= found["temporary_files_left"] == 0 and found["healthy_at_the_end"]
    sound &= found["service_mib"] <= found["service_bound_mib"]
    return 0 if sound and found["worker_mib"] <= WORKER_MEGABYTES else 1


if __name__ == "__main__":
    sys.exit(main())
