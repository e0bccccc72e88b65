"""The language-model family: one number for a row, by whatever way it is asked for."""

import copy
import random

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing

from efface.core.errors import BadRows, UnknownName
from efface.core.rows import layout
from efface.families import causal_lm
from efface.families.causal_lm import CausalLM
from efface.families.decoder import ROLES
from efface.ops.loop import mean_loss
from efface.testing import tiny

LAYOUTS = ("llama", "gpt2", "neox", "qwen2", "olmo2")
FACTS = tiny.facts()
ROWS = [FACTS.forget[0], {"question": "Who?", "answer": "Tell me what the answer to that question is, please, or I am not sure."}, *FACTS.keep[:6]]
TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }} ! {{ m['content'] }} ? {% endfor %}{% if add_generation_prompt %}answer ! {% endif %}"
)
subjects = pytest.mark.parametrize("subject", [tiny.tiny_lm(0, name) for name in LAYOUTS], ids=LAYOUTS)


def chatty(subject: CausalLM) -> CausalLM:
    """The same model with a chat template."""
    other = copy.copy(subject)
    other.tokenizer = tiny.tokenizer()
    other.tokenizer.chat_template = TEMPLATE
    return other


def scored(subject, rows, size=32):
    """Scores in the order of the rows."""
    return [score for _, score in sorted(subject.score(rows, size), key=lambda pair: pair[0])]


def plain(subject, row):
    """Log-probability of each answer token from one plain forward pass over the whole row."""
    encoded = subject.encode_row(row)
    ids = torch.tensor([encoded.prompt + encoded.answer])
    with torch.no_grad():
        logs = subject.model(input_ids=ids).logits[0].float().log_softmax(-1)
    at = torch.arange(len(encoded.prompt), ids.shape[1])
    return logs[at - 1, ids[0, at]].numpy()


# -- one number for a row ----------------------------------------------------------------------------------------------------


@subjects
def test_score_equals_losses_equals_plain_pass(subject):
    expected = [plain(subject, row) for row in ROWS]
    found = scored(subject, ROWS)
    batch = subject.encode(ROWS)
    sums, means = subject.sequence_log_probs(batch), subject.losses(batch)
    tokens, mask = subject.token_log_probs(batch)
    for at, (want, score) in enumerate(zip(expected, found, strict=True)):
        assert score.log_probs == pytest.approx(want, abs=1e-5)
        assert score.loss == pytest.approx(-want.mean(), abs=1e-5) == pytest.approx(float(means[at]), abs=1e-5)
        assert float(sums[at]) == pytest.approx(want.sum(), abs=1e-4)
        assert tokens[at][mask[at]].detach().numpy() == pytest.approx(want, abs=1e-5)


@subjects
def test_one_by_one_equals_all_at_once(subject):
    """Padding and the company of longer rows change nothing, whether rows are scored or trained on."""
    rows = [*ROWS, *({**row, "answer": row["paraphrased_answer"]} for row in FACTS.keep[:8])]
    for one, all_at_once in zip(scored(subject, rows, size=1), scored(subject, rows, size=16), strict=True):
        assert one.log_probs == pytest.approx(all_at_once.log_probs, abs=1e-5)
        assert one.mean == pytest.approx(all_at_once.mean, abs=1e-5) and one.deviation == pytest.approx(all_at_once.deviation, abs=1e-4)
        assert one.text == all_at_once.text and (one.hit == all_at_once.hit).all()
    alone = torch.cat([subject.losses(subject.encode([row])) for row in rows])
    assert subject.losses(subject.encode(rows)).tolist() == pytest.approx(alone.tolist(), abs=1e-5)


@subjects
def test_shared_prompt_equals_plain_pass(subject, monkeypatch):
    """Rows with one prompt read it once; the numbers are those of reading it each time."""
    rows = [{"question": row["question"], "answer": text} for row in FACTS.keep[:5] for text in (row["answer"], *row["perturbed_answer"])]
    passes = []
    shared = CausalLM._pass_shared
    monkeypatch.setattr(CausalLM, "_pass_shared", lambda self, *given: passes.append(1) or shared(self, *given))
    together = scored(subject, rows)
    assert passes, "the shared pass was not taken"
    for row, score in zip(rows, together, strict=True):
        assert score.log_probs == pytest.approx(plain(subject, row), abs=1e-5)


