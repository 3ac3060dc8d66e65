"""The lessons as a whole: run with their solutions filled in, and what every one of them must have."""

import ast
import copy
import hashlib
import itertools
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from ftkit.common.paths import kit_root
from ftkit.course.content import exercises, labs, lessons
from ftkit.course.notebooks import solved

FOLDER = kit_root() / "notebooks"
NOTEBOOKS = {path.name.split("_")[0]: path for path in sorted(FOLDER.glob("[0-9][0-9]*_*.ipynb"))}
LABS = {path.stem: path for path in sorted((FOLDER / "labs").glob("*.ipynb"))}  # nbmake runs them, as handed out
ALL = NOTEBOOKS | LABS
WAYS = {"read", "picture", "analogy", "run", "experiment", "exercise", "quiz", "break it", "project"}
SECONDS = 180  # of processor time that one notebook may take; the clock on the wall depends on what else runs

# What the packaged code must agree with, added to the end of a lesson and run in its kernel.
AGREEMENT = {
    "00": "",
    "01": """
        from ftkit.models import load_model, load_tokenizer
        packaged = load_tokenizer(profile.model)
        assert packaged(message)["input_ids"] == tokenizer(message)["input_ids"]
        opened = tokenizer.apply_chat_template(long, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert opened == prompt_ids(packaged, long)
        same = load_model(profile.model, str(model.dtype).removeprefix("torch."))
        assert same.config.quantization_config.to_dict() == loaded.config.quantization_config.to_dict()
        assert weight_bytes(same) == weight_bytes(loaded)
        # inside the model: the exercises against it, and what the texts say of it
        plan = inside.Blueprint.of(model.config)
        assert layer_weights(plan.width, plan.heads, plan.groups, plan.head, plan.inner) == plan.layer_weights
        own = torch.nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        assert torch.allclose(attention(scores) @ values, own, atol=1e-5)
        assert looks[:, :, torch.ones(len(tokens), len(tokens)).triu(1).bool()].abs().max() == 0
        assert first.mean() > 0.4 and {" Tuesday", " Friday"} <= set(neighbours(" Monday"))
        assert chance(" perfect") - chance(" perfect", [best]) > 0.05
        assert chance(" perfect", [best]) - chance(" perfect", [best, *others]) > 0.05
        said = {layer: (token.strip(), share) for layer, token, _, share in guesses}
        assert said[layers][0] == "perfect" and all(share < 0.01 for n, (_, share) in said.items() if n < layers - 4)
        alone = write(tokenizer(texts[:1], return_tensors="pt"))
        assert alone == write(padded("left")) and alone not in (write(padded("right")), write(maskless))
        likeliest = {}
        for side in ("left", "right"):
            batch = padded(side).to(device)
            with torch.no_grad():
                at = model(**batch).logits[range(2), last_places(batch["attention_mask"].cpu())]
            likeliest[side] = at.argmax(dim=-1).tolist()
        assert likeliest["left"] == likeliest["right"]
    """,
    "02": """
        from ftkit.data import suspicious
        from ftkit.data import prompt_ids
        assert ids == example_ids(tokenizer, desk, row)
        assert ids[:prompt_length] == prompt_ids(tokenizer, prompt)
        assert labels == mask(ids[:prompt_length], ids[prompt_length:])
        assert completion(row["ticket"]) == example["completion"][0]["content"]
        usable_messages = [entry["message"] for entry in usable]
        packaged = {usable[i]["id"] for i, _, _ in suspicious(usable_messages, intents)[:8]}
        in_the_open = [i for i in by_doubt if intent_names[chances[i].argmax()] != intents[i]][:8]
        assert packaged == {usable[i]["id"] for i in in_the_open}
        open_kinds = {"wrong label", "cut off", "other language", "near duplicate"}  # left for people
        assert all(settled[kind] == (0 if kind in open_kinds else count) for kind, count in planted.items())
    """,
    "02b": """
        from ftkit.data.prompt import completion_text
        from ftkit.evaluation.verdict.classifier import Classifier
        known = [row["message"] for row in train]
        rare = TfidfVectorizer(sublinear_tf=True).fit(known)
        alike = (rare.transform(messages[:8]) @ rare.transform(known).T).toarray()
        kept = [completion_text(desk, row["ticket"]) for row in train]
        assert [answer_of_nearest(own.tolist(), kept) for own in alike] == tools["retrieval"].texts[:8]
        assert likeliest(predicted, names) == guessed
        packaged = Classifier(model.eval(), tokenizer, {"intent": names}, 256).predict(messages)["intent"]
        assert np.mean([one == other for one, other in zip(packaged, guessed)]) > 0.9  # batches of another shape
        assert euros(7200, WATTS, PRICE) == PRICE * watt_hours(7200) / 1000
        seen = measured.models["tuned"].scores  # of all messages; ci takes a part of them
        assert all(abs(np.mean(right["QLoRA"][name]) - seen[name].value) < 0.15 for name in both)
        assert list(right) == list(tools) and all(len(own) == len(rows) for each in right.values() for own in each.values())
        writers = {"most frequent", "prompt", "few-shot", "retrieval", "QLoRA", "all weights"}
        assert {tool for tool, own in right.items() if "exact match" in own} == writers
        assert trainer.state.global_step == trainer.state.max_steps and model.config.id2label == dict(enumerate(names))
    """,
    "03": """
        from ftkit.data import example_ids
        again = make_trainer(scratch / "agreement", with_lengths, profile)
        inside = again.model.get_base_model().config
        assert inside.quantization_config.to_dict() == four_bit.to_dict()
        assert again.model.peft_config["default"].to_dict() == adapter.to_dict()
        rows = desk.rows("train")[: len(few)]
        assert [row["input_ids"] for row in again.train_dataset] == ids
        assert [example_ids(tokenizer, desk, row) for row in rows] == ids
        labels = again.data_collator([again.train_dataset[i] for i in (0, 1)])["labels"]
        assert labels[:, : batch["labels"].shape[1]].tolist() == batch["labels"].tolist()
        for name in ("learning_rate", "lr_scheduler_type", "warmup_steps", "bf16", "fp16", "seed",
                     "per_device_train_batch_size", "gradient_accumulation_steps"):
            assert getattr(again.args, name) == getattr(settings, name), name
        assert abs(open_loss - packaged_loss) < 0.01 * open_loss
        assert max(open_losses + packaged_losses) < math.log(len(tokenizer))
        assert gap < 1e-6 and {len(losses) for losses in rates.values()} == {steps}
        assert sum(map(sum, places.values())) == profile.rank * shape.sides
        assert all(len(set(found)) == 1 for found in places.values()) and "lm_head" not in places
        assert run.finished and measured.trainable_parameters == profile.rank * shape.sides
    """,
    "04": """
        import math
        from ftkit.evaluation import baselines, bootstrap_interval
        from ftkit.data import parse_answer
        opened, measured = scored(texts[TUNED], rows), result.models[TUNED].scores
        assert set(opened) == set(measured)
        assert all(math.isclose(opened[name], measured[name].value) for name in measured)
        tickets = [row["ticket"] for row in rows]
        assert [same_ticket(text, ticket) for text, ticket in zip(texts[TUNED], tickets)] == whole.tolist()
        shares = field_shares([parse_answer(desk, text) for text in texts[TUNED]], tickets)
        assert all(math.isclose(shares[name], measured[name].value) for name in tickets[0])
        drawn_in_the_open = stats.bootstrap(
            (whole.astype(float),), np.mean, n_resamples=2000, rng=np.random.default_rng(17)
        ).confidence_interval
        packaged = bootstrap_interval(lambda index: whole[index].mean(axis=-1), len(whole))
        assert np.allclose(packaged, (drawn_in_the_open.low, drawn_in_the_open.high))
        assert np.allclose(packaged, bootstrap(whole.astype(float), np.random.default_rng(17)), atol=0.015)
        wilson = stats.binomtest(int(whole.sum()), len(whole)).proportion_ci(method="wilson")
        assert share_interval(whole) == (wilson.low, wilson.high) == measured["exact match"].interval
        assert (compared.better, compared.worse, compared.p) == (better, worse, p)
        assert better_worse(tfidf_right, tuned_right) == (better, worse)
        packaged = [json.loads(text)["intent"] for text in baselines.tfidf(desk, train, rows).texts]
        assert packaged == guessed.tolist()
        assert json.loads(baselines.majority(desk, train, rows).texts[0])["intent"] == most
        assert answerer.answer([row["message"] for row in few], TUNED) == tuned_texts
        judged = page["input_ids"][0].tolist()
        for side, found in ((TUNED, tuned_perplexity), (BASE, base_perplexity)):
            ((total, number),) = answerer.log_probabilities([judged], side)
            assert math.isclose(math.exp(-total / number), found, rel_tol=0.01)
        fitting = lambda n: SchemaProcessor(desk, tokenizer, n, model.config.vocab_size)
        packaged = answerer.complete(chats, BASE, max_new_tokens=room, fitting=fitting)
        assert all(metrics.score(desk, some, held)["fits the task"])
        assert all(metrics.score(desk, some, packaged)["fits the task"])
    """,
    "05": """
        from ftkit.models import load_adapter
        loaded = load_model(run.profile.model, run.profile.dtype)
        assert loaded.config.quantization_config.to_dict() == base.config.quantization_config.to_dict()
        packaged = load_adapter(loaded, run.adapter, base=run.profile.model).eval()
        assert torch.equal(next_logits(packaged), opened)
        for model in (merged_model(run), load_folder(folder)[0]):
            assert torch.equal(model.get_submodule(layer_name).weight, by_hand)
        assert inputs["input_ids"][0].tolist() == prompt_ids(load_tokenizer(run.profile.model), chat_prompt(desk, message))
        assert request(desk.system_prompt, message, 56)["messages"] == chat_prompt(desk, message)
        assert shown[-1] == answer == list(growing(list(answer)))[-1]
        assert modelfile(run, stranger) == modelfile(run, tokenizer)
    """,
    "06": """
        from ftkit.data.kept import kept_scores
        opened = tokenizer("<|im_start|>assistant\\n", add_special_tokens=False)["input_ids"]
        size = len(opened)  # so many tokens open an answer; the last of them stands for all
        ends = [place for place in range(size, len(marked.ids)) if marked.ids[place + 1 - size : place + 1] == opened]
        real = [-1 if place in ends else token for place, token in enumerate(marked.ids)]
        assert turn_labels(real, -1, tokenizer.convert_tokens_to_ids("<|im_end|>")) == labels
        assert sum(label != -100 for label in labels) == sum(marked.mask) and len(ends) == 2
        from ftkit.course.lessons.lesson06 import CONVERSATIONS
        for letter, spoken in CONVERSATIONS.items():
            problems = host.problems({"messages": [{"role": role, "content": text} for role, text in spoken]})
            words = {"order": "alternate", "last": "the last turn", "empty": "not empty", "system": "in the middle"}
            assert words[faults[letter]] in problems[0] if faults[letter] != "fine" else not problems, letter
        for part, text, lacks in zip(parts, texts[TUNED], missed[TUNED], strict=True):
            known = {key: part["expect"][-1].get(key, []) for key in ("must", "must_not")}
            assert meets(text, **known) == (not unmet(known, text))
        for answer, wanted in (("Mesa4sinnueces", "Mesa4,sinnueces,porfavor"), ("unasopadelentejas", "2sopasdelentejas")):
            both = np.mean([shared(answer, wanted, n) for n in range(1, 7)], axis=0)
            assert abs(5 * both.prod() / (4 * both[0] + both[1]) - chrf(answer, wanted)) < 1e-9
        pairs_of = [(text, pair["target"]) for pair, text in zip(pairs, spanish, strict=True)]
        assert [numbers_kept(*two) for two in pairs_of] == kept_scores(kitchen, pairs_of)["numbers kept"]
        for side in (BASE, TUNED):  # the guests say what they said, and each has an answer
            assert [s[::2] for s in own[side]] == [t["messages"][::2] for t in some]
            assert [len(s) for s in own[side]] == [len(t["messages"]) for t in some]
        # what the texts say of the run that the kit brings
        assert tests[passed]["topic"] == "dogs" and "january" in tests[passed]["messages"][2]["content"]
        gains = result.comparisons[BASE]
        assert gains["first turns met"].detected and gains["first turns met"].difference > 0
        assert not gains["later turns met"].detected
        base_scores = result.models[BASE].scores
        assert base_scores["later turns met"].value > 2 * base_scores["first turns met"].value
        assert measured.models[BASE].scores["allergens kept"].value > 2 / 3
    """,
    "07": """
        from ftkit.course.lessons.lesson07 import LABELS, NEXT
        for both in parts.values():
            first, second = ([row[reader] for row in both] for reader in ("first", "second"))
            assert abs(kappa(first, second) - cohen_kappa_score(first, second)) < 1e-9
        assert all(next_step(*case) == by_the_rule(*case) == want for case, (want, _) in NEXT.items())
        assert labels == {letter: label for letter, (label, _) in LABELS.items()}
        assert rows_for(0.5, widest_half(75)) in range(75, 81)  # Wilson's interval is narrower than this formula's
        shipped = load_task("school")
        for split in ("train", "validation", "test"):
            made, kept = ([(row["message"], row["target"]) for row in some.rows(split)] for some in (task, shipped))
            assert made == kept
        assert question.standings["majority"].score.value < 0.3 and set(answers) == set(names[1:])
    """,
}


