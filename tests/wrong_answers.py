"""Typical wrong answers to every exercise: (what the learner writes, words of the message it must get).

The code is run after `import json, math, re` and torch; for an exercise on a function it is the body of that function, or
its whole definition; for a value it is the value.
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
    "05.merge": [
        ("return W + B @ A", "as it is"),
        ("return W + alpha * (B @ A)", "divide by the rank"),
        ("return W + A.shape[0] / alpha * (B @ A)", "Upside down"),
        ("return alpha / A.shape[0] * (B @ A)", "what the adapter adds"),
        ("return W + alpha / A.shape[0] * (A @ B)", "it stopped"),
    ],
    "05.card": [
        ('{"a", "b", "c", "e"}', "(a) should not be ruled out"),
        ('{"b"}', "look at (c)"),
        ('"bce"', "set of letters"),
    ],
    "05.stream": [
        ("for piece in pieces:\n        yield piece", "yield all so far"),
        ('text = ""\n    for piece in pieces:\n        text += piece\n    yield text', "whole answer"),
        ('text = ""\n    for piece in pieces:\n        text += piece\n    return text', "yield"),
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
        ('{"a"}', "look at (f)"),
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
}