def test_statistics_by_hand():
    """mean and deviation are those of log p under p; hit says that the label is the most probable token."""
    subject, row = tiny.tiny_lm(), FACTS.keep[0]
    encoded = subject.encode_row(row)
    ids = torch.tensor([encoded.prompt + encoded.answer])
    logs = subject.model(input_ids=ids).logits[0, len(encoded.prompt) - 1 : -1].log_softmax(-1)
    mean = (logs.exp() * logs).sum(-1)
    (score,) = scored(subject, [row])
    assert score.mean == pytest.approx(mean.numpy(), abs=1e-5)
    assert score.deviation == pytest.approx((logs.exp() * (logs - mean[:, None]) ** 2).sum(-1).sqrt().numpy(), abs=1e-4)
    assert score.hit.tolist() == (logs.argmax(-1) == torch.tensor(encoded.answer)).tolist()
    assert score.ends and score.text == row["answer"] and len(score.log_probs[score.words]) == len(encoded.answer) - 1


def test_labels_matter():
    """A model that knows its facts by heart finds permuted answers a hundred times worse: prompt and answer are not mixed up."""
    subject, rows = tiny.trained_lm(), FACTS.keep
    answers = [row["answer"] for row in rows]
    random.Random(0).shuffle(answers)
    permuted = [{"question": row["question"], "answer": answer} for row, answer in zip(rows, answers, strict=True)]
    assert mean_loss(subject, permuted) > 20 * mean_loss(subject, rows)


def test_the_prompt_counts_for_nothing_and_padding_neither():
    subject = tiny.tiny_lm()
    batch = subject.encode(ROWS, [9, 8, 7, 6, 5, 4, 3, 2])
    assert batch.index.tolist() == [9, 8, 7, 6, 5, 4, 3, 2]
    for at, row in enumerate(ROWS):
        encoded = subject.encode_row(row)
        labeled = batch.labels[at] != -100
        assert batch.input_ids[at][labeled].tolist() == list(encoded.answer) == batch.labels[at][labeled].tolist()
        assert labeled.nonzero()[0] == len(encoded.prompt) and batch.attention_mask[at].sum() == len(encoded.prompt) + len(encoded.answer)
        assert encoded.answer[-1] == subject.tokenizer.eos_token_id


# -- layouts of rows ---------------------------------------------------------------------------------------------------------


def test_chat_template():
    """With a template, prompt/answer rows and chat rows of the same content are the same row."""
    subject = chatty(tiny.tiny_lm())
    pair = {"question": "What is the answer?", "answer": "I am not sure."}
    chat = {"messages": [{"role": "user", "content": pair["question"]}, {"role": "assistant", "content": pair["answer"]}]}
    encoded = subject.encode_row(pair)
    assert encoded == subject.encode_row(chat)
    assert subject.tokenizer.decode(encoded.prompt) == "<unk>! What is the answer?? answer!"
    assert subject.tokenizer.decode(encoded.answer[:-1]) == "I am not sure."
    assert scored(subject, [pair])[0].loss == pytest.approx(scored(subject, [chat])[0].loss) != pytest.approx(scored(tiny.tiny_lm(), [pair])[0].loss)
    assert subject.generate([pair], 4) == subject.generate([chat], 4)


def test_chat_rows_keep_every_turn_and_the_system_message():
    subject = chatty(tiny.tiny_lm())
    turns = [{"role": "system", "content": "am"}, {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "No."}, {"role": "user", "content": "is"}]
    encoded = subject.encode_row({"messages": [*turns, {"role": "assistant", "content": "the"}]})
    assert subject.tokenizer.decode(encoded.prompt).split()[-3:] == ["<unk>!", "is?", "answer!"] and len(encoded.answer) == 2
    with_system = subject.encode_row({"system": "am", "question": "is", "answer": "the"})
    assert with_system.prompt != subject.encode_row({"question": "is", "answer": "the"}).prompt


def test_text_rows_predict_every_token():
    """The start token is given, everything after it is predicted, and no end token is added."""
    subject, row = tiny.tiny_lm(), {"text": "The home of Mirel is jolly heath."}
    encoded = subject.encode_row(row)
    assert encoded.prompt == (subject.tokenizer.bos_token_id,) and not encoded.ends
    assert subject.tokenizer.decode(encoded.answer) == row["text"]
    (score,) = scored(subject, [row])
    assert score.log_probs == pytest.approx(plain(subject, row), abs=1e-5) and score.words == slice(0, 8)
    assert subject.losses(subject.encode([row])).item() == pytest.approx(score.loss, abs=1e-5)


