from __future__ import annotations

from pathlib import Path

from clouds_deploy.export.export import export


def test_the_weights_that_ship_pass_every_gate_in_half_precision(tmp_path: Path) -> None:
    """`clouds-deploy export sam:sam_tiny --fp16`, as the README has it."""
    gates = export("sam:sam_tiny", out=tmp_path / "bundle", fp16=True)["gates"]
    assert all(gate["passed"] for gate in gates)
    assert {gate["engine"] for gate in gates} >= {"onnxruntime fp16", "openvino fp16", "rounded fp16"}
