"""Chat templates give what transformers' own rendering gives, and no way out of the sandbox."""

import os
import resource
import signal
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from registry.errors import UnreadableArtifact
from serving.errors import TooLarge, Unprocessable
from serving.processors import chat_template, template_process, template_renderer
from serving.processors.chat_template import ChatTemplate
from tests.families import make_tokenizer

pytestmark = pytest.mark.slow


SELECT_DESCRIPTORS = 1024
"""POSIX `select` takes no descriptor from this number on."""
MESSAGES = [
    {"role": "system", "content": "Be brief. "},
    {"role": "user", "content": "naïve <b>café</b> 🙂?"},
    {"role": "assistant", "content": "No.\n", "name": "Ada"},
    {"role": "user", "content": "Why?"},
]
CHATML = (
    "{% for message in messages %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set system = messages[0]['content'] | trim %}"
    "{% set messages = messages[1:] %}{% endif %}{% for message in messages %}{% if loop.index0 % 2 != "
    "(message['role'] == 'assistant') | int %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}[INST] {% if loop.first and system is defined %}{{ system }} {% endif %}"
    "{{ message.content }} [/INST]{% else %}{% generation %} {{ message.content }}{{ eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}"
)
MACRO = (
    "{% set ns = namespace(count=0) %}{% macro show(m) %}{{ m | tojson(indent=1) }}{% endmacro %}"
    "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{% set ns.count = ns.count + 1 %}"
    "{{ ns.count }}: {{ show(m) }}{% endfor %}{{ tools is none }} {{ dict(a=1) | tojson }} {{ mood | default('-') }}"
)


def saved(folder: Path, template: Any) -> Any:
    """A tokenizer with this template, saved in the folder; it stays as it was."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=make_tokenizer("llama").backend_tokenizer, bos_token="<s>", eos_token="</s>"
    )
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.mark.parametrize("template", [CHATML, LLAMA, MACRO], ids=["chatml", "llama", "macro"])
def test_a_template_renders_as_transformers_renders_it(tmp_path: Path, template: str) -> None:
    tokenizer = saved(tmp_path, template)
    found = ChatTemplate.find(tmp_path)
    assert found is not None
    for messages in (MESSAGES, MESSAGES[1:2], MESSAGES[1:]):
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert found.render(messages) == expected
    expected = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True, mood="good")
    assert found.render(MESSAGES, {"mood": "good"}) == expected


def test_of_several_templates_the_default_one_is_taken(tmp_path: Path) -> None:
    saved(tmp_path, {"default": CHATML, "tool_use": "{{ raise_exception('not me') }}"})
    found = ChatTemplate.find(tmp_path)
    assert found is not None
    assert found.render(MESSAGES[1:2]).startswith("<|im_start|>user")


@pytest.mark.parametrize(
    "config",
    [
        '{"chat_template": "{{ bos_token }}{{ messages[0].content }}", "bos_token": {"content": "<s>"}}',
        '{"chat_template": [{"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"}],'
        ' "bos_token": "<s>"}',
    ],
)
def test_older_folders_have_it_in_the_tokenizers_configuration(tmp_path: Path, config: str) -> None:
    (tmp_path / "tokenizer_config.json").write_text(config, encoding="utf-8")
    found = ChatTemplate.find(tmp_path)
    assert found is not None
    assert found.render([{"role": "user", "content": "hi"}]) == "<s>hi"


def test_without_a_template_there_is_none(tmp_path: Path) -> None:
    saved(tmp_path, None)
    assert ChatTemplate.find(tmp_path) is None
    assert ChatTemplate.find(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ raise_exception('only users may speak') }}", "only users may speak"),
        ("{{ messages[0].content.nothing.more }}", "UndefinedError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ ''.__class__.__mro__ }}", "SecurityError"),
        ("{{ messages.append(1) }}", "SecurityError"),
        ("{{ namespace(__init__=1) }}", "SecurityError"),
        ("{% set ns = namespace() %}{% set ns.__class__ = 1 %}", "SecurityError"),
        ("{{ cycler.__init__.__globals__ }}", "SecurityError"),
        ("{{ strftime_now.__globals__['os'] }}", "SecurityError"),
        ("{% for _ in range(10**9) %}{% endfor %}", "range"),
    ],
)
def test_a_template_that_fails_or_breaks_out_is_an_error_of_the_request(template: str, words: str) -> None:
    with pytest.raises(Unprocessable, match=words) as caught:
        ChatTemplate(template, {}).render([{"role": "user", "content": "hi"}])
    assert caught.value.field == "messages"


QUADRATIC = (
    "{% set ns = namespace(count=0) %}{% for a in messages %}{% for b in messages %}{% if a.content == b.content %}"
    "{% set ns.count = ns.count + 1 %}{% endif %}{% endfor %}{% endfor %}{{ ns.count }}"
)


def test_a_template_that_takes_too_long_is_ended_within_its_loops() -> None:
    messages = [{"role": "user", "content": str(count)} for count in range(20)]
    assert ChatTemplate(QUADRATIC, {}).render(messages) == "20"
    with pytest.raises(Unprocessable, match="too long"):
        ChatTemplate(QUADRATIC, {}).render(messages, max_seconds=0.0)


def test_the_time_in_which_others_have_the_processor_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks = SimpleNamespace(monotonic=count(0.0, 60.0).__next__, process_time=count(0.0, 0.001).__next__)
    monkeypatch.setattr(template_renderer, "time", clocks)
    job = template_process.Job("{{ messages[0].content }}", {"messages": MESSAGES}, 100, 1.0)
    assert template_renderer.Renderer().work(job) == template_process.Reply("done", "Be brief. ")


BOMBS = {
    "one product": "{{ 'a' * 10**10 }}",
    "a width": "{{ '%10000000000d' % 1 }}",
    "a filter that is computed ahead": "{{ 'a' | center(10000000000) }}",
    "doubled again and again": "{% set ns = namespace(x='a') %}{% for _ in range(99) %}"
    "{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
    "blocks": "{% set ns = namespace(x='a') %}{% for _ in range(99) %}{% set x %}{{ ns.x }}{{ ns.x }}{% endset %}"
    "{% set ns.x = x %}{% endfor %}",
    "one power": "{{ 7 ** 99999999 % 2 }}",
    "empty loops": "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% endfor %}{% endfor %}",
}
"""Templates that take all memory, or hours, where nothing of Jinja's looks."""