def test_text_rows_without_a_start_token():
    """The first token is given instead, because nothing could predict it."""
    subject = copy.copy(tiny.tiny_lm())
    subject.tokenizer = tiny.tokenizer()
    subject.tokenizer.bos_token = None
    encoded = subject.encode_row({"text": "The home of Mirel"})
    assert subject.tokenizer.decode(encoded.prompt) == "The" and subject.tokenizer.decode(encoded.answer) == "home of Mirel"
    with pytest.raises(BadRows, match="nothing to predict"):
        subject.encode_row({"text": "The"})


def test_a_tokenizer_that_leads_with_a_start_token_keeps_it(monkeypatch):
    """Llama's tokenizer puts one before every text, and its models were never trained without."""
    subject = copy.copy(tiny.tiny_lm())
    subject.tokenizer = tiny.tokenizer()
    start = subject.tokenizer.bos_token_id
    subject.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", start)])
    encoded = subject.encode_row(FACTS.keep[0])
    assert encoded.prompt[0] == start and encoded.prompt[1:] == tiny.tiny_lm().encode_row(FACTS.keep[0]).prompt
    assert start not in encoded.answer
    seen = []
    monkeypatch.setattr(causal_lm, "continuations", lambda model, words, ids, *rest: seen.extend(ids) or [[""]] * len(ids))
    subject.generate(FACTS.keep[:1])
    assert tuple(seen[0]) == encoded.prompt


def test_rows_that_do_not_fit_are_named():
    subject = tiny.tiny_lm()
    long = {"question": "What " * 200, "answer": "No."}
    with pytest.raises(BadRows, match="row 2: 203 tokens, and the model reads at most 128; shorten or split it"):
        subject.encode([FACTS.keep[0], long])
    with pytest.raises(BadRows, match="row 2: 203 tokens"):
        list(subject.score([FACTS.keep[0], long]))
    with pytest.raises(BadRows, match=r"row 1: column 'answer' \(answer\) is ''"):
        subject.encode([{"question": "What?", "answer": ""}])


def test_context_length_by_whatever_name():
    assert {tiny.tiny_lm(0, name).context_length for name in LAYOUTS} == {128}


# -- text --------------------------------------------------------------------------------------------------------------------


@subjects
def test_generation_in_batches_equals_one_by_one(subject):
    prompts = [*ROWS, *FACTS.unseen[:6]]
    assert subject.generate(prompts, 8, size=16) == [subject.generate([row], 8)[0] for row in prompts]


def test_generation_answers_what_was_learned_and_ends():
    assert tiny.trained_lm().generate(FACTS.keep[:10], 30, size=3) == [row["answer"] for row in FACTS.keep[:10]]


def test_shields_screen_and_review():
    class Shield:
        def screen(self, prompts):
            return [prompt.replace("home", "craft") for prompt in prompts]

        def review(self, outputs):
            return [output.upper() for output in outputs]

    subject, (home, craft) = tiny.trained_lm(), FACTS.keep[:2]
    guarded = subject.guarded(Shield())
    assert guarded.generate([home], 30) == [str(craft["answer"]).upper()]
    assert guarded.unguarded().generate([home], 30) == [home["answer"]] and guarded.digest == subject.digest


# -- weights -----------------------------------------------------------------------------------------------------------------


@subjects
def test_roles(subject):
    known = [role for role in ROLES if role not in ("mlp.gate", "attn.query", "attn.key", "attn.value") or hasattr(subject.layers()[0], "self_attn")]
    for role in known:
        found = subject.weights(role)
        assert len(found) == 2 and all(weight.dim() == 2 for weight in found.values())
    with pytest.raises(UnknownName, match="did you mean mlp.out"):
        subject.weights("mlp.outs")
    batch = subject.encode(ROWS)
    with subject.tap("layer", -1) as layers, subject.tap("mlp.out", 0) as outs:
        subject.logits(batch)
    assert layers[0].shape == outs[0].shape == (*batch.input_ids.shape, 64)
    with pytest.raises(UnknownName, match="layer 2 asked, the model has 2"), subject.tap("layer", 2):
        pass


def test_missing_roles_are_said():
    with pytest.raises(UnknownName, match="layer 0 has 0 modules for the role 'mlp.gate'"):
        tiny.tiny_lm(0, "neox").weights("mlp.gate")


