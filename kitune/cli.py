"""The command line. Everything heavy is imported by the command that needs it, so that --help answers at once."""

import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from kitune import __version__
from kitune.errors import NO_ROOM, REFUSALS, UserError, command, numbered
from kitune.notebook import forget, say

app = typer.Typer(
    name="kitune",
    help="Fine-tune pretrained text encoders on your own data.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Data = Annotated[
    str, typer.Argument(metavar="DATA", help="A file, a folder with train, valid and test, or a hub name.")
]
Model = Annotated[str | None, typer.Option("--model", help="starter, a folder, a run, or a hub name.")]
Text = Annotated[list[str] | None, typer.Option("--text", help="Text column; twice for a pair.")]
Label = Annotated[str | None, typer.Option("--label", help="Label column.")]
Task = Annotated[str | None, typer.Option("--task", help="single-label, multi-label or regression.")]
Valid = Annotated[str | None, typer.Option("--valid", help="Rows that choose the best weights.")]
Test = Annotated[str | None, typer.Option("--test", help="Rows that are scored once, at the end.")]
LongTexts = Annotated[
    str | None, typer.Option("--long-texts", help="Texts beyond max_length: cut, head-tail or windows.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Split = Annotated[str | None, typer.Option("--split", help="The part of DATA, where it has several.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="An option of data, such as data.encoding."),
]
Out = Annotated[Path | None, typer.Option("--out", help="The file to write: .csv .tsv .jsonl .parquet.")]
Which = Annotated[str, typer.Option("--which", help="best or last.")]


@app.command()
def train(
    data: Annotated[
        str | None, typer.Argument(metavar="DATA", help="A file, a folder, or a hub name: owner/name:config.")
    ] = None,
    model: Model = None,
    out: Annotated[str | None, typer.Option("--out", help="The new run's folder; without it, one under runs/.")] = None,
    text: Text = None,
    label: Label = None,
    task: Task = None,
    valid: Valid = None,
    test: Test = None,
    group: Annotated[
        str | None, typer.Option("--group", help="Column whose groups stay on one side of a split.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", help="At most so many rows of each part: a trial run.")
    ] = None,
    long_texts: LongTexts = None,
    folds: Annotated[
        int | None, typer.Option("--folds", help="Cross-validate: so many trainings, an answer for every row.")
    ] = None,
    seeds: Annotated[
        str | None, typer.Option("--seeds", metavar="1,2,3", help="Train with each seed: mean, spread, mean answer.")
    ] = None,
    resume: Annotated[str | None, typer.Option("--resume", metavar="RUN", help="Go on with a run.")] = None,
    config: Annotated[Path | None, typer.Option("--config", help="A YAML file with options.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any other option; --options lists them."),
    ] = None,
    options: Annotated[bool, typer.Option("--options", help="List every option, and stop.")] = False,
) -> None:
    """Fine-tune a model on DATA, or go on with --resume RUN."""
    from kitune.config import describe_options, parse_set

    if options:
        print(describe_options())
        return
    if resume is not None and out is not None:
        raise UserError("--resume goes on in the run's own folder; --out is for a new run", fix="leave one of them out")
    named = {"data.group": group, "data.limit": limit, "data.long_texts": long_texts}
    told = {name: value for name, value in named.items() if value is not None} | parse_set(set_ or [])
    whole: dict[str, Any] = {
        "model": model,
        "out": out,
        "text": text or None,
        "label": label,
        "task": task,
        "config": config,
        "options": told,
        "resume": resume,
    }
    if folds is None and seeds is None and not (resume is not None and (Path(resume) / "repeats.json").exists()):
        from kitune.finetune import train as train_on

        train_on(data, valid=valid, test=test, **whole)
        return
    from kitune.repeat import cross_validate, train_seeds
    from kitune.show import show

    if folds is not None and seeds is not None:
        raise UserError("--folds and --seeds are two ways to train several times", fix="choose one of them")
    if folds is not None and test is not None:
        raise UserError("--folds scores every row of train; a test part has no place in it", fix="leave --test out")
    if seeds is None:
        if test is not None:
            told["data.test"] = test  # at a resumption of seeds
        repeats = cross_validate(data, folds=folds, valid=valid, **whole)
    else:
        repeats = train_seeds(data, seeds=numbers(seeds), valid=valid, test=test, **whole)
    show(repeats.blocks())


