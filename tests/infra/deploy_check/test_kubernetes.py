"""Manifests become what a container engine is told; what does not fit together is named."""

from typing import Any

import pytest
import yaml

from infra.deploy_check.containers import Container, Kind, Mount, Probe
from infra.deploy_check.kubernetes import Document, read_containers
from recsys.contracts.errors import InvalidData

POD = """
apiVersion: apps/v1
kind: Deployment
metadata: { name: worker }
spec:
  template:
    spec:
      enableServiceLinks: false
      terminationGracePeriodSeconds: 60
      securityContext: { runAsUser: 10001, fsGroup: 20002 }
      initContainers:
        - { name: first, image: "recsys:serving", args: [topics, create] }
      containers:
        - name: worker
          image: recsys:serving
          args: [stream, worker]
          ports: [{ name: metrics, containerPort: 9100 }]
          envFrom: [{ configMapRef: { name: settings } }]
          env:
            - { name: RECSYS_HOME, value: /home }
            - { name: RECSYS_REDIS_URL, valueFrom: { secretKeyRef: { name: redis, key: url } } }
            - { name: RECSYS_TRACES, valueFrom: { secretKeyRef: { name: redis, key: none, optional: true } } }
          startupProbe: { httpGet: { path: /readyz, port: metrics }, periodSeconds: 2, failureThreshold: 30 }
          livenessProbe: { exec: { command: [python, -c, "1"] }, timeoutSeconds: 3 }
          volumeMounts:
            - { name: tmp, mountPath: /tmp }
            - { name: home, mountPath: /home/lake, subPath: lake }
            - { name: kafka, mountPath: /etc/kafka, readOnly: true }
      volumes:
        - { name: tmp, emptyDir: {} }
        - { name: home, persistentVolumeClaim: { claimName: recsys-home } }
        - name: kafka
          projected:
            sources:
              - secret: { name: user, items: [{ key: password, path: secret/password }] }
              - secret: { name: authority, optional: true }
"""
SETTINGS = (
    "{kind: ConfigMap, metadata: {name: settings}, data: {RECSYS_PARTITIONS: '12', RECSYS_HOME: /else}}"
)
SERVICE = "{kind: Service, metadata: {name: recsys-x}, spec: {ports: [{port: 80}]}}"
SECRETS = {"redis": {"url": b"redis://r"}, "user": {"password": b"p", "more": b"m"}}


def documents(pod: str = POD) -> list[Document]:
    return [yaml.safe_load(text) for text in (pod, SETTINGS, SERVICE)]


def worker(pod: str = POD) -> Container:
    _, container = read_containers(documents(pod), SECRETS)
    return container


def test_a_container_is_what_its_manifest_says() -> None:
    first, container = read_containers(documents(), SECRETS)
    assert (first.name, first.arguments, first.ends) == ("first", ("topics", "create"), True)
    assert (container.arguments, container.entrypoint, container.ends) == (("stream", "worker"), None, False)
    assert (container.user, container.group, container.grace_s) == (10001, 20002, 60)
    assert container.ports == (9100,)
    assert container.environ == {
        "RECSYS_PARTITIONS": "12",
        "RECSYS_HOME": "/home",  # env wins over envFrom
        "RECSYS_REDIS_URL": "redis://r",
    }
    assert container.probes == (
        Probe(patience_s=60, port=9100, path="/readyz"),
        Probe(patience_s=60, timeout_s=3, command=("python", "-c", "1")),
    )
    assert container.mounts == (
        Mount("/tmp", Kind.EMPTY),
        Mount("/home/lake", Kind.SHARED, name="recsys-home", folder="lake"),
        Mount("/etc/kafka", Kind.FILES, files={"secret/password": b"p"}, read_only=True),
    )


def test_service_links_are_in_the_environment_unless_they_are_declined() -> None:
    links = worker(POD.replace("enableServiceLinks: false", "enableServiceLinks: true")).environ
    assert links["RECSYS_X_PORT"].startswith("tcp://")
    assert "RECSYS_X_PORT" not in worker().environ


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("{ name: tmp, emptyDir: {} }", "{ name: other, emptyDir: {} }", "volume tmp"),
        ("name: settings }", "name: settinks }", "no ConfigMap settinks"),
        ("name: redis, key: url", "name: redis, key: uri", "secret redis has no key uri"),
        ("name: user, items", "name: usr, items", "no secret usr"),
        ("key: password", "key: passwort", "secret user has no key passwort"),
        ("port: metrics }", "port: metric }", "port metric"),
    ],
)
def test_what_does_not_fit_together_is_named(old: str, new: str, says: str) -> None:
    assert POD.count(old) == 1
    with pytest.raises(InvalidData, match=says):
        worker(POD.replace(old, new))


def test_jobs_end_by_themselves_and_cron_jobs_are_read_too() -> None:
    pod: Any = yaml.safe_load(POD)
    job = {"kind": "Job", "metadata": {"name": "job"}, "spec": pod["spec"]}
    nightly = {"kind": "CronJob", "metadata": {"name": "job"}, "spec": {"jobTemplate": {"spec": pod["spec"]}}}
    for document in (job, nightly):
        found = read_containers([document, *documents()[1:]], SECRETS)
        assert [(each.name, each.ends) for each in found] == [("first", True), ("worker", True)]