def read(lesson):
    return nbformat.read(ALL[lesson], as_version=4)


def kit_files(root=None):
    """Everything in the folders that a notebook must not write to: {path: digest of a file, None for a folder}."""
    found = [path for name in ("notebooks", "data", "ftkit", "apps") for path in ((root or kit_root()) / name).rglob("*")]
    kept = [path for path in found if "__pycache__" not in path.parts]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None for path in kept}


def markdown(lesson):
    return "\n\n".join(cell.source for cell in read(lesson).cells if cell.cell_type == "markdown")


# around an exercise that is solved, with the earlier answers at hand: all is taken away again, and kept for the agreement
BEFORE = "_before = dict(globals()); globals().update(globals().get('_answers', {}))"
AFTER = """
for _name, _made in list(globals().items()):
    if not _name.startswith("_") and _made is not _before.get(_name, _before):
        globals().setdefault("_answers", {})[_name] = globals().pop(_name)
        if _name in _before:
            globals()[_name] = _before[_name]
"""
AT_THE_END = "globals().update(globals().get('_answers', {}))"


def in_both_forms(lesson):
    """A lesson with each exercise solved and then as it is handed out: what comes after has to do without the answers."""
    notebook, answered = read(lesson), solved(read(lesson))
    cells = []
    for given, done in zip(notebook.cells, answered.cells, strict=True):
        if given.source != done.source:
            done.id += "-solved"
            cells += [nbformat.v4.new_code_cell(BEFORE), done, nbformat.v4.new_code_cell(AFTER)]
        cells.append(given)
    cells += map(nbformat.v4.new_code_cell, (AT_THE_END, textwrap.dedent(AGREEMENT[lesson])))
    notebook.cells = cells
    return notebook