@app.command()
def inspect(
    what: Annotated[
        str, typer.Argument(metavar="DATA|MODEL", help="A file, folder or hub data set; or a model or run.")
    ],
    split: Split = None,
    where: Annotated[str | None, typer.Option("--where", metavar="COLUMN=VALUE", help="Only such rows.")] = None,
    count: Annotated[int, typer.Option("-n", min=0, help="Rows to show.")] = 5,
    set_: Set = None,
    json: Json = False,
) -> None:
    """Show what a data set holds, or the shape of a model."""
    from kitune.config import parse_set
    from kitune.facts import inspect as facts_of
    from kitune.show import show, show_json

    facts = facts_of(what, split=split, where=where, count=count, options=parse_set(set_ or []))
    show_json(facts.as_json()) if json else show(facts.blocks())


@app.command()
def doctor(
    data: Data,
    model: Model = None,
    text: Text = None,
    label: Label = None,
    task: Task = None,
    valid: Valid = None,
    test: Test = None,
    long_texts: LongTexts = None,
    config: Annotated[Path | None, typer.Option("--config", help="A YAML file with options.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any option of a training.")
    ] = None,
    json: Json = False,
) -> None:
    """Find what is wrong with DATA for a model before any training; exit code 1 where there are errors."""
    from kitune.config import parse_set
    from kitune.diagnosis import doctor as diagnosed
    from kitune.show import show_findings, show_json

    told = ({} if long_texts is None else {"data.long_texts": long_texts}) | parse_set(set_ or [])
    findings = diagnosed(
        data,
        model=model,
        valid=valid,
        test=test,
        text=text or None,
        label=label,
        task=task,  # type: ignore[arg-type]
        config=config,
        options=told,
    )
    show_json([finding.as_json() for finding in findings]) if json else show_findings(findings)
    raise typer.Exit(int(any(finding.severity == "error" for finding in findings)))


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or any classification folder or hub name.")],
    data: Data,
    text: Text = None,
    label: Label = None,
    by: Annotated[
        list[str] | None, typer.Option("--by", metavar="COLUMN", help="Score each value of a column apart.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="A .json file to write too.")] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="What simple methods get on the same rows.")
    ] = True,
    train_rows: Annotated[
        str | None,
        typer.Option("--train", metavar="DATA", help="Rows that they learn from, where the run does not know its own."),
    ] = None,
    compute_metrics: Annotated[
        str | None, typer.Option("--compute-metrics", metavar="FILE.py", help="Metrics of your own beside them.")
    ] = None,
    split: Split = None,
    which: Which = "best",
    set_: Set = None,
    json: Json = False,
) -> None:
    """Score a run on labelled rows: every metric with its interval, beside simple methods."""
    from kitune.data.write import require_new_file
    from kitune.predict import load
    from kitune.run_folder import as_json, replace_file
    from kitune.show import show, show_json

    require_one_process("evaluate")
    if data == "-":
        raise UserError("-: rows to be scored come from a file", fix="kitune predict takes standard input")
    if train_rows is not None and not baselines:
        raise UserError(
            "--train has rows for the baselines, and --no-baselines leaves them out", fix="give one of them"
        )
    if out is not None:
        require_new_file(out, (".json",))
    model = load(run, which=part(which)).with_layout(layout_told(set_, text))
    found = model.evaluate(
        data,
        label=label,
        split=split,
        by=by or (),
        baselines=baselines,
        train=train_rows,
        compute_metrics=compute_metrics,
    )
    if out is not None:
        replace_file(out, as_json(found.as_json()))
        say(f"scores in {out}")
    show_json(found.as_json()) if json else show(found.blocks())


