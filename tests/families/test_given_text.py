"""Rows {"given", "text"}: what stands before a text and is not predicted; plain, whatever template the tokenizer has."""

import torch

from efface.families import passes
from efface.families.causal_lm import CausalLM
from efface.families.decoder import RowScore
from efface.testing.tiny import context, facts, tiny_lm


def test_only_the_text_is_predicted():
    subject = tiny_lm()
    (_, whole), = subject.score([{"text": "The home of Runa is amber bay."}])
    (_, found), = subject.score([{"given": "The home of Runa is", "text": " amber bay."}])
    assert isinstance(found, RowScore) and not found.ends and found.text == "amber bay."
    row = subject.encode_row({"given": "The home of Runa is", "text": " amber bay."})
    ids = subject.tokenizer("The home of Runa is amber bay.")["input_ids"]
    assert list(row.prompt + row.answer) == ids and len(row.answer) == 3
    # No start token stands before: this tokenizer puts none in front of a text.
    with torch.no_grad():
        logits = subject.model(input_ids=torch.tensor([ids])).logits.log_softmax(-1)
    expected = [float(logits[0, at - 1, ids[at]]) for at in range(5, 8)]
    torch.testing.assert_close(torch.tensor(found.log_probs), torch.tensor(expected), atol=1e-5, rtol=1e-5)
    assert len(whole.log_probs) == 8


def test_texts_after_one_prompt_share_its_reading():
    """The same to the last digits that matter, whether the prompt is read once or for each text."""
    subject = tiny_lm()
    rows = [{"given": str(row["question"]), "text": f" {word}"} for row in facts().forget[:3] for word in ("bay", "amber bay", "The home is bay")]
    together = passes.scores(subject, rows, context())
    for row, found in zip(rows, together, strict=True):
        ((_, alone),) = subject.score([row])
        torch.testing.assert_close(torch.tensor(found.log_probs), torch.tensor(alone.log_probs), atol=1e-5, rtol=1e-5)


def test_a_chat_template_is_left_out_and_the_start_token_is_not():
    """As with Llama-2-chat: its template brings the start token, and a plain text needs it just as much."""
    from tokenizers.processors import TemplateProcessing

    subject = tiny_lm()
    tokenizer = subject.tokenizer
    start = tokenizer.bos_token_id
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", start)])
    tokenizer.chat_template = "<bos>{% for message in messages %}What {{ message['content'] }}{% endfor %}"
    chat = CausalLM(subject.model, tokenizer)
    given = chat.encode_row({"given": "The home of Runa is", "text": " bay"})
    assert given.prompt[0] == start and given.prompt.count(start) == 1 and len(given.prompt) == 6
    asked = chat.encode_row({"question": "The home of Runa is", "answer": "bay"})
    assert asked.prompt.count(start) == 1 and len(asked.prompt) == 7
    seen = []
    real = subject.model.generate
    try:
        subject.model.generate = lambda **given: seen.append(given["input_ids"]) or real(**given)
        chat.generate([{"text": "The home of Runa is"}], 2)
    finally:
        del subject.model.generate
    assert seen[0].tolist()[0] == list(given.prompt)