@pytest.mark.parametrize("lesson", NOTEBOOKS)
def test_a_lesson_runs_from_nothing_solved_and_untouched_and_agrees_with_the_package(lesson, tmp_path, monkeypatch):
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    notebook = in_both_forms(lesson)
    before = kit_files()
    began = os.times()
    NotebookClient(notebook, timeout=500, resources={"metadata": {"path": str(FOLDER)}}).execute()
    ended = os.times()
    assert ended.children_user - began.children_user + ended.children_system - began.children_system < SECONDS
    printed = [output.text for cell in notebook.cells for output in cell.get("outputs", []) if "text" in output]
    for verdict in ("Right", "Not attempted"):
        assert sum(text.startswith(verdict) for text in printed) == len(list(exercises(lesson)))
    assert not any(output.get("name") == "stderr" for cell in notebook.cells for output in cell.get("outputs", []))
    assert kit_files() == before


def test_with_an_encoder_at_hand_lesson_02b_walks_the_road_with_it(tiny_encoder, tmp_path, monkeypatch, capsys):
    """The tests have no encoder installed, so the lesson's own run takes what stands in for it."""
    monkeypatch.setenv("FTKIT_ENCODER", str(tiny_encoder))
    monkeypatch.setenv("FTKIT_RUNS", str(tmp_path / "runs"))
    wanted = ["tool-data", "tool-judge", "tool-by-rule", "tool-recorded", "tool-find", "tool-model", "tool-encode"]
    wanted += ["tool-settings", "tool-trainer", "tool-train", "tool-test", "tool-tuned", "tool-encoder-says"]
    names, cells = {"RULES": {"cancel": "cancel"}}, {cell.id: cell.source for cell in read("02b").cells}
    exec("import json, re\nfrom ftkit.evaluation import compare_shares", names)
    for name in wanted:
        exec(cells[name], names)
    said = capsys.readouterr().out
    assert "its files say that it is of the type 'bert'" in said and "pip" not in said
    assert f"{names['head'].out_features}" == "12" and names["encoder"] == "encoder" in names["right"]
    assert re.search(r"^encoder: [\d.]+ % intent$", said, re.MULTILINE) and "pass 1 of 1:" in said
    assert "On the intent the encoder is behind QLoRA." in said  # random weights, four steps


