"""The tables of docs/configuration.md, generated from the settings classes: `python -m infra.cli.settings_table`."""

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from recsys.settings import PREFIX, Settings
from serving.settings import ServingSettings
from streaming.settings import StreamSettings

ALL: tuple[type[BaseSettings], ...] = (Settings, StreamSettings, ServingSettings)
_TITLES = ("All commands", "Streaming: feature worker, archiver, replay", "Serving: `recsys serve`")


def settings_table() -> str:
    """Markdown: one table per component; each variable once, with its default and description."""
    lines: list[str] = []
    seen: set[str] = set()
    for title, cls in zip(_TITLES, ALL, strict=True):
        lines += [f"### {title}", "", "| variable | default | meaning |", "|---|---|---|"]
        for name, info in cls.model_fields.items():
            if name not in seen:
                seen.add(name)
                default = info.get_default(call_default_factory=True, validated_data={})
                shown = f"`{default}`" if default not in (None, "", (), SecretStr("")) else ""
                lines.append(f"| `{PREFIX}{name.upper()}` | {shown} | {info.description} |")
        lines.append("")
    return "\n".join(lines).rstrip()


if __name__ == "__main__":
    print(settings_table())  # noqa: T201 - pasted into docs/configuration.md
