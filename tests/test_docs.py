"""The documentation says what the code does: blocks run, tables agree with the code, links lead somewhere.

In the pages, ```bash and ```python blocks run one after another in a folder that holds `examples/` and the
model `SmolLM2-135M-Instruct`, and every line of a ```text block must have been printed by then. A block that
takes minutes has `<!-- tested in PATH -->` before it: it runs last, two steps of it on a tiny model of that
name and few documents. Blocks of ```console are shown and not run; their flags are checked.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import inspect
import io
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
import types
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
from commands import Ended, run

from tokpack import errors, schema
from tokpack.on_disk.reasons import REASONS
from tokpack.settings import options
from tokpack.settings.config import Config, SourceConfig

REPO = Path(__file__).resolve().parent.parent
PAGES = sorted([*REPO.glob("*.md"), *(REPO / "docs").glob("*.md")])
BLOCK = re.compile(r"^(?:<!-- tested in (\S+) -->\n)?```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NAMES = [page.relative_to(REPO).as_posix() for page in PAGES]


def load_reference() -> Any:
    spec = importlib.util.spec_from_file_location(
        "make_cli_reference", REPO / "docs" / "make_cli_reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference() -> Any:
    return load_reference()


def read(name: str) -> str:
    return (REPO / name).read_text(encoding="utf-8")


def flags_of(reference: Any) -> dict[str, set[str]]:
    """Command -> all its flags."""
    return {
        command.name: {
            flag
            for name, _, _, info in reference.parameters(command)
            if type(info).__name__ == "OptionInfo"
            for flag in reference.flags(name, info)
        }
        for command in reference.commands()
    }


# The command line


def test_the_committed_cli_page_is_what_make_docs_writes(reference):
    assert read("docs/cli.md") == reference.make_page(), "run `make docs`"


def test_every_command_and_flag_of_the_help_is_on_the_cli_page(reference):
    from typer.main import get_command

    reference.commands()  # mounts the plug-ins
    page = read("docs/cli.md")
    for name, command in get_command(reference.cli.app).commands.items():
        section = page.partition(f"\n## tokpack {name}\n")[2].partition("\n## ")[0]
        assert section, f"docs/cli.md has no section for {name}"
        flags = {flag for param in command.params for flag in (*param.opts, *param.secondary_opts)}
        assert "--quiet" in flags, f"tokpack {name}"
        missing = {flag for flag in flags if flag.startswith("-") and f"`{flag}`" not in section}
        assert missing <= {"--help"}, f"tokpack {name}"


def test_defaults_are_what_their_parsers_take(reference):
    checked = 0
    for command in reference.commands():
        for name, _, default, info in reference.parameters(command):
            if info.parser is not None and default not in (None, inspect.Parameter.empty):
                assert info.parser(default) == default, f"tokpack {command.name}: {name}"
                checked += 1
    assert checked


def test_the_table_of_versions_begins_where_the_package_does():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["train"], *extras["eval"], *extras["optimal"]]
    least = dict(re.findall(r"^([\w-]+)>=([\d.]+)", "\n".join(asked), re.MULTILINE))
    least["Python"] = project["requires-python"].removeprefix(">=")
    page, _, _ = read("docs/compatibility.md").partition("\n## ")
    listed = re.findall(r"^\| (\w+) \| ([\d.]+)", page, re.MULTILINE)
    listed += re.findall(r"(\w+) from (\d[\d.]*\d)", page)
    assert len(listed) >= 13
    assert {name: version for name, version in listed if least[name] != version} == {}


def test_every_kind_of_error_has_its_exit_code_on_the_cli_page(reference):
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    codes = {str(kind.exit_code) for kind in kinds if issubclass(kind, errors.TokpackError)}
    assert codes | {"0", "130"} == set(reference.EXITS)


@pytest.mark.parametrize("page", NAMES)
def test_commands_shown_in_the_pages_exist_with_the_flags_shown(page, reference):
    known = flags_of(reference)
    for _, language, body in BLOCK.findall(read(page)):
        if language not in ("bash", "console"):
            continue
        for line in re.findall(
            r"^(?:\$ )?(?:\w+=\S+ )*tokpack (.+)$", body.replace("\\\n", " "), re.MULTILINE
        ):
            command, *words = line.split(" #")[0].split()
            assert command in known, f"{page}: tokpack {line}"
            used = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert used <= known[command], f"{page}: tokpack {line}"


# Settings, reasons, files


def toml_type(kind: Any) -> str:
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return toml_type(next(part for part in get_args(kind) if part is not type(None)))
    if origin is Literal:
        return toml_type(type(get_args(kind)[0]))
    names = {str: "string", bool: "boolean", int: "integer", float: "float", tuple: "array", dict: "table"}
    return names[origin or kind]


def default_of(field: dataclasses.Field[Any]) -> str:
    if field.default_factory is not dataclasses.MISSING:
        return f"`{json.dumps(field.default_factory())}`"
    if field.default is dataclasses.MISSING:
        return "required"
    return "none" if field.default is None else f"`{json.dumps(field.default)}`"


def config_keys() -> dict[tuple[str, str], tuple[str, str]]:
    """(section, key) -> (type, default), of all of `run.toml`."""
    keys: dict[tuple[str, str], tuple[str, str]] = {}
    for field in dataclasses.fields(Config):
        if field.name == "source":
            section, kind = "[[source]]", SourceConfig
        elif dataclasses.is_dataclass(field.default):
            section, kind = f"[{field.name}]", type(field.default)
        else:
            keys["Top level", field.name] = (toml_type(get_type_hints(Config)[field.name]), default_of(field))
            continue
        hints = get_type_hints(kind)
        for inner in dataclasses.fields(kind):
            keys[section, inner.name] = (toml_type(hints[inner.name]), default_of(inner))
    return keys


def documented_keys() -> dict[tuple[str, str], list[str]]:
    """(section, key) -> type, default and flag, as docs/configuration.md has them."""
    found: dict[tuple[str, str], list[str]] = {}
    section = ""
    for line in read("docs/configuration.md").splitlines():
        if line.startswith("## "):
            section = line[3:].strip("`")
        elif (cells := [cell.strip() for cell in line.strip("|").split("|")]) and len(cells) == 5:
            found[section, cells[0].strip("`")] = cells[1:4]
    return {key: cells for key, cells in found.items() if key[1] != "key" and not key[1].startswith("-")}


def test_every_key_of_the_config_is_documented_with_its_type_and_default():
    code = {key: list(value) for key, value in config_keys().items()}
    assert {key: cells[:2] for key, cells in documented_keys().items()} == code


def test_the_flag_named_beside_a_key_is_the_one_that_sets_it(reference):
    flags = flags_of(reference)["pack"] | flags_of(reference)["analyze"]
    expected = {("[[source]]", "format"): "--format", ("[[source]]", "map"): "--map"}
    expected["Top level", "seed"] = "--seed"
    for option, (section, key) in options.OPTIONS.items():
        name = option.replace("_", "-")
        ways = (f"--{name}", f"--no-{name}", f"--{name.removesuffix('s')}")  # one value each time it is given
        expected[f"[{section}]", key] = next((flag for flag in ways if flag in flags), "")
    documented = {key: cells[2].strip("`") for key, cells in documented_keys().items()}
    assert documented == {key: expected.get(key, "") for key in documented}


def test_every_drop_reason_is_documented():
    text = read("docs/concepts.md") + read("docs/cleaning.md")
    assert not [reason for reason in REASONS if f"`{reason}`" not in text]


def test_the_packed_datasets_files_and_columns_are_documented():
    page = read("docs/concepts.md")
    rows = schema.row_schema(schema.PREFERENCE, copies=True)
    for packed in (rows, schema.DROPPED_SCHEMA, schema.INDEX_SCHEMA, schema.PIECES_SCHEMA):
        for field in packed:
            kind = str(getattr(field.type, "value_type", field.type))
            assert re.search(rf"^\| `{field.name}` \| (list of )?{kind} \|", page, re.MULTILINE), field.name
    for name in ("MANIFEST", "SUMS", "RUN", "REPORT", "DROPPED", "QUARANTINE", "WORK", "VALIDATION"):
        assert re.search(rf"`{re.escape(getattr(schema, name))}/?`", page), name
    assert not [name for name in schema.TOKEN_FILES if f"`{name}`" not in page]


def test_every_format_container_and_ending_is_documented():
    from tokpack.stages.normalize.chats.roles import ROLE_ALIASES
    from tokpack.stages.normalize.chats.training import MASKED, TRAINED, WEIGHTS
    from tokpack.stages.normalize.formats import FIELDS, OPTIONAL, TOKENS
    from tokpack.stages.read.sources import COMPRESSIONS, EXTENSIONS

    page = read("docs/input-formats.md")
    words = [*FIELDS, *EXTENSIONS, *EXTENSIONS.values(), *COMPRESSIONS, *ROLE_ALIASES]
    words += [*TRAINED, *WEIGHTS, *MASKED]
    words += [field for fields in FIELDS.values() for field in fields] + list(OPTIONAL[TOKENS])
    assert not {word for word in words if f"`{word}`" not in page}


def test_every_row_that_shows_a_format_is_read_as_that_format(tmp_path):
    from tokpack.stages.normalize.formats import FIELDS, TOKENS
    from tokpack.stages.normalize.layouts.detect import detect_shape
    from tokpack.stages.normalize.normalize import normalize
    from tokpack.stages.normalize.token_columns import take_tokens
    from tokpack.stages.read.blocks import read_blocks
    from tokpack.stages.read.sources import open_sources

    sections = re.findall(r"^### `(\w+)`\n\n```json\n(.*?)\n```", read("docs/input-formats.md"), re.M | re.S)
    assert [name for name, _ in sections] == list(FIELDS)
    for name, row in sections:
        path = tmp_path / f"{name}.jsonl"
        path.write_text(row + "\n", encoding="utf-8")
        sources = open_sources((SourceConfig(path=str(path)),))
        shape = detect_shape(sources[0])
        [block] = read_blocks(sources)
        if name == TOKENS:
            normalized, _ = take_tokens(block, sources[0], shape, vocab_size=151_646)
        else:
            normalized = normalize(block, sources[0], shape)
        found = (shape.format, len(normalized.documents), normalized.quarantined)
        assert found == (name, shape.documents_per_row, [])


# Pages


def anchors(page: str) -> set[str]:
    """GitHub's anchors of the headings."""
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", page, flags=re.M | re.S), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", NAMES)
def test_links_between_the_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        if re.match(r"[a-z]+:", target):
            assert target.startswith("https://"), target
            continue
        name, _, anchor = target.partition("#")
        path = (REPO / page).parent / name if name else REPO / page
        assert path.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), f"{page} links to {target}"