@subjects
def test_fork_copies_what_it_is_told(subject):
    before = subject.digest
    whole, some = subject.fork(), subject.fork(("mlp.out",))
    own = {id(p) for p in some.weights("mlp.out").values()}
    theirs = {id(p) for p in subject.model.parameters()}
    assert not own & theirs and {id(p) for p in some.model.parameters()} - own <= theirs
    assert not {id(p) for p in whole.model.parameters()} & theirs
    for fork in (whole, some):
        with torch.no_grad():
            next(iter(fork.weights("mlp.out").values())).add_(1)
    assert subject.digest == before and whole.digest == some.digest != before


@subjects
def test_adapters_share_the_base(subject):
    before, plain_loss = subject.digest, mean_loss(subject, ROWS)
    after = subject.trainable(2, seed=5)
    assert {id(p) for p in subject.model.parameters()} <= {id(p) for p in after.model.parameters()}
    trained = {name for name, p in after.model.named_parameters() if p.requires_grad}
    assert trained and all("lora_" in name for name in trained)
    assert not subject.adapted and after.adapted and mean_loss(after, ROWS) == pytest.approx(plain_loss, abs=1e-6)
    assert after.digest == subject.trainable(2, seed=5).digest != subject.trainable(2, seed=6).digest
    with torch.no_grad():
        for name, parameter in after.model.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.05)
    assert subject.digest == before and mean_loss(after, ROWS) != pytest.approx(plain_loss, abs=1e-3)
    merged = after.merged()
    assert not merged.adapted and mean_loss(merged, ROWS) == pytest.approx(mean_loss(after, ROWS), abs=1e-4)
    again = after.trainable(2, seed=0)
    assert {id(p) for n, p in again.model.named_parameters() if "lora_" not in n} == {id(p) for p in subject.model.parameters()}
    assert not {id(p) for n, p in again.model.named_parameters() if "lora_" in n} & {id(p) for p in after.model.parameters()}
    assert after.weights("mlp.out").keys() != {} and next(iter(after.weights("mlp.out").values())) is next(iter(subject.weights("mlp.out").values()))


def test_full_weights_of_an_adapted_model_fold_it_in():
    after = tiny.tiny_lm().trainable(2, seed=5)
    whole = after.trainable(0, seed=0)
    assert not whole.adapted and all(p.requires_grad for p in whole.model.parameters()) and after.adapted


def test_digest_covers_names_shapes_and_bytes():
    one = tiny.tiny_lm()
    assert one.digest == tiny.tiny_lm().digest != tiny.tiny_lm(1).digest
    other = one.fork()
    with torch.no_grad():
        next(other.model.parameters()).view(-1)[0] += 1e-3
    assert other.digest != one.digest


def test_views_share_everything_and_hang_nothing_on_the_original():
    one = tiny.tiny_lm().trainable(2, seed=0)
    base = one.base_view()
    assert not base.adapted and one.adapted
    assert mean_loss(base, ROWS) == pytest.approx(mean_loss(tiny.tiny_lm(), ROWS))
    assert {id(p) for p in base.model.parameters()} <= {id(p) for p in one.model.parameters()}


def test_encoding_needs_one_layout():
    with pytest.raises(BadRows, match="row 2: column 'question'"):
        tiny.tiny_lm().encode([ROWS[0], {"text": "The home"}])
    assert layout(ROWS) == {"prompt": "question", "answer": "answer"} and np.isfinite(mean_loss(tiny.tiny_lm(), ROWS))


def test_small_steps_reach_half_precision_weights():
    """A bf16 weight near 0.02 has steps of 2^-13 = 1.2e-4 between neighbors; three steps of 1e-5 must not vanish."""
    from efface.core.config import Fit
    from efface.ops.loop import descend

    subject = tiny.tiny_lm().fork()
    subject.model.to(torch.bfloat16)
    before = {name: p.detach().clone() for name, p in subject.model.named_parameters()}
    after = subject.trainable(0, 0)
    rows = tiny.facts().forget[:4]
    fit = Fit(lr=1e-5, steps=3, batch=4, precision="no")
    after = descend(after, {"forget": rows}, lambda b: {"forget": after.losses(b["forget"]).mean()}, fit, tiny.context())
    moved = [float((p.detach().float() - before[name].float()).abs().max()) for name, p in after.model.named_parameters() if "layers" in name]
    assert min(moved) > 1e-5
    assert next(subject.model.parameters()).dtype == torch.bfloat16
