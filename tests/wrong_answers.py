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
            "most of the adapter is gone",
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
        ('{"every answer has exactly 24 tokens": "max_length"}', "is missing"),
    ],
}
