"""Refuse options that would have no effect, instead of dropping them."""

from collections.abc import Iterable

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
