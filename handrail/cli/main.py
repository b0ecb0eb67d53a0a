"""The command line's entry: `handrail COMMAND`. Commands import what is heavy when they run, not before."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from handrail.cli import (
    audit,
    auth,
    broker,
    confirm,
    deciding,
    doctor,
    forget,
    gates,
    history,
    init,
    lam,
    options,
    policy,
    restore,
    runs,
    tools,
    trace,
    undo,
    up,
)
from handrail.cli.exits import EPILOG, CommandError, ExitCode, debugging, explain

JSON_FLAG = "--json"


class Guarded(TyperGroup):
    """Runs a command; what goes wrong as can be expected becomes words and an exit code here."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the arguments name."""
        as_json = JSON_FLAG in ctx.args
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except BaseException as error:
            wrong = _as_usage(error) if as_json else error
            trouble = explain(wrong)
            if trouble is None or debugging():
                raise
            from handrail.cli.output import tell

            tell(trouble, as_json=as_json)
            raise typer.Exit(trouble.code) from None


def _as_usage(error: BaseException) -> BaseException:
    """Return what the parser of the arguments says as an error of ours, for it to be told as JSON."""
    if isinstance(error, typer.TyperException) and error.exit_code == ExitCode.USAGE:
        return CommandError(error.format_message())
    return error


app = typer.Typer(
    name="handrail",
    cls=Guarded,
    help="Handrail: agents that act, with a rail along every step.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.command("run")(runs.run)
app.command("up")(up.up)
app.command("submit")(runs.submit)
app.command("watch")(runs.watch)
app.command("list")(history.list_runs)
app.command("show")(history.show)
app.command("log")(history.log)
app.command("replay")(history.replay)
app.command("trace")(trace.trace)
app.command("undo")(undo.undo)
app.command("teach")(runs.teach)
app.command("confirm")(confirm.confirm)
app.command("forget")(forget.forget)
app.command("cancel")(runs.cancel)
app.command("pause")(runs.pause)
app.command("resume")(runs.resume)
app.add_typer(gates.app, name="gates")
app.command("approve")(deciding.approve)
app.command("deny")(deciding.deny)
app.command("amend")(deciding.amend)
app.command("delegate")(deciding.delegate)
app.add_typer(tools.app, name="tools")
app.add_typer(policy.app, name="policy")
app.add_typer(lam.app, name="lam")
app.add_typer(auth.app, name="auth")
app.add_typer(audit.app, name="audit")
app.add_typer(broker.app, name="broker")
app.command("restore")(restore.restore)
app.command("doctor")(doctor.doctor)
app.command("init")(init.init)


@app.command("version")
def version(json: options.Json = False) -> None:
    """Print the version."""
    import platform

    from handrail.release import release

    found = {"handrail": release(), "python": platform.python_version()}
    if json:
        import json as encoder

        typer.echo(encoder.dumps(found))
    else:
        typer.echo(f"handrail {found['handrail']} (Python {found['python']})")


def main() -> None:
    """Run the command line with this process's arguments."""
    app(prog_name="handrail")


if __name__ == "__main__":
    main()