@app.command()
def predict(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run, or any classification folder or hub name.")],
    data: Annotated[str, typer.Argument(metavar="DATA", help="As for evaluate, or - for standard input.")],
    out: Out = None,
    text: Text = None,
    columns: Annotated[list[str] | None, typer.Option("--keep", help="Column to keep beside the answers.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Each label's probability.")] = False,
    top: Annotated[int, typer.Option("--top", min=0, help="So many of the likeliest labels, with probabilities.")] = 0,
    format_: Annotated[
        str | None, typer.Option("--format", help="glue: a submission, named as the site asks: --out QNLI.tsv.")
    ] = None,
    split: Split = None,
    which: Which = "best",
    set_: Set = None,
    precision: Annotated[str, typer.Option("--precision", help="fp32, bf16, fp16, or auto.")] = "auto",
    excel: Annotated[
        bool, typer.Option("--excel", help="Write a CSV that Excel opens: with a byte order mark.")
    ] = False,
) -> None:
    """Answer each row of DATA, in its order; without --out the answers are printed as CSV."""
    from kitune.answers import predict_file
    from kitune.data.read import read_stream
    from kitune.data.write import require_new_file
    from kitune.glue import count_note, glue_task
    from kitune.predict import load

    require_one_process("predict")
    if format_ not in {None, "glue"}:
        raise UserError(f"--format {format_}: there is glue; other formats follow from --out", fix="leave it out")
    glue = glue_task(out) if format_ else None
    if out is not None:
        require_new_file(out)  # before anything is computed
    model = load(run, which=part(which), precision=precision)  # type: ignore[arg-type]
    model = model.with_layout(layout_told(set_, text))
    from_pipe = data == "-"
    table = (
        read_stream(sys.stdin.buffer, model.text or ("text",), model.data)
        if from_pipe
        else model.read(data, split=split)
    )
    for note in table.notes:
        say(note)
    rows = predict_file(
        model, table, out, columns=columns or (), probabilities=probabilities, top=top, excel=excel, glue=glue
    )
    if out is not None:
        say(f"{numbered(rows, 'row')} in {out}")
    if glue is not None and (said := count_note(glue, out, rows)):
        say(said)


@app.command()
def cache(
    clear: Annotated[
        str | None,
        typer.Option("--clear", metavar="NAME", help="Delete what has this name; all: everything of kitune's own."),
    ] = None,
    json: Json = False,
) -> None:
    """Show what is kept under HF_HOME: token ids, models, data sets; or delete it."""
    from kitune.data.cache import cache_folder, kept
    from kitune.data.cache import clear as clear_cache
    from kitune.notebook import Grid
    from kitune.show import in_bytes, show, show_json

    if clear is not None:
        gone = clear_cache(clear)
        say(f"deleted {in_bytes(sum(entry.size for entry in gone))}")
        return
    there = kept()
    if json:
        show_json([{**vars(entry), "folder": str(entry.folder)} for entry in there])
        return
    rows = [(entry.name, entry.what, entry.items, in_bytes(entry.size)) for entry in there]
    show([f"caches under {cache_folder().parent} (HF_HOME)", Grid(("name", "what", "items", "size"), rows)])


def numbers(words: str) -> list[int]:
    """`1,2,3` as numbers."""
    try:
        return [int(word) for word in words.split(",")]
    except ValueError:
        raise UserError(f"--seeds {words}: not whole numbers", fix="write them as --seeds 1,2,3") from None


