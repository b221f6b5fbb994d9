"""A bundle that does not hold or cannot run is refused, with the words of Python, and nothing crashes."""

from __future__ import annotations

import io
import json
import os
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clouds_deploy.artifacts import MANIFEST, read_manifest, sha256, write_json
from clouds_deploy.backends.tensorrt.machine import Machine
from clouds_deploy.backends.tensorrt.preflight import check_engine
from clouds_deploy.bundles.bundle import FACTS, GRAPH, KIND
from clouds_deploy.bundles.vocabulary import FILE, Vocabulary
from clouds_deploy.errors import CloudsError
from tests.cpp import builder
from tests.cpp.corpus import write_corpus
from tests.cpp.toy import change_facts, seal, write_toy


def told(answer: bytes | None) -> tuple[str, str] | None:
    if answer is None:
        return None
    message, _, hint = answer.decode().partition("\n")
    return message, hint


def python_words(call: Callable[[], object]) -> tuple[str, str] | None:
    try:
        call()
    except CloudsError as error:
        return error.message, error.hint
    return None


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    write_json(path / MANIFEST, manifest)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


CLANG = next((name for name in ("clang++", "clang++-14") if shutil.which(name)), "")
FUZZERS = {"clouds_fuzz": "bundle", "clouds_fuzz_images": "images"}
"""The folder of the corpus that each program begins with."""

FAULTS: dict[str, Callable[[Path], object]] = {
    "whole": lambda _: None,
    "no directory": shutil.rmtree,
    "no manifest": lambda path: (path / MANIFEST).unlink(),
    "another format": lambda path: edit(path, lambda m: m.update(format=2)),
    "no format": lambda path: edit(path, lambda m: m.pop("format")),
    "no object": lambda path: (path / MANIFEST).write_text("[1, 2]"),
    "another kind": lambda path: edit(path, lambda m: m.update(kind="run")),
    "a lost file": lambda path: (path / GRAPH).unlink(),
    "a flipped bit": lambda path: flip(path / GRAPH),
    "a longer file": lambda path: (path / FACTS).write_text((path / FACTS).read_text() + " "),
    "another hash": lambda path: edit(path, lambda m: m["files"][GRAPH].update(sha256=64 * "0")),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_manifest_is_checked_as_in_python(tmp_path: Path, toy: Path, internals: Any, fault: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy, bundle)
    FAULTS[fault](bundle)
    want = python_words(lambda: read_manifest(bundle, KIND))
    assert (want is None) == (fault == "whole")
    assert told(internals.check_directory(str(bundle).encode(), KIND.encode())) == want


@pytest.mark.parametrize("content", ["{", "", "\xff", "nonsense", '{"format": 1,}'])
def test_what_is_no_json_is_refused(tmp_path: Path, toy: Path, internals: Any, content: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy, bundle)
    (bundle / MANIFEST).write_text(content, "latin-1")
    want = python_words(lambda: read_manifest(bundle, KIND))
    got = told(internals.check_directory(str(bundle).encode(), KIND.encode()))
    assert want is not None
    assert got is not None
    common = f"{bundle / MANIFEST} is not valid JSON: "  # then each parser's own words
    assert want[0].startswith(common)
    assert got[0].startswith(common)
    assert got[1] == want[1]


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside"])
def test_files_outside_of_the_bundle_are_never_read(
    tmp_path: Path, toy: Path, internals: Any, name: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy, bundle)
    (tmp_path / "outside").write_text("x")
    edit(bundle, lambda m: m["files"].update({name: {"bytes": 1, "sha256": sha256(tmp_path / "outside")}}))
    got = told(internals.check_directory(str(bundle).encode(), KIND.encode()))
    assert got is not None
    assert "names a file outside of its directory" in got[0]


@pytest.mark.parametrize("name", [GRAPH, "more/weights.bin", "pipe"])
def test_links_out_and_what_is_no_file_are_never_opened(
    tmp_path: Path, toy: Path, internals: Any, name: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy, bundle)
    outside = tmp_path / "outside"
    outside.write_bytes((toy / GRAPH).read_bytes())
    if name == "pipe":
        os.mkfifo(bundle / name)  # opening it would wait for ever
        want = "is missing from the bundle"
    elif name == GRAPH:
        (bundle / name).unlink()
        (bundle / name).symlink_to(outside)
        want = "is a link that leads out of its directory"
    else:
        (bundle / "more").symlink_to(tmp_path)  # a folder
        outside.rename(tmp_path / "weights.bin")
        want = "is not in the manifest of the bundle"
    size = outside.stat().st_size if outside.is_file() else 0
    edit(bundle, lambda m: m["files"].update({name: {"bytes": size, "sha256": sha256(toy / GRAPH)}}))
    got = told(internals.check_directory(str(bundle).encode(), KIND.encode()))
    assert got is not None
    assert want in got[0]


@pytest.mark.parametrize(
    ("content", "want"),
    [
        ('{"format": ' + "[" * 200_000, "it is nested over 64 deep"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "it is nested over 64 deep"),
        ('{"format": ' + "9" * 5000 + "}", "a number has over 400 digits"),
        ('{"format": [' + "1," * 1_000_001 + "1]}", "it has over 1000000 values"),
        (" " * (16 << 20) + "{}", "it is larger than 16 MiB"),
    ],
    ids=["brackets", "objects", "digits", "values", "bytes"],
)
def test_documents_have_limits(tmp_path: Path, toy: Path, internals: Any, content: str, want: str) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy, bundle)
    (bundle / MANIFEST).write_text(content)
    got = told(internals.check_directory(str(bundle).encode(), KIND.encode()))
    assert got is not None
    assert want in got[0]
    if (
        "digits" not in want and "bytes" not in want
    ):  # within the limits it is read: brackets in a text are none
        (bundle / MANIFEST).write_text(json.dumps({"format": 1, "kind": "[" * 300 + '"' + "9" * 900}))
        got = told(internals.check_directory(str(bundle).encode(), KIND.encode()))
        assert got is not None
        assert " is a [[[[" in got[0]


