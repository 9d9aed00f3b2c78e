"""The Dask engine: the same bytes, faults told once, lost workers made up for. Needs ``dis2-jax[dask]``."""

import os
import signal
import subprocess
import sys

import pytest
from numbers_case import files, run, wait_for, write_source

from dis2_jax.data.preparing.dask_engine import DaskEngine
from dis2_jax.schema import Dis2Error

pytest.importorskip("distributed", reason="pip install 'dis2-jax[dask]'")
pytestmark = pytest.mark.filterwarnings("default")  # Dask's own are not ours to mend


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "source")


@pytest.fixture
def wanted(source, tmp_path):
    """What one undisturbed process makes."""
    run(source, tmp_path / "wanted")
    return files(tmp_path / "wanted")


@pytest.fixture
def cluster(tmp_path):
    """A scheduler and two workers, as on a cluster: processes that know each other by a file.

    Yields the file and a function that gives the workers' own process numbers.
    """
    path = tmp_path / "scheduler.json"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}

    def start(*arguments):
        command = [sys.executable, "-m", "dask", *arguments]
        return subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    own = [
        start(
            "scheduler", "--scheduler-file", str(path), "--port", "0", "--no-dashboard", "--host", "127.0.0.1"
        )
    ]
    wait_for(path.exists)
    for _ in range(2):
        own.append(
            start("worker", "--scheduler-file", str(path), "--nthreads", "1", "--no-nanny", "--no-dashboard")
        )
    try:
        yield path, [p.pid for p in own[1:]]
    finally:
        for process in own:
            process.kill()
            process.wait()


def test_workers_of_this_machine_write_the_same_bytes(source, wanted, tmp_path):
    run(source, tmp_path / "d", engine=DaskEngine(workers=2))
    assert files(tmp_path / "d") == wanted


def test_a_fault_is_told_once_and_costs_only_its_job(source, wanted, tmp_path, cluster):
    engine = DaskEngine(scheduler=str(cluster[0]))
    (source / "train-5.txt").write_text("5 fault")
    with pytest.raises(Dis2Error, match=r"a faulty file; \d of 8 jobs are done and kept") as e:
        run(source, tmp_path / "d", engine=engine)
    assert "\n" not in str(e.value)
    assert not (tmp_path / "d").exists()
    (source / "train-5.txt").write_text("5")
    run(source, tmp_path / "d", engine=engine)
    assert files(tmp_path / "d") == wanted


KILLED = """
import sys
from pathlib import Path
from dis2_jax.data.preparing.dask_engine import DaskEngine
from numbers_case import run
if __name__ == "__main__":
    run(Path(sys.argv[1]), sys.argv[2], engine=DaskEngine(scheduler=sys.argv[3]))
"""


def test_killed_it_goes_on_and_a_lost_worker_is_made_up_for(source, wanted, tmp_path, cluster):
    path, workers = cluster
    (source / "train-5.txt").write_text("5 slow")
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([sys.executable, script, source, tmp_path / "d", path], env=environment) as process:
        wait_for(lambda: len(list((tmp_path / ".d.partial").glob("*.json"))) >= 6)
        process.kill()
    wait_for(lambda: busy(tmp_path / ".d.partial", workers))
    os.kill(busy(tmp_path / ".d.partial", workers)[0], signal.SIGKILL)
    (source / "train-5.txt").write_text("5")
    prepared = run(source, tmp_path / "d", engine=DaskEngine(scheduler=str(path)))
    assert files(tmp_path / "d") == wanted
    assert any(n.startswith(("6 of 8 jobs", "7 of 8 jobs")) for n in prepared.notes)


def busy(folder, workers):
    """Workers whose unfinished parts lie there: their numbers are in the names."""
    return [pid for pid in workers if list(folder.glob(f"*-{pid}.*"))]


def test_a_job_that_kills_its_workers_is_named(source, tmp_path):
    (source / "train-5.txt").write_text("5 die")
    with pytest.raises(Dis2Error, match=r"2 workers died \(out of memory\?\) at job train/train-5; "):
        run(source, tmp_path / "d", engine=DaskEngine(workers=2, retries=1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedular": "x"}, r"--engine-options schedular \(did you mean 'scheduler'"),
        ({"retries": "many"}, "retries=many: it must be a number"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(Dis2Error, match=message):
        DaskEngine.of(options, workers=None)


def test_a_scheduler_that_does_not_answer_is_told(source, tmp_path):
    with pytest.raises(Dis2Error, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:1 "):
        run(source, tmp_path / "d", engine=DaskEngine(scheduler="tcp://127.0.0.1:1", connect_seconds=1.0))