def require_one_process(name: str) -> None:
    """Refuse a launcher's many: each process would write the same file."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(f"kitune {name} runs in one process", fix=f"start it without torchrun: kitune {name} ...")


def layout_told(words: list[str] | None, text: list[str] | None) -> dict[str, Any]:
    """What --set and --text say of the rows that a model is to read."""
    from kitune.config import parse_set

    return ({"data.text": text} if text else {}) | parse_set(words or [])


def part(which: str) -> str:
    """`which`, if it is a part of a run that holds a model."""
    if which not in {"best", "last"}:
        raise UserError(f"--which {which}: a run has best and last", fix="--which best")
    return which


def refused(error: OSError | MemoryError | RuntimeError) -> UserError | None:
    """What the system refused, in a sentence; None where the fault is ours."""
    if "torch" in sys.modules or isinstance(error, MemoryError):
        from kitune.training.devices import memory_told

        if (told := memory_told(error)) is not None:
            return UserError(told, fix="free some, or take fewer or shorter texts at a time")
    if not isinstance(error, OSError) or error.errno not in REFUSALS:
        return None
    if error.filename is None:
        if error.errno not in NO_ROOM:
            return None
        forget(sys.stdout)
    problem = f"{error.filename or 'the output'}: {error.strerror}"
    return UserError(problem, fix="check the path, your rights there and the room on the disk")


def open_streams() -> None:
    """Standard streams that the caller has closed hold nothing, and forget what is written."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115


def require_utf8(words: list[str]) -> None:
    """Refuse names that no file of a run could hold."""
    for word in words:
        try:
            word.encode()
        except UnicodeEncodeError:
            raise UserError(f"{word!a}: not UTF-8", fix="rename the file or the folder") from None


def mistyped(error: typer.TyperException, words: list[str], known: Mapping[str, Any]) -> UserError:
    """The error for words that are no command: with the option of --set that an unknown flag seems to mean."""
    from kitune.config import nearest_option, option_names

    name = words[0] if words[0] in known else None
    fix = f"{'kitune' if name is None else f'kitune {name}'} --help shows what there is"
    as_told = UserError(error.format_message(), fix=fix)
    flag = getattr(error, "option_name", None) or ""
    own = {word for option in known[name].params for word in option.opts} if name else set()
    if not flag.startswith("--") or flag in own or "--set" not in own:
        return as_told
    of_command = [one for one in option_names() if name in ("train", "doctor") or one.startswith("data.")]
    key = flag.removeprefix("--").replace("-", "_")
    near = nearest_option(key, of_command)
    if near is None or (not near.endswith(f".{key}") and difflib.get_close_matches(flag, own)):
        return as_told
    given = next(word for word in words if word.partition("=")[0] == flag)
    value = given.partition("=")[2] or next(iter(words[words.index(given) + 1 :]), "")
    return UserError(f"there is no option {flag}", fix=f"did you mean {command('--set', f'{near}={value}')}? " + fix)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit; a mistake that can be mended ends in a sentence and exit code 2."""
    words = (sys.argv[1:] if arguments is None else list(arguments)) or ["--help"]
    if words == ["--version"]:
        print(f"kitune {__version__}")
        sys.exit(0)
    program = typer.main.get_group(app)
    open_streams()
    if "TRANSFORMERS_CACHE" in os.environ:
        say("TRANSFORMERS_CACHE is ignored: HF_HOME is the one place for caches")
    try:
        require_utf8(words)
        # What typer does when it is called, but for its way with Ctrl-C and broken pipes, which would not come here.
        with program.make_context("kitune", list(words)) as context:
            program.invoke(context)
        sys.stdout.flush()
    except typer.Exit as done:  # --help
        sys.exit(done.exit_code)
    except typer.TyperException as error:  # an unknown option, a missing argument
        say(f"error: {mistyped(error, words, program.commands)}")
        sys.exit(2)
    except UserError as error:
        say(f"error: {error}")
        sys.exit(2)
    except UnicodeEncodeError as error:  # answers on a terminal of an old encoding: none is changed in silence
        sign = error.object[error.start]
        problem = f"standard output: its encoding, {error.encoding.upper()}, has no {sign!a}"
        say(f"error: {UserError(problem, fix='--out FILE, or PYTHONIOENCODING=utf-8')}")
        sys.exit(2)
    except KeyboardInterrupt as stopped:
        hint = f"; go on with {stopped}" if str(stopped) else ""
        say(f"interrupted{hint}")
        sys.exit(130)
    except BrokenPipeError:
        forget(sys.stdout)
        sys.exit(141)
    except (OSError, MemoryError, RuntimeError) as error:
        if (said := refused(error)) is None:
            raise
        say(f"error: {said}")
        sys.exit(2)
    sys.exit(0)