def test_a_file_that_a_notebook_made_removed_or_overwrote_is_seen(tmp_path):
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "rows.jsonl"
    file.write_text("one", encoding="utf-8")
    seen = [kit_files(tmp_path)]
    for change in (lambda: file.write_text("two", encoding="utf-8"), file.unlink, (tmp_path / "data" / "new").mkdir):
        change()
        seen.append(kit_files(tmp_path))
    assert all(first != second for first, second in itertools.pairwise(seen))


def test_every_lesson_has_its_exercises_its_quiz_and_its_agreement():
    assert list(NOTEBOOKS) == lessons() == list(AGREEMENT)
    assert set(labs()) == set(LABS)


@pytest.mark.parametrize("lesson", ALL)
def test_a_lesson_opens_and_closes_as_all_do(lesson):
    first = read(lesson).cells[0].source
    assert first.startswith("[![Open in Colab]")
    for part in (
        "# Lab · " if lesson in LABS else f"# {lesson} · ",
        "*After this lesson you can*",
        "*It takes*",
        "*It needs*",
    ):
        assert part in first
    assert re.search(r"^Machine time: .*`cpu`.*not been measured yet\.$", first, re.MULTILINE)
    text = markdown(lesson)
    facts = re.search(r"## Key facts\n\n((?:- .+\n?)+)", text)
    assert facts and len(facts[1].strip().splitlines()) == 5
    assert text.index("## Key facts") < text.index("## `quiz`") < text.index("## What is next")