@pytest.mark.parametrize("template", BOMBS.values(), ids=BOMBS)
def test_a_template_takes_neither_all_memory_nor_the_processor(template: str) -> None:
    with pytest.raises(Unprocessable, match="messages take the model's chat template too (long|much memory): send few"):
        ChatTemplate(template, {}).render(MESSAGES, max_seconds=0.2)
    assert ChatTemplate("{{ messages[0].content }}", {}).render(MESSAGES) == "Be brief. ", "and others go on"


def test_a_template_that_cannot_be_compiled_in_time_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_template, "MAX_RENDER_SECONDS", 0.1)
    for template in ("{{ 7 ** 99999999 % 2 }}", "{{ messages"):
        saved(tmp_path, template)
        with pytest.raises(UnreadableArtifact, match="is no chat template"):
            ChatTemplate.find(tmp_path)


def test_a_process_that_was_killed_while_it_waited_is_replaced() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {})
    template.render(MESSAGES)
    for process in template_process._idle:
        process._process.kill()
        process._process.wait()
    assert template.render(MESSAGES) == "Be brief. "


def test_a_prompt_that_grows_beyond_its_bound_is_not_completed() -> None:
    template = ChatTemplate("{% for a in messages %}{% for b in messages %}{{ b.content }}{% endfor %}{% endfor %}", {})
    messages = [{"role": "user", "content": "x" * 10}] * 10
    assert len(template.render(messages, max_characters=1000)) == 1000
    with pytest.raises(TooLarge, match="more than 999 characters"):
        template.render(messages, max_characters=999)


def test_a_variable_does_not_replace_the_messages() -> None:
    template = ChatTemplate("{{ messages[0].content }}{{ tools is none }}", {})
    assert template.render([{"role": "user", "content": "a"}], {"messages": [], "tools": [1]}) == "aTrue"


def test_a_template_is_rendered_by_a_front_with_many_connections() -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most < 2 * SELECT_DESCRIPTORS:
        pytest.skip(f"a process may have {most} descriptors here")
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (before, most))
        resource.setrlimit(resource.RLIMIT_NOFILE, (2 * SELECT_DESCRIPTORS, most))
        for _ in range(SELECT_DESCRIPTORS):
            stack.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        process = template_process.RenderingProcess()
        stack.callback(process.close)
        job = template_process.Job("{{ word }}!", {"word": "yes"}, 10, 60.0)
        assert process.ask(msgspec.msgpack.encode(job)) == template_process.Reply("done", "yes!")


@pytest.mark.parametrize("size", [1, 1 << 20], ids=["it has the job", "the pipe is full"])
def test_a_process_that_stands_still_is_ended_at_the_deadline(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "ANSWER_SECONDS", 0.2)
    process = template_process.RenderingProcess()
    process._process.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(template_process.Broken, match="too long"):
            process.ask(bytes(size))
        assert process.has_ended
    finally:
        process.close()


@pytest.mark.parametrize("place", ["messages", "variables"])
def test_a_whole_number_beyond_64_bits_is_refused(place: str) -> None:
    template = ChatTemplate("{{ messages }}", {})
    messages: Any = [{"role": "user", "content": 10**30}] if place == "messages" else MESSAGES
    with pytest.raises(Unprocessable, match="a whole number of more than 64 bits"):
        template.render(messages, {"limit": 2**64} if place == "variables" else {})