@pytest.mark.parametrize(
    ("location", "listed", "refused"),
    [
        ("weights.bin", "weights.bin", False),
        ("more/weights.bin", "segmenter.onnx more/weights.bin", False),
        ("weights.bin", "segmenter.onnx", True),
        ("../weights.bin", "weights.bin", True),
        ("/etc/passwd", "weights.bin", True),
        ("*/_ORT_MEM_ADDR_/*", "weights.bin", True),
        ("", "weights.bin", True),
    ],
)
@pytest.mark.parametrize("place", ["initializer", "constant", "subgraph", "sparse", "function"])
def test_weights_are_taken_from_the_bundle_only(
    tmp_path: Path, internals: Any, location: str, listed: str, refused: bool, place: str
) -> None:
    from onnx import TensorProto, helper

    tensor = helper.make_tensor("weights", TensorProto.FLOAT, [4], np.zeros(4, np.float32))
    tensor.ClearField("float_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("length", "16"), ("location", location)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    inner = helper.make_graph([constant], "inner", [], [out])
    large = helper.make_tensor("large", TensorProto.UINT8, [100_000], bytes(100_000), raw=True)
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    if place == "constant":
        nodes.append(constant)
    elif place == "subgraph":
        nodes.append(helper.make_node("If", ["x"], ["z"], then_branch=inner, else_branch=inner))
    elif place == "sparse":
        indices = helper.make_tensor("indices", TensorProto.INT64, [4], np.arange(4))
        sparse = helper.make_sparse_tensor(tensor, indices, [4])
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])], [out], [large]
    )
    if place == "initializer":
        graph.initializer.append(tensor)
    if place == "sparse":
        graph.sparse_initializer.append(sparse)
    opsets = [helper.make_opsetid("", 17)]
    functions = [helper.make_function("own", "f", [], ["y"], [constant], opsets)]
    model = helper.make_model(graph, opset_imports=opsets, functions=functions if place == "function" else [])
    path = tmp_path / "a.onnx"
    path.write_bytes(model.SerializeToString())
    got = told(internals.check_weights(str(path).encode(), listed.encode()))
    if refused:
        assert got is not None
        assert got[0] == f"{path} takes weights from `{location}`, which is no file of the bundle's manifest"
    else:
        assert got is None
    whole = path.read_bytes()
    for cut in (1, 7, len(whole) // 2, len(whole) - 3):
        path.write_bytes(whole[:cut])
        answer = internals.check_weights(str(path).encode(), listed.encode())
        assert answer is not None
        assert b" is no ONNX file" in answer or b"takes weights from" in answer, cut


def zip_by_hand(*entries: tuple[bytes, bytes, int]) -> bytes:
    """A zip of deflated entries: name, packed bytes, and the size they claim to have.

    An entry that lies within another one's bytes is found there.
    """
    body, directory = b"", b""
    for name, packed, size in entries:
        fields = struct.pack("<HHHIIIHH", 8, 0, 0, 0, len(packed), size, len(name), 0)
        local = struct.pack("<IHH", 0x04034B50, 20, 0) + fields + name + packed
        at = body.find(local)
        if at < 0:
            at, body = len(body), body + local
        head = struct.pack("<IHHH", 0x02014B50, 20, 20, 0) + fields
        directory += head + struct.pack("<HHHII", 0, 0, 0, 0, at) + name
    count = len(entries)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, count, count, len(directory), len(body), 0)
    return body + directory + end