@pytest.mark.parametrize("lesson", ALL)
def test_the_ways_of_learning_are_marked_by_the_same_nine_words(lesson):
    headings = re.findall(r"^#{2,3} .*$", markdown(lesson), re.MULTILINE)
    marked = [match[1] for heading in headings if (match := re.match(r"#{2,3} `([^`]+)` \S", heading))]
    assert set(marked) <= WAYS
    assert all(re.match(r"### `[^`]+` \S", heading) for heading in headings if heading.startswith("### "))
    checked = list(exercises(lesson)) if lesson in lessons() + labs() else []
    assert len(set(marked)) >= 4 and marked.count("exercise") == len(checked)


def test_the_first_lesson_explains_all_nine_words():
    assert set(re.findall(r"^\| `([^`]+)` \|", markdown("00"), re.MULTILINE)) == WAYS


@pytest.mark.parametrize("lesson", ALL)
def test_a_picture_says_in_text_what_it_shows(lesson):
    outputs = [output for cell in read(lesson).cells for output in cell.get("outputs", []) if "data" in output]
    drawn = [output.data for output in outputs if {"image/svg+xml", "text/html", "image/png"} & set(output.data)]
    assert drawn
    for data in drawn:
        assert ("image/svg+xml" in data) == ("image/png" in data), "python notebooks/refresh.py --pictures"
        assert len(data["text/plain"]) > 40 and not data["text/plain"].startswith("<")
        named = r"aria-label=|<desc>|<caption"  # a table is text, and its caption names it
        assert re.search(named, data.get("image/svg+xml", "") + data.get("text/html", ""))


