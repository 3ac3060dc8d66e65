"""From a training to an export, with models whose tokenizers lack or have more than the kit's own: the cases that failed."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

from ftkit.data.prompt import chat_prompt, prompt_ids
from ftkit.data.task import load_task
from ftkit.deployment.roads.export import export
from ftkit.evaluation.answer import TUNED, Answerer
from ftkit.models.chat_template import answer_end, template_changes
from ftkit.models.load import load_tokenizer
from ftkit.runs import guards
from ftkit.training.finetune import train
from tests.data.test_prompt import KINDS, make_tokenizer

SENTENCE = "The model's chat template: "


@pytest.fixture(scope="module", params=["gemma", "qwen 3", "none, with bos"])
def trained(request, tiny_task_folder, tiny_choice, tmp_path_factory):
    """A run of four steps over a tiny model with such a tokenizer, what was said, and the kind."""
    from dataclasses import replace

    folder, kind = tmp_path_factory.mktemp("any"), KINDS[request.param]
    task = load_task(shutil.copytree(tiny_task_folder, folder / "small"))
    tokenizer = make_tokenizer(kind, task.rows("train"))
    tokenizer.save_pretrained(folder / "base")
    torch.manual_seed(0)
    shape = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), initializer_range=0.2, **shape)).to(torch.bfloat16)
    ends = [tokenizer.convert_tokens_to_ids(end) for end in kind.ends]
    model.generation_config = GenerationConfig(eos_token_id=ends or tokenizer.eos_token_id)
    model.save_pretrained(folder / "base")
    changes = {"model": str(folder / "base"), "max_steps": 4, "checkpoint_steps": 4, "max_length": 2048, "max_new_tokens": 8}
    said = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FTKIT_RUNS", str(folder / "runs"))
        choice = replace(tiny_choice, profile=tiny_choice.profile.with_changes(**changes))
        run = train(task, choice, fresh=True, say=said.append)
    run.update(training=run.training.model_copy(update={"longest_completion": 4}))  # short answers: a quick test
    return run, kind, said, ends


def test_what_the_kit_changed_is_said_recorded_and_kept_by_the_run(trained):
    run, kind, said, _ = trained
    lines = [line for line in said if line.startswith(SENTENCE)]
    assert len(lines) == len(kind.changed) == 1 and kind.changed[0] in lines[0]
    own = AutoTokenizer.from_pretrained(run.adapter)
    assert template_changes(own) == run.record.guards.template_changes
    base = run.profile.model
    assert load_tokenizer(base, run.adapter).chat_template == load_tokenizer(base).chat_template == own.chat_template
    assert kind.changed[0] in next(guards.of_run(run)).text


def test_the_exports_ask_as_the_training_did_and_end_at_every_end_token(trained, tmp_path):
    run, _, _, ends = trained
    chat = chat_prompt(run.task, run.task.rows("test")[0]["message"])
    answerer = Answerer.of_run(run)
    expected = prompt_ids(answerer.tokenizer, chat)
    record = export(run, "merged", run.folder / "exports" / "merged", say=lambda line: None)
    assert record.verification.n == 12
    merged = AutoTokenizer.from_pretrained(run.folder / "exports" / "merged")
    assert merged.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == expected
    settings = AutoModelForCausalLM.from_pretrained(run.folder / "exports" / "merged").generation_config
    kept = settings.eos_token_id if isinstance(settings.eos_token_id, list) else [settings.eos_token_id]
    assert kept == answerer.ends == run.record.guards.end_tokens
    assert {*kept} >= {answer_end(merged), *ends}
    export(run, "ollama", tmp_path / "ollama", verify=False, say=lambda line: None)
    lines = (tmp_path / "ollama" / "Modelfile").read_text().splitlines()
    stops = [json.loads(line.split(" ", 2)[2]) for line in lines if line.startswith("PARAMETER stop")]
    assert {*stops} >= {*merged.convert_ids_to_tokens(kept)}
    export(run, "adapter", tmp_path / "adapter", verify=False, say=lambda line: None)
    beside = AutoTokenizer.from_pretrained(tmp_path / "adapter")
    assert beside.apply_chat_template(chat, add_generation_prompt=True)["input_ids"] == expected
    assert 'AutoTokenizer.from_pretrained(".")' in (tmp_path / "adapter" / "README.md").read_text()


def test_a_system_prompt_edited_after_the_training_is_said_and_not_used(trained, capsys):
    run, *_ = trained
    path = run.task.folder / "task.toml"
    before = path.read_text()
    path.write_text(before.replace("Write the desk ticket.", "Answer in verse."))
    try:
        assert load_task(path.parent).system_prompt == "Answer in verse."
        answerer = Answerer.of_run(run)
        assert "task.toml has another system prompt than the training ('Answer in verse.')" in capsys.readouterr().out
        assert answerer.prompt("hello", TUNED)[0]["content"] == "Write the desk ticket."
        assert not next(guards.of_run(run)).ok
        export(run, "server", run.folder / "exports" / "server", verify=False)
        assert "the run goes on with its own" in capsys.readouterr().out
        assert "Write the desk ticket." in (run.folder / "exports" / "server" / "ask.py").read_text()
    finally:
        path.write_text(before)
    Answerer.of_run(run)
    assert "system prompt" not in capsys.readouterr().out
