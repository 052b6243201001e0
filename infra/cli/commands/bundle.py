"""`recsys bundle`: look at bundles, check them, make one the current one."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from infra.terminal import UNDEFINED, JsonFlag, console, print_json, print_mapping, print_table
from recsys import bundle as bundles
from recsys import bundle_delta
from recsys.client import Client
from recsys.contracts.errors import InvalidBundle, InvalidConfig
from recsys.settings import Settings
from recsys.signatures import PublicKeys, new_key, read_private_key, read_public_keys

app = typer.Typer(no_args_is_help=True, help="List, inspect, verify and publish bundles.")

Version = Annotated[str, typer.Argument(help="Version of the bundle; default: the published one.")]
VersionOption = Annotated[
    str, typer.Option("--version", help="Version of the bundle; default: the published one.")
]


@app.command("list")
def list_(as_json: JsonFlag = False) -> None:
    """List all bundles and mark the published one.

    Example: recsys bundle list
    """
    folder, keys = Settings().bundles, _keys()
    current = bundles.current_version(folder)
    found = [_listed(folder / v, keys) | {"current": v == current} for v in bundles.versions(folder)]
    if as_json:
        print_json(found)
        return
    rows = [
        (b["version"], "●" if b["current"] else "", _short(b["metrics"]) or str(b["refused"])) for b in found
    ]
    print_table(f"bundles in {folder}", ("version", "current", "metrics"), rows)


@app.command()
def inspect(version: Version = "", as_json: JsonFlag = False) -> None:
    """Print a bundle's manifest.

    Example: recsys bundle inspect
    """
    manifest = bundles.open_bundle(_path(version), _keys()).manifest
    created = datetime.fromtimestamp(manifest.created_ms / 1000, UTC).isoformat(timespec="seconds")
    content: dict[str, object] = {"created": created, **vars(manifest)}
    if not as_json:
        content["feature_names"] = f"{len(manifest.feature_names)} features"
        content["files"] = ", ".join(manifest.files)
        content["metrics"] = _short(manifest.metrics)
    print_mapping(manifest.version, content, as_json)


@app.command()
def verify(version: Version = "", as_json: JsonFlag = False) -> None:
    """Verify every file of a bundle against its manifest. Exits non-zero on a difference.

    With RECSYS_BUNDLE_KEYS, the signature of the manifest is verified as well.

    Example: recsys bundle verify
    """
    bundle = bundles.open_bundle(_path(version), _keys())
    size = sum((bundle.path / name).stat().st_size for name in bundle.manifest.files)
    content = {"version": bundle.manifest.version, "files": len(bundle.manifest.files), "bytes": size}
    print_mapping("verified", content, as_json)


@app.command()
def publish(
    version: Annotated[str, typer.Argument(help="Version to serve.")] = "",
    variant: Annotated[
        str, typer.Option(help="Build and publish a bundle with this variant of the lake's ladder.")
    ] = "",
    trained: Annotated[
        bool, typer.Option("--trained", help="Build and publish a bundle of the models in <home>/work.")
    ] = False,
) -> None:
    """Verify a bundle and publish it; a running API loads it without a restart.

    With `--variant`, a bundle of the trained two-tower and that variant is built first. A variant that failed its gate
    is not published; the reason is printed. With `--trained`, of the ranker that was trained last.

    Example: recsys bundle publish 20260101-120000
    """
    settings = Settings()
    if bool(version) + bool(variant) + trained != 1:
        raise InvalidConfig(
            "name either a version (`recsys bundle list`), a variant (`--variant int8`) or `--trained`"
        )
    if not version:
        from training import publish as assembly  # numpy, FAISS and torch: not for a list of bundles

        work = settings.home / "work"
        config = assembly.PublishConfig(
            lake=settings.lake,
            two_tower=work / "two_tower",
            ranker=work / "ladder-lake" / variant if variant else work / "ranker",
            bundles=settings.bundles,
            examples=settings.features / "examples",
            signing_key=settings.bundle_signing_key,
            keys=settings.bundle_keys,
        )
        version = assembly.main(config).manifest.version
    bundles.publish(settings.bundles, version, _keys())
    console.print(f"published {version}; a running API loads it within a few seconds (`recsys status`)")


@app.command()
def copy(
    to: Annotated[Path, typer.Argument(help="Target folder of bundles.")],
    version: VersionOption = "",
    as_json: JsonFlag = False,
) -> None:
    """Copy a bundle to another folder of bundles; files that exist there (by checksum) are linked.

    Over a network, carry a delta instead, which is smaller: `recsys bundle delta`.

    Example: recsys bundle copy /mnt/host-2/bundles
    """
    bundle = bundles.open_bundle(_path(version), _keys())
    copied = bundles.copy_bundle(bundle, to, _keys())
    print_mapping(f"copied to {to}", _sent(bundle, "copied_bytes", copied), as_json)


@app.command()
def delta(
    base: Annotated[str, typer.Argument(help="Version of the bundle that the hosts have.")],
    out: Annotated[Path, typer.Option(help="File to carry to each of them.")],
    version: VersionOption = "",
    as_json: JsonFlag = False,
) -> None:
    """Write what changes one bundle into another, for hosts that have the first one: `recsys bundle apply` there.

    Example: recsys bundle delta 20260101-030000 --out update.delta
    """
    keys = _keys()
    before, bundle = (bundles.open_bundle(_path(of), keys) for of in (base, version))
    written = bundle_delta.write_delta(before, bundle, out)
    changes = written.changes
    files = {
        "unchanged": sorted(bundle.manifest.files.keys() - changes.keys()),
        "differences": sorted(name for name, change in changes.items() if change.base),
        "whole": sorted(name for name, change in changes.items() if not change.base),
    }
    shown = files if as_json else {kind: ", ".join(names) for kind, names in files.items()}
    content = {"base": base, **_sent(bundle, "delta_bytes", written.bytes), **shown}
    print_mapping(f"written to {out}", content, as_json)


@app.command()
def apply(
    file: Annotated[Path, typer.Argument(help="What `recsys bundle delta` has written.")],
    as_json: JsonFlag = False,
) -> None:
    """Make the bundle that a delta describes from one that is here, and verify it; `recsys bundle publish` publishes
    it.

    Repeated, it changes nothing. A damaged delta and a missing or damaged base are refused.

    Example: recsys bundle apply update.delta
    """
    bundle = bundle_delta.apply_delta(file, Settings().bundles, _keys())
    print_mapping(f"made of {file}", _sent(bundle, "delta_bytes", file.stat().st_size), as_json)


@app.command()
def keygen(
    path: Annotated[Path, typer.Argument(help="File for the private key; its owner alone can read it.")],
    name: Annotated[str, typer.Option(help="Name of the key in the file of public keys.")] = "recsys",
) -> None:
    """Make a key that signs bundles. Prints the line of its public key for the file of RECSYS_BUNDLE_KEYS.

    Example: recsys bundle keygen training.key --name training >> bundle-keys
    """
    typer.echo(new_key(path, name))


@app.command("sign")
def sign_(
    key: Annotated[Path | None, typer.Option(help="Private key; default: RECSYS_BUNDLE_SIGNING_KEY.")] = None,
    version: Version = "",
) -> None:
    """Verify a bundle against its manifest and sign it: everything in it is then what the owner of the key saw.

    Example: recsys bundle sign --key training.key
    """
    chosen = key or Settings().bundle_signing_key
    if chosen is None:
        raise InvalidConfig("name a private key: --key FILE or RECSYS_BUNDLE_SIGNING_KEY")
    bundle = bundles.open_bundle(_path(version))
    bundles.sign_bundle(bundle, read_private_key(chosen))
    console.print(f"signed {bundle.manifest.version}")


@app.command()
def shadow(
    version: Annotated[str, typer.Argument(help="Version that receives mirrored requests.")] = "",
    off: Annotated[bool, typer.Option("--off", help="Stop mirroring.")] = False,
    api: Annotated[str, typer.Option(help="Address of the API.")] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(envvar="API_KEY", help="API key with the scope admin.")] = "",
) -> None:
    """Mirror a share of the requests to another bundle and discard its responses; see `recsys bundle diff`.

    Example: recsys bundle shadow 20260101-120000
    """
    if bool(version) == off:
        raise InvalidConfig("name the version of the shadow, or end it with --off")
    with Client(api, key, timeout_s=120.0) as client:
        if off:
            client.end_shadow()
            console.print("no shadow any more")
        else:
            client.begin_shadow(version)
            console.print(f"shadow: {version}; `recsys bundle diff` tells how its lists differ")


@app.command()
def diff(
    api: Annotated[str, typer.Option(help="Address of the API.")] = "http://127.0.0.1:8000",
    key: Annotated[str, typer.Option(envvar="API_KEY", help="API key, when the API asks for one.")] = "",
    as_json: JsonFlag = False,
) -> None:
    """Compare the lists of the shadow bundle with those that were shown, in the API process that responds.

    Example: recsys bundle diff
    """
    with Client(api, key) as client:
        report = client.shadow_report()
    if not as_json:
        for side in ("gains", "losses"):
            report[side] = ", ".join(f"{c['item_id']} ({c['lists']})" for c in report[side])
    print_mapping(f"{report['shadow']} against {report['active']}", report, as_json)


def _path(version: str) -> Path:
    folder = Settings().bundles
    chosen = version or bundles.current_version(folder)
    if chosen is None:
        raise InvalidBundle(f"no bundle is published in {folder}: run `recsys train all`, or name a version")
    return folder / chosen


def _sent(bundle: bundles.Bundle, way: str, sent: int) -> dict[str, object]:
    """Bytes of all its files, with manifest and signature, and how many of them were sent."""
    size = sum(path.stat().st_size for path in bundle.path.iterdir())
    return {"version": bundle.manifest.version, "bytes": size, way: sent, "saved_bytes": size - sent}


def _keys() -> PublicKeys:
    return read_public_keys(Settings().bundle_keys)


def _listed(path: Path, keys: PublicKeys) -> dict[str, object]:
    """A bundle that is refused is listed, too."""
    try:
        metrics, refused = bundles.open_bundle(path, keys).manifest.metrics, ""
    except InvalidBundle as error:
        metrics, refused = {}, str(error)
    return {"version": path.name, "metrics": metrics, "refused": refused}


def _short(metrics: object) -> str:
    return ", ".join(f"{k} {_number(v)}" for k, v in metrics.items()) if isinstance(metrics, dict) else ""


def _number(metric: float | None) -> str:
    return UNDEFINED if metric is None else f"{metric:.4g}"