def singular(term):
    return term.lower().removesuffix("s")


def test_every_term_in_bold_is_in_the_glossary_and_its_lesson_named():
    glossary = (FOLDER / "glossary.md").read_text(encoding="utf-8")
    entries = re.findall(r"^- \*\*(.+?)\*\* \(([\db, ]+)\): (.+(?:\n  .+)?)$", glossary, re.MULTILINE)
    assert len(entries) == glossary.count("\n- ")
    names = [term.lower() for term, _, _ in entries]
    assert names == sorted(names)
    known = {singular(term): set(numbers.split(", ")) for term, numbers, _ in entries}
    for lesson in ALL:
        for term in re.findall(r"\*\*(.+?)\*\*", markdown(lesson)):
            assert singular(term) in known, f"{lesson}: **{term}** is not in the glossary"
            named = lesson in LABS or lesson in known[singular(term)]
            assert named, f"{lesson}: the glossary does not name this lesson for {term}"


@pytest.mark.parametrize("lesson", ALL)
def test_links_of_a_lesson_lead_somewhere_and_named_lessons_exist_or_are_said_to_come(lesson):
    text = markdown(lesson)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ALL[lesson].parent / target).exists(), target
    for name in re.findall(r"`(0\db?_\w+)`", text):
        assert (FOLDER / f"{name}.ipynb").is_file() or f"`{name}` (in preparation)" in text, name


def test_each_lesson_leads_to_the_next_and_some_of_them_to_the_labs():
    nexts = {lesson: markdown(lesson).split("## What is next")[1] for lesson in ALL}
    for lesson, following in itertools.pairwise(NOTEBOOKS):
        assert f"]({NOTEBOOKS[following].name})" in nexts[lesson], lesson
    for lesson in ("03", "05"):
        assert "](labs/break_it.ipynb)" in nexts[lesson]
    for lesson in ("04", "05"):
        assert all(f"](labs/{lab}.ipynb)" in nexts[lesson] for lab in ("from_scratch", "any_data", "better_results"))
    for lesson in ALL:
        for name in re.findall(r"`(0\db?_\w+)`", markdown(lesson)):
            assert f"[`{name}`](" in markdown(lesson), f"{lesson} names {name} without a link"


def test_a_model_that_answers_in_a_lesson_is_on_the_gpu_where_there_is_one():
    for lesson in ALL:
        for cell in read(lesson).cells:
            for line in cell.source.splitlines():
                if re.match(r"model = AutoModelForCausalLM", line):
                    assert line.endswith(".to(device)") or "**how" in line, f"{lesson}: {line}"