@pytest.mark.parametrize("page", NAMES)
def test_pages_name_no_folder_of_one_machine(page):
    assert not re.findall(r"(?<![\w.~/:-])/(?:home|root|Users|tmp|mnt|work|var)/\S*", read(page))


def test_every_page_is_linked_from_the_readme():
    readme = read("README.md")
    assert not [name for name in NAMES if name != "README.md" and f"({name})" not in readme]


@pytest.mark.parametrize("page", NAMES)
def test_blocks_that_do_not_run_here_name_the_test_that_runs_them(page):
    for tested_in, _, _ in BLOCK.findall(read(page)):
        assert not tested_in or (REPO / tested_in).is_file(), f"{page}: {tested_in}"


def squeezed(text: str) -> str:
    return re.sub(r"[ \t]+", " ", text)


def performed(line: str, language: str) -> subprocess.CompletedProcess[str] | Ended:
    """A line of bash, or Python code, to its end, scripts in processes of their own."""
    if language == "python":
        with redirect_stdout(io.StringIO()) as out:
            exec(compile(line, "block", "exec"), {"__name__": "__main__"})
        return Ended(0, out.getvalue(), "")
    words = shlex.split(line, comments=True)
    if words[0] != "tokpack":
        command = ["bash", "-euc", line]
        return subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    done = run(*words[1 : -2 if ">" in words else None])
    if ">" not in words:
        return done
    Path(words[-1]).write_text(done.stdout, encoding="utf-8")
    return Ended(done.returncode, "", done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_blocks_of_the_page_run_and_print_what_it_shows(page, smollm2, tmp_path, monkeypatch):
    (tmp_path / "examples").symlink_to(REPO / "examples")
    model = tmp_path / "SmolLM2-135M-Instruct"
    model.mkdir()
    for file in smollm2.iterdir():
        (model / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    printed = ""
    for tested_in, language, body in BLOCK.findall(read(page)):
        if language == "text":
            for line in filter(str.strip, squeezed(body).splitlines()):
                assert line.strip() in printed, f"{page} shows a line that was not printed: {line}\n{printed}"
        elif language in ("bash", "python") and not tested_in:
            lines = body.replace("\\\n", " ").splitlines() if language == "bash" else [body]
            for line in filter(str.strip, lines):
                done = performed(line, language)
                assert done.returncode == 0, f"{page}:\n{line}\n{done.stdout}\n{done.stderr}"
                printed += squeezed(done.stdout)
    make_tiny(model)
    pack_few(read(page))
    for tested_in, language, body in BLOCK.findall(read(page)):
        if tested_in and language == "bash":
            for line in body.splitlines():
                short = re.sub(r"^tokpack train ", r"\g<0>--max-steps 2 ", line)
                done = performed(short, language)
                assert done.returncode == 0, f"{page}:\n{line}\n{done.stdout}\n{done.stderr}"
        elif tested_in:
            trained_by_three_lines(model, body)


def pack_few(page: str) -> None:
    """The packed dataset in its place is of the first 300 documents, of the same command."""
    (line, *_) = re.findall(r"^tokpack pack (?:.*\\\n)*.*$", page, re.MULTILINE)
    line = line.replace("\\\n", " ")
    data = Path(line.split()[2])
    data.write_text(
        "".join(data.read_text(encoding="utf-8").splitlines(keepends=True)[:300]), encoding="utf-8"
    )
    done = performed(f"{line} --overwrite", "bash")
    assert done.returncode == 0, done.stderr


def make_tiny(model: Path) -> None:
    """The model in its place has the tokenizer's vocabulary and no more."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    config.update({"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2})
    config.update({"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8})
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        (model / file).unlink(missing_ok=True)
    AutoModelForCausalLM.from_config(config).save_pretrained(model)


def trained_by_three_lines(model: Path, body: str) -> None:
    """The block that makes a `trainer` of a model, and a step of that."""
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    names = {
        "model": AutoModelForCausalLM.from_pretrained(model),
        "Trainer": Trainer,
        "TrainingArguments": partial(TrainingArguments, per_device_train_batch_size=1, max_steps=1),
    }
    exec(compile(body, "block", "exec"), names)
    names["trainer"].train()
    assert names["trainer"].state.global_step == 1