@pytest.mark.parametrize(
    "fault",
    ["nothing", "overlap", "many", "twice", "checksum", "sizes", "shape", "header", "bomb", "trailing"],
)
def test_arrays_are_what_the_directory_says(tmp_path: Path, internals: Any, fault: str) -> None:
    path = tmp_path / FILE
    vectors, share = np.eye(2, 3, dtype=np.float32)[:, None], np.array([0.0, 1.0], np.float32)
    Vocabulary(("road", "sky"), vectors, share).save(path)
    made = bytearray(path.read_bytes())
    end = made.rindex(b"PK\5\6")
    (directory,) = struct.unpack_from("<I", made, end + 16)
    first = bytes(made[directory : made.index(b"PK\1\2", directory + 4)])
    want = ""
    if fault == "overlap":  # one array within the other's bytes
        inner = zip_by_hand((b"b.npy", bytes(9), 9))[: 30 + 5 + 9]
        made = bytearray(zip_by_hand((b"a.npy", bytes(5) + inner + bytes(5), 99), (b"b.npy", bytes(9), 9)))
        want = "its entries overlap"
    elif fault == "many":  # the directory names one array again and again
        more = b"".join(first.replace(b"names.npy", b"%05d.npy" % i) for i in range(3000))
        entries = len(more) // len(first) + 3
        tail = struct.pack(
            "<IHHHHIIH", 0x06054B50, 0, 0, entries, entries, end - directory + len(more), directory, 0
        )
        made = made[:end] + more + tail
        want = "it has over 64 entries"
    elif fault == "twice":
        made = made.replace(b"share.npy", b"names.npy")
        want = "two of its entries have one name"
    elif fault == "checksum":
        made[made.index(vectors.tobytes())] ^= 1
        want = "its checksum differs"
    elif fault == "sizes":  # of the first entry, in the directory only
        struct.pack_into("<II", made, directory + 20, 1 << 20, 1 << 20)
        want = "an entry is not what the directory says"
    elif fault in ("shape", "header"):  # checksums are right, the array claims 4 TB or a header of 40 kB
        buffer = io.BytesIO()
        head = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1048576, 1048576), }"
        head += b" " * (117 if fault == "shape" else 40_000 - len(head) % 8) + b"\n"
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("names.npy", b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head)
        made = bytearray(buffer.getvalue())
        want = "it ends too early" if fault == "shape" else "an array's header is too long"
    elif fault == "bomb":
        made = bytearray(zip_by_hand(*((b"%d.npy" % i, bytes(4 << 17), 400 << 20) for i in range(3))))
        want = "its arrays are too large"
    elif fault == "trailing":
        made += b"after the end"
        want = "it is no zip file"
    path.write_bytes(bytes(made))
    got = told(internals.read_vocabulary(str(path).encode()))
    if fault == "nothing":
        assert got is None
    else:
        assert got is not None
        assert want in got[0]


