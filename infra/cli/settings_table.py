"""The README's table of settings, made from the settings classes; a test compares the two."""

from pydantic_settings import BaseSettings

from recsys.settings import PREFIX, Settings
from serving.settings import ServingSettings
from streaming.settings import StreamSettings

ALL: tuple[type[BaseSettings], ...] = (Settings, StreamSettings, ServingSettings)


def settings_table() -> str:
    """Markdown: one row a variable, each once, with its default and description."""
    rows = ["| variable | default | meaning |", "|---|---|---|"]
    seen: set[str] = set()
    for cls in ALL:
        for name, info in cls.model_fields.items():
            if name not in seen:
                seen.add(name)
                default = info.get_default(call_default_factory=True, validated_data={})
                shown = f"`{default}`" if default not in (None, "", ()) else ""
                rows.append(f"| `{PREFIX}{name.upper()}` | {shown} | {info.description} |")
    return "\n".join(rows)


if __name__ == "__main__":
    print(settings_table())  # noqa: T201 - pasted into README.md
