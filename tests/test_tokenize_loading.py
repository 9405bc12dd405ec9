"""Loading a tokenizer: what AutoTokenizer says, without importing it twice."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from encode_helpers import byte_level, open_here, small_tokenizer, template, tokenizer_folder
from shared_tokenizers import ask_apart

from tokpack.encoding import snapshot
from tokpack.encoding.tokenizer import load_tokenizer
from tokpack.errors import DataError, OutputError, UsageError
from tokpack.hub import check_model
from tokpack.on_disk.fingerprint import vocab_digest

ask_transformers = snapshot._ask_transformers


@pytest.fixture(autouse=True)
def _apart(monkeypatch):
    """transformers is asked in a process of its own, as users have it."""
    monkeypatch.setattr(snapshot, "_ask_transformers", ask_apart)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tokenizer_folder(byte_level(), tmp_path_factory.mktemp("loading") / "model", template("llama3"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.mark.slow
def test_a_folder_is_loaded_as_auto_tokenizer_loads_it(folder, cache):
    from transformers import AutoTokenizer

    auto = AutoTokenizer.from_pretrained(folder)
    tokenizer = load_tokenizer(folder, cache)
    text = "<|im_start|>Hello world</s> ünï 1234"
    assert tokenizer.reference.encode(text, add_special_tokens=False).ids == auto(text)["input_ids"]
    assert tokenizer.chat_template == auto.chat_template
    assert tokenizer.special_tokens_map == auto.special_tokens_map
    assert (tokenizer.eos_id, tokenizer.pad_id) == (auto.eos_token_id, None)
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<s>", "</s>", None)
    assert tokenizer.vocab_size == len(auto)
    assert tokenizer.vocab_sha256 == vocab_digest(auto.get_vocab())
    assert set(tokenizer.special_tokens) == set(auto.all_special_tokens)
    assert len(tokenizer.sha256) == len(tokenizer.template_sha256) == 64
    assert tokenizer.name == "model"


@pytest.mark.slow
def test_the_vocabulary_ends_after_the_largest_id_also_where_ids_are_missing(tmp_path):
    from tokenizers import Tokenizer, models

    sparse = Tokenizer(models.WordLevel({"a": 0, "</s>": 400, "<s>": 900}, unk_token="a"))
    folder = tokenizer_folder(sparse, tmp_path / "model", template("llama3"))
    tokenizer = load_tokenizer(folder, tmp_path / "cache")
    vocab = tokenizer.reference.get_vocab()
    assert tokenizer.vocab_size == max(vocab.values()) + 1 > len(vocab)


@pytest.mark.slow
def test_the_second_load_asks_nobody_and_imports_neither_transformers_nor_torch(folder, cache):
    assert load_tokenizer(folder, cache).fast is not None
    code = (
        "import sys; from tokpack.encoding.tokenizer import load_tokenizer; "
        f"t = load_tokenizer({str(folder)!r}, {str(cache)!r}); t.prepare(); assert t.fast is not None; "
        "print([m for m in ('transformers', 'torch', 'numba') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_changed_file_is_asked_about_again(folder, cache, tmp_path, monkeypatch):
    def ask_here(folder, out):
        snapshot.write_snapshot(str(folder), str(out))

    monkeypatch.setattr(snapshot, "_ask_transformers", ask_here)
    changed = tmp_path / "model"
    changed.mkdir()
    for path in folder.iterdir():
        (changed / path.name).write_bytes(path.read_bytes())
    same = load_tokenizer(changed, cache)
    assert same.folder == load_tokenizer(folder, cache).folder, "the place of a folder does not matter"
    (changed / "chat_template.jinja").write_text("{{ 'other' }}", encoding="utf-8")
    other = load_tokenizer(changed, cache)
    assert other.chat_template == "{{ 'other' }}"
    assert other.folder != same.folder
    assert other.template_sha256 == hashlib.sha256(b"{{ 'other' }}").hexdigest()
    assert not [path.name for path in (cache / "tokenizers").iterdir() if path.name.startswith(".")]


def test_a_template_can_be_given_as_file_or_text(folder, cache, tmp_path):
    file = tmp_path / "other.jinja"
    file.write_text("{{ 1 }}", encoding="utf-8")
    assert load_tokenizer(folder, cache, file).chat_template == "{{ 1 }}"
    assert load_tokenizer(folder, cache, str(file)).chat_template == "{{ 1 }}"
    given = load_tokenizer(folder, cache, "{% if 1 %}{% endif %}")
    assert given.tool_template == given.chat_template == "{% if 1 %}{% endif %}"
    with pytest.raises(UsageError, match="--chat-template"):
        load_tokenizer(folder, cache, tmp_path / "absent.jinja")


def test_the_saved_tokenizer_opens_as_the_same(folder, cache, tmp_path):
    from transformers import AutoTokenizer

    tokenizer = load_tokenizer(folder, cache, "{{ 'mine' }}")
    tokenizer.save(tmp_path / "saved")
    again, before = AutoTokenizer.from_pretrained(tmp_path / "saved"), AutoTokenizer.from_pretrained(folder)
    text = "Hello <|im_end|> ünï</s>"
    assert again(text)["input_ids"] == before(text)["input_ids"]
    assert again.special_tokens_map == before.special_tokens_map
    assert again.model_max_length == before.model_max_length == 4096
    assert again.chat_template == "{{ 'mine' }}"
    reopened = small_tokenizer(tmp_path / "saved")
    assert (reopened.sha256, reopened.vocab_sha256) == (tokenizer.sha256, tokenizer.vocab_sha256)
    assert str(tmp_path) not in (tmp_path / "saved" / "tokenizer_config.json").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["qwen", "smollm2"])
def test_real_tokenizers_survive_saving(name, request, tmp_path):
    folder = request.getfixturevalue(name)
    tokenizer = open_here(folder, tmp_path / "first")
    tokenizer.save(tmp_path / "saved")
    again = open_here(tmp_path / "saved", tmp_path / "second")
    assert (again.sha256, again.vocab_sha256) == (tokenizer.sha256, tokenizer.vocab_sha256)
    assert (again.chat_template, again.special_tokens_map) == (
        tokenizer.chat_template,
        tokenizer.special_tokens_map,
    )


def test_decoding_shows_special_tokens(folder, cache):
    tokenizer = load_tokenizer(folder, cache)
    ids = tokenizer.reference.encode("hello<|im_end|>").ids
    assert tokenizer.decode(ids) == "hello<|im_end|>"


@pytest.mark.slow
def test_what_cannot_be_loaded_is_a_usage_error_in_three_parts(tmp_path, cache, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no tokenizer in this folder\n  at: .*empty\n  hint: "):
        load_tokenizer(tmp_path / "empty", cache)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tokenizer.json").write_text("{}", encoding="utf-8")
    (broken / "tokenizer_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(UsageError, match=r"AutoTokenizer cannot load it: .*\n  at: .*broken\n  hint: "):
        load_tokenizer(broken, cache)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("nobody/nothing", "./no/such/folder"):
        with pytest.raises(UsageError, match=r"no such folder.*\n  at: .*\n  hint: "):
            load_tokenizer(name, cache)


def test_a_cache_that_cannot_be_written_is_an_output_error(folder, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="TOKPACK_CACHE"):
        load_tokenizer(folder, tmp_path / "file")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_cache_on_a_full_disk_is_an_output_error(folder, tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "tokenizer.json").symlink_to("/dev/full")
    with pytest.raises(OutputError, match="cannot write the tokenizer cache: No space left") as error:
        ask_transformers(folder, tmp_path / "new")
    assert (error.value.where, "TOKPACK_CACHE" in error.value.hint) == (str(tmp_path), True)


def test_the_cache_is_where_the_environment_says(folder, cache, monkeypatch):
    load_tokenizer(folder, cache)
    monkeypatch.setenv("TOKPACK_CACHE", str(cache))
    assert load_tokenizer(folder).folder.is_relative_to(cache)


def test_where_the_cache_cannot_be_written_there_is_one_among_the_temporary_files(
    folder, tmp_path, monkeypatch
):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TOKPACK_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert load_tokenizer(folder).folder.is_relative_to(tmp_path)
    assert snapshot.kept_snapshot(folder).is_relative_to(tmp_path)


def test_a_folder_that_may_not_be_listed_is_named(tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refused)
    for look in (load_tokenizer, check_model):
        with pytest.raises(DataError, match="cannot open: Permission denied") as error:
            look(str(tmp_path))
        assert error.value.where == str(tmp_path)


def test_a_model_folder_that_may_not_be_read_is_named(tmp_path, qwen, monkeypatch):
    """Root may read everything: the system's refusal is acted."""
    from tokpack.cost.hf_config import read_shape

    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(qwen / name, tmp_path / name)
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "template.jinja").write_text("{{ messages }}")

    for name in ("read_bytes", "read_text"):
        real = getattr(Path, name)

        def refused(self, *args, real=real, **options):
            if self.parent == tmp_path:
                raise PermissionError(13, "Permission denied", str(self))
            return real(self, *args, **options)

        monkeypatch.setattr(Path, name, refused)
    with pytest.raises(DataError, match="cannot open: Permission denied") as error:
        load_tokenizer(tmp_path)
    assert error.value.where == str(tmp_path / "config.json")  # one of its files
    with pytest.raises(UsageError, match="cannot open the model config: Permission denied"):
        read_shape(tmp_path)
    with pytest.raises(UsageError, match="cannot read the chat template: Permission denied\n"):
        load_tokenizer(tmp_path, chat_template=tmp_path / "template.jinja")


def test_a_process_loads_the_encoder_of_a_folder_once(folder, cache, monkeypatch):
    first = load_tokenizer(folder, cache).fast
    kept = load_tokenizer(folder, cache).fast  # the first may have measured the plan
    monkeypatch.setattr("tokpack.encoding.fast_forms.from_json", None)
    again = load_tokenizer(folder, cache).fast
    assert first is not None
    assert again.encoder is kept.encoder
