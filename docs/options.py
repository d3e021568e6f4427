"""Makes docs/options.md: every option with its default, its values and what it does, as the code has them.

python docs/options.py
"""

from pathlib import Path

from kitune.config import RunOptions, allowed, flat, option_schemas, yaml_line

TOP = """# Options

What `kitune train --options` prints. Each has this name on the command line (`--set train.epochs=3`), in YAML (`--config`)
and in Python (`options={"train.epochs": 3}`). `auto` is decided from the data, the model or the machine, and said.
"""


def page() -> str:
    """The page as it stands in the folder."""
    defaults, sections = flat(RunOptions()), dict[str, list[str]]()
    for name, schema in option_schemas():
        cells = (f"`{name}`", f"`{yaml_line(defaults[name])}`", allowed(schema), schema.get("description", ""))
        row = "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        sections.setdefault(name.partition(".")[0] if "." in name else "", []).append(row)
    tables = []
    for section, rows in sections.items():
        title = f"## {section}\n\n" if section else ""
        tables.append(
            f"{title}| option | default | values | what it does |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
        )
    return TOP + "\n" + "\n".join(tables)


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(page(), encoding="utf-8")
