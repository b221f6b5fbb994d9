"""Alert rules and dashboard: PromQL that promtool takes, on metrics that the server's code makes."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from clouds_deploy.serving import model, promptable
from clouds_deploy.serving.metrics import Metrics
from tests.documented import ROOT

FOLDER = ROOT / "containers" / "monitoring"
RULES = yaml.safe_load((FOLDER / "alerts.yml").read_text("utf-8"))["groups"][0]["rules"]
DASHBOARD = json.loads((FOLDER / "grafana" / "dashboard.json").read_text("utf-8"))
QUERIES = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="no promtool here: apt-get install prometheus"
)


@pytest.fixture(scope="module")
def served() -> dict[str, set[str]]:
    """Names of all samples that a server has, with their labels."""
    metrics = Metrics()
    metrics.requests.labels("/v1/segment", "200").inc()
    metrics.seconds.labels("/v1/segment").observe(0.1)
    for engine in (model.ENGINE, promptable.ENGINE):
        metrics.observer(engine)(2, 0.1)
        metrics.watch_queue(engine, lambda: 0)
    families = text_string_to_metric_families(metrics.render().decode())
    return {sample.name: set(sample.labels) for family in families for sample in family.samples}


@pytest.mark.parametrize("expression", [*(rule["expr"] for rule in RULES), *QUERIES])
def test_metrics_are_the_servers(expression: str, served: dict[str, set[str]]) -> None:
    named = re.findall(r"\b(clouds_\w+)(?:\{([^}]*)\})?", expression)
    assert named or expression.startswith("up{")
    for name, selected in named:
        assert name in served, f"{name}: {sorted(served)}"
        labels = set(re.findall(r"(\w+)\s*=", selected or ""))
        assert labels <= served[name] | {"instance", "job"}, name


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + i, at["y"] + j) for i in range(at["w"]) for j in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_the_guide_has_every_alert() -> None:
    page = (ROOT / "docs" / "guides" / "monitoring.md").read_text("utf-8")
    assert re.findall(r"^\| `(Clouds\w+)`", page, re.MULTILINE) == [rule["alert"] for rule in RULES]


@needs_promtool
def test_promtool_takes_the_files() -> None:
    promtool("check", "config", FOLDER / "prometheus.yml")
    promtool("test", "rules", FOLDER / "alerts_test.yml")


@needs_promtool
def test_promtool_takes_the_dashboards_queries(tmp_path: Path) -> None:
    rules: list[dict[str, Any]] = []
    for number, query in enumerate(QUERIES):
        plain = query.replace("$__rate_interval", "5m").replace("$instance", ".*")
        rules.append({"record": f"query_{number}", "expr": plain})
    path = tmp_path / "queries.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert f"{len(QUERIES)} rules found" in promtool("check", "rules", path)


def promtool(*words: str | Path) -> str:
    done = subprocess.run(["promtool", *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
