"""`s3://` through s3fs, against moto's server; skipped where they are not installed."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from clouds_deploy.errors import CloudsError
from clouds_deploy.inference.predict import run_predict
from clouds_deploy.jobs.storage import Place
from clouds_deploy.streets import render
from tests.jobs.test_spread import Killed, as_folder, download, killing, members, upload, work


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    s3fs = pytest.importorskip("s3fs", reason="pip install s3fs 'moto[server]'")
    server = pytest.importorskip("moto.server", reason="pip install s3fs 'moto[server]'")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    for name, value in {
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": "http://{}:{}".format(*running.get_host_and_port()),
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem().mkdir("streets")
    yield "s3://streets"
    running.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_shards_and_files_of_a_bucket(bucket: str, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(3):
        (tmp_path / "shards").mkdir(exist_ok=True)
        with tarfile.open(tmp_path / "shards" / f"{number}.tar", "w") as tar:
            for i in range(2):
                path = tmp_path / "images" / f"{number}{i}.png"
                Image.fromarray(render("photo", number, i, 48, 64).image).save(path)
                tar.add(path, path.name)
    run_predict(work(), [tmp_path / "images"], tmp_path / "wanted")
    wanted = {
        p.relative_to(tmp_path / "wanted").as_posix(): p.read_bytes()
        for p in (tmp_path / "wanted").rglob("*.png")
    }
    for name in ("images", "shards"):
        upload(tmp_path / name, f"{bucket}/{name}")

    with pytest.raises(Killed):
        run_predict(work(), [f"{bucket}/shards"], f"{bucket}/a", runner=killing(1))
    rest = work()
    assert run_predict(rest, [f"{bucket}/shards"], f"{bucket}/a")["images"] == 6
    assert rest.predictor.count == 4  # type: ignore[attr-defined]
    got = download(f"{bucket}/a", tmp_path / "a")
    assert as_folder({k: v for p in got.glob("*.tar") for k, v in members(p).items()}) == wanted
    run_predict(work(), [f"{bucket}/images"], f"{bucket}/b")
    got = download(f"{bucket}/b", tmp_path / "b")
    assert {p.relative_to(got).as_posix(): p.read_bytes() for p in got.rglob("*.png")} == wanted

    Place(f"{bucket}/shards").put(tmp_path / "shards" / "1.tar", "0.tar")
    with pytest.raises(CloudsError, match=r"shards/0\.tar changed"):
        run_predict(work(), [f"{bucket}/shards"], f"{bucket}/a")
    for given, out in (("s3://nowhere/x", f"{bucket}/c"), (f"{bucket}/images", "s3://nowhere/x")):
        with pytest.raises(CloudsError, match="s3://nowhere"):
            run_predict(work(), [given], out)
    assert not Place(bucket).fs.exists("nowhere")  # a slip of the pen makes no bucket