@pytest.mark.parametrize(
    "facts",
    [
        {"height": None}, {"height": -1}, {"width": 1 << 40}, {"height": 32.5},
        {"mean_color": [1, 2]}, {"mean_color": [1, 2, 300]},
        {"inputs": []}, {"outputs": {}}, {"inputs": [{"name": "image"}]}, {"classes": 5}, {"engines": [{}]},
        {"outputs": [{"name": "labels", "dtype": "uint8", "shape": [None, 1 << 30, 1 << 30]}]},
        {"outputs": [{"name": "labels", "dtype": "uint8", "shape": 60 * [2]}]}, {"height": "x" * 100_000},
    ],
    ids=str,
)  # fmt: skip
def test_garbled_facts_are_refused(tmp_path: Path, internals: Any, facts: dict[str, Any]) -> None:
    bundle = write_toy(tmp_path / "bundle")
    change_facts(bundle, **facts)
    got = told(internals.open_segmenter_bundle(str(bundle).encode()))
    assert got is not None
    assert got[0].startswith(f"{bundle / FACTS} lacks or garbles a fact: ")
    assert got[1] == "export it again with this version"


ENGINE = {
    "file": "engines/a.engine",
    "engine": "tensorrt-rtx",
    "version": "1.7.1",
    "sms": ["86", "89"],
    "version_compatible": False,
}
GPU = {"versions": {"tensorrt-rtx": "1.7.1"}, "sm": "89", "gpu": "RTX 4090", "driver": "580.65"}


def ask(internals: Any, bundle: Path, facts: dict[str, Any], machine: dict[str, Any]) -> bytes | None:
    """The C++ `check_engine` on what Python's takes."""
    installed = machine["versions"].get(facts["engine"])
    words = [str(bundle), *(facts[name] for name in ("file", "engine", "version", "sha256"))]
    answer: bytes | None = internals.check_engine(
        *(word.encode() for word in words),
        " ".join(facts["sms"]).encode(),
        int(facts["version_compatible"]),
        installed and installed.encode(),
        *(machine[name].encode() for name in ("sm", "gpu", "driver")),
    )
    return answer


@pytest.mark.parametrize(
    ("engine", "machine", "file"),
    [
        ({}, {}, "whole"),
        ({}, {"sm": "90", "gpu": "H100"}, "whole"),
        ({}, {"sm": "", "gpu": "", "driver": ""}, "whole"),
        ({}, {}, "lost"),
        ({}, {}, "changed"),
        ({"version_compatible": True}, {"versions": {"tensorrt-rtx": "1.8"}}, "whole"),
        ({"sms": []}, {"sm": "120"}, "whole"),
        ({}, {"sm": "75", "gpu": "T4"}, "changed"),
    ],
)
def test_engines_are_checked_as_in_python(
    tmp_path: Path, internals: Any, engine: dict[str, Any], machine: dict[str, Any], file: str
) -> None:
    path = tmp_path / "engines" / "a.engine"
    path.parent.mkdir()
    path.write_bytes(b"an engine")
    facts = {**ENGINE, "sha256": sha256(path), **engine}
    if file == "lost":
        path.unlink()
    elif file == "changed":
        flip(path)
    here = {**GPU, **machine}
    python = Machine(here["versions"], here["sm"] or None, here["gpu"] or None, here["driver"] or None)
    want = python_words(lambda: check_engine(facts, tmp_path, python))
    assert told(ask(internals, tmp_path, facts, here)) == want


