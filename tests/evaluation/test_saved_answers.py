import json

import pytest

from ftkit.evaluation.saved_answers import predict, read_answers
from ftkit.runs.run import Run, adapter_digest


def ask(asked):
    def answer(messages):
        asked.append(list(messages))
        return [message.upper() for message in messages]

    return answer


MESSAGES = ["a bird", "b", "a bird", "two\nlines of text", "d" * 30]


def test_answers_come_in_the_order_of_the_messages_and_the_longest_are_asked_first(tmp_path):
    asked, said = [], []
    found = predict(Run(tmp_path), "test-tuned", {"model": "m"}, MESSAGES, ask(asked), 2, said.append)
    assert found.texts == [message.upper() for message in MESSAGES]
    assert found.seconds >= 0
    assert asked == [["d" * 30, "two\nlines of text"], ["a bird", "b"]]
    assert "4 of 4 answered" in said[-1]


def test_a_second_call_computes_nothing_and_other_settings_compute_anew(tmp_path):
    asked = []
    for _ in range(2):
        predict(Run(tmp_path), "test-tuned", {"model": "m"}, MESSAGES, ask(asked), 8, lambda line: None)
    assert len(asked) == 1
    predict(Run(tmp_path), "test-tuned", {"model": "m"}, [*MESSAGES, "new"], ask(asked), 8, lambda line: None)
    assert asked[1:] == [["new"]]
    predict(Run(tmp_path), "test-tuned", {"model": "other"}, MESSAGES, ask(asked), 8, lambda line: None)
    assert len(asked[2]) == 4


def test_an_interrupted_evaluation_goes_on_after_the_last_whole_batch(tmp_path):
    def breaks(messages):
        if messages != ["d" * 30, "two\nlines of text"]:
            raise KeyboardInterrupt
        return ["D", "T"]

    try:
        predict(Run(tmp_path), "x", {}, MESSAGES, breaks, 2, lambda line: None)
    except KeyboardInterrupt:
        pass
    path = tmp_path / "predictions" / "x.jsonl"
    with path.open("a", encoding="utf-8") as file:
        file.write('{"message": "b", "predic')  # killed while it wrote
    asked = []
    found = predict(Run(tmp_path), "x", {}, MESSAGES, ask(asked), 2, lambda line: None)
    assert asked == [["a bird", "b"]]
    assert found.texts == ["A BIRD", "B", "A BIRD", "T", "D"]
    assert all(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())


def test_another_adapter_has_another_digest(tiny_run, tmp_path):
    (tmp_path / "adapter").mkdir()
    data = bytearray((tiny_run.adapter / "adapter_model.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(data)
    assert adapter_digest(Run(tmp_path)) != adapter_digest(tiny_run)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: b"\xff\xfe" + text.encode(),
        lambda text: b"",
        lambda text: text.replace('"prediction": "B"', '"prediction": 5').encode(),
        lambda text: text.replace('{"message": "b"', "[1]\n5\n{broken\n{").encode(),
    ],
)
def test_answers_in_a_damaged_file_are_asked_again_and_the_file_is_whole_after(tmp_path, damage):
    asked = []
    for _ in range(2):
        found = predict(Run(tmp_path), "test-tuned", {"model": "m"}, MESSAGES, ask(asked), 8, lambda line: None)
        path = tmp_path / "predictions" / "test-tuned.jsonl"
        if len(asked) == 1:
            path.write_bytes(damage(path.read_text(encoding="utf-8")))
    assert found.texts == [message.upper() for message in MESSAGES] and "b" in asked[1]
    assert read_answers(Run(tmp_path), "test", "tuned") == {message: message.upper() for message in MESSAGES}
