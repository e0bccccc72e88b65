"""Decoder-only language models of transformers, whole or with a peft adapter."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from efface.core import rows as row_files
from efface.core.errors import BadRows, Unfit, UnknownName
from efface.core.types import Row, Subject
from efface.families.decoder import LAYERS, ROLES, Batch, Encoded, RowScore, holds, same_prompt
from efface.families.decoding import Sampling, continuations
from efface.ops import fingerprint, logprobs

__all__ = ["Batch", "CausalLM", "Encoded", "RowScore"]


class CausalLM(Subject):
    """A decoder and its tokenizer. With an adapter, forks share the base and copy the adapter alone."""

    family: ClassVar[str] = "causal-lm"

    def __init__(self, model: nn.Module, tokenizer: Any, base: str = "") -> None:
        self.model: Any = model
        self.tokenizer, self.base = tokenizer, base
        self.model.eval()
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token

    # -- rows to tensors ------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def context_length(self) -> int:
        """Most tokens the model can read."""
        config = self.model.config
        return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2**30)

    @property
    def mixed(self) -> bool:
        """Whether half precision pays: not for models so small that the casts cost more than they save."""
        return sum(p.numel() for p in self.model.parameters()) > 20_000_000

    def encode_row(self, row: Row, parts: Mapping[str, str] | None = None, where: str = "row") -> Encoded:
        """Token ids of one row, through the chat template where the tokenizer has one."""
        parts = parts or row_files.layout([row], where)
        if "text" in parts:
            ids, given = self._ids(str(row[parts["text"]])), str(row.get("given") or "")
            if given:  # what stands before the text and is not predicted; read together, as tokens may join across the gap
                head, whole = (self._lead(False) + self._ids(text) for text in (given, given + str(row[parts["text"]])))
                return self._fits(Encoded(tuple(whole[: len(head)]), tuple(whole[len(head) :]), False), where)
            lead = [self.tokenizer.bos_token_id] if self.tokenizer.bos_token_id is not None else ids[:1]
            return self._fits(Encoded(tuple(lead), tuple(ids if lead != ids[:1] else ids[1:]), False), where)
        prompt, answer = self._prompt_text(row, parts), self._answer_text(row, parts)
        # A template ends the prompt itself; where the answer goes on in the same text, a space stands between.
        gap = "" if (self.tokenizer.chat_template and not row.get("prefill")) or prompt[-1:].isspace() else " "
        head, tail = self._lead() + self._ids(prompt), self._ids(gap + answer)
        end = self.tokenizer.eos_token_id
        return self._fits(Encoded(tuple(head), tuple(tail + ([end] if end is not None else [])), end is not None), where)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _lead(self, template: bool = True) -> list[int]:
        """The token that this tokenizer puts in front of every text, as Llama's does; a chat template, where one is used, brings its own."""
        start = self.tokenizer.bos_token_id
        if (template and self.tokenizer.chat_template) or start is None:
            return []
        return [start] if list(self.tokenizer("")["input_ids"])[:1] == [start] else []

    def _prompt_text(self, row: Row, parts: Mapping[str, str]) -> str:
        """What the model is given, up to where its answer begins; a row's "prefill" is what that answer has already been made to say."""
        begun = str(row.get("prefill") or "")
        if "messages" in parts:
            said: list[Any] = list(row["messages"])[:-1]  # type: ignore[call-overload]
        else:
            said = [{"role": "user", "content": str(row[parts["prompt"]])}]
            if isinstance(row.get("system"), str):
                said.insert(0, {"role": "system", "content": row["system"]})
        if self.tokenizer.chat_template:
            return str(self.tokenizer.apply_chat_template(said, add_generation_prompt=True, tokenize=False)) + begun
        return "\n".join([*(str(message["content"]) for message in said), *([begun] if begun else [])])

    def _answer_text(self, row: Row, parts: Mapping[str, str]) -> str:
        if "messages" in parts:
            return str(row["messages"][-1]["content"]).strip()  # type: ignore[index]
        return str(row[parts["answer"]]).strip()

    def _fits(self, row: Encoded, where: str) -> Encoded:
        length = len(row.prompt) + len(row.answer)
        if length > self.context_length:
            raise BadRows(f"{where}: {length} tokens, and the model reads at most {self.context_length}; shorten or split it")
        if not row.prompt:
            raise BadRows(f"{where}: nothing to predict from; the prompt has no tokens")
        if not row.answer or (row.ends and len(row.answer) == 1):
            raise BadRows(f"{where}: nothing to predict; the answer has no tokens")
        return row

    def encode(self, rows: Sequence[Row], index: Sequence[int] | None = None) -> Batch:
        """The rows as one right-padded batch; raises BadRows naming a row that does not fit."""
        parts = row_files.layout(rows)
        encoded = [self.encode_row(row, parts, f"row {number}") for number, row in enumerate(rows, start=1)]
        length = max(len(row.prompt) + len(row.answer) for row in encoded)
        ids = torch.full((len(rows), length), self.tokenizer.pad_token_id or 0)
        mask, labels = torch.zeros_like(ids), torch.full_like(ids, logprobs.IGNORE)
        for place, row in enumerate(encoded):
            end = len(row.prompt) + len(row.answer)
            ids[place, :end] = torch.tensor(row.prompt + row.answer)
            mask[place, :end] = 1
            labels[place, len(row.prompt) : end] = torch.tensor(row.answer)
        place_in_pool = torch.tensor(list(index) if index is not None else list(range(len(rows))))
        device = self.device
        return Batch(ids.to(device), mask.to(device), labels.to(device), place_in_pool)

    # -- losses ---------------------------------------------------------------------------------------------------

    def logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits (B, T, V) and the labels (B, T) they predict, over the shortest window that holds every label."""
        first = int((batch.labels != logprobs.IGNORE).int().argmax(-1).min())
        keep = batch.labels.shape[1] - max(first, 1) + 1
        out = self.model(
            input_ids=batch.input_ids, attention_mask=batch.attention_mask, logits_to_keep=keep, use_cache=False
        ).logits
        return out[:, -keep:-1], batch.labels[:, -keep + 1 :]

    def losses(self, batch: Batch) -> Tensor:
        """Mean loss per labeled token of each row (B,), differentiable."""
        return logprobs.nll_mean(*self.logits(batch))

    def sequence_log_probs(self, batch: Batch) -> Tensor:
        """log p(answer | prompt) of each row (B,), summed over labeled tokens, differentiable."""
        return -logprobs.nll_sum(*self.logits(batch))

    def token_log_probs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probability of each labeled token (B, T) and the mask (B, T)."""
        return logprobs.token_log_probs(*self.logits(batch))

    # -- one pass for every likelihood metric -----------------------------------------------------------------------

    @torch.no_grad()
    def score(self, rows: Sequence[Row], size: int = 32) -> Iterator[tuple[int, RowScore]]:
        """(position, score) of each row, in the order that wastes least padding. Rows with one prompt share its pass."""
        parts = row_files.layout(rows)
        encoded = [self.encode_row(row, parts, f"row {number}") for number, row in enumerate(rows, start=1)]
        ordered = sorted(same_prompt(encoded, size), key=lambda group: len(encoded[group[0]].prompt) + len(encoded[group[0]].answer))
        batch: list[list[int]] = []
        for group in ordered:
            if batch and sum(map(len, batch)) + len(group) > size:
                yield from self._score_groups(encoded, batch)
                batch = []
            batch.append(group)
        yield from self._score_groups(encoded, batch)

    def _score_groups(self, encoded: Sequence[Encoded], groups: Sequence[Sequence[int]]) -> Iterator[tuple[int, RowScore]]:
        places = [place for group in groups for place in group]
        longest = max(len(encoded[place].prompt) + len(encoded[place].answer) for place in places)
        shortest = min(len(encoded[place].prompt) for place in places)
        if len(places) > len(groups) and shortest > 1 and self._caches(longest):
            stats = self._pass_shared(encoded, groups)
        else:
            stats = self._pass_plain([encoded[place] for place in places])
        for at, place in enumerate(places):
            n, row = len(encoded[place].answer), encoded[place]
            lp, mean, deviation, hit = (part[at, :n].cpu().numpy() for part in stats)
            words = row.answer[:-1] if row.ends else row.answer
            yield place, RowScore(lp, mean, deviation, hit, row.ends, str(self.tokenizer.decode(words)))

    def _caches(self, length: int) -> bool:
        """Whether a cached prefix may be shared: not for recurrent models, nor past a sliding window."""
        window = getattr(self.model.config, "sliding_window", None)
        return not getattr(self.model, "_is_stateful", False) and (window is None or length < window)

    def _pass_plain(self, rows: Sequence[Encoded]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._forward([row.prompt + row.answer[:-1] for row in rows], [row.answer for row in rows], None)

    def _pass_shared(self, encoded: Sequence[Encoded], groups: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Read each prompt (but its last token) once, then all its answers over the same cache."""
        heads = [encoded[group[0]].prompt[:-1] for group in groups]
        ids, mask = self._padded(heads)
        cache = self.model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1).past_key_values
        owner = torch.tensor([at for at, group in enumerate(groups) for _ in group], device=ids.device)
        cache.batch_select_indices(owner)
        rows = [encoded[place] for group in groups for place in group]
        past = (cache, mask[owner])
        return self._forward([row.prompt[-1:] + row.answer[:-1] for row in rows], [row.answer for row in rows], past)

    def _padded(self, sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
        length = max(max(map(len, sequences)), 1)
        ids = torch.full((len(sequences), length), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(ids)
        for at, sequence in enumerate(sequences):
            ids[at, : len(sequence)] = torch.tensor(sequence, dtype=ids.dtype)
            mask[at, : len(sequence)] = 1
        return ids.to(self.device), mask.to(self.device)

    def _forward(
        self, inputs: Sequence[Sequence[int]], answers: Sequence[Sequence[int]], past: tuple[Any, Tensor] | None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Token statistics (each (B, T), answers flush left) of `answers`, which end where `inputs` end."""
        ids, mask = self._padded(inputs)
        window = max(ids.shape[1] - min(len(i) - len(a) for i, a in zip(inputs, answers, strict=True)), 1)
        more: dict[str, Any] = {}
        if past is not None:
            cache, seen = past
            more = {"past_key_values": cache, "position_ids": seen.sum(-1, keepdim=True) + torch.arange(ids.shape[1], device=ids.device)}
            mask = torch.cat([seen, mask], -1)
        logits = self.model(input_ids=ids, attention_mask=mask, logits_to_keep=window, use_cache=past is not None, **more).logits
        offset = ids.shape[1] - logits.shape[1]
        longest = max(map(len, answers))
        labels = torch.full((len(answers), longest), logprobs.IGNORE)
        take = torch.zeros((len(answers), longest), dtype=torch.long)
        for at, (given, answer) in enumerate(zip(inputs, answers, strict=True)):
            labels[at, : len(answer)] = torch.tensor(answer)
            take[at, : len(answer)] = torch.arange(len(answer)) + len(given) - len(answer) - offset
        aligned = logits[torch.arange(len(answers)).unsqueeze(-1), take.to(logits.device)]
        stats = logprobs.token_stats(aligned, labels.to(logits.device))
        return stats.log_probs, stats.mean, stats.deviation, stats.hit

    # -- text -----------------------------------------------------------------------------------------------------

    def generate(self, prompts: Sequence[Row], max_new: int = 64, size: int = 40) -> list[str]:
        """The greedy answer to each prompt, in the order given; shields screen what goes in and review what comes out."""
        answers: list[str] = [""] * len(prompts)
        for place, text in self.generate_each(prompts, max_new, size):
            answers[place] = text
        return answers

    def generate_each(self, prompts: Sequence[Row], max_new: int = 64, size: int = 40) -> Iterator[tuple[int, str]]:
        """(position, greedy answer) of each prompt, batched by length, padded on the left."""
        for place, texts in self._answers(prompts, max_new, size, None):
            yield place, texts[0]

    def sample(self, prompts: Sequence[Row], sampling: Sampling, max_new: int = 64, size: int = 40) -> list[list[str]]:
        """`sampling.draws` answers to each prompt, drawn at its temperature; the same seed and the same prompts give the same ones."""
        answers: list[list[str]] = [[] for _ in prompts]
        for place, texts in self._answers(prompts, max_new, max(1, size // sampling.draws), sampling):
            answers[place] = texts
        return answers

    def _answers(self, prompts: Sequence[Row], max_new: int, size: int, sampling: Sampling | None) -> Iterator[tuple[int, list[str]]]:
        """(position, answers) of each prompt; shields screen what goes in and review what comes out."""
        parts = row_files.layout(prompts)
        if "text" in parts:
            texts = [str(row[parts["text"]]) for row in prompts]
        else:
            texts = [self._prompt_text(row, parts) for row in prompts]
        for shield in self.shields:
            texts = list(shield.screen(texts))
        lead = self._lead("text" not in parts)
        ids = [lead + self._ids(text) for text in texts]
        order = sorted(range(len(ids)), key=lambda place: len(ids[place]))
        for start in range(0, len(order), size):
            places = order[start : start + size]
            for place, said in zip(places, continuations(self.model, self.tokenizer, [ids[place] for place in places], max_new, sampling), strict=True):
                for shield in self.shields:
                    said = list(shield.review(said))
                yield place, said

    # -- weights --------------------------------------------------------------------------------------------------

    @property
    def adapted(self) -> bool:
        """Whether the model carries a peft adapter."""
        return hasattr(self.model, "peft_config")

    def layers(self) -> nn.ModuleList:
        """The list of layers; UnknownName for a layout that is not known."""
        bare = self.model.get_base_model() if self.adapted else self.model
        for path in LAYERS:
            try:
                return bare.get_submodule(path)  # type: ignore[return-value]
            except AttributeError:
                continue
        raise UnknownName(f"the layers of {type(bare).__name__} are at none of {', '.join(LAYERS)}")

    def modules_of(self, role: str) -> list[nn.Module]:
        """The module that plays `role` in each layer."""
        if role not in ROLES:
            raise UnknownName.among("role", role, ROLES)
        found = []
        for number, layer in enumerate(self.layers()):
            here = [layer.get_submodule(path) for path in ROLES[role] if holds(layer, path)]
            if len(here) != 1:
                raise UnknownName(f"layer {number} has {len(here)} modules for the role {role!r}; expected one")
            found += here
        return found

    def weights(self, role: str) -> dict[str, nn.Parameter]:
        """{name: weight matrix} of the modules that play `role`, in the order of layers."""
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        found: dict[str, Any] = {}
        for module in self.modules_of(role):
            weight = getattr(module, "base_layer", module).weight
            found[names[id(weight)]] = weight
        return found

    @contextmanager
    def tap(self, role: str, layer: int) -> Iterator[list[Tensor]]:
        """A list that receives the output (B, L, d) of a layer (role "layer") or of a module in it at each forward pass."""
        stack = self.layers() if role == "layer" else self.modules_of(role)
        if not -len(stack) <= layer < len(stack):
            raise UnknownName(f"layer {layer} asked, the model has {len(stack)}")
        caught: list[Tensor] = []
        handle = stack[layer].register_forward_hook(lambda m, i, out: caught.append(out[0] if isinstance(out, tuple) else out))
        try:
            yield caught
        finally:
            handle.remove()

    def fork(self, roles: tuple[str, ...] = ()) -> Self:
        """Own copy of all weights, of those of `roles`, or ("adapter",) of the adapter alone; the rest is shared."""
        memo: dict[int, Any] = {}
        if roles:
            own: set[int] = set()
            for role in roles:
                own |= {id(p) for p in (self._adapter_weights() if role == "adapter" else self.weights(role)).values()}
            memo = {id(t): t for t in self._tensors().values() if id(t) not in own}
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model, memo)
        return other

    def view(self) -> Self:
        """A second skeleton over the very same tensors, to hang an adapter on without touching this one."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model, {id(t): t for t in self._tensors().values()})
        return other

    def base_view(self) -> Self:
        """The bare base over the same tensors, without this model's adapter and lineage."""
        other = self.view()
        if self.adapted:
            other.model = other.model.unload()
            other.origin = self.origin.split("+")[0]
            other.lineage = ()
        return other

    def trainable(self, rank: int, seed: int) -> Self:
        """A fork ready to train: all weights (rank 0, in float32), the adapter it has, or a fresh LoRA adapter on a shared base."""
        if rank == 0:
            other = self.merged() if self.adapted else self.fork()
            if next(other.model.parameters()).dtype in (torch.bfloat16, torch.float16):
                # A step of 1e-5 is less than half a unit in the last place of most half-precision weights and would round away.
                other.model.float()
            other.model.requires_grad_(True)
            return other
        if self.adapted:
            other = self.fork(("adapter",))
            for name, parameter in other.model.named_parameters():
                parameter.requires_grad_("lora_" in name)
            return other
        from peft import LoraConfig, get_peft_model

        other = self.view()
        # The adapter's first matrix is drawn from global random state; it is set for the draw and put back.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            other.model = get_peft_model(other.model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear"))
        other.model.peft_config["default"].base_model_name_or_path = self.base
        return other

    def merged(self) -> Self:
        """The same function with the adapter folded into own weights; a fork where there is no adapter."""
        other = self.fork()
        if self.adapted:
            other.model = other.model.merge_and_unload()
            other.model.requires_grad_(False)
        return other

    def _adapter_weights(self) -> dict[str, nn.Parameter]:
        if not self.adapted:
            raise Unfit("this model has no adapter")
        return {name: p for name, p in self.model.named_parameters() if "lora_" in name}

    def _tensors(self) -> dict[str, Tensor]:
        """Every parameter and buffer by name, tied ones once."""
        return {**dict(self.model.named_parameters()), **dict(self.model.named_buffers())}

    @property
    def digest(self) -> str:
        """SHA-256 over names, types, shapes and bytes of all parameters."""
        return fingerprint.of_weights(dict(self.model.named_parameters()))

    def save(self, folder: Path) -> None:
        """A folder that `AutoModelForCausalLM.from_pretrained` loads: whole weights, or the adapter beside its base's name."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)
