from __future__ import annotations

from typing import Any

import pytest
import torch

from picual.data.sequences import Sequence
from picual.models import HfModel
from picual.models.hf_loading import load_checkpoint
from picual.passes.finetune.adapter import AdapterForm, add_adapter
from picual.passes.finetune.attention import DocumentAttention
from picual.passes.finetune.fast_layers import quicken
from picual.passes.finetune.loss import Loss
from picual.passes.finetune.packs import Packing, pack, together

LENGTHS = (3, 17, 1, 9, 16, 2, 30)


def row(length: int, seed: int = 0) -> Sequence:
    made = torch.Generator().manual_seed(length * 100 + seed)
    ids = torch.randint(5, 60, (length,), generator=made).tolist()
    return Sequence(ids, [-100 if place < length // 3 else token for place, token in enumerate(ids)])


def adapted(model: HfModel, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(3)
    network = load_checkpoint(model, dtype)
    form = AdapterForm(
        rank=4, alpha=8.0, dropout=0.0, modules=("q_proj", "v_proj", "down_proj"), modules_to_save=(),
        method="lora",
    )  # fmt: skip
    made = add_adapter(network, form)
    for name, weight in made.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(std=0.2)
    return made


def gradients(network: Any) -> dict[str, torch.Tensor]:
    return {name: weight.grad.clone() for name, weight in network.named_parameters() if weight.requires_grad}


def by_the_network_itself(network: Any, rows: list[Sequence]) -> float:
    """Each row alone through the network's own loss, with nothing of ours in between."""
    labels = sum(one.learnt for one in rows)
    total = 0.0
    for one in rows:
        if one.learnt:
            ids, wanted = torch.tensor([one.input_ids]), torch.tensor([one.labels])
            loss = network(input_ids=ids, labels=wanted).loss * (one.learnt / labels)
            loss.backward()
            total += float(loss.detach())
    return total


def test_gradients_of_a_pack_are_those_of_its_rows_apart(llama: HfModel) -> None:
    rows = [row(length) for length in LENGTHS]
    plain = adapted(llama)
    expected = by_the_network_itself(plain, rows)
    network = adapted(llama)
    loss = Loss(network)
    assert quicken(network) > 0
    assert loss.choose(row(40).input_ids)
    assert loss.allow_packs(row(40).input_ids)
    found = loss(pack(rows))
    found.backward()
    assert float(found.detach()) == pytest.approx(expected, rel=1e-5)
    wanted = gradients(plain)
    for name, gradient in gradients(network).items():
        torch.testing.assert_close(gradient, wanted[name], rtol=2e-4, atol=1e-6)


def test_a_neighbour_in_the_pack_changes_nothing(llama: HfModel) -> None:
    network = adapted(llama)
    loss = Loss(network)
    assert loss.allow_packs(row(40).input_ids)
    states = []
    for seed in (1, 2):
        batch = pack([row(11), row(9, seed=seed), row(20)])
        loss(batch)
        with torch.no_grad():
            inputs = {name: batch[name] for name in ("input_ids", "position_ids")}
            states.append(network.get_base_model().base_model(**inputs).last_hidden_state[0])
    torch.testing.assert_close(states[0][:11], states[1][:11], rtol=0, atol=0)
    torch.testing.assert_close(states[0][20:], states[1][20:], rtol=0, atol=1e-6)
    assert float((states[0][11:20] - states[1][11:20]).abs().max()) > 1e-3


def test_a_network_that_mixes_documents_is_not_given_packs(
    llama: HfModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = adapted(llama)
    loss = Loss(network)
    causal = network.get_base_model()
    before = causal.config._attn_implementation
    monkeypatch.setattr(DocumentAttention, "begin", lambda self, lengths: None)  # the pack is one document then
    assert not loss.allow_packs(row(40).input_ids)
    assert causal.config._attn_implementation == before


def test_packs_are_allowed_in_half_precision_too(llama: HfModel, monkeypatch: pytest.MonkeyPatch) -> None:
    loss = Loss(adapted(llama, torch.bfloat16))
    assert loss.choose(row(40).input_ids)
    assert loss.allow_packs(row(40).input_ids)
    monkeypatch.setattr(DocumentAttention, "begin", lambda self, lengths: None)
    assert not Loss(adapted(llama, torch.bfloat16)).allow_packs(row(40).input_ids)


@pytest.mark.parametrize("window", [None, 4])
@pytest.mark.parametrize("lengths", [LENGTHS, (8, 8, 8), (5,)])
def test_attention_stays_inside_each_document(lengths: tuple[int, ...], window: int | None) -> None:
    random = torch.Generator().manual_seed(0)
    tokens = sum(lengths)
    query = torch.randn((1, 4, tokens, 8), generator=random)
    key, value = (torch.randn((1, 2, tokens, 8), generator=random) for _ in range(2))
    attention = DocumentAttention()
    attention.begin(lengths)
    found, _ = attention(None, query, key, value, None, scaling=0.3, sliding_window=window)
    home = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    places = torch.arange(tokens)
    seen = (home[:, None] == home) & (places[:, None] >= places)
    if window:
        seen &= places[:, None] - places < window
    keys, values = key.repeat_interleave(2, dim=1), value.repeat_interleave(2, dim=1)
    scores = (query @ keys.transpose(2, 3) * 0.3).masked_fill(~seen, float("-inf"))
    torch.testing.assert_close(found, (scores.softmax(3) @ values).transpose(1, 2), rtol=1e-4, atol=1e-5)


def test_packs_are_full_and_hold_every_row_once() -> None:
    rows = [row(length) for length in (10, 200, 30, 90, 300, 60, 513)]
    packs = together(rows, most=300)
    assert sorted(len(one.input_ids) for chosen in packs for one in chosen) == [10, 30, 60, 90, 200, 300, 513]
    sizes = [sum(len(one.input_ids) for one in chosen) for chosen in packs]
    assert sizes == [513, 300, 300, 90]


def test_rows_that_are_not_packed_are_padded_batches() -> None:
    packing = Packing(batch=2, pad_id=9, pad_to=None, attention_mask=True, packed=False)
    parts = packing([row(3), row(5), row(2)])["parts"]
    assert [part["input_ids"].shape for part in parts] == [(2, 5), (1, 2)]


def test_the_first_label_of_a_document_is_predicted_by_nothing() -> None:
    made = pack([Sequence([1, 2], [1, 2]), Sequence([3, 4], [3, 4])])
    assert made["labels"].tolist() == [[-100, 2, -100, 4]]
    assert made["position_ids"].tolist() == [[0, 1, 0, 1]]
    assert made["lengths"].tolist() == [2, 2]