def calls(tree):
    """Names of what is called in a piece of code: `f` of f() and of x.f()."""
    functions = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return {getattr(function, "attr", getattr(function, "id", "")) for function in functions}


@pytest.mark.parametrize("lesson", ALL)
def test_a_cell_that_loads_trains_or_checks_one_thing_after_the_other_says_where_it_is(lesson):
    slow = {"from_pretrained", "train", "check_task"}
    for cell in read(lesson).cells:
        if cell.cell_type != "code":
            continue
        tree = ast.parse(cell.source)
        loops = [node for node in tree.body if isinstance(node, ast.For)]
        assert all("print" in calls(loop) for loop in loops if slow & calls(loop)), cell.source
        assert "list(check_task(" not in cell.source
        before_resuming = cell.source.split("resume_from_checkpoint")
        assert len(before_resuming) == 1 or "of {steps} ..." in before_resuming[0], cell.source


def test_the_cells_below_the_first_exercise_of_lesson_02_do_not_solve_it():
    code = "\n".join(cell.source for cell in read("02").cells if cell.cell_type == "code")
    assert not [part for part in ('["message"] or ""', ".strip()", "is None") if part in code]


def test_the_spelling_of_all_texts(tmp_path):
    """codespell knows common misspellings, offline. The data are left out: guests may write as they like."""
    code = [path for path in (kit_root() / "ftkit").rglob("*.py") if path.parent.name != "faults"]  # words of many languages
    texts = [*kit_root().glob("*.md"), *FOLDER.glob("*.md"), *(kit_root() / "ftkit" / "course").rglob("*.toml")]
    for lesson, path in ALL.items():
        (tmp_path / f"{path.stem}.md").write_text(markdown(lesson), encoding="utf-8")
    command = [sys.executable, "-m", "codespell_lib", *map(str, code + texts), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("lesson", ALL)
def test_code_and_printed_text_fit_the_width_of_a_screen(lesson):
    for cell in read(lesson).cells:
        if cell.cell_type == "code":
            assert max(map(len, cell.source.splitlines())) <= 105, cell.source
        for output in cell.get("outputs", []):
            assert len(output.get("text", "").splitlines()) <= 40, cell.source


def test_the_text_of_two_cells_is_never_the_same():
    for lesson in ALL:
        sources = [cell.source for cell in read(lesson).cells]
        assert len(sources) == len(set(sources))


def test_the_open_mask_is_the_one_that_the_trainer_learns_from(tiny_task, tiny_choice, tmp_path):
    """Lesson 02's exercise against trl: the labels of a batch as `SFTTrainer` collates it."""
    from ftkit.data.prompt import chat_prompt, example_ids, prompt_ids
    from ftkit.models.load import load_tokenizer
    from ftkit.training.trainer import make_trainer, training_data

    names = {}
    exec(exercises("02").mask.solution_code, names)
    profile = tiny_choice.profile
    tokenizer = load_tokenizer(profile.model)
    trainer = make_trainer(tmp_path, training_data(tiny_task, tokenizer, profile), profile)
    for row, seen in itertools.islice(zip(tiny_task.rows("train"), trainer.train_dataset, strict=True), 8):
        whole = example_ids(tokenizer, tiny_task, row)
        start = len(prompt_ids(tokenizer, chat_prompt(tiny_task, row["message"])))
        batch = trainer.data_collator([copy.deepcopy(seen)])
        assert batch["input_ids"][0].tolist()[: len(whole)] == whole
        labels = batch["labels"][0].tolist()
        assert labels[: len(whole)] == names["mask"](whole[:start], whole[start:])
        assert set(labels[len(whole) :]) <= {-100}


def test_a_notebook_without_exercises_stays_as_it_is():
    plain = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("q.mask.check(mask)")])
    assert solved(plain) == plain
    assert Path(FOLDER / "refresh.py").is_file()
