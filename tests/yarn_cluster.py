"""A YARN cluster for tests: a resource manager and a node manager on loopback, from Hadoop's jars."""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from xml.sax.saxutils import escape

from infra.local.process import ChildProcess, free_port

_DAEMONS = "org.apache.hadoop.yarn.server"
# Hadoop's own start scripts give them, too: it still uses what Java 17 closes
_JAVA = ("java", "-Xmx256m", "--add-opens=java.base/java.lang=ALL-UNNAMED")
_LOG4J = """log4j.rootLogger=INFO,console
log4j.appender.console=org.apache.log4j.ConsoleAppender
log4j.appender.console.layout=org.apache.log4j.PatternLayout
log4j.appender.console.layout.ConversionPattern=%p %c{1}: %m%n
"""
_ADDRESSES = ("address", "scheduler.address", "resource-tracker.address", "admin.address", "webapp.address")


@contextmanager
def yarn_cluster(jars: Path, folder: Path) -> Iterator[Path]:
    """Gives the configuration, for `HADOOP_CONF_DIR`.

    Args:
        jars: folder with `hadoop-yarn-server-resourcemanager`, `hadoop-yarn-server-nodemanager` and what they need.
    """
    conf = folder / "conf"
    conf.mkdir(parents=True)
    (conf / "log4j.properties").write_text(_LOG4J)
    _write(conf / "core-site.xml", {"fs.defaultFS": "file:///", "hadoop.tmp.dir": str(folder / "tmp")})
    _write(conf / "yarn-site.xml", _settings(folder))
    _write(
        conf / "capacity-scheduler.xml",
        {
            "yarn.scheduler.capacity.root.queues": "default",
            "yarn.scheduler.capacity.root.default.capacity": "100",
            "yarn.scheduler.capacity.maximum-am-resource-percent": "0.5",
        },
    )
    with ExitStack() as opened:

        def start(name: str, daemon: str, started: str) -> None:
            log = folder / f"{name}.log"
            command = (*_JAVA, "-cp", f"{conf}:{jars}/*", f"{_DAEMONS}.{daemon}")
            process = ChildProcess(command, log, environ=os.environ | {"HADOOP_LOG_DIR": str(folder)})
            opened.callback(process.stop)
            process.wait_until(lambda: started in log.read_text(), 120)

        start("resource-manager", "resourcemanager.ResourceManager", "Transitioned to active state")
        start("node-manager", "nodemanager.NodeManager", "Registered with ResourceManager")
        yield conf


def _settings(folder: Path) -> dict[str, str]:
    local = {f"yarn.resourcemanager.{name}": f"127.0.0.1:{free_port()}" for name in _ADDRESSES}
    local |= {
        f"yarn.nodemanager.{name}": f"127.0.0.1:{free_port()}" for name in ("address", "webapp.address")
    }
    return local | {
        "yarn.nodemanager.localizer.address": f"127.0.0.1:{free_port()}",
        "yarn.nodemanager.local-dirs": str(folder / "local"),
        "yarn.nodemanager.log-dirs": str(folder / "containers"),
        "yarn.nodemanager.resource.memory-mb": "4096",
        "yarn.nodemanager.resource.cpu-vcores": "4",
        "yarn.nodemanager.vmem-check-enabled": "false",
        "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": "100",
        "yarn.scheduler.minimum-allocation-mb": "128",
        "yarn.resourcemanager.hostname": "127.0.0.1",
    }


def _write(path: Path, settings: Mapping[str, str]) -> None:
    lines = (f"<property><name>{n}</name><value>{escape(v)}</value></property>" for n, v in settings.items())
    path.write_text("\n".join(("<configuration>", *lines, "</configuration>")))
