"""Refuse options that would have no effect, instead of dropping them."""

from collections.abc import Iterable, Mapping, Sequence

import typer

from recsys.contracts.errors import InvalidConfig


def refuse(ctx: typer.Context, useless: bool, parameters: Iterable[str], reason: str) -> None:
    """If `useless`, refuse those of `parameters` (Python names) that were given on the command line.

    Args:
        reason: why they have no effect, and what to do instead.

    Raises:
        InvalidConfig: naming the options.
    """
    given = [name for name in parameters if useless and _is_given(ctx, name)]
    if given:
        spelled = {parameter.name: max(parameter.opts, key=len) for parameter in ctx.command.params}
        raise InvalidConfig(f"{', '.join(spelled[name] for name in given)} has no effect here: {reason}")


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def given_settings(ctx: typer.Context, settings: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The settings that options on the command line give, each with that option.

    Args:
        settings: a parameter's Python name → the dotted keys that it sets (`infra.cli.training_options`).
    """
    spelled = {parameter.name: max(parameter.opts, key=len) for parameter in ctx.command.params}
    given = [name for name in settings if _is_given(ctx, name)]
    return {key: spelled[name] for name in given for key in settings[name]}