def test_an_engine_of_another_version_is_refused(tmp_path: Path, internals: Any) -> None:
    path = tmp_path / "engines" / "a.engine"
    path.parent.mkdir()
    path.write_bytes(b"an engine")
    facts = {**ENGINE, "sha256": sha256(path)}
    other = {**GPU, "versions": {"tensorrt-rtx": "1.8"}}
    message, hint = told(ask(internals, tmp_path, facts, other)) or ("", "")
    assert message == "a.engine cannot run here: it was built by tensorrt-rtx 1.7.1, and 1.8 is installed"
    assert hint == "install tensorrt-rtx 1.7.1, or export it again"
    for built, installed in (("10.14.1.48.post1", "10.14.1.48"), ("10.14.1.48", "10.14.1.48.post2")):
        posted = {**GPU, "versions": {"tensorrt-rtx": installed}}  # the library itself knows no .postN
        assert ask(internals, tmp_path, {**facts, "version": built}, posted) is None
    for installed in ("10.14.1.49", "10.14.0.48.post1", "11.14.1.48"):
        other = {**GPU, "versions": {"tensorrt-rtx": installed}}
        assert ask(internals, tmp_path, {**facts, "version": "10.14.1.48"}, other) is not None
    message, _ = told(ask(internals, tmp_path, facts, {**GPU, "versions": {}})) or ("", "")
    assert "tensorrt-rtx is not built into this library" in message


@pytest.mark.parametrize("fault", ["nothing", "names", "nan", "share", "shape", "no zip"])
def test_vocabularies_are_checked_as_in_python(tmp_path: Path, internals: Any, fault: str) -> None:
    names: tuple[str, ...] = ("road", "sky")
    vectors, share = np.eye(2, 3, dtype=np.float32)[:, None], np.array([0.0, 1.0], np.float32)
    if fault == "names":
        names = ("road",)
    if fault == "nan":
        vectors[0, 0, 0] = np.nan
    if fault == "share":
        share[1] = 1.5
    if fault == "shape":
        vectors = vectors[:, 0]
    path = tmp_path / FILE
    Vocabulary(names, vectors, share).save(path)
    if fault == "no zip":
        path.write_bytes(b"something else")
    want = python_words(lambda: Vocabulary.load(path))
    got = told(internals.read_vocabulary(str(path).encode()))
    assert (want is None) == (got is None) == (fault == "nothing")
    if want is not None and got is not None and fault not in ("no zip", "shape"):  # words of numpy's own
        assert got == want


