"""Typical wrong answers to every exercise: (what the learner writes, words of the message it must get).

The code is run after `import json, math, re`, torch and numpy as `np`; for an exercise on a function it is the body of that
function, or its whole definition; for a value it is the value.
"""

WRONG = {
    "00.chairs": [
        ("return len(ticket)", "keys"),
        ('return ticket["guests"]', "No chairs is 0"),
        ('return str(ticket["guests"] or 0)', "no quotes"),
        ('return ticket["party"]', "KeyError"),
    ],
    "00.road": [
        ('["pre-trained model", "training data", "evaluation", "fine-tuning", "deployment"]', "taste before you cook"),
        ('["pre-trained model", "training data", "fine-tuning", "deployment", "evaluation"]', "serve before"),
        ('["pre-trained model", "fine-tuning", "training data", "evaluation", "deployment"]', "ready before"),
        ('["model"]', "not one of the five"),
    ],
    "01.tokens": [
        ('return len(tokenizer(text)["input_ids"]) / len(text.split())', "add_special_tokens=False"),
        ('return len(tokenizer(text, add_special_tokens=False)["input_ids"]) / len(text)', "characters"),
        ('return len(tokenizer(text, add_special_tokens=False)["input_ids"])', "number of tokens"),
    ],
    "01.template": [
        ("return \"\".join(f\"<|im_start|>{m['role']}\\n{m['content']}<|im_end|>\\n\" for m in chat)", "not opened"),
        (
            'return "".join(f"<|im_start|>{m[\'role\']}{m[\'content\']}<|im_end|>" for m in chat) + "<|im_start|>assistant"',
            "Only line ends",
        ),
        ("return \"\".join(f\"{m['role']}: {m['content']}\\n\" for m in chat)", "<|im_end|> is missing"),
    ],
    "01.temperature": [
        ("return torch.softmax(logits, dim=-1)", "no effect"),
        ("return torch.softmax(logits * temperature, dim=-1)", "multiplied"),
        ("return logits / temperature", "add up to 1"),
    ],
    "01.settings": [
        ('{"do_sample": True, "max_new_tokens": 64}', "same answer every time"),
        ('{"do_sample": False, "max_new_tokens": 20}', "cut off"),
        ('{"do_sample": False, "max_new_tokens": 2000}', "ramble"),
    ],
    "01.cannot_know": [
        ('{"a", "b", "d"}', "(a)"),
        ('{"b"}', "One more"),
        ('"bd"', "set of letters"),
    ],
    "01.perplexity": [
        ("return sum(-math.log(share) for share in shares) / len(shares)", "mean surprise"),
        ("return math.exp(sum(-math.log(share) for share in shares))", "Take their mean"),
        ("return sum(1 / share for share in shares) / len(shares)", "mean of 1/p"),
        ("return math.exp(sum(math.log(share) for share in shares) / len(shares))", "Upside down"),
    ],
    "01.memory": [
        ("return parameters * bits / 10**6", "bits"),
        ("return parameters * bits / 8 / 2**20", "mebibyte"),
        ("return parameters * bits / 8", "10**6"),
    ],
    "02.unusable": [
        ('return row["message"] == ""', "None"),
        ('return not row["message"]', "strip"),
        ('return not row["message"].strip()', "AttributeError"),
        ('return not row["message"] or len(row["message"].strip()) < 3', "throw it away"),
    ],
    "02.plain": [
        ("return message.lower()", "Double spaces"),
        ("return ' '.join(message.split())", "Capital letters"),
        ("return ''.join(re.findall('[a-z]+', message.lower()))", "differ in"),
        ("return ' '.join(re.findall('[a-z]+', message.lower()))", "the numbers"),
        ("return ''.join(re.findall(r'\\w+', message.lower()))", "the spaces between words"),
    ],
    "02.labels": [
        ('{"raw-1101", "raw-0880", "raw-0968", "raw-1138"}', "raw-1138 is labelled well"),
        ('{"raw-1101"}', "raw-0880"),
        ('"raw-1101"', "set of ids"),
    ],
    "02.repairs": [
        (
            '{"HTML around the text": "mend", \'guests written as "4"\': "drop", "an empty message": "drop", '
            '"copied from the test split": "drop", "an unlikely label": "ask"}',
            "beyond doubt",
        ),
        (
            '{"HTML around the text": "mend", \'guests written as "4"\': "mend", "an empty message": "drop", '
            '"copied from the test split": "drop", "an unlikely label": "mend"}',
            "only suspects",
        ),
        ('{"HTML around the text": "mend"}', "is missing"),
    ],
    "02.leaks": [
        ('return [row for row in test if row["message"] not in {r["message"] for r in train}]', "You returned test rows"),
        (
            'known = {r["message"] for r in test}\n    return [r for r in train if r["message"] not in known]',
            "letter by letter",
        ),
        ('known = {r["id"] for r in test}\n    return [r for r in train if r["id"] not in known]', "was kept"),
        ("return train", "was kept"),
    ],
    "02.split": [
        ("cut = round(share * len(rows))\n    return rows[cut:], rows[: cut + 1]", "both parts"),
        ("cut = round(share * len(rows)) + 2\n    return rows[cut:], rows[:cut]", "near copies"),
        (
            "held = set(sorted(set(groups))[: round(share * len(set(groups)))])\n"
            "    return [r for r, g in zip(rows, groups) if g not in held], []",
            "came out",
        ),
    ],
    "02.completion": [
        ("return str(ticket)", "Python's way"),
        ("return json.dumps(ticket, ensure_ascii=False)", "Blanks"),
        ('return json.dumps(ticket, separators=(",", ":"), ensure_ascii=False, sort_keys=True)', "sorted"),
        ('return json.dumps(ticket, separators=(",", ":"))', "ensure_ascii"),
    ],
    "02.mask": [
        ("return prompt_ids + [-100] * len(completion_ids)", "wrong way round"),
        ("return [0] * len(prompt_ids) + completion_ids", "token of the vocabulary"),
        ("return completion_ids", "as long as"),
        ("return [-100] * len(prompt_ids) + completion_ids[:-1] + [-100]", "learns to stop"),
        ("return prompt_ids + completion_ids", "Nothing is masked"),
    ],
    "02.room": [
        ("return round(sum(lengths) / len(lengths) / 8) * 8", "would not fit"),
        ("return max(lengths) // 8 * 8", "would not fit"),
        ("return max(lengths)", "no multiple"),
        ("return max(lengths) // 8 * 8 + 8", "once too often"),
    ],
    "03.codes": [
        ("return levels[(values[:, None] - levels).abs().argmin(dim=1)]", "levels themselves"),
        ("return (values[:, None] - levels).abs().argmin(dim=0)", "the other dimension"),
        ("return (values[:, None] - levels).abs().argmax(dim=1)", "farthest"),
        ("return torch.searchsorted(levels, values)", "next level above"),
        ("return (values[:, None] - levels).abs().min(dim=1).values", "whole number"),
    ],
    "03.restore": [
        ("return levels[codes]", "scale is missing"),
        ("return levels[codes] / absmax[:, None]", "multiply"),
        ("return levels[codes] * absmax.max()", "One scale for all"),
        ("return codes * absmax[:, None]", "numbers of levels"),
    ],
    "03.bits": [
        ("return bits", "costs something too"),
        ("return bits + scale_bits", "share one"),
        ("return bits * block + scale_bits", "whole block"),
        ("return bits + block / scale_bits", "Upside down"),
    ],
    "03.lora": [
        ("return x @ W.T + x @ A.T @ B.T", "scale is missing"),
        ("return x @ W.T + alpha * (x @ A.T @ B.T)", "alpha alone"),
        ("return alpha / A.shape[0] * (x @ A.T @ B.T)", "layer itself is gone"),
        ("return x @ W.T + A.shape[0] / alpha * (x @ A.T @ B.T)", "alpha over rank"),
        ("return alpha / A.shape[0] * (x @ W.T + x @ A.T @ B.T)", "Only the adapter's"),
    ],
    "03.count": [
        ("return sum(rank * i * o for i, o in layers)", "added, not multiplied"),
        ("return sum(i * o for i, o in layers)", "frozen"),
        ("return sum(rank * i for i, o in layers)", "one of the two"),
        ("return rank * sum(layers[0])", "first layer only"),
        ("return sum(i + o for i, o in layers)", "no effect"),
    ],
    "03.merge": [
        ("return W + B @ A", "scale is missing"),
        ("return alpha / A.shape[0] * (B @ A)", "own weights are missing"),
        ("return W + alpha * (B @ A)", "divide it by the rank"),
        ("return W + alpha / A.shape[0] * (A @ B)", "it stopped"),
    ],
    "03.curves": [
        ('{"a": "keep it", "b": "lower the learning rate", "c": "keep it", "d": "stop earlier"}', "hardly"),
        (
            '{"a": "raise the learning rate", "b": "lower the learning rate", "c": "keep it", "d": "keep it"}',
            "by heart",
        ),
        ('{"a": "more data", "b": "keep it", "c": "keep it", "d": "keep it"}', "write one of"),
    ],
    "04.same": [
        ("return text == json.dumps(target)", "without blanks"),
        ("return text == json.dumps(target, separators=(',', ':'))", "as json.dumps writes it"),
        ("return json.dumps(json.loads(text)) == json.dumps(target)", "another order"),
        (
            "return all(target.get(k) == v for k, v in json.loads(text).items())",
            "a missing field is an error",
        ),
        ("ticket = json.loads(text)\n    return all(k in ticket and ticket[k] == v for k, v in target.items())", "too many"),
        ("return json.loads(text).keys() == target.keys()", "another intent"),
        ("return json.loads(text) == target", "JSONDecodeError"),
    ],
    "04.fields": [
        (
            "return {n: sum((a or {}).get(n) == t[n] for a, t in zip(answers, targets)) / len(targets) for n in targets[0]}",
            "missing counts as right",
        ),
        (
            "return {n: sum(a[n] == t[n] for a, t in zip(answers, targets)) / len(targets) for n in targets[0]}",
            "KeyError",
        ),
        (
            "read = [(a, t) for a, t in zip(answers, targets) if a is not None]\n"
            "    return {n: sum(n in a and a[n] == t[n] for a, t in read) / max(1, len(read)) for n in targets[0]}",
            "still one of two",
        ),
        ("return {n: sum(n in a and a[n] == t[n] for a, t in zip(answers, targets)) for n in targets[0]}", "counts"),
    ],
    "04.bootstrap": [
        (
            "means = [rng.choice(scores, size=len(scores), replace=False).mean() for _ in range(1000)]\n"
            "    return np.percentile(means, [2.5, 97.5])",
            "without replacement",
        ),
        (
            "means = [rng.choice(scores, size=len(scores)).mean() for _ in range(1000)]\n"
            "    return np.percentile(means, [5, 95])",
            "90 %",
        ),
        (
            "means = [rng.choice(scores, size=len(scores)).mean() for _ in range(1000)]\n"
            "    return np.percentile(means, [0.025, 0.975])",
            "in per cent",
        ),
        ("return np.percentile(scores, [2.5, 97.5])", "single scores"),
        (
            "means = [rng.choice(scores, size=len(scores) // 2).mean() for _ in range(1000)]\n"
            "    return np.percentile(means, [2.5, 97.5])",
            "as many scores",
        ),
        (
            "means = [rng.choice(scores, size=len(scores)).mean() for _ in range(1000)]\n"
            "    return np.percentile(means, [97.5, 2.5])",
            "upside down",
        ),
    ],
    "04.paired": [
        ("return sum(second), sum(first)", "how many each got right"),
        (
            "pairs = list(zip(first, second))\n"
            "    return sum(a and not b for a, b in pairs), sum(b and not a for a, b in pairs)",
            "wrong way round",
        ),
        ("gap = sum(second) - sum(first)\n    return max(0, gap), max(0, -gap)", "balance"),
        ("return sum(second), len(second) - sum(second)", "second model alone"),
    ],
    "04.conclude": [
        ('{"A": "better", "B": "equal", "C": "equal", "D": "better", "E": "open"}', "neither is shown"),
        ('{"A": "better", "B": "open", "C": "open", "D": "better", "E": "open"}', "so narrow"),
        ('{"A": "better", "B": "open", "C": "equal", "D": "open", "E": "open"}', "overlaps"),
        ('{"A": "better", "B": "open", "C": "equal", "D": "better", "E": "better"}', "common"),
        ('{"A": "worse"}', "write one of better, equal, open"),
    ],
    "04.errors": [
        ('{"a": "examples", "b": "examples", "c": "label", "d": "examples", "e": "label", "f": "rule"}', "can sort it"),
        ('{"a": "rule", "b": "examples", "c": "examples", "d": "examples", "e": "label", "f": "rule"}', "More than 12"),
        ('{"a": "rule", "b": "rule", "c": "label", "d": "examples", "e": "label", "f": "rule"}', "counted"),
        ('{"a": "rule"}', "is missing"),
    ],
    "04.next_step": [
        (
            '{"validation loss has risen for three checkpoints, training loss still falls": "train longer"}',
            "by heart",
        ),
        (
            '{"validation loss has risen for three checkpoints, training loss still falls": "earlier checkpoint", '
            '"both losses still fall at the last step": "stop"}',
            "Nothing says",
        ),
        (
            '{"validation loss has risen for three checkpoints, training loss still falls": "earlier checkpoint", '
            '"both losses still fall at the last step": "train longer", '
            '"each doubling of the examples gave 6 points more, the last one too": "more examples", '
            '"of 30 errors read, 18 had a wrong label": "more examples"}',
            "same mistakes",
        ),
        ('{"both losses still fall at the last step": "train longer"}', "is missing"),
    ],
    "break_it.template": [
        ("return len(tokenize(trained)) == len(tokenize(asked))", "Compare the ids, not how many"),
        ("return tokenize(trained)[: len(tokenize(asked))] == tokenize(asked)", "not opened passed as equal"),
        ('return "Hello" in trained and "Hello" in asked', "passed as equal"),
        ("return trained is not None", "passed as equal"),
    ],
    "break_it.end": [
        ("return labels[-1] == end", "last label only"),
        ("return True", "no label is the end token"),
        ("return labels[-1] != -100", "last label only"),
        ("return -100 in labels", "no label is the end token"),
    ],
    "break_it.mask": [
        ("return sum(label != -100 for label in labels[:prompt])", "the padding is not"),
        ("return sum(label != -100 for label in labels[real:])", "the prompt is not"),
        ("return sum(label != -100 for label in labels)", "the answer's tokens too"),
        ("return prompt + len(labels) - real", "You counted places"),
    ],
    "break_it.rate": [
        ('return "fine" if losses[-1] < losses[0] else "too high"', "a fifth should be gone"),
        ('return "fine" if losses[-1] < 0.8 * losses[0] else "too low"', "max(losses) first"),
        ('return "ok"', 'Return "fine"'),
    ],
    "break_it.leak": [
        ('"a"', "it did learn to stop"),
        ('"d"', "leave both scores low"),
        ('"leak"', "none of the letters"),
        ("{'c'}", "one letter in quotes"),
    ],
    "break_it.adapter": [
        ("return not any(tensor.any() for tensor in weights.values())", "never trained passed as trained"),
        ("return len(weights) == 0", "never trained passed as trained"),
        ('return not all(tensor.any() for name, tensor in weights.items() if "lora_B" in name)', "One layer"),
        ('return sum(tensor.sum() for name, tensor in weights.items() if "lora_B" in name) == 0', "cancel out"),
    ],
    "break_it.merge": [
        (
            '["load the base in 4 bits", "put the adapter on", "merge", "dequantize the base", "save"]',
            "much of the adapter is gone",
        ),
        (
            '["dequantize the base", "load the base in 4 bits", "put the adapter on", "merge", "save"]',
            "nothing to dequantize",
        ),
        ('["merge", "save"]', "Each of the five"),
        ('["load", "merge"]', "not one of the five"),
    ],
    "break_it.cut": [
        (
            '{"every answer has exactly 24 tokens": "max_length", '
            '"answers know the first fields, and make up the last ones": "max_length", '
            '"the training\'s loss is fine, and rows had lost their last tokens": "max_length", '
            '"the same run gives whole answers in the demo, and halves in a script": "max_new_tokens"}',
            "the limit of generation",
        ),
        (
            '{"every answer has exactly 24 tokens": "max_new_tokens", '
            '"answers know the first fields, and make up the last ones": "max_new_tokens", '
            '"the training\'s loss is fine, and rows had lost their last tokens": "max_length", '
            '"the same run gives whole answers in the demo, and halves in a script": "max_new_tokens"}',
            "before or in the training",
        ),
        ('{"every answer has exactly 24 tokens": "max_new_tokens"}', "is missing"),
    ],
    "05.sizes": [
        ("return 1", "more than one merged model"),
        ("return base / (base - adapter)", "whole number"),
        ("return -(-base // (base - adapter))", "not smaller yet"),
        ("return base // adapter", "smaller from"),
    ],
    "05.card": [
        ('{"a", "b", "c", "e"}', "(a) should not be ruled out"),
        ('{"b"}', "2 more must be ruled out"),
        ('"bce"', "set of letters"),
    ],
    "05.stream": [
        ("for piece in pieces:\n        yield piece", "yield all so far"),
        ('text = ""\n    for piece in pieces:\n        text += piece\n    yield text', "whole answer"),
        ('text = ""\n    for piece in pieces:\n        text += piece\n    return text', "yield"),
        ("so_far = []\n    for piece in pieces:\n        so_far.append(piece)\n        yield so_far", "list of pieces"),
        ('text = ""\n    for piece in pieces:\n        yield text\n        text += piece', "one piece late"),
        ("for piece in pieces:\n        yield piece + 1", "While the pieces came it stopped"),
    ],
    "05.limits": [
        ('return "Too long." if len(message) > most else None', "let through"),
        ('return "Empty." if not message or not message.strip() else None', "let through"),
        (
            'if not message or not message.strip():\n        return "Empty."\n'
            "    return message[:most] if len(message) > most else None",
            "do not repeat",
        ),
        (
            'if not message or not message.strip() or "<" in message:\n        return "No."\n'
            '    return f"At most {most}." if len(message) > most else None',
            "Tags are only text",
        ),
        (
            'if not message or not message.strip():\n        return "No."\n'
            '    return f"At most {most}." if len(message) >= most else None',
            "exactly 50",
        ),
        (
            'if not message or not message.strip():\n        return "No."\n'
            '    return "Too long." if len(message) > most else None',
            "Say how many",
        ),
    ],
    "05.feedback": [
        ('{"a", "d", "f"}', "(d) must not be trained on"),
        ('{"a", "b", "f"}', "test split"),
        ('{"a"}', "1 more would do good"),
        ('{"a", "c", "f"}', "telephone"),
    ],
    "05.request": [
        (
            'return {"model": "merged", "messages": [{"role": "user", "content": message}], '
            '"temperature": 0, "max_tokens": most}',
            "system prompt is missing",
        ),
        (
            'return {"model": "merged", "messages": [{"role": "system", "content": system}, '
            '{"role": "user", "content": message}], "temperature": 0.7, "max_tokens": most}',
            "another ticket tomorrow",
        ),
        (
            'return {"model": "merged", "messages": system + message, "temperature": 0, "max_tokens": most}',
            "list of turns",
        ),
        (
            'return {"model": "merged", "messages": [{"role": "system", "content": system}, '
            '{"role": "user", "content": message}], "temperature": 0, "max_tokens": 1000}',
            "the run's limit",
        ),
    ],
    "05.roads": [
        (
            '{"a colleague who has the base, and ten tasks": "merged", '
            '"a program that knows transformers, not peft": "merged", '
            '"friends who click on a link, next month too": "space", '
            '"a laptop with Ollama, no Python": "ollama", "a web shop that speaks HTTP": "server"}',
            "share one base",
        ),
        (
            '{"a colleague who has the base, and ten tasks": "adapter", '
            '"a program that knows transformers, not peft": "merged", '
            '"friends who click on a link, next month too": "server", '
            '"a laptop with Ollama, no Python": "ollama", "a web shop that speaks HTTP": "server"}',
            "run for a month",
        ),
        ('{"a web shop that speaks HTTP": "server"}', "is missing"),
    ],
    "from_scratch.blind": [
        ("return 1 / vocabulary", "the chance of the right token"),
        ("return -math.log(vocabulary)", "never below 0"),
        ("return math.log2(vocabulary)", "Another logarithm"),
        ("return vocabulary", "all equally likely"),
    ],
    "from_scratch.learned": [
        (
            '{"loss 10.8 on its rows, 10.8 on new messages": "nothing yet", '
            '"loss 0.02 on its rows, 2.9 on new messages": "the task", '
            '"JSON always valid, the same ticket for nearly every message": "the form alone", '
            '"loss 0.10 on its rows, 0.11 on new messages": "the task"}',
            "compare the two losses",
        ),
        (
            '{"loss 10.8 on its rows, 10.8 on new messages": "nothing yet", '
            '"loss 0.02 on its rows, 2.9 on new messages": "rows by heart", '
            '"JSON always valid, the same ticket for nearly every message": "the task", '
            '"loss 0.10 on its rows, 0.11 on new messages": "the task"}',
            "most frequent",
        ),
        ('{"loss 10.8 on its rows, 10.8 on new messages": "nothing"}', "write one of"),
    ],
    "from_scratch.years": [
        ("return tokens / per_second", "in seconds"),
        ("return tokens / per_second / 3600", "in hours"),
        ("return tokens / per_second / 3600 / 24", "in days"),
        ("return per_second / tokens * 365 * 24 * 3600", "Upside down"),
    ],
    "any_data.spoil": [
        (
            """import random
    rng = random.Random(seed)
    spoiled = list(rows)
    for i in rng.sample(range(len(rows)), round(share * len(rows))):
        spoiled[i] = {**rows[i], "ticket": rng.choice([row["ticket"] for row in rows if row is not rows[i]])}
    return spoiled""",
            "same intent",
        ),
        ('return [{**row, "ticket": {"intent": "none"}} for row in rows]', "tickets should be wrong"),
        ("return rows[: round(share * len(rows))]", "as many as were given"),
        ("return list(reversed(rows))", "their order, should stay"),
        ('return [{**row, "ticket": rows[0]} for row in rows]', "not row"),
    ],
    "any_data.worth": [
        ("return equal / (clean + noisy)", "over all rows"),
        ("return equal - clean", "is worth"),
        ('return "a half"', "Return a number"),
    ],
    "any_data.suspect": [
        (
            '{"loss low, and every answer is a well-formed label for a parcel": "another task\'s rows", '
            '"excellent on the validation split, middling on last week\'s messages": "too few rows", '
            '"the training loss stays well above a clean set\'s, and rows read by hand contradict each other": '
            '"wrong labels", '
            '"perfect on the training rows, poor on new ones, and more rows help at once": "too few rows"}',
            "where the answers were seen",
        ),
        ('{"loss low, and every answer is a well-formed label for a parcel": "wrong labels"}', "another lesson"),
        ('{"loss low, and every answer is a well-formed label for a parcel": "noise"}', "write one of"),
    ],
    "better_results.luck": [
        ("import statistics\n    return statistics.stdev(scores)", "both with luck"),
        ("import statistics\n    return 2 * statistics.stdev(scores)", "times the root of 2"),
        ("return 2 * 2**0.5 * float(np.std(scores))", "n - 1"),
        ("return max(scores) - min(scores)", "the gap is"),
    ],
    "better_results.net": [
        ("return sum(b > a for a, b in zip(before, after)), sum(a > b for a, b in zip(before, after))", "swapped"),
        ("return sum(before) - sum(after), 0", "hides what went both ways"),
        ("return sum(before), sum(after)", "it is"),
        ("return sum(before) - sum(after)", "Return two numbers"),
    ],
    "better_results.decide": [
        (
            '{"2,000 checked examples; whole tickets wanted; few-shot prompting gets almost none right": "fine-tune", '
            '"15 examples; the base gets most of them right if it is told the format": "fine-tune", '
            '"800 messages with one of three labels, nothing else wanted": "a plain classifier", '
            '"answers about today\'s menu and today\'s free tables": "look it up"}',
            "the cheap thing first",
        ),
        (
            '{"2,000 checked examples; whole tickets wanted; few-shot prompting gets almost none right": "look it up"}',
            "Many good examples",
        ),
        ('{"2,000 checked examples": "fine-tune"}', "missing from the dictionary"),
    ],
}