def selftest(build: Path, bundle: Path, *more: str) -> tuple[int, str]:
    done = builder.run([str(build / "clouds_selftest"), str(bundle), *more], timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_a_whole_bundle_passes_its_own_test(cpp_build: Path, toy: Path) -> None:
    code, text = selftest(cpp_build, toy)
    assert (code, "100.0000 %" in text) == (0, True), text


def test_a_compressed_reference_is_read_too(cpp_build: Path, tmp_path: Path) -> None:
    code, text = selftest(cpp_build, write_toy(tmp_path / "bundle", compressed=True))
    assert code == 0 or "this build has no zlib" in text


def test_wrong_labels_fail_the_test(cpp_build: Path, tmp_path: Path) -> None:
    one, other = write_toy(tmp_path / "one"), write_toy(tmp_path / "other", text=True)
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(one / GRAPH)
    (weights,) = (i for i, t in enumerate(graph.graph.initializer) if t.name == "weights")
    array = numpy_helper.to_array(graph.graph.initializer[weights])
    graph.graph.initializer[weights].CopyFrom(numpy_helper.from_array(-array, "weights"))
    onnx.save(graph, one / GRAPH)
    seal(one)
    code, text = selftest(cpp_build, one)
    assert (code, "FAILED" in text) == (1, True), text
    shutil.copy(one / GRAPH, other / GRAPH)  # a graph without the inputs its facts name
    seal(other)
    code, text = selftest(cpp_build, other)
    assert (code, "refuses" in text) == (2, True), text


@pytest.mark.parametrize(
    ("fault", "message", "fix"),
    [
        ("hash", "is not the file its manifest names (size or sha256 differ)", "copy the directory again"),
        ("schema", "is not of format 1", "make it with this version"),
        ("no engine", "has no engine for tensorrt-rtx", "export it again with --engine tensorrt-rtx --sm"),
        ("foreign engine", "a.engine cannot run here", "run the graph: onnxruntime and openvino need none"),
        ("backend", "there is no backend `openvivo`", "known: "),
        ("device", "openvino has no device `tpu`", "known: "),
        ("graph", "segmenter.onnx is no ONNX file", "export the run again"),
    ],
)
def test_the_tools_say_what_is_wrong_and_what_to_do(
    cpp_build: Path, toy: Path, tmp_path: Path, fault: str, message: str, fix: str
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(toy, bundle)
    more: tuple[str, ...] = ()
    if fault == "hash":
        flip(bundle / GRAPH)
    elif fault == "schema":
        edit(bundle, lambda m: m.update(format=7))
    elif fault == "no engine":
        more = ("--backend", "tensorrt-rtx")
    elif fault == "foreign engine":
        if Path("/proc/driver/nvidia").exists():
            pytest.skip("there is an NVIDIA GPU")
        more = ("--backend", "tensorrt-rtx")
        (bundle / "engines").mkdir()
        (bundle / "engines" / "a.engine").write_bytes(b"for another GPU")
        change_facts(bundle, engines=[{**ENGINE, "sha256": sha256(bundle / "engines" / "a.engine")}])
    elif fault == "graph":
        (bundle / GRAPH).write_bytes(b"no graph")
        seal(bundle)
    else:
        more = (
            ("--backend", "openvivo") if fault == "backend" else ("--backend", "openvino", "--device", "tpu")
        )
    code, text = selftest(cpp_build, bundle, *more)
    assert code == 2, text
    assert message in text
    assert "  fix: " in text
    assert fix in text


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("corpus") / "corpus"
    write_corpus(out)
    return out


@pytest.mark.parametrize(("program", "folder"), FUZZERS.items())
def test_what_is_damaged_is_refused(cpp_build: Path, corpus: Path, program: str, folder: str) -> None:
    if not (cpp_build / program).is_file():
        pytest.skip("no libpng: nothing reads images")
    files = [str(path) for path in sorted((corpus / folder).iterdir())]
    code, text, most = builder.run_measured([str(cpp_build / program), "2", *files])
    assert code == 0, text
    assert int(text.split()[0]) > 100, text
    assert most < 500


@pytest.mark.slow
@pytest.mark.skipif(not CLANG, reason="no clang: no libFuzzer")
def test_fuzzers_find_nothing(corpus: Path, tmp_path: Path) -> None:
    build = builder.build(
        "fuzz", f"-DCMAKE_C_COMPILER={CLANG.replace('++', '')}", f"-DCMAKE_CXX_COMPILER={CLANG}",
        "-DCLOUDS_TOOLS=OFF", "-DCLOUDS_OPENVINO=OFF", "-DCLOUDS_ONNXRUNTIME=OFF",
        "-DCLOUDS_SANITIZE=fuzzer-no-link,address,undefined", targets=tuple(FUZZERS),
    )  # fmt: skip
    seconds = os.environ.get("CLOUDS_FUZZ_SECONDS", "60")
    for program, folder in FUZZERS.items():
        limits = [f"-max_total_time={seconds}", "-timeout=5", "-rss_limit_mb=500", "-max_len=20000"]
        builder.succeed([str(build / program), *limits, str(corpus / folder)], cwd=tmp_path)
